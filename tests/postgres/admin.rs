//! Admin sessions of two holders: one acts at a time, and who was relieved never acts again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgmigration::api::names::session_tag_prefix;
use pgmigration::postgres::admin::AdminSessions;
use pgmigration::postgres::carrier::{Carrier as _, SqlError};
use pgmigration::postgres::staging;

use crate::cluster::{Cluster, SOON, servers};

/// Who has the lock, as people can see it.
const LOCKED: &str = "SELECT string_agg(l.pid::text, ' ') FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.granted";
const HELD: &str = "SELECT string_agg(a.pid::text, ' ' ORDER BY a.backend_start) FROM pg_stat_activity AS a
     WHERE a.application_name LIKE 'pgm/%/admin-source'";

/// As the product's own.
fn name() -> String {
    format!("{}admin-source", session_tag_prefix("0b1c2d3e-4f5a-6789-abcd-ef0123456789"))
}

async fn open(cluster: &Cluster) -> Result<AdminSessions, SqlError> {
    AdminSessions::open(Arc::new(cluster.carrier("postgres").with_name(&name())), "postgres", SOON).await
}

/// Asks something; and then does something, in a session that was good enough for that.
async fn act(admins: &mut AdminSessions, statement: &str) -> Result<(), SqlError> {
    assert_eq!(staging::name_of(admins, 1).await?.as_deref(), Some("template1"));
    admins.session().await?.execute(statement, SOON).await
}

fn pids(cluster: &Cluster, question: &str) -> Vec<String> {
    cluster.sql("postgres", question).split_whitespace().map(str::to_owned).collect()
}

/// The two processes that are held: the one that has the lock, and the other.
fn by_lock(cluster: &Cluster) -> (String, String) {
    let (locked, held) = (pids(cluster, LOCKED), pids(cluster, HELD));
    assert_eq!((locked.len(), held.len()), (1, 2), "{locked:?} of {held:?}");
    let rest: Vec<&String> = held.iter().filter(|pid| **pid != locked[0]).collect();
    assert_eq!(rest.len(), 1, "{locked:?} of {held:?}");
    (locked[0].clone(), rest[0].clone())
}

fn end(cluster: &Cluster, pid: &str) {
    cluster.sql("postgres", &format!("SELECT pg_terminate_backend({pid})"));
}

#[tokio::test]
async fn who_was_relieved_never_acts_again() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let mut first = open(&cluster).await.unwrap();
        act(&mut first, "SELECT 1").await.unwrap();
        let sleeping = pids(&cluster, HELD);
        let mut second = open(&cluster).await.unwrap();
        let held = pids(&cluster, HELD);
        assert!(held.len() == 2 && held.iter().all(|pid| !sleeping.contains(pid)), "{sleeping:?}, then {held:?}");
        let locked = pids(&cluster, LOCKED);
        assert!(locked.len() == 1 && held.contains(&locked[0]), "{locked:?} of {held:?}");
        act(&mut first, "SELECT 1").await.unwrap_err();
        act(&mut second, "SELECT 1").await.unwrap();
        assert_eq!(pids(&cluster, HELD), held);
        // Nor when there is nobody any more.
        second.close().await;
        cluster.until("postgres", HELD, "").await;
        let refused = act(&mut first, "SELECT 1").await.unwrap_err();
        assert!(refused.message.contains("no admin session is left"), "{refused}");
        assert_eq!(cluster.sql("postgres", LOCKED), "");
    }
}

#[tokio::test]
async fn nor_in_the_database_that_is_touched() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        cluster.sql("postgres", "CREATE DATABASE app");
        let mut first = open(&cluster).await.unwrap();
        let mut inside = first.enter("app", SOON).await.unwrap();
        inside.execute("SELECT 1", SOON).await.unwrap();
        let second = open(&cluster).await.unwrap();
        assert_eq!(pids(&cluster, HELD).len(), 2);
        inside.execute("SELECT 1", SOON).await.unwrap_err();
        second.close().await;
        assert!(first.enter("app", SOON).await.is_err(), "it entered as one that was relieved");
    }
}

/// What `work` opens, once there is room for it.
async fn free<T>(work: impl AsyncFn() -> Result<T, SqlError>) -> T {
    let begin = Instant::now();
    loop {
        match work().await {
            Ok(opened) => return opened,
            Err(full) => assert!(full.is("53300") && begin.elapsed() < SOON, "{full}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_last_slots_are_taken_over() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &["max_connections=6", "superuser_reserved_connections=3"]);
        cluster.sql("postgres", "CREATE ROLE crowd LOGIN");
        // A session that said goodbye has its slot for a moment longer.
        let mut crowd = Vec::new();
        while crowd.len() < 3 {
            crowd.push(free(async || cluster.try_session("crowd", "postgres").await).await);
        }
        let first = open(&cluster).await.unwrap();
        let mut last = cluster.session("postgres").await;
        let full = cluster.try_session("postgres", "postgres").await.err().expect("a slot is left");
        assert!(full.is("53300"), "{full}");
        last.execute("SELECT 1", SOON).await.unwrap();
        last.close().await;
        let mut second = free(async || open(&cluster).await).await;
        act(&mut second, "SELECT 1").await.unwrap();
        drop(first);
    }
}

/// An administrator that is no superuser does not see when another role's process began, and may not end it.
#[tokio::test]
async fn a_namesake_of_another_role_is_none_of_them() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        cluster.sql("postgres", "CREATE ROLE keeper LOGIN; CREATE ROLE other LOGIN");
        let carrier = |role: &str| Arc::new(cluster.carrier(role).with_name(&name()));
        let mut other = carrier("other").connect("postgres", SOON).await.unwrap();
        let mut first = AdminSessions::open(carrier("keeper"), "postgres", SOON).await.unwrap();
        let mut second = AdminSessions::open(carrier("keeper"), "postgres", SOON).await.unwrap();
        act(&mut first, "SELECT 1").await.unwrap_err();
        act(&mut second, "SELECT 1").await.unwrap();
        other.execute("SELECT 1", SOON).await.unwrap();
    }
}

#[tokio::test]
async fn the_lock_goes_with_the_work() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let mut admins = open(&cluster).await.unwrap();
        let (locked, _) = by_lock(&cluster);
        // Somebody waits for it, and has it as soon as its session is lost.
        let mut other = cluster.session("postgres").await;
        let lock = format!("SELECT pg_advisory_lock(hashtextextended('{}', 0))", name());
        let waiting = tokio::spawn(async move {
            other.execute(&lock, SOON).await.unwrap();
            other
        });
        cluster.until("postgres", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", "1").await;
        end(&cluster, &locked);
        let other = waiting.await.unwrap();
        let refused = act(&mut admins, "SELECT 1").await.unwrap_err();
        assert!(refused.message.contains("another session has the advisory lock"), "{refused}");
        // Whoever has been here may have changed everything.
        other.close().await;
        act(&mut admins, "SELECT 1").await.unwrap_err();

        let mut admins = open(&cluster).await.unwrap();
        let (locked, second) = by_lock(&cluster);
        end(&cluster, &locked);
        act(&mut admins, "SELECT 1").await.unwrap();
        assert_eq!(pids(&cluster, LOCKED), [second.as_str()]);
        end(&cluster, &second);
        cluster.until("postgres", HELD, "").await;
        act(&mut admins, "SELECT 1").await.unwrap_err();
    }
}

#[tokio::test]
async fn a_lock_that_nobody_gives_back_is_not_waited_for_long() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        let mut other = cluster.session("postgres").await;
        other.execute(&format!("SELECT pg_advisory_lock(hashtextextended('{}', 0))", name()), SOON).await.unwrap();
        let pid = cluster.sql("postgres", LOCKED);
        let refused = open(&cluster).await.err().unwrap();
        let named = format!("process {pid} of role postgres has the advisory lock");
        assert!(refused.message.contains(&named), "{refused}");
        cluster.until("postgres", HELD, "").await;
    }
}

/// Each holder writes rows until another one relieves it: between the first and the last row of one there is none of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_holders_one_acts_at_a_time() {
    for bin in servers() {
        let cluster = Arc::new(Cluster::start(&bin, &["max_connections=40"]));
        cluster.sql("postgres", "CREATE TABLE public.acts (n serial PRIMARY KEY, holder text NOT NULL)");
        let acted = Arc::new(AtomicU32::new(0));
        let holders = [3, 5, 7].map(|pace| {
            let (cluster, acted) = (Arc::clone(&cluster), Arc::clone(&acted));
            tokio::spawn(async move {
                let pause = async |times: u64| tokio::time::sleep(Duration::from_millis(pace * times)).await;
                for turn in 1.. {
                    if acted.load(Ordering::Relaxed) >= 20 {
                        return;
                    }
                    // They come at odd times, so that there is one now and then who is let be for a while.
                    pause(turn * 7 % 30).await;
                    let Ok(mut admins) = open(&cluster).await else { continue };
                    let write = format!("INSERT INTO public.acts (holder) VALUES ('{pace} in turn {turn}')");
                    let mut rows = 0;
                    while rows < 20 && act(&mut admins, &write).await.is_ok() {
                        rows += 1;
                        pause(1).await;
                    }
                    acted.fetch_add(u32::from(rows > 0), Ordering::Relaxed);
                    // As one that was relieved and does not know it yet.
                    pause(10).await;
                    let _ = act(&mut admins, &write).await;
                }
            })
        });
        for holder in holders {
            tokio::time::timeout(3 * SOON, holder).await.expect("there is always one who comes to act").unwrap();
        }
        let turns = cluster.sql("postgres", "SELECT count(DISTINCT holder) FROM public.acts");
        let changes = cluster.sql(
            "postgres",
            "SELECT 1 + count(*) FILTER (WHERE x.holder <> x.before)
             FROM (SELECT a.holder, lag(a.holder) OVER (ORDER BY a.n) AS before FROM public.acts AS a) AS x",
        );
        println!("{}: {turns} holders acted, {changes} changes", bin.display());
        assert_eq!(turns, changes, "somebody acted in between");
    }
}
