SELECT r.class, r.name, pg_catalog.format('kind %s%s%s%s%s%s%s', r.relkind, CASE WHEN r.relpersistence = 'u' THEN ' unlogged' END,
    CASE WHEN r.relrowsecurity THEN ' row security' END, CASE WHEN r.relforcerowsecurity THEN ' forced' END, CASE WHEN r.relkind = 'm' AND NOT r.relispopulated THEN ' unpopulated' END,
    ' access method ' || a.amname, CASE WHEN r.reloftype <> 0 THEN ' of ' || r.reloftype::regtype::text END) AS line
FROM relations AS r LEFT JOIN pg_catalog.pg_am AS a ON a.oid = r.relam
UNION ALL
SELECT r.class, r.name, pg_catalog.format('replica identity %s', r.relreplident) FROM relations AS r WHERE r.relkind IN ('r', 'p', 'm') AND r.relreplident <> 'd'
UNION ALL
SELECT r.class, r.name, pg_catalog.format('option %s', o.option) FROM relations AS r CROSS JOIN LATERAL pg_catalog.unnest(r.reloptions) AS o(option)
UNION ALL
SELECT r.class, r.name, pg_catalog.format('option toast.%s', o.option)
FROM relations AS r JOIN pg_catalog.pg_class AS t ON t.oid = r.reltoastrelid CROSS JOIN LATERAL pg_catalog.unnest(t.reloptions) AS o(option)
UNION ALL
SELECT r.class, r.name, pg_catalog.format('%s %s', CASE WHEN r.relispartition THEN 'partition of' ELSE 'inherits' END, h.inhparent::regclass)
FROM relations AS r JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = r.oid
UNION ALL
SELECT r.class, r.name, pg_catalog.format('bound %s', pg_catalog.pg_get_expr(r.relpartbound, r.oid)) FROM relations AS r WHERE r.relispartition
UNION ALL
SELECT r.class, r.name, pg_catalog.format('partitioned by %s', pg_catalog.pg_get_partkeydef(r.oid)) FROM relations AS r WHERE r.relkind = 'p'
UNION ALL
SELECT r.class, r.name, pg_catalog.format('definition %s', pg_catalog.pg_get_viewdef(r.oid)) FROM relations AS r WHERE r.relkind IN ('v', 'm')
UNION ALL
SELECT r.class, r.name, pg_catalog.format('server %I options %s', s.srvname, f.ftoptions)
FROM relations AS r JOIN pg_catalog.pg_foreign_table AS f ON f.ftrelid = r.oid JOIN pg_catalog.pg_foreign_server AS s ON s.oid = f.ftserver
UNION ALL
SELECT x.class, x.name, pg_catalog.format('column %I %s%s%s%s%s%s%s%s%s%s', x.attname, pg_catalog.format_type(x.atttypid, x.atttypmod),
  CASE WHEN x.attcollation <> x.typcollation THEN ' collation ' || x.attcollation::regcollation::text END,
  CASE WHEN x.attnotnull THEN ' not null' END, CASE WHEN x.attidentity <> '' THEN ' identity ' || x.attidentity::text END,
  CASE WHEN x.attstorage <> x.typstorage AND x.relkind <> 'v' THEN ' storage ' || x.attstorage::text END, CASE WHEN x.attcompression <> '' THEN ' compression ' || x.attcompression::text END,
  CASE WHEN coalesce(x.attstattarget::int4, -1) <> -1 THEN ' statistics ' || x.attstattarget::text END,
  (SELECT ' options ' || pg_catalog.string_agg(o.option, ',' ORDER BY o.option) FROM pg_catalog.unnest(x.attoptions) AS o(option) WHERE pg_catalog.left(o.option, 3) <> 'pg_'), ' foreign options ' || x.attfdwoptions::text,
  CASE WHEN x.ordered THEN ' at ' || x.place::text END)
FROM (SELECT r.class, r.name, r.relkind, a.*, t.typcollation, t.typstorage,
    r.relkind IN ('r', 'p', 'f', 'c', 'v', 'm') AND r.oid NOT IN (SELECT h.inhrelid FROM pg_catalog.pg_inherits AS h) AS ordered,
    pg_catalog.row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum) AS place
  FROM relations AS r JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid) AS x
UNION ALL
SELECT r.class, r.name, pg_catalog.format('column %I %s %s', a.attname, CASE WHEN a.attgenerated = '' THEN 'default' ELSE 'generated ' || a.attgenerated::text END,
  pg_catalog.pg_get_expr(d.adbin, d.adrelid))
FROM relations AS r JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = r.oid JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
UNION ALL
SELECT k.class, k.name, pg_catalog.format('constraint %I %s', k.conname, pg_catalog.pg_get_constraintdef(k.oid)) FROM constraints AS k
UNION ALL
SELECT i.class, i.name, pg_catalog.format('index %I %s%s%s%s%s', i.relname, pg_catalog.pg_get_indexdef(i.oid), CASE WHEN i.indisclustered THEN ' clustered' END,
  CASE WHEN i.indisreplident THEN ' replica identity' END, CASE WHEN NOT i.indisvalid THEN ' invalid' END, ' attached to ' || h.inhparent::regclass::text)
FROM indexes AS i LEFT JOIN pg_catalog.pg_inherits AS h ON h.inhrelid = i.oid
UNION ALL
SELECT i.class, i.name, pg_catalog.format('index %I column %s statistics %s', i.relname, a.attnum, a.attstattarget)
FROM indexes AS i JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.oid WHERE coalesce(a.attstattarget::int4, -1) <> -1 AND a.attnum > 0
UNION ALL
SELECT t.class, t.name, pg_catalog.format('trigger %I %s state %s', t.tgname, pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled) FROM triggers AS t WHERE NOT t.tgisinternal AND t.tgparentid = 0
UNION ALL
SELECT t.class, t.name, pg_catalog.format('trigger %I of the parent state %s', t.tgname, t.tgenabled) FROM triggers AS t WHERE NOT t.tgisinternal AND t.tgparentid <> 0
UNION ALL
SELECT t.class, t.name, pg_catalog.format('trigger of constraint %I state %s', k.conname, t.tgenabled)
FROM triggers AS t JOIN pg_catalog.pg_constraint AS k ON k.oid = t.tgconstraint WHERE t.tgisinternal AND t.tgenabled <> 'O' AND :target
UNION ALL
SELECT p.class, p.name, pg_catalog.format('policy %I for %s %s to %s using %s check %s', p.polname, p.polcmd, CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
  (SELECT pg_catalog.string_agg(coalesce(pg_catalog.quote_ident(r.rolname), 'public'), ',' ORDER BY r.rolname) FROM pg_catalog.unnest(p.polroles) AS o(oid) LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = o.oid),
  pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))
FROM policies AS p
UNION ALL
SELECT w.class, w.name, pg_catalog.format('rule %I %s state %s', w.rulename, pg_catalog.pg_get_ruledef(w.oid), w.ev_enabled) FROM rules AS w
