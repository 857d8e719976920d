//! What there is to digest, sequences, and large objects.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;

use super::statement::{hashes, text};
use super::{LargeObjectMethod, LargeObjects, Recipe, SequenceValue, Table};
use crate::postgres::carrier::{Question, Session, SqlError, quote_identifier, quote_literal};
use crate::postgres::catalog::{RelationName, ask};

/// How many tables one answer lists.
const TABLES_PER_ANSWER: u32 = 1000;

/// How many sequences one statement reads.
const SEQUENCES_PER_STATEMENT: usize = 200;

#[derive(Deserialize)]
struct Listed {
    #[serde(flatten)]
    table: Table,
    populated: bool,
}

/// All tables whose rows a dump carries, and the materialized views: those that are filled, and the names of those that
/// are not. By schema and name.
///
/// Tables of extensions are there when the extension says that their rows are the user's.
pub async fn tables(session: &mut dyn Session) -> Result<(Vec<Table>, Vec<RelationName>), SqlError> {
    let (mut filled, mut unpopulated) = (Vec::new(), Vec::new());
    let mut after: u32 = 0;
    loop {
        let question = Question::new("tables to digest", TABLES).with(after.to_string()).with(TABLES_PER_ANSWER.to_string());
        let listed: Vec<(u32, Listed)> = ask(session, &question).await?;
        let Some((last, _)) = listed.last() else {
            break;
        };
        after = *last;
        for (_, one) in listed {
            if one.populated {
                filled.push(one.table);
            } else {
                unpopulated.push(one.table.name);
            }
        }
    }
    filled.sort_by(|a, b| a.name.cmp(&b.name));
    unpopulated.sort();
    Ok((filled, unpopulated))
}

const TABLES: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(x.oid, x.item) ORDER BY x.oid), '[]') FROM (
  SELECT c.oid::int8 AS oid, pg_catalog.jsonb_build_object('schema', n.nspname, 'name', c.relname, 'populated', c.relispopulated,
    'bytes', pg_catalog.pg_table_size(c.oid),
    'inherits', NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = c.oid), 'extension', e.extname,
    'condition', CASE WHEN e.oid IS NOT NULL THEN e.extcondition[pg_catalog.array_position(e.extconfig, c.oid)] END,
    'columns', (SELECT coalesce(pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_catalog.pg_attribute AS a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS item
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
    AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
  LEFT JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
  WHERE c.oid::int8 > $1::int8 AND c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
    AND (e.oid IS NULL OR pg_catalog.array_position(e.extconfig, c.oid) IS NOT NULL)
  ORDER BY c.oid::int8 LIMIT $2::int8) AS x";

/// Where every sequence stands, by schema and name, those of extensions left out unless their values are the user's.
pub async fn sequences(session: &mut dyn Session) -> Result<Vec<SequenceValue>, SqlError> {
    let names: Vec<RelationName> = ask(session, &Question::new("sequences", SEQUENCES)).await?;
    let mut values: Vec<SequenceValue> = Vec::with_capacity(names.len());
    for part in names.chunks(SEQUENCES_PER_STATEMENT) {
        let selects: Vec<String> = part
            .iter()
            .map(|one| {
                format!(
                    "SELECT {}::text AS schema, {}::text AS name, s.last_value, s.is_called FROM {}.{} AS s",
                    quote_literal(&one.schema),
                    quote_literal(&one.name),
                    quote_identifier(&one.schema),
                    quote_identifier(&one.name)
                )
            })
            .collect();
        let sql = format!(
            "SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('schema', x.schema, 'name', x.name, \
             'last_value', x.last_value, 'is_called', x.is_called)) FROM ({}) AS x",
            selects.join(" UNION ALL ")
        );
        let question = Question { name: "sequence values", sql: Cow::Owned(sql), parameters: Vec::new() };
        values.append(&mut ask(session, &question).await?);
    }
    values.sort();
    Ok(values)
}

const SEQUENCES: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('schema', n.nspname, 'name', c.relname)), '[]')
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_catalog.pg_extension'::regclass
      AND d.deptype = 'e' AND pg_catalog.array_position(e.extconfig, c.oid) IS NULL)";

/// The names of all schemas but the system's and those of extensions, sorted.
pub async fn schemas(session: &mut dyn Session) -> Result<Vec<String>, SqlError> {
    let mut names: Vec<String> = ask(session, &Question::new("schemas", SCHEMAS)).await?;
    names.sort();
    Ok(names)
}

const SCHEMAS: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(n.nspname), '[]') FROM pg_catalog.pg_namespace AS n
WHERE n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')";

/// Digests all large objects within `deadline`. Both sides must use the same method.
pub async fn large_objects(
    session: &mut dyn Session,
    recipe: Recipe,
    method: LargeObjectMethod,
    deadline: Duration,
) -> Result<LargeObjects, SqlError> {
    let (rows, word) = match method {
        LargeObjectMethod::Pages => (PAGES, "pages"),
        LargeObjectMethod::Contents => (CONTENTS, "contents"),
    };
    let [h1, h2] = hashes(recipe.hash);
    let row = text(recipe, "p.r");
    let sql = format!(
        "SELECT pg_catalog.jsonb_build_object('method', '{word}', \
         'count', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata), \
         'd1', coalesce(pg_catalog.sum({h1}), 0)::text, 'd2', coalesce(pg_catalog.sum({h2}), 0)::text) \
         FROM (SELECT {row} AS r FROM ({rows}) AS p OFFSET 0) AS q"
    );
    let question = Question { name: "large objects", sql: Cow::Owned(sql), parameters: Vec::new() };
    crate::postgres::catalog::ask_within(session, &question, deadline).await
}

// A hole in a large object is a page that is not there, and a copy of it has a page of zeros: so zeros at the end of a
// page do not count, and the size of every object does.
const PAGES: &str = r"
SELECT l.loid::text || ':' || l.pageno::text || ':' || pg_catalog.encode(pg_catalog.rtrim(l.data, pg_catalog.decode('00', 'hex')), 'hex') AS r
FROM pg_catalog.pg_largeobject AS l WHERE pg_catalog.octet_length(pg_catalog.rtrim(l.data, pg_catalog.decode('00', 'hex'))) > 0
UNION ALL
SELECT m.oid::text || '=' || coalesce(s.size, 0)::text FROM pg_catalog.pg_largeobject_metadata AS m
LEFT JOIN (SELECT l.loid, pg_catalog.max(l.pageno::int8 * (pg_catalog.current_setting('block_size')::int8 / 4) + pg_catalog.octet_length(l.data)) AS size
  FROM pg_catalog.pg_largeobject AS l GROUP BY l.loid) AS s ON s.loid = m.oid";

const CONTENTS: &str = r"
SELECT m.oid::text || ':' || pg_catalog.encode(pg_catalog.sha256(pg_catalog.lo_get(m.oid)), 'hex') AS r
FROM pg_catalog.pg_largeobject_metadata AS m";
