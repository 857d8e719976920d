//! Admin sessions that are opened before anything is touched, and held until it is over.
//!
//! Superuser clients that reconnect in a tight loop can take every connection slot of a server, so what fences them must
//! hold its sessions beforehand. There are two: when a statement on one of them stays without an answer, the other ends
//! that statement's process for certain and finds out what became of it.
//!
//! One holder acts at a time. Whoever opens ends the sessions of all others and takes an advisory lock when they are gone; from
//! then on it opens no further session. So a holder that slept meanwhile has none left, whenever it wakes, and gets no new one.
//!
//! Here: holding, running, giving up sessions. Not here: which statements.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::carrier::{Carrier, Question, Session, SqlError, SqlErrorKind};
use super::catalog;

/// The server's own limit for one statement of ours, and for one lock.
const SETTINGS: &[&str] = &[
    "SET lock_timeout = '2s'",
    "SET statement_timeout = '30s'",
    // A commit that waits for a synchronous standby which is away never returns. Standbys are waited for explicitly.
    "SET synchronous_commit = local",
];

/// How long the client waits for a statement: longer than the server's own limit.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(35);

/// How long a process whose statement stayed unanswered, or whose holder is not to act any more, may take to end once it is told to.
const LIMBO_DEADLINE: Duration = Duration::from_secs(10);

/// How many sessions are held.
const HELD: usize = 2;

const PAUSE: Duration = Duration::from_millis(20);

/// A server process, told from a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Process {
    pid: i32,
    began: String,
}

/// Sessions of an administrator in a database that is not touched.
pub struct AdminSessions {
    carrier: Arc<dyn Carrier>,
    held: VecDeque<(Process, Box<dyn Session>)>,
    /// Whether the first of the held ones has the lock. Nothing is done through a session that has not.
    locked: bool,
    /// Processes whose last statement has an unknown outcome, and may still be at it.
    limbo: Vec<Process>,
    /// Why the last one that was lost was lost.
    lost: Option<SqlError>,
}

impl AdminSessions {
    /// Opens the sessions in `database` (`postgres`, as a rule), each within `deadline`.
    ///
    /// Sessions of an earlier holder with the same role and application name, in whatever database, are ended first, and are gone
    /// when this returns: a statement that one of them still ran can have no late effect, and nothing comes after it. So the
    /// carrier's application name must belong to this purpose of this migration alone.
    ///
    /// Errors: `Connect`, `Statement`; `Deadline` when an earlier session does not end or comes again and again, or when somebody
    /// else's session has the lock.
    pub async fn open(carrier: Arc<dyn Carrier>, database: &str, deadline: Duration) -> Result<Self, SqlError> {
        let mut held = VecDeque::new();
        let mut refused = None;
        for opened in join_all((0..HELD).map(|_| connect(&*carrier, database, deadline))).await {
            match opened {
                Ok(session) => held.push_back(session),
                Err(error) => refused = Some(error),
            }
        }
        if held.is_empty()
            && let Some(refused) = refused
        {
            return Err(refused);
        }
        let mut sessions = Self { carrier, held, locked: false, limbo: Vec::new(), lost: None };
        while sessions.held.len() < HELD {
            // An earlier holder may have the last slots of the server.
            sessions.limbo = sessions.others().await?;
            sessions.settle().await?;
            let session = connect(&*sessions.carrier, database, deadline).await?;
            sessions.held.push_back(session);
        }
        // With both sessions there, and looked for under the lock: whoever has come before goes, and whoever comes later finds both.
        let until = Instant::now() + LIMBO_DEADLINE;
        loop {
            sessions.lock().await?;
            let others = sessions.others().await?;
            if let Some(lost) = sessions.lost.take() {
                return Err(lost);
            }
            if sessions.locked && others.is_empty() {
                return Ok(sessions);
            }
            if Instant::now() >= until {
                let message = if others.is_empty() {
                    let holder: String = sessions.put(&Question::new("holder of the lock", HOLDER)).await?;
                    format!("{holder} has the advisory lock of this migration and is none of ours: end it (pg_terminate_backend)")
                } else {
                    let pids: Vec<i32> = others.iter().map(|other| other.pid).collect();
                    format!("sessions of another operator come again and again (processes {pids:?})")
                };
                return Err(SqlError::new(SqlErrorKind::Deadline, message));
            }
            sessions.limbo.extend(others);
            sessions.settle().await?;
            sleep(PAUSE).await;
        }
    }

    /// One more session, in the database that is touched: a later holder ends it with these. Not for after these are closed.
    pub async fn enter(&mut self, database: &str, deadline: Duration) -> Result<Box<dyn Session>, SqlError> {
        let inside = self.carrier.connect(database, deadline).await?;
        // A holder that came before it was there has ended these: then nobody answers here. One that comes later finds it.
        match self.ask::<Process>(&Question::new("own process", OWN_PROCESS)).await {
            Ok(_) => Ok(inside),
            Err(error) => {
                inside.close().await;
                Err(error)
            }
        }
    }

    /// Says goodbye on the sessions, and waits a short while for their ends.
    pub async fn close(self) {
        join_all(self.held.into_iter().map(|(_, session)| session.close())).await;
    }

    /// Server processes under our application name that are not held here.
    async fn others(&mut self) -> Result<Vec<Process>, SqlError> {
        let mut found: Vec<Process> = self.put(&Question::new("earlier sessions", EARLIER)).await?;
        found.retain(|process| self.held.iter().all(|(held, _)| held != process));
        Ok(found)
    }

    /// Takes the lock for the first session that lives. Of ours, none has it any more then but that one: it would keep the lock
    /// from it. False when somebody else has it.
    async fn lock(&mut self) -> Result<bool, SqlError> {
        while !self.locked {
            self.settle().await?;
            match catalog::ask(&mut **self.first()?, &Question::new("lock of the migration", LOCK)).await {
                Ok(true) => self.locked = true,
                Ok(false) => return Ok(false),
                Err(error) => {
                    self.note(&error);
                    if error.kind == SqlErrorKind::Statement {
                        return Err(error);
                    }
                }
            }
        }
        Ok(true)
    }

    fn first(&mut self) -> Result<&mut Box<dyn Session>, SqlError> {
        match self.held.front_mut() {
            Some((_, session)) => Ok(session),
            None => {
                let lost = self.lost.as_ref();
                let why = lost.map_or_else(String::new, |error| format!(": {}", error.message));
                Err(SqlError {
                    sqlstate: lost.and_then(|error| error.sqlstate.clone()),
                    ..SqlError::new(SqlErrorKind::Connect, format!("no admin session is left{why}"))
                })
            }
        }
    }

    /// Whether nothing can be done any more: both sessions are lost, or somebody else acts now. Begin again with [`Self::open`].
    pub(crate) fn is_over(&self) -> bool {
        self.held.is_empty()
    }

    /// A session that lives and has the lock. Nobody had it since the last one of ours: they would have ended this one.
    async fn current(&mut self) -> Result<&mut Box<dyn Session>, SqlError> {
        if !self.lock().await? {
            self.held.clear();
            self.lost = Some(SqlError::new(SqlErrorKind::Connect, "another session has the advisory lock of this migration"));
        }
        self.first()
    }

    /// Gives the present session up when it is not usable any more after `error`.
    pub(crate) fn note(&mut self, error: &SqlError) {
        match error.kind {
            SqlErrorKind::Statement => {}
            SqlErrorKind::Connect | SqlErrorKind::Deadline | SqlErrorKind::Protocol => {
                self.locked = false;
                if let Some((process, _session)) = self.held.pop_front() {
                    self.limbo.push(process);
                    self.lost = Some(error.clone());
                }
            }
        }
    }

    /// Puts a question; when a session fails meanwhile, once more through the next.
    pub(crate) async fn ask<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T, SqlError> {
        loop {
            let answer = catalog::ask(&mut **self.current().await?, question).await;
            if let Some(end) = self.last(answer) {
                return end;
            }
        }
    }

    /// [`Self::ask`] without the lock: for what has to be known and done before it can be had.
    async fn put<T: DeserializeOwned>(&mut self, question: &Question) -> Result<T, SqlError> {
        loop {
            let answer = catalog::ask(&mut **self.first()?, question).await;
            if let Some(end) = self.last(answer) {
                return end;
            }
        }
    }

    /// The answer, unless its session failed and there is another one to ask.
    fn last<T>(&mut self, answer: Result<T, SqlError>) -> Option<Result<T, SqlError>> {
        let Err(error) = answer else { return Some(answer) };
        self.note(&error);
        (error.kind == SqlErrorKind::Statement || self.held.is_empty()).then_some(Err(error))
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
            if !self.put::<bool>(&question).await? {
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

async fn connect(carrier: &dyn Carrier, database: &str, deadline: Duration) -> Result<(Process, Box<dyn Session>), SqlError> {
    let mut session = carrier.connect(database, deadline).await?;
    for setting in SETTINGS {
        session.execute(setting, STATEMENT_DEADLINE).await?;
    }
    let process = catalog::ask(&mut *session, &Question::new("own process", OWN_PROCESS)).await?;
    Ok((process, session))
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
WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.usename = SESSION_USER
  AND a.application_name = pg_catalog.current_setting('application_name') AND a.application_name <> ''";

/// Locks of sessions are per database and go with the server's process (PostgreSQL's manual, 13.3.5).
const LOCK: &str = r"
SELECT pg_catalog.to_jsonb(pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(pg_catalog.current_setting('application_name'), 0)))";

// The two halves of a lock's number (PostgreSQL's manual, pg_locks).
const HOLDER: &str = r#"
SELECT coalesce(pg_catalog.to_jsonb(pg_catalog.string_agg(pg_catalog.format('process %s of role %s', l.pid, a.usename), ', ')),
  '"somebody"')
FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  AND (l.classid::int8 << 32) | l.objid::int8 = pg_catalog.hashtextextended(pg_catalog.current_setting('application_name'), 0)"#;

/// True while the process lives, having told it to end.
const END_PROCESS: &str = r"
SELECT pg_catalog.to_jsonb(pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) > 0)
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = $1::int4 AND a.backend_start::text = $2::text";
