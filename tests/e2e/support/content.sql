-- One line for everything that a move must carry over, in an order that no server's collation decides.
SET timezone = 'UTC';
SET extra_float_digits = 1;
SELECT format(
  'SELECT %L, count(*), md5(coalesce(string_agg(md5(x::text), '''' ORDER BY md5(x::text) COLLATE "C"), '''')) FROM ONLY %I.%I AS x',
  'table ' || n.nspname || '.' || c.relname, n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%'
  AND NOT (n.nspname = 'app' AND c.relname IN ('written', 'version'))
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C" \gexec
SELECT format('SELECT %L, last_value, is_called FROM %I.%I', 'sequence ' || n.nspname || '.' || c.relname, n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND NOT (n.nspname = 'app' AND c.relname = 'written_id_seq')
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C" \gexec
SELECT line FROM (
  SELECT format('large object %s %s', oid, md5(lo_get(oid))) AS line FROM pg_largeobject_metadata
  UNION ALL
  SELECT format('column %s.%s.%s %s %s %s %s %s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
  WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v', 'm', 'p', 'c') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND n.nspname NOT LIKE 'pg\_toast%' AND NOT (n.nspname = 'app' AND c.relname = 'version')
  UNION ALL
  SELECT format('constraint %s on %s: %s', conname, conrelid::regclass, pg_get_constraintdef(oid))
  FROM pg_constraint WHERE conrelid <> 0 AND contype <> 'n' AND connamespace <> 'pg_catalog'::regnamespace
    AND connamespace <> 'information_schema'::regnamespace
  UNION ALL
  SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
  UNION ALL
  -- Not its definition: each major version words it in another way.
  SELECT format('view %s.%s', schemaname, viewname) FROM pg_views WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
  UNION ALL
  SELECT format('function %s: %s', p.oid::regprocedure, md5(p.prosrc)) FROM pg_proc AS p
  WHERE p.pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname NOT IN ('pg_catalog', 'information_schema'))
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
  UNION ALL
  SELECT format('trigger %s', pg_get_triggerdef(oid)) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL
  SELECT format('extension %s', extname) FROM pg_extension
  UNION ALL
  SELECT format('comment %s: %s', o.identity, d.description)
  FROM pg_description AS d, pg_identify_object(d.classoid, d.objoid, d.objsubid) AS o
  WHERE o.schema NOT IN ('pg_catalog', 'information_schema') AND d.classoid = 'pg_class'::regclass
) AS lines ORDER BY line COLLATE "C";
