//! Two operators: the one that leads is stopped in its tracks for longer than its lease lasts, the other takes over, the first
//! wakes in the midst of what it was doing. Nothing may happen twice.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::task::spawn_blocking;

use super::stage::{Stage, Way};
use crate::support::{OPERATOR, SYSTEM, Side, available, eventually, setting};

/// A shell in the node of cluster new, where both operators run.
pub async fn in_node(script: String) -> Result<String, String> {
    let run = move || {
        let output = Command::new(setting("PGM_NODE")).args(["new", "sh", "-c", &script]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    spawn_blocking(run).await.unwrap()
}

/// Name of the pod that leads; empty when nobody does.
pub async fn holder() -> String {
    let get = ["-n", SYSTEM, "get", "lease", OPERATOR, "-o", "jsonpath={.spec.holderIdentity}"];
    Side::New.kubectl_aside(&get, "").await.unwrap_or_default()
}

/// Process of the operator or mover in this pod, as the node numbers it.
pub async fn process(pod: &str) -> Result<String, String> {
    let script = format!(
        r#"for p in /proc/[0-9]*; do
             grep -qs "^/postgres-migration-operator" "$p/cmdline" && tr '\0' '\n' <"$p/environ" | grep -qx "HOSTNAME={pod}" && echo "${{p#/proc/}}"
           done; true"#
    );
    let found = in_node(script).await?;
    let mut lines = found.lines();
    match (lines.next(), lines.next()) {
        (Some(one), None) => Ok(one.to_owned()),
        (_, _) => Err(format!("processes of pod {pod}: {found:?}")),
    }
}

/// Stops whoever leads until another does, lets both be, and begins anew. Counts how often the lease changed hands.
async fn pause_leaders(over: Arc<AtomicBool>, changes: Arc<AtomicUsize>) {
    while !over.load(Ordering::Relaxed) {
        let leader = holder().await;
        let pid = eventually("the leader's process", || process(&leader)).await;
        in_node(format!("kill -STOP {pid}")).await.unwrap();
        eventually("the other one to take over", || async {
            let now = holder().await;
            if now == leader || now.is_empty() { Err(now) } else { Ok(()) }
        })
        .await;
        changes.fetch_add(1, Ordering::Relaxed);
        // Its probes have given up on it, perhaps: then there is nothing to wake.
        let _ = in_node(format!("kill -CONT {pid}")).await;
        available(&Side::New.client().await, SYSTEM, OPERATOR).await;
    }
}

/// Its own Deployment has two pods for as long as this test runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_paused_past_its_lease_again_and_again() {
    let mut stage = Stage::new("paused").await;
    let scale = |n: &'static str| async move {
        let replicas = format!("--replicas={n}");
        let scale = ["-n", SYSTEM, "scale", "deployment", OPERATOR, &replicas];
        Side::New.kubectl_aside(&scale, "").await.unwrap();
        available(&Side::New.client().await, SYSTEM, OPERATOR).await;
    };
    scale("2").await;
    let (over, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let pausing = tokio::spawn(pause_leaders(Arc::clone(&over), Arc::clone(&changes)));
    let mut migrations = 0;
    // Again until the lease has changed hands often enough to say something.
    let least = std::env::var("PAUSES").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    while changes.load(Ordering::Relaxed) < least {
        assert!(!pausing.is_finished(), "nobody pauses the leader any more");
        let seen = stage.play(Way::Forward, "", false).await;
        assert_eq!(seen.repeated, [], "doubled: movers that were started again");
        migrations += 1;
    }
    over.store(true, Ordering::Relaxed);
    pausing.await.unwrap();
    println!("{} changes of the leader in {migrations} migrations", changes.load(Ordering::Relaxed));
    scale("1").await;
    stage.scene.end().await;
}
