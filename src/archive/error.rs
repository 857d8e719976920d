//! Errors of the archive: a kind that decides what to do, and a sentence that says where it happened.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use std::error::Error as StdError;

/// What an error means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The bucket does not exist.
    BucketAbsent,
    /// Unknown access key, wrong secret, or a right that is missing.
    Forbidden,
    /// Name resolution, connection or TLS failed before any answer.
    Unreachable,
    /// The object is there although it must not be, or is no longer the one that was pinned.
    PreconditionFailed,
    /// The object or upload does not exist.
    NotFound,
    /// The server asks to come back later, broke the connection, or gave no answer in time.
    Transient,
    /// More bytes than an archive can hold.
    TooLarge,
    /// What was read back is not what was expected.
    Mismatch,
    /// Settings that cannot work (a malformed CA bundle or endpoint).
    Misconfigured,
    /// Anything else that the server refused.
    Other,
}

/// A failed request to the archive.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ArchiveError {
    /// What it means.
    pub kind: ErrorKind,
    /// What was tried, on which bucket and endpoint, and what the server said. Never holds a credential.
    pub message: String,
}

impl ArchiveError {
    /// An error found on this side.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Whether the request may have taken effect although no answer came.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self.kind, ErrorKind::Transient | ErrorKind::Unreachable)
    }

    /// Reads the SDK's error. `action` is what was tried ("write object x"), `place` names bucket and endpoint.
    pub(crate) fn from_sdk<E>(action: &str, place: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let (kind, detail) = classify(error);
        let lead = match kind {
            ErrorKind::BucketAbsent => "the bucket does not exist",
            ErrorKind::Forbidden => "access is refused",
            ErrorKind::Unreachable => "the server cannot be reached",
            ErrorKind::PreconditionFailed => "the object is not in the expected state",
            ErrorKind::NotFound => "not found",
            ErrorKind::Transient => "no answer to rely on",
            ErrorKind::TooLarge => "too large",
            ErrorKind::Mismatch => "not what was expected",
            ErrorKind::Misconfigured => "the request cannot be made",
            ErrorKind::Other => "the server refused",
        };
        Self::new(kind, format!("cannot {action} in {place}: {lead} ({detail})"))
    }
}

fn classify<E>(error: &SdkError<E, HttpResponse>) -> (ErrorKind, String)
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ConstructionFailure(_) => (ErrorKind::Misconfigured, chain(error)),
        SdkError::DispatchFailure(failure) => {
            let detail = failure.as_connector_error().map_or_else(|| chain(error), chain_of);
            // A connection that was never made cannot have carried the request.
            let connected =
                failure.as_connector_error().and_then(|e| e.connection_metadata()).is_some_and(|c| c.remote_addr().is_some());
            if failure.is_user() {
                (ErrorKind::Misconfigured, detail)
            } else if connected && !detail.contains("certificate") {
                (ErrorKind::Transient, detail)
            } else {
                (ErrorKind::Unreachable, detail)
            }
        }
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => (ErrorKind::Transient, chain(error)),
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or("no code");
            let said = service.err().message().unwrap_or("no message");
            (by_answer(status, code), format!("{status} {code}: {said}"))
        }
        _ => (ErrorKind::Other, chain(error)),
    }
}

fn by_answer(status: u16, code: &str) -> ErrorKind {
    match (status, code) {
        (_, "NoSuchBucket") => ErrorKind::BucketAbsent,
        (401 | 403, _) | (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied") => ErrorKind::Forbidden,
        (404, _) => ErrorKind::NotFound,
        (409 | 412, _) => ErrorKind::PreconditionFailed,
        (408 | 429 | 500..=599, _) | (_, "RequestTimeout" | "SlowDown" | "RequestTimeTooSkewed") => ErrorKind::Transient,
        _ => ErrorKind::Other,
    }
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

fn chain_of(error: &aws_smithy_runtime_api::client::result::ConnectorError) -> String {
    chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_kind() {
        assert_eq!(by_answer(404, "NoSuchBucket"), ErrorKind::BucketAbsent);
        assert_eq!(by_answer(404, "NoSuchKey"), ErrorKind::NotFound);
        assert_eq!(by_answer(403, "SignatureDoesNotMatch"), ErrorKind::Forbidden);
        assert_eq!(by_answer(412, "PreconditionFailed"), ErrorKind::PreconditionFailed);
        assert_eq!(by_answer(409, "ConditionalRequestConflict"), ErrorKind::PreconditionFailed);
        assert_eq!(by_answer(503, "SlowDown"), ErrorKind::Transient);
        assert_eq!(by_answer(301, "PermanentRedirect"), ErrorKind::Other);
    }
}
