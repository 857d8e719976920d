//! Extensions: in a database, and on offer at a server.

use serde::{Deserialize, Serialize};

use super::ask;
use crate::postgres::carrier::{Question, Session, SqlError};

/// An extension that a database uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledExtension {
    /// Its name.
    pub name: String,
    /// The installed version.
    pub version: String,
    /// The schema that holds its objects.
    pub schema: String,
    /// OID of that schema.
    pub schema_oid: u32,
    /// The schema was made by the extension itself, so it must not be made beforehand.
    pub owns_schema: bool,
    /// Its owner.
    pub owner: String,
    /// Tables of the extension whose rows a dump carries.
    pub configuration_tables: u32,
    /// A role without superuser rights may create it here, given CREATE on the database.
    pub trusted: bool,
    /// Extensions that it needs.
    pub requires: Vec<String>,
}

/// The extensions of the session's database by name, `plpgsql` included. At most 1,000.
pub async fn extensions(session: &mut dyn Session) -> Result<Vec<InstalledExtension>, SqlError> {
    ask(session, &Question::new("extensions", INSTALLED)).await
}

const INSTALLED: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]') FROM (
  SELECT e.extname AS name, pg_catalog.jsonb_build_object(
    'name', e.extname, 'version', e.extversion, 'schema', n.nspname, 'schema_oid', n.oid::int8, 'owner', coalesce(r.rolname, ''),
    'owns_schema', EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = n.oid
      AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'),
    'configuration_tables', coalesce(pg_catalog.cardinality(e.extconfig), 0),
    'trusted', coalesce((SELECT v.trusted FROM pg_catalog.pg_available_extension_versions AS v WHERE v.name = e.extname AND v.version = e.extversion), false),
    'requires', (SELECT coalesce(pg_catalog.jsonb_agg(o.extname ORDER BY o.extname), '[]') FROM pg_catalog.pg_depend AS d
      JOIN pg_catalog.pg_extension AS o ON o.oid = d.refobjid
      WHERE d.classid = 'pg_catalog.pg_extension'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_catalog.pg_extension'::regclass)) AS item
  FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
  LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = e.extowner
  ORDER BY e.extname LIMIT 1000) AS x";

/// One version of an extension that a server can install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionVersion {
    /// The version.
    pub version: String,
    /// Only superusers may create it, unless it is trusted.
    pub superuser: bool,
    /// A role with CREATE on the database may create it.
    pub trusted: bool,
    /// The schema that it insists on.
    pub schema: Option<String>,
}

/// An extension that a server can install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailableExtension {
    /// Its name.
    pub name: String,
    /// What is installed when no version is named.
    pub default_version: String,
    /// All versions, the most recently named last. At most 200.
    pub versions: Vec<ExtensionVersion>,
}

/// Which of the named extensions the server has on offer, by name.
pub async fn available_extensions(session: &mut dyn Session, names: &[String]) -> Result<Vec<AvailableExtension>, SqlError> {
    let names = serde_json::Value::from(names.to_vec()).to_string();
    ask(session, &Question::new("available extensions", AVAILABLE).with(names)).await
}

/// All extensions that the server has on offer, by name, at most 1,000.
pub async fn extensions_on_offer(session: &mut dyn Session) -> Result<Vec<AvailableExtension>, SqlError> {
    ask(session, &Question::new("extensions on offer", AVAILABLE).with("null")).await
}

const AVAILABLE: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.item ORDER BY x.name), '[]') FROM (
  SELECT a.name, pg_catalog.jsonb_build_object('name', a.name, 'default_version', a.default_version, 'versions', (
    SELECT coalesce(pg_catalog.jsonb_agg(y.item ORDER BY y.version), '[]') FROM (
      SELECT v.version, pg_catalog.jsonb_build_object('version', v.version, 'superuser', v.superuser, 'trusted', v.trusted, 'schema', v.schema) AS item
      FROM pg_catalog.pg_available_extension_versions AS v WHERE v.name = a.name ORDER BY v.version LIMIT 200) AS y)) AS item
  FROM pg_catalog.pg_available_extensions AS a
  WHERE $1::text = 'null' OR a.name IN (SELECT w.name FROM pg_catalog.jsonb_array_elements_text(nullif($1::text, 'null')::jsonb) AS w(name))
  ORDER BY a.name LIMIT 1000) AS x";
