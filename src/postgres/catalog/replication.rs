//! Who follows a server or a database, and whom it follows.

use serde::{Deserialize, Serialize};

use super::ask;
use crate::postgres::carrier::{Question, Session, SqlError};

/// A subscription: a background writer into a database that connects by OID, past every rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its name, unique in its database.
    pub name: String,
    /// Its OID.
    pub oid: u32,
    /// It applies changes as they come.
    pub enabled: bool,
    /// Its owner.
    pub owner: String,
    /// Pids of its workers that live, apply and table synchronisation.
    pub workers: Vec<i32>,
}

/// The subscriptions of the database with this OID, by name, asked from any database. At most 1,000.
pub async fn subscriptions(session: &mut dyn Session, database_oid: u32) -> Result<Vec<Subscription>, SqlError> {
    ask(session, &Question::new("subscriptions", SUBSCRIPTIONS).with(database_oid.to_string())).await
}

const SUBSCRIPTIONS: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]') FROM (
  SELECT s.subname AS name, pg_catalog.jsonb_build_object(
    'name', s.subname, 'oid', s.oid::int8, 'enabled', s.subenabled, 'owner', coalesce(r.rolname, ''),
    'workers', (SELECT coalesce(pg_catalog.jsonb_agg(w.pid ORDER BY w.pid), '[]') FROM pg_catalog.pg_stat_get_subscription(s.oid) AS w WHERE w.pid IS NOT NULL)) AS item
  FROM pg_catalog.pg_subscription AS s LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.subowner
  WHERE s.subdbid = $1::int8::oid ORDER BY s.subname LIMIT 1000) AS x";

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationSlot {
    /// Its name.
    pub name: String,
    /// The output plugin; None for a physical slot.
    pub plugin: Option<String>,
    /// Someone reads from it now.
    pub active: bool,
    /// Who.
    pub active_pid: Option<i32>,
    /// It goes with its session.
    pub temporary: bool,
    /// Bytes of WAL that the server keeps for it. None on a standby or when it has no position yet.
    pub retained_bytes: Option<u64>,
}

/// The logical slots of the named database, by name, at most 1,000. They never travel, and dropping the database drops
/// the inactive ones.
pub async fn replication_slots(session: &mut dyn Session, database: &str) -> Result<Vec<ReplicationSlot>, SqlError> {
    ask(session, &Question::new("replication slots", SLOTS).with(database)).await
}

const SLOTS: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]') FROM (
  SELECT s.slot_name AS name, pg_catalog.jsonb_build_object(
    'name', s.slot_name, 'plugin', s.plugin, 'active', s.active, 'active_pid', s.active_pid, 'temporary', s.temporary,
    'retained_bytes', CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN greatest(0, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)) END) AS item
  FROM pg_catalog.pg_replication_slots AS s WHERE s.database = $1::text ORDER BY s.slot_name LIMIT 1000) AS x";

/// A physical follower that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// Process id of its sender.
    pub pid: i32,
    /// What it calls itself.
    pub application_name: String,
    /// Its address.
    pub client: Option<String>,
    /// `startup`, `catchup`, `streaming`, `stopping`; None: not to be seen by this role.
    pub state: Option<String>,
    /// `async`, `sync`, `quorum`, `potential`.
    pub sync_state: Option<String>,
    /// How far it has replayed. None: it has not said, or it only receives (`pg_receivewal`), or not to be seen.
    pub replay_lsn: Option<String>,
    /// It has replayed the position that was asked about.
    pub caught_up: bool,
    /// It receives without ever replaying, so it cannot be promoted.
    pub receiver_only: bool,
}

/// The physical followers of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standbys {
    /// Where the server's WAL ended when it was asked.
    pub current_lsn: String,
    /// Those that are connected, base backups left out. At most 100.
    pub standbys: Vec<Standby>,
    /// Physical slots that nobody reads: a standby that is away and may come back or be promoted. At most 100.
    pub detached_slots: Vec<String>,
}

impl Standbys {
    /// Those that could still be promoted without the position that was asked about.
    pub fn behind(&self) -> impl Iterator<Item = &Standby> {
        self.standbys.iter().filter(|standby| !standby.caught_up && !standby.receiver_only)
    }
}

/// The followers, judged against the WAL position `lsn`; None: against the present end. On a primary only.
pub async fn standbys(session: &mut dyn Session, lsn: Option<&str>) -> Result<Standbys, SqlError> {
    ask(session, &Question::new("standbys", STANDBYS).with(lsn.unwrap_or_default())).await
}

// Logical senders live in a database, physical ones do not.
const STANDBYS: &str = r"
WITH asked AS MATERIALIZED (
  SELECT pg_catalog.pg_current_wal_lsn() AS here, coalesce(nullif($1::text, '')::pg_catalog.pg_lsn, pg_catalog.pg_current_wal_lsn()) AS lsn
)
SELECT pg_catalog.jsonb_build_object('current_lsn', q.here::text,
  'standbys', (SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.pid), '[]') FROM (
    SELECT r.pid, pg_catalog.jsonb_build_object('pid', r.pid, 'application_name', coalesce(r.application_name, ''), 'client', r.client_addr::text,
      'state', r.state, 'sync_state', r.sync_state, 'replay_lsn', r.replay_lsn::text,
      'caught_up', coalesce(r.replay_lsn >= q.lsn, false),
      'receiver_only', coalesce(r.state = 'streaming' AND r.replay_lsn IS NULL AND r.write_lsn IS NOT NULL, false)) AS item
    FROM pg_catalog.pg_stat_replication AS r
    WHERE coalesce(r.state, '') <> 'backup'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = r.pid AND a.datid IS NOT NULL AND a.datid <> 0)
    ORDER BY r.pid LIMIT 100) AS x),
  'detached_slots', (SELECT coalesce(pg_catalog.jsonb_agg(x.name ORDER BY x.name), '[]') FROM (
    SELECT s.slot_name AS name FROM pg_catalog.pg_replication_slots AS s
    WHERE s.slot_type = 'physical' AND NOT s.active ORDER BY s.slot_name LIMIT 100) AS x))
FROM asked AS q";
