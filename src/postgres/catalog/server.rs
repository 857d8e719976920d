//! The server as a whole, and the witness of writes.

use serde::{Deserialize, Serialize};

use super::ask;
use crate::postgres::carrier::{Question, Session, SqlError};
use crate::postgres::versions::Version;

/// A server, and what the session's role may do there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is a right that the server gives or not")]
pub struct Server {
    /// `server_version_num`.
    pub version: Version,
    /// Identifies the cluster for its life: its standbys and physical copies share it. Decimal digits.
    pub system_identifier: String,
    /// Grows when a standby is promoted.
    pub timeline: u32,
    /// True on a standby: nothing can be written here.
    pub in_recovery: bool,
    /// The database of this session.
    pub database: String,
    /// OID of the database of this session.
    pub database_oid: u32,
    /// Encoding of the database of this session.
    pub encoding: String,
    /// The session's current role.
    pub user: String,
    /// The role is a superuser.
    pub superuser: bool,
    /// The role may create databases (superusers always).
    pub createdb: bool,
    /// The role may create roles (superusers always).
    pub createrole: bool,
    /// Row security does not bind the role (superusers always).
    pub bypassrls: bool,
    /// The role may end sessions of other non-superusers.
    pub signal_backend: bool,
    /// The role sees the details of all sessions.
    pub read_all_stats: bool,
    /// The role may read `pg_largeobject`.
    pub read_large_objects: bool,
    /// The role may read `pg_hba_file_rules`.
    pub read_hba: bool,
    /// `max_connections`.
    pub max_connections: u32,
    /// `wal_level`.
    pub wal_level: String,
    /// `synchronous_standby_names`; while it names a standby that is away, every commit hangs.
    pub synchronous_standby_names: String,
    /// `block_size`, bytes.
    pub block_size: u32,
    /// How many objects one transaction can lock at least, while nobody else locks any (manual, `max_locks_per_transaction`).
    pub lock_slots: u64,
    /// More than one transaction can ever lock: the shared lock table has room for all kinds of processes, and grows into what is
    /// left of the shared memory, a tenth and up to one huge page. A lock takes 248 bytes. With default settings and no huge
    /// pages 12,872 objects could be locked on 15 and 13,072 on 17, where this says 13,209.
    pub lock_limit: u64,
    /// The last transaction id handed out anywhere in the cluster is below this one.
    pub next_xid: String,
}

/// Asks who and what the server is.
pub async fn server(session: &mut dyn Session) -> Result<Server, SqlError> {
    ask(session, &Question::new("server", SERVER)).await
}

// The timeline of a primary comes from its WAL file names, since the control file follows a promotion only with the next
// checkpoint.
const SERVER: &str = r"
SELECT pg_catalog.jsonb_build_object(
  'version', pg_catalog.current_setting('server_version_num')::int4,
  'system_identifier', (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() AS c),
  'timeline', CASE WHEN pg_catalog.pg_is_in_recovery()
    THEN (SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() AS c)
    ELSE ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int4 END,
  'in_recovery', pg_catalog.pg_is_in_recovery(),
  'database', d.datname,
  'database_oid', d.oid::int8,
  'encoding', pg_catalog.pg_encoding_to_char(d.encoding),
  'user', r.rolname,
  'superuser', r.rolsuper,
  'createdb', r.rolcreatedb OR r.rolsuper,
  'createrole', r.rolcreaterole OR r.rolsuper,
  'bypassrls', r.rolbypassrls OR r.rolsuper,
  'signal_backend', pg_catalog.pg_has_role(r.oid, 'pg_signal_backend', 'USAGE'),
  'read_all_stats', pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE'),
  'read_large_objects', pg_catalog.has_table_privilege(r.oid, 'pg_catalog.pg_largeobject', 'SELECT'),
  'read_hba', pg_catalog.has_table_privilege(r.oid, 'pg_catalog.pg_hba_file_rules', 'SELECT')
    AND pg_catalog.has_function_privilege(r.oid, 'pg_catalog.pg_hba_file_rules()', 'EXECUTE'),
  'max_connections', pg_catalog.current_setting('max_connections')::int4,
  'wal_level', pg_catalog.current_setting('wal_level'),
  'synchronous_standby_names', pg_catalog.left(pg_catalog.current_setting('synchronous_standby_names'), 1000),
  'block_size', pg_catalog.current_setting('block_size')::int4,
  'lock_slots', pg_catalog.current_setting('max_locks_per_transaction')::int8
    * (pg_catalog.current_setting('max_connections')::int8 + pg_catalog.current_setting('max_prepared_transactions')::int8),
  'lock_limit', pg_catalog.current_setting('max_locks_per_transaction')::int8 * 8 / 5
    * (8 + pg_catalog.current_setting('max_connections')::int8 + pg_catalog.current_setting('max_prepared_transactions')::int8
      + coalesce(pg_catalog.current_setting('autovacuum_worker_slots', true), pg_catalog.current_setting('autovacuum_max_workers'))::int8
      + pg_catalog.current_setting('max_worker_processes')::int8 + pg_catalog.current_setting('max_wal_senders')::int8)
    + CASE WHEN coalesce(pg_catalog.current_setting('huge_pages_status', true), pg_catalog.current_setting('huge_pages')) = 'off' THEN 0
      ELSE greatest(pg_catalog.pg_size_bytes(pg_catalog.current_setting('huge_page_size')), 2097152) / 248 END,
  'next_xid', pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text)
FROM pg_catalog.pg_database AS d, pg_catalog.pg_roles AS r
WHERE d.datname = pg_catalog.current_database() AND r.rolname = current_user";

/// What the system under a server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Where the data are, a path inside its container; None: this role may not know.
    pub data_directory: Option<String>,
    /// Locales of the C library that it knew when the server was made, as they are called there. At most 4,000.
    pub locales: Vec<String>,
}

/// Asks what the system under the server has.
pub async fn system(session: &mut dyn Session) -> Result<System, SqlError> {
    ask(session, &Question::new("system", SYSTEM)).await
}

const SYSTEM: &str = r"
SELECT pg_catalog.jsonb_build_object(
  'data_directory', CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') THEN pg_catalog.current_setting('data_directory') END,
  'locales', (SELECT coalesce(pg_catalog.jsonb_agg(x.name ORDER BY x.name), '[]') FROM (
    SELECT DISTINCT c.collcollate AS name FROM pg_catalog.pg_collation AS c
    WHERE c.collprovider = 'c' AND c.collcollate IS NOT NULL ORDER BY 1 LIMIT 4000) AS x))";

/// What moves when something is written. Two equal witnesses mean that nothing was written in between; unequal ones
/// mean that the data must be compared again, since `next_xid` and `wal_lsn` belong to the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// OID of the session's database.
    pub database_oid: u32,
    /// The next transaction id of the cluster. Moved by every write but a `nextval` inside its sequence's cached
    /// values and writes to unlogged sequences; by vacuum and by other databases too.
    pub next_xid: String,
    /// The cluster's WAL position. Informative: checkpoints and hint bits move it as well.
    pub wal_lsn: String,
    /// SHA-256 over the last values of all sequences of the database, hexadecimal.
    pub sequences: String,
    /// How many sequences are in that hash.
    pub sequence_count: u64,
    /// How many sequences the role may not read; they are in the hash by name only.
    pub unreadable_sequences: u64,
}

impl Witness {
    /// Whether nothing was written between the two.
    pub fn proves_quiet(&self, later: &Self) -> bool {
        self.database_oid == later.database_oid
            && self.next_xid == later.next_xid
            && self.sequences == later.sequences
            && self.unreadable_sequences == 0
            && later.unreadable_sequences == 0
    }
}

/// Takes the witness of the session's database.
pub async fn witness(session: &mut dyn Session) -> Result<Witness, SqlError> {
    ask(session, &Question::new("witness", WITNESS)).await
}

/// Rows that were inserted, updated and deleted in tables of the session's database since its statistics began, those of
/// transactions that failed among them. Equal counts mean that no row was changed in between, but for those that TRUNCATE took; a
/// crash of the server begins the count anew (PostgreSQL's manual, 27.2).
pub async fn row_changes(session: &mut dyn Session) -> Result<i64, SqlError> {
    ask(session, &Question::new("row changes", ROW_CHANGES)).await
}

const ROW_CHANGES: &str = r"
SELECT pg_catalog.to_jsonb(coalesce(pg_catalog.sum(s.n_tup_ins + s.n_tup_upd + s.n_tup_del), 0)::int8)
FROM pg_catalog.pg_stat_user_tables AS s";

// A sequence that was never called has no last value; setting one without calling it takes a transaction id.
const WITNESS: &str = r"
SELECT pg_catalog.jsonb_build_object(
  'database_oid', (SELECT d.oid::int8 FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()),
  'next_xid', pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text,
  'wal_lsn', CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()::text
    ELSE pg_catalog.pg_current_wal_lsn()::text END,
  'sequences', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
    coalesce(pg_catalog.string_agg(s.oid::text || ':' || coalesce(s.value::text, '-'), ',' ORDER BY s.oid), ''), 'UTF8')), 'hex'),
  'sequence_count', pg_catalog.count(*),
  'unreadable_sequences', pg_catalog.count(*) FILTER (WHERE NOT s.readable))
FROM (
  SELECT c.oid::int8 AS oid, p.readable, CASE WHEN p.readable THEN pg_catalog.pg_sequence_last_value(c.oid) END AS value
  FROM pg_catalog.pg_class AS c
  CROSS JOIN LATERAL (SELECT pg_catalog.has_sequence_privilege(c.oid, 'USAGE') OR pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AS readable OFFSET 0) AS p
  WHERE c.relkind = 'S' AND c.relpersistence <> 't' OFFSET 0) AS s";

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Witness {
        Witness {
            database_oid: 16_384,
            next_xid: "735".into(),
            wal_lsn: "0/1".into(),
            sequences: "00".into(),
            sequence_count: 1,
            unreadable_sequences: 0,
        }
    }

    #[test]
    fn only_what_a_write_moves_counts() {
        let before = quiet();
        assert!(before.proves_quiet(&Witness { wal_lsn: "0/2".into(), ..quiet() }));
        assert!(!before.proves_quiet(&Witness { next_xid: "736".into(), ..quiet() }));
        assert!(!before.proves_quiet(&Witness { sequences: "01".into(), ..quiet() }));
        assert!(!before.proves_quiet(&Witness { database_oid: 1, ..quiet() }));
        assert!(!before.proves_quiet(&Witness { unreadable_sequences: 1, ..quiet() }));
    }
}
