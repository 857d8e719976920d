//! What the operator counts. Label sets are closed enums; names of objects stand only on the phase gauge, which goes with
//! its object.

use std::fmt::{Debug, Write as _};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::api::{Phase, StepName};
use crate::plan::operation::TaskKind;

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Nobody: it usually passes and is tried again.
    Transient,
    /// A person: it stays until something is changed.
    NeedsHuman,
    /// Nobody can: the run is over.
    Terminal,
}

/// An enum as a label value: the name of its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word<T>(T);

impl<T: Debug> EncodeLabelValue for Word<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> std::fmt::Result {
        write!(encoder, "{:?}", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByClass {
    class: Word<ErrorClass>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStep {
    step: Word<StepName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    operation: Word<TaskKind>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByObject {
    namespace: String,
    name: String,
    phase: Word<Phase>,
}

/// All counters and gauges of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    leader: Gauge,
    reconciles: Histogram,
    errors: Family<ByClass, Counter>,
    failures: Family<ByClass, Counter>,
    steps: Family<ByStep, Histogram, fn() -> Histogram>,
    moved: Family<ByOperation, Counter<u64, AtomicU64>>,
    phases: Family<ByObject, Gauge>,
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        // From 1 ms to 16 s: a reconcile performs one short effect.
        let reconciles = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        // From 1 s to 36 h: a step may carry terabytes.
        let steps: Family<ByStep, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(1.0, 2.0, 18)));
        let (leader, errors, failures, moved, phases) =
            (Gauge::default(), Family::default(), Family::default(), Family::default(), Family::default());

        let mut registry = Registry::with_prefix("pgmigration");
        registry.register("build", "Version of the operator", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("leader", "1 while this process holds the lease", leader.clone());
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of one look at one object; its count is the number of reconciles",
            Unit::Seconds,
            reconciles.clone(),
        );
        registry.register("reconcile_errors", "Reconciles that ended in an error, by who has to act", errors.clone());
        registry.register("step_failures", "Failed calls of steps, by who has to act", failures.clone());
        registry.register_with_unit("step_duration", "Duration of finished steps", Unit::Seconds, steps.clone());
        registry.register_with_unit("moved", "Bytes that movers have moved", Unit::Bytes, moved.clone());
        registry.register("phase", "1 for the phase that a PostgresMigration is in", phases.clone());
        Self { registry, leader, reconciles, errors, failures, steps, moved, phases }
    }

    /// This process holds the lease. It ends with it, so there is no way back.
    pub fn leading(&self) {
        self.leader.set(1);
    }

    /// One reconcile has ended.
    pub fn reconciled(&self, duration: Duration, error: Option<ErrorClass>) {
        self.reconciles.observe(duration.as_secs_f64());
        if let Some(class) = error {
            self.errors.get_or_create(&ByClass { class: Word(class) }).inc();
        }
    }

    /// A step failed; whether it is tried again is another matter.
    pub fn failed(&self, class: ErrorClass) {
        self.failures.get_or_create(&ByClass { class: Word(class) }).inc();
    }

    /// A step is done.
    pub fn step_done(&self, step: StepName, duration: Duration) {
        self.steps.get_or_create(&ByStep { step: Word(step) }).observe(duration.as_secs_f64());
    }

    /// A mover has moved so many bytes more.
    pub fn moved(&self, operation: TaskKind, bytes: u64) {
        self.moved.get_or_create(&ByOperation { operation: Word(operation) }).inc_by(bytes);
    }

    /// An object went from one phase to another. `None` as `after`: it is gone, and so is its gauge.
    pub fn phase(&self, namespace: &str, name: &str, before: Option<Phase>, after: Option<Phase>) {
        let labels = |phase| ByObject { namespace: namespace.into(), name: name.into(), phase: Word(phase) };
        if let Some(phase) = before.filter(|_| before != after) {
            self.phases.remove(&labels(phase));
        }
        if let Some(phase) = after {
            self.phases.get_or_create(&labels(phase)).set(1);
        }
    }

    /// All of it as OpenMetrics text.
    pub fn exposition(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_units_and_labels() {
        let metrics = Metrics::new();
        metrics.reconciled(Duration::from_millis(3), None);
        metrics.reconciled(Duration::from_millis(3), Some(ErrorClass::NeedsHuman));
        metrics.step_done(StepName::VerifyArchive, Duration::from_secs(90));
        metrics.moved(TaskKind::Dump, 4096);
        metrics.moved(TaskKind::Dump, 4);
        let page = metrics.exposition();
        for line in [
            "pgmigration_reconcile_duration_seconds_count 2",
            "pgmigration_reconcile_errors_total{class=\"NeedsHuman\"} 1",
            "pgmigration_step_duration_seconds_sum{step=\"VerifyArchive\"} 90.0",
            "pgmigration_moved_bytes_total{operation=\"Dump\"} 4100",
            "pgmigration_leader 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn an_object_has_one_phase_and_takes_it_along() {
        let metrics = Metrics::new();
        metrics.phase("onyx", "move", None, Some(Phase::Planning));
        metrics.phase("onyx", "move", Some(Phase::Planning), Some(Phase::Running));
        metrics.phase("onyx", "move", Some(Phase::Running), Some(Phase::Running));
        let page = metrics.exposition();
        assert!(page.contains("pgmigration_phase{namespace=\"onyx\",name=\"move\",phase=\"Running\"} 1"), "{page}");
        assert!(!page.contains("Planning"), "{page}");
        metrics.phase("onyx", "move", Some(Phase::Running), None);
        assert!(!metrics.exposition().contains("onyx"));
    }
}
