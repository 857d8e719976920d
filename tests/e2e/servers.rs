//! Servers that fail under a migration: a restore is all or nothing, and the name that applications use never shows a part.

use pgmigration::api::{Outcome, StepName};
use serde_json::json;

use crate::interruptions::{LONG, attempts, brake, large, midway};
use crate::support::migration::condition;
use crate::support::scene::{Layout, Scene};
use crate::support::server::Server;
use crate::support::snapshot::assert_same;

/// Ends a server as a power cut would: no session says goodbye, nothing is written out. Its container starts again.
async fn crash(server: &Server) {
    let before = server.exec(&["cat", "/proc/1/stat"], "").await.unwrap();
    let _ = server.exec(&["sh", "-c", "kill -QUIT 1"], "").await;
    crate::support::eventually("another process 1", || async {
        let now = server.exec(&["cat", "/proc/1/stat"], "").await?;
        // Field 22 is when it was started (proc(5)).
        let started = |text: &str| text.split_whitespace().nth(21).map(str::to_owned);
        if started(&now) == started(&before) { Err("the same".to_owned()) } else { Ok(()) }
    })
    .await;
    server.ready().await;
}

async fn oid(server: &Server, database: &str) -> String {
    server.sql("postgres", &format!("SELECT oid FROM pg_database WHERE datname = '{database}'")).await
}

/// Rows of the application, and where a sequence stands, are left out: a crash lets sequences skip values.
async fn rows(server: &Server, database: &str) -> String {
    let all = server.content(database).await;
    all.lines().filter(|line| !line.starts_with("sequence")).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_and_servers_killed_in_their_midst() {
    let scene = Scene::new(Layout::OldToNew, "killed", "onyx", &large()).await;
    let (source, target) = (&scene.source, &scene.target);
    let content = rows(source, &scene.database).await;
    let name = oid(target, &scene.database).await;

    let migration = scene.migrate("killed", |_| ()).await;
    midway(&migration, StepName::Dump).await;
    let why = migration.until("the second dump", |s| {
        let step = s.steps.iter().find(|step| step.name == StepName::Dump)?;
        step.message.clone().filter(|message| message.contains("the last one ended with"))
    });
    let ((), why) = tokio::join!(crash(source), why);
    // The stream ends with the container, or pg_dump tells first. Not what somebody would look for in pg_hba.conf.
    let expected = ["Transient: ", "ServerUnavailable: ", "PodChanged: "];
    assert!(expected.iter().any(|reason| why.contains(&format!("ended with {reason}"))), "{why}");
    brake(&scene, LONG).await;
    let first = midway(&migration, StepName::Restore).await.transfer.unwrap().job;
    target.exec(&["sh", "-c", "pkill -9 -x pg_restore"], "").await.unwrap();
    let again = migration.until("the second restore under way", |s| {
        let transfer = s.transfer.as_ref().filter(|t| t.job != first)?;
        (0 < transfer.bytes_done && Some(transfer.bytes_done) < transfer.bytes_total).then_some(())
    });
    again.await;
    assert_eq!(oid(target, &scene.database).await, name, "a part of the copy was shown");
    brake(&scene, 0).await;
    crash(target).await;
    assert_eq!(oid(target, &scene.database).await, name, "a part of the copy was shown");

    let status = migration.ended(Outcome::Succeeded).await;
    let took = [StepName::Dump, StepName::Restore].map(|step| attempts(&status, step));
    assert!(took[0] >= 2 && took[1] >= 3, "attempts at dump and restore: {took:?}");
    assert_same(&content, &rows(target, &scene.database).await);
    scene.writes(target).await;
    scene.end().await;
}

/// The volume of the target is full before the restore is done: told, undone, and well once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_undone() {
    let ballast = "CREATE TABLE app.ballast AS SELECT i, gen_random_bytes(1000) AS payload FROM generate_series(1, 60000) AS i;";
    let seed = format!("{}\n{ballast}", include_str!("support/source.sql"));
    let scene = Scene::within(Layout::OldToNew, "full", "onyx", &seed, Some(260)).await;
    let before = scene.snapshot().await;
    let content = scene.source.content(&scene.database).await;
    let migration = scene.migrate("full", |_| ()).await;
    // After the checks, which would have told that there is too little room.
    migration.begun(StepName::Dump).await;
    let filler = "/var/lib/postgresql/data/filler";
    scene.target.exec(&["sh", "-c", &format!("head -c 190M /dev/zero >{filler}")], "").await.unwrap();
    let status = migration.ended(Outcome::Failed).await;
    assert_eq!(condition(&status, "RolledBack"), "True");
    let message = status.message.clone().unwrap();
    for word in ["RestoreFailed", "No space left on device", "new-pg-0"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    scene.writes(&scene.source).await;
    scene.writes(&scene.target).await;
    assert_same(&before, &scene.snapshot().await);

    scene.target.exec(&["rm", filler], "").await.unwrap();
    migration.change(json!({"retry": 1})).await;
    crate::support::eventually("the second run", || async {
        let run = migration.status().await.run;
        if run == 2 { Ok(()) } else { Err(run) }
    })
    .await;
    let status = migration.ended(Outcome::Succeeded).await;
    assert_eq!(condition(&status, "Verified"), "True");
    assert_same(&content, &scene.target.content(&scene.database).await);
    scene.end().await;
}

/// The pod of the target is evicted, and its volume goes with it: whatever comes under its name is another server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_target_is_another_server() {
    let scene = Scene::new(Layout::OldToNew, "evicted", "onyx", &large()).await;
    let content = scene.source.content(&scene.database).await;
    brake(&scene, LONG).await;
    let migration = scene.migrate("evicted", |_| ()).await;
    midway(&migration, StepName::Restore).await;
    let (pod, namespace) = (scene.target.pod(), scene.target.namespace.clone());
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}});
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    scene.target.side.kubectl_aside(&["create", "--raw", &path, "-f", "-"], &eviction.to_string()).await.unwrap();
    let status = migration.ended(Outcome::Failed).await;
    assert_eq!(condition(&status, "RolledBack"), "True");
    assert_ne!(condition(&status, "Published"), "True");
    scene.writes(&scene.source).await;
    assert_same(&content, &scene.source.content(&scene.database).await);
    scene.end().await;
}
