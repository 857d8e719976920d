SELECT o.class, o.name, pg_catalog.format('belongs to %I', r.rolname)
FROM objects AS o JOIN pg_catalog.pg_roles AS r ON r.oid = o.owner JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database()
WHERE o.owner <> d.datdba AND NOT (o.class = 'schema' AND o.name = 'public' AND r.rolname = 'pg_database_owner')
UNION ALL
SELECT g.class, g.name, pg_catalog.format('%s%s %s%s to %s', g.part, g.verb, g.privilege_type, CASE WHEN g.is_grantable THEN ' with grant option' END, CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
FROM (
  SELECT o.class, o.name, o.part, x.* FROM (
    SELECT o.*, coalesce(i.initprivs, pg_catalog.acldefault(o.kind, o.owner)) AS base FROM objects AS o
    LEFT JOIN pg_catalog.pg_init_privs AS i ON i.classoid = o.classid AND i.objoid = o.objid AND i.objsubid = 0 AND i.privtype = 'i' WHERE o.acl IS NOT NULL
    UNION ALL
    SELECT 'pg_catalog.pg_class'::regclass, r.oid, r.class, r.name, pg_catalog.format('column %I ', a.attname), r.relowner, a.attacl, 'c', pg_catalog.acldefault('c', r.relowner)
    FROM relations AS r JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped
    UNION ALL
    SELECT 'pg_catalog.pg_largeobject'::regclass, l.oid, 'privileges on large object', l.oid::text, '', l.lomowner, l.lomacl, 'L', pg_catalog.acldefault('L', l.lomowner)
    FROM pg_catalog.pg_largeobject_metadata AS l WHERE l.lomacl IS NOT NULL
  ) AS o CROSS JOIN LATERAL (
    (SELECT 'grants' AS verb, a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(o.acl) AS a
     EXCEPT SELECT 'grants', a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(o.base) AS a)
    UNION ALL
    (SELECT 'does not grant', a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(o.base) AS a
     EXCEPT SELECT 'does not grant', a.grantee, a.privilege_type, a.is_grantable FROM pg_catalog.aclexplode(o.acl) AS a)
  ) AS x
) AS g
UNION ALL
SELECT 'owner of large object', l.oid::text, pg_catalog.format('belongs to %I', r.rolname)
FROM pg_catalog.pg_largeobject_metadata AS l JOIN pg_catalog.pg_roles AS r ON r.oid = l.lomowner JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database() WHERE l.lomowner <> d.datdba
UNION ALL
SELECT 'default privileges', pg_catalog.format('of %s%s for %s', a.defaclrole::regrole, ' in schema ' || n.nspname, a.defaclobjtype), a.defaclacl::text
FROM pg_catalog.pg_default_acl AS a LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = a.defaclnamespace
UNION ALL
SELECT 'security label', coalesce((pg_catalog.pg_identify_object(s.classoid, s.objoid, s.objsubid)).identity, s.objoid::text), pg_catalog.format('label %L of %s', s.label, s.provider) FROM pg_catalog.pg_seclabel AS s
UNION ALL
SELECT x.class, pg_catalog.quote_ident(x.name), 'present' FROM (
  SELECT 'event trigger' AS class, e.evtname AS name, 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, e.oid FROM pg_catalog.pg_event_trigger AS e
  UNION ALL SELECT 'publication', p.pubname, 'pg_catalog.pg_publication'::regclass, p.oid FROM pg_catalog.pg_publication AS p
  UNION ALL SELECT 'subscription', s.subname, 'pg_catalog.pg_subscription'::regclass, s.oid FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid WHERE d.datname = pg_catalog.current_database()
  UNION ALL SELECT 'foreign data wrapper', f.fdwname, 'pg_catalog.pg_foreign_data_wrapper'::regclass, f.oid FROM pg_catalog.pg_foreign_data_wrapper AS f
  UNION ALL SELECT 'foreign server', f.srvname, 'pg_catalog.pg_foreign_server'::regclass, f.oid FROM pg_catalog.pg_foreign_server AS f
  UNION ALL SELECT 'language', l.lanname, 'pg_catalog.pg_language'::regclass, l.oid FROM pg_catalog.pg_language AS l WHERE l.oid >= 16384
  UNION ALL SELECT 'access method', a.amname, 'pg_catalog.pg_am'::regclass, a.oid FROM pg_catalog.pg_am AS a WHERE a.oid >= 16384
  UNION ALL SELECT 'operator class', o.opcname, 'pg_catalog.pg_opclass'::regclass, o.oid FROM pg_catalog.pg_opclass AS o WHERE o.oid >= 16384
  UNION ALL SELECT 'operator family', o.opfname, 'pg_catalog.pg_opfamily'::regclass, o.oid FROM pg_catalog.pg_opfamily AS o WHERE o.oid >= 16384
  UNION ALL SELECT 'text search parser', p.prsname, 'pg_catalog.pg_ts_parser'::regclass, p.oid FROM pg_catalog.pg_ts_parser AS p WHERE p.oid >= 16384
  UNION ALL SELECT 'text search template', t.tmplname, 'pg_catalog.pg_ts_template'::regclass, t.oid FROM pg_catalog.pg_ts_template AS t WHERE t.oid >= 16384
  UNION ALL SELECT 'transform', (t.trftype::regtype::text || ' for ' || l.lanname)::name, 'pg_catalog.pg_transform'::regclass, t.oid FROM pg_catalog.pg_transform AS t JOIN pg_catalog.pg_language AS l ON l.oid = t.trflang
) AS x WHERE (x.classid, x.oid) NOT IN (SELECT m.classid, m.objid FROM members AS m)
