//! What can go wrong with a streaming subresource (exec, port-forward), and how a client library's error becomes that.

use std::error::Error as _;

use kube::client::UpgradeConnectionError;

/// The longest server text that is carried into a message; proxies answer with whole HTML pages.
const MESSAGE_LIMIT: usize = 1000;

/// The kind of an [`ExecError`], from which callers pick class, reason and retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecErrorKind {
    /// HTTP 401: the credentials are refused, or over. A person must renew them.
    Unauthorized,
    /// HTTP 403: the identity may not do this. A person must grant something.
    Forbidden,
    /// HTTP 404: no such pod (or namespace).
    NotFound,
    /// Any other HTTP refusal: container not in the pod (400), container not running (400, 500), API server busy.
    Refused,
    /// The API server could not be reached, or TLS or authentication towards it failed before HTTP.
    Connect,
    /// The peer does not speak `v5.channel.k8s.io`, or broke it; also a misuse of the stream.
    Protocol,
    /// The container runtime could not start or follow the process (no such program, for one).
    Runtime,
    /// The stream ended without a status: whether the process ran to its end is unknown.
    Cut,
    /// A deadline passed; the process may still be running in the pod.
    Deadline,
}

/// Why a stream could not be opened, or broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExecError {
    /// The kind.
    pub kind: ExecErrorKind,
    /// The API server's HTTP status, where it answered with one.
    pub http_status: Option<u16>,
    /// What happened, for people.
    pub message: String,
}

impl ExecError {
    pub(crate) fn new(kind: ExecErrorKind, message: impl Into<String>) -> Self {
        Self { kind, http_status: None, message: message.into() }
    }

    /// Reads an error of the client that came while the stream was opened. `subresource` is `pods/exec` and the like.
    pub(crate) fn opening(subresource: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let text = [&status.message, &status.reason].into_iter().find(|text| !text.trim().is_empty());
                let text = shortened(text.map_or("no message", |text| text.trim()));
                let code = status.code;
                let (kind, message) = match code {
                    401 => (ExecErrorKind::Unauthorized, format!("not authenticated: {text}")),
                    403 => (
                        ExecErrorKind::Forbidden,
                        // The server does not say which verb it misses.
                        format!("{text} ({subresource} needs the verbs get and create)"),
                    ),
                    404 => (ExecErrorKind::NotFound, text),
                    _ => (ExecErrorKind::Refused, format!("HTTP {code}: {text}")),
                };
                Self { kind, http_status: Some(code), message }
            }
            kube::Error::UpgradeConnection(upgrade) => match upgrade {
                UpgradeConnectionError::GetPendingUpgrade(_) => Self::new(ExecErrorKind::Connect, chain(error)),
                UpgradeConnectionError::ProtocolSwitch(_)
                | UpgradeConnectionError::MissingUpgradeWebSocketHeader
                | UpgradeConnectionError::MissingConnectionUpgradeHeader
                | UpgradeConnectionError::SecWebSocketAcceptKeyMismatch
                | UpgradeConnectionError::SecWebSocketProtocolMismatch => Self::new(
                    ExecErrorKind::Protocol,
                    format!("{} (something on the way does not pass WebSockets)", chain(error)),
                ),
            },
            // The client's own word for the kind says nothing to anybody.
            _ => {
                let words = chain(error);
                let words = words.strip_prefix("ServiceError: ").unwrap_or(&words);
                Self::new(ExecErrorKind::Connect, format!("no connection to the API server: {words}"))
            }
        }
    }
}

/// The messages of an error and its sources, each said once.
fn chain(error: &kube::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    shortened(&message)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_LIMIT) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}
