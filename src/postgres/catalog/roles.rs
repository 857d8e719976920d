//! Roles: which exist, what they may do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Capped, ask, ask_within};
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

/// Where PUBLIC may do less, or more, in the session's database than with objects as they are made. A copy without grants does not
/// have such differences: what was closed to PUBLIC is open in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicRights {
    /// Revoked from PUBLIC, such as `EXECUTE on function app.pay(integer)`.
    pub revoked: Capped<String>,
    /// Granted to PUBLIC, such as `SELECT on table app.prices`.
    pub granted: Capped<String>,
}

/// Reads [`PublicRights`]: 20 of each at most, cut at 80 characters, schemas first. Compared with what extensions and the server
/// itself have set up (`pg_init_privs`), which is in the copy too. Default privileges and rights on the database itself are not
/// among them.
pub async fn public_rights(session: &mut dyn Session) -> Result<PublicRights, SqlError> {
    ask_within(session, &Question::new("rights of PUBLIC", PUBLIC_RIGHTS), DEADLINE).await
}

/// Large objects may be millions.
const DEADLINE: Duration = Duration::from_mins(2);

// initdb grants on what is in information_schema after it has filled pg_init_privs.
const PUBLIC_RIGHTS: &str = r#"
WITH objects AS (
  SELECT 1 AS place, 'pg_catalog.pg_namespace'::regclass::oid AS classid, n.oid AS objid, 0 AS objsubid, n.oid AS space, n.nspacl AS acl,
    pg_catalog.acldefault('n', n.nspowner) AS base FROM pg_catalog.pg_namespace AS n
  UNION ALL SELECT 2, 'pg_catalog.pg_proc'::regclass, p.oid, 0, p.pronamespace, p.proacl, pg_catalog.acldefault('f', p.proowner) FROM pg_catalog.pg_proc AS p
  UNION ALL SELECT 3, 'pg_catalog.pg_class'::regclass, c.oid, 0, c.relnamespace, c.relacl,
    pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner) FROM pg_catalog.pg_class AS c
  UNION ALL SELECT 4, 'pg_catalog.pg_class'::regclass, a.attrelid, a.attnum, c.relnamespace, a.attacl, pg_catalog.acldefault('c', c.relowner)
  FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid WHERE NOT a.attisdropped AND a.attacl IS NOT NULL
  UNION ALL SELECT 5, 'pg_catalog.pg_type'::regclass, t.oid, 0, t.typnamespace, t.typacl, pg_catalog.acldefault('T', t.typowner) FROM pg_catalog.pg_type AS t
  UNION ALL SELECT 6, 'pg_catalog.pg_language'::regclass, l.oid, 0, 0, l.lanacl, pg_catalog.acldefault('l', l.lanowner) FROM pg_catalog.pg_language AS l
  UNION ALL SELECT 7, 'pg_catalog.pg_foreign_server'::regclass, s.oid, 0, 0, s.srvacl, pg_catalog.acldefault('S', s.srvowner) FROM pg_catalog.pg_foreign_server AS s
  UNION ALL SELECT 8, 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, 0, 0, w.fdwacl, pg_catalog.acldefault('F', w.fdwowner)
  FROM pg_catalog.pg_foreign_data_wrapper AS w
  UNION ALL SELECT 9, 'pg_catalog.pg_largeobject'::regclass, m.oid, 0, 0, m.lomacl, pg_catalog.acldefault('L', m.lomowner) FROM pg_catalog.pg_largeobject_metadata AS m
), differences AS MATERIALIZED (
  SELECT o.classid, o.objid, o.objsubid, x.revoked, x.privilege,
    pg_catalog.row_number() OVER (PARTITION BY x.revoked ORDER BY o.place, o.objid, o.objsubid, x.privilege) AS number
  FROM objects AS o
  LEFT JOIN pg_catalog.pg_init_privs AS i ON i.classoid = o.classid AND i.objoid = o.objid AND i.objsubid = o.objsubid
  CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(a.privilege_type) FILTER (WHERE a.grantee = 0), '{}') AS privileges FROM pg_catalog.aclexplode(o.acl) AS a) AS now
  CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(a.privilege_type) FILTER (WHERE a.grantee = 0), '{}') AS privileges FROM pg_catalog.aclexplode(coalesce(i.initprivs, o.base)) AS a) AS made
  CROSS JOIN LATERAL (
    SELECT true AS revoked, p.privilege FROM pg_catalog.unnest(made.privileges) AS p(privilege) WHERE p.privilege <> ALL (now.privileges)
    UNION ALL SELECT false, p.privilege FROM pg_catalog.unnest(now.privileges) AS p(privilege) WHERE p.privilege <> ALL (made.privileges)) AS x
  WHERE o.acl IS NOT NULL AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace AS s WHERE s.oid = o.space AND s.nspname = 'information_schema')
)
SELECT pg_catalog.jsonb_object_agg(w.word, pg_catalog.jsonb_build_object(
  'total', (SELECT pg_catalog.count(*) FROM differences AS d WHERE d.revoked = w.revoked),
  'items', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.format('%s on %s %s', d.privilege, n.type, pg_catalog.left(n.identity, 80)) ORDER BY d.number), '[]')
    FROM differences AS d CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, d.objsubid) AS n
    WHERE d.revoked = w.revoked AND d.number <= 20 AND n.identity IS NOT NULL)))
FROM (VALUES ('revoked', true), ('granted', false)) AS w(word, revoked)"#;
