//! The two ways to put SQL to a server, seen as one: a [`Carrier`] opens a [`Session`], a session answers
//! [`Question`]s with one JSON document each.
//!
//! Here: the traits, their errors, the settings that every session begins with, and quoting. Not here: any transport
//! (psql over exec and tokio-postgres implement the traits in their own modules) and any particular question.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

/// The settings that every session of every carrier begins with, applied in this order.
///
/// They fix the meaning of names and the text form of values, so that the same question gives the same answer on both
/// sides and through both carriers. A setting that the server does not know (`transaction_timeout` before 17) is left
/// out. All of them may be set by any role.
pub const SESSION_SETTINGS: &[(&str, &str)] = &[
    ("search_path", "pg_catalog, pg_temp"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "warning"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmloption", "content"),
    ("quote_all_identifiers", "off"),
    ("lc_monetary", "C"),
    ("row_security", "off"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
];

/// A way to reach one server: opens sessions in databases of it.
#[async_trait]
pub trait Carrier: Send + Sync {
    /// Opens a session in `database`, with [`SESSION_SETTINGS`] applied, within `deadline`.
    ///
    /// The session's `application_name` is given to the carrier when it is built (`pgm/<uid>/<what>`), so that
    /// our own sessions can be told from foreign ones in `pg_stat_activity`.
    ///
    /// Errors: `Connect` when no session came about (the server's own SQLSTATE, such as 3D000 or 28P01, is in
    /// `sqlstate` where the server spoke and the carrier can see it), `Deadline`, `Protocol`.
    async fn connect(&self, database: &str, deadline: Duration) -> Result<Box<dyn Session>, SqlError>;
}

/// One session with a server; statements run one after another.
///
/// A deadline is kept by the client, so a server that answers nothing cannot hold the caller. When it passes, the
/// outcome of the statement is unknown (it may still be running, or be committed later) and the session is unusable:
/// each later call fails. The caller probes the outcome through another session. The same holds after a `Protocol` or
/// `Connect` error. After a `Statement` error the session goes on; inside a transaction block, as in any Postgres
/// session, only `ROLLBACK` is accepted then.
///
/// Dropping a session cuts it; [`Session::close`] ends it in order.
#[async_trait]
pub trait Session: Send {
    /// Puts a question, returns its one JSON document.
    ///
    /// Exactly one row with one column, a JSON text, is expected; anything else, SQL NULL included, is a `Protocol`
    /// error.
    async fn ask(&mut self, question: &Question, deadline: Duration) -> Result<Value, SqlError>;

    /// Runs one statement whose result, if any, does not matter: DDL, `BEGIN`, `COMMIT`, `SET`.
    ///
    /// Exactly one statement, with or without a closing semicolon; identifiers and literals in it are already quoted
    /// ([`quote_identifier`], [`quote_literal`]). A `COMMIT` that the server answered with `ROLLBACK`, because the
    /// transaction had failed before, is an error (`Statement`, SQLSTATE 25P02), never success.
    async fn execute(&mut self, statement: &str, deadline: Duration) -> Result<(), SqlError>;

    /// Ends the session in order and waits a short while for the connection's end. The server may list the session for a
    /// moment longer.
    async fn close(self: Box<Self>);
}

/// One question to a database: SQL that returns exactly one JSON document, and the values bound into it.
#[derive(Debug, Clone)]
pub struct Question {
    /// Names the question in logs and error messages.
    pub name: &'static str,
    /// One statement. `$1`, `$2` ... stand for the parameters, each with its cast: `$1::text`, `$2::int8`. No `$<digits>`
    /// may appear in it otherwise (in a literal, say).
    pub sql: Cow<'static, str>,
    /// The values of `$1`, `$2` ..., in text form. None may contain a NUL.
    pub parameters: Vec<String>,
}

impl Question {
    /// A question without parameters.
    pub const fn new(name: &'static str, sql: &'static str) -> Self {
        Self { name, sql: Cow::Borrowed(sql), parameters: Vec::new() }
    }

    /// The same question with one more value, for the next placeholder.
    #[must_use]
    pub fn with(mut self, value: impl Into<String>) -> Self {
        self.parameters.push(value.into());
        self
    }
}

/// What kind of failure an [`SqlError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlErrorKind {
    /// No session, or a session lost: refused, unreachable, login failed, terminated by the server.
    Connect,
    /// The server refused the statement; the session lives.
    Statement,
    /// The client's deadline passed; the outcome is unknown and the session unusable.
    Deadline,
    /// The answer was not what this protocol promises; the session is unusable.
    Protocol,
}

/// Why a session or a statement failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", .sqlstate.as_ref().map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default())]
pub struct SqlError {
    /// The kind, from which callers pick what to do next.
    pub kind: SqlErrorKind,
    /// The server's five-character code, where the server gave one.
    pub sqlstate: Option<String>,
    /// What happened, for people. Holds no parameter values and no secrets of ours; the server's words may quote data.
    pub message: String,
}

impl SqlError {
    /// An error without SQLSTATE.
    pub fn new(kind: SqlErrorKind, message: impl Into<String>) -> Self {
        Self { kind, sqlstate: None, message: message.into() }
    }

    /// The client's deadline passed in `what`.
    pub fn deadline(what: &str, deadline: Duration) -> Self {
        Self::new(SqlErrorKind::Deadline, format!("{what}: no answer within {:.1} s", deadline.as_secs_f64()))
    }

    /// Whether a statement was refused for what usually passes: a lock not had, memory or slots that others use, a limit of time
    /// (classes 08, 40, 53, 55 and 57 of PostgreSQL's manual, appendix A). A full volume gets no larger by waiting.
    pub fn may_pass(&self) -> bool {
        let code = self.sqlstate.as_deref().unwrap_or("");
        self.kind == SqlErrorKind::Statement
            && code != "53100"
            && ["08", "40", "53", "55", "57"].iter().any(|class| code.starts_with(class))
    }

    /// Whether the server gave this SQLSTATE.
    pub fn is(&self, sqlstate: &str) -> bool {
        self.sqlstate.as_deref() == Some(sqlstate)
    }
}

/// The question that applies [`SESSION_SETTINGS`]; each carrier puts it first in a new session.
///
/// Every name in it is qualified, since the search path is not yet pinned when it runs.
pub fn session_settings() -> Question {
    let mut rows = String::new();
    for (name, value) in SESSION_SETTINGS {
        let separator = if rows.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(rows, "{separator}({}, {})", quote_literal(name), quote_literal(value));
    }
    Question {
        name: "session settings",
        sql: Cow::Owned(format!(
            "SELECT pg_catalog.json_agg(pg_catalog.set_config(s.name, s.value, false)) \
             FROM (VALUES {rows}) AS s(name, value) \
             WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL"
        )),
        parameters: Vec::new(),
    }
}

/// An SQL identifier, always in double quotes. The name must not contain a NUL.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL string literal that means the same whatever `standard_conforming_strings` is. No NUL.
pub fn quote_literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_always_quoted() {
        assert_eq!(quote_identifier("onyx"), r#""onyx""#);
        assert_eq!(quote_identifier(r#"a"b 'c'"#), r#""a""b 'c'""#);
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'b"), r" E'a\\''b'");
    }

    #[test]
    fn an_error_names_the_servers_code() {
        let mut error = SqlError::new(SqlErrorKind::Statement, "database \"x\" does not exist");
        assert_eq!(error.to_string(), "database \"x\" does not exist");
        error.sqlstate = Some("3D000".into());
        assert_eq!(error.to_string(), "database \"x\" does not exist (SQLSTATE 3D000)");
        assert!(error.is("3D000"));
    }
}
