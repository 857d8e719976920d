//! SQL through the `psql` of a container: the [`Carrier`] that works wherever one can exec into a Postgres pod.
//!
//! A session is one `psql` that lives as long as the session does; statements go in on its standard input, answers come
//! out on its standard output between marks that nobody can foresee. Here: its command line, the session, its end.
//! [`script`] has the language spoken with it. Not here: how bytes get to the process ([`Launch`]; over exec for pods).
//!
//! Needs psql 11 or newer. Values are set as psql variables and quoted by psql itself; a password goes first on the
//! input, never into argv.

mod script;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand;
use bytes::Bytes;
use kube::Client;
use serde_json::Value;
use tokio::time::timeout;

use self::script::{Answer, Answers};
use super::exec::{self, Event, ExecError, ExecErrorKind, Output, Process, Stdin, Tail, Target, passfile};
use crate::crash;
use crate::postgres::carrier::{Carrier, Question, Session, SqlError, SqlErrorKind, session_settings};

/// How much of psql's error output is kept for messages, bytes.
const STDERR_TAIL: usize = 8 << 10;

/// How long [`Session::close`] waits for psql to be gone.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Frees psql from settings of the container that would change what it does, then becomes psql. Host, port, socket and
/// password settings stay: they are how the container reaches its own server.
const CLEAN: &str = r#"LC_ALL=C; export LC_ALL
unset PGOPTIONS PGCLIENTENCODING PGAPPNAME PGSERVICE PGDATABASE PGUSER PGTZ PGDATESTYLE
exec "$@""#;

/// A started psql, as a session needs it.
#[async_trait]
pub trait Pipe: Send {
    /// Hands bytes to its input.
    async fn write(&mut self, bytes: Bytes) -> Result<(), ExecError>;
    /// Ends its input.
    async fn close_input(&mut self) -> Result<(), ExecError>;
    /// Its next output, or its end. Cancel safe.
    async fn next(&mut self) -> Result<Event, ExecError>;
}

/// Where psql runs: starts a command and connects to its input and outputs.
#[async_trait]
pub trait Launch: Send + Sync {
    /// Starts `argv` as it is. Dropping the pipe must end the connection to the process.
    async fn launch(&self, argv: &[String]) -> Result<Box<dyn Pipe>, ExecError>;
}

/// Runs psql in a container, over exec.
#[derive(Clone)]
pub struct InContainer {
    /// Client of the pod's cluster, as the identity that may exec.
    pub client: Client,
    /// The container.
    pub target: Target,
}

#[async_trait]
impl Launch for InContainer {
    async fn launch(&self, argv: &[String]) -> Result<Box<dyn Pipe>, ExecError> {
        let Process { stdin, output } = exec::converse(&self.client, &self.target, argv).await?;
        Ok(Box::new(ExecPipe { stdin, output }))
    }
}

struct ExecPipe {
    stdin: Option<Stdin>,
    output: Output,
}

#[async_trait]
impl Pipe for ExecPipe {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ExecError> {
        match &mut self.stdin {
            Some(stdin) => stdin.write(bytes).await,
            None => Err(ExecError::new(ExecErrorKind::Protocol, "written to a closed input")),
        }
    }

    async fn close_input(&mut self) -> Result<(), ExecError> {
        match self.stdin.take() {
            Some(stdin) => stdin.close().await,
            None => Ok(()),
        }
    }

    async fn next(&mut self) -> Result<Event, ExecError> {
        self.output.next().await
    }
}

/// Whom psql logs in as, and how.
#[derive(Clone)]
pub struct PsqlLogin {
    /// Role name.
    pub user: String,
    /// Name of our sessions in `pg_stat_activity`: `pgm/<uid>/<what>`. The server cuts it after 63 bytes.
    pub application_name: String,
    /// The role's password, where the container's socket asks for one that the container does not know itself.
    pub password: Option<String>,
    /// Options that the server applies before anything else runs in the session, login event triggers included:
    /// `-c event_triggers=off` (17 and newer, superusers only).
    pub options: Option<String>,
}

impl std::fmt::Debug for PsqlLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PsqlLogin")
            .field("user", &self.user)
            .field("application_name", &self.application_name)
            .field("password", &self.password.as_ref().map(|_| "..."))
            .field("options", &self.options)
            .finish()
    }
}

impl PsqlLogin {
    /// A login without password and options.
    pub fn new(user: &str, application_name: &str) -> Self {
        Self { user: user.to_owned(), application_name: application_name.to_owned(), password: None, options: None }
    }

    /// The command for one session. The server is given up after `patience`, so that psql does not outlive its caller.
    fn argv(&self, database: &str, patience: Duration) -> Vec<String> {
        let quote = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
        let mut conninfo = format!(
            "dbname={} user={} application_name={} client_encoding='UTF8' connect_timeout={}",
            quote(database),
            quote(&self.user),
            quote(&self.application_name),
            // libpq takes less than 2 for 2.
            patience.as_secs().max(2),
        );
        if let Some(options) = &self.options {
            conninfo.push_str(" options=");
            conninfo.push_str(&quote(options));
        }
        let psql = ["psql", "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=0", "-d", &conninfo];
        let clean: Vec<String> = ["sh", "-c", CLEAN, "sh"].into_iter().chain(psql).map(str::to_owned).collect();
        if self.password.is_some() { passfile::wrap(&clean) } else { clean }
    }
}

/// Reaches one server through the psql beside it.
///
/// A connection that fails carries no SQLSTATE: psql tells the server's reason only in words.
#[derive(Clone)]
pub struct PsqlCarrier {
    launch: Arc<dyn Launch>,
    login: PsqlLogin,
}

impl PsqlCarrier {
    /// Sessions through psql in a container.
    pub fn new(client: Client, target: Target, login: PsqlLogin) -> Self {
        Self::over(Arc::new(InContainer { client, target }), login)
    }

    /// Sessions through psql wherever `launch` starts it.
    pub fn over(launch: Arc<dyn Launch>, login: PsqlLogin) -> Self {
        Self { launch, login }
    }

    async fn open(&self, database: &str, patience: Duration) -> Result<PsqlSession, SqlError> {
        if database.contains('\0') {
            return Err(SqlError::new(SqlErrorKind::Connect, "a database name cannot hold a NUL"));
        }
        let mut opening = Vec::new();
        if let Some(password) = &self.login.password {
            opening.extend_from_slice(&passfile::line(password).map_err(|error| lost(&error))?);
        }
        opening.extend_from_slice(script::opening(self.login.password.is_some()).as_bytes());
        let mut session =
            PsqlSession::new(self.launch.launch(&self.login.argv(database, patience)).await.map_err(|error| lost(&error))?)?;
        let settings = session_settings();
        opening.extend_from_slice(&session.answers.question(&settings)?);
        let answer = session.exchange(opening.into()).await?;
        script::document(settings.name, answer)?;
        Ok(session)
    }
}

#[async_trait]
impl Carrier for PsqlCarrier {
    async fn connect(&self, database: &str, deadline: Duration) -> Result<Box<dyn Session>, SqlError> {
        match timeout(deadline, self.open(database, deadline)).await {
            Ok(session) => Ok(Box::new(session?)),
            Err(_) => Err(SqlError::deadline("connecting", deadline)),
        }
    }
}

/// One psql. `pipe` is gone while a statement is under way, and for good once the session is unusable: a call that was
/// given up half-way (deadline, dropped future) would otherwise leave its answer to the next one.
struct PsqlSession {
    pipe: Option<Box<dyn Pipe>>,
    answers: Answers,
    stderr: Tail,
}

impl PsqlSession {
    fn new(pipe: Box<dyn Pipe>) -> Result<Self, SqlError> {
        let mut secret = [0; 16];
        rand::fill(&mut secret).map_err(|_| SqlError::new(SqlErrorKind::Protocol, "no random numbers"))?;
        Ok(Self { pipe: Some(pipe), answers: Answers::new(secret), stderr: Tail::new(STDERR_TAIL) })
    }

    /// Sends one script, waits for its answer. The session survives an answer, also one that says `ERROR`.
    async fn exchange(&mut self, script: Bytes) -> Result<Answer, SqlError> {
        let mut pipe = self
            .pipe
            .take()
            .ok_or_else(|| SqlError::new(SqlErrorKind::Connect, "the session was given up after an earlier failure"))?;
        // When psql or the way to it has ended already, its output says why.
        let _ = pipe.write(script).await;
        loop {
            match pipe.next().await {
                Ok(Event::Stdout(bytes)) => {
                    if let Some(answer) = self.answers.push(&bytes)? {
                        self.pipe = Some(pipe);
                        return Ok(answer);
                    }
                }
                Ok(Event::Stderr(bytes)) => self.stderr.push(&bytes),
                Ok(Event::Exit(code)) => return Err(script::ended(code, &self.stderr.text())),
                Err(error) => return Err(lost(&error)),
            }
        }
    }

    async fn run(&mut self, statement: &str) -> Result<(), SqlError> {
        let statement = script::bare(statement);
        if statement.eq_ignore_ascii_case("commit") || statement.eq_ignore_ascii_case("end") {
            // The server answers COMMIT of a failed transaction with ROLLBACK and no error. In a failed transaction this
            // probe is refused with 25P02.
            self.statement("SELECT 1").await?;
        }
        self.statement(statement).await
    }

    async fn statement(&mut self, statement: &str) -> Result<(), SqlError> {
        let script = self.answers.statement(statement)?;
        script::outcome(self.exchange(script).await?).map(|_| ())
    }

    /// Gives the session up when what came of a call leaves its state unknown.
    fn settle<T>(&mut self, result: Result<T, SqlError>) -> Result<T, SqlError> {
        if let Err(error) = &result {
            match error.kind {
                SqlErrorKind::Statement => {}
                SqlErrorKind::Connect | SqlErrorKind::Deadline | SqlErrorKind::Protocol => self.pipe = None,
            }
        }
        result
    }
}

#[async_trait]
impl Session for PsqlSession {
    async fn ask(&mut self, question: &Question, deadline: Duration) -> Result<Value, SqlError> {
        let work = async {
            let script = self.answers.question(question)?;
            script::document(question.name, self.exchange(script).await?)
        };
        let result = timeout(deadline, work).await.unwrap_or_else(|_| Err(SqlError::deadline(question.name, deadline)));
        self.settle(result)
    }

    async fn execute(&mut self, statement: &str, deadline: Duration) -> Result<(), SqlError> {
        let run = async {
            timeout(deadline, self.run(statement)).await.unwrap_or_else(|_| Err(SqlError::deadline("statement", deadline)))
        };
        // Settings of a session end with it: no effects.
        let result = if statement.starts_with("SET ") { run.await } else { crash::around(|| crash::words(statement), run).await };
        self.settle(result)
    }

    async fn close(mut self: Box<Self>) {
        let Some(mut pipe) = self.pipe.take() else { return };
        let goodbye = async {
            pipe.write(Bytes::from_static(b"\\q\n")).await?;
            pipe.close_input().await?;
            while !matches!(pipe.next().await?, Event::Exit(_)) {}
            Ok::<(), ExecError>(())
        };
        // Dropping the pipe ends what does not end by itself.
        let _ = timeout(CLOSE_DEADLINE, goodbye).await;
    }
}

/// psql could not be started, or the way to it broke.
fn lost(error: &ExecError) -> SqlError {
    let kind = match error.kind {
        ExecErrorKind::Deadline => SqlErrorKind::Deadline,
        ExecErrorKind::Unauthorized
        | ExecErrorKind::Forbidden
        | ExecErrorKind::NotFound
        | ExecErrorKind::Refused
        | ExecErrorKind::Connect
        | ExecErrorKind::Protocol
        | ExecErrorKind::Runtime
        | ExecErrorKind::Cut => SqlErrorKind::Connect,
    };
    SqlError::new(kind, format!("psql: {error}"))
}
