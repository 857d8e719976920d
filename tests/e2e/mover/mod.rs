//! The mover between two real servers in two real clusters, through a real bucket.

pub mod fixture;
mod process;
mod size;

use crate::support::Side;
use fixture::{OWNER, RUN, SOURCE, STAGING, World};
use pgmigration::archive::keys;
use pgmigration::mover::{self, run};
use pgmigration::plan::operation::{
    ArchiveEnd, CompareTask, DatabaseEnd, DumpTask, Outcome, Phase, Progress, Reason, RestoreTask, Task, Verdict, VerifyTask,
};

async fn done(world: &World, attempt: u32, task: Task) -> Verdict {
    let verdict = run(&world.context(attempt, task).await).await;
    assert_eq!(verdict.outcome, Outcome::Succeeded, "{verdict:#?}");
    verdict
}

#[tokio::test]
async fn a_database_moves_whole_and_belongs_to_its_owner() {
    let world = World::new("moves", 20_000).await;

    let dumped = done(&world, 1, world.dump()).await;
    assert_eq!(dumped.reason, Reason::Done);
    assert_eq!(world.bucket().run_manifest(&keys::run_manifest(&world.prefix())).await.unwrap(), None, "not sealed by a dump");
    let manifest = world.bucket().database_manifest(&world.key()).await.unwrap().unwrap();
    assert_eq!((Some(manifest.bytes), Some(manifest.sha256.clone())), (dumped.bytes, dumped.sha256));
    assert_eq!(manifest.compression, "gzip:1", "pg_dump 15 knows no zstd");
    assert_eq!(manifest.extensions.len(), 5, "{:?}", manifest.extensions);
    let again = done(&world, 2, world.dump()).await;
    assert_eq!(again.reason, Reason::Adopted);

    let verified = done(&world, 1, world.verify()).await;
    assert_eq!((verified.reason, verified.bytes), (Reason::Done, Some(manifest.bytes)));
    let sealed = world.bucket().run_manifest(&keys::run_manifest(&world.prefix())).await.unwrap().unwrap();
    assert_eq!((sealed.run.as_str(), sealed.databases.as_slice()), (RUN, [manifest].as_slice()));
    assert_eq!(done(&world, 2, world.verify()).await.reason, Reason::Adopted);

    let restored = done(&world, 1, world.restore().await).await;
    assert_eq!(restored.reason, Reason::Done);
    for name in ["EVENT TRIGGER - watch", "PUBLICATION - changes", "ACL public TABLE events"] {
        assert!(restored.not_restored.iter().any(|n| n.contains(name)), "{name} in {:#?}", restored.not_restored);
    }
    assert_eq!(done(&world, 2, world.restore().await).await.reason, Reason::Adopted);
    let foreign = "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid >= 16384 AND r.rolname <> 'app owner' \
        AND c.relnamespace NOT IN ('pg_toast'::regnamespace) AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')";
    assert_eq!(world.sql(Side::New, STAGING, foreign), "0", "everything belongs to {OWNER}");
    for question in [
        "SELECT count(*), sum(hashtext(e::text)) FROM events e",
        "SELECT count(*), sum(hashtext(c::text)) FROM \"Sales dept\".customer c",
        "SELECT count(*), sum(value) FROM measure",
        "SELECT count(*), sum(count) FROM totals",
        "SELECT last_value, is_called FROM \"Sales dept\".customer_id_seq",
        "SELECT count(*), sum(hashtext(encode(lo_get(oid), 'hex'))) FROM pg_largeobject_metadata",
        "SELECT string_agg(extname || extnamespace::regnamespace, ',' ORDER BY extname) FROM pg_extension",
        "SELECT count(*) FROM pg_policies",
        "SELECT obj_description('public'::regnamespace)",
    ] {
        assert_eq!(world.sql(Side::New, STAGING, question), world.sql(Side::Old, SOURCE, question), "{question}");
    }

    let compared = done(&world, 1, world.compare()).await;
    assert!(compared.tables.is_some_and(|t| t >= 5), "{compared:#?}");
    assert_eq!(compared.rows.map(|r| r >= 21_365), Some(true), "{compared:#?}");
    let document = world.bucket().get_small(&compared.document.unwrap(), 1 << 20).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&document).contains("\"equal\": true"));
    world.sql(Side::New, STAGING, "UPDATE events SET noise = overlay(noise placing '#' from 7) WHERE id = 77");
    world.sql(Side::New, STAGING, "DELETE FROM measure_1 WHERE at = '2026-02-01'");
    world.sql(Side::New, STAGING, "SELECT nextval('events_id_seq')");
    let unequal = run(&world.context(2, world.compare()).await).await;
    assert_eq!((unequal.reason, unequal.differences_total), (Reason::NotEqual, 3), "{unequal:#?}");
    for name in ["public.events", "public.measure_1", "public.events_id_seq"] {
        assert!(unequal.differences.iter().any(|d| d.contains(name)), "{name} in {:#?}", unequal.differences);
    }

    within_one_server(&world).await;

    let analyzed = done(&world, 1, world.analyze()).await;
    assert!(analyzed.tables.is_some_and(|t| t >= 4));
    assert_eq!(world.sql(Side::New, STAGING, "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'events'"), "t");
    world.assert_tidy().await;
    done(&world, 1, world.cleanup()).await;
    world.end().await;
}

/// From a PostgreSQL 17 to itself: both tools know zstd, and use it.
async fn within_one_server(world: &World) {
    let archive = ArchiveEnd { key: format!("{}/again.dump", world.prefix()), ..world.archive() };
    let copy = DatabaseEnd { database: "copy".into(), ..world.target() };
    world.sql(Side::New, "postgres", &format!("CREATE DATABASE copy OWNER \"{OWNER}\" TEMPLATE template0"));
    let (Task::Dump(dump), Task::Restore(restore)) = (world.dump(), world.restore().await) else {
        panic!("the fixture gives other tasks");
    };
    let task = Task::Dump(DumpTask { source: world.target(), reader: Some(copy.clone()), archive: archive.clone(), ..dump });
    done(world, 7, task).await;
    let manifest = world.bucket().database_manifest(&archive.key).await.unwrap().unwrap();
    assert_eq!(manifest.compression, "zstd:1");
    let run_manifest_key = format!("{}/again.manifest.json", world.prefix());
    let (keys, key) = (vec![archive.key.clone()], run_manifest_key.clone());
    done(world, 7, Task::Verify(VerifyTask { archive: archive.clone(), keys, run: RUN.into(), run_manifest_key: key })).await;
    let sealed = world.sealed(&archive.key, run_manifest_key).await;
    done(world, 7, Task::Restore(RestoreTask { archive: archive.clone(), target: copy.clone(), sealed, ..restore })).await;
    done(world, 7, Task::Compare(CompareTask { source: world.target(), target: copy, archive })).await;
}

#[tokio::test]
async fn an_interrupted_dump_leaves_nothing_and_a_new_attempt_succeeds() {
    let world = World::new("cut-dump", 150_000).await;
    let context = world.context(1, world.dump()).await;
    cut(&world, &context, world.size(), |p| p.bytes_done >= 9_000_000).await;
    mover::tidy(&context).await.unwrap();
    world.assert_tidy().await;
    assert_eq!(world.bucket().list("").await.unwrap(), vec![], "neither object nor manifest");
    let refused = run(&world.context(1, world.verify()).await).await;
    assert_eq!(refused.reason, Reason::ArchiveAbsent);
    assert_eq!(done(&world, 2, world.dump()).await.reason, Reason::Done);
    done(&world, 1, world.verify()).await;
    world.assert_tidy().await;
    world.end().await;
}

/// Runs a task until it is `there` and its tool is at work, then drops it. More bytes than `most` must not have moved.
async fn cut(world: &World, context: &mover::Context, most: u64, there: impl Fn(&Progress) -> bool) {
    let counters = context.counters.clone();
    let half_way = async {
        while !there(&counters.now()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // Bytes may be on their way to a tool that has not logged in yet. Nothing moves while we ask.
        while world.sessions(Side::Old) + world.sessions(Side::New) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        verdict = run(context) => panic!("it ended before it could be cut: {verdict:#?}"),
        () = half_way => {}
    }
    let moved = counters.now().bytes_done;
    assert!(0 < moved && moved <= most, "{moved} of {most}");
}

/// Two indexes that take as long to make as a setting says.
const NAPS: &str = "
    CREATE FUNCTION nap(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_catalog.pg_sleep(pg_catalog.current_setting('app.nap', true)::float); RETURN n; END $$;
    CREATE TABLE naps (n int);
    INSERT INTO naps VALUES (1);
    CREATE INDEX ON naps (nap(n));
    CREATE INDEX ON naps (nap(n + 1));";

#[tokio::test]
async fn an_interrupted_restore_is_ended_and_a_new_attempt_into_a_new_database_succeeds() {
    let world = World::new("cut-restore", 60_000).await;
    world.sql(Side::Old, SOURCE, NAPS);
    let total = done(&world, 1, world.dump()).await.bytes.unwrap();
    done(&world, 1, world.verify()).await;
    let context = world.context(1, world.restore().await).await;
    cut(&world, &context, total - 1, |p| p.bytes_done >= total / 3).await;
    mover::tidy(&context).await.unwrap();
    world.assert_tidy().await;
    let into_the_rest = run(&world.context(2, world.restore().await).await).await;
    assert_eq!(into_the_rest.reason, Reason::TargetNotEmpty, "{into_the_rest:#?}");

    // While several workers of pg_restore, none of them a child of our shell, make indexes.
    world.create_staging();
    world.sql(Side::New, "postgres", &format!("ALTER DATABASE \"{STAGING}\" SET app.nap = '60'"));
    let context = world.context(2, world.restore().await).await;
    cut(&world, &context, total, |p| p.phase == Phase::Indexing && p.indexes_done > 1).await;
    mover::tidy(&context).await.unwrap();
    world.assert_tidy().await;
    world.create_staging();
    done(&world, 3, world.restore().await).await;
    done(&world, 1, world.compare()).await;
    world.assert_tidy().await;

    // A tool that fails while most of its input is still to come says why, and its exec ends.
    world.create_staging();
    world.sql(Side::New, "postgres", &format!("ALTER DATABASE \"{STAGING}\" SET default_transaction_read_only = on"));
    let refused = run(&world.context(4, world.restore().await).await).await;
    assert!(refused.message.contains("read-only"), "{refused:#?}");
    assert_eq!(refused.outcome, Outcome::Failed);
    world.assert_tidy().await;

    world.create_staging();
    world.sql(Side::New, "postgres", &format!("ALTER ROLE \"{OWNER}\" CONNECTION LIMIT 1"));
    done(&world, 1, world.restore().await).await;
    world.sql(Side::New, "postgres", &format!("ALTER ROLE \"{OWNER}\" CONNECTION LIMIT -1"));

    world.create_staging();
    world.sql(Side::New, "postgres", &format!("ALTER ROLE \"{OWNER}\" PASSWORD 'another'"));
    let refused = run(&world.context(5, world.restore().await).await).await;
    assert_eq!(refused.reason, Reason::RestoreFailed, "{refused:#?}");
    assert!(refused.message.contains("password authentication failed"), "{refused:#?}");
    world.assert_tidy().await;
    world.end().await;
}

#[tokio::test]
async fn a_dump_whose_session_dies_fails_and_other_servers_are_refused() {
    let world = World::new("die-dump", 60_000).await;
    let context = world.context(1, world.dump()).await;
    let counters = context.counters.clone();
    let kill = async {
        while counters.now().bytes_done < 2_000_000 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        world.sql(
            Side::Old,
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgm/%'",
        );
    };
    let (verdict, ()) = tokio::join!(run(&context), kill);
    assert_eq!(verdict.reason, Reason::DatabaseUnavailable, "{verdict:#?}");
    world.assert_tidy().await;
    assert_eq!(world.bucket().list("").await.unwrap(), vec![]);

    let mut task = world.dump();
    if let Task::Dump(dump) = &mut task {
        dump.source.system_identifier = "1".into();
    }
    assert_eq!(run(&world.context(2, task.clone()).await).await.reason, Reason::ServerReplaced);
    if let Task::Dump(dump) = &mut task {
        dump.source.pod_uid = "1".into();
    }
    assert_eq!(run(&world.context(3, task.clone()).await).await.reason, Reason::PodUnavailable);
    world.end().await;
}
