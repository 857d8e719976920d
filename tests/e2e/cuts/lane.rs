//! One migration's operations over spoiled networks, each as the process that a Job runs.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgmigration::archive::keys;
use pgmigration::plan::operation::{
    ArchiveEnd, CleanupTask, CompareTask, DatabaseEnd, DumpTask, MigrationRef, OPERATION_ENV, OPERATION_VERSION, Operation,
    OwnerLogin, RestoreTask, Sealed, Task, Verdict, VerifyTask,
};
use tokio::process::Command;

use super::case::{Hit, Op};
use super::http::Http;
use super::stage::{OWNER, OWNER_PASSWORD, Stage};
use super::store::{ACCESS, BUCKET, SECRET};
use super::wire::Wire;
use crate::mover::fixture::new_uid;
use crate::support::Side;

pub const RUN: &str = "20261126_060000";

/// No operation on so small a database may take longer, whatever happens to its network.
pub const BOUND: Duration = Duration::from_secs(420);

/// How a mover ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when it had to be killed.
    pub code: Option<i32>,
    pub verdict: Option<Verdict>,
    pub took: Duration,
    /// The last lines that it logged.
    pub log: String,
}

pub struct Lane {
    pub stage: Arc<Stage>,
    pub uid: String,
    pub staging: String,
    pub old: Wire,
    pub new: Wire,
    pub bucket: Wire,
    pub answers: Http,
    /// Name of its Secret, and of its files.
    name: String,
    kubeconfig: PathBuf,
    attempt: u32,
    /// What the last dump said, which the operator keeps.
    sealed: Sealed,
}

/// The kubeconfig of an administrator with the API server behind `port` of this machine. The certificate must still carry the
/// name that it is known by.
fn rerouted(side: Side, port: u16) -> String {
    let text = std::fs::read_to_string(side.kubeconfig()).unwrap();
    let (line, server) = text.lines().find_map(|l| Some((l, l.trim().strip_prefix("server: ")?.trim_matches('"')))).unwrap();
    let host = server.parse::<http::Uri>().unwrap().host().unwrap().to_owned();
    let indent = &line[..line.len() - line.trim_start().len()];
    text.replace(line, &format!("{indent}server: https://127.0.0.1:{port}\n{indent}tls-server-name: {host}"))
}

/// `host:port` of a cluster's API server.
fn api_server(side: Side) -> String {
    let text = std::fs::read_to_string(side.kubeconfig()).unwrap();
    let server = text.lines().find_map(|l| l.trim().strip_prefix("server: ")).unwrap().trim_matches('"').to_owned();
    let uri = server.parse::<http::Uri>().unwrap();
    format!("{}:{}", uri.host().unwrap(), uri.port_u16().unwrap_or(443))
}

impl Lane {
    /// Builds lane `number`: its own networks, staging database, keys and Secret.
    pub async fn new(stage: &Arc<Stage>, number: usize) -> Self {
        let name = format!("lane-{number}");
        let uid = new_uid(&format!("{} {name}", stage.new.name));
        let old = Wire::before(&api_server(Side::Old), None).await;
        let new = Wire::before(&api_server(Side::New), None).await;
        let (tls, other) = (format!("127.0.0.1:{}", stage.store.tls), format!("127.0.0.1:{}", stage.store.other));
        let bucket = Wire::before(&tls, Some(other)).await;
        let answers = Http::before(stage.store.plain).await;
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": stage.new.name},
            "stringData": {
                "kubeconfig": rerouted(Side::Old, old.port), "owner": OWNER_PASSWORD,
                "ca.crt": String::from_utf8(stage.store.ca.clone()).unwrap(),
                "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET,
            },
        });
        Side::New.kubectl_aside(&["apply", "--server-side", "-f", "-"], secret.to_string()).await.unwrap();
        let kubeconfig = stage.store.scratch().join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, rerouted(Side::New, new.port)).unwrap();
        let staging = format!("staging {number}");
        let run_manifest_key = keys::run_manifest(&keys::run_prefix("", &stage.new.name, &name, &uid));
        let sealed = Sealed { run_manifest_key, bytes: 0, sha256: String::new() };
        Self { stage: Arc::clone(stage), uid, staging, old, new, bucket, answers, name, kubeconfig, attempt: 0, sealed }
    }

    pub fn prefix(&self) -> String {
        keys::run_prefix("", &self.stage.new.name, &self.name, &self.uid)
    }

    pub fn key(&self) -> String {
        keys::archive(&self.prefix(), "app", RUN)
    }

    pub fn source(&self) -> DatabaseEnd {
        DatabaseEnd { kubeconfig_secret: Some(Stage::secret_key(&self.name, "kubeconfig")), ..self.stage.source.clone() }
    }

    pub fn target(&self) -> DatabaseEnd {
        DatabaseEnd { database: self.staging.clone(), ..self.stage.target.clone() }
    }

    pub fn archive(&self, plain: bool) -> ArchiveEnd {
        let tls = format!("https://127.0.0.1:{}", self.bucket.port);
        ArchiveEnd {
            bucket: BUCKET.into(),
            endpoint: Some(if plain { self.answers.endpoint.clone() } else { tls }),
            region: "us-east-1".into(),
            force_path_style: true,
            credentials_secret: self.name.clone(),
            ca_secret: (!plain).then(|| Stage::secret_key(&self.name, "ca.crt")),
            prefix: self.prefix(),
            key: self.key(),
        }
    }

    /// The task of an operation; `plain` says which way to the S3 server.
    pub fn task(&self, op: Op, plain: bool) -> Task {
        let archive = self.archive(plain);
        match op {
            Op::Dump => Task::Dump(DumpTask {
                source: self.source(),
                reader: Some(self.target()),
                archive,
                database: "app".into(),
                run: RUN.into(),
                estimated_bytes: self.stage.size,
            }),
            Op::Verify => Task::Verify(VerifyTask {
                archive,
                keys: vec![self.key()],
                run: RUN.into(),
                run_manifest_key: keys::run_manifest(&self.prefix()),
            }),
            Op::Restore => {
                let owner = OwnerLogin { role: OWNER.into(), password_secret: Some(Stage::secret_key(&self.name, "owner")) };
                Task::Restore(RestoreTask { archive, target: self.target(), owner, sealed: self.sealed.clone(), jobs: 2 })
            }
            Op::Compare => Task::Compare(CompareTask { source: self.source(), target: self.target(), archive }),
        }
    }

    /// What an undo ends.
    pub fn cleanup(&self) -> Task {
        let archives = vec![self.archive(false)];
        Task::Cleanup(CleanupTask {
            databases: vec![self.source(), DatabaseEnd { database: "postgres".into(), ..self.target() }],
            archives,
        })
    }

    /// Spoils the network as the case says, counting from here; `None` only counts.
    pub fn arm(&self, hit: Option<Hit>) {
        let [mut old, mut new, mut bucket] = [None; 3];
        let mut answers = None;
        match hit {
            Some(Hit::Old(strike)) => old = Some(strike),
            Some(Hit::New(strike)) => new = Some(strike),
            Some(Hit::Bucket(strike)) => bucket = Some(strike),
            Some(Hit::Answers(trouble)) => answers = Some(trouble),
            None => {}
        }
        self.old.arm(old);
        self.new.arm(new);
        self.bucket.arm(bucket);
        self.answers.arm(answers);
    }

    pub fn struck(&self) -> bool {
        self.old.struck() || self.new.struck() || self.bucket.struck() || self.answers.struck()
    }

    /// Nothing more is spoiled; what hangs stays hanging.
    pub fn disarm(&self) {
        [&self.old, &self.new, &self.bucket].into_iter().for_each(Wire::disarm);
        self.answers.disarm();
    }

    /// What hangs ends.
    pub fn heal(&self) {
        [&self.old, &self.new, &self.bucket].into_iter().for_each(Wire::heal);
        self.answers.disarm();
    }

    /// Runs a task in a process, under the next attempt's number.
    pub async fn run(&mut self, task: Task) -> Ended {
        self.attempt += 1;
        let kind = task.clone();
        let migration = MigrationRef { namespace: self.stage.new.name.clone(), name: self.name.clone(), uid: self.uid.clone() };
        let operation = Operation { version: OPERATION_VERSION, migration, attempt: self.attempt, task };
        let files = self.stage.store.scratch().join(format!("{}-{}", self.name, self.attempt));
        let (verdict, log) = (files.with_extension("verdict"), files.with_extension("log"));
        let begun = Instant::now();
        let mut mover = Command::new(env!("CARGO_BIN_EXE_postgres-migration-operator"))
            .arg("mover")
            .env(OPERATION_ENV, serde_json::to_string(&operation).unwrap())
            .env("TERMINATION_LOG", &verdict)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("LOG_FILTER", "info,pgmigration=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let code = match tokio::time::timeout(BOUND, mover.wait()).await {
            Ok(status) => status.unwrap().code(),
            Err(_) => {
                mover.kill().await.unwrap();
                None
            }
        };
        let took = begun.elapsed();
        let verdict = std::fs::read_to_string(&verdict).ok().and_then(|text| Verdict::parse(&text).ok());
        if let (Task::Dump(_), Some(Verdict { bytes: Some(bytes), sha256: Some(sha256), .. })) = (&kind, &verdict) {
            (self.sealed.bytes, self.sealed.sha256) = (*bytes, sha256.clone());
        }
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let last = log.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        Ended { code, verdict, took, log: last }
    }

    /// Makes the staging database anew, as the operator does for each attempt.
    pub async fn create_staging(&self) {
        let name = format!("\"{}\"", self.staging);
        let tag = format!("pgm/{}/m/", self.uid);
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, '{tag}') \\g /dev/null
             DROP DATABASE IF EXISTS {name} WITH (FORCE);
             CREATE DATABASE {name} OWNER \"{OWNER}\" TEMPLATE template0;"
        );
        self.stage.sql(Side::New, "postgres", &sql).await;
    }
}
