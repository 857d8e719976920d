//! The one error of requests to an API server: what was asked, about which object, and what kind of answer came.
//!
//! Belongs here: the classification of `kube::Error`, and the deadline of a request.
//! Does not belong here: what to do about an error; errors of one domain (a refused kubeconfig, an ambiguous pod) stand beside it.

use std::fmt;
use std::future::Future;
use std::time::Duration;

/// Longest time of one request other than exec, port-forward and followed logs. The transport itself has no read timeout,
/// because those three need none: without this bound, an API server that went silent would hold a step for ever.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What an API server was asked for. Shown as `get secrets "a" in namespace "b"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// RBAC verb.
    pub verb: &'static str,
    /// Plural name, with the group behind a dot unless it is the core group, and `/subresource`: `deployments.apps/scale`.
    pub resource: String,
    /// Namespace. Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name of the object. Empty for lists.
    pub name: String,
}

impl Request {
    /// A request about one object, or with an empty `name` about a list.
    pub fn new(verb: &'static str, resource: &str, namespace: &str, name: &str) -> Self {
        Self { verb, resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    /// Whether it is an effect: questions to the API server about rights are created too.
    fn changes_something(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
            && !self.resource.contains("reviews.")
            && !self.resource.starts_with("events")
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.name.is_empty() {
            write!(f, " \"{}\"", self.name)?;
        }
        if !self.namespace.is_empty() {
            write!(f, " in namespace \"{}\"", self.namespace)?;
        }
        Ok(())
    }
}

/// What kind of answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The object, or its kind, is not there.
    NotFound,
    /// The account lacks the right named by the request.
    Forbidden,
    /// The object changed in between, or an object of another identity has its name.
    Conflict,
    /// An object of that name exists already.
    AlreadyExists,
    /// The credentials are refused.
    Unauthorized,
    /// No answer: name, connection, TLS, or [`DEADLINE`].
    Unreachable,
    /// The request, or the object it found, cannot be used.
    Invalid,
    /// The server is overloaded, restarting or timed out: the same request may succeed later.
    Transient,
    /// Anything else.
    Other,
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {request}: {detail}")]
pub struct Error {
    kind: Kind,
    request: Request,
    detail: String,
}

impl Error {
    /// An error of our own about an object, such as one that cannot be used as it is.
    pub fn new(kind: Kind, request: Request, detail: impl Into<String>) -> Self {
        Self { kind, request, detail: detail.into() }
    }

    /// Classifies an error of the client.
    pub fn from_kube(error: &kube::Error, request: Request) -> Self {
        let (kind, detail) = match error {
            kube::Error::Api(status) => {
                let text = if status.message.is_empty() {
                    format!("HTTP {} {}", status.code, status.reason)
                } else {
                    status.message.clone()
                };
                (of_status(status.code, &status.reason), text)
            }
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => {
                (Kind::Unreachable, chain(error))
            }
            kube::Error::UpgradeConnection(_) => (Kind::Transient, chain(error)),
            kube::Error::Auth(_) => (Kind::Unauthorized, chain(error)),
            kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) | kube::Error::FromUtf8(_) => (Kind::Invalid, chain(error)),
            _ => (Kind::Other, chain(error)),
        };
        Self { kind, request, detail }
    }

    /// What kind of answer came.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What was asked. For [`Kind::Forbidden`] its verb and resource are the right that is missing.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Whether the same request may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self.kind {
            Kind::Transient | Kind::Unreachable | Kind::Conflict => true,
            Kind::NotFound | Kind::Forbidden | Kind::AlreadyExists | Kind::Unauthorized | Kind::Invalid | Kind::Other => false,
        }
    }
}

fn of_status(code: u16, reason: &str) -> Kind {
    match code {
        401 => Kind::Unauthorized,
        403 => Kind::Forbidden,
        404 => Kind::NotFound,
        409 if reason == "AlreadyExists" => Kind::AlreadyExists,
        409 => Kind::Conflict,
        400 | 405 | 406 | 415 | 422 => Kind::Invalid,
        408 | 410 | 429 | 500..=599 => Kind::Transient,
        _ => Kind::Other,
    }
}

/// The error and its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

/// Performs one request within [`DEADLINE`].
///
/// # Errors
/// The classified error; [`Kind::Unreachable`] when the deadline passed.
pub(crate) async fn ask<T>(request: Request, work: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    if request.changes_something() {
        let what = format!("{} {} {}", request.verb, request.resource, request.name);
        return crate::crash::around(|| what, within(DEADLINE, request, work)).await;
    }
    within(DEADLINE, request, work).await
}

async fn within<T>(limit: Duration, request: Request, work: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Error::from_kube(&error, request)),
        Err(_) => Err(Error::new(Kind::Unreachable, request, format!("no answer within {limit:?}"))),
    }
}

/// Parameters of every patch: written in our name.
pub(crate) fn manager() -> kube::api::PatchParams {
    kube::api::PatchParams { field_manager: Some(crate::api::names::FIELD_MANAGER.into()), ..kube::api::PatchParams::default() }
}

/// Turns "not there" into `None`.
pub(crate) fn absent_as_none<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, reason: &str, message: &str) -> kube::Error {
        let status = serde_json::json!({"code": code, "reason": reason, "message": message});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn an_answer_is_classified_by_its_code() {
        for (code, reason, kind) in [
            (401, "Unauthorized", Kind::Unauthorized),
            (403, "Forbidden", Kind::Forbidden),
            (404, "NotFound", Kind::NotFound),
            (409, "Conflict", Kind::Conflict),
            (409, "AlreadyExists", Kind::AlreadyExists),
            (422, "Invalid", Kind::Invalid),
            (429, "TooManyRequests", Kind::Transient),
            (500, "InternalError", Kind::Transient),
            (503, "ServiceUnavailable", Kind::Transient),
            (504, "Timeout", Kind::Transient),
            (418, "", Kind::Other),
        ] {
            let error = Error::from_kube(&api(code, reason, ""), Request::new("get", "pods", "a", "b"));
            assert_eq!(error.kind(), kind, "{code} {reason}");
            assert_eq!(error.to_string(), format!("cannot get pods \"b\" in namespace \"a\": HTTP {code} {reason}"));
        }
    }

    #[test]
    fn only_a_wait_can_heal_a_transient_error() {
        let of = |kind| Error::new(kind, Request::new("list", "pods", "a", ""), "x").is_transient();
        assert!(of(Kind::Unreachable) && of(Kind::Transient) && of(Kind::Conflict));
        assert!(!of(Kind::Forbidden) && !of(Kind::NotFound) && !of(Kind::Invalid) && !of(Kind::Unauthorized));
    }

    #[tokio::test]
    async fn silence_is_unreachable() {
        let silent = std::future::pending::<kube::Result<()>>();
        let error = within(Duration::from_millis(1), Request::new("list", "pods", "a", ""), silent).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unreachable);
        assert_eq!(error.to_string(), "cannot list pods in namespace \"a\": no answer within 1ms");
    }
}
