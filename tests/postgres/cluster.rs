//! Throwaway clusters: a server of its own for a test, gone when the test is over.

use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgmigration::postgres::carrier::{Carrier, Session, SqlError};
use pgmigration::postgres::network::{ByteStream, Dial, NetworkCarrier, Tls};
use tokio::net::UnixStream;

/// The deadline of everything that is not the point of a test.
pub const SOON: Duration = Duration::from_secs(20);

/// Folders of server binaries: `PGM_PG_BIN`, a list like `PATH`, or Debian's of PostgreSQL 15.
pub fn servers() -> Vec<PathBuf> {
    match std::env::var("PGM_PG_BIN") {
        Ok(list) => list.split(':').map(PathBuf::from).collect(),
        Err(_) => vec![PathBuf::from("/usr/lib/postgresql/15/bin")],
    }
}

/// A running server with a data folder and a socket folder of its own.
pub struct Cluster {
    bin: PathBuf,
    root: PathBuf,
    server: Option<Child>,
    settings: Vec<String>,
}

impl Cluster {
    /// Makes and starts a cluster; returns when it accepts connections.
    pub fn start(bin: &Path, settings: &[&str]) -> Self {
        let mut cluster = Self {
            bin: bin.to_owned(),
            root: folder(),
            server: None,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        };
        let data = cluster.data();
        cluster.must(
            "initdb",
            &["-D", &data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N", "--no-instructions"],
        );
        cluster.launch();
        cluster
    }

    /// Starts the server over the present data folder.
    pub fn launch(&mut self) {
        let mut command = self.command("postgres");
        command.args(["-D", &self.data(), "-k", &self.root.to_string_lossy()]);
        for setting in
            ["listen_addresses=", "fsync=off", "max_prepared_transactions=10", "wal_level=logical", "autovacuum_naptime=1s"]
                .into_iter()
                .chain(self.settings.iter().map(String::as_str))
        {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::create(self.root.join("log")).expect("a log file");
        command.stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("the server starts"));
        let begin = Instant::now();
        while !self.run("psql", &["-XAtc", "SELECT 1", "-h", &self.socket(), "-U", "postgres"]).status.success() {
            assert!(begin.elapsed() < SOON, "the server does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the server as a crash would: every process of it, at once.
    pub fn crash(&mut self) {
        self.must("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
        if let Some(mut server) = self.server.take() {
            server.wait().expect("the server ends");
        }
    }

    /// What the server wrote to its log since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// The socket folder, which clients take for a host.
    pub fn socket(&self) -> String {
        self.root.to_string_lossy().into_owned()
    }

    /// A scratch path that goes with the cluster.
    pub fn scratch(&self, name: &str) -> String {
        self.root.join(name).to_string_lossy().into_owned()
    }

    /// The folder of this version's programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// From now on this role must show its password, on the socket too.
    pub fn demand_password(&self, role: &str) {
        self.put_rule(&format!("local all {role} scram-sha-256"));
    }

    /// From now on this line of `pg_hba.conf` counts before all others.
    pub fn put_rule(&self, line: &str) {
        let path = self.root.join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&path).expect("the rules of the cluster");
        std::fs::write(&path, format!("{line}\n{rules}")).expect("new rules");
        self.sql("postgres", "SELECT pg_reload_conf();");
    }

    /// The major version of the binaries.
    pub fn major(&self) -> u32 {
        let output = self.run("postgres", &["--version"]);
        let text = String::from_utf8(output.stdout).expect("text");
        pgmigration::postgres::versions::Version::from_tool(&text).expect("a version").major()
    }

    /// Runs a tool of this version as the server's user.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        self.command(tool).args(arguments).output().expect("the tool runs")
    }

    /// Runs a tool that must succeed; returns what it printed.
    pub fn must(&self, tool: &str, arguments: &[&str]) -> String {
        let output = self.run(tool, arguments);
        assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs SQL that must succeed, as superuser; returns the rows as psql prints them bare.
    pub fn sql(&self, database: &str, script: &str) -> String {
        let mut psql = self
            .command("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", &self.socket(), "-U", "postgres", "-d", database])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql starts");
        let mut stdin = psql.stdin.take().expect("stdin");
        stdin.write_all(script.as_bytes()).expect("psql reads");
        drop(stdin);
        let output = psql.wait_with_output().expect("psql ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    /// Waits until SQL gives this answer.
    pub async fn until(&self, database: &str, script: &str, answer: &str) {
        let begin = Instant::now();
        while self.sql(database, script) != answer {
            assert!(begin.elapsed() < SOON, "{script} does not become {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A physical standby of this server, streaming from it.
    pub fn standby(&self) -> Self {
        let mut standby = Self { bin: self.bin.clone(), root: folder(), server: None, settings: self.settings.clone() };
        self.must("pg_basebackup", &["-h", &self.socket(), "-U", "postgres", "-D", &standby.data(), "-R", "-c", "fast"]);
        standby.launch();
        standby
    }

    /// A carrier to this server.
    pub fn carrier(&self, user: &str) -> NetworkCarrier {
        NetworkCarrier::new(dial_socket(&self.root), Tls::Disabled, user, None, "pgmigration/test")
    }

    /// A session as superuser.
    pub async fn session(&self, database: &str) -> Box<dyn Session> {
        self.try_session("postgres", database).await.expect("a session")
    }

    /// A session, or why there is none.
    pub async fn try_session(&self, user: &str, database: &str) -> Result<Box<dyn Session>, SqlError> {
        self.carrier(user).connect(database, SOON).await
    }

    fn data(&self) -> String {
        self.scratch("data")
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(self.bin.join(tool));
        command
            .current_dir(&self.root)
            .env("PGOPTIONS", "-c client_min_messages=warning")
            .env("PGAPPNAME", "pgmigration/test/psql");
        if let Some((uid, gid)) = server_user() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// A new empty folder of the server's user.
fn folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let root = std::env::temp_dir().join(format!("pgm-{}-{number}", std::process::id()));
    std::fs::create_dir(&root).expect("a folder for the cluster");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    if let Some((uid, gid)) = server_user() {
        chown(&root, Some(uid), Some(gid)).expect("its owner");
    }
    root
}

/// A [`Dial`] to the socket in a folder.
pub fn dial_socket(folder: &Path) -> Dial {
    let path = folder.join(".s.PGSQL.5432");
    Arc::new(move || {
        let path = path.clone();
        Box::pin(async move { Ok(ByteStream::new(UnixStream::connect(path).await?)) })
    })
}

/// Servers refuse to run as root: then they run as the user `postgres`.
fn server_user() -> Option<(u32, u32)> {
    let id = |flag: &str, user: &[&str]| -> u32 {
        let output = Command::new("id").arg(flag).args(user).output().expect("id runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.trim().parse().expect("the user postgres exists")
    };
    (id("-u", &[]) == 0).then(|| (id("-u", &["postgres"]), id("-g", &["postgres"])))
}
