//! How a task ended: what a mover leaves behind.

use serde::{Deserialize, Serialize};

use super::{OPERATION_VERSION, Operation, TaskKind};

/// Largest verdict in bytes: the kubelet keeps no more of a termination message.
pub const VERDICT_LIMIT: usize = 4096;

/// How a task ended: the mover's termination message, at most [`VERDICT_LIMIT`] bytes of JSON, and the last line that it prints.
///
/// A Job without a readable verdict has failed, whatever its exit code says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// [`OPERATION_VERSION`].
    pub version: u32,
    /// What ran.
    pub operation: TaskKind,
    /// The attempt that ran.
    pub attempt: u32,
    /// Whether all of it was done and proven.
    pub outcome: Outcome,
    /// Why it failed; [`Reason::Done`] or [`Reason::Adopted`] otherwise.
    pub reason: Reason,
    /// One sentence for people. Names objects, never credentials.
    pub message: String,
    /// Bytes of the archive (dump, verify, restore).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 of the archive, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 over the sorted per-table digests, lower-case hex (compare).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Tables compared, restored or analyzed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<u64>,
    /// Rows compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The first differences that compare found, each one sentence that names its object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// Number of all differences, also of those that did not fit.
    #[serde(default)]
    pub differences_total: u64,
    /// The first entries of the archive that restore left out because only a superuser could make them, or because
    /// single ownership drops them (grants).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_restored: Vec<String>,
    /// Number of all entries left out, also of those that did not fit.
    #[serde(default)]
    pub not_restored_total: u64,
    /// Key of the document with everything that does not fit here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
}

/// Whether a task was done and proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, and every proof holds.
    Succeeded,
    /// Not done, or not proven.
    Failed,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureClass {
    /// A later attempt may succeed without any change.
    Transient,
    /// A person must change something first.
    NeedsHuman,
    /// No attempt of this run can succeed.
    Terminal,
}

/// Why a task ended as it did. Closed: a new reason gets its class here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// Done by this attempt.
    Done,
    /// Found done and proven by an earlier attempt.
    Adopted,
    /// The document cannot be read, or its version is unknown.
    InvalidOperation,
    /// A Secret, or a key in it, is absent or malformed.
    SecretMissing,
    /// The API server of an end refuses a request: a right is missing.
    ClusterForbidden,
    /// The API server of an end refuses the credentials, or they are over.
    ClusterUnauthorized,
    /// The API server of an end cannot be reached.
    ClusterUnreachable,
    /// The pod is gone, replaced by another, or not running.
    PodUnavailable,
    /// The server's system identifier is another one.
    ServerReplaced,
    /// A client tool or shell utility is absent from the container.
    ToolMissing,
    /// The server does not let the administrator's role in.
    LoginRefused,
    /// The server takes no session for now, or ended one.
    DatabaseUnavailable,
    /// A question to the database failed.
    QueryFailed,
    /// The exec stream broke, or ended without a verdict from inside the pod.
    StreamBroken,
    /// pg_dump failed.
    DumpFailed,
    /// pg_restore failed.
    RestoreFailed,
    /// The staging database holds objects already.
    TargetNotEmpty,
    /// Extensions could not be created in the staging database.
    ExtensionFailed,
    /// ANALYZE failed.
    AnalyzeFailed,
    /// Byte count or SHA-256 of pod and mover were not the same; nothing of it was kept.
    ArchiveMismatch,
    /// The object in the bucket is not what its manifest describes.
    ArchiveDamaged,
    /// The archive outgrew what a multipart upload can hold.
    ArchiveTooLarge,
    /// The object or its manifest is absent.
    ArchiveAbsent,
    /// Another object is at the key, or an unequal manifest.
    ArchiveOccupied,
    /// The bucket does not exist.
    BucketAbsent,
    /// The bucket's credentials are refused.
    BucketForbidden,
    /// The S3 server cannot be reached.
    BucketUnreachable,
    /// The S3 server failed in another way.
    BucketFailed,
    /// The two databases are not equal.
    NotEqual,
    /// Sessions of an earlier attempt could not be ended.
    OrphansRemain,
    /// The mover was asked to stop.
    Interrupted,
}

impl Reason {
    /// The class of a failure with this reason; `None` for success.
    pub fn class(self) -> Option<FailureClass> {
        use FailureClass::{NeedsHuman, Terminal, Transient};
        match self {
            Self::Done | Self::Adopted => None,
            Self::ClusterUnreachable
            | Self::PodUnavailable
            | Self::LoginRefused
            | Self::DatabaseUnavailable
            | Self::QueryFailed
            | Self::StreamBroken
            | Self::DumpFailed
            | Self::ArchiveMismatch
            | Self::BucketUnreachable
            | Self::BucketFailed
            | Self::OrphansRemain
            | Self::AnalyzeFailed
            | Self::TargetNotEmpty
            | Self::Interrupted => Some(Transient),
            Self::SecretMissing
            | Self::ClusterForbidden
            | Self::ClusterUnauthorized
            | Self::ToolMissing
            | Self::RestoreFailed
            | Self::ExtensionFailed
            | Self::BucketAbsent
            | Self::BucketForbidden => Some(NeedsHuman),
            Self::InvalidOperation
            | Self::ServerReplaced
            | Self::ArchiveTooLarge
            | Self::ArchiveDamaged
            | Self::ArchiveAbsent
            | Self::ArchiveOccupied
            | Self::NotEqual => Some(Terminal),
        }
    }
}

/// Exit codes of the mover process. The verdict is the truth; the code only repeats it for people who read Jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The task succeeded.
    Succeeded = 0,
    /// The document was refused.
    InvalidOperation = 2,
    /// [`FailureClass::Transient`].
    Transient = 10,
    /// [`FailureClass::NeedsHuman`].
    NeedsHuman = 11,
    /// [`FailureClass::Terminal`].
    Terminal = 12,
}

impl Verdict {
    /// A verdict with everything optional left out.
    pub fn new(operation: TaskKind, attempt: u32, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            version: OPERATION_VERSION,
            operation,
            attempt,
            outcome: match reason.class() {
                None => Outcome::Succeeded,
                Some(_) => Outcome::Failed,
            },
            reason,
            message: message.into(),
            bytes: None,
            sha256: None,
            digest: None,
            tables: None,
            rows: None,
            differences: Vec::new(),
            differences_total: 0,
            not_restored: Vec::new(),
            not_restored_total: 0,
            document: None,
        }
    }

    /// The exit code that repeats this verdict.
    pub fn exit_status(&self) -> ExitStatus {
        match self.reason.class() {
            None => ExitStatus::Succeeded,
            Some(FailureClass::Transient) => ExitStatus::Transient,
            Some(FailureClass::NeedsHuman) => ExitStatus::NeedsHuman,
            Some(FailureClass::Terminal) if self.reason == Reason::InvalidOperation => ExitStatus::InvalidOperation,
            Some(FailureClass::Terminal) => ExitStatus::Terminal,
        }
    }

    /// The termination message: JSON of at most [`VERDICT_LIMIT`] bytes. Lists are cut first, then the message;
    /// the totals still tell how many there were.
    pub fn termination_message(&self) -> String {
        let mut cut = self.clone();
        loop {
            let text = serde_json::to_string(&cut).unwrap_or_default();
            if text.len() <= VERDICT_LIMIT {
                return text;
            }
            let longer =
                if cut.not_restored.len() >= cut.differences.len() { &mut cut.not_restored } else { &mut cut.differences };
            if longer.pop().is_none() {
                let keep = cut.message.chars().count() / 2;
                cut.message = cut.message.chars().take(keep).collect();
            }
        }
    }

    /// Reads a termination message.
    ///
    /// # Errors
    /// When the text is no verdict of this version.
    pub fn parse(text: &str) -> Result<Self, String> {
        let verdict: Self = serde_json::from_str(text).map_err(|e| format!("the mover's verdict cannot be read: {e}"))?;
        if verdict.version == OPERATION_VERSION {
            Ok(verdict)
        } else {
            Err(format!("the mover's verdict has version {}, expected {OPERATION_VERSION}", verdict.version))
        }
    }

    /// The verdict that ends the output of a mover that carried out `operation`. It is the last that a mover does, so nothing of
    /// what it tells is still to come, though the process may not have ended yet.
    pub fn at_the_end_of(output: &str, operation: &Operation) -> Option<Self> {
        let last = Self::parse(output.lines().last()?).ok()?;
        (last.operation == operation.task.kind() && last.attempt == operation.attempt).then_some(last)
    }
}
