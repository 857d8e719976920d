//! What a database holds, counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Capped, ask_within};
use crate::postgres::carrier::{Question, Session, SqlError};

/// Sizes are read from disk, file by file.
const DEADLINE: Duration = Duration::from_mins(2);

/// Schema and name of a relation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationName {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

/// A table and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    /// Which table.
    #[serde(flatten)]
    pub table: RelationName,
    /// The planner's estimate; None before the first vacuum or analyze.
    pub estimated_rows: Option<u64>,
    /// Bytes on disk with TOAST, without indexes.
    pub bytes: u64,
}

/// How many of each there are, those of extensions, of the system and temporary ones left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Schemas, `public` included.
    pub schemas: u64,
    /// Tables that hold rows: ordinary ones and partitions.
    pub tables: u64,
    /// Partitioned tables, which hold no rows themselves.
    pub partitioned_tables: u64,
    /// Tables that are partitions.
    pub partitions: u64,
    /// Foreign tables; their rows are elsewhere and do not travel.
    pub foreign_tables: u64,
    /// Sequences.
    pub sequences: u64,
    /// Views.
    pub views: u64,
    /// Materialized views.
    pub materialized_views: u64,
    /// Indexes.
    pub indexes: u64,
    /// Functions and procedures.
    pub functions: u64,
    /// Types made by users: enums, domains, ranges, composite and base types.
    pub types: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes on disk of all large objects, indexes and dead space included.
    pub large_object_bytes: u64,
    /// Tables whose rows are kept from some roles by row security.
    pub row_security_tables: u64,
}

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Numbers by kind.
    pub counts: Counts,
    /// Bytes of all tables with TOAST, without indexes, of extensions too.
    pub table_bytes: u64,
    /// The planner's estimate of all rows.
    pub estimated_rows: u64,
    /// Whether someone's objects are here: any table, view, sequence, function, type, large object or further schema.
    pub user_objects: u64,
    /// The largest tables, at most 100, largest first.
    pub largest_tables: Capped<TableSize>,
    /// Names of schemas, at most 1,000.
    pub schemas: Capped<String>,
    /// Materialized views that were never filled, at most 100.
    pub unpopulated: Capped<RelationName>,
    /// Indexes that are not valid, which a dump leaves out in silence; at most 100.
    pub invalid_indexes: Capped<RelationName>,
    /// Tables without WAL, at most 100.
    pub unlogged_tables: Capped<RelationName>,
    /// Foreign tables, at most 100.
    pub foreign_tables: Capped<RelationName>,
    /// Tables outside the database's default tablespace, at most 100.
    pub tablespace_tables: Capped<RelationName>,
}

impl Inventory {
    /// Whether there is data of users: a table of any kind, a materialized view or a large object.
    pub const fn holds_tables(&self) -> bool {
        let c = &self.counts;
        c.tables + c.partitioned_tables + c.foreign_tables + c.materialized_views + c.large_objects > 0
    }
}

/// Takes stock of the session's database.
pub async fn inventory(session: &mut dyn Session) -> Result<Inventory, SqlError> {
    ask_within(session, &Question::new("inventory", INVENTORY), DEADLINE).await
}

const INVENTORY: &str = r"
WITH schemas AS MATERIALIZED (
  SELECT n.oid, n.nspname AS name FROM pg_catalog.pg_namespace AS n
  WHERE n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.pg_namespace'::regclass AND x.objid = n.oid AND x.deptype = 'e')
), relations AS MATERIALIZED (
  SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind, c.relpersistence AS persistence, c.relispartition AS part,
    c.relispopulated AS populated, c.reltuples AS tuples, c.reltablespace AS space, c.relrowsecurity AS rls,
    CASE WHEN c.relkind IN ('r', 'm') THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END AS bytes,
    EXISTS (SELECT FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.pg_class'::regclass AND x.objid = c.oid AND x.deptype = 'e') AS extension
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
), own AS MATERIALIZED (SELECT * FROM relations AS r WHERE NOT r.extension
), indexes AS MATERIALIZED (
  SELECT r.schema, c.relname AS name, i.indisvalid AS valid, r.kind
  FROM pg_catalog.pg_index AS i JOIN own AS r ON r.oid = i.indrelid JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
), counts AS MATERIALIZED (
  SELECT (SELECT pg_catalog.count(*) FROM schemas) AS schemas,
    pg_catalog.count(*) FILTER (WHERE r.kind = 'r') AS tables,
    pg_catalog.count(*) FILTER (WHERE r.kind = 'p') AS partitioned_tables,
    pg_catalog.count(*) FILTER (WHERE r.kind IN ('r', 'f') AND r.part) AS partitions,
    pg_catalog.count(*) FILTER (WHERE r.kind = 'f') AS foreign_tables,
    pg_catalog.count(*) FILTER (WHERE r.kind = 'S') AS sequences,
    pg_catalog.count(*) FILTER (WHERE r.kind = 'v') AS views,
    pg_catalog.count(*) FILTER (WHERE r.kind = 'm') AS materialized_views,
    (SELECT pg_catalog.count(*) FROM indexes) AS indexes,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc AS p JOIN schemas AS s ON s.oid = p.pronamespace
      WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.pg_proc'::regclass AND x.objid = p.oid AND x.deptype IN ('e', 'i'))) AS functions,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_type AS t JOIN schemas AS s ON s.oid = t.typnamespace
      WHERE (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'b' AND t.typelem = 0)
        OR (t.typtype = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = t.typrelid AND c.relkind = 'c')))
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e')) AS types,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata) AS large_objects,
    CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata) THEN pg_catalog.pg_total_relation_size('pg_catalog.pg_largeobject') ELSE 0 END AS large_object_bytes,
    pg_catalog.count(*) FILTER (WHERE r.rls) AS row_security_tables
  FROM own AS r
), named AS (
  SELECT 'unpopulated' AS kind, r.schema, r.name FROM own AS r WHERE r.kind = 'm' AND NOT r.populated
  UNION ALL SELECT 'invalid', i.schema, i.name FROM indexes AS i WHERE NOT i.valid AND i.kind <> 'p'
  UNION ALL SELECT 'unlogged', r.schema, r.name FROM own AS r WHERE r.kind = 'r' AND r.persistence = 'u'
  UNION ALL SELECT 'foreign', r.schema, r.name FROM own AS r WHERE r.kind = 'f'
  UNION ALL SELECT 'tablespace', r.schema, r.name FROM own AS r WHERE r.space <> 0
), lists AS MATERIALIZED (
  SELECT w.kind, pg_catalog.jsonb_build_object('total', pg_catalog.count(n.name), 'items', coalesce(
    pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('schema', n.schema, 'name', n.name) ORDER BY n.schema, n.name) FILTER (WHERE n.place <= 100), '[]')) AS list
  FROM (VALUES ('unpopulated'), ('invalid'), ('unlogged'), ('foreign'), ('tablespace')) AS w(kind)
  LEFT JOIN (SELECT n.*, pg_catalog.row_number() OVER (PARTITION BY n.kind ORDER BY n.schema, n.name) AS place FROM named AS n) AS n ON n.kind = w.kind
  GROUP BY w.kind
)
SELECT pg_catalog.jsonb_build_object(
  'counts', pg_catalog.to_jsonb(k.*),
  'table_bytes', (SELECT coalesce(pg_catalog.sum(r.bytes), 0) FROM relations AS r),
  'estimated_rows', (SELECT coalesce(pg_catalog.sum(r.tuples::numeric), 0)::int8 FROM relations AS r WHERE r.kind IN ('r', 'm') AND r.tuples > 0),
  'user_objects', k.tables + k.partitioned_tables + k.foreign_tables + k.sequences + k.views + k.materialized_views + k.functions + k.types
    + k.large_objects + (SELECT pg_catalog.count(*) FROM schemas AS s WHERE s.name <> 'public'),
  'largest_tables', (SELECT pg_catalog.jsonb_build_object('total', pg_catalog.count(*), 'items',
      coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('schema', x.schema, 'name', x.name,
        'estimated_rows', CASE WHEN x.tuples >= 0 THEN x.tuples::numeric::int8 END, 'bytes', x.bytes) ORDER BY x.place) FILTER (WHERE x.place <= 100), '[]'))
    FROM (SELECT r.*, pg_catalog.row_number() OVER (ORDER BY r.bytes DESC, r.schema, r.name) AS place FROM relations AS r WHERE r.kind IN ('r', 'm')) AS x),
  'schemas', (SELECT pg_catalog.jsonb_build_object('total', pg_catalog.count(*), 'items', coalesce(pg_catalog.jsonb_agg(x.name ORDER BY x.name) FILTER (WHERE x.place <= 1000), '[]'))
    FROM (SELECT s.name, pg_catalog.row_number() OVER (ORDER BY s.name) AS place FROM schemas AS s) AS x),
  'unpopulated', (SELECT l.list FROM lists AS l WHERE l.kind = 'unpopulated'),
  'invalid_indexes', (SELECT l.list FROM lists AS l WHERE l.kind = 'invalid'),
  'unlogged_tables', (SELECT l.list FROM lists AS l WHERE l.kind = 'unlogged'),
  'foreign_tables', (SELECT l.list FROM lists AS l WHERE l.kind = 'foreign'),
  'tablespace_tables', (SELECT l.list FROM lists AS l WHERE l.kind = 'tablespace'))
FROM counts AS k";
