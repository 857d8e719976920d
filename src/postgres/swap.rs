//! What fencing and publishing have in common: databases looked up by OID, emptied of sessions, and renamed together in
//! one transaction.
//!
//! Renaming is the barrier. `ALTER DATABASE ... RENAME` refuses while any session or prepared transaction is in the
//! database, and no session can enter while it runs; refusing connections and terminating sessions beforehand only make
//! it succeed. Here: the parts. Not here: which database takes which name (`fence`, `publish`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::admin::AdminSessions;
use super::carrier::{Question, SqlError, SqlErrorKind, quote_identifier};
use super::catalog;

const PAUSE: Duration = Duration::from_millis(50);

/// A server process that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// Process id.
    pub pid: i32,
    /// Its role, where it is to be seen.
    pub user: Option<String>,
    /// What the client calls itself.
    pub application_name: Option<String>,
    /// `active`, `idle in transaction`, ...
    pub state: Option<String>,
    /// It is connected to the database; otherwise it holds a lock on it, or changes it, from elsewhere.
    pub inside: bool,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pid {}", self.pid)?;
        for (label, value) in [("role", &self.user), ("application", &self.application_name), ("state", &self.state)] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                write!(f, ", {label} {value:?}")?;
            }
        }
        Ok(())
    }
}

/// Why databases could not be fenced, published or given back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SwapError {
    /// The server or the way to it failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// Time ran out before the database was free. What had been done on the way was taken back where the operation
    /// promises so.
    #[error("{what} could not be done in time{}", describe(.blockers, .cause.as_ref()))]
    Blocked {
        /// What was being done, for people.
        what: String,
        /// Who stood in the way, as far as it can be seen.
        blockers: Vec<Blocker>,
        /// The last thing the server said.
        cause: Option<SqlError>,
    },
    /// The databases are not what they must be for this operation. Nothing was changed by it.
    #[error("{0}")]
    Unexpected(String),
}

fn describe(blockers: &[Blocker], cause: Option<&SqlError>) -> String {
    let mut text = String::new();
    if !blockers.is_empty() {
        let list: Vec<String> = blockers.iter().take(5).map(ToString::to_string).collect();
        text.push_str("; in the way: ");
        text.push_str(&list.join("; "));
        if blockers.len() > list.len() {
            text.push_str("; and others");
        }
    }
    if let Some(cause) = cause {
        text.push_str("; the server said: ");
        text.push_str(&cause.to_string());
    }
    text
}

/// A database as `pg_database` has it at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Row {
    pub oid: u32,
    pub name: String,
    pub allow_connections: bool,
    pub is_template: bool,
    pub connection_limit: i32,
    /// Client sessions since statistics were last reset, one that opened it and is gone included.
    pub sessions: u64,
}

/// The databases with these OIDs or names.
pub(crate) struct Rows(pub Vec<Row>);

impl Rows {
    pub fn by_oid(&self, oid: u32) -> Option<&Row> {
        self.0.iter().find(|row| row.oid == oid)
    }

    pub fn by_name(&self, name: &str) -> Option<&Row> {
        self.0.iter().find(|row| row.name == name)
    }
}

/// Reads one consistent picture of the databases with these OIDs or names, after nothing of ours is under way any more.
pub(crate) async fn look(admins: &mut AdminSessions, oids: &[u32], names: &[&str]) -> Result<Rows, SqlError> {
    admins.settle().await?;
    let question = Question::new("databases of a swap", LOOK)
        .with(serde_json::Value::from(oids.to_vec()).to_string())
        .with(serde_json::Value::from(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).to_string());
    Ok(Rows(admins.ask(&question).await?))
}

const LOOK: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('oid', d.oid::int8, 'name', d.datname, 'allow_connections', d.datallowconn,
  'is_template', d.datistemplate, 'connection_limit', d.datconnlimit,
  'sessions', coalesce(pg_catalog.pg_stat_get_db_sessions(d.oid), 0))), '[]')
FROM pg_catalog.pg_database AS d
WHERE d.oid::int8 IN (SELECT o.oid::int8 FROM pg_catalog.jsonb_array_elements_text($1::jsonb) AS o(oid))
   OR d.datname IN (SELECT n.name FROM pg_catalog.jsonb_array_elements_text($2::jsonb) AS n(name))";

/// Whether the database with OID `$1` is called `$2`: asked at the end of a renaming transaction.
pub(crate) fn is_called(oid: u32, name: &str) -> Question {
    Question::new(
        "the renamed database",
        "SELECT pg_catalog.to_jsonb(EXISTS (SELECT FROM pg_catalog.pg_database AS d WHERE d.oid = $1::int8::oid AND d.datname = $2::text))",
    )
    .with(oid.to_string())
    .with(name)
}

pub(crate) fn rename(from: &str, to: &str) -> String {
    format!("ALTER DATABASE {} RENAME TO {}", quote_identifier(from), quote_identifier(to))
}

pub(crate) fn allow_connections(database: &str, allow: bool) -> String {
    format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allow}", quote_identifier(database))
}

/// Whether the same thing may succeed a moment later: a lock not had, a session in the database, a change of the same
/// catalog row, the server's own time limit.
pub(crate) fn passes(error: &SqlError) -> bool {
    error.kind == SqlErrorKind::Statement
        && match error.sqlstate.as_deref() {
            Some("55P03" | "55006" | "57014" | "40P01" | "40001") => true,
            // The server gives no code of its own to this one. Its words are not translated.
            Some("XX000") => error.message.contains("tuple concurrently"),
            Some(_) | None => false,
        }
}

/// Whether it is unknown what came of a statement, so that the catalogs must be read again.
pub(crate) const fn unknown(error: &SqlError) -> bool {
    match error.kind {
        SqlErrorKind::Statement => false,
        SqlErrorKind::Connect | SqlErrorKind::Deadline | SqlErrorKind::Protocol => true,
    }
}

/// A time limit over several statements, and what the server last said within it.
pub(crate) struct Patience {
    until: Instant,
    cause: Option<SqlError>,
}

impl Patience {
    pub fn new(deadline: Duration) -> Self {
        Self { until: Instant::now() + deadline, cause: None }
    }

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Takes an error that may pass; gives one back that will not.
    pub async fn absorb(&mut self, error: SqlError) -> Result<(), SqlError> {
        if passes(&error) || unknown(&error) {
            self.cause = Some(error);
            sleep(PAUSE).await;
            Ok(())
        } else {
            Err(error)
        }
    }

    /// The error for having run out, naming who is in the way in the databases with these OIDs.
    pub async fn blocked(self, admins: &mut AdminSessions, what: &str, oids: &[u32]) -> SwapError {
        let mut list = Vec::new();
        for oid in oids {
            // Naming is a service; when it fails too, the cause says enough.
            list.extend(blockers(admins, *oid).await.unwrap_or_default());
        }
        SwapError::Blocked { what: what.to_owned(), blockers: list, cause: self.cause }
    }
}

/// Runs one statement, again while the reason for its failure may pass, until `done` says that it has happened.
pub(crate) async fn insist(
    admins: &mut AdminSessions,
    statement: &str,
    what: &str,
    oids: &[u32],
    names: &[&str],
    deadline: Duration,
    done: impl Fn(&Rows) -> bool,
) -> Result<(), SwapError> {
    let mut patience = Patience::new(deadline);
    loop {
        if done(&look(admins, oids, names).await?) {
            return Ok(());
        }
        if patience.is_over() {
            return Err(patience.blocked(admins, what, oids).await);
        }
        if let Err(error) = admins.execute(statement).await {
            patience.absorb(error).await?;
        }
    }
}

/// Ends every session in the database with this OID, until two samples in a row find none.
///
/// Sessions that refuse to end, or that this role may not end, are named when `patience` is over. Autovacuum workers are
/// left alone: a rename removes them itself.
pub(crate) async fn expel(admins: &mut AdminSessions, oid: u32, patience: &mut Patience) -> Result<bool, SqlError> {
    let mut empty = 0;
    while empty < 2 {
        let found = catalog::sessions(admins.session().await?, oid, "").await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                admins.note(&error);
                patience.absorb(error).await?;
                if patience.is_over() {
                    return Ok(false);
                }
                continue;
            }
        };
        if found.is_empty() {
            empty += 1;
            continue;
        }
        empty = 0;
        if patience.is_over() {
            return Ok(false);
        }
        for session in &found.items {
            // One process a statement: an error for one of them must not spare the others.
            let question = Question::new("ending a session", TERMINATE).with(session.pid.to_string()).with(oid.to_string());
            if let Err(error) = admins.ask::<bool>(&question).await {
                if error.kind != SqlErrorKind::Statement {
                    return Err(error);
                }
                patience.cause = Some(error);
            }
        }
        sleep(PAUSE).await;
    }
    Ok(true)
}

const TERMINATE: &str = r"
SELECT pg_catalog.to_jsonb(coalesce(pg_catalog.bool_or(pg_catalog.pg_terminate_backend(a.pid)), false))
FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = $1::int4 AND a.datid = $2::int8::oid";

/// Who is in the database with this OID, holds a lock on it, or has changed its catalog row without committing. At
/// most 50.
pub async fn blockers(admins: &mut AdminSessions, oid: u32) -> Result<Vec<Blocker>, SqlError> {
    admins.ask(&Question::new("blockers", BLOCKERS).with(oid.to_string())).await
}

// A change of the database's row that is not committed yet is known by the row's xmax.
const BLOCKERS: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.inside DESC, x.pid), '[]') FROM (
  SELECT a.pid, a.datid = $1::int8::oid AS inside, pg_catalog.jsonb_build_object('pid', a.pid, 'user', a.usename,
    'application_name', a.application_name, 'state', a.state, 'inside', coalesce(a.datid = $1::int8::oid, false)) AS item
  FROM pg_catalog.pg_stat_activity AS a
  WHERE a.pid <> pg_catalog.pg_backend_pid() AND coalesce(a.backend_type, '') <> 'autovacuum worker'
    AND (a.datid = $1::int8::oid
      OR EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE l.pid = a.pid AND l.granted AND (
        (l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::regclass AND l.objid = $1::int8::oid)
        OR (l.locktype = 'transactionid' AND l.transactionid = (SELECT d.xmax FROM pg_catalog.pg_database AS d WHERE d.oid = $1::int8::oid)))))
  ORDER BY 2 DESC, 1 LIMIT 50) AS x";

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(code: &str, message: &str) -> SqlError {
        SqlError { kind: SqlErrorKind::Statement, sqlstate: Some(code.into()), message: message.into() }
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        assert!(passes(&statement("55006", "database \"app\" is being accessed by other users")));
        assert!(passes(&statement("55P03", "canceling statement due to lock timeout")));
        assert!(passes(&statement("XX000", "tuple concurrently updated")));
        assert!(!passes(&statement("XX000", "cache lookup failed")));
        assert!(!passes(&statement("42501", "must be owner")));
        assert!(!passes(&SqlError::new(SqlErrorKind::Deadline, "no answer")));
    }

    #[test]
    fn a_blocked_operation_names_the_process() {
        let error = SwapError::Blocked {
            what: "fencing \"app\"".into(),
            blockers: vec![Blocker {
                pid: 42,
                user: Some("joe".into()),
                application_name: Some(String::new()),
                state: Some("active".into()),
                inside: true,
            }],
            cause: Some(statement("55006", "in use")),
        };
        assert_eq!(
            error.to_string(),
            "fencing \"app\" could not be done in time; in the way: pid 42, role \"joe\", state \"active\"; \
             the server said: in use (SQLSTATE 55006)"
        );
    }
}
