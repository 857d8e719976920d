//! The controller: watches PostgresMigrations and their Jobs, visits each object that something happened to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use kube::runtime::Controller;
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use super::Context;
use super::metrics::ErrorClass;
use super::reconcile::{Error as VisitError, Visitor, reconcile};
use crate::api::PostgresMigration;
use crate::api::names::UID_LABEL;
use crate::steps::Installation;

/// Why the controller ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The watch cannot be begun.
    #[error("the watch cannot be begun: {0}")]
    Watch(String),
}

/// Pause after a visit that could not be recorded.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// Reconciles until `context.shutdown` is cancelled and running reconciles have ended.
///
/// Calls `context.health.synced()` when all objects have been seen.
///
/// # Errors
/// The watch cannot go on.
pub async fn run(context: Context) -> Result<(), Error> {
    let objects = Api::<PostgresMigration>::all(context.client.clone());
    let jobs = Api::<Job>::all(context.client.clone());
    let reporter = Reporter { controller: "postgres-migration-operator".into(), instance: None };
    let visitor = Arc::new(Visitor {
        installation: Installation {
            client: context.client.clone(),
            config: context.config.clone(),
            image: context.settings.image.clone(),
            namespace: context.settings.namespace.clone(),
        },
        recorder: Recorder::new(context.client.clone(), reporter),
        metrics: Arc::clone(&context.metrics),
    });
    let controller = Controller::new(objects, watcher::Config::default())
        .owns(jobs, watcher::Config::default().labels(UID_LABEL))
        .with_config(Config::default().concurrency(context.settings.concurrency))
        .graceful_shutdown_on(context.shutdown.clone().cancelled_owned());
    let store = controller.store();
    let synced = async {
        if store.wait_until_ready().await.is_ok() {
            context.health.synced();
        }
    };
    let visits = controller.run(visit, on_error, visitor).for_each(|result| async {
        if let Err(error) = result {
            tracing::debug!(error = &error as &dyn std::error::Error, "a visit ended with an error");
        }
    });
    // Both in one task: the store wakes only the last of those who wait for it, and the controller waits for it too.
    tokio::join!(synced, visits);
    Ok(())
}

async fn visit(object: Arc<PostgresMigration>, visitor: Arc<Visitor>) -> Result<Action, VisitError> {
    let begun = Instant::now();
    let result = reconcile(Arc::clone(&object), Arc::clone(&visitor)).await;
    visitor.metrics.reconciled(begun.elapsed(), result.as_ref().err().map(|_| ErrorClass::Transient));
    result
}

#[allow(clippy::needless_pass_by_value)]
fn on_error(object: Arc<PostgresMigration>, error: &VisitError, _: Arc<Visitor>) -> Action {
    tracing::warn!(
        migration = %format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()),
        error = error as &dyn std::error::Error,
        "the visit could not be recorded"
    );
    Action::requeue(AFTER_ERROR)
}
