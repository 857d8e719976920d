//! No acknowledged write is lost: writers of many kinds, whom nobody lists, write through whole migrations, and what each was
//! told is written is looked for afterwards. And a fence that somebody breaks, piece by piece, is seen before anything is
//! published.

mod broken;
mod crowd;

use pgmigration::api::{Outcome, StepName};
use serde_json::json;

use crate::support::Side;
use crate::support::migration::condition;
use crate::support::scene::{Layout, Scene};
use crate::support::snapshot::assert_same;
use crowd::Crowd;

const SOURCE: &str = include_str!("../support/source.sql");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_of_many_kinds_lose_nothing() {
    let scene = Scene::new(Layout::OldToNew, "crowd", "onyx", SOURCE).await;
    crowd::prepare(&scene).await;
    let mut crowd = Crowd::begin(&scene.source, &scene.database).await;
    // A CronJob whose runs come by the clock and end by themselves.
    let one_row = r#"/usr/lib/postgresql/17/bin/psql -X -q -c "INSERT INTO app.written (host) VALUES ('cron')""#;
    let run = json!([{"op": "replace", "path": "/spec/schedule", "value": "* * * * *"},
        {"op": "replace", "path": "/spec/jobTemplate/spec/template/spec/containers/0/command", "value": ["sh", "-c", one_row]}]);
    let (namespace, run) = (scene.source.namespace.clone(), run.to_string());
    let patch = ["-n", namespace.as_str(), "patch", "cronjob/tidy", "--type=json", "-p", run.as_str()];
    scene.source.side.kubectl_aside(&patch, "").await.unwrap();

    let migration = scene.migrate("crowd", |_| ()).await;
    migration.begun(StepName::Dump).await;
    // Who comes when the fence stands, and asks for the database by its name.
    crowd.join(&scene.source, "late");
    let status = migration.ended(Outcome::Succeeded).await;
    let acknowledged = crowd.assert_kept(&scene.target, &scene.database).await;
    assert!(acknowledged > 100, "only {acknowledged} rows were acknowledged: too few to say anything");
    assert_eq!(crowd.rows_of("late"), 0, "somebody wrote to the old side by its name after the fence");

    // What came in by other ways than a session of a writer is in both, and no more of it.
    let fenced = crowd::fenced_name(&scene.source, &scene.database).await;
    for rows in ["SELECT count(*), max(id) FROM app.fed", "SELECT count(*) FROM app.written WHERE host IN ('cron', 'link')"] {
        let there = scene.source.sql(&fenced, rows).await;
        assert_eq!(there, scene.target.sql(&scene.database, rows).await, "{rows}");
    }
    let fed = scene.source.sql(&fenced, "SELECT count(*) FROM app.fed").await;
    let fed: u64 = fed.parse().unwrap();
    let published: u64 = scene.source.sql("feed", "SELECT count(*) FROM app.fed").await.parse().unwrap();
    assert!(0 < fed && fed < published, "{fed} of {published} rows came by the subscription: it was not stopped in mid-flow");
    println!("{acknowledged} rows acknowledged of {} writers, none lost; {fed} by subscription", crowd.len());
    assert_eq!(condition(&status, "Verified"), "True");
    drop(crowd);
    scene.end().await;
}

/// A controller that scales a stopped writer up again is named, and everything is put back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_heals_is_named() {
    let scene = Scene::new(Layout::OldToNew, "heals", "onyx", SOURCE).await;
    let before = scene.snapshot().await;
    let migration = scene.migrate("heals", |_| ()).await;
    let (side, namespace) = (scene.source.side, scene.source.namespace.clone());
    let heal = tokio::spawn(async move {
        let scale = ["-n", namespace.as_str(), "scale", "deployment/worker", "--current-replicas=0", "--replicas=1"];
        while side.kubectl_aside(&scale, "").await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let status = migration.ended(Outcome::Failed).await;
    heal.await.unwrap();
    let message = status.message.unwrap();
    for word in ["ChangedByOthers", "worker", &scene.source.namespace] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert!(status.fence.is_none() && status.archive.is_none(), "it went on: {message}");
    scene.writes(&scene.source).await;
    assert_same(&before, &scene.snapshot().await);
    scene.end().await;
}

/// An autoscaler that would wake a stopped writer is a blocker; one that leaves a workload at 0 alone is none, and is there
/// afterwards as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autoscaler_that_leaves_zero_alone_stays() {
    let scene = Scene::new(Layout::OldToNew, "scaler", "onyx", SOURCE).await;
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "worker"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}, "minReplicas": 1, "maxReplicas": 3}});
    let text = crate::support::scene::list(&scene.source.namespace, vec![scaler]);
    Side::Old.apply(&text);
    let migration = scene.migrate("scaler", |_| ()).await;
    migration.ended(Outcome::Succeeded).await;
    let get = ["-n", scene.source.namespace.as_str(), "get", "deployment/worker", "hpa/worker"];
    let wanted = ["-o", r#"jsonpath={range .items[*]}{.kind} {.spec.replicas}{.spec.minReplicas};{end}"#];
    let now = Side::Old.kubectl_aside(&[get.as_slice(), &wanted].concat(), "").await.unwrap();
    assert_eq!(now, "Deployment 0;HorizontalPodAutoscaler 1;");
    scene.end().await;
}
