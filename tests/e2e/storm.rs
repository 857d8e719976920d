//! Others write all the time to what a migration writes to: no write of anybody is lost, and none of ours counts twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kube::api::{DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::json;

use crate::migration::moved;
use crate::support::Side;
use crate::support::scene::{Layout, Scene};

/// How long a gust lasts, and the lull after it. Without lulls the controller of a Deployment, which begins anew when its status
/// meets a newer version, does not get a word in for minutes, and nobody can know whether it has seen that it is to stop.
const GUST: Duration = Duration::from_secs(2);
const LULL: Duration = Duration::from_secs(1);

/// Writes an annotation of one object dozens of times a second, each time another value, in gusts. Returns how often.
async fn storm(client: Client, kind: GroupVersionKind, namespace: String, name: &'static str, over: Arc<AtomicBool>) -> u64 {
    let api = Api::<DynamicObject>::namespaced_with(client, &namespace, &ApiResource::from_gvk(&kind));
    let written = AtomicU64::new(0);
    let mut gust = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let value = written.load(Ordering::Relaxed).to_string();
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"example.com/storm": value}}}));
        if api.patch(name, &PatchParams::default(), &patch).await.is_ok() {
            written.fetch_add(1, Ordering::Relaxed);
        }
        // A storm, but none that takes the whole machine from what it blows at.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if gust.elapsed() > GUST {
            tokio::time::sleep(LULL).await;
            gust = Instant::now();
        }
    }
    written.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_writes_to_every_object_at_work() {
    let scene = Scene::new(Layout::OldToNew, "storm", "onyx", include_str!("support/source.sql")).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let over = Arc::new(AtomicBool::new(false));
    let migration = scene.migrate("storm", |_| ()).await;
    let [old, new] = [Side::Old.client().await, Side::New.client().await];
    let deployment = || GroupVersionKind::gvk("apps", "v1", "Deployment");
    let storms: Vec<_> = [
        (GroupVersionKind::gvk("pgmigration.dev", "v1alpha1", "PostgresMigration"), &new, &scene.home, "storm"),
        (deployment(), &old, &scene.source.namespace, "api"),
        (deployment(), &new, &scene.target.namespace, "api"),
        (GroupVersionKind::gvk("", "v1", "ConfigMap"), &new, &scene.target.namespace, "app-config"),
        (GroupVersionKind::gvk("batch", "v1", "CronJob"), &old, &scene.source.namespace, "tidy"),
    ]
    .into_iter()
    .map(|(kind, client, namespace, name)| tokio::spawn(storm(client.clone(), kind, namespace.clone(), name, Arc::clone(&over))))
    .collect();
    moved(&scene, &migration, &content, &databases).await;
    over.store(true, Ordering::Relaxed);
    for storm in storms {
        let written = storm.await.unwrap();
        assert!(written > 200, "{written} writes are no storm");
    }
    scene.end().await;
}
