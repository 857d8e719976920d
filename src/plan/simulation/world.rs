//! Everything outside the object: servers with their databases by OID and name, workloads and their pods, Jobs, the bucket, the
//! setting that leads the application. Small and copied whole, so that millions of worlds can be compared.
//!
//! Of contents only that is known which decides: whether a copy equals what the source holds now.

use super::invariants;
use crate::api::StepName;

/// OID of the database that moves. It has it for ever, whatever its name.
pub const SOURCE: u8 = 1;
/// OID of the database that had the final name on the target before.
pub const EXISTING: u8 = 2;

/// The names that matter on either server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// What applications call the database, on both servers.
    Application,
    /// What the source is called behind the fence.
    Fenced,
    /// What the tombstone is called beside the source.
    Tombstone,
    /// What the copy is called until it is published.
    Staging,
    /// What had the final name before is called afterwards.
    Aside,
    /// What a copy is called that was withdrawn after the application had written to it.
    Kept,
}

/// What a database or an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A part of a copy: a restore that did not come to its end.
    Part,
    /// Exactly what the source holds now.
    Equal,
    /// What the source held once.
    Stale,
    /// Data that is not ours to touch.
    Foreign,
}

/// One database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    /// Its identity.
    pub oid: u8,
    /// Its name now.
    pub name: Name,
    /// Whether it takes connections.
    pub open: bool,
    /// What it holds.
    pub content: Content,
}

/// The databases of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Server([Option<Database>; 3]);

impl Server {
    /// A server with one database.
    pub fn with(database: Database) -> Self {
        Self([Some(database), None, None])
    }

    /// The database with this OID.
    pub fn oid(&self, oid: u8) -> Option<Database> {
        self.0.iter().flatten().find(|d| d.oid == oid).copied()
    }

    /// The database that has this name.
    pub fn named(&self, name: Name) -> Option<Database> {
        self.0.iter().flatten().find(|d| d.name == name).copied()
    }

    /// Every database.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Database> {
        self.0.iter_mut().flatten()
    }

    /// `CREATE DATABASE`.
    pub fn create(&mut self, database: Database) {
        assert!(self.named(database.name).is_none(), "effect twice: {:?} is created and exists", database.name);
        if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(database);
        }
    }

    /// `ALTER DATABASE ... RENAME TO`.
    pub fn rename(&mut self, from: Name, to: Name) {
        assert!(self.named(to).is_none(), "{from:?} is renamed to {to:?}, which exists");
        let found = self.all_mut().find(|d| d.name == from);
        assert!(found.is_some(), "{from:?} is renamed to {to:?} and does not exist");
        found.into_iter().for_each(|d| d.name = to);
    }

    /// `ALTER DATABASE ... ALLOW_CONNECTIONS`.
    pub fn allow(&mut self, name: Name, open: bool) {
        self.all_mut().filter(|d| d.name == name).for_each(|d| d.open = open);
    }

    /// Takes a database out of this world, unharmed. False: there is none.
    pub fn take(&mut self, name: Name) -> bool {
        let slot = self.0.iter_mut().find(|slot| slot.is_some_and(|d| d.name == name));
        slot.is_some_and(|slot| slot.take().is_some())
    }

    /// `DROP DATABASE`: the one thing that destroys.
    pub fn drop(&mut self, name: Name, written: bool) {
        if let Some(doomed) = self.named(name) {
            invariants::i3_nothing_destructive_touches_the_source(doomed, written);
            self.0.iter_mut().filter(|slot| slot.is_some_and(|d| d.oid == doomed.oid)).for_each(|slot| *slot = None);
        }
    }
}

/// A workload with replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Whether it is set to run.
    pub up: bool,
    /// Whether a pod of it is there.
    pub pods: bool,
    /// Our annotation: what it was set to before it was stopped.
    pub original: Option<bool>,
}

/// What a Job is for. The last is the application's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// See `StepName::Dump`.
    Dump,
    /// See `StepName::VerifyArchive`.
    Verify,
    /// See `StepName::Restore`.
    Restore,
    /// See `StepName::Compare`.
    Compare,
    /// See `StepName::Analyze`.
    Analyze,
    /// The comparison that the witness asks for.
    CompareAgain,
    /// In a rollback: the dump of what the application wrote to the new database.
    Save,
    /// In a rollback: that dump read back.
    SaveRead,
    /// See `StepName::SchemaJob`.
    Schema,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Dump,
        Self::Verify,
        Self::Restore,
        Self::Compare,
        Self::Analyze,
        Self::CompareAgain,
        Self::Save,
        Self::SaveRead,
        Self::Schema,
    ];

    /// The step that it is done for.
    pub fn step(self) -> StepName {
        match self {
            Self::Dump => StepName::Dump,
            Self::Verify => StepName::VerifyArchive,
            Self::Restore | Self::Save | Self::SaveRead => StepName::Restore,
            Self::Compare => StepName::Compare,
            Self::Analyze => StepName::Analyze,
            Self::CompareAgain => StepName::Witness,
            Self::Schema => StepName::SchemaJob,
        }
    }
}

/// Where a Job stands, its verdict included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// There is none.
    Absent,
    /// At work.
    Running,
    /// Deleted, its pod is ending.
    Deleting,
    /// Its verdict: done and proven.
    Done,
    /// Its verdict: trouble that usually passes.
    Trouble,
    /// Ended without a verdict.
    Lost,
    /// Its verdict: a person must change something.
    Refused,
    /// Its verdict: no attempt can succeed.
    Final,
}

/// The Job of a task: that of its last attempt. What earlier ones left ended, and does nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// Which attempt: part of its name.
    pub attempt: u16,
    /// Where it stands.
    pub state: JobState,
}

/// What the bucket holds below the prefix of the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// The object, with its manifest: what has none does not exist.
    pub archive: Option<Content>,
    /// The run's manifest.
    pub sealed: bool,
    /// The archive of a run that was rolled back after the application had run, with its manifest put by.
    pub past: bool,
    /// The dump of all that the application wrote to the present copy.
    pub saved: bool,
    /// The mark of a finished migration.
    pub marked: bool,
}

/// Where the application's setting leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Setting {
    /// To the old database.
    Old,
    /// To the new one.
    New,
    /// Where somebody else wants it.
    Other,
}

/// Everything outside the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// The old server.
    pub source: Server,
    /// The new server.
    pub target: Server,
    /// OID that the next database gets.
    pub next_oid: u8,
    /// Whether the source's subscription, which writes by OID past any name, is enabled.
    pub subscription: bool,
    /// The next transaction id of the source's server.
    pub transaction: u8,
    /// Whether a comparison found the present copy equal under the present fence, and neither changed since.
    pub proof: bool,
    /// Whether a session of a restore goes on whose mover is gone.
    pub orphan: bool,
    /// The bucket.
    pub bucket: Bucket,
    /// The Jobs, in the order of [`Task::ALL`].
    pub jobs: [Job; 9],
    /// Writer of the source and application of the target in one.
    pub application: Workload,
    /// A writer that stays on the old side.
    pub writer: Workload,
    /// Where the application's setting leads.
    pub setting: Setting,
    /// The Secret that keeps the setting's previous value.
    pub previous: Option<Setting>,
    /// Whether the application wrote to the published copy: those rows are nowhere else.
    pub written: bool,
    /// Whether somebody else changed the setting: then it is theirs.
    pub taken: bool,
    /// The mark of a finished migration on the copy.
    pub marked: bool,
    /// How many copies are kept for ever, each under a name of its own, because what was written to them could not be saved.
    pub kept: u8,
    /// Whether a user had the fence taken away: from then on it is their business that both databases take writes.
    pub unfenced: bool,
    /// How the world was before any migration. Never changes.
    pub before: Before,
}

/// How a world was before any migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Before {
    /// A database has the final name on the target, the source has a subscription, the application runs.
    Full,
    /// None of that: what the target's application is to be has never run.
    Bare,
}

impl World {
    /// The world before the migration.
    pub fn new(before: Before) -> Self {
        let full = before == Before::Full;
        let database = |oid, content| Database { oid, name: Name::Application, open: true, content };
        let up = Workload { up: true, pods: true, original: None };
        Self {
            source: Server::with(database(SOURCE, Content::Equal)),
            target: if full { Server::with(database(EXISTING, Content::Foreign)) } else { Server::default() },
            next_oid: 3,
            subscription: full,
            transaction: 0,
            proof: false,
            orphan: false,
            bucket: Bucket { archive: None, sealed: false, past: false, saved: false, marked: false },
            marked: false,
            kept: 0,
            unfenced: false,
            jobs: [Job { attempt: 0, state: JobState::Absent }; 9],
            application: Workload { up: full, pods: full, original: None },
            writer: up,
            setting: Setting::Old,
            previous: None,
            written: false,
            taken: false,
            before,
        }
    }

    /// The Job of a task.
    pub fn job(&mut self, task: Task) -> &mut Job {
        &mut self.jobs[task as usize]
    }

    /// A new OID.
    pub fn oid(&mut self) -> u8 {
        self.next_oid += 1;
        self.next_oid - 1
    }

    /// Whether an application that knows the old database by its name can write to it.
    pub fn source_accepts(&self) -> bool {
        self.source.oid(SOURCE).is_some_and(|d| d.name == Name::Application && d.open)
    }

    /// Whether an application that knows the new database by its name can write to the copy.
    pub fn target_accepts(&self) -> bool {
        self.target.named(Name::Application).is_some_and(|d| d.oid != EXISTING && d.open)
    }

    /// Whether the source stands behind the fence: under its other name, the tombstone in its place.
    pub fn fenced(&self) -> bool {
        self.source.oid(SOURCE).is_some_and(|d| d.name == Name::Fenced && d.open)
            && self.source.named(Name::Application).is_some_and(|d| !d.open)
    }

    /// The application writes to the copy: what was saved before is not all of it.
    pub fn write_to_target(&mut self) {
        self.written = true;
        self.bucket.saved = false;
    }

    /// Drops what has this name: the staging one, or the one of a copy that was withdrawn.
    pub fn drop_copy(&mut self, name: Name) {
        let published = self.target.named(Name::Application).is_some_and(|d| d.oid != EXISTING);
        let elsewhere = name == Name::Staging && (published || self.target.named(Name::Kept).is_some());
        self.proof = false;
        self.target.drop(name, self.written && !self.bucket.saved && !elsewhere);
        if !elsewhere {
            self.without_copy();
        }
    }

    /// A copy that was withdrawn keeps its name for ever: it is out of every run's reach.
    pub fn keep(&mut self) {
        if self.target.take(Name::Kept) {
            self.kept += 1;
        }
        self.without_copy();
    }

    fn without_copy(&mut self) {
        (self.written, self.bucket.saved, self.marked) = (false, false, false);
    }

    /// Somebody writes to the source: what was equal to it is so no more.
    pub fn write_to_source(&mut self) {
        self.transaction += 1;
        self.proof = false;
        let stale = |content: &mut Content| {
            if *content == Content::Equal {
                *content = Content::Stale;
            }
        };
        self.target.all_mut().for_each(|d| stale(&mut d.content));
        self.bucket.archive.as_mut().into_iter().for_each(stale);
    }

    /// A mover or schema job comes to its end, as well as the world permits.
    pub fn end_job(&mut self, task: Task) {
        let staging = self.target.named(Name::Staging);
        let fenced = self.source.named(Name::Fenced).is_some_and(|d| d.oid == SOURCE && d.open);
        let state = match task {
            Task::Dump if self.bucket.archive.is_some() => JobState::Done,
            Task::Dump if fenced => {
                self.bucket.archive = Some(Content::Equal);
                JobState::Done
            }
            Task::Verify if self.bucket.archive.is_some() => {
                self.bucket.sealed = true;
                JobState::Done
            }
            Task::Verify => JobState::Final,
            Task::Restore => {
                self.orphan = false;
                match (staging.map(|d| d.content), self.bucket.archive) {
                    (Some(Content::Empty), Some(archive)) => {
                        self.fill(archive);
                        JobState::Done
                    }
                    // The document beside the archive says that this very database was restored.
                    (Some(Content::Equal | Content::Stale), Some(_)) => JobState::Done,
                    (_, None) => JobState::Final,
                    _ => JobState::Trouble,
                }
            }
            Task::Compare | Task::CompareAgain if fenced && staging.is_some() => {
                self.proof = staging.is_some_and(|d| d.content == Content::Equal);
                if self.proof { JobState::Done } else { JobState::Final }
            }
            Task::Analyze if staging.is_some() => JobState::Done,
            Task::Save if self.target.named(Name::Kept).is_some() => {
                self.bucket.saved = true;
                JobState::Done
            }
            Task::SaveRead if self.bucket.saved => JobState::Done,
            Task::SaveRead => JobState::Final,
            Task::Schema => JobState::Done,
            Task::Save | Task::Dump | Task::Compare | Task::CompareAgain | Task::Analyze => JobState::Trouble,
        };
        self.job(task).state = state;
    }

    /// Puts something into the staging database.
    pub fn fill(&mut self, content: Content) {
        self.proof = false;
        self.target.all_mut().filter(|d| d.name == Name::Staging).for_each(|d| d.content = content);
    }
}
