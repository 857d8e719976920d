//! What goes on in a database: sessions, index builds, prepared transactions.
//!
//! These questions take the database's OID and are put from any database of the server.

use serde::{Deserialize, Serialize};

use super::{Capped, ask};
use crate::postgres::carrier::{Question, Session, SqlError};

/// A server process that works in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignSession {
    /// Process id.
    pub pid: i32,
    /// Its role; None for workers without one.
    pub user: Option<String>,
    /// What the client calls itself, at most 63 bytes.
    pub application_name: Option<String>,
    /// The client's address; None: a local socket, a worker, or not to be seen by this role.
    pub client: Option<String>,
    /// `active`, `idle`, `idle in transaction`, ...; None: a worker, or not to be seen by this role.
    pub state: Option<String>,
    /// `client backend`, `walsender`, `parallel worker`, ...; None: not to be seen by this role.
    pub backend_type: Option<String>,
    /// Seconds since it began.
    pub age: Option<u64>,
    /// Seconds since its open transaction began.
    pub transaction_age: Option<u64>,
}

/// The processes in a database.
pub type Sessions = Capped<ForeignSession>;

/// All processes in the database with this OID but the asking one, autovacuum workers, and those whose application name
/// begins with `ours` (empty: none are ours). By pid, at most 100.
///
/// Autovacuum workers enter databases that refuse connections, write nothing of a user's, and give way to a rename.
/// Without `pg_read_all_stats` they are told from others by having no role.
pub async fn sessions(session: &mut dyn Session, database_oid: u32, ours: &str) -> Result<Sessions, SqlError> {
    ask(session, &Question::new("sessions", SESSIONS).with(database_oid.to_string()).with(ours)).await
}

const SESSIONS: &str = r"
SELECT pg_catalog.jsonb_build_object('total', pg_catalog.count(*), 'items',
  coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.pid) FILTER (WHERE x.place <= 100), '[]'))
FROM (
  SELECT a.pid, pg_catalog.row_number() OVER (ORDER BY a.pid) AS place, pg_catalog.jsonb_build_object(
    'pid', a.pid, 'user', a.usename, 'application_name', a.application_name, 'client', a.client_addr::text,
    'state', a.state, 'backend_type', a.backend_type,
    'age', CASE WHEN a.backend_start IS NOT NULL THEN greatest(0, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.backend_start))::int8 END,
    'transaction_age', CASE WHEN a.xact_start IS NOT NULL THEN greatest(0, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start))::int8 END) AS item
  FROM pg_catalog.pg_stat_activity AS a
  WHERE a.datid = $1::int8::oid AND a.pid <> pg_catalog.pg_backend_pid()
    AND CASE WHEN a.backend_type IS NULL THEN a.usesysid IS NOT NULL ELSE a.backend_type <> 'autovacuum worker' END
    AND ($2::text = '' OR NOT pg_catalog.starts_with(coalesce(a.application_name, ''), $2::text))) AS x";

/// An index being built concurrently. Ending it leaves an invalid index behind, which a dump omits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexBuild {
    /// Process id.
    pub pid: i32,
    /// `CREATE INDEX CONCURRENTLY` or `REINDEX CONCURRENTLY`.
    pub command: String,
    /// What it is doing.
    pub phase: String,
}

/// Concurrent index builds in the database with this OID.
pub async fn index_builds(session: &mut dyn Session, database_oid: u32) -> Result<Vec<IndexBuild>, SqlError> {
    ask(session, &Question::new("index builds", INDEX_BUILDS).with(database_oid.to_string())).await
}

const INDEX_BUILDS: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.pid), '[]') FROM (
  SELECT p.pid, pg_catalog.jsonb_build_object('pid', p.pid, 'command', p.command, 'phase', coalesce(p.phase, '')) AS item
  FROM pg_catalog.pg_stat_progress_create_index AS p
  WHERE p.datid = $1::int8::oid AND (p.command IS NULL OR p.command LIKE '%CONCURRENTLY') ORDER BY p.pid LIMIT 100) AS x";

/// Ends the sessions whose `application_name` begins with `tag`, in all databases, but for the asking one. Returns the process id
/// of the oldest of them: a process may need a moment to end, so ask again until there is none.
pub async fn end_tagged_sessions(session: &mut dyn Session, tag: &str) -> Result<Option<i32>, SqlError> {
    ask(session, &Question::new("end tagged sessions", END_TAGGED).with(tag)).await
}

// Every row is told to end, in whatever order they are then put.
const END_TAGGED: &str = r"
SELECT coalesce(pg_catalog.to_jsonb((pg_catalog.array_agg(a.pid ORDER BY a.backend_start, a.pid)
  FILTER (WHERE pg_catalog.pg_terminate_backend(a.pid) IS NOT NULL))[1]), 'null')
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid <> pg_catalog.pg_backend_pid() AND pg_catalog.starts_with(a.application_name, $1::text)";

/// Ends the sessions of `role` in the named database, but for the asking one and those whose `application_name` begins with
/// `but`. Returns the process id of the oldest, as [`end_tagged_sessions`] does.
pub async fn end_sessions_of(session: &mut dyn Session, database: &str, role: &str, but: &str) -> Result<Option<i32>, SqlError> {
    ask(session, &Question::new("end sessions of a role", END_OF_ROLE).with(database).with(role).with(but)).await
}

const END_OF_ROLE: &str = r"
SELECT coalesce(pg_catalog.to_jsonb((pg_catalog.array_agg(a.pid ORDER BY a.backend_start, a.pid)
  FILTER (WHERE pg_catalog.pg_terminate_backend(a.pid) IS NOT NULL))[1]), 'null')
FROM pg_catalog.pg_stat_activity AS a
WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datname = $1::text AND a.usename = $2::text
  AND NOT pg_catalog.starts_with(a.application_name, $3::text)";

/// A transaction that no session holds any more, but that can still be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedTransaction {
    /// Its global identifier, as `COMMIT PREPARED` takes it.
    pub gid: String,
    /// Whose it is.
    pub owner: String,
    /// Seconds since it was prepared.
    pub age: u64,
}

/// Prepared transactions of the named database, oldest first, at most 100.
pub async fn prepared_transactions(session: &mut dyn Session, database: &str) -> Result<Capped<PreparedTransaction>, SqlError> {
    ask(session, &Question::new("prepared transactions", PREPARED).with(database)).await
}

const PREPARED: &str = r"
SELECT pg_catalog.jsonb_build_object('total', pg_catalog.count(*), 'items',
  coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.place) FILTER (WHERE x.place <= 100), '[]'))
FROM (
  SELECT pg_catalog.row_number() OVER (ORDER BY p.prepared, p.gid) AS place, pg_catalog.jsonb_build_object(
    'gid', p.gid, 'owner', coalesce(p.owner, ''), 'age', greatest(0, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - p.prepared))::int8) AS item
  FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database = $1::text) AS x";
