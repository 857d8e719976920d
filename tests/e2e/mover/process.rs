//! The mover as the process that a Job runs: environment in, progress lines, verdict and exit code out.

use super::fixture::World;
use pgmigration::plan::operation::{OPERATION_ENV, Outcome, Progress, Reason, Task, Verdict};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The mover may hold so much at once, whatever the size of the database.
pub const PEAK: u64 = 192 << 10;

/// A mover at work.
pub struct Mover {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    verdict: std::path::PathBuf,
    /// The last line that it printed.
    last: String,
    /// Peak of the resident memory in KiB, as last seen.
    peak: u64,
}

impl Mover {
    /// Starts it in the environment that a Job gives it.
    pub async fn start(world: &World, attempt: u32, task: Task) -> Self {
        let operation = serde_json::to_string(&world.context(attempt, task).await.operation).unwrap();
        let verdict = std::env::temp_dir().join(format!("pgm-verdict-{}-{}", std::process::id(), world.uid));
        let mut child = Command::new(env!("CARGO_BIN_EXE_postgres-migration-operator"))
            .arg("mover")
            .env(OPERATION_ENV, operation)
            .env("TERMINATION_LOG", &verdict)
            .env("KUBECONFIG", crate::support::Side::New.kubeconfig())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines, verdict, last: String::new(), peak: 0 }
    }

    /// The next progress line; `None` once it tells its verdict or ends.
    fn progress(&mut self) -> Option<Progress> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next()?.parse().ok());
        self.peak = self.peak.max(peak.unwrap_or(0));
        self.last = line;
        let over = self.last.is_empty() || Verdict::parse(&self.last).is_ok();
        (!over).then(|| serde_json::from_str(&self.last).expect("a progress line"))
    }

    /// Waits for its end: exit status, verdict, peak of the resident memory in KiB.
    pub fn end(mut self) -> (ExitStatus, Verdict, u64) {
        while self.progress().is_some() {}
        let status = self.child.wait().unwrap();
        let text = std::fs::read_to_string(&self.verdict).unwrap();
        assert_eq!(self.last.trim_end(), text, "what it printed last is its verdict");
        std::fs::remove_file(&self.verdict).unwrap();
        (status, Verdict::parse(&text).unwrap(), self.peak)
    }
}

#[tokio::test]
async fn the_process_reports_progress_and_a_verdict_in_bounded_memory_and_tidies_up_when_it_is_stopped() {
    let world = World::new("process", 200_000).await;

    // Stopped half-way, as by the eviction of its pod.
    let mut mover = Mover::start(&world, 1, world.dump()).await;
    loop {
        let progress = mover.progress().expect("it ended before it could be stopped");
        assert!(progress.bytes_done < progress.bytes_total.unwrap_or(u64::MAX));
        if progress.bytes_done > 9_000_000 {
            break;
        }
    }
    let stopped = Command::new("kill").args(["-TERM", &mover.child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    let (status, verdict, _) = mover.end();
    assert_eq!((status.code(), verdict.reason), (Some(10), Reason::Interrupted), "{verdict:#?}");
    world.assert_tidy().await;
    assert_eq!(world.bucket().list("").await.unwrap(), vec![]);

    let size = world.size();
    for what in ["dump", "verify", "restore", "compare"] {
        let task = match what {
            "dump" => world.dump(),
            "verify" => world.verify(),
            "restore" => world.restore().await,
            _ => world.compare(),
        };
        let started = std::time::Instant::now();
        let (status, verdict, peak) = Mover::start(&world, 2, task).await.end();
        eprintln!("{what}: {size} bytes of database, {:?} of archive, {:.1?}, peak {peak} KiB", verdict.bytes, started.elapsed());
        assert_eq!((status.code(), verdict.outcome), (Some(0), Outcome::Succeeded), "{verdict:#?}");
        assert!(0 < peak && peak <= PEAK, "{what} took {peak} KiB");
    }
    let refused = Mover::start(
        &world,
        3,
        Task::Verify(pgmigration::plan::operation::VerifyTask {
            archive: world.archive(),
            keys: vec!["nowhere".into()],
            run: "r".into(),
            run_manifest_key: "nowhere/run.manifest.json".into(),
        }),
    )
    .await
    .end();
    assert_eq!((refused.0.code(), refused.1.reason), (Some(12), Reason::ArchiveAbsent), "{:#?}", refused.1);
    world.end().await;
}
