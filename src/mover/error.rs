//! Why a task failed: a reason from the contract, and one sentence.

use crate::archive::{ArchiveError, ErrorKind};
use crate::kubernetes::clients::ClientError;
use crate::kubernetes::errors::{Error as ApiError, Kind};
use crate::kubernetes::exec::{ExecError, ExecErrorKind};
use crate::kubernetes::secrets::SecretError;
use crate::plan::operation::Reason;
use crate::postgres::carrier::{SqlError, SqlErrorKind};

/// A failed task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct MoverError {
    /// Why, in the words of the contract.
    pub reason: Reason,
    /// What happened, for people. Never holds a credential.
    pub message: String,
}

impl MoverError {
    /// An error with this reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The same error, said to be about `what`.
    #[must_use]
    pub fn of(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

impl From<ArchiveError> for MoverError {
    fn from(error: ArchiveError) -> Self {
        let reason = match error.kind {
            ErrorKind::BucketAbsent => Reason::BucketAbsent,
            ErrorKind::Forbidden => Reason::BucketForbidden,
            ErrorKind::Unreachable => Reason::BucketUnreachable,
            ErrorKind::PreconditionFailed => Reason::ArchiveOccupied,
            ErrorKind::NotFound => Reason::ArchiveAbsent,
            ErrorKind::Transient | ErrorKind::Other => Reason::BucketFailed,
            ErrorKind::TooLarge => Reason::ArchiveTooLarge,
            ErrorKind::Mismatch => Reason::ArchiveDamaged,
            ErrorKind::Misconfigured => Reason::SecretMissing,
        };
        Self::new(reason, error.message)
    }
}

impl From<ExecError> for MoverError {
    fn from(error: ExecError) -> Self {
        let reason = match error.kind {
            ExecErrorKind::Unauthorized => Reason::ClusterUnauthorized,
            ExecErrorKind::Forbidden => Reason::ClusterForbidden,
            ExecErrorKind::NotFound | ExecErrorKind::Refused => Reason::PodUnavailable,
            ExecErrorKind::Connect => Reason::ClusterUnreachable,
            ExecErrorKind::Runtime if error.message.contains("executable file not found") => Reason::ToolMissing,
            ExecErrorKind::Protocol | ExecErrorKind::Runtime | ExecErrorKind::Cut | ExecErrorKind::Deadline => {
                Reason::StreamBroken
            }
        };
        Self::new(reason, error.message)
    }
}

impl From<SqlError> for MoverError {
    fn from(error: SqlError) -> Self {
        let reason = match error.kind {
            SqlErrorKind::Connect if error.is_login_refused() => Reason::LoginRefused,
            SqlErrorKind::Connect if error.is_unavailable() => Reason::DatabaseUnavailable,
            SqlErrorKind::Connect | SqlErrorKind::Statement | SqlErrorKind::Deadline | SqlErrorKind::Protocol => {
                Reason::QueryFailed
            }
        };
        Self::new(reason, error.to_string())
    }
}

impl From<ApiError> for MoverError {
    fn from(error: ApiError) -> Self {
        let reason = match error.kind() {
            Kind::Forbidden => Reason::ClusterForbidden,
            Kind::Unauthorized => Reason::ClusterUnauthorized,
            Kind::NotFound => Reason::PodUnavailable,
            Kind::Conflict | Kind::AlreadyExists | Kind::Unreachable | Kind::Invalid | Kind::Transient | Kind::Other => {
                Reason::ClusterUnreachable
            }
        };
        Self::new(reason, error.to_string())
    }
}

impl From<SecretError> for MoverError {
    fn from(error: SecretError) -> Self {
        match error {
            SecretError::Forbidden { .. } => Self::new(Reason::ClusterForbidden, error.to_string()),
            SecretError::Api(api) => api.into(),
            SecretError::SecretAbsent { .. } | SecretError::KeyAbsent { .. } | SecretError::NotText { .. } => {
                Self::new(Reason::SecretMissing, error.to_string())
            }
        }
    }
}

impl From<ClientError> for MoverError {
    fn from(error: ClientError) -> Self {
        let reason = match error {
            ClientError::Refused(_) => Reason::SecretMissing,
            ClientError::Unreachable { .. } => Reason::ClusterUnreachable,
            ClientError::Expired(_) | ClientError::Unauthorized { .. } => Reason::ClusterUnauthorized,
        };
        Self::new(reason, error.to_string())
    }
}
