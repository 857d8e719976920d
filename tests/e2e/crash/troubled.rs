//! API servers that die: one of them in each step of a migration, by turns, without a word. Watches break, requests are cut in
//! two, answers are lost.

use std::process::Command;

use pgmigration::api::{Outcome, StepName};
use tokio::task::spawn_blocking;

use crate::migration::moved;
use crate::support::scene::{Layout, Scene};
use crate::support::{OPERATOR, SYSTEM, Side, available, eventually, operator, setting};

async fn kill(cluster: &'static str, component: &'static str) {
    let run = move || Command::new(setting("PGM_COMPONENT")).args([cluster, "kill", component]).output().unwrap();
    let output = spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn healthy() {
    for side in [Side::Old, Side::New] {
        eventually("the API server", || side.kubectl_aside(&["get", "--raw", "/readyz"], "")).await;
    }
    available(&Side::New.client().await, SYSTEM, OPERATOR).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_dies_in_each_step() {
    operator().await;
    let scene = Scene::new(Layout::OldToNew, "troubled", "onyx", include_str!("../support/source.sql")).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let migration = scene.migrate("troubled", |_| ()).await;
    let mut struck: Vec<StepName> = Vec::new();
    loop {
        let step = migration.until("the next step", |s| match s.outcome {
            Some(_) => Some(None),
            None => s.step.filter(|step| !struck.contains(step)).map(Some),
        });
        let Some(step) = step.await else { break };
        let (cluster, component) = match struck.len() % 4 {
            0 | 2 => ("new", "apiserver"),
            1 => ("old", "apiserver"),
            _ => ("new", "etcd"),
        };
        kill(cluster, component).await;
        struck.push(step);
    }
    healthy().await;
    migration.ended(Outcome::Succeeded).await;
    moved(&scene, &migration, &content, &databases).await;
    assert!(struck.len() >= 12, "it was struck in {struck:?} only");
    scene.end().await;
}
