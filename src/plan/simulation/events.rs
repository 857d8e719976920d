//! What can happen beside a visit: the world goes its way, trouble comes, users change their minds.

use super::call::Cut;
use super::machine::{Back, Object};
use super::world::{Before, Content, JobState, Name, Setting, Task, World};
use crate::api::{Outcome, PostgresMigrationStatus};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An operator visits the object; its call may be cut short after so many effects.
    Visit(Option<(u8, Cut)>),
    /// An operator reads the object and does not act yet.
    Linger,
    /// It acts on what it has read.
    Wake(Option<(u8, Cut)>),
    /// The world goes its way.
    World(Free),
    /// Something goes wrong, or somebody interferes.
    Trouble(Trouble),
    /// A user changes the object.
    User(Wish),
}

/// What happens by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    /// A Job comes to its end.
    Ends(Task),
    /// A deleted Job is gone.
    Goes(Task),
    /// Pods of the application come or go, as it is set.
    Pods,
    /// Pods of the writer come or go, as it is set.
    WriterPods,
    /// The application writes to the new database.
    Writes,
}

impl Free {
    /// What brings the world forward.
    pub const PROGRESS: [Self; 20] = [
        Self::Pods,
        Self::WriterPods,
        Self::Ends(Task::Dump),
        Self::Ends(Task::Verify),
        Self::Ends(Task::Restore),
        Self::Ends(Task::Compare),
        Self::Ends(Task::Analyze),
        Self::Ends(Task::CompareAgain),
        Self::Ends(Task::Schema),
        Self::Ends(Task::Save),
        Self::Ends(Task::SaveRead),
        Self::Goes(Task::Dump),
        Self::Goes(Task::Verify),
        Self::Goes(Task::Restore),
        Self::Goes(Task::Compare),
        Self::Goes(Task::Analyze),
        Self::Goes(Task::CompareAgain),
        Self::Goes(Task::Schema),
        Self::Goes(Task::Save),
        Self::Goes(Task::SaveRead),
    ];

    /// The world then. `None`: it cannot happen.
    pub fn happen(self, mut world: World) -> Option<World> {
        match self {
            Self::Ends(task) if world.job(task).state == JobState::Running => world.end_job(task),
            Self::Goes(task) if world.job(task).state == JobState::Deleting => world.job(task).state = JobState::Absent,
            Self::Pods if world.application.pods != world.application.up => world.application.pods = world.application.up,
            Self::WriterPods if world.writer.pods != world.writer.up => world.writer.pods = world.writer.up,
            Self::Writes if world.application.pods && world.setting == Setting::New && world.target_accepts() => {
                world.write_to_target();
            }
            _ => return None,
        }
        Some(world)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A mover fails, nothing done, in a way that usually passes.
    Fails(Task),
    /// A mover does its work, or half of it, and ends without a verdict; what it started goes on.
    Lost(Task),
    /// A Job fails in a way that a person must mend.
    Refuses(Task),
    /// Somebody deletes a Job.
    Deleted(Task),
    /// Somebody writes to the source, by whatever way is open at this moment.
    Written,
    /// Somebody who is not in the spec writes to the published copy.
    WrittenNew,
    /// Another database of the source's server is written to.
    Busy,
    /// Somebody enables the subscription.
    Subscribed,
    /// A controller that heals scales the application up.
    Heals,
    /// A controller that heals scales the writer up.
    HealsWriter,
    /// Somebody sets the application's setting.
    Takes,
}

impl Trouble {
    /// All of it.
    pub fn all() -> impl Iterator<Item = Self> {
        let jobs = Task::ALL.into_iter().flat_map(|t| [Self::Fails(t), Self::Lost(t), Self::Refuses(t), Self::Deleted(t)]);
        jobs.chain([Self::Written, Self::WrittenNew, Self::Busy, Self::Subscribed, Self::Heals, Self::HealsWriter, Self::Takes])
    }

    /// The world then. `None`: it cannot happen. `witnessed`: the source was seen unchanged for the last time.
    pub fn happen(self, mut world: World, witnessed: bool) -> Option<World> {
        let running = |world: &mut World, task| world.job(task).state == JobState::Running;
        match self {
            Self::Fails(task) if running(&mut world, task) => world.job(task).state = JobState::Trouble,
            Self::Lost(Task::Restore) if running(&mut world, Task::Restore) => {
                world.fill(Content::Part);
                world.orphan = true;
                world.job(Task::Restore).state = JobState::Lost;
            }
            Self::Lost(task) if running(&mut world, task) => {
                world.end_job(task);
                world.job(task).state = JobState::Lost;
            }
            Self::Refuses(task) if running(&mut world, task) => world.job(task).state = JobState::Refused,
            Self::Deleted(task) if world.job(task).state != JobState::Absent => {
                world.orphan |= task == Task::Restore && running(&mut world, task);
                world.job(task).state = JobState::Absent;
            }
            // Under its own name; by the subscription; behind the fence, for a superuser who finds the name before the last look.
            // That look is the witness, or on a busy server the comparison that stands in for it.
            Self::Written
                if world.source_accepts()
                    || world.subscription
                    || (world.fenced() && !witnessed && world.job(Task::CompareAgain).state != JobState::Done) =>
            {
                world.write_to_source();
            }
            Self::WrittenNew if world.target_accepts() => world.write_to_target(),
            Self::Busy => world.transaction += 1,
            Self::Subscribed if world.before == Before::Full => world.subscription = true,
            Self::Heals => world.application.up = true,
            Self::HealsWriter => world.writer.up = true,
            Self::Takes => (world.setting, world.taken) = (Setting::Other, true),
            _ => return None,
        }
        if world.target.named(Name::Staging).is_none() {
            world.orphan = false;
        }
        Some(world)
    }
}

/// What users ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// `spec.suspend: true`.
    Suspend,
    /// `spec.suspend: false`.
    GoOn,
    /// `spec.cancel: true`.
    Cancel,
    /// `spec.rollback`, with nothing acknowledged.
    Rollback,
    /// `spec.rollback`, with `TargetWrites` acknowledged.
    Acknowledge,
    /// `spec.cancel` and `spec.rollback` are taken back, where the schema lets that be done.
    TakeBack,
    /// `spec.unfence: true`.
    Unfence,
    /// `spec.retry` is raised.
    Retry,
    /// The other `spec.mode`, where the schema lets it be changed.
    Mode,
    /// Deletion.
    Delete,
}

impl Wish {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Suspend,
        Self::GoOn,
        Self::Cancel,
        Self::Rollback,
        Self::Acknowledge,
        Self::TakeBack,
        Self::Unfence,
        Self::Retry,
        Self::Mode,
        Self::Delete,
    ];

    /// The object then. `None`: the API server refuses it, or it is so already.
    pub fn happen(self, mut object: Object, status: &PostgresMigrationStatus) -> Option<Object> {
        let free = status.start_time.is_none() || matches!(status.outcome, Some(Outcome::Failed | Outcome::Cancelled));
        let undoing = status.undo.is_some() && status.outcome.is_none();
        match self {
            Self::Suspend if !object.suspend => object.suspend = true,
            Self::GoOn if object.suspend => object.suspend = false,
            Self::Cancel if !object.cancel => object.cancel = true,
            Self::Rollback if object.rollback == Back::No => object.rollback = Back::Asked,
            Self::Acknowledge if object.rollback != Back::Acknowledged => object.rollback = Back::Acknowledged,
            Self::TakeBack if !undoing && (object.cancel || object.rollback != Back::No) => {
                (object.cancel, object.rollback) = (false, Back::No);
            }
            Self::Unfence if !object.unfence => object.unfence = true,
            Self::Retry => object.retry += 1,
            Self::Mode if free => object.plan = !object.plan,
            Self::Delete if !object.deleting => object.deleting = true,
            _ => return None,
        }
        object.generation += 1;
        object.gone = object.deleting && !object.finalizer;
        Some(object)
    }
}
