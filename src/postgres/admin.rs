//! Admin sessions that are opened before anything is touched, and held until it is over.
//!
//! Superuser clients that reconnect in a tight loop can take every connection slot of a server, so what fences them must
//! hold its sessions beforehand. There are two: when a statement on one of them stays without an answer, the other ends
//! that statement's process for certain and finds out what became of it.
//!
//! Here: holding, running, giving up sessions. Not here: which statements.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::carrier::{Carrier, Question, Session, SqlError, SqlErrorKind};
use super::catalog::{self, QUESTION_DEADLINE};

/// What the application names of all our sessions begin with.
pub const OURS: &str = "pgmigration/";

/// The server's own limit for one statement of ours, and for one lock.
const SETTINGS: &[&str] = &[
    "SET lock_timeout = '2s'",
    "SET statement_timeout = '30s'",
    // A commit that waits for a synchronous standby which is away never returns. Standbys are waited for explicitly.
    "SET synchronous_commit = local",
];

/// How long the client waits for a statement: longer than the server's own limit.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(35);

/// How long a process whose statement stayed unanswered may take to end once it is told to.
const LIMBO_DEADLINE: Duration = Duration::from_secs(10);

/// How many sessions are held.
const HELD: usize = 2;

const PAUSE: Duration = Duration::from_millis(50);

/// A server process, told from a later one with the same pid.
#[derive(Debug, Clone, Deserialize)]
struct Process {
    pid: i32,
    began: String,
}

/// Sessions of an administrator in a database that is not touched.
pub struct AdminSessions {
    carrier: Arc<dyn Carrier>,
    database: String,
    held: VecDeque<(Process, Box<dyn Session>)>,
    /// Processes whose last statement has an unknown outcome, and may still be at it.
    limbo: Vec<Process>,
}

impl AdminSessions {
    /// Opens the sessions in `database` (`postgres`, as a rule), each within `deadline`.
    ///
    /// Sessions of an earlier holder with the same application name are ended first, and are gone when this returns: a
    /// statement that one of them still ran can have no late effect. So the carrier's application name must belong to
    /// this purpose of this migration alone, and begin with [`OURS`].
    ///
    /// Errors: `Connect`; `Deadline` when an earlier session does not end.
    pub async fn open(carrier: Arc<dyn Carrier>, database: &str, deadline: Duration) -> Result<Self, SqlError> {
        let mut sessions = Self { carrier, database: database.to_owned(), held: VecDeque::new(), limbo: Vec::new() };
        sessions.add(deadline).await?;
        sessions.limbo = sessions.ask(&Question::new("earlier sessions", EARLIER).with(OURS)).await?;
        sessions.settle().await?;
        while sessions.held.len() < HELD {
            sessions.add(deadline).await?;
        }
        Ok(sessions)
    }

    /// Ends the sessions in order.
    pub async fn close(self) {
        for (_, session) in self.held {
            session.close().await;
        }
    }

    async fn add(&mut self, deadline: Duration) -> Result<(), SqlError> {
        let mut session = self.carrier.connect(&self.database, deadline).await?;
        for setting in SETTINGS {
            session.execute(setting, STATEMENT_DEADLINE).await?;
        }
        let process = catalog::ask(&mut *session, &Question::new("own process", OWN_PROCESS)).await?;
        self.held.push_back((process, session));
        Ok(())
    }

    /// A session that lives; a new one when none is left.
    async fn current(&mut self) -> Result<&mut Box<dyn Session>, SqlError> {
        if self.held.is_empty() {
            self.add(QUESTION_DEADLINE).await?;
        }
        match self.held.front_mut() {
            Some((_, session)) => Ok(session),
            None => Err(SqlError::new(SqlErrorKind::Connect, "no admin session left")),
        }
    }

    /// Gives the present session up when it is not usable any more after `error`.
    pub(crate) fn note(&mut self, error: &SqlError) {
        match error.kind {
            SqlErrorKind::Statement => {}
            SqlErrorKind::Connect | SqlErrorKind::Deadline | SqlErrorKind::Protocol => {
                if let Some((process, _session)) = self.held.pop_front() {
                    self.limbo.push(process);
                }
            }
        }
    }

    /// Puts a question; when a session fails meanwhile, once more through the next.
    pub(crate) async fn ask<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T, SqlError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match catalog::ask(&mut **self.current().await?, question).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    self.note(&error);
                    if error.kind == SqlErrorKind::Statement || attempts > HELD {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Lets a catalog question run on a session of these.
    pub async fn session(&mut self) -> Result<&mut dyn Session, SqlError> {
        Ok(&mut **self.current().await?)
    }

    /// Runs one statement. After any error but a `Statement` one the outcome is unknown until [`Self::settle`].
    pub(crate) async fn execute(&mut self, statement: &str) -> Result<(), SqlError> {
        self.settle().await?;
        let outcome = self.current().await?.execute(statement, STATEMENT_DEADLINE).await;
        if let Err(error) = &outcome {
            self.note(error);
        }
        outcome
    }

    /// Runs statements in one transaction, which is committed only when `guard`, asked at its end, answers true.
    ///
    /// After a `Statement` error nothing of it happened; after any other the outcome is unknown until [`Self::settle`].
    pub(crate) async fn transaction(&mut self, statements: &[String], guard: &Question) -> Result<(), SqlError> {
        self.settle().await?;
        let session = self.current().await?;
        let outcome = run(&mut **session, statements, guard).await;
        let Err(error) = &outcome else {
            return Ok(());
        };
        if error.kind == SqlErrorKind::Statement {
            if let Err(error) = session.execute("ROLLBACK", STATEMENT_DEADLINE).await {
                self.note(&error);
            }
        } else {
            self.note(error);
        }
        outcome
    }

    /// Makes sure that no statement of ours with an unknown outcome is still running: ends its process and waits until
    /// it is gone. From then on, what is in the catalogs is what came of it.
    ///
    /// Errors: `Deadline` naming the process that does not end.
    pub(crate) async fn settle(&mut self) -> Result<(), SqlError> {
        let until = Instant::now() + LIMBO_DEADLINE;
        while let Some(process) = self.limbo.first().cloned() {
            let question = Question::new("unsettled process", END_PROCESS).with(process.pid.to_string()).with(&process.began);
            if !self.ask::<bool>(&question).await? {
                self.limbo.retain(|other| other.pid != process.pid || other.began != process.began);
            } else if Instant::now() >= until {
                return Err(SqlError::new(
                    SqlErrorKind::Deadline,
                    format!("our own server process {} does not end, so it is not known what it did", process.pid),
                ));
            } else {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}

async fn run(session: &mut dyn Session, statements: &[String], guard: &Question) -> Result<(), SqlError> {
    session.execute("BEGIN", STATEMENT_DEADLINE).await?;
    for statement in statements {
        session.execute(statement, STATEMENT_DEADLINE).await?;
    }
    if !catalog::ask::<bool>(session, guard).await? {
        return Err(SqlError::new(SqlErrorKind::Statement, format!("{}: not as expected, rolled back", guard.name)));
    }
    session.execute("COMMIT", STATEMENT_DEADLINE).await
}

const OWN_PROCESS: &str = r"
SELECT pg_catalog.jsonb_build_object('pid', a.pid, 'began', a.backend_start::text)
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = pg_catalog.pg_backend_pid()";

const EARLIER: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('pid', a.pid, 'began', a.backend_start::text)), '[]')
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.application_name = pg_catalog.current_setting('application_name')
  AND pg_catalog.starts_with(a.application_name, $1::text)";

/// True while the process lives, having told it to end.
const END_PROCESS: &str = r"
SELECT pg_catalog.to_jsonb(pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) > 0)
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = $1::int4 AND a.backend_start::text = $2::text";
