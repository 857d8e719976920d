//! The swap fence, attacked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgmigration::postgres::admin::AdminSessions;
use pgmigration::postgres::carrier::{Carrier, quote_identifier};
use pgmigration::postgres::catalog;
use pgmigration::postgres::fence::{Fence, FenceNames, FenceState, originals};
use pgmigration::postgres::swap::SwapError;

use crate::chop::{Chop, Side};
use crate::cluster::{Cluster, SOON, servers};
use crate::writers::Writers;

const UID: &str = "0b1c2d3e-4f5a-6789-abcd-ef0123456789";

/// A server with the database `app` of role `owner`, dressed so that a wrong undo shows.
fn app(bin: &Path, settings: &[&str]) -> Cluster {
    let cluster = Cluster::start(bin, settings);
    cluster.sql("postgres", "CREATE ROLE owner LOGIN; CREATE ROLE reader;");
    cluster.sql("postgres", "CREATE DATABASE app OWNER owner CONNECTION LIMIT 60");
    cluster.sql(
        "app",
        "COMMENT ON DATABASE app IS 'mine'; GRANT CONNECT ON DATABASE app TO reader; ALTER DATABASE app SET work_mem = '5MB';
         CREATE TABLE public.ledger (writer int4, number int8, PRIMARY KEY (writer, number)); ALTER TABLE public.ledger OWNER TO owner;",
    );
    cluster
}

/// Everything about the databases of a server that an undo must give back.
pub fn picture(cluster: &Cluster) -> String {
    cluster.sql(
        "postgres",
        "SELECT d.oid, d.datname, d.datdba, d.datallowconn, d.datistemplate, d.datconnlimit, d.datacl, shobj_description(d.oid, 'pg_database'),
           (SELECT array_agg(s.setconfig) FROM pg_db_role_setting AS s WHERE s.setdatabase = d.oid)
         FROM pg_database AS d ORDER BY d.oid",
    )
}

async fn open(carrier: Arc<dyn Carrier>) -> AdminSessions {
    AdminSessions::open(carrier, "postgres", SOON).await.expect("admin sessions")
}

async fn admins(cluster: &Cluster) -> AdminSessions {
    open(Arc::new(cluster.carrier("postgres").with_name("pgmigration/test/fence"))).await
}

async fn fence(admins: &mut AdminSessions) -> Fence {
    Fence {
        names: FenceNames::derive("app", UID),
        originals: originals(admins, "app").await.expect("originals"),
        comment: "it's in the new cluster".into(),
    }
}

#[tokio::test]
async fn each_step_is_seen_and_the_undo_is_exact() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let before = picture(&cluster);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        assert_eq!(fence.state(&mut admins).await.unwrap(), FenceState::Open { tombstone: None });

        let step = fence.raise_step(&mut admins, SOON).await.unwrap();
        assert!(matches!(step, FenceState::Open { tombstone: Some(_) }), "{step:?}");
        let step = fence.raise_step(&mut admins, SOON).await.unwrap();
        assert!(matches!(step, FenceState::Refusing { tombstone: Some(_) }), "{step:?}");
        let step = fence.raise_step(&mut admins, SOON).await.unwrap();
        assert!(matches!(step, FenceState::Fenced { .. }), "{step:?}");
        assert_eq!(fence.raise_step(&mut admins, SOON).await.unwrap(), step, "raising again changes nothing");

        for user in ["postgres", "owner"] {
            let refused = cluster.try_session(user, "app").await.err().expect("refused");
            assert_eq!(refused.sqlstate.as_deref(), Some("55000"), "{refused}");
        }
        let evidence = fence.evidence(&mut admins, "pgmigration/").await.unwrap();
        assert_eq!(evidence.leaks(&fence.originals), Vec::<String>::new());
        assert_eq!(cluster.sql(&fence.names.fenced, "SELECT count(*) FROM public.ledger"), "0");

        let step = fence.lift_step(&mut admins, SOON).await.unwrap();
        assert!(matches!(step, FenceState::Lifting { .. }), "{step:?}");
        let step = fence.lift_step(&mut admins, SOON).await.unwrap();
        assert!(matches!(step, FenceState::Open { tombstone: Some(_) }), "{step:?}");
        cluster.try_session("owner", "app").await.expect("open again before the tombstone is dropped");
        let step = fence.lift_step(&mut admins, SOON).await.unwrap();
        assert_eq!(step, FenceState::Open { tombstone: None });
        assert_eq!(picture(&cluster), before);
    }
}

#[tokio::test]
async fn reopened_it_serves_before_the_tombstone_is_gone() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let before = picture(&cluster);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        fence.raise(&mut admins, SOON).await.unwrap();
        for _ in 0..2 {
            fence.reopen(&mut admins, SOON).await.unwrap();
            let state = fence.state(&mut admins).await.unwrap();
            assert!(matches!(state, FenceState::Open { tombstone: Some(_) }), "{state:?}");
            cluster.try_session("owner", "app").await.expect("open again");
        }
        fence.lift(&mut admins, SOON).await.unwrap();
        fence.reopen(&mut admins, SOON).await.unwrap();
        assert_eq!(picture(&cluster), before);
    }
}

/// What takes the database's place is whole, and closed.
#[tokio::test]
async fn a_tombstone_is_looked_at_before_it_takes_the_place() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        let tombstone = quote_identifier(&fence.names.tombstone);
        let open = |state: FenceState| match state {
            FenceState::Open { tombstone } => tombstone.map(|found| found.oid),
            other => panic!("{other:?}"),
        };
        // A drop that was broken off before the server marked it (-2, since 16), or began it.
        let first = open(fence.raise_step(&mut admins, SOON).await.unwrap());
        cluster.sql("postgres", &format!("ALTER DATABASE {tombstone} IS_TEMPLATE false"));
        assert_eq!(open(fence.raise_step(&mut admins, SOON).await.unwrap()), None);
        let second = open(fence.raise_step(&mut admins, SOON).await.unwrap());
        assert!(second.is_some() && second != first);
        // Somebody opens it: it is neither dropped nor put into the place.
        cluster.sql("postgres", &format!("ALTER DATABASE {tombstone} ALLOW_CONNECTIONS true"));
        for _ in 0..2 {
            let refused = fence.raise_step(&mut admins, SOON).await.unwrap_err();
            assert!(matches!(&refused, SwapError::Unexpected(why) if why.contains("opened by somebody")), "{refused}");
        }
        assert_eq!(open(fence.state(&mut admins).await.unwrap()), second);
        cluster.try_session("owner", "app").await.expect("nothing happened to the database");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_acknowledged_row_is_lost_and_none_comes_late() {
    for bin in servers() {
        let cluster = app(&bin, &["max_connections=20"]);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        let names = &fence.names;
        let (mut total, mut slowest) = (0, Duration::ZERO);
        for _ in 0..5 {
            let writers = Writers::start(&cluster, "app", 8);
            writers.until_more(300).await;
            let begin = std::time::Instant::now();
            fence.raise(&mut admins, SOON).await.unwrap();
            slowest = slowest.max(begin.elapsed());
            // What was acknowledged up to now is in the database; from now on nothing is acknowledged.
            let at_fence = cluster.sql(&names.fenced, "SELECT count(*) FROM public.ledger");
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(cluster.sql(&names.fenced, "SELECT count(*) FROM public.ledger"), at_fence, "a row came late");
            let counts = writers.finish().await;
            for (writer, count) in counts.iter().enumerate() {
                let kept: u64 = cluster
                    .sql(&names.fenced, &format!("SELECT count(*) FROM public.ledger WHERE writer = {writer}"))
                    .parse()
                    .unwrap();
                // A statement that was cut off may have been committed without its answer: more than acknowledged is
                // possible, less is a loss.
                assert!(kept >= *count, "writer {writer}: {count} acknowledged, {kept} kept");
            }
            total += counts.iter().sum::<u64>();
            let evidence = fence.evidence(&mut admins, "pgmigration/").await.unwrap();
            assert_eq!(evidence.leaks(&fence.originals), Vec::<String>::new());
            fence.lift(&mut admins, SOON).await.unwrap();
            cluster.sql("app", "TRUNCATE public.ledger");
        }
        assert!(total >= 1500);
        println!("{}: {total} rows acknowledged, 0 lost, slowest fence {slowest:?}", bin.display());
    }
}

#[tokio::test]
async fn killed_at_every_call_it_can_go_on_or_be_undone() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let before = picture(&cluster);
        let carrier: Arc<dyn Carrier> = Arc::new(cluster.carrier("postgres").with_name("pgmigration/test/fence"));
        let fence = fence(&mut open(carrier.clone()).await).await;
        let mut points = 0;
        for (side, go_on) in [(Side::Before, false), (Side::After, true)] {
            for calls in 0.. {
                let chop = Arc::new(Chop::new(carrier.clone(), calls, side));
                let raised = async {
                    let mut admins = AdminSessions::open(chop.clone(), "postgres", SOON).await?;
                    fence.raise(&mut admins, SOON).await
                }
                .await;
                assert_eq!(raised.is_err(), chop.is_dead(), "{raised:?}");

                let mut admins = open(carrier.clone()).await;
                let state = fence.state(&mut admins).await.unwrap();
                assert!(!matches!(state, FenceState::Foreign { .. }), "after {calls} calls: {state:?}");
                if go_on {
                    fence.raise(&mut admins, SOON).await.unwrap();
                }
                // The undo is killed at the same call as well.
                let again = Arc::new(Chop::new(carrier.clone(), calls, side));
                let _ = async {
                    let mut admins = AdminSessions::open(again.clone(), "postgres", SOON).await?;
                    fence.lift(&mut admins, SOON).await
                }
                .await;
                let mut admins = open(carrier.clone()).await;
                fence.lift(&mut admins, SOON).await.unwrap();
                assert_eq!(picture(&cluster), before, "after {calls} calls, {side:?}");
                points += 1;
                if !chop.is_dead() && !again.is_dead() {
                    break;
                }
            }
        }
        assert!(points > 50, "only {points} points");
        println!("{}: {points} points", bin.display());
    }
}

#[tokio::test]
async fn a_server_crash_between_any_two_steps_leaves_no_mixed_state() {
    for bin in servers() {
        let mut cluster = app(&bin, &[]);
        let before = picture(&cluster);
        let fence = fence(&mut admins(&cluster).await).await;
        for steps in 0..=3 {
            let mut sessions = admins(&cluster).await;
            for _ in 0..steps {
                fence.raise_step(&mut sessions, SOON).await.unwrap();
            }
            cluster.crash();
            assert!(fence.state(&mut sessions).await.is_err(), "the server is down");
            cluster.launch();
            let mut sessions = admins(&cluster).await;
            assert!(!matches!(fence.state(&mut sessions).await.unwrap(), FenceState::Foreign { .. }));
            fence.raise(&mut sessions, SOON).await.unwrap();
            fence.lift(&mut sessions, SOON).await.unwrap();
            assert_eq!(picture(&cluster), before, "after {steps} steps");
        }
    }
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_and_the_database_opened_again() {
    let short = Duration::from_secs(1);
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let before = picture(&cluster);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;

        // A backend that does not react to anything.
        let mut stopped = cluster.session("app").await;
        let pid = catalog::sessions(admins.session().await.unwrap(), fence.originals.oid, "").await.unwrap().items[0].pid;
        let signal = |name: &str| {
            let done = std::process::Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs");
            assert!(done.success());
        };
        signal("-STOP");
        let refused = fence.raise(&mut admins, short).await.unwrap_err();
        signal("-CONT");
        let SwapError::Blocked { blockers, .. } = &refused else { panic!("{refused}") };
        assert_eq!(blockers.iter().map(|one| one.pid).collect::<Vec<_>>(), [pid], "{refused}");
        assert!(matches!(fence.state(&mut admins).await.unwrap(), FenceState::Open { tombstone: Some(_) }));
        cluster.try_session("owner", "app").await.expect("open again").close().await;
        assert!(stopped.execute("SELECT 1", SOON).await.is_err(), "it was told to end");

        // A transaction that no session holds.
        cluster.sql("app", "BEGIN; INSERT INTO public.ledger VALUES (1, 1); PREPARE TRANSACTION 'half';");
        let refused = fence.raise(&mut admins, short).await.unwrap_err();
        assert!(refused.to_string().contains("prepared transaction \"half\""), "{refused}");
        cluster.sql("app", "ROLLBACK PREPARED 'half'");

        // A change of the database's own row that is not committed yet.
        let mut granting = cluster.session("postgres").await;
        granting.execute("BEGIN", SOON).await.unwrap();
        granting.execute("GRANT CREATE ON DATABASE app TO reader", SOON).await.unwrap();
        let refused = fence.raise(&mut admins, Duration::from_secs(3)).await.unwrap_err();
        assert!(matches!(&refused, SwapError::Blocked { blockers, .. } if blockers.len() == 1), "{refused}");
        granting.execute("ROLLBACK", SOON).await.unwrap();

        fence.raise(&mut admins, SOON).await.unwrap();
        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(picture(&cluster), before);
    }
}

#[tokio::test]
async fn an_absent_synchronous_standby_does_not_hang_the_fence() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        cluster.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
        cluster.sql("postgres", "SET synchronous_commit = local; SELECT pg_reload_conf()");
        fence.raise(&mut admins, Duration::from_secs(5)).await.unwrap();
        fence.lift(&mut admins, Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test]
async fn a_standby_that_has_not_replayed_the_swap_is_waited_for() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let standby = cluster.standby();
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        standby.sql("postgres", "SELECT pg_wal_replay_pause()");
        fence.raise(&mut admins, SOON).await.unwrap();
        let behind = fence.wait_for_standbys(&mut admins, Duration::from_secs(1)).await.unwrap_err();
        assert!(behind.to_string().contains("walreceiver") || behind.to_string().contains("standby"), "{behind}");
        standby.sql("postgres", "SELECT pg_wal_replay_resume()");
        fence.wait_for_standbys(&mut admins, SOON).await.unwrap();
        let refused = standby.try_session("postgres", "app").await.err().expect("the standby refuses as well");
        assert_eq!(refused.sqlstate.as_deref(), Some("55000"), "{refused}");
    }
}

#[tokio::test]
async fn a_subscription_is_put_to_rest_and_woken_again() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        cluster.sql("postgres", "CREATE DATABASE origin");
        cluster.sql("origin", "CREATE TABLE public.ledger (writer int4, number int8, PRIMARY KEY (writer, number)); CREATE PUBLICATION p FOR ALL TABLES;");
        cluster.sql("origin", "SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
        let connection = format!("host={} dbname=origin user=postgres", cluster.socket());
        cluster.sql(
            "app",
            &format!(
                "CREATE SUBSCRIPTION s CONNECTION '{connection}' PUBLICATION p WITH (create_slot = false, copy_data = false)"
            ),
        );
        cluster.sql("app", "CREATE SUBSCRIPTION asleep CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)");
        cluster.sql("origin", "INSERT INTO public.ledger VALUES (1, 1)");
        cluster.until("app", "SELECT count(*) FROM public.ledger", "1").await;

        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        assert_eq!(fence.originals.subscriptions, ["s"]);
        let mut inside = cluster.session("app").await;
        fence.disable_subscriptions(&mut *inside, SOON).await.unwrap();
        fence.disable_subscriptions(&mut *inside, SOON).await.unwrap();
        inside.close().await;
        fence.raise(&mut admins, SOON).await.unwrap();
        cluster.sql("origin", "INSERT INTO public.ledger VALUES (1, 2)");
        let evidence = fence.evidence(&mut admins, "pgmigration/").await.unwrap();
        assert_eq!(evidence.leaks(&fence.originals), Vec::<String>::new());
        // Enabled behind our back: seen.
        cluster.sql(&fence.names.fenced, "ALTER SUBSCRIPTION s ENABLE");
        let leaks = fence.evidence(&mut admins, "pgmigration/").await.unwrap().leaks(&fence.originals);
        assert!(leaks.iter().any(|leak| leak.contains("subscription \"s\"")), "{leaks:?}");
        cluster.sql(&fence.names.fenced, "ALTER SUBSCRIPTION s DISABLE");

        fence.lift(&mut admins, SOON).await.unwrap();
        let mut inside = cluster.session("app").await;
        fence.enable_subscriptions(&mut *inside, SOON).await.unwrap();
        cluster.until("app", "SELECT count(*) FROM public.ledger", "2").await;
        assert_eq!(cluster.sql("app", "SELECT string_agg(subname, ',') FROM pg_subscription WHERE subenabled"), "s");
    }
}

#[tokio::test]
async fn a_tombstone_that_somebody_opened_is_seen_and_kept() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        fence.raise(&mut admins, SOON).await.unwrap();
        cluster.sql("postgres", "ALTER DATABASE app ALLOW_CONNECTIONS true");
        let leaks = fence.evidence(&mut admins, "pgmigration/").await.unwrap().leaks(&fence.originals);
        assert_eq!(leaks, ["the tombstone accepts connections"]);
        cluster.sql("app", "CREATE TABLE public.late (i int4)");
        cluster.sql("postgres", "ALTER DATABASE app ALLOW_CONNECTIONS false");
        cluster.until("postgres", "SELECT pg_stat_get_db_sessions(oid) > 0 FROM pg_database WHERE datname = 'app'", "t").await;
        let leaks = fence.evidence(&mut admins, "pgmigration/").await.unwrap().leaks(&fence.originals);
        assert!(leaks.len() == 1 && leaks[0].contains("sessions"), "{leaks:?}");
        // The database is given back; what somebody wrote is not dropped.
        let kept = fence.lift(&mut admins, SOON).await.unwrap_err();
        assert!(matches!(kept, SwapError::Unexpected(_)), "{kept}");
        assert!(matches!(fence.state(&mut admins).await.unwrap(), FenceState::Open { tombstone: Some(_) }));
    }
}

#[tokio::test]
async fn a_tombstone_that_somebody_dropped_is_seen_and_the_name_given_back() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        let before = picture(&cluster);
        let mut admins = admins(&cluster).await;
        let fence = fence(&mut admins).await;
        fence.raise(&mut admins, SOON).await.unwrap();
        cluster.sql("postgres", "ALTER DATABASE app IS_TEMPLATE false; DROP DATABASE app");
        let leaks = fence.evidence(&mut admins, "pgmigration/").await.unwrap().leaks(&fence.originals);
        assert_eq!(leaks, ["the tombstone was dropped: the database's name is free"]);
        assert!(matches!(fence.raise(&mut admins, SOON).await, Err(SwapError::Unexpected(_))));
        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(picture(&cluster), before);
        // A database that somebody makes of the free name is not ours to take away.
        fence.raise(&mut admins, SOON).await.unwrap();
        cluster.sql("postgres", "ALTER DATABASE app IS_TEMPLATE false; DROP DATABASE app");
        cluster.sql("postgres", "CREATE DATABASE app");
        let leaks = fence.evidence(&mut admins, "pgmigration/").await.unwrap().leaks(&fence.originals);
        assert!(leaks.len() == 1 && leaks[0].contains("is not the tombstone of ours"), "{leaks:?}");
        assert!(matches!(fence.lift(&mut admins, SOON).await, Err(SwapError::Unexpected(_))));
    }
}

#[tokio::test]
async fn without_superuser_the_owners_rights_are_enough() {
    for bin in servers() {
        let cluster = app(&bin, &[]);
        cluster.sql("postgres", "CREATE ROLE mover LOGIN CREATEDB; GRANT owner, pg_signal_backend TO mover;");
        let before = picture(&cluster);
        let carrier = cluster.carrier("mover").with_name("pgmigration/test/fence");
        let mut admins = open(Arc::new(carrier)).await;
        let fence = fence(&mut admins).await;
        let server = catalog::server(admins.session().await.unwrap()).await.unwrap();
        let roles = catalog::roles(admins.session().await.unwrap(), &["owner".to_owned()]).await.unwrap();
        assert!(pgmigration::postgres::fence::may_rename(&server, &roles[0]));
        let _in_the_way = cluster.try_session("owner", "app").await.unwrap();
        fence.raise(&mut admins, SOON).await.unwrap();
        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(picture(&cluster), before);
    }
}
