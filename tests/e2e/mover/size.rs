//! Sizes that no test can afford each time (`tests/run size`): 20,000 tables, 100,000 large objects, a server that says a
//! megabyte. What is held in memory and what is reported stay small.

use pgmigration::plan::operation::{Outcome, Reason};

use super::fixture::{SOURCE, STAGING, World};
use super::process::{Mover, PEAK};
use crate::support::Side;

const TABLES: u32 = 20_000;
const LARGE_OBJECTS: u32 = 100_000;
/// A verdict goes into the pod's status (Kubernetes' limit of a termination message).
const VERDICT: usize = 4096;

#[tokio::test]
async fn many_tables_and_large_objects_and_a_server_that_says_a_megabyte() {
    let world = World::new("size", 1000).await;
    // In pieces: a transaction locks every table that it makes. Names at the limit of 63 bytes, of all that needs quotes.
    let sql = format!(
        r#"DO $$ BEGIN FOR i IN 1..{TABLES} LOOP
             EXECUTE format('CREATE TABLE %I (id int PRIMARY KEY, note text)', rpad('-"ta ble''' || i || E'\né', 61, 'x'));
             EXECUTE format('INSERT INTO %I VALUES (1, %L)', rpad('-"ta ble''' || i || E'\né', 61, 'x'), i);
             IF i % 500 = 0 THEN COMMIT; END IF;
           END LOOP; END $$;
           DO $$ BEGIN FOR i IN 1..{LARGE_OBJECTS} LOOP
             PERFORM lo_from_bytea(0, i::text::bytea);
             IF i % 1000 = 0 THEN COMMIT; END IF;
           END LOOP; END $$;"#
    );
    world.sql(Side::Old, SOURCE, &sql);
    for what in ["dump", "verify", "restore", "compare"] {
        let task = match what {
            "dump" => world.dump(),
            "verify" => world.verify(),
            "restore" => world.restore().await,
            _ => world.compare(),
        };
        let started = std::time::Instant::now();
        let (status, verdict, peak) = Mover::start(&world, 1, task).await.end();
        println!("{what}: {:.1?}, peak {peak} KiB, {verdict:?}", started.elapsed());
        assert_eq!((status.code(), verdict.outcome), (Some(0), Outcome::Succeeded), "{verdict:#?}");
        assert!(peak <= PEAK, "{what} took {peak} KiB");
        let length = serde_json::to_string(&verdict).unwrap().len();
        assert!(length <= VERDICT, "a verdict of {length} bytes");
    }
    // Every table differs: the first ones are named, all of them are counted and stand in the document.
    world.sql(
        Side::New,
        STAGING,
        r#"DO $$ DECLARE t text; BEGIN FOR t IN SELECT relname FROM pg_class WHERE relname LIKE '-"ta ble%' AND relkind = 'r' LOOP
        EXECUTE format('UPDATE %I SET note = note || ''x''', t); END LOOP; END $$;"#,
    );
    let (_, verdict, peak) = Mover::start(&world, 2, world.compare()).await.end();
    assert_eq!((verdict.reason, verdict.differences_total), (Reason::NotEqual, u64::from(TABLES)));
    assert!(peak <= PEAK && serde_json::to_string(&verdict).unwrap().len() <= VERDICT, "{peak} KiB, {verdict:?}");

    // A failure whose words would fill any status.
    world.create_staging();
    world.sql(Side::Old, SOURCE, "CREATE FUNCTION loud() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'");
    world.sql(
        Side::New,
        STAGING,
        "CREATE FUNCTION loud() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', repeat('no ', 400000); END $$;
         CREATE EVENT TRIGGER loud ON ddl_command_end EXECUTE FUNCTION loud()",
    );
    let (_, verdict, peak) = Mover::start(&world, 2, world.restore().await).await.end();
    assert_eq!(verdict.outcome, Outcome::Failed, "{verdict:#?}");
    assert!(peak <= PEAK && serde_json::to_string(&verdict).unwrap().len() <= VERDICT, "{peak} KiB, {verdict:?}");
    world.end().await;
}
