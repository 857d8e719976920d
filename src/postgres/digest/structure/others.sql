SELECT 'sequence', s.name, pg_catalog.format('%s start %s by %s from %s to %s cache %s cycle %s%s', pg_catalog.format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache, q.seqcycle,
  CASE WHEN s.relpersistence = 'u' THEN ' unlogged' END)
FROM sequences AS s JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = s.oid
UNION ALL
SELECT 'sequence', s.name, pg_catalog.format('owned by %s.%I', d.refobjid::regclass, a.attname)
FROM sequences AS s JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = s.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
UNION ALL
SELECT f.class, f.name, pg_catalog.format('kind %s in %s takes (%s) returns %s volatility %s parallel %s cost %s rows %s%s%s%s%s', f.prokind, l.lanname, pg_catalog.pg_get_function_arguments(f.oid),
  pg_catalog.pg_get_function_result(f.oid), f.provolatile, f.proparallel, f.procost, f.prorows, CASE WHEN f.proisstrict THEN ' strict' END, CASE WHEN f.prosecdef THEN ' security definer' END,
  CASE WHEN f.proleakproof THEN ' leakproof' END, CASE WHEN f.prosupport <> 0 THEN ' support ' || f.prosupport::regproc::text END)
FROM functions AS f JOIN pg_catalog.pg_language AS l ON l.oid = f.prolang
UNION ALL
SELECT f.class, f.name, pg_catalog.format('setting %s', o.setting) FROM functions AS f CROSS JOIN LATERAL pg_catalog.unnest(f.proconfig) AS o(setting)
UNION ALL
SELECT f.class, f.name, pg_catalog.format('body of %s characters with SHA-256 %s%s', pg_catalog.length(f.prosrc), pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(f.prosrc, 'UTF8')), 'hex'), ' in ' || f.probin)
FROM functions AS f WHERE f.prosqlbody IS NULL AND f.prokind <> 'a'
UNION ALL
SELECT f.class, f.name, pg_catalog.format('body %s', pg_catalog.pg_get_function_sqlbody(f.oid)) FROM functions AS f WHERE f.prosqlbody IS NOT NULL
UNION ALL
SELECT f.class, f.name, pg_catalog.format('aggregate kind %s direct %s step %s final %s combine %s serial %s %s moving %s %s %s final extra %s %s modify %s %s sort %s state %s %s %s %s begins %L %L', a.aggkind, a.aggnumdirectargs, a.aggtransfn, a.aggfinalfn,
  a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn, a.aggfinalextra, a.aggmfinalextra, a.aggfinalmodify, a.aggmfinalmodify, a.aggsortop::regoperator,
  pg_catalog.format_type(a.aggtranstype, NULL), a.aggtransspace, pg_catalog.format_type(nullif(a.aggmtranstype, 0), NULL), a.aggmtransspace, a.agginitval, a.aggminitval)
FROM functions AS f JOIN pg_catalog.pg_aggregate AS a ON a.aggfnoid = f.oid
UNION ALL
SELECT 'type', t.name, pg_catalog.format('kind %s%s%s%s%s', t.typtype, CASE WHEN t.typtype = 'd' THEN ' of ' || pg_catalog.format_type(t.typbasetype, t.typtypmod) END, CASE WHEN t.typnotnull THEN ' not null' END,
  CASE WHEN t.typtype = 'd' AND t.typcollation <> b.typcollation THEN ' collation ' || t.typcollation::regcollation::text END, CASE WHEN t.typtype = 'b' THEN ' length ' || t.typlen || ' category ' || t.typcategory::text END)
FROM types AS t LEFT JOIN pg_catalog.pg_type AS b ON b.oid = t.typbasetype
UNION ALL
SELECT 'type', t.name, pg_catalog.format('default %s', coalesce(pg_catalog.pg_get_expr(t.typdefaultbin, 'pg_catalog.pg_type'::regclass), t.typdefault)) FROM types AS t WHERE t.typdefault IS NOT NULL
UNION ALL
SELECT 'type', t.name, pg_catalog.format('range of %s operator class %I.%I collation %s canonical %s difference %s multirange %s', pg_catalog.format_type(g.rngsubtype, NULL), s.nspname, o.opcname, nullif(g.rngcollation, 0)::regcollation,
  g.rngcanonical, g.rngsubdiff, pg_catalog.format_type(g.rngmultitypid, NULL))
FROM types AS t JOIN pg_catalog.pg_range AS g ON g.rngtypid = t.oid JOIN pg_catalog.pg_opclass AS o ON o.oid = g.rngsubopc JOIN pg_catalog.pg_namespace AS s ON s.oid = o.opcnamespace
UNION ALL
SELECT 'type', t.name, pg_catalog.format('label %s %L', pg_catalog.row_number() OVER (PARTITION BY t.oid ORDER BY e.enumsortorder), e.enumlabel)
FROM types AS t JOIN pg_catalog.pg_enum AS e ON e.enumtypid = t.oid
UNION ALL
SELECT 'statistics', s.name, pg_catalog.format('on %s kinds %s columns %s expressions %s target %s', s.stxrelid::regclass, s.stxkind,
  (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ',' ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = s.stxrelid AND a.attnum = ANY (s.stxkeys::int2[])),
  pg_catalog.array_to_string(pg_catalog.pg_get_statisticsobjdef_expressions(s.oid), '; '), s.target)
FROM statistics AS s
UNION ALL
SELECT o.class, o.name, o.line FROM others AS o
UNION ALL
SELECT 'collation', pg_catalog.format('%I.%I', n.nspname, c.collname), pg_catalog.format('locale %s', coalesce(x.item ->> 'colllocale', x.item ->> 'colliculocale'))
FROM pg_catalog.pg_collation AS c JOIN spaces AS n ON n.oid = c.collnamespace CROSS JOIN LATERAL pg_catalog.to_jsonb(c) AS x(item)
WHERE c.oid NOT IN (SELECT m.objid FROM members AS m WHERE m.classid = 'pg_catalog.pg_collation'::regclass)
UNION ALL
SELECT o.class, o.name, pg_catalog.format('token %s goes to %s', m.maptokentype, pg_catalog.string_agg(m.mapdict::regdictionary::text, ', ' ORDER BY m.mapseqno))
FROM others AS o JOIN pg_catalog.pg_ts_config_map AS m ON m.mapcfg = o.objid WHERE o.class = 'text search configuration' GROUP BY o.class, o.name, o.objid, m.maptokentype
UNION ALL
SELECT 'extension', pg_catalog.format('%I', e.extname), pg_catalog.format('in schema %I', n.nspname) FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
UNION ALL
SELECT 'extension', pg_catalog.format('%I', e.extname), pg_catalog.format('version %s', e.extversion) FROM pg_catalog.pg_extension AS e
UNION ALL
SELECT 'schema', o.name, 'present' FROM objects AS o WHERE o.class = 'schema'
UNION ALL
SELECT 'database', 'itself', pg_catalog.format('encoding %s collate %s ctype %s provider %s rules %s', pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, d.datlocprovider, pg_catalog.to_jsonb(d) ->> 'daticurules')
FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()
UNION ALL
SELECT 'database', 'itself', pg_catalog.format('locale %s', coalesce(x.item ->> 'datlocale', x.item ->> 'daticulocale'))
FROM pg_catalog.pg_database AS d CROSS JOIN LATERAL pg_catalog.to_jsonb(d) AS x(item) WHERE d.datname = pg_catalog.current_database()
UNION ALL
SELECT 'database', 'itself', pg_catalog.format('setting %s%s', pg_catalog.split_part(o.setting, '=', 1), ' of role ' || r.rolname)
FROM pg_catalog.pg_db_role_setting AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase AND d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS o(setting)
