//! The databases of a server, and what is attached to one from outside.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Capped, ask};
use crate::postgres::carrier::{Question, Session, SqlError};

/// A database as its server lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its OID: what it is, whatever it is called at the moment.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// False: nobody can connect, superusers included.
    pub allow_connections: bool,
    /// Anyone with CREATEDB may copy it.
    pub is_template: bool,
    /// How many sessions it takes at most; -1: any number; -2: an interrupted DROP, only another DROP is possible.
    pub connection_limit: i32,
    /// The owner's name; empty when the role is gone.
    pub owner: String,
    /// `UTF8`, `SQL_ASCII`, ...
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// `libc`, `icu` or `builtin`.
    pub locale_provider: String,
    /// The locale of the providers `icu` and `builtin`.
    pub locale: Option<String>,
    /// Additional collation rules of provider `icu` (16 and newer).
    pub icu_rules: Option<String>,
    /// Version of the collation data when the database was made.
    pub collation_version: Option<String>,
    /// Version of the collation data that the server runs with.
    pub actual_collation_version: Option<String>,
    /// Name of the default tablespace.
    pub tablespace: String,
    /// The comment, its first 4,000 characters.
    pub comment: Option<String>,
    /// Bytes on disk. Only in the answer of [`database`], and only for a role that may connect or read all statistics.
    pub size: Option<u64>,
}

/// All databases by name, at most 2,000 of them, without sizes.
pub async fn databases(session: &mut dyn Session) -> Result<Capped<Database>, SqlError> {
    let question = Question { name: "databases", sql: Cow::Owned(text("true", "NULL::int8")), parameters: Vec::new() };
    ask(session, &question).await
}

/// The database of this name, with its size. None: there is no such database.
pub async fn database(session: &mut dyn Session, name: &str) -> Result<Option<Database>, SqlError> {
    let question = Question { name: "database", sql: Cow::Owned(text("d.datname = $1::text", SIZE)), parameters: Vec::new() };
    let found: Capped<Database> = ask(session, &question.with(name)).await?;
    Ok(found.items.into_iter().next())
}

const SIZE: &str = "CASE WHEN pg_catalog.has_database_privilege(d.oid, 'CONNECT') \
    OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') THEN pg_catalog.pg_database_size(d.oid) END";

fn text(condition: &str, size: &str) -> String {
    format!(
        r"
SELECT pg_catalog.jsonb_build_object(
  'total', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_database AS d WHERE {condition}),
  'items', coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]'))
FROM (
  SELECT d.datname AS name, pg_catalog.jsonb_build_object(
    'oid', d.oid::int8, 'name', d.datname, 'allow_connections', d.datallowconn, 'is_template', d.datistemplate,
    'connection_limit', d.datconnlimit, 'owner', coalesce(r.rolname, ''),
    'encoding', pg_catalog.pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
    'locale_provider', CASE d.datlocprovider WHEN 'c' THEN 'libc' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE d.datlocprovider::text END,
    'locale', coalesce(j.row ->> 'datlocale', j.row ->> 'daticulocale'),
    'icu_rules', j.row ->> 'daticurules',
    'collation_version', d.datcollversion,
    'actual_collation_version', pg_catalog.pg_database_collation_actual_version(d.oid),
    'tablespace', coalesce(t.spcname, ''),
    'comment', pg_catalog.left(pg_catalog.shobj_description(d.oid, 'pg_database'), 4000),
    'size', {size}) AS item
  FROM pg_catalog.pg_database AS d
  CROSS JOIN LATERAL (SELECT pg_catalog.to_jsonb(d.*) AS row) AS j
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = d.datdba
  LEFT JOIN pg_catalog.pg_tablespace AS t ON t.oid = d.dattablespace
  WHERE {condition} ORDER BY d.datname LIMIT 2000) AS x"
    )
}

/// One privilege on a database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AclItem {
    /// Who granted it.
    pub grantor: String,
    /// Who holds it; None is PUBLIC.
    pub grantee: Option<String>,
    /// `CONNECT`, `CREATE`, `TEMPORARY`.
    pub privilege: String,
    /// May be passed on.
    pub grantable: bool,
}

/// A configuration setting attached to a database, for all roles or for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoleSetting {
    /// The role; None: every role in this database.
    pub role: Option<String>,
    /// `name=value`, as the catalog holds it.
    pub setting: String,
}

/// What belongs to a database but lives outside it, so that a dump without `-C` leaves it behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSettings {
    /// The access list in the server's own text form; None is the built-in default.
    pub acl_text: Option<Vec<String>>,
    /// The access list, item by item; the built-in default written out when there is none. At most 2,000 items.
    pub acl: Vec<AclItem>,
    /// `ALTER DATABASE ... SET` first, then `ALTER ROLE ... IN DATABASE ... SET` by role, each in the order of the catalog.
    /// At most 2,000.
    pub settings: Vec<RoleSetting>,
}

/// Access list and settings of the database with this OID. A `Protocol` error when it does not exist.
pub async fn database_settings(session: &mut dyn Session, oid: u32) -> Result<DatabaseSettings, SqlError> {
    ask(session, &Question::new("database settings", SETTINGS).with(oid.to_string())).await
}

const SETTINGS: &str = r"
SELECT pg_catalog.jsonb_build_object(
  'acl_text', CASE WHEN d.datacl IS NOT NULL THEN pg_catalog.to_jsonb(d.datacl::text[]) END,
  'acl', (SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.item::text), '[]') FROM (
    SELECT pg_catalog.jsonb_build_object(
      'grantor', coalesce(g.rolname, a.grantor::text),
      'grantee', CASE WHEN a.grantee <> 0 THEN coalesce(r.rolname, a.grantee::text) END,
      'privilege', a.privilege_type, 'grantable', a.is_grantable) AS item
    FROM pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS a
    LEFT JOIN pg_catalog.pg_roles AS g ON g.oid = a.grantor
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = a.grantee LIMIT 2000) AS x),
  'settings', (SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.role NULLS FIRST, x.place), '[]') FROM (
    SELECT r.rolname AS role, u.place, pg_catalog.jsonb_build_object('role', CASE WHEN s.setrole <> 0 THEN coalesce(r.rolname, s.setrole::text) END,
      'setting', u.setting) AS item
    FROM pg_catalog.pg_db_role_setting AS s CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) WITH ORDINALITY AS u(setting, place)
    LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
    WHERE s.setdatabase = d.oid LIMIT 2000) AS x))
FROM pg_catalog.pg_database AS d WHERE d.oid = $1::int8::oid";
