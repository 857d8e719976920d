//! The layered fence: what it holds, what it gives back, what it leaves alone.

use std::path::Path;
use std::sync::Arc;

use pgmigration::postgres::admin::AdminSessions;
use pgmigration::postgres::carrier::Carrier;
use pgmigration::postgres::layered::{LayeredFence, originals};
use pgmigration::postgres::swap::SwapError;

use crate::chop::{Chop, Side};
use crate::cluster::{Cluster, SOON, servers};
use crate::writers::Writers;

fn app(bin: &Path) -> Cluster {
    let cluster = Cluster::start(bin, &[]);
    cluster.sql(
        "postgres",
        "CREATE ROLE owner LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE \"odd \"\"role\" LOGIN; CREATE ROLE asleep NOLOGIN;",
    );
    cluster.sql("postgres", "CREATE DATABASE app OWNER owner CONNECTION LIMIT 50");
    cluster.sql(
        "app",
        "GRANT CONNECT ON DATABASE app TO reader WITH GRANT OPTION; GRANT CREATE, CONNECT ON DATABASE app TO \"odd \"\"role\";
         CREATE TABLE public.ledger (writer int4, number int8, PRIMARY KEY (writer, number)); ALTER TABLE public.ledger OWNER TO owner;",
    );
    cluster
}

fn picture(cluster: &Cluster) -> String {
    cluster.sql(
        "postgres",
        "SELECT d.oid, d.datname, d.datconnlimit, (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM aclexplode(d.datacl) AS a) FROM pg_database AS d WHERE datname = 'app';
         SELECT rolname, rolcanlogin FROM pg_roles ORDER BY rolname",
    )
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

async fn admins(cluster: &Cluster, user: &str) -> AdminSessions {
    let carrier = Arc::new(cluster.carrier(user).with_name("pgmigration/test/layered"));
    AdminSessions::open(carrier, "postgres", SOON).await.expect("admin sessions")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ordinary_writers_are_kept_out_and_everything_is_given_back() {
    for bin in servers() {
        let cluster = app(&bin);
        let before = picture(&cluster);
        let mut admins = admins(&cluster, "postgres").await;
        let roles = names(&["owner", "reader", "odd \"role", "asleep", "postgres"]);
        let fence = LayeredFence { originals: originals(&mut admins, "app", &roles).await.unwrap() };
        assert_eq!(fence.originals.logins, ["odd \"role", "owner", "reader"]);
        assert!(fence.state(&mut admins, "pgmigration/").await.unwrap().leaks().len() > 5);

        let writers = Writers::start_as(&cluster, "app", 4, &["owner"]);
        writers.until_more(200).await;
        fence.raise(&mut admins, SOON).await.unwrap();
        assert_eq!(fence.state(&mut admins, "pgmigration/").await.unwrap().leaks(), Vec::<String>::new());
        let at_fence = cluster.sql("app", "SELECT count(*) FROM public.ledger");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(cluster.sql("app", "SELECT count(*) FROM public.ledger"), at_fence, "a row came late");
        let acknowledged: u64 = writers.finish().await.iter().sum();
        assert!(at_fence.parse::<u64>().unwrap() >= acknowledged);
        fence.raise(&mut admins, SOON).await.unwrap();

        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(picture(&cluster), before);
        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(picture(&cluster), before);
    }
}

#[tokio::test]
async fn what_somebody_else_set_meanwhile_stays() {
    for bin in servers() {
        let cluster = app(&bin);
        let mut admins = admins(&cluster, "postgres").await;
        let fence = LayeredFence { originals: originals(&mut admins, "app", &names(&["owner"])).await.unwrap() };
        fence.raise(&mut admins, SOON).await.unwrap();
        cluster.sql("postgres", "ALTER DATABASE app CONNECTION LIMIT 3; GRANT CONNECT ON DATABASE app TO asleep");
        assert_eq!(
            fence.state(&mut admins, "pgmigration/").await.unwrap().leaks(),
            ["the database's connection limit is not 0", "role \"asleep\" may connect"]
        );
        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(cluster.sql("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'app'"), "3");
        assert_eq!(cluster.sql("postgres", "SELECT has_database_privilege('asleep', 'app', 'CONNECT')"), "t");
    }
}

#[tokio::test]
async fn an_owner_without_createdb_can_raise_it_and_still_connect() {
    for bin in servers() {
        let cluster = app(&bin);
        cluster
            .sql("postgres", "CREATE ROLE keeper LOGIN; ALTER DATABASE app OWNER TO keeper; GRANT pg_signal_backend TO keeper");
        let before = picture(&cluster);
        let mut admins = admins(&cluster, "keeper").await;
        let fence = LayeredFence { originals: originals(&mut admins, "app", &[]).await.unwrap() };
        let _in_the_way = cluster.try_session("owner", "app").await.unwrap();
        fence.raise(&mut admins, SOON).await.unwrap();
        let refused = cluster.try_session("owner", "app").await.err().expect("refused");
        assert_eq!(refused.sqlstate.as_deref(), Some("42501"), "{refused}");
        cluster.try_session("keeper", "app").await.expect("the administrator connects").close().await;
        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(picture(&cluster), before);
    }
}

#[tokio::test]
async fn killed_at_every_call_it_fails_at_once_and_can_go_on_or_be_undone() {
    for bin in servers() {
        let cluster = app(&bin);
        let before = picture(&cluster);
        let roles = names(&["owner", "reader"]);
        let fence = LayeredFence { originals: originals(&mut admins(&cluster, "postgres").await, "app", &roles).await.unwrap() };
        let carrier: Arc<dyn Carrier> = Arc::new(cluster.carrier("postgres").with_name("pgmigration/test/layered"));
        let mut points = 0;
        for (side, go_on) in [(Side::Before, false), (Side::After, true)] {
            for calls in 0.. {
                let [forth, back] = [(); 2].map(|()| Arc::new(Chop::new(carrier.clone(), calls, side)));
                let raised = async {
                    let mut admins = AdminSessions::open(forth.clone(), "postgres", SOON).await?;
                    fence.raise(&mut admins, SOON).await
                };
                let raised = raised.await;
                assert_eq!(raised.is_err(), forth.is_dead(), "{raised:?}");
                assert!(matches!(raised, Ok(()) | Err(SwapError::Sql(_))), "it went on without a session: {raised:?}");
                if go_on {
                    fence.raise(&mut admins(&cluster, "postgres").await, SOON).await.unwrap();
                }
                let lifted = async {
                    let mut admins = AdminSessions::open(back.clone(), "postgres", SOON).await?;
                    fence.lift(&mut admins, SOON).await
                };
                let lifted = lifted.await;
                assert!(matches!(lifted, Ok(()) | Err(SwapError::Sql(_))), "it went on without a session: {lifted:?}");
                fence.lift(&mut admins(&cluster, "postgres").await, SOON).await.unwrap();
                assert_eq!(picture(&cluster), before, "after {calls} calls, {side:?}");
                points += 1;
                if !forth.is_dead() && !back.is_dead() {
                    break;
                }
            }
        }
        assert!(points > 30, "only {points} points");
        println!("{}: {points} points", bin.display());
    }
}
