//! What makes a copy differ, a restore fail, or a fence leak: things to find before anything is done.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{Capped, ask, ask_within, server};
use crate::postgres::carrier::{Question, Session, SqlError};

/// Deparsing every expression of a large schema takes its time.
const DEADLINE: std::time::Duration = std::time::Duration::from_mins(1);

/// An event trigger. Only superusers make them; those on `login` (17 and newer) fire for every session, ours too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTrigger {
    /// Its name.
    pub name: String,
    /// `login`, `ddl_command_start`, `ddl_command_end`, `table_rewrite`, `sql_drop`.
    pub event: String,
    /// It fires in ordinary sessions.
    pub enabled: bool,
    /// The function that it calls, `schema.name`.
    pub function: String,
    /// It belongs to an extension and comes with it.
    pub extension: bool,
}

/// The event triggers of the session's database, by name. At most 1,000.
pub async fn event_triggers(session: &mut dyn Session) -> Result<Vec<EventTrigger>, SqlError> {
    ask(session, &Question::new("event triggers", EVENT_TRIGGERS)).await
}

const EVENT_TRIGGERS: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]') FROM (
  SELECT e.evtname AS name, pg_catalog.jsonb_build_object('name', e.evtname, 'event', e.evtevent, 'enabled', e.evtenabled IN ('O', 'A'),
    'function', n.nspname || '.' || p.proname,
    'extension', EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')) AS item
  FROM pg_catalog.pg_event_trigger AS e JOIN pg_catalog.pg_proc AS p ON p.oid = e.evtfoid JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
  ORDER BY e.evtname LIMIT 1000) AS x";

/// An expression that is evaluated while rows are restored and asks for the database's name, which is another one in a
/// staging database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseNameUse {
    /// `constraint`, `generated column`, `materialized view`, `policy`, `index`, or `function` for one that any of them
    /// calls.
    pub kind: String,
    /// The object, `schema.table.name` or so.
    pub object: String,
    /// The expression's first 300 characters.
    pub expression: String,
}

/// Such expressions in the session's database, at most 100. Text is searched, so a mention in a comment of a function
/// counts.
pub async fn database_name_uses(session: &mut dyn Session) -> Result<Capped<DatabaseNameUse>, SqlError> {
    ask_within(session, &evaluated("uses of the database's name", DATABASE_NAME_USES), DEADLINE).await
}

/// A function that finds names through `search_path`, and is called while rows are restored. pg_restore empties the
/// path, so such a function may fail there, and the table stays empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchPathUse {
    /// What calls it: `constraint`, `domain constraint`, `index`, `generated column`, `materialized view`.
    pub kind: String,
    /// The caller, `schema.table.name` or so.
    pub object: String,
    /// The function with its argument types, quoted and ready for `ALTER FUNCTION ... SET search_path`.
    pub function: String,
}

/// Such functions in the session's database, at most 100. Bodies are not read: a function that needs no path, or only
/// `pg_catalog`, is listed too.
pub async fn search_path_uses(session: &mut dyn Session) -> Result<Capped<SearchPathUse>, SqlError> {
    ask_within(session, &evaluated("uses of the search path", SEARCH_PATH_USES), DEADLINE).await
}

fn evaluated(name: &'static str, rest: &str) -> Question {
    Question { name, sql: Cow::Owned(format!("{EVALUATED}{rest}")), parameters: Vec::new() }
}

/// Expressions evaluated during a restore: the object whose dependencies tell what it calls, and its text.
const EVALUATED: &str = r"
WITH evaluated AS MATERIALIZED (
  SELECT CASE WHEN c.contypid <> 0 THEN 'domain constraint' ELSE 'constraint' END AS kind,
    n.nspname || '.' || coalesce(r.relname || '.', t.typname || '.', '') || c.conname AS object,
    'pg_catalog.pg_constraint'::regclass AS classid, c.oid AS objid, pg_catalog.pg_get_constraintdef(c.oid) AS expression
  FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.connamespace
  LEFT JOIN pg_catalog.pg_class AS r ON r.oid = c.conrelid LEFT JOIN pg_catalog.pg_type AS t ON t.oid = c.contypid
  WHERE c.contype IN ('c', 'x') AND pg_catalog.left(n.nspname, 3) <> 'pg_' AND n.nspname <> 'information_schema'
  UNION ALL
  SELECT 'generated column', n.nspname || '.' || r.relname || '.' || a.attname,
    'pg_catalog.pg_attrdef'::regclass, d.oid, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
  FROM pg_catalog.pg_attrdef AS d JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated <> ''
  JOIN pg_catalog.pg_class AS r ON r.oid = d.adrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
  WHERE r.relpersistence <> 't'
  UNION ALL
  SELECT 'materialized view', n.nspname || '.' || r.relname, 'pg_catalog.pg_rewrite'::regclass, w.oid, pg_catalog.pg_get_viewdef(r.oid)
  FROM pg_catalog.pg_class AS r JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.oid
  WHERE r.relkind = 'm'
  UNION ALL
  SELECT 'policy', n.nspname || '.' || r.relname || '.' || p.polname, 'pg_catalog.pg_policy'::regclass, p.oid,
    coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') || ' ' || coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '')
  FROM pg_catalog.pg_policy AS p JOIN pg_catalog.pg_class AS r ON r.oid = p.polrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
  UNION ALL
  SELECT 'index', n.nspname || '.' || r.relname, 'pg_catalog.pg_class'::regclass, r.oid,
    coalesce(pg_catalog.pg_get_expr(i.indexprs, i.indrelid), '') || ' ' || coalesce(pg_catalog.pg_get_expr(i.indpred, i.indrelid), '')
  FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS r ON r.oid = i.indexrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = r.relnamespace
  WHERE (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND r.relpersistence <> 't' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
), called AS MATERIALIZED (
  SELECT e.kind, e.object, p.oid, p.prosrc, p.proconfig, n.nspname, p.proname, coalesce((pg_catalog.to_jsonb(p.*) ->> 'prosqlbody') IS NOT NULL, false) AS parsed
  FROM evaluated AS e
  JOIN pg_catalog.pg_depend AS d ON d.classid = e.classid AND d.objid = e.objid AND d.refclassid = 'pg_catalog.pg_proc'::regclass
  JOIN pg_catalog.pg_proc AS p ON p.oid = d.refobjid
  JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
  JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
)";

const DATABASE_NAME_USES: &str = r#"
, found AS (
  SELECT e.kind, e.object, e.expression FROM evaluated AS e WHERE e.expression ~* '\m(current_database|current_catalog)\M'
  UNION
  SELECT 'function', c.nspname || '.' || c.proname, c.prosrc FROM called AS c WHERE c.prosrc ~* '\m(current_database|current_catalog)\M'
)
SELECT pg_catalog.jsonb_build_object('total', pg_catalog.count(*), 'items', coalesce(pg_catalog.jsonb_agg(
  pg_catalog.jsonb_build_object('kind', x.kind, 'object', x.object, 'expression', pg_catalog.left(x.expression, 300)) ORDER BY x.place) FILTER (WHERE x.place <= 100), '[]'))
FROM (SELECT f.*, pg_catalog.row_number() OVER (ORDER BY f.kind COLLATE "C", f.object COLLATE "C", f.expression COLLATE "C") AS place FROM found AS f) AS x"#;

const SEARCH_PATH_USES: &str = r#"
, found AS (
  SELECT DISTINCT c.kind, c.object, pg_catalog.quote_ident(c.nspname) || '.' || pg_catalog.quote_ident(c.proname) || '('
    || pg_catalog.pg_get_function_identity_arguments(c.oid) || ')' AS function
  FROM called AS c
  WHERE c.kind <> 'policy' AND NOT c.parsed AND c.nspname NOT IN ('pg_catalog', 'information_schema')
    AND NOT EXISTS (SELECT FROM pg_catalog.unnest(c.proconfig) AS u(setting) WHERE u.setting LIKE 'search_path=%')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.pg_proc'::regclass AND x.objid = c.oid AND x.deptype = 'e')
)
SELECT pg_catalog.jsonb_build_object('total', pg_catalog.count(*), 'items', coalesce(pg_catalog.jsonb_agg(
  pg_catalog.jsonb_build_object('kind', x.kind, 'object', x.object, 'function', x.function) ORDER BY x.place) FILTER (WHERE x.place <= 100), '[]'))
FROM (SELECT f.*, pg_catalog.row_number() OVER (ORDER BY f.kind COLLATE "C", f.object COLLATE "C", f.function COLLATE "C") AS place FROM found AS f) AS x"#;

/// A line of the server's access rules that names a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HbaLine {
    /// Its number in the file.
    pub line: u32,
    /// `local`, `host`, `hostssl`, ...
    pub kind: String,
    /// Databases, as written.
    pub databases: Vec<String>,
    /// Roles, as written.
    pub users: Vec<String>,
    /// The address, if any.
    pub address: Option<String>,
    /// How one proves who one is.
    pub method: String,
}

/// The lines of `pg_hba.conf` that name this database, in file order, at most 100: under another name other lines
/// apply. Regular expressions (16 and newer) are listed when they match. None: this role may not read them.
pub async fn hba_lines(session: &mut dyn Session, database: &str) -> Result<Option<Vec<HbaLine>>, SqlError> {
    if !server(session).await?.read_hba {
        return Ok(None);
    }
    ask(session, &Question::new("access rules", HBA).with(database)).await.map(Some)
}

// In 15 no entry begins with a slash as a pattern does, but a database may be called so; it is then compared as a name.
const HBA: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.line), '[]') FROM (
  SELECT h.line_number AS line, pg_catalog.jsonb_build_object('line', h.line_number, 'kind', coalesce(h.type, ''),
    'databases', pg_catalog.to_jsonb(h.database), 'users', coalesce(pg_catalog.to_jsonb(h.user_name), '[]'),
    'address', h.address, 'method', coalesce(h.auth_method, '')) AS item
  FROM pg_catalog.pg_hba_file_rules AS h
  WHERE EXISTS (SELECT FROM pg_catalog.unnest(h.database) AS u(entry) WHERE u.entry = $1::text
    OR CASE WHEN pg_catalog.left(u.entry, 1) = '/' AND pg_catalog.current_setting('server_version_num')::int4 >= 160000
      THEN $1::text ~ pg_catalog.substr(u.entry, 2) ELSE false END)
  ORDER BY h.line_number LIMIT 100) AS x";
