members AS MATERIALIZED (
  SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
), spaces AS MATERIALIZED (
  SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace AS n
  WHERE n.nspname <> 'information_schema' AND pg_catalog.left(n.nspname, 3) <> 'pg_'
), relations AS MATERIALIZED (
  SELECT c.oid, c.relkind, c.relowner, c.relacl, c.reltype, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relispopulated, c.relispartition,
    c.relreplident, c.reloptions, c.reltoastrelid, c.relam, c.reloftype, c.relpartbound,
    CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END AS class,
    pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class AS c JOIN spaces AS n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't'
    AND c.oid NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_class'::regclass)
    AND (c.relkind <> 'c' OR c.reltype NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_type'::regclass))
), indexes AS MATERIALIZED (
  SELECT c.oid, c.relname, i.indisclustered, i.indisreplident, i.indisvalid, r.class, r.name, r.relkind
  FROM pg_catalog.pg_index AS i JOIN relations AS r ON r.oid = i.indrelid JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
  WHERE i.indislive AND (i.indisvalid OR r.relkind = 'p' OR :target)
), triggers AS MATERIALIZED (
  SELECT t.oid, t.tgname, t.tgenabled, t.tgparentid, t.tgisinternal, t.tgconstraint, r.class, r.name
  FROM pg_catalog.pg_trigger AS t JOIN relations AS r ON r.oid = t.tgrelid
), policies AS MATERIALIZED (
  SELECT p.*, r.class, r.name FROM pg_catalog.pg_policy AS p JOIN relations AS r ON r.oid = p.polrelid
), rules AS MATERIALIZED (
  SELECT w.oid, w.rulename, w.ev_enabled, r.class, r.name FROM pg_catalog.pg_rewrite AS w JOIN relations AS r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
), sequences AS MATERIALIZED (
  SELECT c.oid, c.relowner, c.relacl, c.relpersistence, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class AS c JOIN spaces AS n ON n.oid = c.relnamespace
  WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND c.oid NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_class'::regclass)
), functions AS MATERIALIZED (
  SELECT p.*, CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'p' THEN 'procedure' ELSE 'function' END AS class,
    pg_catalog.format('%I.%I(%s)', n.nspname, p.proname, pg_catalog.oidvectortypes(p.proargtypes)) AS name
  FROM pg_catalog.pg_proc AS p JOIN spaces AS n ON n.oid = p.pronamespace
  WHERE p.oid NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_proc'::regclass)
    AND p.oid NOT IN (SELECT d.objid FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.deptype = 'i')
), types AS MATERIALIZED (
  SELECT t.oid, t.typtype, t.typowner, t.typacl, t.typbasetype, t.typtypmod, t.typnotnull, t.typdefault, t.typdefaultbin, t.typcollation, t.typlen, t.typcategory, pg_catalog.format('%I.%I', n.nspname, t.typname) AS name
  FROM pg_catalog.pg_type AS t JOIN spaces AS n ON n.oid = t.typnamespace
  WHERE (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'b' AND t.typcategory <> 'A')
    AND t.oid NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_type'::regclass)
), constraints AS MATERIALIZED (
  SELECT k.oid, k.conname, r.class, r.name FROM pg_catalog.pg_constraint AS k JOIN relations AS r ON r.oid = k.conrelid WHERE k.contype <> 'n' AND k.conparentid = 0
  UNION ALL
  SELECT k.oid, k.conname, 'type', t.name FROM pg_catalog.pg_constraint AS k JOIN types AS t ON t.oid = k.contypid WHERE k.contype <> 'n'
), statistics AS MATERIALIZED (
  SELECT s.oid, s.stxowner, s.stxrelid, s.stxkind, s.stxkeys, coalesce(s.stxstattarget::int4, -1) AS target, pg_catalog.format('%I.%I', n.nspname, s.stxname) AS name
  FROM pg_catalog.pg_statistic_ext AS s JOIN spaces AS n ON n.oid = s.stxnamespace
  WHERE s.oid NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_statistic_ext'::regclass)
), others AS MATERIALIZED (
  SELECT x.* FROM (
    SELECT 'pg_catalog.pg_operator'::regclass::oid AS classid, o.oid AS objid, 'operator' AS class,
      pg_catalog.format('%I.%s(%s, %s)', n.nspname, o.oprname, coalesce(pg_catalog.format_type(nullif(o.oprleft, 0), NULL), 'NONE'), pg_catalog.format_type(o.oprright, NULL)) AS name, o.oprowner AS owner,
      pg_catalog.format('calls %s returns %s commutator %s negator %s estimates %s %s merges %s hashes %s', o.oprcode::regprocedure, pg_catalog.format_type(o.oprresult, NULL),
        o.oprcom::regoperator, o.oprnegate::regoperator, o.oprrest, o.oprjoin, o.oprcanmerge, o.oprcanhash) AS line
    FROM pg_catalog.pg_operator AS o JOIN spaces AS n ON n.oid = o.oprnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_cast'::regclass, c.oid, 'cast', pg_catalog.format('(%s AS %s)', pg_catalog.format_type(c.castsource, NULL), pg_catalog.format_type(c.casttarget, NULL)), NULL,
      pg_catalog.format('context %s method %s calls %s', c.castcontext, c.castmethod, c.castfunc::regprocedure)
    FROM pg_catalog.pg_cast AS c WHERE c.oid >= 16384
    UNION ALL
    SELECT 'pg_catalog.pg_collation'::regclass, c.oid, 'collation', pg_catalog.format('%I.%I', n.nspname, c.collname), c.collowner,
      pg_catalog.format('provider %s deterministic %s encoding %s collate %s ctype %s rules %s', c.collprovider, c.collisdeterministic, c.collencoding, c.collcollate, c.collctype,
        pg_catalog.to_jsonb(c) ->> 'collicurules')
    FROM pg_catalog.pg_collation AS c JOIN spaces AS n ON n.oid = c.collnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_conversion'::regclass, c.oid, 'conversion', pg_catalog.format('%I.%I', n.nspname, c.conname), c.conowner,
      pg_catalog.format('from %s to %s default %s calls %s', c.conforencoding, c.contoencoding, c.condefault, c.conproc)
    FROM pg_catalog.pg_conversion AS c JOIN spaces AS n ON n.oid = c.connamespace
    UNION ALL
    SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, 'text search dictionary', pg_catalog.format('%I.%I', n.nspname, d.dictname), d.dictowner,
      pg_catalog.format('template %I.%I options %s', s.nspname, t.tmplname, d.dictinitoption)
    FROM pg_catalog.pg_ts_dict AS d JOIN spaces AS n ON n.oid = d.dictnamespace
    JOIN pg_catalog.pg_ts_template AS t ON t.oid = d.dicttemplate JOIN pg_catalog.pg_namespace AS s ON s.oid = t.tmplnamespace
    UNION ALL
    SELECT 'pg_catalog.pg_ts_config'::regclass, c.oid, 'text search configuration', pg_catalog.format('%I.%I', n.nspname, c.cfgname), c.cfgowner,
      pg_catalog.format('parser %I.%I', s.nspname, p.prsname)
    FROM pg_catalog.pg_ts_config AS c JOIN spaces AS n ON n.oid = c.cfgnamespace
    JOIN pg_catalog.pg_ts_parser AS p ON p.oid = c.cfgparser JOIN pg_catalog.pg_namespace AS s ON s.oid = p.prsnamespace
  ) AS x WHERE (x.classid, x.objid) NOT IN (SELECT m.classid, m.objid FROM members AS m)
), objects AS MATERIALIZED (
  SELECT 'pg_catalog.pg_namespace'::regclass::oid AS classid, n.oid AS objid, 'schema' AS class, pg_catalog.format('%I', n.nspname) AS name, '' AS part,
    n.nspowner AS owner, n.nspacl AS acl, 'n'::"char" AS kind
  FROM spaces AS n WHERE n.oid NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_namespace'::regclass)
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, r.oid, r.class, r.name, '', r.relowner, r.relacl, 'r' FROM relations AS r WHERE r.relkind <> 'c'
  UNION ALL
  SELECT 'pg_catalog.pg_type'::regclass, r.reltype, r.class, r.name, '', t.typowner, t.typacl, 'T' FROM relations AS r JOIN pg_catalog.pg_type AS t ON t.oid = r.reltype WHERE r.relkind = 'c'
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, s.oid, 'sequence', s.name, '', s.relowner, s.relacl, 's' FROM sequences AS s
  UNION ALL
  SELECT 'pg_catalog.pg_proc'::regclass, f.oid, f.class, f.name, '', f.proowner, f.proacl, 'f' FROM functions AS f
  UNION ALL
  SELECT 'pg_catalog.pg_type'::regclass, t.oid, 'type', t.name, '', t.typowner, t.typacl, 'T' FROM types AS t
  UNION ALL
  SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, 'statistics', s.name, '', s.stxowner, NULL, NULL FROM statistics AS s
  UNION ALL
  SELECT o.classid, o.objid, o.class, o.name, '', o.owner, NULL, NULL FROM others AS o
  UNION ALL
  SELECT 'pg_catalog.pg_class'::regclass, i.oid, i.class, i.name, pg_catalog.format('index %I ', i.relname), NULL, NULL, NULL FROM indexes AS i
  UNION ALL
  SELECT 'pg_catalog.pg_constraint'::regclass, k.oid, k.class, k.name, pg_catalog.format('constraint %I ', k.conname), NULL, NULL, NULL FROM constraints AS k
  UNION ALL
  SELECT 'pg_catalog.pg_trigger'::regclass, t.oid, t.class, t.name, pg_catalog.format('trigger %I ', t.tgname), NULL, NULL, NULL FROM triggers AS t WHERE NOT t.tgisinternal
  UNION ALL
  SELECT 'pg_catalog.pg_policy'::regclass, p.oid, p.class, p.name, pg_catalog.format('policy %I ', p.polname), NULL, NULL, NULL FROM policies AS p
  UNION ALL
  SELECT 'pg_catalog.pg_rewrite'::regclass, w.oid, w.class, w.name, pg_catalog.format('rule %I ', w.rulename), NULL, NULL, NULL FROM rules AS w
)
