//! Going back: whatever a migration has done, also long after its end, and nothing that the application has written is lost.

use pgmigration::api::{Outcome, Phase, PostgresMigrationStatus, StepName, UndoCause};
use pgmigration::archive::Sha256;
use pgmigration::archive::keys;
use serde_json::{Value, json};

use crate::interruptions::{called_back_in_the_swap, called_off, large, midway};
use crate::support::migration::{Migration, condition};
use crate::support::scene::{Layout, Scene, bucket};
use crate::support::snapshot::assert_same;
use crate::support::{Side, eventually};

const SOURCE: &str = include_str!("support/source.sql");

/// A row that only the application on the new side can have written, and a table of a release that the old side never had.
const FOREIGN: &str = "INSERT INTO app.written (host) VALUES ('written after the migration');
    CREATE TABLE app.newer AS SELECT i FROM generate_series(1, 500) AS i;";
const FOREIGN_ROWS: &str =
    "SELECT (SELECT count(*) FROM app.written WHERE host = 'written after the migration'), (SELECT sum(i) FROM app.newer)";

fn acknowledged() -> Value {
    json!({"rollback": {"acknowledge": ["TargetWrites"]}})
}

fn reason<'a>(status: &'a PostgresMigrationStatus, kind: &str) -> &'a str {
    status.conditions.iter().find(|c| c.type_ == kind).map_or("", |c| c.reason.as_str())
}

/// Waits for the end of a rollback: everything but the bucket is as it was `before`, and the application of the old side works.
async fn rolled_back(scene: &Scene, migration: &Migration, before: &str) -> PostgresMigrationStatus {
    let over = |s: &PostgresMigrationStatus| (s.outcome == Some(Outcome::Cancelled)).then(|| s.clone());
    let status = migration.after_its_end("the end of the rollback", over).await;
    assert_eq!((condition(&status, "RolledBack"), reason(&status, "RolledBack")), ("True", "RollbackRequested"));
    assert_eq!((condition(&status, "Ready"), condition(&status, "Succeeded")), ("False", "False"));
    assert_eq!(status.undo.as_ref().unwrap().cause, UndoCause::Rollback);
    eventually("the object to be released", || async {
        let finalizers = migration.api.get(&migration.name).await.map_err(|error| error.to_string())?.metadata.finalizers;
        if finalizers.clone().unwrap_or_default().is_empty() { Ok(()) } else { Err(format!("{finalizers:?}")) }
    })
    .await;
    assert_same(before, &scene.world().await);
    scene.writes(&scene.source).await;
    status
}

/// Asks for a rollback that would cost rows: nothing happens, and it is said what would. Taken back, all is as it was.
async fn refused_unacknowledged(scene: &Scene, migration: &Migration) {
    let now = scene.world().await;
    migration.change(json!({"rollback": {}})).await;
    let asked = |s: &PostgresMigrationStatus| (s.phase == Some(Phase::RequiresApproval)).then(|| s.clone());
    let status = migration.after_its_end("the question", asked).await;
    for kind in ["Ready", "Stalled"] {
        assert_eq!(reason(&status, kind), "RollbackNotAcknowledged", "{kind}");
    }
    assert_eq!((condition(&status, "Stalled"), condition(&status, "Succeeded")), ("True", "True"));
    let saved = keys::saved(&status.archive.as_ref().unwrap().key, 1);
    let message = status.message.clone().unwrap();
    for words in ["onyx", "new-pg:5432", saved.as_str(), "spec.rollback.acknowledge", "TargetWrites"] {
        assert!(message.contains(words), "{words}: {message}");
    }
    scene.writes(&scene.target).await;
    assert!(scene.source.try_sql("onyx", "SELECT 1").await.is_err(), "the source is open");
    assert_same(&now, &scene.world().await);

    migration.change(json!({"rollback": null})).await;
    let on = |s: &PostgresMigrationStatus| (s.phase == Some(Phase::Succeeded) && condition(s, "Ready") == "True").then_some(());
    migration.after_its_end("rest as before", on).await;
    assert_same(&now, &scene.world().await);
}

/// What the application wrote to the new database is in the bucket, for pg_restore alone; the archive of the migration too.
async fn saved(scene: &Scene, status: &PostgresMigrationStatus) {
    let (bucket, saved, archive) = (bucket().await, status.saved.as_ref().unwrap(), status.archive.as_ref().unwrap());
    assert!(saved.verified && saved.kept_as.is_none(), "{saved:?}");
    assert!(status.message.as_ref().unwrap().contains(&saved.key), "{:?}", status.message);
    let dump = bucket.get_small(&saved.key, 1 << 28).await.unwrap().expect("nothing was saved");
    assert_eq!(i64::try_from(dump.len()).ok(), saved.bytes);
    assert_eq!(Some(Sha256::hex_of(&dump)), saved.sha256);
    let file = "/tmp/saved.dump";
    scene.target.exec(&["sh", "-c", "cat >\"$0\"", file], &dump).await.unwrap();
    scene.target.sql("postgres", "CREATE DATABASE by_hand").await;
    let restore = ["pg_restore", "-U", "postgres", "--no-owner", "--exit-on-error", "-d", "by_hand", file];
    scene.target.exec(&restore, "").await.unwrap();
    scene.target.exec(&["rm", file], "").await.unwrap();
    assert_eq!(scene.target.sql("by_hand", FOREIGN_ROWS).await, "1|125250");
    scene.target.sql("postgres", "DROP DATABASE by_hand").await;

    let folder = archive.key.rsplit_once('/').unwrap().0;
    let there = |key: String| {
        let bucket = bucket.clone();
        async move { bucket.head(&key).await.unwrap().is_some() }
    };
    assert!(there(archive.key.clone()).await, "the archive of the migration was promised to stay");
    assert!(there(keys::manifest(&archive.key)).await && there(keys::past_run_manifest(&archive.key)).await);
    assert!(!there(keys::run_manifest(folder)).await && !there(keys::completion(folder)).await);
}

/// Opens the old database of a migration that has succeeded: both take writes then, and it is said so.
async fn unfenced(scene: &Scene, migration: &Migration) {
    migration.change(json!({"unfence": true})).await;
    let open = |s: &PostgresMigrationStatus| (reason(s, "Fenced") == "Unfenced").then(|| s.clone());
    let status = migration.after_its_end("the old database to be opened", open).await;
    assert_eq!((status.phase, condition(&status, "Fenced")), (Some(Phase::Succeeded), "False"));
    assert_eq!((condition(&status, "Ready"), status.step), ("True", Some(StepName::Keep)));
    assert!(status.message.as_ref().unwrap().contains("nothing keeps them equal"), "{:?}", status.message);
    assert_eq!(scene.source.sql("onyx", "SELECT version_num FROM app.version").await, "0001");
    assert!(scene.source.databases().await.iter().all(|name| !name.starts_with("onyx_")), "the tombstone is left");
    scene.writes(&scene.target).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_migration_gives_back_everything_and_saves_what_was_written_since() {
    let scene = Scene::new(Layout::OldToNew, "rollback", "onyx", SOURCE).await;
    let before = scene.world().await;
    let content = scene.source.content("onyx").await;
    let migration = scene.migrate("onyx", |_| ()).await;
    migration.ended(Outcome::Succeeded).await;
    scene.writes(&scene.target).await;
    scene.target.sql("onyx", FOREIGN).await;

    refused_unacknowledged(&scene, &migration).await;
    migration.change(acknowledged()).await;
    let status = rolled_back(&scene, &migration, &before).await;
    assert_same(&content, &scene.source.content("onyx").await);
    scene.writes(&scene.target).await;
    saved(&scene, &status).await;

    // Made again, the object moves the database again: the earlier move counts for nothing.
    migration.delete().await;
    let migration = scene.migrate("onyx", |_| ()).await;
    let status = migration.ended(Outcome::Succeeded).await;
    assert!(status.start_time.is_some() && status.completion.is_some_and(|c| !c.earlier), "it took the work for done");
    assert_same(&content, &scene.target.content("onyx").await);
    unfenced(&scene, &migration).await;

    // And once more back, from both open.
    scene.target.sql("onyx", FOREIGN).await;
    migration.change(acknowledged()).await;
    let status = rolled_back(&scene, &migration, &before).await;
    saved(&scene, &status).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_application_goes_back_from_a_failed_schema_job_and_from_the_end() {
    let scene = Scene::new(Layout::OnePlace, "back", "onyx", SOURCE).await;
    let before = scene.snapshot().await;
    let script = r#"
        test "$REVISION" = ready || { echo "the new revision needs REVISION to be ready"; exit 3; }
        psql -X -v ON_ERROR_STOP=1 -c "UPDATE app.version SET version_num = '0002'"
    "#;
    let migration = scene
        .migrate("schema", |spec| spec["target"]["application"]["schemaJobs"][0]["command"] = json!(["sh", "-ec", script]))
        .await;
    let held = migration.until("the hold", |s| (s.phase == Some(Phase::RequiresApproval)).then(|| s.clone())).await;
    assert!(held.message.as_ref().unwrap().contains("spec.rollback"), "{:?}", held.message);
    // Nothing was started: nothing has to be acknowledged, and nothing is left in the bucket.
    migration.change(json!({"rollback": {}})).await;
    let status = rolled_back(&scene, &migration, &scene_of(&before)).await;
    assert!(status.saved.is_none(), "{:?}", status.saved);
    assert_same(&before, &scene.snapshot().await);

    // Taken back and tried again, the same object comes to its end; then all of it is undone.
    let ready = json!({"data": {"REVISION": "ready"}}).to_string();
    let patch = ["-n", &scene.home, "patch", "configmap", "app-config", "--type=merge", "-p", &ready];
    Side::New.kubectl_aside(&patch, "").await.unwrap();
    let before = scene.world().await;
    let words = status.message.unwrap();
    assert!(words.ends_with("To begin anew, take spec.rollback away and raise spec.retry."), "{words}");
    migration.change(json!({"rollback": null, "retry": 1})).await;
    let done = |s: &PostgresMigrationStatus| (s.outcome == Some(Outcome::Succeeded)).then(|| s.clone());
    let status = migration.after_its_end("the end of the second run", done).await;
    assert_eq!((status.run, status.quiesced.len()), (2, 3));
    scene.writes(&scene.target).await;
    scene.target.sql("onyx", FOREIGN).await;
    migration.change(acknowledged()).await;
    let status = rolled_back(&scene, &migration, &before).await;
    saved(&scene, &status).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_somebody_wrote_before_the_application_was_started_are_kept() {
    let scene = Scene::new(Layout::OldToNew, "unlooked", "onyx", SOURCE).await;
    let before = scene.world().await;
    let databases = scene.target.databases().await;
    let fails = |spec: &mut Value| spec["target"]["application"]["schemaJobs"][0]["command"] = json!(["sh", "-c", "exit 3"]);
    let migration = scene.migrate("unlooked", fails).await;
    migration.until("the hold", |s| (s.phase == Some(Phase::RequiresApproval)).then_some(())).await;
    scene.target.sql("onyx", FOREIGN).await;
    migration.change(json!({"rollback": {}})).await;
    let over = |s: &PostgresMigrationStatus| (s.outcome == Some(Outcome::Cancelled)).then(|| s.clone());
    let status = migration.after_its_end("the end of the rollback", over).await;
    let kept = status.saved.as_ref().unwrap().kept_as.clone().unwrap();
    assert!(status.message.as_ref().unwrap().contains(&kept), "{:?}", status.message);
    assert!(status.warnings.iter().any(|w| w.reason == "TargetWritesKept" && w.message.contains(&kept)), "{:?}", status.warnings);
    assert_eq!(scene.target.sql(&kept, FOREIGN_ROWS).await, "1|125250");
    let left: Vec<String> = scene.target.databases().await.into_iter().filter(|name| !databases.contains(name)).collect();
    assert_eq!(left, std::slice::from_ref(&kept));
    scene.target.sql("postgres", &format!("DROP DATABASE \"{kept}\"")).await;
    rolled_back(&scene, &migration, &before).await;
    scene.end().await;
}

/// A snapshot without its last line, the bucket.
fn scene_of(snapshot: &str) -> String {
    let (world, _) = snapshot.trim_end_matches('\n').rsplit_once('\n').unwrap();
    format!("{world}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_mid_dump_a_rollback_acts_as_cancel_does() {
    let scene = Scene::new(Layout::OldToNew, "midway", "onyx", &large()).await;
    let before = scene.snapshot().await;
    let migration = scene.migrate("midway", |_| ()).await;
    midway(&migration, StepName::Dump).await;
    migration.change(json!({"rollback": {}})).await;
    called_off(&scene, &migration, &before).await;
    let status = migration.status().await;
    assert_eq!(status.undo.unwrap().cause, UndoCause::Rollback);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_midst_of_the_swap() {
    let scene = Scene::new(Layout::OldToNew, "swap", "onyx", SOURCE).await;
    let before = scene.snapshot().await;
    let migration = scene.migrate("during-publish", |_| ()).await;
    migration.stop_after(StepName::Analyze).await;
    called_back_in_the_swap(&scene, &migration, json!({"rollback": {}}), UndoCause::Rollback).await;
    called_off(&scene, &migration, &before).await;
    scene.end().await;
}
