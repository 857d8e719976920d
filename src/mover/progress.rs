//! What is done so far, printed as one JSON line a second; and whether anything moves, for [`super::watch`].

use crate::crash;
use crate::plan::operation::{Phase, Progress, Quiet, TaskKind};
use crate::postgres::tools::Said;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Most characters of what is said about a wait.
const LONGEST: usize = 500;

/// Seconds by which an end must come sooner to be told instead.
const SOONER: i64 = 15;

/// How long the bucket may take until it is said that it is waited for.
const BUCKET: Duration = Duration::from_secs(10);

/// The counters of a task. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Counters {
    progress: Arc<Mutex<Progress>>,
    moves: Arc<AtomicU64>,
    at_bucket: Arc<AtomicUsize>,
}

impl Counters {
    /// Counters at zero.
    pub fn new(operation: TaskKind) -> Self {
        let progress = Progress {
            operation,
            line: 0,
            phase: Phase::Preparing,
            bytes_done: 0,
            bytes_total: None,
            tables_done: 0,
            tables_total: None,
            indexes_done: 0,
            indexes_total: None,
            rows_done: None,
            quiet: None,
        };
        Self { progress: Arc::new(Mutex::new(progress)), moves: Arc::default(), at_bucket: Arc::default() }
    }

    /// Changes the counters.
    pub fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.change(change);
        self.moved();
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts what a tool says that it has begun.
    pub fn said(&self, said: Said) {
        self.update(|p| match said {
            Said::Table => p.tables_done += 1,
            Said::Index => {
                p.indexes_done += 1;
                p.phase = Phase::Indexing;
            }
            Said::Error | Said::Other => {}
        });
    }

    /// Something moved that is not counted otherwise.
    pub fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        self.change(|p| p.quiet = None);
    }

    /// Says why nothing moves, until something does. It is given up after `left`; `None`: never, because somebody is at work.
    ///
    /// Of several that wait for something at a time, the first is heard until its time is over, unless another's is over well
    /// before: words that change with every look would tell nobody since when nothing moves.
    pub fn quiet(&self, found: &str, left: Option<Duration>) {
        let now = Timestamp::now();
        let until = left.and_then(|left| now.checked_add(left).ok());
        let stands = |known: &Quiet, until: Option<Timestamp>| match (&known.until, until) {
            (Some(Time(told)), Some(until)) => *told > now && until.as_second() + SOONER >= told.as_second(),
            (_, _) => false,
        };
        self.change(|p| match &p.quiet {
            Some(known) if stands(known, until) => {}
            Some(_) | None => {
                let found = found.chars().take(LONGEST).collect();
                p.quiet = Some(Quiet { found, until: until.map(Time) });
            }
        });
    }

    /// Grows with everything that moves.
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Awaits the bucket, which keeps deadlines of its own: nothing moves in the meantime, no tool is to blame, and that is told.
    pub async fn at_bucket<T>(&self, work: impl Future<Output = T>) -> T {
        struct Leaves<'a>(&'a Counters);
        impl Drop for Leaves<'_> {
            fn drop(&mut self) {
                self.0.at_bucket.fetch_sub(1, Ordering::Relaxed);
                self.0.moved();
            }
        }
        self.at_bucket.fetch_add(1, Ordering::Relaxed);
        let _leaves = Leaves(self);
        tokio::pin!(work);
        if let Ok(done) = tokio::time::timeout(BUCKET, &mut work).await {
            return done;
        }
        self.quiet("the bucket has not answered yet", None);
        work.await
    }

    /// Whether the bucket is awaited now.
    pub fn is_at_bucket(&self) -> bool {
        self.at_bucket.load(Ordering::Relaxed) > 0
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
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Prints a line now.
    pub fn print(&self) {
        self.change(|p| p.line += 1);
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
