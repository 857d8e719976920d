//! The outside judge of lost rows: what a writer was told is written, kept where no database can lose it.

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use super::eventually;
use super::server::{ADMIN, Server};

/// Writes by the server's own socket as superuser, in a session of its own for each row, whatever happens to the database:
/// nobody lists it as a writer, nobody stops it. A row is told only when psql has ended well.
const WRITE: &str = r#"
n=0
while :; do
  n=$((n + 1))
  if /usr/lib/postgresql/$3/bin/psql -X -q -U "$4" -d "$2" -v ON_ERROR_STOP=1 -c "INSERT INTO app.written (host) VALUES ('ledger-$1-$n')" 2>/dev/null; then
    echo "ledger-$1-$n" || exit
  fi
  sleep "$5"
done
"#;

/// A writer and the rows that it was told are written.
pub struct Ledger {
    writer: Child,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
}

impl Ledger {
    /// Begins to write to `database` of `server`, wherever that name leads, three times a second.
    pub async fn begin(server: &Server, database: &str) -> Self {
        Self::every(server, database, "0.3").await
    }

    /// The same with so many seconds between two rows: for hundreds of migrations, whose moments differ anyway.
    pub async fn every(server: &Server, database: &str, seconds: &str) -> Self {
        let ledger = Self::of(server, WRITE, &[&server.name, database, &server.major.to_string(), ADMIN, seconds]);
        ledger.goes_on().await;
        ledger
    }

    /// Runs `script` (sh, with `arguments` as $1 and so on) in the server's container. It writes rows into `app.written` and
    /// prints the `host` of each, which begins with `ledger-`, once it was told that the row is written.
    pub fn of(server: &Server, script: &str, arguments: &[&str]) -> Self {
        let pod = server.pod();
        let mut writer = Command::new(env::var("PGM_KUBECTL").unwrap_or_else(|_| "kubectl".into()))
            .args(["--kubeconfig", &server.side.kubeconfig(), "-n", &server.namespace, "exec", &pod, "-c", "postgres", "--"])
            .args(["sh", "-c", script, "sh"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let acknowledged = Arc::<Mutex<BTreeSet<String>>>::default();
        let rows = Arc::clone(&acknowledged);
        thread::spawn(move || {
            for row in lines.map_while(Result::ok).filter(|line| line.starts_with("ledger-")) {
                rows.lock().unwrap().insert(row);
            }
        });
        Self { writer, acknowledged }
    }

    /// Waits until another row is acknowledged.
    pub async fn goes_on(&self) {
        let before = self.rows().len();
        eventually("the ledger to get a row", || async {
            let now = self.rows().len();
            if now > before { Ok(()) } else { Err(format!("{now} rows, as before")) }
        })
        .await;
    }

    /// All that was acknowledged until now.
    pub fn rows(&self) -> BTreeSet<String> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// Fails unless all that was acknowledged until now is in one of the `databases` of `server`.
    pub async fn assert_kept(&self, server: &Server, databases: &[&str]) {
        let acknowledged = self.rows();
        assert!(!acknowledged.is_empty());
        let kept = written(server, databases).await;
        let lost: Vec<&String> = acknowledged.difference(&kept).collect();
        assert!(lost.is_empty(), "lost: {} of {} acknowledged rows: {lost:?}", lost.len(), acknowledged.len());
    }

    /// Forgets what is not in `database` of `server`: the test itself has dropped where it was, and it was judged before.
    pub async fn settle(&self, server: &Server, database: &str) {
        // What is acknowledged from here on stays, whether the database shows it already or not.
        let known = self.rows();
        let there = written(server, &[database]).await;
        self.acknowledged.lock().unwrap().retain(|row| there.contains(row) || !known.contains(row));
    }
}

async fn written(server: &Server, databases: &[&str]) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for database in databases {
        let here = server.sql(database, "SELECT host FROM app.written WHERE host LIKE 'ledger-%'").await;
        rows.extend(here.lines().map(str::to_owned));
    }
    rows
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.writer.kill();
        let _ = self.writer.wait();
    }
}
