//! The questions about definitions, put together from the SQL files, and their answers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::normal::plain_name;
use super::{Hashed, Object, Side, Structure};
use crate::postgres::carrier::{Question, Session, SqlError};
use crate::postgres::catalog::{ask, ask_within};

const DEADLINE: Duration = Duration::from_mins(2);

/// Common tables: every object once, with its class and name. Each catalog is read once, and joins are over whole tables, so
/// that time grows with the number of objects: 20,000 tables with 40,000 indexes and 2,000 views take 20 s. `:target` stands
/// for `true` or `false`. Kinds of relations: r table, p partitioned table, v view, m materialized view, f foreign table,
/// c composite type, S sequence; of types: b base, e enumeration, d domain, r range.
const OBJECTS: &str = include_str!("objects.sql");

/// What describes them: `class`, `name`, `line`. Relations; everything else; comments.
const DESCRIPTIONS: [&str; 3] = [include_str!("relations.sql"), include_str!("others.sql"), include_str!("marks.sql")];

/// What is asked of the target only: owners, privileges, and kinds of objects that it must not have.
const TARGET: &str = include_str!("target.sql");

/// The beginning of both questions: all lines as the table `lines`.
fn begin(side: Side) -> String {
    let (mut parts, target) = (DESCRIPTIONS.to_vec(), side == Side::Target);
    if target {
        parts.push(TARGET);
    }
    let lines = parts.join("UNION ALL\n");
    format!("WITH {OBJECTS}, lines AS (\n{lines})\n").replace(":target", if target { "true" } else { "false" })
}

fn object(class: String, named: &str) -> Object {
    Object { class, name: plain_name(named) }
}

/// Reads all objects of the session's database within two minutes.
pub async fn structure(session: &mut dyn Session, side: Side) -> Result<Structure, SqlError> {
    #[derive(Deserialize)]
    struct One {
        class: String,
        name: String,
        hash: String,
    }
    let major: u32 = ask(session, &Question::new("major version", MAJOR)).await?;
    let question = Question { name: "definitions", sql: Cow::Owned(begin(side) + HASHES), parameters: Vec::new() };
    let all: Vec<One> = ask_within(session, &question, DEADLINE).await?;
    let hashed = |one: One| (object(one.class, &one.name), Hashed { named: one.name, hash: one.hash });
    Ok(Structure { major, objects: all.into_iter().map(hashed).collect() })
}

/// What describes some of the objects of a structure, line by line, sorted; objects that it does not have are left out.
pub async fn lines(
    session: &mut dyn Session,
    side: Side,
    structure: &Structure,
    objects: &[Object],
) -> Result<BTreeMap<Object, Vec<String>>, SqlError> {
    #[derive(Deserialize)]
    struct One {
        class: String,
        name: String,
        lines: Vec<String>,
    }
    let named = |object: &Object| structure.objects.get(object).map(|one| [object.class.clone(), one.named.clone()]);
    let wanted: Vec<[String; 2]> = objects.iter().filter_map(named).collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let question = Question { name: "definitions of objects", sql: Cow::Owned(begin(side) + SOME), parameters: Vec::new() };
    let all: Vec<One> = ask_within(session, &question.with(serde_json::json!(wanted).to_string()), DEADLINE).await?;
    let sorted = |mut one: One| {
        one.lines.sort();
        (object(one.class, &one.name), one.lines)
    };
    Ok(all.into_iter().map(sorted).collect())
}

const MAJOR: &str = "SELECT pg_catalog.to_jsonb(pg_catalog.current_setting('server_version_num')::int4 / 10000)";

const HASHES: &str = r#"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('class', x.class, 'name', x.name, 'hash', x.hash)), '[]') FROM (
  SELECT l.class, l.name, pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
    pg_catalog.string_agg(l.line, E'\n' ORDER BY l.line COLLATE pg_catalog."C"), 'UTF8')), 'hex'), 32) AS hash
  FROM lines AS l GROUP BY l.class, l.name) AS x"#;

const SOME: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('class', x.class, 'name', x.name, 'lines', x.lines)), '[]') FROM (
  SELECT l.class, l.name, pg_catalog.jsonb_agg(l.line) AS lines FROM lines AS l
  WHERE (l.class, l.name) IN (SELECT w.item ->> 0, w.item ->> 1 FROM pg_catalog.jsonb_array_elements($1::pg_catalog.jsonb) AS w(item))
  GROUP BY l.class, l.name) AS x";
