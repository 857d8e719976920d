//! One call of a step, as the steps of the operator make it: it reads the world, changes it by one small effect after another,
//! writes facts into the status. It can be cut short before, between and after its effects.

use super::invariants;
use super::world::{JobState, Task, World};
use crate::api::conditions::reasons;
use crate::api::{PostgresMigrationStatus, StepName, Transfer};
use crate::plan::Failure;
use crate::plan::record::{self, Advance};

/// How a call is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The process ends, or what it wants to record is refused: nothing is recorded.
    Crash,
    /// Trouble that usually passes.
    Trouble,
    /// Trouble that does not.
    Refusal,
}

/// Why a call came to no answer.
#[derive(Debug)]
pub enum Stop {
    /// Nothing is recorded.
    Crash,
    /// What it had written into the status is recorded, and this.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Cut {
    fn stop(self) -> Stop {
        match self {
            Self::Crash => Stop::Crash,
            Self::Trouble => Stop::Failed(Failure::transient(reasons::TRANSIENT, "x")),
            Self::Refusal => Stop::Failed(Failure::needs_human(reasons::CHANGED_BY_OTHERS, "x")),
        }
    }
}

/// A failure that ends the run.
pub fn terminal(reason: &'static str) -> Stop {
    Stop::Failed(Failure::terminal(reason, "x"))
}

/// Waits.
pub fn wait() -> Advance {
    Advance::Wait { seconds: 1, message: String::new() }
}

/// What a call works with.
pub struct Call<'a> {
    /// The step that is called.
    pub step: StepName,
    /// The world, live.
    pub world: &'a mut World,
    /// The status as the call changes it.
    pub status: &'a mut PostgresMigrationStatus,
    /// The status as it was read: what is not here was not persisted.
    pub seen: &'a PostgresMigrationStatus,
    /// Whether our finalizer was on the object.
    pub finalizer: bool,
    /// Whether nobody has gone on since the status was read, nor ever acted late.
    pub alone: bool,
    /// After how many effects it is cut short, and how.
    pub cut: Option<(u8, Cut)>,
    /// Effects so far.
    pub effects: u8,
}

impl<'a> Call<'a> {
    /// A call that was not made yet.
    pub fn new(
        step: StepName,
        world: &'a mut World,
        status: &'a mut PostgresMigrationStatus,
        seen: &'a PostgresMigrationStatus,
        (finalizer, alone): (bool, bool),
        cut: Option<(u8, Cut)>,
    ) -> Self {
        Self { step, world, status, seen, finalizer, alone, cut, effects: 0 }
    }

    /// Announces an effect, which the caller has next. `intent`: what the status said before this call that lets whoever
    /// comes after a crash find it.
    pub fn effect(&mut self, intent: bool, what: &str) -> Result<(), Stop> {
        self.survive()?;
        invariants::no_effect_without_intent(self, intent, what);
        self.effects += 1;
        Ok(())
    }

    /// Is cut short here, if it is to be.
    pub fn survive(&self) -> Result<(), Stop> {
        match self.cut {
            Some((after, cut)) if after == self.effects => Err(cut.stop()),
            _ => Ok(()),
        }
    }

    /// `steps::transfer::drive`. `Some` once the mover is done.
    pub fn drive(&mut self, task: Task) -> Result<Option<Advance>, Stop> {
        let attempt = match task {
            Task::CompareAgain => record::attempt(self.status, task.step()) + 500,
            Task::Save | Task::SaveRead => {
                (self.status.run - 1).max(0) * 1000 + 500 + self.status.saved.as_ref().map_or(0, |s| s.attempt)
            }
            _ => record::attempt(self.status, task.step()),
        };
        let name = format!("{task:?}-{attempt}");
        let attempt = u16::try_from(attempt).unwrap_or(u16::MAX);
        if self.status.transfer.as_ref().is_none_or(|t| t.job != name) {
            self.status.transfer = Some(Transfer { job: name, ..Transfer::default() });
            return Ok(Some(Advance::Again));
        }
        let started = self.status.transfer.as_ref().is_some_and(|t| t.started);
        let known = *self.world.job(task);
        let next = |reason| Ok(Some(Advance::NextAttempt(Failure::transient(reason, "x"))));
        match if known.attempt == attempt { known.state } else { JobState::Absent } {
            JobState::Absent if started => next(reasons::MOVER_LOST),
            JobState::Absent => {
                self.effect(self.seen.transfer.as_ref().is_some_and(|t| t.job == name), "a mover is started")?;
                if self.alone {
                    invariants::no_mover_beside_another(self.world);
                }
                *self.world.job(task) = super::world::Job { attempt, state: JobState::Running };
                self.status.transfer.iter_mut().for_each(|t| t.started = true);
                Ok(Some(wait()))
            }
            JobState::Deleting | JobState::Running => Ok(Some(wait())),
            JobState::Done => Ok(None),
            JobState::Trouble => next(reasons::TRANSIENT),
            JobState::Lost => next(reasons::MOVER_LOST),
            JobState::Refused => Err(Failure::needs_human(reasons::RESTORE_FAILED, "x").into()),
            JobState::Final => Err(terminal(reasons::NOT_EQUAL)),
        }
    }

    /// `steps::transfer::end_movers`, and the same for schema jobs. `true` when none is left.
    pub fn end_jobs(&mut self, tasks: &[Task]) -> Result<bool, Stop> {
        let mut none = true;
        for task in tasks {
            if self.world.job(*task).state != JobState::Absent {
                self.effect(true, "a Job is deleted")?;
                self.world.job(*task).state = JobState::Deleting;
                none = false;
            }
        }
        Ok(none)
    }
}

/// The tasks of movers.
pub const MOVERS: [Task; 8] =
    [Task::Dump, Task::Verify, Task::Restore, Task::Compare, Task::Analyze, Task::CompareAgain, Task::Save, Task::SaveRead];
