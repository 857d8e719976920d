//! API servers that die: one of them in each step of a migration, by turns, without a word, or all of them for minutes. Watches
//! break, requests are cut in two, answers are lost.

use std::process::Command;
use std::time::Duration;

use pgmigration::api::{Outcome, StepName};
use tokio::task::spawn_blocking;

use crate::interruptions::{large, midway};
use crate::migration::moved;
use crate::support::dice::number;
use crate::support::ledger::Ledger;
use crate::support::migration::condition;
use crate::support::scene::{Layout, Scene};
use crate::support::snapshot::assert_same;
use crate::support::{OPERATOR, SYSTEM, Side, available, eventually, operator, setting};

/// `kill`, `hold`, `release`, `pause` or `resume` a component of a cluster.
async fn component(cluster: &'static str, what: &'static str, component: &'static str) {
    let run = move || Command::new(setting("PGM_COMPONENT")).args([cluster, what, component]).output().unwrap();
    let output = spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until both API servers and the operator answer.
pub async fn healthy() {
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
        let (cluster, part) = match struck.len() % 4 {
            0 | 2 => ("new", "apiserver"),
            1 => ("old", "apiserver"),
            _ => ("new", "etcd"),
        };
        component(cluster, "kill", part).await;
        struck.push(step);
    }
    healthy().await;
    migration.ended(Outcome::Succeeded).await;
    moved(&scene, &migration, &content, &databases).await;
    assert!(struck.len() >= 12, "it was struck in {struck:?} only");
    scene.end().await;
}

/// Nobody answers in either cluster for OUTAGE (300) seconds, in mid-dump: the operator loses its lease, the mover its stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_api_servers_are_away_for_minutes() {
    operator().await;
    let scene = Scene::new(Layout::OldToNew, "outage", "onyx", &large()).await;
    let ledger = Ledger::begin(&scene.source, &scene.database).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let before = scene.snapshot().await;
    let migration = scene.migrate("outage", |_| ()).await;
    midway(&migration, StepName::Dump).await;
    for cluster in ["old", "new"] {
        component(cluster, "hold", "apiserver").await;
    }
    tokio::time::sleep(Duration::from_secs(number("OUTAGE", 300))).await;
    for cluster in ["old", "new"] {
        component(cluster, "release", "apiserver").await;
    }
    healthy().await;
    let status = migration.until("the end", |s| s.outcome.map(|_| s.clone())).await;
    println!("{:?}: {}", status.outcome, status.message.as_deref().unwrap_or_default());
    if status.outcome == Some(Outcome::Succeeded) {
        ledger.assert_kept(&scene.target, &[&scene.database]).await;
        moved(&scene, &migration, &content, &databases).await;
    } else {
        assert_eq!(condition(&status, "RolledBack"), "True");
        ledger.assert_kept(&scene.source, &[&scene.database]).await;
        assert_same(&before, &scene.snapshot().await);
        scene.writes(&scene.source).await;
    }
    scene.end().await;
}
