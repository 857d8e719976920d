//! What the operator answers. The operator is the only writer; every fact that a later decision needs stands here, because
//! resuming is the same decision on a status that already holds facts. Everything is bounded: the object stays below 64 KiB.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::spec::WorkloadKind;

/// What has happened so far, and what is so.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PostgresMigrationStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Summary for people, derived from the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The step at work, in the runbook's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepName>,
    /// How far: of the bytes while something is moved, of the steps otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Size of the database and of its archive, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// What is going on, or what went wrong and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Conditions by type.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Which run this is: 1, and one more for each retry.
    #[serde(default)]
    pub run: i64,
    /// The spec.retry that the present run answers to.
    #[serde(default)]
    pub observed_retry: i64,
    /// When the first effect was allowed. From here on the spec is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// How the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Present while, and after, everything is undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
    /// Present while the migration waits for a person after the database was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Findings of the checks that do not stop the migration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Finding>,
    /// Findings of the checks that stop it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Finding>,
    /// The steps and their times.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub steps: Vec<StepStatus>,
    /// What both ends were when the run began. Every later step must find the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Pinned>,
    /// Workloads that were stopped, as they were before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quiesced: Vec<Quiesced>,
    /// The fence around the source, as it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// The mover at work, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// The dump in the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveStatus>,
    /// The restored copy, before it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staging: Option<Staging>,
    /// The verdict of the comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// What the target's name was before the copy took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    /// Settings that were changed. Their previous values are in the Secret named here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repointed: Option<Repointed>,
    /// Schema jobs and their outcomes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schema_jobs: Vec<SchemaJobStatus>,
    /// The end of the migration, as it is marked on the target database and in the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Completion>,
    /// True once the application was allowed to write to the new database: from here on, going back costs data.
    #[serde(default)]
    pub resumed: bool,
    /// What became of the rows that the application had written to the new database, when that was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<Saved>,
}

/// Summary words that the OpenShift console has icons for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Planned, or nothing looked at yet.
    Pending,
    /// Checks are running.
    Planning,
    /// Steps are running.
    Running,
    /// Holds for a decision: retry, or give up.
    RequiresApproval,
    /// Everything is being undone.
    PendingRollback,
    /// Done.
    Succeeded,
    /// Ended without success; everything is as it was.
    Failed,
    /// Cancelled; everything is as it was.
    Cancelled,
}

/// The steps of the runbook. Their order is the itinerary in `plan`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepName {
    /// Find both ends and write down what they are.
    Pin,
    /// Check everything that can be checked without touching anything.
    Preflight,
    /// Stop the writers.
    Quiesce,
    /// Close the source database to everyone else.
    Fence,
    /// Dump the source into the bucket.
    Dump,
    /// Read the dump back from the bucket and seal it.
    VerifyArchive,
    /// Restore it beside the target database.
    Restore,
    /// Compare both databases.
    Compare,
    /// Gather planner statistics.
    Analyze,
    /// Prove that the source has not changed meanwhile.
    Witness,
    /// Give the copy its final name.
    Publish,
    /// Lead the application to it.
    Repoint,
    /// Bring its schema up to date.
    SchemaJob,
    /// Start the application.
    Resume,
    /// Keep the fence and the archive; clean up.
    Keep,
}

/// One step's state and times.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// Which step.
    pub name: StepName,
    /// Where it stands.
    pub state: StepState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// How long it took, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<i64>,
    /// Which attempt at it this is, from 1.
    #[serde(default)]
    pub attempt: i64,
    /// Failures in a row that were worth trying again.
    #[serde(default)]
    pub failures: i64,
    /// When the first failure in that row was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,
    /// It is not called again before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// The last thing worth saying about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when that is the last thing: what waits says nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_since: Option<Time>,
}

/// Where a step stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Begun: its effects may have happened.
    Running,
    /// Done.
    Done,
    /// Being undone.
    Undoing,
    /// Undone.
    Undone,
}

/// How a run ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The database moved.
    Succeeded,
    /// It did not; what had been done is undone.
    Failed,
    /// The user called it off or rolled it back; what had been done is undone.
    Cancelled,
}

/// Why everything is undone.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// What asked for it.
    pub cause: UndoCause,
    /// Reason constant.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// Step that was at work.
    pub step: StepName,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// True once all is undone.
    #[serde(default)]
    pub complete: bool,
}

/// A step that failed after the database was published: nothing is undone by itself from here on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// The step that failed.
    pub step: StepName,
    /// Reason constant.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
}

/// What asked for the undo.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoCause {
    /// A step failed for good.
    Failure,
    /// spec.cancel.
    Cancel,
    /// The object is being deleted.
    Deletion,
    /// spec.rollback.
    Rollback,
}

/// One result of a check.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Reason constant.
    pub reason: String,
    /// Where in the spec.
    pub path: String,
    /// What is so, why it matters, what to do.
    pub message: String,
}

/// What both ends were.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pinned {
    /// UTC time of the run as YYYYMMDD_HHMMSS: part of the archive's key.
    pub stamp: String,
    /// The source.
    pub source: PinnedEnd,
    /// The target.
    pub target: PinnedEnd,
    /// Bytes that the source database takes on disk.
    pub database_bytes: i64,
    /// Object id of the source database.
    pub database_oid: i64,
}

/// One PostgreSQL server as it was found.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PinnedEnd {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Container in it.
    pub container: String,
    /// Role that administers it.
    pub admin_user: String,
    /// `system_identifier` of the server (pg_control_system), as text.
    pub system_identifier: String,
    /// `server_version_num`.
    pub version_num: i32,
}

/// One workload that was stopped.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Quiesced {
    /// On which side it lives.
    pub side: Side,
    /// Kind.
    pub kind: WorkloadKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Replicas before. For a CronJob: absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Whether a CronJob was suspended before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<bool>,
    /// True once it was asked to stop.
    #[serde(default)]
    pub requested: bool,
    /// True once no pod of it was left.
    #[serde(default)]
    pub stopped: bool,
    /// True once it was put back.
    #[serde(default)]
    pub restored: bool,
}

/// Which end.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The end that the database leaves.
    Source,
    /// The end that it goes to.
    Target,
}

/// The fence, with everything its undo needs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// Swap or Layered.
    pub method: FenceKind,
    /// The originals as the postgres room recorded them: one JSON document.
    pub originals: String,
    /// True from the moment that the source was seen closed.
    #[serde(default)]
    pub closed: bool,
    /// The witness taken when it was closed: one JSON document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<String>,
}

/// How the source was closed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceKind {
    /// Renamed away behind a tombstone.
    Swap,
    /// Roles locked out.
    Layered,
}

/// A mover's work.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// What it does, in one word.
    pub operation: String,
    /// Name of its Job.
    pub job: String,
    /// True once the Job was made.
    #[serde(default)]
    pub started: bool,
    /// Bytes moved so far.
    #[serde(default)]
    pub bytes_done: i64,
    /// Bytes expected; an estimate for a dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<i64>,
    /// Rows or tables done, as the operation counts.
    #[serde(default)]
    pub items_done: i64,
    /// Rows or tables expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items_total: Option<i64>,
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// Seconds left, estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<i64>,
    /// When its mover was last heard of, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
}

/// A line of a mover's output, and when it was new.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Heard {
    /// Its number: a mover prints one a second, whatever else it does.
    pub line: i64,
    /// When it was read, by the operator's clock.
    pub time: Time,
}

/// The dump.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveStatus {
    /// Bucket.
    pub bucket: String,
    /// Key of the dump: a plain pg_restore can read it.
    pub key: String,
    /// Its length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Its SHA-256, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// True once it was read back and its run manifest written.
    #[serde(default)]
    pub sealed: bool,
}

/// The copy before it is published.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Staging {
    /// Name of the staging database.
    pub database: String,
    /// The attempt that it was made for.
    #[serde(default)]
    pub attempt: i64,
    /// Its object id, once it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oid: Option<i64>,
    /// Entries of the archive that only a superuser could restore and that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_restored: Vec<String>,
    /// How many such entries there are in all.
    #[serde(default)]
    pub not_restored_total: i64,
}

/// The verdict.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// True: every table, sequence and large object is equal.
    pub equal: bool,
    /// Tables compared.
    pub tables: i64,
    /// Rows compared, of one side.
    pub rows: i64,
    /// One digest over all digests of the source, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The first differences, each named by its table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// Key of the per-table document in the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_key: Option<String>,
    /// True when something wrote on the source's server meanwhile, so that the comparison had to be made once more.
    #[serde(default)]
    pub moved: bool,
    /// True once the source was seen unchanged after the comparison.
    #[serde(default)]
    pub witnessed: bool,
}

/// What the target's name was before.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Publication {
    /// The originals as the postgres room recorded them: one JSON document.
    pub originals: String,
    /// Name under which a database that was there before is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
    /// Row changes that its server had counted in the copy before it got that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_changes: Option<i64>,
    /// True once the copy was seen under its final name.
    #[serde(default)]
    pub published: bool,
}

/// Settings that were changed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Repointed {
    /// Secret in the target's namespace that keeps the previous values.
    pub previous_values: String,
    /// How many of spec.target.application.repoint were begun, in order: recorded before each write.
    #[serde(default)]
    pub begun: i64,
    /// How many of them were written.
    #[serde(default)]
    pub written: i64,
}

/// One schema job.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SchemaJobStatus {
    /// Name in the spec.
    pub name: String,
    /// Name of the Job.
    pub job: String,
    /// True once the Job was made.
    #[serde(default)]
    pub created: bool,
    /// True once it ended well.
    #[serde(default)]
    pub succeeded: bool,
}

/// The mark of a finished migration.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Completion {
    /// UID of the object that moved the database.
    pub migration_uid: String,
    /// When it was done, RFC 3339 in UTC.
    pub time: String,
    /// True: an earlier object of this name had moved the database, and this one had nothing to do.
    #[serde(default)]
    pub earlier: bool,
}

/// The new database after a rollback: saved in the bucket and dropped, or kept because it could not be saved.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// Bucket.
    pub bucket: String,
    /// Key of its dump: a plain pg_restore can read it.
    pub key: String,
    /// Name of the database from the moment that it is withdrawn: one that no run ever takes.
    pub database: String,
    /// Row changes that its server had counted in it before it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_changes: Option<i64>,
    /// The attempt at it, from 1.
    #[serde(default)]
    pub attempt: i64,
    /// Length of the dump in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// SHA-256 of the dump, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// True once the dump was read back from the bucket. Only then the database is dropped.
    #[serde(default)]
    pub verified: bool,
    /// Name under which the database is kept on the target's server: it could not be saved, or was written to before the application was
    /// started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_as: Option<String>,
    /// Why it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}
