//! Roles: which exist, what they may do.

use serde::{Deserialize, Serialize};

use super::ask;
use crate::postgres::carrier::{Question, Session, SqlError};

/// A role of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the attributes that PostgreSQL gives a role")]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Its OID.
    pub oid: u32,
    /// Nothing binds it.
    pub superuser: bool,
    /// It may log in.
    pub login: bool,
    /// It has the privileges of the roles that it is a member of (16 and newer decide this per membership).
    pub inherit: bool,
    /// It may create databases.
    pub createdb: bool,
    /// It may create roles.
    pub createrole: bool,
    /// It may stream and dump physically.
    pub replication: bool,
    /// Row security does not bind it.
    pub bypassrls: bool,
    /// How many sessions it may have; -1: any number.
    pub connection_limit: i32,
    /// Its password's end, in UTC; None: never.
    pub valid_until: Option<String>,
    /// Roles that it is a direct member of, at most 1,000.
    pub member_of: Vec<String>,
    /// The session's role may become this role, so it may make it the owner of things.
    pub reachable: bool,
    /// The session's role has this role's privileges without becoming it, so it may rename and alter what it owns.
    pub inherited: bool,
}

/// The named roles that exist, by name.
pub async fn roles(session: &mut dyn Session, names: &[String]) -> Result<Vec<Role>, SqlError> {
    let names = serde_json::Value::from(names.to_vec()).to_string();
    ask(session, &Question::new("roles", ROLES).with(names)).await
}

const ROLES: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]') FROM (
  SELECT r.rolname AS name, pg_catalog.jsonb_build_object(
    'name', r.rolname, 'oid', r.oid::int8, 'superuser', r.rolsuper, 'login', r.rolcanlogin, 'inherit', r.rolinherit,
    'createdb', r.rolcreatedb, 'createrole', r.rolcreaterole, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls,
    'connection_limit', r.rolconnlimit, 'valid_until', r.rolvaliduntil::text,
    'member_of', (SELECT coalesce(pg_catalog.jsonb_agg(y.name ORDER BY y.name), '[]') FROM (
      SELECT DISTINCT g.rolname AS name FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS g ON g.oid = m.roleid
      WHERE m.member = r.oid ORDER BY 1 LIMIT 1000) AS y),
    'reachable', CASE WHEN pg_catalog.current_setting('server_version_num')::int4 >= 160000
      THEN pg_catalog.pg_has_role(r.oid, 'SET') ELSE pg_catalog.pg_has_role(r.oid, 'MEMBER') END,
    'inherited', pg_catalog.pg_has_role(r.oid, 'USAGE')) AS item
  FROM pg_catalog.pg_roles AS r
  WHERE r.rolname IN (SELECT w.name FROM pg_catalog.jsonb_array_elements_text($1::jsonb) AS w(name))
  ORDER BY r.rolname LIMIT 1000) AS x";

/// What a role has in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleUse {
    /// The role.
    pub name: String,
    /// Objects that it owns.
    pub owns: u64,
    /// Objects that it is granted something on.
    pub granted: u64,
}

/// The roles that own or are granted something in the session's database, by name, at most 1,000. The role that the
/// server was made with is not counted: nothing is recorded of it.
pub async fn role_uses(session: &mut dyn Session) -> Result<Vec<RoleUse>, SqlError> {
    ask(session, &Question::new("uses of roles", ROLE_USES)).await
}

const ROLE_USES: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]') FROM (
  SELECT r.rolname AS name, pg_catalog.jsonb_build_object('name', r.rolname,
    'owns', pg_catalog.count(*) FILTER (WHERE s.deptype = 'o'), 'granted', pg_catalog.count(*) FILTER (WHERE s.deptype = 'a')) AS item
  FROM pg_catalog.pg_shdepend AS s JOIN pg_catalog.pg_roles AS r ON r.oid = s.refobjid
  WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.deptype IN ('o', 'a')
    AND s.dbid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
  GROUP BY r.rolname ORDER BY r.rolname LIMIT 1000) AS x";
