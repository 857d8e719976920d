//! One PostgresMigration as a test sees it.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher::watch_object};
use kube::{Api, Client};
use pgmigration::api::{Outcome, PostgresMigration, PostgresMigrationStatus, StepName, StepState};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Side, eventually};

/// How long a migration of a test may stand still: none does so on purpose. What moves is waited for, however slow the machine.
const STILL: Duration = Duration::from_secs(300);

/// How long a migration of a test may take in all, should it go round in circles.
const ENDLESS: Duration = Duration::from_secs(1800);

/// How often a migration that nothing is heard of is asked whether it moves.
const GLANCE: Duration = Duration::from_secs(10);

/// Pauses of a watch whose API server is away: in a test steps are short, and each of them counts.
struct Soon;

impl Iterator for Soon {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {}
}

/// Tells a migration that stands still from one that is slow.
struct Movement {
    begun: Instant,
    moved: Instant,
    seen: Option<serde_json::Value>,
}

impl Movement {
    fn new() -> Self {
        Self { begun: Instant::now(), moved: Instant::now(), seen: None }
    }

    /// Notes a status; whether waiting for more is of no use.
    fn exhausted(&mut self, status: &PostgresMigrationStatus) -> bool {
        let seen = Some(json!([status.steps, status.phase, status.outcome]));
        if self.seen != seen {
            (self.seen, self.moved) = (seen, Instant::now());
        }
        self.moved.elapsed() > STILL || self.begun.elapsed() > ENDLESS
    }
}

/// A handle of one object in cluster new.
#[derive(Clone)]
pub struct Migration {
    /// Where it is.
    pub api: Api<PostgresMigration>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Where a step stands.
pub fn state(status: &PostgresMigrationStatus, step: StepName) -> Option<StepState> {
    status.steps.iter().find(|s| s.name == step).map(|s| s.state)
}

/// Status of a condition: True, False or Unknown; empty when it is not there.
pub fn condition<'a>(status: &'a PostgresMigrationStatus, kind: &str) -> &'a str {
    status.conditions.iter().find(|c| c.type_ == kind).map_or("", |c| c.status.as_str())
}

impl Migration {
    /// Applies an object.
    pub async fn apply(namespace: &str, name: &str, spec: Value) -> Self {
        let client = Side::New.client().await;
        let object = json!({"apiVersion": "pgmigration.dev/v1alpha1", "kind": "PostgresMigration",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec});
        Side::New.kubectl_aside(&["apply", "--server-side", "-f", "-"], &object.to_string()).await.unwrap();
        Self::of(client, namespace, name)
    }

    /// A handle of an object that is there.
    pub fn of(client: Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.into(), name: name.into() }
    }

    /// Its status now.
    pub async fn status(&self) -> PostgresMigrationStatus {
        // An API server may be gone for a moment, in tests that do this to it.
        eventually("an answer of the API server", || self.api.get(&self.name)).await.status.unwrap_or_default()
    }

    /// Changes its spec.
    pub async fn change(&self, spec: Value) {
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap();
    }

    /// Waits until `look` finds something in its status. Fails when the run ends before.
    pub async fn until<T>(&self, what: &str, look: impl FnMut(&PostgresMigrationStatus) -> Option<T>) -> T {
        self.look_for(what, true, look).await
    }

    /// As [`Self::until`], for what comes to an object whose run has ended.
    pub async fn after_its_end<T>(&self, what: &str, look: impl FnMut(&PostgresMigrationStatus) -> Option<T>) -> T {
        self.look_for(what, false, look).await
    }

    async fn look_for<T>(
        &self,
        what: &str,
        before_the_end: bool,
        mut look: impl FnMut(&PostgresMigrationStatus) -> Option<T>,
    ) -> T {
        self.follow(what, |object| {
            let object = object.unwrap_or_else(|| panic!("{}: {what} did not come: the object is gone", self.name));
            let status = object.status.clone().unwrap_or_default();
            let found = look(&status);
            let over = found.is_none() && before_the_end && status.outcome.is_some();
            assert!(!over, "{}: {what} did not come:\n{}", self.name, told(&status));
            found
        })
        .await
    }

    /// Hands each state of the object to `look` as it comes, None when it is not there, until that finds something. An API server
    /// may be away meanwhile.
    pub async fn follow<T>(&self, what: &str, mut look: impl FnMut(Option<&PostgresMigration>) -> Option<T>) -> T {
        let mut movement = Movement::new();
        let mut last = PostgresMigrationStatus::default();
        let mut states = pin!(watch_object(self.api.clone(), &self.name).backoff(Soon));
        loop {
            if let Ok(Some(Ok(object))) = timeout(GLANCE, states.next()).await {
                if let Some(found) = look(object.as_ref()) {
                    return found;
                }
                last = object.and_then(|object| object.status).unwrap_or_default();
            }
            assert!(!movement.exhausted(&last), "{}: {what} did not come:\n{}", self.name, told(&last));
        }
    }

    /// Waits until a step has begun.
    pub async fn begun(&self, step: StepName) -> PostgresMigrationStatus {
        self.until(&format!("beginning of {step:?}"), |s| state(s, step).map(|_| s.clone())).await
    }

    /// Lets the migration stop after `step`, which must take long enough to be seen at work, and waits until it has stopped.
    pub async fn stop_after(&self, step: StepName) -> PostgresMigrationStatus {
        self.begun(step).await;
        self.change(json!({"suspend": true})).await;
        let stopped = self
            .until(&format!("suspension after {step:?}"), |s| {
                let ready = s.conditions.iter().find(|c| c.type_ == "Ready")?;
                (ready.reason == "Suspended").then(|| s.clone())
            })
            .await;
        let last = stopped.steps.last().unwrap();
        assert_eq!((last.name, last.state), (step, StepState::Done), "it went on:\n{}", told(&stopped));
        stopped
    }

    /// Waits for the end of the run, which must be `outcome`.
    pub async fn ended(&self, outcome: Outcome) -> PostgresMigrationStatus {
        let status = self.until("the end", |s| s.outcome.map(|_| s.clone())).await;
        // Shown when the test fails: a status does not tell of attempts that came before.
        println!("{}", self.events().await);
        assert_eq!(status.outcome, Some(outcome), "{}:\n{}", self.name, told(&status));
        // The finalizer follows the record.
        status
    }

    /// What was told of it in events.
    async fn events(&self) -> String {
        let api = Api::<Event>::namespaced(Side::New.client().await, &self.namespace);
        let all = ListParams::default();
        let told = eventually("the events of a migration", || api.list(&all)).await.items;
        let own = told.into_iter().filter(|e| e.regarding.as_ref().and_then(|r| r.name.as_ref()) == Some(&self.name));
        let words = own.map(|e| {
            let at = e.event_time.map(|t| t.0.to_string()).unwrap_or_default();
            format!("{at} {} {}", e.reason.unwrap_or_default(), e.note.unwrap_or_default())
        });
        words.collect::<Vec<_>>().join("\n")
    }

    /// Deletes it and waits until it is gone.
    pub async fn delete(&self) {
        self.api.delete(&self.name, &DeleteParams::default()).await.unwrap();
        self.follow("its release", |object| object.is_none().then_some(())).await;
    }
}

/// A status in few lines.
fn told(status: &PostgresMigrationStatus) -> String {
    let steps: Vec<String> = status
        .steps
        .iter()
        .map(|s| {
            format!(
                "  {:?} {:?} attempt {} failures {}: {}",
                s.name,
                s.state,
                s.attempt,
                s.failures,
                s.message.as_deref().unwrap_or("")
            )
        })
        .collect();
    format!("{:?} {:?}: {}\n{}", status.phase, status.outcome, status.message.as_deref().unwrap_or(""), steps.join("\n"))
}
