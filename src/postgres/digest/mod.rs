//! Digests: whether two databases hold the same rows, decided inside the servers.
//!
//! A table's digest is its number of rows and two sums of 64-bit hashes over the text form of its rows: no order, no key
//! and no rows leave the server, `{1, 1, 2}` differs from `{1, 2, 2}`, and every column counts. The text form is
//! `record_out(t.*)`: unlike `t::text` it runs no cast that an owner of the data may have made, and unlike
//! `record_out(t)` it cannot be hidden by a column called `t`.
//!
//! The seeded hashes are not cryptographic, so they find accidents, not forgeries by who owns the data; `Sha256` does
//! both at about twice the cost. Which of them is used, [`Recipe::agree`] decides from what both servers answer.
//!
//! Here: the statements, their answers, the comparison. Not here: running them over many tables at once (`mover`).
//! [`structure`] compares what the rows live in: both decide.

mod compare;
mod contents;
mod statement;
pub mod structure;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::carrier::{Question, Session, SqlError};
use super::catalog::{AlembicVersions, RelationName, ask};

pub use compare::{Difference, compare};
pub use contents::{large_objects, schemas, sequences, tables};
pub use statement::{digest_table, table_statement};

/// How rows are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hash {
    /// Two seeded `hashtextextended`.
    Seeded,
    /// The halves of the first 128 bits of SHA-256.
    Sha256,
}

/// What both sides must do alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recipe {
    /// How rows are hashed.
    pub hash: Hash,
    /// Text is brought to UTF-8 before: the databases have different encodings.
    pub to_utf8: bool,
}

/// Why two servers cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the servers print the same values differently: {source_text:?} and {target_text:?}")]
pub struct Incomparable {
    /// The fixed row as the source prints it.
    pub source_text: String,
    /// The same as the target prints it.
    pub target_text: String,
}

impl Recipe {
    /// The cheapest recipe that both servers carry out alike, from their answers to [`self_test`].
    ///
    /// Errors: they do not print a fixed row alike, so no recipe would do.
    pub fn agree(source: &SelfTest, target: &SelfTest) -> Result<Self, Incomparable> {
        if source.row != target.row {
            return Err(Incomparable { source_text: source.row.clone(), target_text: target.row.clone() });
        }
        let hash = if source.hashes == target.hashes { Hash::Seeded } else { Hash::Sha256 };
        Ok(Self { hash, to_utf8: source.encoding != target.encoding })
    }
}

/// What a server makes of fixed values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// The seeded hashes of fixed texts.
    pub hashes: Vec<String>,
    /// A fixed row of many types, as text.
    pub row: String,
    /// Encoding of the session's database.
    pub encoding: String,
}

/// Makes a session fit for digests: read-only, without just-in-time compilation, which costs more than it gives here.
/// What decides the text form of values is pinned by every session already.
pub async fn prepare(session: &mut dyn Session) -> Result<(), SqlError> {
    let deadline = Duration::from_secs(30);
    session.execute("SET default_transaction_read_only = on", deadline).await?;
    session.execute("SET jit = off", deadline).await
}

/// Asks a server for the hashes and the text of fixed values.
pub async fn self_test(session: &mut dyn Session) -> Result<SelfTest, SqlError> {
    ask(session, &Question::new("digest self-test", SELF_TEST)).await
}

// Lengths around the block of the hash function, and values whose text depends on settings.
const SELF_TEST: &str = r#"
SELECT pg_catalog.jsonb_build_object(
  'hashes', (SELECT pg_catalog.jsonb_agg(pg_catalog.hashtextextended(pg_catalog.repeat('pgm', v.length) COLLATE pg_catalog."C", s.seed)::text ORDER BY v.length, s.seed)
    FROM (VALUES (0), (1), (3), (4), (5), (8), (333)) AS v(length), (VALUES (1::int8), (2::int8)) AS s(seed)),
  'row', (SELECT pg_catalog.record_out(t.*)::text FROM (SELECT 1.1::float8 / 3 AS a, 1.1::float4 / 3 AS b, 'NaN'::numeric AS c,
      '2020-02-29 12:34:56.789+05'::timestamptz AS d, '1 year 2 mons -3 days 04:05:06'::interval AS e, 'a "b", \c'::text AS f,
      pg_catalog.decode('00ff', 'hex') AS g, 12.34::numeric::money AS h, ARRAY[1, NULL, 3] AS i, 'pg_catalog.pg_class'::regclass AS j,
      '2020-02-29'::date AS k, true AS l) AS t),
  'encoding', pg_catalog.getdatabaseencoding())"#;

/// A table to digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Which.
    #[serde(flatten)]
    pub name: RelationName,
    /// Its columns, in order.
    pub columns: Vec<String>,
    /// Bytes on disk with TOAST.
    pub bytes: u64,
    /// It inherits columns from another table (partitions do not).
    pub inherits: bool,
    /// It belongs to this extension, and a dump carries its rows.
    pub extension: Option<String>,
    /// The `WHERE` clause with which the extension says which of its rows are the user's.
    pub condition: Option<String>,
}

/// How the text of one table's rows is made. Digests by different methods cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The whole row as one text.
    Row,
    /// Each column hashed on its own, then their hashes: for rows whose text would be larger than 1 GiB.
    Columns,
}

/// The digest of one table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableDigest {
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// How it was made.
    pub method: Method,
    /// Its rows.
    pub rows: u64,
    /// The sum of the first hashes, decimal.
    pub d1: String,
    /// The sum of the second hashes, decimal.
    pub d2: String,
    /// It belongs to this extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<String>,
}

/// Where a sequence stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SequenceValue {
    /// The schema.
    pub schema: String,
    /// The sequence.
    pub name: String,
    /// The last value, or the next one when it was never called.
    pub last_value: i64,
    /// The last value was handed out.
    pub is_called: bool,
}

/// How large objects are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LargeObjectMethod {
    /// Page by page out of the system table. Needs the right to read it.
    Pages,
    /// Whole, through `lo_get`. Needs the right to read each; none may exceed 1 GiB.
    Contents,
}

/// The digest of all large objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LargeObjects {
    /// How it was made.
    pub method: LargeObjectMethod,
    /// How many.
    pub count: u64,
    /// The sum of the first hashes, decimal.
    pub d1: String,
    /// The sum of the second hashes, decimal.
    pub d2: String,
}

/// All that is compared of two databases' data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The recipe that made it.
    pub recipe: Recipe,
    /// Every table and every filled materialized view.
    pub tables: Vec<TableDigest>,
    /// Materialized views that hold nothing because they were never filled.
    pub unpopulated: Vec<RelationName>,
    /// Every sequence.
    pub sequences: Vec<SequenceValue>,
    /// The large objects.
    pub large_objects: LargeObjects,
    /// The schemas.
    pub schemas: Vec<String>,
    /// Where alembic stands.
    pub alembic: Vec<AlembicVersions>,
}

impl Contents {
    /// One hash over all of it, hexadecimal: equal for equal contents by the same recipe, whatever the order of lists.
    pub fn fingerprint(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for t in &self.tables {
            lines.push(format!("table {:?} {:?} {:?} {} {} {}", t.schema, t.table, t.method, t.rows, t.d1, t.d2));
        }
        for v in &self.unpopulated {
            lines.push(format!("unpopulated {:?} {:?}", v.schema, v.name));
        }
        for s in &self.sequences {
            lines.push(format!("sequence {:?} {:?} {} {}", s.schema, s.name, s.last_value, s.is_called));
        }
        for s in &self.schemas {
            lines.push(format!("schema {s:?}"));
        }
        for a in &self.alembic {
            lines.push(format!("alembic {:?} {:?}", a.schema, a.versions));
        }
        let l = &self.large_objects;
        lines.push(format!("large objects {:?} {} {} {}", l.method, l.count, l.d1, l.d2));
        lines.push(format!("recipe {:?}", self.recipe));
        lines.sort_unstable();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, lines.join("\n").as_bytes());
        digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}
