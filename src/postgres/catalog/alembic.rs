//! Where alembic stands in a database.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::ask;
use crate::postgres::carrier::{Question, Session, SqlError, quote_identifier, quote_literal};

/// The revisions recorded in one `alembic_version` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlembicVersions {
    /// The schema of the table.
    pub schema: String,
    /// The revisions, sorted: one per branch, none before the first upgrade. At most 100.
    pub versions: Vec<String>,
}

/// The content of every `alembic_version` table of the session's database, by schema. At most 100 schemas (an
/// application that gives each tenant a schema has more; all of them are covered by the data's digest).
///
/// Only tables whose `version_num` is a built-in string type are read, so that no code of the owner's runs.
pub async fn alembic_versions(session: &mut dyn Session) -> Result<Vec<AlembicVersions>, SqlError> {
    let schemas: Vec<String> = ask(session, &Question::new("alembic tables", TABLES)).await?;
    if schemas.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<String> = schemas
        .iter()
        .map(|schema| {
            format!(
                "SELECT {} AS schema, (SELECT coalesce(pg_catalog.jsonb_agg(x.v ORDER BY x.v), '[]') FROM \
                 (SELECT t.version_num::text COLLATE \"C\" AS v FROM {}.alembic_version AS t ORDER BY 1 LIMIT 100) AS x) AS versions",
                quote_literal(schema),
                quote_identifier(schema)
            )
        })
        .collect();
    let sql = format!(
        "SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('schema', y.schema, 'versions', y.versions) \
         ORDER BY y.schema COLLATE \"C\") FROM ({}) AS y",
        parts.join(" UNION ALL ")
    );
    ask(session, &Question { name: "alembic versions", sql: Cow::Owned(sql), parameters: Vec::new() }).await
}

const TABLES: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.name ORDER BY x.name), '[]') FROM (
  SELECT n.nspname AS name FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'version_num' AND NOT a.attisdropped
  WHERE c.relname = 'alembic_version' AND c.relkind = 'r' AND c.relpersistence <> 't'
    AND a.atttypid IN ('pg_catalog.varchar'::regtype, 'pg_catalog.text'::regtype, 'pg_catalog.bpchar'::regtype)
  ORDER BY n.nspname LIMIT 100) AS x";
