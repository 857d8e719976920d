//! Extensions of the staging database: created by the administrator before the owner restores, and what the owner may write in
//! them while he does.

use super::error::MoverError;
use crate::archive::manifest::{DatabaseManifest, Extension};
use crate::plan::operation::Reason;
use crate::postgres::carrier::{Question, Session, SqlError, SqlErrorKind, quote_identifier};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long one statement of preparation may take; extensions create many objects.
pub const STATEMENT: Duration = Duration::from_mins(5);

/// Creates the source's extensions in the staging database, and the schemas that they need, which the owner gets. Gives the
/// OIDs, in the source, of the schemas made.
///
/// # Errors
/// [`Reason::ExtensionFailed`], and those of a session that is lost.
pub async fn create(session: &mut dyn Session, manifest: &DatabaseManifest, owner: &str) -> Result<BTreeSet<u32>, MoverError> {
    let mut made = BTreeSet::new();
    for extension in in_order(&manifest.extensions) {
        let failed = |e: SqlError| match e.kind {
            SqlErrorKind::Statement if !e.may_pass() => {
                MoverError::new(Reason::ExtensionFailed, format!("extension {:?}: {e}", extension.name))
            }
            // The server or the way to it: nothing is wrong with the extension.
            SqlErrorKind::Statement | SqlErrorKind::Connect | SqlErrorKind::Deadline | SqlErrorKind::Protocol => {
                MoverError::from(e).of(&format!("extension {:?}", extension.name))
            }
        };
        let name = quote_identifier(&extension.name);
        let schema = quote_identifier(&extension.schema);
        let place = if extension.own_schema { String::new() } else { format!(" WITH SCHEMA {schema}") };
        if !extension.own_schema && !matches!(extension.schema.as_str(), "public" | "pg_catalog") {
            let statement = format!("CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {}", quote_identifier(owner));
            session.execute(&statement, STATEMENT).await.map_err(failed)?;
            made.insert(extension.schema_oid);
        }
        session.execute(&format!("CREATE EXTENSION IF NOT EXISTS {name}{place}"), STATEMENT).await.map_err(failed)?;
    }
    Ok(made)
}

/// A right that the owner has for the time of the restore.
#[derive(Deserialize)]
pub struct Lent {
    /// The statement that gives it.
    pub grant: String,
    /// The statement that takes it away.
    pub revoke: String,
}

// Rows that users keep in tables of an extension travel in the dump, but the tables belong to the administrator.
const CONFIGURATION: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
  'grant', pg_catalog.format('GRANT %s TO %I', x.what, $1::text), 'revoke', pg_catalog.format('REVOKE %s FROM %I', x.what, $1::text))), '[]')
FROM (
  SELECT CASE WHEN c.relkind = 'S' THEN pg_catalog.format('USAGE, SELECT, UPDATE ON SEQUENCE %I.%I', n.nspname, c.relname)
    ELSE pg_catalog.format('SELECT, INSERT ON TABLE %I.%I', n.nspname, c.relname) END AS what
  FROM pg_catalog.pg_extension AS e CROSS JOIN LATERAL pg_catalog.unnest(e.extconfig) AS o(oid)
  JOIN pg_catalog.pg_class AS c ON c.oid = o.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  UNION
  SELECT pg_catalog.format('USAGE ON SCHEMA %I', n.nspname)
  FROM pg_catalog.pg_extension AS e CROSS JOIN LATERAL pg_catalog.unnest(e.extconfig) AS o(oid)
  JOIN pg_catalog.pg_class AS c ON c.oid = o.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE NOT pg_catalog.has_schema_privilege($1::text, n.oid, 'USAGE')) AS x";

/// The rights that the owner needs on them.
///
/// # Errors
/// Those of the question.
pub async fn lent(session: &mut dyn Session, owner: &str) -> Result<Vec<Lent>, MoverError> {
    let question = Question::new("tables of extensions that hold rows of users", CONFIGURATION).with(owner);
    let answer = session.ask(&question, STATEMENT).await?;
    serde_json::from_value(answer).map_err(|e| MoverError::new(Reason::QueryFailed, e.to_string()))
}

/// Extensions after those that they need.
fn in_order(extensions: &[Extension]) -> Vec<&Extension> {
    let mut ordered: Vec<&Extension> = Vec::new();
    let mut waiting: Vec<&Extension> = extensions.iter().collect();
    while !waiting.is_empty() {
        let done: BTreeSet<&str> = ordered.iter().map(|e| e.name.as_str()).collect();
        let named: BTreeSet<&str> = extensions.iter().map(|e| e.name.as_str()).collect();
        let (ready, rest): (Vec<_>, Vec<_>) =
            waiting.iter().partition(|e| e.requires.iter().all(|r| done.contains(r.as_str()) || !named.contains(r.as_str())));
        if ready.is_empty() {
            // A circle cannot be; the server will say what is wrong.
            ordered.extend(rest);
            break;
        }
        ordered.extend(ready);
        waiting = rest;
    }
    ordered
}
