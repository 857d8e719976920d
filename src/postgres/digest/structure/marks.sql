SELECT o.class, o.name, pg_catalog.format('%scomment %L', o.part, d.description)
FROM objects AS o JOIN pg_catalog.pg_description AS d ON d.classoid = o.classid AND d.objoid = o.objid AND d.objsubid = 0
UNION ALL
SELECT r.class, r.name, pg_catalog.format('column %I comment %L', a.attname, d.description)
FROM relations AS r JOIN pg_catalog.pg_description AS d ON d.classoid = 'pg_catalog.pg_class'::regclass AND d.objoid = r.oid AND d.objsubid > 0
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = d.objoid AND a.attnum = d.objsubid
UNION ALL
SELECT 'comment on large object', d.objoid::text, pg_catalog.format('comment %L', d.description) FROM pg_catalog.pg_description AS d WHERE d.classoid = 'pg_catalog.pg_largeobject'::regclass
UNION ALL
SELECT o.class, o.name, pg_catalog.format('%sdepends on extension %I', o.part, e.extname)
FROM pg_catalog.pg_depend AS d JOIN objects AS o ON o.classid = d.classid AND o.objid = d.objid JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
WHERE d.deptype = 'x' AND d.refclassid = 'pg_catalog.pg_extension'::regclass
