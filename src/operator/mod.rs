//! The operator: reconcile = observe, decide, act, record; and what a process in a cluster needs around that.
//!
//! Here belong the controller, leadership, health, metrics and logs. What a step does to the world lives in `steps`, when it
//! may do so is decided in `plan`. This room is the only writer of a migration's status.

pub mod args;
pub mod controller;
pub mod health;
pub mod leader;
pub mod metrics;
pub mod reconcile;
pub mod telemetry;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::PostgresMigration;
use crate::crash;
use crate::kubernetes::clients::{self, ClientError};
use health::Health;
use leader::Leader;
use metrics::Metrics;

/// How long running reconciles may go on after the order to stop. Less than a pod's default grace period of 30 seconds, so
/// that the lease can still be given back.
const STOP_DEADLINE: Duration = Duration::from_secs(25);

/// Pause between two attempts to find the custom resource at start.
const STARTUP_RETRY: Duration = Duration::from_secs(2);

/// What the installation decides, and no object may change.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of mover Jobs: the operator's own.
    pub image: String,
    /// Namespace of the operator. Service accounts in it are refused to migrations.
    pub namespace: String,
    /// How many objects are reconciled at once, at least 1.
    pub concurrency: u16,
}

/// What the controller is given.
#[derive(Clone)]
pub struct Context {
    /// Client with the operator's own rights.
    pub client: Client,
    /// Configuration of that client: the base of impersonating ones.
    pub config: Config,
    /// What the installation decides.
    pub settings: Settings,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Readiness: the controller reports when its watch is synced.
    pub health: Arc<Health>,
    /// Cancelled when the process is asked to stop: begin nothing new, finish what runs.
    pub shutdown: CancellationToken,
}

/// Why the operator ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP port or a signal handler could not be had.
    #[error("cannot set up the process: {0}")]
    Setup(#[from] io::Error),
    /// Neither a kubeconfig nor a pod's service account was found.
    #[error("cannot find out how to reach the API server: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The client could not be built.
    #[error("cannot build a client for the API server: {0}")]
    Client(#[from] ClientError),
    /// Another process may hold the lease by now.
    #[error(transparent)]
    Leadership(#[from] leader::Lost),
    /// The controller ended with an error.
    #[error("the controller failed: {0}")]
    Controller(#[from] controller::Error),
    /// The controller panicked.
    #[error("the controller broke down: {0}")]
    Breakdown(#[from] JoinError),
    /// Reconciles were still running when the time to stop was over.
    #[error("reconciles did not end within {} s after the order to stop", STOP_DEADLINE.as_secs())]
    StillBusy,
}

/// Runs the operator until SIGTERM or SIGINT (exit code 0), or until it cannot go on (exit code 1): the cluster restarts it.
pub async fn main(args: args::Operator) -> ExitCode {
    match serve(args).await {
        Ok(()) => {
            tracing::info!("stopped as asked");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "stopped");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: args::Operator) -> Result<(), Error> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), image = args.image, identity = args.identity, "starting");
    if args.crash.is_some() {
        crash::enable();
    }
    let shutdown = stop_signal()?;
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::new());
    let listener = TcpListener::bind(args.listen).await?;
    // Serves to the very end: a stopping operator is still alive. The task dies with the process.
    tokio::spawn(health::serve(listener, Arc::clone(&health), Arc::clone(&metrics)));

    let config = Config::infer().await?;
    let client = clients::own(&config)?;
    tokio::select! {
        () = find_resource(&client) => health.resource_found(),
        () = shutdown.cancelled() => return Ok(()),
    }
    let mut leader = tokio::select! {
        leader = Leader::acquire(client.clone(), &args.namespace, &args.identity) => leader,
        () = shutdown.cancelled() => return Ok(()),
    };
    health.leading();
    metrics.leading();

    let settings = Settings { image: args.image, namespace: args.namespace, concurrency: args.concurrency };
    let context = Context { client, config, settings, metrics, health, shutdown: shutdown.clone() };
    // A task of its own: nothing that a reconcile does may delay the renewal of the lease.
    let mut controller = tokio::spawn(controller::run(context));
    let overdue = async {
        shutdown.cancelled().await;
        sleep(STOP_DEADLINE).await;
    };
    let result = tokio::select! {
        result = &mut controller => result?,
        lost = leader.keep() => return Err(lost.into()),
        // The lease is left to expire: what is still running must have ended before another operator begins.
        () = overdue => return Err(Error::StillBusy),
    };
    leader.release().await;
    Ok(result?)
}

/// A token that is cancelled by SIGTERM or SIGINT.
fn stop_signal() -> io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let guard = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop: finishing what runs");
        guard.cancel();
    });
    Ok(token)
}

/// Returns once the API server lists PostgresMigrations to us: the custom resource is installed and we may read it.
async fn find_resource(client: &Client) {
    let api = Api::<PostgresMigration>::all(client.clone());
    while let Err(error) = api.list_metadata(&ListParams::default().limit(1)).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot list PostgresMigrations yet");
        sleep(STARTUP_RETRY).await;
    }
}
