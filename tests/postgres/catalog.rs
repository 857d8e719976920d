//! Every question, against a database that holds something to find.

use pgmigration::postgres::carrier::{Carrier as _, SqlErrorKind};
use pgmigration::postgres::catalog;

use crate::cluster::{Cluster, SOON, servers};

/// A database with at least one of everything that the questions look for.
const TORTURE: &str = include_str!("torture.sql");

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

fn app(bin: &std::path::Path) -> Cluster {
    let cluster = Cluster::start(bin, &[]);
    cluster.sql("postgres", "CREATE DATABASE app");
    cluster.sql("app", TORTURE);
    cluster
}

#[tokio::test]
async fn the_server_and_its_databases() {
    for bin in servers() {
        let cluster = app(&bin);
        let mut admin = cluster.session("postgres").await;
        let server = catalog::server(&mut *admin).await.unwrap();
        assert_eq!(server.version.major(), cluster.major());
        assert_eq!(server.system_identifier, cluster.sql("postgres", "SELECT system_identifier FROM pg_control_system()"));
        assert_eq!((server.timeline, server.in_recovery, server.database.as_str()), (1, false, "postgres"));
        assert!(
            server.superuser
                && server.createdb
                && server.bypassrls
                && server.signal_backend
                && server.read_large_objects
                && server.read_hba
        );

        let all = catalog::databases(&mut *admin).await.unwrap();
        let list: Vec<&str> = all.items.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((all.total, list), (4, vec!["app", "postgres", "template0", "template1"]));
        let one = catalog::database(&mut *admin, "app").await.unwrap().unwrap();
        assert_eq!(one.oid.to_string(), cluster.sql("postgres", "SELECT oid FROM pg_database WHERE datname = 'app'"));
        assert_eq!((one.owner.as_str(), one.encoding.as_str(), one.collate.as_str()), ("owner", "UTF8", "C.UTF-8"));
        assert_eq!((one.locale_provider.as_str(), one.connection_limit), ("libc", -1));
        assert_eq!(one.comment.as_deref(), Some("the application's \"data\""));
        assert!(one.size.unwrap() > 1_000_000);
        assert_eq!(catalog::database(&mut *admin, "nonesuch").await.unwrap(), None);

        let settings = catalog::database_settings(&mut *admin, one.oid).await.unwrap();
        let list: Vec<(Option<&str>, &str)> =
            settings.settings.iter().map(|one| (one.role.as_deref(), one.setting.as_str())).collect();
        assert_eq!(list, [(None, "work_mem=5MB"), (Some("owner"), "statement_timeout=1min")]);
        let connect: Vec<_> = settings.acl.iter().filter(|item| item.privilege == "CONNECT").collect();
        assert!(connect.iter().any(|item| item.grantee.as_deref() == Some("reader") && item.grantable));
        assert!(connect.iter().all(|item| item.grantee.is_some()), "PUBLIC may not connect");

        let roles = catalog::roles(&mut *admin, &names(&["owner", "postgres", "nobody"])).await.unwrap();
        let list: Vec<(&str, bool, bool)> =
            roles.iter().map(|role| (role.name.as_str(), role.superuser, role.reachable)).collect();
        assert_eq!(list, [("owner", false, true), ("postgres", true, true)]);
        assert_eq!(roles[0].member_of, ["reader"]);

        // A role without any right gets an answer as well, and what it may not see is said to be unseen.
        cluster.sql("postgres", "CREATE ROLE nobody LOGIN");
        let mut nobody = cluster.try_session("nobody", "postgres").await.unwrap();
        let server = catalog::server(&mut *nobody).await.unwrap();
        assert!(
            !server.superuser && !server.createdb && !server.signal_backend && !server.read_large_objects && !server.read_hba
        );
        assert_eq!(catalog::hba_lines(&mut *nobody, "app").await.unwrap(), None);
        assert_eq!(catalog::database(&mut *nobody, "app").await.unwrap().unwrap().size, None);
        assert!(!catalog::roles(&mut *nobody, &names(&["owner"])).await.unwrap()[0].reachable);
    }
}

#[tokio::test]
async fn what_a_database_holds() {
    for bin in servers() {
        let cluster = app(&bin);
        let mut session = cluster.session("app").await;
        let inventory = catalog::inventory(&mut *session).await.unwrap();
        let counts = &inventory.counts;
        assert_eq!((counts.schemas, counts.tables, counts.partitioned_tables, counts.partitions), (2, 11, 1, 2));
        assert_eq!((counts.foreign_tables, counts.sequences, counts.views, counts.materialized_views), (1, 2, 1, 2));
        assert_eq!((counts.indexes, counts.functions, counts.types, counts.large_objects), (7, 4, 3, 1));
        assert!(inventory.holds_tables() && inventory.user_objects > 20 && inventory.table_bytes > 100_000);
        let first = &inventory.largest_tables.items[0];
        assert_eq!((first.table.name.as_str(), inventory.largest_tables.total), ("big", 13));
        for (list, expected) in [
            (&inventory.unpopulated, "unkept"),
            (&inventory.invalid_indexes, "broken"),
            (&inventory.unlogged_tables, "light"),
            (&inventory.foreign_tables, "elsewhere"),
        ] {
            assert_eq!((list.total, list.items[0].name.as_str()), (1, expected));
        }
        assert_eq!(inventory.schemas.items, ["odd \"schema\"", "public"]);
        let mut empty = cluster.session("postgres").await;
        let nothing = catalog::inventory(&mut *empty).await.unwrap();
        assert!(!nothing.holds_tables() && nothing.user_objects == 0);

        let alembic = catalog::alembic_versions(&mut *session).await.unwrap();
        let list: Vec<(&str, Vec<String>)> = alembic.iter().map(|one| (one.schema.as_str(), one.versions.clone())).collect();
        assert_eq!(list, [("odd \"schema\"", vec![]), ("public", names(&["a1", "b2"]))]);

        let installed = catalog::extensions(&mut *session).await.unwrap();
        assert_eq!(installed.len(), 1);
        assert_eq!((installed[0].name.as_str(), installed[0].trusted), ("plpgsql", true));
        let offered = catalog::available_extensions(&mut *session, &names(&["plpgsql", "nonesuch"])).await.unwrap();
        assert_eq!((offered.len(), offered[0].default_version.as_str()), (1, "1.0"));
        assert_eq!(offered[0].versions[0].version, "1.0");
    }
}

#[tokio::test]
async fn what_makes_a_copy_differ_or_fail() {
    for bin in servers() {
        let cluster = app(&bin);
        let mut session = cluster.session("app").await;
        let triggers = catalog::event_triggers(&mut *session).await.unwrap();
        assert_eq!((triggers.len(), triggers[0].event.as_str(), triggers[0].enabled), (1, "ddl_command_end", true));
        let uses = catalog::database_name_uses(&mut *session).await.unwrap();
        let list: Vec<&str> = uses.items.iter().map(|one| one.object.as_str()).collect();
        assert_eq!(list, ["public.named.named_d_check", "public.unkept", "public.guarded.guard"]);
        let uses = catalog::search_path_uses(&mut *session).await.unwrap();
        let list: Vec<(&str, &str)> = uses.items.iter().map(|one| (one.object.as_str(), one.function.as_str())).collect();
        assert_eq!(list, [("public.checked.checked_i_check", "public.outer_check(i integer)")]);

        assert_eq!(catalog::hba_lines(&mut *session, "app").await.unwrap(), Some(vec![]));
        let hba = cluster.scratch("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&hba).unwrap();
        std::fs::write(&hba, format!("{rules}local other,app owner reject\n")).unwrap();
        cluster.sql("postgres", "SELECT pg_reload_conf()");
        let lines = catalog::hba_lines(&mut *session, "app").await.unwrap().unwrap();
        assert_eq!((lines.len(), lines[0].method.as_str(), &lines[0].users), (1, "reject", &names(&["owner"])));
    }
}

/// What a copy without grants opens or closes to everybody. What initdb and extensions have set up is in the copy too.
#[tokio::test]
async fn where_public_may_do_less_or_more() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        cluster.sql("postgres", "CREATE ROLE reader; CREATE DATABASE app");
        cluster.sql(
            "app",
            "CREATE TABLE public.t (a int4, b int4); CREATE FUNCTION public.f(int4) RETURNS int4 LANGUAGE sql AS 'SELECT 1'",
        );
        cluster.sql("app", "GRANT SELECT ON public.t TO reader; GRANT EXECUTE ON FUNCTION public.f(int4) TO reader; GRANT CREATE ON SCHEMA public TO reader");
        let rights = async || {
            let mut session = cluster.session("app").await;
            let found = catalog::public_rights(&mut *session).await.unwrap();
            assert_eq!(
                [found.revoked.total, found.granted.total],
                [found.revoked.items.len() as u64, found.granted.items.len() as u64]
            );
            (found.revoked.items, found.granted.items)
        };
        assert_eq!(rights().await, (vec![], vec![]), "grants to roles are no matter of PUBLIC");
        cluster.sql(
            "app",
            "REVOKE EXECUTE ON FUNCTION public.f(int4) FROM PUBLIC; REVOKE USAGE ON SCHEMA public FROM PUBLIC;
             CREATE TYPE public.mood AS ENUM ('ok'); REVOKE USAGE ON TYPE public.mood FROM PUBLIC; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
             REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(int4) FROM PUBLIC;
             GRANT SELECT ON public.t TO PUBLIC; GRANT UPDATE (b) ON public.t TO PUBLIC; CREATE SEQUENCE public.s; GRANT USAGE ON SEQUENCE public.s TO PUBLIC;
             CREATE FOREIGN DATA WRAPPER w; GRANT USAGE ON FOREIGN DATA WRAPPER w TO PUBLIC;
             SELECT lo_create(77); GRANT SELECT ON LARGE OBJECT 77 TO PUBLIC",
        );
        let (revoked, granted) = rights().await;
        assert_eq!(
            revoked,
            [
                "USAGE on schema public",
                "EXECUTE on function pg_catalog.lo_creat(integer)",
                "EXECUTE on function public.f(integer)",
                "USAGE on type public.mood",
                "USAGE on language plpgsql",
            ]
        );
        assert_eq!(
            granted,
            [
                "SELECT on table public.t",
                "USAGE on sequence public.s",
                "UPDATE on table column public.t.b",
                "USAGE on foreign-data wrapper w",
                "SELECT on large object 77",
            ]
        );
        cluster.sql("app", "DO $$BEGIN FOR n IN 1..30 LOOP EXECUTE format('CREATE TABLE public.t%s (); GRANT SELECT ON public.t%s TO PUBLIC', n, n); END LOOP; END$$");
        let mut session = cluster.session("app").await;
        let found = catalog::public_rights(&mut *session).await.unwrap();
        assert_eq!((found.granted.total, found.granted.items.len()), (35, 20));
    }
}

#[tokio::test]
async fn what_goes_on_in_a_database() {
    for bin in servers() {
        let cluster = app(&bin);
        let mut admin = cluster.session("postgres").await;
        let oid = catalog::database(&mut *admin, "app").await.unwrap().unwrap().oid;

        let prepared = catalog::prepared_transactions(&mut *admin, "app").await.unwrap();
        assert_eq!((prepared.total, prepared.items[0].gid.as_str(), prepared.items[0].owner.as_str()), (1, "half", "postgres"));
        assert!(catalog::prepared_transactions(&mut *admin, "postgres").await.unwrap().is_empty());

        let subscriptions = catalog::subscriptions(&mut *admin, oid).await.unwrap();
        assert_eq!((subscriptions.len(), subscriptions[0].name.as_str(), subscriptions[0].enabled), (1, "idle", false));

        // A logical slot waits for every transaction that is open when it is made.
        cluster.sql("app", "ROLLBACK PREPARED 'half'");
        cluster.sql("app", "SELECT pg_create_logical_replication_slot('slot', 'pgoutput')");
        let slots = catalog::replication_slots(&mut *admin, "app").await.unwrap();
        assert_eq!((slots.len(), slots[0].name.as_str(), slots[0].active), (1, "slot", false));
        assert!(slots[0].retained_bytes.is_some());
        cluster.sql("app", "SELECT pg_drop_replication_slot('slot')");

        let standbys = catalog::standbys(&mut *admin, None).await.unwrap();
        assert!(standbys.standbys.is_empty() && standbys.behind().next().is_none());

        cluster
            .until(
                "postgres",
                "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND backend_type = 'client backend'",
                "0",
            )
            .await;
        let mut client = cluster.carrier("owner").with_name("somebody").connect("app", SOON).await.unwrap();
        client.execute("BEGIN", SOON).await.unwrap();
        let _ours = cluster.session("app").await;
        let found = catalog::sessions(&mut *admin, oid, "pgmigration/").await.unwrap();
        assert_eq!(found.total, 1, "{found:?}");
        assert_eq!(found.items[0].user.as_deref(), Some("owner"));
        assert_eq!(found.items[0].state.as_deref(), Some("idle in transaction"));
        assert_eq!(catalog::sessions(&mut *admin, oid, "").await.unwrap().total, 2);

        // An index built concurrently waits for transactions that may write to the table.
        client.execute("ROLLBACK", SOON).await.unwrap();
        cluster.sql("app", "GRANT SELECT, INSERT ON public.big TO owner");
        client.execute("BEGIN", SOON).await.unwrap();
        client.execute("LOCK TABLE public.big IN ROW EXCLUSIVE MODE", SOON).await.unwrap();
        let mut builder = cluster.session("app").await;
        let build = tokio::spawn(async move {
            builder.execute("CREATE INDEX CONCURRENTLY slow ON public.big (doubled)", SOON).await.unwrap();
        });
        let begin = std::time::Instant::now();
        let builds = loop {
            let builds = catalog::index_builds(&mut *admin, oid).await.unwrap();
            if !builds.is_empty() || begin.elapsed() > SOON {
                break builds;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert_eq!(builds[0].command, "CREATE INDEX CONCURRENTLY");
        client.execute("COMMIT", SOON).await.unwrap();
        build.await.unwrap();
        assert!(catalog::index_builds(&mut *admin, oid).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_session_tells_what_failed_and_whether_it_lives() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let mut session = cluster.session("postgres").await;
        let refused = session.execute("SELECT 1 / 0", SOON).await.unwrap_err();
        assert_eq!((refused.kind, refused.sqlstate.as_deref()), (SqlErrorKind::Statement, Some("22012")));
        session.execute("SELECT 1; SELECT 2", SOON).await.expect_err("one statement only");
        session.execute("BEGIN", SOON).await.unwrap();
        session.execute("nonsense", SOON).await.unwrap_err();
        let unmade = session.execute("COMMIT", SOON).await.unwrap_err();
        assert_eq!((unmade.kind, unmade.sqlstate.as_deref()), (SqlErrorKind::Statement, Some("25P02")));
        session.execute("ROLLBACK", SOON).await.unwrap();
        // An answer that does not come: the session is given up.
        let late = session.execute("SELECT pg_sleep(60)", std::time::Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(late.kind, SqlErrorKind::Deadline);
        let after = session.execute("SELECT 1", SOON).await.unwrap_err();
        assert_eq!(after.kind, SqlErrorKind::Connect);
        // A session ended by the server.
        let mut session = cluster.session("postgres").await;
        let ended = session.execute("SELECT pg_terminate_backend(pg_backend_pid())", SOON).await.unwrap_err();
        assert_eq!(ended.kind, SqlErrorKind::Connect);
        // No such database.
        let absent = cluster.try_session("postgres", "nonesuch").await.err().unwrap();
        assert_eq!((absent.kind, absent.sqlstate.as_deref()), (SqlErrorKind::Connect, Some("3D000")));
    }
}
