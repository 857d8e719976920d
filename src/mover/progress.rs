//! What is done so far, printed as one JSON line a second.

use crate::crash;
use crate::plan::operation::{Phase, Progress, TaskKind};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// The counters of a task. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Counters(Arc<Mutex<Progress>>);

impl Counters {
    /// Counters at zero.
    pub fn new(operation: TaskKind) -> Self {
        Self(Arc::new(Mutex::new(Progress {
            operation,
            phase: Phase::Preparing,
            bytes_done: 0,
            bytes_total: None,
            tables_done: 0,
            tables_total: None,
            rows_done: None,
        })))
    }

    /// Changes the counters.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.update(|p| p.phase = phase);
    }

    /// Counts bytes that passed.
    pub fn bytes(&self, count: usize) {
        let mut before = 0;
        self.update(|p| {
            before = p.bytes_done;
            p.bytes_done += count as u64;
        });
        crash::bytes(before, before + count as u64);
    }

    /// The counters now.
    pub fn now(&self) -> Progress {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Prints a line now.
    pub fn print(&self) {
        if let Ok(line) = serde_json::to_string(&self.now()) {
            // Nobody reads, nobody misses it.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }

    /// Prints a line every second until the task is aborted.
    pub fn keep_printing(&self) -> JoinHandle<()> {
        let counters = self.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            loop {
                ticks.tick().await;
                counters.print();
            }
        })
    }
}
