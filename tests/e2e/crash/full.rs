//! A target whose volume has room for a share of the copy only, from hardly anything to nearly all: wherever the restore or what
//! comes after it stops, all is undone, and the name that the application uses never shows a part.

use pgmigration::api::{Outcome, StepName};
use serde_json::json;

use crate::support::migration::condition;
use crate::support::scene::{Layout, Scene};
use crate::support::snapshot::assert_same;

/// Hundredths of what a whole copy takes.
const SHARES: [u64; 7] = [1, 10, 30, 50, 70, 85, 95];

/// Bytes that are free on the volume of the target's databases.
async fn free(scene: &Scene) -> u64 {
    let words = scene.target.exec(&["df", "-B1", "--output=avail", "/var/lib/postgresql/data"], "").await.unwrap();
    words.lines().last().unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_any_share_of_the_copy() {
    let ballast = "CREATE TABLE app.ballast AS SELECT i, gen_random_bytes(1000) AS payload FROM generate_series(1, 60000) AS i;
        CREATE INDEX ON app.ballast (payload);";
    let seed = format!("{}\n{ballast}", include_str!("../support/source.sql"));
    let scene = Scene::within(Layout::OldToNew, "full", "onyx", &seed, Some(400)).await;
    let target = &scene.target;
    let (before, content) = (scene.snapshot().await, target.content("onyx").await);
    let measured = scene.migrate("measured", |_| ()).await;
    // A share of what is there in the end: less than it takes for a while.
    let empty = free(&scene).await;
    measured.stop_after(StepName::Restore).await;
    let takes = empty - free(&scene).await;
    measured.change(json!({"cancel": true, "suspend": false})).await;
    measured.ended(Outcome::Cancelled).await;
    measured.delete().await;
    assert_same(&before, &scene.snapshot().await);
    assert!(takes > 100_000_000, "a copy takes {takes} bytes");

    let filler = "/var/lib/postgresql/data/filler";
    for share in SHARES {
        let migration = scene.migrate(&format!("full-{share}"), |_| ()).await;
        // After the checks, which would have told that there is too little room.
        migration.begun(StepName::Dump).await;
        let fill = free(&scene).await - takes * share / 100;
        target.exec(&["sh", "-c", &format!("head -c {fill} /dev/zero >{filler}")], "").await.unwrap();
        let status = migration.ended(Outcome::Failed).await;
        println!("{share} of 100: {}", status.message.as_deref().unwrap_or_default());
        assert_eq!(condition(&status, "RolledBack"), "True");
        assert_ne!(condition(&status, "Published"), "True");
        let message = status.message.unwrap();
        assert!(["No space left on device", "is full, make room"].iter().any(|words| message.contains(words)), "{message}");
        target.exec(&["rm", filler], "").await.unwrap();
        migration.delete().await;
        assert_same(&before, &scene.snapshot().await);
        assert_same(&content, &target.content("onyx").await);
        for server in [&scene.source, target] {
            scene.writes(server).await;
        }
    }
    scene.end().await;
}
