//! The mover's contract: the operation document that goes in, the progress lines and the verdict that come out.
//!
//! Here belong the serde types of that contract and the pure functions both sides need to speak it (Job names,
//! session tags, exit codes). What a mover does with a document lives in `mover`; when one is started is decided in `plan`.
//!
//! No secret is ever part of a document: every credential is named by Secret and key, and the mover reads it by `get`
//! with its own pod identity, in the namespace of the migration.

mod verdict;

pub use verdict::{ExitStatus, FailureClass, Outcome, Reason, VERDICT_LIMIT, Verdict};

use crate::api::Heard;
pub use crate::api::names::session_tag_prefix;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

/// The only version of the document this program reads and writes. A document of another version is refused.
pub const OPERATION_VERSION: u32 = 1;

pub use crate::api::names::OPERATION_ENV;

/// Key of the bucket's Secret that holds the access key id.
pub const BUCKET_ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";

/// Key of the bucket's Secret that holds the secret access key.
pub const BUCKET_SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";

/// One piece of work for one mover Job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// [`OPERATION_VERSION`].
    pub version: u32,
    /// Whose work this is.
    pub migration: MigrationRef,
    /// Counts the attempts of this task from 1. A new attempt ends what an earlier one left running.
    pub attempt: u32,
    /// What is to be done.
    pub task: Task,
}

/// The migration object that an operation belongs to. Secrets are read from its namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationRef {
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object, 36 characters.
    pub uid: String,
}

/// What a mover can be asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Task {
    /// Dump one database into one object of the bucket, then write that database's manifest.
    Dump(DumpTask),
    /// Read the object again from the bucket, compare it with its manifest, then seal the run.
    Verify(VerifyTask),
    /// Restore the object into the staging database as its owner.
    Restore(RestoreTask),
    /// Compute the exact digest of both databases and compare.
    Compare(CompareTask),
    /// Collect planner statistics in the staging database.
    Analyze(AnalyzeTask),
    /// End and remove what attempts of this migration left behind. Never touches a finished archive.
    Cleanup(CleanupTask),
}

impl Task {
    /// The kind of this task.
    pub fn kind(&self) -> TaskKind {
        match self {
            Self::Dump(_) => TaskKind::Dump,
            Self::Verify(_) => TaskKind::Verify,
            Self::Restore(_) => TaskKind::Restore,
            Self::Compare(_) => TaskKind::Compare,
            Self::Analyze(_) => TaskKind::Analyze,
            Self::Cleanup(_) => TaskKind::Cleanup,
        }
    }
}

/// The kind of a task, as it stands in progress lines, Job names and session tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskKind {
    /// See [`Task::Dump`].
    Dump,
    /// See [`Task::Verify`].
    Verify,
    /// See [`Task::Restore`].
    Restore,
    /// See [`Task::Compare`].
    Compare,
    /// See [`Task::Analyze`].
    Analyze,
    /// See [`Task::Cleanup`].
    Cleanup,
}

impl TaskKind {
    /// Lower-case word, fit for names of Kubernetes objects.
    pub fn word(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Verify => "verify",
            Self::Restore => "restore",
            Self::Compare => "compare",
            Self::Analyze => "analyze",
            Self::Cleanup => "cleanup",
        }
    }
}

/// [`Task::Dump`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpTask {
    /// The database to read; `source.database` is its name at this moment (the fenced one).
    pub source: DatabaseEnd,
    /// Where `pg_restore` of the archive will run; decides the compression. Absent for an export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<DatabaseEnd>,
    /// The object to write: `archive.key` must not exist, unless an earlier attempt finished it.
    pub archive: ArchiveEnd,
    /// Name of the database as its users know it; recorded in the manifest.
    pub database: String,
    /// The run this dump belongs to; equal in all manifests of the run.
    pub run: String,
    /// Size of the database in bytes as the server reports it: the total of the progress estimate.
    pub estimated_bytes: u64,
}

/// [`Task::Verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyTask {
    /// Bucket and first object; `archive.key` equals `keys[0]`.
    pub archive: ArchiveEnd,
    /// Keys of all objects of the run, one per database.
    pub keys: Vec<String>,
    /// The run that is sealed.
    pub run: String,
    /// Key of the run's manifest, written last and only when all objects are proven.
    pub run_manifest_key: String,
}

/// [`Task::Restore`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTask {
    /// The object to read.
    pub archive: ArchiveEnd,
    /// The staging database. It exists, is empty and belongs to `owner`.
    pub target: DatabaseEnd,
    /// The role that will own every object.
    pub owner: OwnerLogin,
    /// What was proven of the object; another one is refused, whatever its manifest says.
    pub sealed: Sealed,
    /// Indexes and constraints made at the same time, each in a session of its own; at least 1.
    #[serde(default = "one")]
    pub jobs: u32,
}

fn one() -> u32 {
    1
}

/// What is known of an archive since it was read again from the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    /// Key of the run's manifest, which must hold the archive's own, word for word.
    pub run_manifest_key: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// [`Task::Compare`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompareTask {
    /// The database that was dumped.
    pub source: DatabaseEnd,
    /// The database it was restored into.
    pub target: DatabaseEnd,
    /// The object between them; the per-table document is written beside it.
    pub archive: ArchiveEnd,
}

/// [`Task::Analyze`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnalyzeTask {
    /// The database to analyze.
    pub target: DatabaseEnd,
}

/// [`Task::Cleanup`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CleanupTask {
    /// Ends whose sessions and temporary files of this migration are ended and removed.
    pub databases: Vec<DatabaseEnd>,
    /// Ends whose unfinished uploads below the run's prefix are aborted.
    pub archives: Vec<ArchiveEnd>,
}

/// A value in a Secret of the migration's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// Key in its data.
    pub key: String,
}

/// A database in a Postgres pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseEnd {
    /// Kubeconfig of the pod's cluster; absent = the mover's own cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_secret: Option<SecretKey>,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod; another pod of that name is refused.
    pub pod_uid: String,
    /// Container that holds server and client tools.
    pub container: String,
    /// Role for administration over the local socket.
    pub admin_user: String,
    /// System identifier of the server, decimal; another server is refused.
    pub system_identifier: String,
    /// Actual name of the database now (the fenced or the staging name).
    pub database: String,
}

/// An object in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveEnd {
    /// Bucket name.
    pub bucket: String,
    /// URL of the S3 server; absent = the region's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region, part of every signature.
    pub region: String,
    /// Address the bucket by path, not by host name.
    pub force_path_style: bool,
    /// Secret that holds [`BUCKET_ACCESS_KEY`] and [`BUCKET_SECRET_KEY`].
    pub credentials_secret: String,
    /// PEM bundle to trust instead of the built-in roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKey>,
    /// Prefix of this migration's run; everything the mover lists, writes or aborts lies below it.
    pub prefix: String,
    /// Key of the archive object.
    pub key: String,
}

/// How the owner of the restored database logs in over the pod's local socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerLogin {
    /// Role name.
    pub role: String,
    /// Its password; absent where the socket asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKey>,
}

/// One line of JSON a second on the mover's standard output while it works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is running.
    pub operation: TaskKind,
    /// Counts the lines that were printed, from 1.
    #[serde(default)]
    pub line: u64,
    /// Which part of it.
    pub phase: Phase,
    /// Bytes of the archive that passed through the mover (dump, verify, restore), or bytes of table data digested.
    pub bytes_done: u64,
    /// Bytes in all: exact for verify and restore, the database's size for dump and compare. Absent = not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Tables finished.
    pub tables_done: u64,
    /// Tables in all. Absent = not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables_total: Option<u64>,
    /// Indexes and constraints begun, in a restore.
    #[serde(default)]
    pub indexes_done: u64,
    /// Indexes and constraints in all. Absent = not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexes_total: Option<u64>,
    /// Rows finished, where they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_done: Option<u64>,
    /// Why nothing moves. Absent = it does, or nobody has looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
}

/// Why nothing moves in a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quiet {
    /// What was found when it was looked for, in words.
    pub found: String,
    /// When the attempt is given up if that does not change. Absent = never, because somebody is at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

/// What the last line of a mover tells of the mover itself. Clocks of other machines are not asked: only that lines are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// It prints.
    Beats,
    /// It prints, and it is time to note that.
    Noted,
    /// It has printed nothing for long, since about then.
    Silent(Timestamp),
    /// It will print nothing any more: its process stands still.
    Lost(Timestamp),
}

/// Seconds after which a new line is noted: each note is a write of the status.
const NOTE: i64 = 60;

/// Seconds after which a mover that has printed nothing is told of, and after which it is ended.
const SILENT: i64 = 150;
const LOST: i64 = 600;

/// Takes the pulse of a mover whose last line has this number.
pub fn pulse(heard: Option<&Heard>, line: i64, now: Timestamp) -> Pulse {
    // Movers of older images number no lines.
    if line == 0 {
        return Pulse::Beats;
    }
    let Some(heard) = heard else { return Pulse::Noted };
    let passed = now.as_second() - heard.time.0.as_second();
    match line == heard.line {
        false if passed >= NOTE => Pulse::Noted,
        true if passed > LOST => Pulse::Lost(heard.time.0),
        true if passed > SILENT => Pulse::Silent(heard.time.0),
        true | false => Pulse::Beats,
    }
}

impl Progress {
    /// How far it is, and why it does not go on when it does not, for people.
    pub fn words(&self) -> String {
        let bytes = |n: u64| super::summary::bytes(i64::try_from(n).unwrap_or(i64::MAX));
        let far = match (self.phase, self.bytes_total) {
            (Phase::Indexing, _) => format!(
                "all rows are restored; index or constraint {} of {}",
                self.indexes_done,
                self.indexes_total.unwrap_or(self.indexes_done)
            ),
            (_, Some(total)) => format!("{} of about {}", bytes(self.bytes_done), bytes(total)),
            (_, None) => bytes(self.bytes_done),
        };
        match &self.quiet {
            None => far,
            Some(Quiet { found, until: None }) => format!("{far}; {found}"),
            Some(Quiet { found, until: Some(until) }) => {
                let until = super::summary::second(until.0);
                format!("{far}; {found}; unless that changes, this attempt is given up at {until}")
            }
        }
    }
}

/// A part of a task, as shown in progress lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Reading Secrets, reaching pods and bucket, ending what an earlier attempt left.
    Preparing,
    /// Bytes flow, or tables are worked on.
    Working,
    /// All rows are restored; indexes and constraints are made, and nothing flows.
    Indexing,
    /// Proofs are compared and manifests written.
    Sealing,
}

impl Operation {
    /// Reads a document.
    ///
    /// # Errors
    /// When the text is no operation, or one of another version.
    pub fn parse(text: &str) -> Result<Self, String> {
        let operation: Self = serde_json::from_str(text).map_err(|e| format!("the operation document cannot be read: {e}"))?;
        if operation.version == OPERATION_VERSION {
            Ok(operation)
        } else {
            Err(format!("the operation document has version {}, expected {OPERATION_VERSION}", operation.version))
        }
    }

    /// Name of the Job that carries this operation: the same operation always finds its own Job again.
    pub fn job_name(&self) -> String {
        format!("pgm-{}-{}-{}", self.migration.uid, self.task.kind().word(), self.attempt)
    }

    /// `application_name` of every database session of this operation.
    pub fn session_tag(&self) -> String {
        format!("{}{}/{}", mover_tag_prefix(&self.migration.uid), self.task.kind().word(), self.attempt)
    }
}

/// What the `application_name` of every mover session of a migration begins with: by it orphans are found. The operator's own
/// sessions begin otherwise, so that ending orphans never ends them.
pub fn mover_tag_prefix(uid: &str) -> String {
    format!("{}m/", session_tag_prefix(uid))
}

#[cfg(test)]
mod tests;
