//! What the rows live in: whether two databases have the same tables, constraints, functions and so on.
//!
//! Every object is a class, a name and some lines that describe it in words which no major version prints differently;
//! the server sends one hash an object, and the lines only of those that differ. What is printed differently by
//! versions, or is meant to differ, is left out: the text of expressions, views, rules and of defaults (that there is one
//! counts), `NOT NULL` constraints as objects (18 has them; that a column is not null counts), constraints and triggers
//! that a partition has from its parent, invalid indexes of the source (a dump omits them), owners ([`other_owners`]),
//! privileges, comments, versions of extensions and all that belongs to extensions, event triggers, publications,
//! subscriptions, foreign servers.
//!
//! Here: asking and comparing. Not here: data ([`super`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::postgres::carrier::{Question, Session, SqlError};
use crate::postgres::catalog::{Capped, ask_within};

const DEADLINE: Duration = Duration::from_mins(2);

/// One object of a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Object {
    /// `relation`, `sequence`, `function`, `type`, `statistics`, `extension`.
    pub class: String,
    /// Its name, qualified and quoted; functions with their argument types.
    pub name: String,
}

/// How one object differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Only the source has it.
    Missing,
    /// Only the target has it.
    Extra,
    /// Both have it, not alike.
    Changed,
}

/// A difference of structure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StructureDifference {
    /// The object.
    pub object: Object,
    /// How it differs.
    pub kind: Kind,
    /// For `Changed`, where it was asked for: lines that only one side has, the source's with `-`, the target's with
    /// `+`.
    pub lines: Vec<String>,
}

impl fmt::Display for StructureDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Object { class, name } = &self.object;
        match self.kind {
            Kind::Missing => write!(f, "{class} {name} is only in the source"),
            Kind::Extra => write!(f, "{class} {name} is only in the target"),
            Kind::Changed => write!(f, "{class} {name} differs: {}", self.lines.join("; ")),
        }
    }
}

/// All objects of a database with the hash of what describes each.
pub type Structure = BTreeMap<Object, String>;

/// Reads the structure of the session's database.
pub async fn structure(session: &mut dyn Session) -> Result<Structure, SqlError> {
    #[derive(Deserialize)]
    struct Hashed {
        #[serde(flatten)]
        object: Object,
        hash: String,
    }
    let sql = format!("WITH lines AS ({LINES}) {HASHES}");
    let question = Question { name: "structure", sql: Cow::Owned(sql), parameters: Vec::new() };
    let all: Vec<Hashed> = ask_within(session, &question, DEADLINE).await?;
    Ok(all.into_iter().map(|one| (one.object, one.hash)).collect())
}

/// What describes one object, line by line, sorted; at most 5,000 lines. Empty: there is no such object.
pub async fn lines(session: &mut dyn Session, object: &Object) -> Result<Vec<String>, SqlError> {
    let sql = format!("WITH lines AS ({LINES}) {ONE}");
    let question = Question { name: "structure of an object", sql: Cow::Owned(sql), parameters: Vec::new() };
    let mut found: Vec<String> = ask_within(session, &question.with(&object.class).with(&object.name), DEADLINE).await?;
    found.sort();
    Ok(found)
}

/// All objects that differ, by class and name, without their lines ([`explain`] adds them).
pub fn compare(source: &Structure, target: &Structure) -> Vec<StructureDifference> {
    let difference = |object: &Object, kind| StructureDifference { object: object.clone(), kind, lines: Vec::new() };
    let mut found: Vec<StructureDifference> = source
        .iter()
        .filter_map(|(object, hash)| match target.get(object) {
            None => Some(difference(object, Kind::Missing)),
            Some(other) if other != hash => Some(difference(object, Kind::Changed)),
            Some(_) => None,
        })
        .collect();
    found.extend(target.keys().filter(|object| !source.contains_key(*object)).map(|object| difference(object, Kind::Extra)));
    found.sort_by(|a, b| a.object.cmp(&b.object));
    found
}

/// Adds to a `Changed` difference the lines that only one side has.
pub async fn explain(
    difference: &mut StructureDifference,
    source: &mut dyn Session,
    target: &mut dyn Session,
) -> Result<(), SqlError> {
    match difference.kind {
        Kind::Missing | Kind::Extra => {}
        Kind::Changed => {
            let there = lines(source, &difference.object).await?;
            let here = lines(target, &difference.object).await?;
            let gone = there.iter().filter(|line| !here.contains(line)).map(|line| format!("- {line}"));
            let new = here.iter().filter(|line| !there.contains(line)).map(|line| format!("+ {line}"));
            difference.lines = gone.chain(new).collect();
        }
    }
    Ok(())
}

/// Objects of the session's database that belong to another role than `owner`: schemas (but `public`, whose owner is the
/// database's whoever that is), relations, functions and types, those of extensions left out. At most 100.
pub async fn other_owners(session: &mut dyn Session, owner: &str) -> Result<Capped<Object>, SqlError> {
    ask_within(session, &Question::new("other owners", OTHER_OWNERS).with(owner), DEADLINE).await
}

const HASHES: &str = r#"
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('class', x.class, 'name', x.name, 'hash', x.hash)), '[]') FROM (
  SELECT l.class, l.name, pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
    pg_catalog.string_agg(l.line, E'\n' ORDER BY l.line COLLATE pg_catalog."C"), 'UTF8')), 'hex'), 32) AS hash
  FROM lines AS l GROUP BY l.class, l.name) AS x"#;

const ONE: &str = r"
SELECT coalesce(pg_catalog.jsonb_agg(x.line), '[]') FROM (
  SELECT l.line FROM lines AS l WHERE l.class = $1::text AND l.name = $2::text LIMIT 5000) AS x";

// Relation kinds: r table, p partitioned table, v view, m materialized view, f foreign table, c composite type.
const LINES: &str = r"
  WITH members AS MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
  ), spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n WHERE n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
  ), relations AS MATERIALIZED (
    SELECT c.*, pg_catalog.format('%I.%I', n.nspname, c.relname) AS full_name FROM pg_catalog.pg_class AS c JOIN spaces AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't'
      AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_catalog.pg_class'::regclass AND m.objid = c.oid)
      AND (c.relkind <> 'c' OR NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = c.reltype))
  )
  SELECT 'relation' AS class, r.full_name AS name, pg_catalog.format('kind %s%s%s%s%s', r.relkind,
    CASE WHEN r.relpersistence = 'u' THEN ' unlogged' END, CASE WHEN r.relrowsecurity THEN ' row security' END,
    CASE WHEN r.relforcerowsecurity THEN ' forced' END, CASE WHEN r.relkind = 'm' AND NOT r.relispopulated THEN ' unpopulated' END) AS line
  FROM relations AS r
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('option %s', o.option) FROM relations AS r CROSS JOIN LATERAL pg_catalog.unnest(r.reloptions) AS o(option)
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('%s %s', CASE WHEN r.relispartition THEN 'partition of' ELSE 'inherits' END, h.inhparent::regclass)
  FROM relations AS r JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = r.oid
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('column %I %s%s%s%s%s%s%s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
    CASE WHEN a.attcollation <> t.typcollation THEN ' collation ' || a.attcollation::regcollation::text END,
    CASE WHEN a.attnotnull THEN ' not null' END, CASE WHEN a.atthasdef AND a.attgenerated = '' THEN ' default' END,
    CASE WHEN a.attgenerated <> '' THEN ' generated ' || a.attgenerated::text END, CASE WHEN a.attidentity <> '' THEN ' identity ' || a.attidentity::text END,
    CASE WHEN r.relkind IN ('r', 'p', 'f', 'c') AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = r.oid)
      THEN ' at ' || pg_catalog.row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum)::text END)
  FROM relations AS r JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('constraint %I %s%s%s%s (%s)%s', c.conname, c.contype, CASE WHEN NOT c.convalidated THEN ' not valid' END,
    CASE WHEN c.condeferrable THEN ' deferrable' END, CASE WHEN c.condeferred THEN ' deferred' END,
    (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ',' ORDER BY k.place) FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY AS k(attnum, place)
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum WHERE c.contype <> 'c'),
    CASE WHEN c.contype = 'f' THEN pg_catalog.format(' references %s (%s) %s%s%s', c.confrelid::regclass,
      (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ',' ORDER BY k.place) FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY AS k(attnum, place)
        JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.attnum), c.confupdtype, c.confdeltype, c.confmatchtype) END)
  FROM relations AS r JOIN pg_catalog.pg_constraint AS c ON c.conrelid = r.oid AND c.contype <> 'n' AND c.conparentid = 0
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('index %I %s%s%s%s (%s) options %s keys %s%s', c.relname, m.amname, CASE WHEN i.indisunique THEN ' unique' END,
    CASE WHEN i.indisprimary THEN ' primary' END, CASE WHEN i.indisclustered THEN ' clustered' END,
    (SELECT pg_catalog.string_agg(coalesce(pg_catalog.quote_ident(a.attname), '<expression>'), ',' ORDER BY k.place)
      FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place) LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum <> 0),
    i.indoption::text, i.indnkeyatts, CASE WHEN i.indpred IS NOT NULL THEN ' partial' END)
  FROM relations AS r JOIN pg_catalog.pg_index AS i ON i.indrelid = r.oid AND i.indislive AND (i.indisvalid OR r.relkind = 'p')
  JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('trigger %I %s %s calls %s', t.tgname, t.tgtype, t.tgenabled, t.tgfoid::regproc)
  FROM relations AS r JOIN pg_catalog.pg_trigger AS t ON t.tgrelid = r.oid AND NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('policy %I %s %s', p.polname, p.polcmd, p.polpermissive)
  FROM relations AS r JOIN pg_catalog.pg_policy AS p ON p.polrelid = r.oid
  UNION ALL
  SELECT 'relation', r.full_name, pg_catalog.format('rule %I %s %s%s', w.rulename, w.ev_type, w.ev_enabled, CASE WHEN w.is_instead THEN ' instead' END)
  FROM relations AS r JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = r.oid AND w.rulename <> '_RETURN'
  UNION ALL
  SELECT 'sequence', pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format('%s start %s by %s from %s to %s cache %s cycle %s', pg_catalog.format_type(s.seqtypid, NULL),
    s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
  FROM pg_catalog.pg_sequence AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.seqrelid AND c.relpersistence <> 't' JOIN spaces AS n ON n.oid = c.relnamespace
  WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_catalog.pg_class'::regclass AND m.objid = c.oid)
  UNION ALL
  SELECT 'function', pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)),
    pg_catalog.format('%s %s returns %s%s volatility %s parallel %s%s%s settings %s body %s', p.prokind, l.lanname, CASE WHEN p.proretset THEN 'setof ' END,
      pg_catalog.format_type(nullif(p.prorettype, 0), NULL), p.provolatile, p.proparallel, CASE WHEN p.proisstrict THEN ' strict' END, CASE WHEN p.prosecdef THEN ' security definer' END,
      p.proconfig, pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(p.prosrc, 'UTF8')), 'hex'))
  FROM pg_catalog.pg_proc AS p JOIN spaces AS n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
  WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_catalog.pg_proc'::regclass AND m.objid = p.oid)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i')
  UNION ALL
  SELECT 'type', t.oid::regtype::text, pg_catalog.format('kind %s%s%s%s', t.typtype, CASE WHEN t.typtype = 'd' THEN ' of ' || pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
    CASE WHEN t.typnotnull THEN ' not null' END, CASE WHEN t.typtype = 'r' THEN (SELECT ' of ' || pg_catalog.format_type(g.rngsubtype, NULL) FROM pg_catalog.pg_range AS g WHERE g.rngtypid = t.oid) END)
  FROM pg_catalog.pg_type AS t JOIN spaces AS n ON n.oid = t.typnamespace
  WHERE t.typtype IN ('e', 'd', 'r') AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid)
  UNION ALL
  SELECT 'type', e.enumtypid::regtype::text, pg_catalog.format('label %s %L', pg_catalog.row_number() OVER (PARTITION BY e.enumtypid ORDER BY e.enumsortorder), e.enumlabel)
  FROM pg_catalog.pg_enum AS e JOIN pg_catalog.pg_type AS t ON t.oid = e.enumtypid JOIN spaces AS n ON n.oid = t.typnamespace
  WHERE NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid)
  UNION ALL
  SELECT 'type', c.contypid::regtype::text, pg_catalog.format('constraint %I %s%s', c.conname, c.contype, CASE WHEN NOT c.convalidated THEN ' not valid' END)
  FROM pg_catalog.pg_constraint AS c JOIN pg_catalog.pg_type AS t ON t.oid = c.contypid JOIN spaces AS n ON n.oid = t.typnamespace
  WHERE c.contype <> 'n' AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid)
  UNION ALL
  SELECT 'statistics', pg_catalog.format('%I.%I', n.nspname, s.stxname), pg_catalog.format('on %s kinds %s', s.stxrelid::regclass, s.stxkind)
  FROM pg_catalog.pg_statistic_ext AS s JOIN spaces AS n ON n.oid = s.stxnamespace
  UNION ALL
  SELECT 'extension', pg_catalog.quote_ident(e.extname), 'present' FROM pg_catalog.pg_extension AS e";

const OTHER_OWNERS: &str = r"
WITH members AS MATERIALIZED (
  SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
), spaces AS MATERIALIZED (
  SELECT n.* FROM pg_catalog.pg_namespace AS n WHERE n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
), owned AS (
  SELECT 'schema' AS class, pg_catalog.quote_ident(n.nspname) AS name, n.nspowner AS owner, 'pg_catalog.pg_namespace'::regclass::oid AS classid, n.oid AS objid
  FROM spaces AS n WHERE n.nspname <> 'public'
  UNION ALL
  SELECT CASE WHEN c.relkind = 'S' THEN 'sequence' ELSE 'relation' END, pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner, 'pg_catalog.pg_class'::regclass, c.oid
  FROM pg_catalog.pg_class AS c JOIN spaces AS n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  UNION ALL
  SELECT 'function', pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)), p.proowner, 'pg_catalog.pg_proc'::regclass, p.oid
  FROM pg_catalog.pg_proc AS p JOIN spaces AS n ON n.oid = p.pronamespace
  UNION ALL
  SELECT 'type', t.oid::regtype::text, t.typowner, 'pg_catalog.pg_type'::regclass, t.oid
  FROM pg_catalog.pg_type AS t JOIN spaces AS n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r')
)
SELECT pg_catalog.jsonb_build_object('total', pg_catalog.count(*), 'items',
  coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('class', x.class, 'name', x.name) ORDER BY x.place) FILTER (WHERE x.place <= 100), '[]'))
FROM (SELECT o.*, pg_catalog.row_number() OVER (ORDER BY o.class, o.name) AS place FROM owned AS o JOIN pg_catalog.pg_roles AS r ON r.oid = o.owner
  WHERE r.rolname <> $1::text AND NOT EXISTS (SELECT FROM members AS m WHERE m.classid = o.classid AND m.objid = o.objid)) AS x";

#[cfg(test)]
mod tests {
    use super::*;

    fn object(class: &str, name: &str) -> Object {
        Object { class: class.into(), name: name.into() }
    }

    #[test]
    fn missing_extra_and_changed_are_told_apart() {
        let source: Structure = [
            (object("relation", "public.a"), "1".to_owned()),
            (object("relation", "public.b"), "2".to_owned()),
            (object("type", "public.t"), "3".to_owned()),
        ]
        .into();
        assert_eq!(compare(&source, &source), []);
        let mut target = source.clone();
        target.remove(&object("type", "public.t"));
        target.insert(object("relation", "public.b"), "9".to_owned());
        target.insert(object("function", "public.f()"), "4".to_owned());
        let words: Vec<String> = compare(&source, &target).iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            ["function public.f() is only in the target", "relation public.b differs: ", "type public.t is only in the source"]
        );
    }
}
