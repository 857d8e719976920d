//! Clients: of the operator acting as a migration's service account, and of another cluster.
//!
//! Belongs here: how a client is made and whether its cluster answers. Does not belong here: what is asked with it.
//!
//! Clients made here repeat by themselves what was refused for want of time (429), and nothing else: any other answer comes back
//! at once as [`Kind::Transient`], and whoever asked decides when to ask again.

use std::time::Duration;

use http::{Request as HttpRequest, Response, StatusCode};
use k8s_openapi::jiff::Timestamp;
use kube::client::retry::{InvalidBackoff, RetryPolicy};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tokio::time::Instant;
use tower::BoxError;
use tower::buffer::BufferLayer;
use tower::retry::{Policy, RetryLayer};

use super::errors::{Error, Kind, Request, ask, chain};
use super::kubeconfig::{self, Credential, KubeconfigError};

/// Longest time to open a connection to an API server.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no client, or none that works.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig, or the account, is not one that may be used. Says what is wrong with it.
    #[error("{0}")]
    Refused(String),
    /// The kubeconfig's token is over.
    #[error("the kubeconfig's token expired at {0}")]
    Expired(Timestamp),
    /// The API server does not answer.
    #[error("the API server {server} cannot be reached: {detail}")]
    Unreachable {
        /// Address of the server.
        server: String,
        /// What happened.
        detail: String,
    },
    /// The API server refuses the credentials.
    #[error("the API server {server} refuses the credentials: {detail}")]
    Unauthorized {
        /// Address of the server.
        server: String,
        /// What it said.
        detail: String,
    },
}

impl From<KubeconfigError> for ClientError {
    fn from(error: KubeconfigError) -> Self {
        match error {
            KubeconfigError::Refused(_) => Self::Refused(error.to_string()),
            KubeconfigError::Expired(at) => Self::Expired(at),
        }
    }
}

/// Makes a configuration fit for exec: nothing but connecting has a deadline in the transport. A restore may pause for
/// minutes while the server builds an index, and a write timeout would end it.
fn prepared(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = None;
    config.write_timeout = None;
    config.default_retry = false;
    config
}

/// A client with the identity of `config` itself: the operator's, or in a mover its pod's.
///
/// Must be called within a Tokio runtime, as all clients.
///
/// # Errors
/// [`ClientError::Refused`] when the configuration is unusable.
pub fn own(config: &Config) -> Result<Client, ClientError> {
    client(prepared(config.clone()))
}

/// A client that acts as a service account of this cluster. Only the user is impersonated, never a group: the API server
/// itself adds the groups that every service account has, so nothing but the account's own RBAC counts.
///
/// Holds for every request of the client, exec and port-forward included. Whether the account exists is not checked here.
///
/// # Errors
/// [`ClientError::Refused`] when a name is empty or holds a character that no namespace or service account has.
pub fn impersonated(base: &Config, namespace: &str, service_account: &str) -> Result<Client, ClientError> {
    for name in [namespace, service_account] {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        if name.is_empty() || !plain {
            return Err(ClientError::Refused(format!("{name:?} cannot be the name of a namespace or service account")));
        }
    }
    let mut config = prepared(base.clone());
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{service_account}"));
    config.auth_info.impersonate_uid = None;
    config.auth_info.impersonate_groups = None;
    config.auth_info.impersonate_user_extra = None;
    client(config)
}

/// A client of another cluster, and the address of its API server, from the text of a kubeconfig ([`kubeconfig::parse`] says
/// what is accepted). Proxy settings of the process are not used. Nothing is sent: [`reach`] tells whether the cluster answers.
///
/// # Errors
/// [`ClientError::Refused`] and [`ClientError::Expired`].
pub fn remote(kubeconfig: &str) -> Result<(Client, String), ClientError> {
    let parsed = kubeconfig::parse(kubeconfig, Timestamp::now())?;
    let server = parsed.server.to_string();
    let mut config = Config::new(parsed.server);
    config.root_cert = Some(parsed.authorities);
    config.tls_server_name = parsed.tls_server_name;
    if let Some(namespace) = parsed.namespace {
        config.default_namespace = namespace;
    }
    match parsed.credential {
        Credential::Token(token) => config.auth_info.token = Some(token.into()),
        Credential::Certificate { certificate, key } => {
            config.auth_info.client_certificate_data = Some(encoded(&certificate));
            config.auth_info.client_key_data = Some(encoded(&key).into());
        }
    }
    Ok((client(prepared(config))?, server))
}

fn encoded(text: &str) -> String {
    match serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(_) | Err(_) => String::new(),
    }
}

fn client(config: Config) -> Result<Client, ClientError> {
    let refused = |error: &dyn std::error::Error| ClientError::Refused(format!("no client can be made: {}", chain(error)));
    let stack = ClientBuilder::try_from(config).map_err(|error| refused(&error))?;
    let patience = WhenBusy::new().map_err(|error| refused(&error))?;
    Ok(stack.with_layer(&BufferLayer::new(QUEUE)).with_layer(&RetryLayer::new(patience)).build())
}

/// Requests that may stand in line in front of one client. None is held up in it: it is what makes a stack one that can be
/// asked twice.
const QUEUE: usize = 1024;

/// How long one request is repeated: less than anybody waits for its answer, so that the refusal is told, not a silence.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks again when an API server says that it has no time (429): it says so before it looks at a request, so nothing has happened.
/// Waits as long as it says (`Retry-After`), one second with API Priority and Fairness (KEP-1040). Not so behind 503 and 504: there
/// the request may have had its effect, and a command in a pod must not run twice.
#[derive(Clone)]
struct WhenBusy {
    pauses: RetryPolicy,
    /// When this request was refused first.
    since: Option<Instant>,
}

impl WhenBusy {
    fn new() -> Result<Self, InvalidBackoff> {
        let pauses = RetryPolicy::new(Duration::from_millis(100), Duration::from_secs(2), u32::MAX, true)?;
        Ok(Self { pauses, since: None })
    }
}

impl<T> Policy<HttpRequest<Body>, Response<T>, BoxError> for WhenBusy {
    type Future = tokio::time::Sleep;

    fn retry(&mut self, request: &mut HttpRequest<Body>, answer: &mut Result<Response<T>, BoxError>) -> Option<Self::Future> {
        answer.as_ref().ok().filter(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS)?;
        let since = *self.since.get_or_insert_with(Instant::now);
        self.pauses.retry(request, answer).filter(|pause| pause.deadline() <= since + PATIENCE)
    }

    fn clone_request(&mut self, request: &HttpRequest<Body>) -> Option<HttpRequest<Body>> {
        Policy::<_, Response<T>, BoxError>::clone_request(&mut self.pauses, request)
    }
}

/// Asks a cluster for its version: tells whether it answers and accepts the credentials. `server` is for the message.
/// Returns the version, such as `v1.33.4`; empty when the account may not ask for it, which proves as much.
///
/// # Errors
/// [`ClientError::Unreachable`], also for a server that is overloaded or does not speak the protocol;
/// [`ClientError::Unauthorized`].
pub async fn reach(client: &Client, server: &str) -> Result<String, ClientError> {
    let request = Request::new("get", "/version", "", "");
    match ask(request, client.apiserver_version()).await {
        Ok(version) => Ok(version.git_version),
        Err(error) => match error.kind() {
            Kind::Forbidden => Ok(String::new()),
            _ => Err(refine(&error, server)),
        },
    }
}

/// The same verdict as [`reach`] from the error of any request.
pub fn refine(error: &Error, server: &str) -> ClientError {
    match error.kind() {
        Kind::Unauthorized => ClientError::Unauthorized { server: server.into(), detail: error.to_string() },
        Kind::NotFound
        | Kind::Forbidden
        | Kind::Conflict
        | Kind::AlreadyExists
        | Kind::Unreachable
        | Kind::Invalid
        | Kind::Transient
        | Kind::Other => ClientError::Unreachable { server: server.into(), detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::response::IntoResponse as _;
    use tokio::net::TcpListener;

    use super::*;

    fn base() -> Config {
        let mut config = Config::new("https://127.0.0.1:1".parse().unwrap());
        config.auth_info.impersonate_groups = Some(vec!["system:masters".into()]);
        config
    }

    #[tokio::test]
    async fn names_that_could_mean_another_user_are_refused() {
        assert!(impersonated(&base(), "onyx", "onyx-migration").is_ok());
        for (namespace, account) in [("", "a"), ("a", ""), ("a:b", "c"), ("a", "b:c"), ("a\n", "b"), ("A", "b"), ("a", "b c")] {
            assert!(matches!(impersonated(&base(), namespace, account), Err(ClientError::Refused(_))), "{namespace} {account}");
        }
    }

    /// Asks a server that answers `refusals` times with `status`, and to come again after so many seconds, before it answers. How
    /// often it was asked, and what came of it.
    async fn asked(status: u16, after: &'static str, refusals: usize) -> (usize, bool) {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let answer = move || {
            let refused = seen.fetch_add(1, Ordering::Relaxed) < refusals;
            async move {
                match StatusCode::from_u16(status).unwrap() {
                    status if refused => (status, [("retry-after", after)], "").into_response(),
                    _ => r#"{"major": "1", "minor": "33", "gitVersion": "v1.33.4"}"#.into_response(),
                }
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        tokio::spawn(async { axum::serve(listener, axum::Router::new().fallback(answer)).await });
        let answered = reach(&own(&config).unwrap(), "x").await.is_ok();
        (count.load(Ordering::Relaxed), answered)
    }

    #[tokio::test]
    async fn only_what_was_refused_for_want_of_time_is_repeated() {
        assert_eq!(asked(429, "0", 3).await, (4, true));
        assert_eq!(asked(429, "1", 1).await, (2, true));
        assert_eq!(asked(429, "16", 1).await, (1, false), "longer than anybody waits");
        for status in [500, 503, 504] {
            assert_eq!(asked(status, "0", 1).await, (1, false), "{status}");
        }
    }

    #[tokio::test]
    async fn a_refusal_that_goes_on_is_told_after_a_while() {
        let answer = || Response::builder().status(StatusCode::TOO_MANY_REQUESTS).body(());
        let mut policy = WhenBusy::new().unwrap();
        let mut again = || policy.retry(&mut HttpRequest::new(Body::empty()), &mut Ok(answer().unwrap())).is_some();
        assert!(again());
        policy.since = Some(Instant::now() - PATIENCE);
        let mut again = || policy.retry(&mut HttpRequest::new(Body::empty()), &mut Ok(answer().unwrap())).is_some();
        assert!(!again());
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable() {
        let client = own(&base()).unwrap();
        assert!(matches!(reach(&client, "x").await, Err(ClientError::Unreachable { .. })));
    }
}
