//! Publishing on the target, staging databases, and what is carried over.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgmigration::postgres::admin::AdminSessions;
use pgmigration::postgres::carrier::Carrier;
use pgmigration::postgres::completion;
use pgmigration::postgres::publish::{Publication, PublishNames, PublishState, plan};
use pgmigration::postgres::staging::{carry, create_staging, dress_of, drop_database, empty, name_of};
use pgmigration::postgres::swap::SwapError;

use crate::chop::{Chop, Side};
use crate::cluster::{Cluster, SOON, servers};
use crate::fence::picture;

const UID: &str = "0b1c2d3e-4f5a-6789-abcd-ef0123456789";

/// A target with a filled staging database for `app`, and, when asked, an `app` that is there already.
fn target(bin: &Path, existing: bool) -> Cluster {
    let cluster = Cluster::start(bin, &[]);
    cluster.sql("postgres", "CREATE ROLE owner LOGIN");
    let staging = PublishNames::derive("app", UID).staging;
    cluster.sql("postgres", &format!("CREATE DATABASE {staging} OWNER owner"));
    cluster.sql(&staging, "CREATE TABLE public.new (i int4)");
    if existing {
        cluster.sql("postgres", "CREATE DATABASE app OWNER owner CONNECTION LIMIT 7");
        cluster.sql("app", "CREATE TABLE public.old (i int4); COMMENT ON DATABASE app IS 'earlier'");
    }
    cluster
}

fn carrier(cluster: &Cluster) -> Arc<dyn Carrier> {
    Arc::new(cluster.carrier("postgres").with_name("pgmigration/test/publish"))
}

async fn open(carrier: Arc<dyn Carrier>) -> AdminSessions {
    AdminSessions::open(carrier, "postgres", SOON).await.expect("admin sessions")
}

fn tables(cluster: &Cluster, database: &str) -> String {
    cluster.sql(database, "SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = 'public'::regnamespace")
}

#[tokio::test]
async fn published_is_the_new_one_and_withdrawn_is_what_was() {
    for bin in servers() {
        for existing in [false, true] {
            let cluster = target(&bin, existing);
            let before = picture(&cluster);
            let mut admins = open(carrier(&cluster)).await;
            let publication = plan(&mut admins, PublishNames::derive("app", UID)).await.unwrap();
            assert_eq!(publication.existing_oid.is_some(), existing);

            // Somebody uses the old one all the time.
            let in_the_way = if existing { Some(cluster.try_session("owner", "app").await.unwrap()) } else { None };
            assert_eq!(publication.publish_step(&mut admins, SOON).await.unwrap(), PublishState::Closing);
            assert_eq!(publication.publish_step(&mut admins, SOON).await.unwrap(), PublishState::Published);
            drop(in_the_way);
            assert_eq!(tables(&cluster, "app"), "new");
            if existing {
                assert_eq!(tables(&cluster, &publication.names.aside), "old");
            }
            assert_eq!(publication.withdraw_step(&mut admins, SOON).await.unwrap(), PublishState::Withdrawing);
            assert_eq!(publication.withdraw_step(&mut admins, SOON).await.unwrap(), PublishState::Unpublished);
            assert_eq!(picture(&cluster), before);
        }
    }
}

#[tokio::test]
async fn a_copy_that_somebody_dropped_leaves_what_was_there_as_it_was() {
    for bin in servers() {
        let cluster = target(&bin, true);
        let mut admins = open(carrier(&cluster)).await;
        let publication = plan(&mut admins, PublishNames::derive("app", UID)).await.unwrap();
        assert_eq!(publication.publish_step(&mut admins, SOON).await.unwrap(), PublishState::Closing);
        cluster.sql("postgres", &format!("DROP DATABASE {}", publication.names.staging));
        assert!(matches!(publication.publish_step(&mut admins, SOON).await, Err(SwapError::Unexpected(_))));
        publication.withdraw(&mut admins, SOON).await.unwrap();
        assert_eq!(tables(&cluster, "app"), "old");
        assert_eq!(publication.state(&mut admins).await.unwrap(), PublishState::Gone { open: true });
    }
}

#[tokio::test]
async fn killed_at_every_call_it_can_go_on_or_be_taken_back() {
    for bin in servers() {
        for (existing, side) in [(true, Side::After), (false, Side::Before)] {
            let cluster = target(&bin, existing);
            let before = picture(&cluster);
            let carrier = carrier(&cluster);
            let publication: Publication =
                plan(&mut open(carrier.clone()).await, PublishNames::derive("app", UID)).await.unwrap();
            for calls in 0.. {
                let mut dead = false;
                for forward in [true, false] {
                    let chop = Arc::new(Chop::new(carrier.clone(), calls, side));
                    let _ = async {
                        let mut admins = AdminSessions::open(chop.clone(), "postgres", SOON).await?;
                        if forward {
                            publication.publish(&mut admins, SOON).await
                        } else {
                            publication.withdraw(&mut admins, SOON).await
                        }
                    }
                    .await;
                    dead |= chop.is_dead();
                    let mut admins = open(carrier.clone()).await;
                    let state = publication.state(&mut admins).await.unwrap();
                    assert!(!matches!(state, PublishState::Foreign { .. }), "after {calls} calls: {state:?}");
                    if forward {
                        publication.publish(&mut admins, SOON).await.unwrap();
                        assert_eq!(tables(&cluster, "app"), "new");
                    } else {
                        publication.withdraw(&mut admins, SOON).await.unwrap();
                        assert_eq!(picture(&cluster), before, "after {calls} calls, {side:?}");
                    }
                }
                if !dead {
                    assert!(calls > 10, "the sweep is too short");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_emptied_keeps_its_name() {
    for bin in servers() {
        let cluster = target(&bin, true);
        let mut admins = open(carrier(&cluster)).await;
        let publication = plan(&mut admins, PublishNames::derive("app", UID)).await.unwrap();
        let before = picture(&cluster);
        cluster.sql("app", "BEGIN; INSERT INTO public.old VALUES (1); PREPARE TRANSACTION 'half';");
        let blocked = publication.publish(&mut admins, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(blocked, SwapError::Blocked { .. }), "{blocked}");
        assert_eq!(picture(&cluster), before);
        cluster.sql("app", "ROLLBACK PREPARED 'half'");
        publication.publish(&mut admins, SOON).await.unwrap();

        // Somebody makes a database of the freed name: nothing is done any more.
        cluster.sql("postgres", &format!("CREATE DATABASE {}", publication.names.staging));
        let refused = publication.withdraw(&mut admins, SOON).await.unwrap_err();
        assert!(matches!(refused, SwapError::Unexpected(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_staging_database_is_made_dressed_and_dropped() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        cluster
            .sql("postgres", "CREATE ROLE owner LOGIN; CREATE ROLE reader; CREATE ROLE bob LOGIN; CREATE ROLE new_owner LOGIN;");
        cluster.sql(
            "postgres",
            "CREATE DATABASE app OWNER owner TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
        );
        cluster.sql(
            "postgres",
            r#"COMMENT ON DATABASE app IS 'it''s mine'; ALTER DATABASE app CONNECTION LIMIT 9; ALTER DATABASE app SET search_path = "$user", public, "odd ""one""";
               ALTER DATABASE app SET app.tenant = 'x''y'; ALTER ROLE owner IN DATABASE app SET work_mem = '6MB'; ALTER ROLE bob IN DATABASE app SET work_mem = '7MB';
               REVOKE CONNECT ON DATABASE app FROM PUBLIC; GRANT CONNECT ON DATABASE app TO reader;"#,
        );
        let mut admins = open(carrier(&cluster)).await;
        let (source, settings) = dress_of(&mut admins, "app").await.unwrap();
        let oid = create_staging(&mut admins, "app_s", "new_owner", &source, SOON).await.unwrap();
        assert_eq!(create_staging(&mut admins, "app_s", "new_owner", &source, SOON).await.unwrap(), oid);
        let refused = cluster.try_session("bob", "app_s").await.err().expect("hidden until it is dressed");
        assert_eq!(refused.sqlstate.as_deref(), Some("42501"), "{refused}");

        for _ in 0..2 {
            let left = carry(&mut admins, &source, &settings, "app_s", "new_owner").await.unwrap();
            let left: Vec<&str> = left.iter().map(|one| one.what.as_str()).collect();
            assert_eq!(
                left,
                ["setting \"work_mem=7MB\" of role \"bob\"", "privilege CONNECT of role \"reader\" on the database"]
            );
        }
        let dress = |name: &str| {
            cluster.sql(
                "postgres",
                &format!(
                    "SELECT shobj_description(oid, 'pg_database'), datconnlimit, datcollate, datctype, encoding,
                       (SELECT array_agg(s.setconfig::text ORDER BY s.setrole) FROM pg_db_role_setting AS s WHERE s.setdatabase = d.oid AND s.setrole <> 'bob'::regrole),
                       has_database_privilege('bob', oid, 'CONNECT'), has_database_privilege('bob', oid, 'TEMPORARY')
                     FROM pg_database AS d WHERE datname = '{name}'"
                ),
            )
        };
        assert_eq!(dress("app_s"), dress("app"));
        assert_eq!(cluster.sql("app_s", "SHOW search_path"), cluster.sql("app", "SHOW search_path"));

        // Dropping: with a session in it, twice, and never another database of that name.
        let _in_the_way = cluster.try_session("new_owner", "app_s").await.unwrap();
        let other = dress_of(&mut admins, "app").await.unwrap().0.oid;
        assert!(matches!(drop_database(&mut admins, "app_s", other, SOON).await, Err(SwapError::Unexpected(_))));
        drop_database(&mut admins, "app_s", oid, SOON).await.unwrap();
        drop_database(&mut admins, "app_s", oid, SOON).await.unwrap();
        assert_eq!(cluster.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'app_s'"), "0");
    }
}

#[tokio::test]
async fn a_database_gives_its_space_back_before_it_is_dropped() {
    for bin in servers() {
        let cluster = target(&bin, false);
        let staging = PublishNames::derive("app", UID).staging;
        cluster.sql(
            &staging,
            r#"CREATE TABLE public."odd ""one
               of two lines" AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 40000) AS i;
               CREATE TABLE public.parent (i int4 PRIMARY KEY) PARTITION BY RANGE (i);
               CREATE TABLE public.part PARTITION OF public.parent FOR VALUES FROM (1) TO (100000);
               INSERT INTO public.part SELECT generate_series(1, 50000);
               CREATE TABLE public.child (i int4 REFERENCES public.parent);
               CREATE MATERIALIZED VIEW public.seen AS SELECT * FROM public.parent;
               CREATE VIEW public.over AS SELECT * FROM public.seen"#,
        );
        // As a table of an extension.
        cluster.sql(
            &staging,
            "CREATE TABLE public.configuration AS SELECT 1 AS i; ALTER EXTENSION plpgsql ADD TABLE public.configuration",
        );
        let size = || cluster.sql("postgres", &format!("SELECT pg_database_size('{staging}') / 1000000")).parse::<u64>().unwrap();
        assert!(size() > 30, "{} MB", size());
        let oid: u32 =
            cluster.sql("postgres", &format!("SELECT oid FROM pg_database WHERE datname = '{staging}'")).parse().unwrap();
        let mut session = carrier(&cluster).connect(&staging, SOON).await.unwrap();
        let refused = empty(session.as_mut(), oid + 1).await.unwrap_err();
        assert!(refused.to_string().contains("not the database"), "{refused}");
        assert!(size() > 30, "another database was emptied");
        for _ in 0..2 {
            empty(session.as_mut(), oid).await.unwrap();
        }
        session.close().await;
        assert!(size() < 12, "{} MB", size());
        let left = "SELECT string_agg(relname, ',') FROM pg_class WHERE relkind IN ('r', 'm', 'v') AND oid >= 16384";
        assert_eq!(cluster.sql(&staging, left), "configuration");
    }
}

#[tokio::test]
async fn a_mark_goes_and_a_written_copy_is_withdrawn_under_a_name_of_its_own() {
    for bin in servers() {
        let cluster = target(&bin, true);
        let mut admins = open(carrier(&cluster)).await;
        let before = picture(&cluster);
        assert!(completion::mark(&mut admins, "app", r#"{"done": "it's so"}"#).await.unwrap());
        let (_, settings) = dress_of(&mut admins, "app").await.unwrap();
        assert_eq!(completion::read(&settings), Some(r#"{"done": "it's so"}"#));
        for _ in 0..2 {
            completion::unmark(&mut admins, "app").await.unwrap();
        }
        assert_eq!(picture(&cluster), before);

        // Published, then withdrawn under a name of its own, which nothing that looks for the staging database finds.
        let publication = plan(&mut admins, PublishNames::derive("app", UID)).await.unwrap();
        publication.publish(&mut admins, SOON).await.unwrap();
        let mut back = publication.clone();
        back.names.staging = "app_k1".into();
        assert_eq!(back.state(&mut admins).await.unwrap(), PublishState::Published);
        back.withdraw(&mut admins, SOON).await.unwrap();
        let oid = publication.staging_oid;
        assert_eq!((tables(&cluster, "app_k1"), name_of(&mut admins, oid).await.unwrap()), ("new".into(), Some("app_k1".into())));
        assert_eq!(tables(&cluster, "app"), "old");
        assert!(matches!(publication.state(&mut admins).await.unwrap(), PublishState::Foreign { .. }));
        let refused = drop_database(&mut admins, &publication.names.staging, oid, SOON).await.unwrap_err();
        assert!(matches!(refused, SwapError::Unexpected(_)), "{refused}");
        drop_database(&mut admins, "app_k1", oid, SOON).await.unwrap();
        assert_eq!(name_of(&mut admins, oid).await.unwrap(), None);
    }
}

#[tokio::test]
async fn two_holders_of_one_purpose_end_each_other() {
    for bin in servers() {
        let cluster = target(&bin, true);
        let carrier = carrier(&cluster);
        let mut first = open(carrier.clone()).await;
        let publication = plan(&mut first, PublishNames::derive("app", UID)).await.unwrap();
        // The first one's statement hangs on a lock; then a second one comes.
        let mut granting = cluster.session("postgres").await;
        granting.execute("BEGIN", SOON).await.unwrap();
        granting.execute("GRANT CREATE ON DATABASE app TO owner", SOON).await.unwrap();
        let (outcome, second) = tokio::join!(publication.publish(&mut first, Duration::from_secs(1)), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            open(carrier.clone()).await
        });
        assert!(outcome.is_err());
        drop(first);
        let mut second = second;
        granting.execute("ROLLBACK", SOON).await.unwrap();
        publication.publish(&mut second, SOON).await.unwrap();
        publication.withdraw(&mut second, SOON).await.unwrap();
    }
}
