//! The one decision: given what is wanted and what is so, what comes next. Resuming after a crash is this same function on a
//! status that already holds facts.

use super::itinerary::ITINERARY;
use crate::api::{
    Mode, Outcome, PostgresMigrationSpec, PostgresMigrationStatus, RollbackAcknowledgement, StepName, StepState, UndoCause,
};

/// Everything that the decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What is wanted.
    pub spec: &'a PostgresMigrationSpec,
    /// What is so.
    pub status: &'a PostgresMigrationStatus,
    /// `metadata.generation`.
    pub generation: i64,
    /// Whether the object is being deleted.
    pub deleting: bool,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
}

/// What comes next. Each answer is one reconcile's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Begin a run: forget the last one's facts.
    BeginRun,
    /// Put our finalizer on the object: before the first effect.
    AddFinalizer,
    /// Take our finalizer off: nothing is left to undo.
    Release,
    /// Go on with a step.
    Run(StepName),
    /// Begin to undo everything.
    BeginUndo(UndoCause),
    /// Go on undoing a step.
    Undo(StepName),
    /// All is undone.
    EndUndo,
    /// End the run.
    End(Outcome),
    /// A person asked to try a held step again.
    Unhold,
    /// Open the old database of a migration that has succeeded.
    Unfence,
    /// Nothing to do until something changes.
    Rest(Rest),
}

/// Why nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The checks passed and mode is Plan.
    Planned,
    /// The checks found blockers and mode is Plan: looked at again from time to time.
    Blocked,
    /// spec.suspend.
    Suspended,
    /// Held for a person.
    Held,
    /// spec.rollback would take rows out of sight, and does not say that this is known.
    Unacknowledged,
    /// The run has ended.
    Ended,
}

/// What `spec.rollback` comes to at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// Nothing: it is not set, there is nothing that it could undo, or the undo has begun already.
    No,
    /// Everything is to be undone.
    Wanted,
    /// Rows would go out of sight, and the spec does not say that this is known: neither forward nor back.
    Unacknowledged,
}

/// Judges `spec.rollback`. An object that found its work done by an earlier one moved nothing, and has nothing to take back.
pub fn back(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus) -> Back {
    let Some(rollback) = &spec.rollback else { return Back::No };
    let over = matches!(status.outcome, Some(Outcome::Failed | Outcome::Cancelled));
    if over || status.undo.is_some() || earlier(status) {
        Back::No
    } else if status.resumed && !rollback.acknowledge.contains(&RollbackAcknowledgement::TargetWrites) {
        Back::Unacknowledged
    } else {
        Back::Wanted
    }
}

/// Decides. Total: every object in every state has an answer.
pub fn next(view: View<'_>) -> Next {
    let View { spec, status, generation, deleting, finalizer } = view;
    let retry = spec.retry.unwrap_or(0) > status.observed_retry;
    let started = status.start_time.is_some();
    let back = back(spec, status);

    if status.run == 0 && !deleting {
        return Next::BeginRun;
    }
    if let Some(outcome) = status.outcome {
        return ended(view, outcome, back);
    }
    if let Some(undo) = &status.undo {
        if let Some(step) = last_to_undo(status) {
            return Next::Undo(step);
        }
        if !undo.complete {
            return Next::EndUndo;
        }
        return match undo.cause {
            UndoCause::Failure => Next::End(Outcome::Failed),
            UndoCause::Cancel | UndoCause::Deletion | UndoCause::Rollback => Next::End(Outcome::Cancelled),
        };
    }
    // Also of an object that is being deleted: whoever asks for both wants it undone, and then gone.
    if back == Back::Wanted && started {
        return Next::BeginUndo(UndoCause::Rollback);
    }
    if deleting {
        // Half started, the application would stand still for ever: only where it is held somebody is told to start the rest.
        let starting = status.resumed && status.hold.is_none() && first_undone(status) == Some(StepName::Resume);
        return if started && !status.resumed {
            Next::BeginUndo(UndoCause::Deletion)
        } else if starting && finalizer {
            Next::Run(StepName::Resume)
        } else if finalizer {
            Next::Release
        } else {
            Next::Rest(Rest::Ended)
        };
    }
    if spec.cancel && !published(status) {
        return if started { Next::BeginUndo(UndoCause::Cancel) } else { Next::End(Outcome::Cancelled) };
    }
    match back {
        Back::Wanted => return Next::End(Outcome::Cancelled),
        Back::Unacknowledged => return Next::Rest(Rest::Unacknowledged),
        Back::No => {}
    }
    if status.hold.is_some() {
        return if retry { Next::Unhold } else { Next::Rest(Rest::Held) };
    }
    if !started && status.observed_generation != Some(generation) {
        return Next::BeginRun;
    }
    if earlier(status) {
        return Next::End(Outcome::Succeeded);
    }
    let Some(step) = first_undone(status) else { return Next::End(Outcome::Succeeded) };
    let begun = status.steps.iter().any(|s| s.name == step);
    if spec.suspend && !begun {
        return Next::Rest(Rest::Suspended);
    }
    let looking = matches!(step, StepName::Pin | StepName::Preflight);
    if spec.mode == Mode::Plan && !started {
        if !status.blockers.is_empty() {
            return Next::Rest(Rest::Blocked);
        }
        if !looking {
            return Next::Rest(Rest::Planned);
        }
    }
    if !looking && !finalizer { Next::AddFinalizer } else { Next::Run(step) }
}

/// What comes next once the run has an outcome.
fn ended(view: View<'_>, outcome: Outcome, back: Back) -> Next {
    let View { spec, status, generation, deleting, finalizer } = view;
    let retry = spec.retry.unwrap_or(0) > status.observed_retry;
    let edited = status.start_time.is_none() && status.observed_generation != Some(generation);
    if back == Back::Wanted && finalizer {
        return Next::BeginUndo(UndoCause::Rollback);
    }
    if deleting {
        return if finalizer { Next::Release } else { Next::Rest(Rest::Ended) };
    }
    match outcome {
        Outcome::Succeeded => match back {
            // Somebody took the finalizer off: it stands on the object before the first effect.
            Back::Wanted => Next::AddFinalizer,
            Back::Unacknowledged => Next::Rest(Rest::Unacknowledged),
            Back::No if spec.unfence && status.fence.is_some() => {
                if finalizer {
                    Next::Unfence
                } else {
                    Next::AddFinalizer
                }
            }
            Back::No => Next::Rest(Rest::Ended),
        },
        // What called the last run off would call the next one off as well.
        Outcome::Failed | Outcome::Cancelled if !spec.cancel && spec.rollback.is_none() && (retry || edited) => Next::BeginRun,
        // Everything is undone: nothing must keep the object from being deleted, not even an operator that is gone.
        Outcome::Failed | Outcome::Cancelled if finalizer => Next::Release,
        Outcome::Failed | Outcome::Cancelled => Next::Rest(Rest::Ended),
    }
}

/// Whether an earlier object of this name had done the work.
fn earlier(status: &PostgresMigrationStatus) -> bool {
    status.completion.as_ref().is_some_and(|c| c.earlier)
}

fn published(status: &PostgresMigrationStatus) -> bool {
    status.publication.as_ref().is_some_and(|p| p.published)
}

/// The first step in the order that is not done.
fn first_undone(status: &PostgresMigrationStatus) -> Option<StepName> {
    ITINERARY.iter().map(|l| l.step).find(|name| !status.steps.iter().any(|s| s.name == *name && s.state == StepState::Done))
}

/// The last step in the order whose effects may still stand.
fn last_to_undo(status: &PostgresMigrationStatus) -> Option<StepName> {
    ITINERARY
        .iter()
        .rev()
        .filter(|l| l.has_effects)
        .map(|l| l.step)
        .find(|name| status.steps.iter().any(|s| s.name == *name && s.state != StepState::Undone))
}

#[cfg(test)]
mod tests;
