//! observe -> decide -> act -> record: one visit to one object. The only writer of status and finalizers.
//!
//! The object is read live, not from the cache, and its status is written by compare-and-set on its resourceVersion: two
//! operators that believe to lead cannot both record an intent, and an effect happens only behind a recorded intent.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::metrics::{ErrorClass, Metrics};

use crate::api::conditions::reasons;
use crate::api::names::FINALIZER;
use crate::api::{Outcome, PostgresMigration, PostgresMigrationStatus, StepName};
use crate::crash;
use crate::plan::decide::{Next, Rest, View, next};
use crate::plan::failure::{Class, Remedy};
use crate::plan::record::{self, Advance};
use crate::plan::{Failure, going_back, summary};
use crate::steps::{self, Context, Installation};

/// What every visit needs.
pub struct Visitor {
    /// What the steps need of the installation.
    pub installation: Installation,
    /// Events, as the operator itself.
    pub recorder: Recorder,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// A visit that could not be recorded. The next one begins with a live read, so nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// Somebody else wrote the status: there must be another operator.
    #[error("the status of {0} was changed by another writer")]
    ForeignStatus(String),
}

const AT_ONCE: Duration = Duration::ZERO;
/// How often a blocked plan is looked at again.
const RECHECK_SECONDS: i64 = 60;
/// How often an object at rest is looked at without an event.
const SLOW: Duration = Duration::from_secs(300);

/// One visit.
///
/// # Errors
/// When the object could not be read or its status not be written.
pub async fn reconcile(object: Arc<PostgresMigration>, visitor: Arc<Visitor>) -> Result<Action, Error> {
    let api: Api<PostgresMigration> =
        Api::namespaced(visitor.installation.client.clone(), &object.namespace().unwrap_or_default());
    let Some(live) = api.get_opt(&object.name_any()).await? else { return Ok(Action::await_change()) };
    let before = live.status.clone().unwrap_or_default();
    let (uid, crash_at) = (live.uid().unwrap_or_default(), live.annotations().get(crash::ANNOTATION).cloned());
    let visit = Visit { api, after: before.clone(), before, live, visitor };
    // On the heap: with every step in it, it is too large for a stack that holds it more than once.
    crash::watch(&uid, crash_at.as_deref(), Box::pin(visit.go())).await
}

struct Visit {
    api: Api<PostgresMigration>,
    live: PostgresMigration,
    before: PostgresMigrationStatus,
    after: PostgresMigrationStatus,
    visitor: Arc<Visitor>,
}

impl Visit {
    fn generation(&self) -> i64 {
        self.live.metadata.generation.unwrap_or(0)
    }

    fn finalizer(&self) -> bool {
        self.live.finalizers().iter().any(|f| f == FINALIZER)
    }

    async fn go(mut self) -> Result<Action, Error> {
        let decision = next(View {
            spec: &self.live.spec,
            status: &self.before,
            generation: self.generation(),
            deleting: self.live.metadata.deletion_timestamp.is_some(),
            finalizer: self.finalizer(),
        });
        tracing::debug!(?decision, "decided");
        crash::place(|| format!("{decision:?}"));
        let now = Timestamp::now();
        match decision {
            Next::BeginRun => {
                let generation = self.generation();
                record::begin_run(&mut self.after, &self.live.spec, generation);
                self.save(None).await?;
                Ok(Action::requeue(AT_ONCE))
            }
            Next::AddFinalizer => {
                self.set_finalizer(true).await?;
                Ok(Action::requeue(AT_ONCE))
            }
            Next::Release => {
                if self.before.resumed && self.before.fence.is_some() {
                    self.event(reasons::FENCE_REMAINS, summary::FENCE_REMAINS).await;
                    // Nobody can read the hold of an object that is gone.
                    if let (Some(hold), Some(words)) = (&self.before.hold, summary::not_started(&self.live.spec, &self.before)) {
                        self.publish(EventType::Warning, &hold.reason, &words).await;
                    }
                }
                self.set_finalizer(false).await?;
                if self.live.metadata.deletion_timestamp.is_none() {
                    return Ok(Action::requeue(AT_ONCE));
                }
                self.visitor.metrics.phase(
                    &self.live.namespace().unwrap_or_default(),
                    &self.live.name_any(),
                    self.before.phase,
                    None,
                );
                Ok(Action::await_change())
            }
            Next::Run(step) => self.run(step, now).await,
            Next::BeginUndo(cause) => {
                let (reason, message) = record::undo_words(cause);
                record::begin_undo(&mut self.after, cause, reason, message, now);
                self.event(reason, message).await;
                self.save(None).await?;
                Ok(Action::requeue(AT_ONCE))
            }
            Next::Undo(step) => self.undo(step, now).await,
            Next::EndUndo => {
                record::end_undo(&mut self.after);
                self.save(None).await?;
                Ok(Action::requeue(AT_ONCE))
            }
            Next::End(outcome) => {
                record::end(&mut self.after, outcome, now);
                self.save(None).await?;
                self.event(outcome_reason(outcome), &self.after.message.clone().unwrap_or_default()).await;
                Ok(Action::requeue(AT_ONCE))
            }
            Next::Unhold => {
                record::unhold(&mut self.after, &self.live.spec, now);
                self.save(None).await?;
                Ok(Action::requeue(AT_ONCE))
            }
            Next::Unfence => self.unfence(now).await,
            Next::Rest(rest) => self.rest(rest, now).await,
        }
    }

    async fn run(&mut self, step: StepName, now: Timestamp) -> Result<Action, Error> {
        if record::begin(&mut self.after, step, now) {
            self.save(None).await?;
            return Ok(Action::requeue(AT_ONCE));
        }
        if let Some(rest) = self.pause(step, now) {
            return Ok(rest);
        }
        let result = {
            let mut cx = Context::new(&self.visitor.installation, &self.live, &mut self.after, now);
            steps::run(step, &mut cx).await
        };
        let now = Timestamp::now();
        let (remedy, delay) = match result {
            Ok(advance) => {
                let delay = delay_of(&advance);
                (record::advanced(&mut self.after, &self.live.spec, step, advance, now), delay)
            }
            Err(failure) => {
                self.report(step, &failure).await;
                (Some(record::failed(&mut self.after, self.live.spec.mode, step, &failure, now)), AT_ONCE)
            }
        };
        self.save(None).await?;
        if let Some(e) = self.after.steps.iter().find(|s| s.name == step && s.end_time.is_some()) {
            let seconds = e.duration_seconds.unwrap_or(0);
            self.visitor.metrics.step_done(step, Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
            self.event(reasons::STEP_DONE, &format!("{step:?} done in {seconds} s")).await;
        }
        Ok(Action::requeue(match remedy {
            None => delay,
            Some(Remedy::TryAgain(seconds)) => Duration::from_secs(u64::try_from(seconds).unwrap_or(1)),
            Some(Remedy::Refuse | Remedy::Undo | Remedy::Hold) => AT_ONCE,
        }))
    }

    /// A step that failed rests a while, whatever events arrive meanwhile.
    fn pause(&self, step: StepName, now: Timestamp) -> Option<Action> {
        let seconds = record::pause(&self.before, step, now);
        (seconds > 0).then(|| Action::requeue(Duration::from_secs(u64::try_from(seconds).unwrap_or(1))))
    }

    async fn undo(&mut self, step: StepName, now: Timestamp) -> Result<Action, Error> {
        if let Some(rest) = self.pause(step, now) {
            return Ok(rest);
        }
        let result = {
            let mut cx = Context::new(&self.visitor.installation, &self.live, &mut self.after, now);
            steps::undo(step, &mut cx).await
        };
        let now = Timestamp::now();
        let delay = match result {
            Ok(advance) => {
                record::undo_advanced(&mut self.after, step, &advance, now);
                delay_of(&advance)
            }
            Err(failure) => {
                self.report(step, &failure).await;
                let seconds = record::undo_failed(&mut self.after, step, &failure, now);
                Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
            }
        };
        let news = going_back::news(&self.before, &self.after);
        self.save(None).await?;
        match news {
            Some((reasons::TARGET_WRITES_KEPT, words)) => {
                self.publish(EventType::Warning, reasons::TARGET_WRITES_KEPT, &words).await;
            }
            Some((reason, words)) => self.event(reason, &words).await,
            None => {}
        }
        Ok(Action::requeue(delay))
    }

    /// Opens the old database: the fence's undo, of a run that stays ended.
    async fn unfence(&mut self, now: Timestamp) -> Result<Action, Error> {
        if let Some(rest) = self.pause(StepName::Fence, now) {
            return Ok(rest);
        }
        let result = {
            let mut cx = Context::new(&self.visitor.installation, &self.live, &mut self.after, now);
            steps::undo(StepName::Fence, &mut cx).await
        };
        let now = Timestamp::now();
        let delay = match &result {
            Ok(advance) => {
                record::unfence_advanced(&mut self.after, advance, now);
                delay_of(advance)
            }
            Err(failure) => {
                self.report(StepName::Fence, failure).await;
                let seconds = record::unfence_failed(&mut self.after, failure, now);
                Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
            }
        };
        self.save(None).await?;
        if matches!(result, Ok(Advance::Done)) {
            self.event(reasons::UNFENCED, going_back::UNFENCED).await;
        }
        Ok(Action::requeue(delay))
    }

    async fn rest(&mut self, rest: Rest, now: Timestamp) -> Result<Action, Error> {
        let checked = self.before.steps.iter().find(|s| s.name == StepName::Pin).and_then(|s| s.start_time.as_ref());
        let age = checked.map_or(0, |t| now.as_second() - t.0.as_second());
        if rest == Rest::Blocked && age >= RECHECK_SECONDS {
            record::look_again(&mut self.after);
            self.save(None).await?;
            return Ok(Action::requeue(AT_ONCE));
        }
        let told = self.before.conditions.iter().any(|c| c.reason == reasons::ROLLBACK_NOT_ACKNOWLEDGED);
        self.save(Some(rest)).await?;
        if rest == Rest::Unacknowledged && !told {
            let words = self.after.message.clone().unwrap_or_default();
            self.publish(EventType::Warning, reasons::ROLLBACK_NOT_ACKNOWLEDGED, &words).await;
        }
        Ok(match rest {
            Rest::Blocked => Action::requeue(Duration::from_secs(u64::try_from(RECHECK_SECONDS - age).unwrap_or(1))),
            Rest::Planned | Rest::Suspended | Rest::Held | Rest::Unacknowledged | Rest::Ended => Action::requeue(SLOW),
        })
    }

    /// Writes the status when it differs. The write carries the resourceVersion of the live read. When only the spec or the
    /// metadata moved meanwhile, it is written over the newer version: evidence of an effect must not be lost.
    async fn save(&mut self, rest: Option<Rest>) -> Result<(), Error> {
        let generation = self.generation_seen();
        summary::summarize(&self.live.spec, &mut self.after, generation, rest, Timestamp::now());
        if self.after == self.before {
            return Ok(());
        }
        let name = self.live.name_any();
        for _ in 0..5 {
            let mut object = self.live.clone();
            object.status = Some(self.after.clone());
            let record = || format!("record of {}", crash::changed(&self.before, &self.after));
            match crash::around(record, self.api.replace_status(&name, &PostParams::default(), &object)).await {
                Ok(saved) => {
                    let namespace = self.live.namespace().unwrap_or_default();
                    self.visitor.metrics.phase(&namespace, &name, self.before.phase, self.after.phase);
                    self.live = saved;
                    self.before = self.after.clone();
                    return Ok(());
                }
                Err(kube::Error::Api(e)) if e.code == 409 => {
                    let live = self.api.get(&name).await?;
                    if live.status.clone().unwrap_or_default() != self.before {
                        return Err(Error::ForeignStatus(name));
                    }
                    self.live = live;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(Error::ForeignStatus(name))
    }

    /// The generation that the status speaks of: the one that the run looked at until the next run begins.
    fn generation_seen(&self) -> i64 {
        self.after.observed_generation.filter(|_| self.after.start_time.is_none()).unwrap_or_else(|| self.generation())
    }

    async fn set_finalizer(&mut self, on: bool) -> Result<(), Error> {
        let mut finalizers: Vec<String> = self.live.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
        if on {
            finalizers.push(FINALIZER.into());
        }
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": self.live.resource_version()}});
        let (name, parameters, patch) = (self.live.name_any(), PatchParams::default(), Patch::Merge(patch));
        match crash::around(|| format!("finalizer {on}"), self.api.patch(&name, &parameters, &patch)).await {
            Ok(_) => Ok(()),
            // Gone, or changed meanwhile: the next visit reads it again.
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    async fn report(&self, step: StepName, failure: &Failure) {
        tracing::warn!(?step, class = failure.class.label(), reason = failure.reason, message = %failure.message, "step failed");
        let first = !self.before.steps.iter().any(|s| s.name == step && s.failures > 0);
        if first {
            self.publish(EventType::Warning, failure.reason, &failure.message).await;
        }
        self.visitor.metrics.failed(match failure.class {
            Class::Transient => ErrorClass::Transient,
            Class::NeedsHuman => ErrorClass::NeedsHuman,
            Class::Terminal => ErrorClass::Terminal,
        });
    }

    async fn event(&self, reason: &str, message: &str) {
        self.publish(EventType::Normal, reason, message).await;
    }

    /// Events are for people: one that cannot be published is logged and changes nothing.
    async fn publish(&self, type_: EventType, reason: &str, message: &str) {
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(message.chars().take(1000).collect()),
            // Equal reasons of one action are counted as one event with the first words: each step is an action of its own.
            action: self.after.step.map_or_else(|| "Migrate".into(), |step| format!("{step:?}")),
            secondary: None,
        };
        if let Err(error) = self.visitor.recorder.publish(&event, &self.live.object_ref(&())).await {
            tracing::warn!(error = &error as &dyn std::error::Error, reason, note = message, "the event could not be published");
        }
    }
}

fn delay_of(advance: &Advance) -> Duration {
    match advance {
        Advance::Done | Advance::Again | Advance::NextAttempt(_) => AT_ONCE,
        Advance::Wait { seconds, .. } => Duration::from_secs(u64::try_from(*seconds).unwrap_or(1)),
    }
}

fn outcome_reason(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => reasons::SUCCEEDED,
        Outcome::Failed => reasons::FAILED,
        Outcome::Cancelled => reasons::CANCELLED,
    }
}
