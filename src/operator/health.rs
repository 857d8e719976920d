//! The HTTP port: is the process alive, can it work, and what has it counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use super::metrics::Metrics;

/// What readiness depends on. A replica that waits for the lease is ready: it could take over.
#[derive(Debug, Default)]
pub struct Health {
    resource_found: AtomicBool,
    leading: AtomicBool,
    synced: AtomicBool,
}

impl Health {
    /// The custom resource is installed and can be listed.
    pub fn resource_found(&self) {
        self.resource_found.store(true, Ordering::Relaxed);
    }

    /// This process holds the lease: from now on it is ready only when its watch is synced.
    pub fn leading(&self) {
        self.leading.store(true, Ordering::Relaxed);
    }

    /// The controller has seen all objects.
    pub fn synced(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    /// `None` when ready, otherwise what is missing.
    fn missing(&self) -> Option<&'static str> {
        if !self.resource_found.load(Ordering::Relaxed) {
            Some("the PostgresMigration resource cannot be listed yet")
        } else if self.leading.load(Ordering::Relaxed) && !self.synced.load(Ordering::Relaxed) {
            Some("the watch is not synced yet")
        } else {
            None
        }
    }
}

/// Serves /healthz, /readyz and /metrics on `listener` for ever.
///
/// # Errors
/// The listener broke.
pub async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Arc<Metrics>) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(exposition).with_state(metrics));
    axum::serve(listener, router).await
}

async fn ready(State(health): State<Arc<Health>>) -> impl IntoResponse {
    match health.missing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
    }
}

async fn exposition(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.exposition())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn ready_only_when_it_could_work() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Arc::new(Health::default());
        tokio::spawn(serve(listener, Arc::clone(&health), Arc::new(Metrics::new())));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.resource_found();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"), "a waiting replica is ready");
        health.leading();
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("not synced"), "{answer}");
        health.synced();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("application/openmetrics-text") && answer.ends_with("# EOF\n"), "{answer}");
    }
}
