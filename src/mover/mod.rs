//! The data plane: one operation document in, one verdict out.
//!
//! Here belong the pipelines between Postgres pods and buckets: dump, verify, restore, compare, analyze, and the ending of what
//! a lost attempt left behind. Memory is constant whatever the size of a database. Not here: what is decided from a verdict
//! (`plan`), the client tools' command lines (`postgres`), the exec protocol (`kubernetes`), the S3 protocol (`archive`).
//!
//! Nothing here is a success by the absence of an error: bytes count when pod, mover and bucket counted and hashed the same.

mod analyze;
mod cleanup;
mod compare;
mod contents;
mod dump;
mod ends;
mod error;
mod extensions;
mod orphans;
mod progress;
mod restore;
mod stream;
mod verify;
mod watch;

pub use error::MoverError;
pub use progress::Counters;

use crate::crash;
use crate::kubernetes::clients;
use crate::plan::operation::{CleanupTask, ExitStatus, OPERATION_ENV, Operation, Reason, Task, TaskKind, Verdict};
use ends::Opener;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long an interrupted mover may take to end what it started; less than a pod's grace period.
const TIDY: Duration = Duration::from_secs(20);

/// Carry out one operation and end. Started as a Job by the operator; needs the operation document in the environment.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The operation document, JSON. It holds no secrets.
    #[arg(long, env = OPERATION_ENV, value_name = "JSON")]
    pub operation: String,
    /// File that gets the verdict.
    #[arg(long, env = "TERMINATION_LOG", value_name = "FILE", default_value = "/dev/termination-log")]
    pub termination_log: PathBuf,
    /// For tests: where this process ends. See [`crash`].
    #[arg(long, env = crash::MOVER_ENV, hide = true)]
    pub crash_at: Option<String>,
}

/// What every task works with.
pub struct Context {
    /// The document.
    pub operation: Operation,
    /// What is done so far.
    pub counters: Counters,
    opener: Opener,
}

impl Context {
    /// A context that acts with the identity of `client`.
    pub fn new(operation: Operation, client: kube::Client) -> Self {
        let counters = Counters::new(operation.task.kind());
        let opener = Opener::new(client, &operation.migration.namespace, &operation.session_tag(), &counters);
        Self { operation, counters, opener }
    }

    fn verdict(&self, reason: Reason, message: impl Into<String>) -> Verdict {
        Verdict::new(self.operation.task.kind(), self.operation.attempt, reason, message)
    }
}

/// Runs an operation to its end. Dropped half-way, it leaves what [`tidy`] ends.
pub async fn run(context: &Context) -> Verdict {
    let result = match &context.operation.task {
        Task::Dump(task) => dump::run(context, task).await,
        Task::Verify(task) => verify::run(context, task).await,
        Task::Restore(task) => restore::run(context, task).await,
        Task::Compare(task) => compare::run(context, task).await,
        Task::Analyze(task) => analyze::run(context, task).await,
        Task::Cleanup(task) => cleanup::run(context, task).await,
    };
    result.unwrap_or_else(|error| context.verdict(error.reason, error.message))
}

/// Ends what an interrupted operation started, as far as it can.
pub async fn tidy(context: &Context) -> Result<(), MoverError> {
    let (databases, archives) = match &context.operation.task {
        Task::Dump(task) => (vec![task.source.clone()], vec![task.archive.clone()]),
        Task::Restore(task) => (vec![task.target.clone()], vec![]),
        Task::Compare(task) => (vec![task.source.clone(), task.target.clone()], vec![]),
        Task::Analyze(task) => (vec![task.target.clone()], vec![]),
        Task::Verify(_) | Task::Cleanup(_) => return Ok(()),
    };
    cleanup::run(context, &CleanupTask { databases, archives }).await.map(|_| ())
}

/// The `mover` subcommand: runs the operation, prints progress on standard output, writes the verdict, and prints that too when
/// it is written: whoever reads the output knows it seconds before the kubelet has noticed the end of the process.
///
/// A crypto provider must be installed.
pub async fn main(arguments: &Arguments) -> ExitCode {
    let verdict = match Operation::parse(&arguments.operation) {
        Ok(operation) => {
            if let Some(at) = &arguments.crash_at {
                crash::begin(&operation.migration.uid, at);
                crash::place(|| format!("mover {} {}", operation.task.kind().word(), operation.attempt));
            }
            Box::pin(carry_out(operation)).await
        }
        // Of an unknown operation nothing can be told but that.
        Err(message) => Verdict::new(TaskKind::Cleanup, 0, Reason::InvalidOperation, message),
    };
    let text = verdict.termination_message();
    if verdict.reason.class().is_none() {
        tracing::info!(verdict = %text, "done");
    } else {
        tracing::error!(verdict = %text, "failed");
    }
    let written = crash::around(|| "verdict".into(), async { std::fs::write(&arguments.termination_log, &text) }).await;
    match written {
        Ok(()) => {
            // Nobody reads, nobody misses it.
            let _ = writeln!(std::io::stdout().lock(), "{text}");
            ExitCode::from(verdict.exit_status() as u8)
        }
        Err(error) => {
            tracing::error!(file = %arguments.termination_log.display(), %error, "the verdict cannot be written");
            ExitCode::from(ExitStatus::Transient as u8)
        }
    }
}

async fn carry_out(operation: Operation) -> Verdict {
    let (kind, attempt) = (operation.task.kind(), operation.attempt);
    let failed = |reason, message: String| Verdict::new(kind, attempt, reason, message);
    let config = match kube::Config::infer().await {
        Ok(config) => config,
        Err(error) => return failed(Reason::ClusterUnreachable, format!("this pod has no access to its cluster: {error}")),
    };
    let context = match clients::own(&config) {
        Ok(client) => Context::new(operation, client),
        Err(error) => return failed(Reason::ClusterUnreachable, error.to_string()),
    };
    let mut asked_to_stop = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return failed(Reason::Interrupted, format!("no signal handler: {error}")),
    };
    let printer = context.counters.keep_printing();
    let verdict = tokio::select! {
        verdict = run(&context) => verdict,
        _ = asked_to_stop.0.recv() => interrupted(&context).await,
        _ = asked_to_stop.1.recv() => interrupted(&context).await,
    };
    printer.abort();
    context.counters.print();
    verdict
}

async fn interrupted(context: &Context) -> Verdict {
    let tidied = tokio::time::timeout(TIDY, tidy(context)).await;
    let how = match tidied {
        Ok(Ok(())) => "what it had started is ended".to_owned(),
        Ok(Err(error)) => format!("something that it had started may go on: {error}"),
        Err(_) => format!("ending what it had started took longer than {} s", TIDY.as_secs()),
    };
    context.verdict(Reason::Interrupted, format!("the mover was asked to stop; {how}"))
}
