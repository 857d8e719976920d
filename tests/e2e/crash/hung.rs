//! What a migration depends on is stopped in its tracks: it takes connections and answers nothing, so that no error ever comes.
//! Nothing may wait for it in silence.

use std::time::{Duration, Instant};

use pgmigration::api::{Outcome, PostgresMigrationStatus, StepName};

use super::paused::in_node_of;
use super::troubled::{component, healthy};
use crate::interruptions::{LONG, brake, large, midway};
use crate::migration::moved;
use crate::support::ledger::Ledger;
use crate::support::migration::Migration;
use crate::support::scene::{Layout, Scene};
use crate::support::server::Server;
use crate::support::{Side, operator};

/// The longest that a person may have to wait until the status names what hangs.
const NAMED: Duration = Duration::from_secs(120);

/// The longest until an attempt ends that waits for what answers nothing: a mover asks for five minutes, then tidies up for one.
const ENDED: Duration = Duration::from_secs(420);

/// `STOP` or `CONT` for all processes of a server.
async fn signal(server: &Server, signal: &str) {
    let cluster = match server.side {
        Side::Old => "old",
        Side::New => "new",
    };
    let script = format!(
        // Only the first process still shows its environment: the others write their titles over theirs.
        r#"for p in /proc/[0-9]*; do
             [ "$(cat "$p/comm" 2>/dev/null)" = postgres ] || continue
             tr '\0' '\n' <"$p/environ" 2>/dev/null | grep -qx "HOSTNAME={}-0" && first=${{p#/proc/}}
           done
           all=$first
           for p in /proc/[0-9]*; do
             grep -qs "^PPid:[[:space:]]*$first$" "$p/status" && all="$all ${{p#/proc/}}"
           done
           kill -{signal} $all && echo $all | wc -w"#,
        server.name
    );
    let struck = in_node_of(cluster, script).await.unwrap();
    assert!(struck.trim().parse::<u32>().unwrap() > 3, "{signal}: {struck}");
}

/// What the object says about its step at work.
fn said(status: &PostgresMigrationStatus) -> String {
    let step = status.steps.iter().find(|s| Some(s.name) == status.step).and_then(|s| s.message.clone()).unwrap_or_default();
    let ready = status.conditions.iter().find(|c| c.type_ == "Progressing").map(|c| format!("{}: {}", c.reason, c.message));
    format!("{step} [{}] [{}]", status.message.as_deref().unwrap_or_default(), ready.unwrap_or_default())
}

/// Waits until one of `words` is said.
async fn told(migration: &Migration, words: &[&str], limit: Duration) {
    let (begun, mut last) = (Instant::now(), String::new());
    loop {
        let status = migration.status().await;
        let now = said(&status);
        if now != last {
            println!("{:>4} s  {:?}: {now}", begun.elapsed().as_secs(), status.step);
            last.clone_from(&now);
        }
        if words.iter().any(|word| now.contains(word)) {
            return;
        }
        assert!(status.outcome.is_none() && status.undo.is_none(), "it gave up before it said any of {words:?}: {now}");
        assert!(begun.elapsed() < limit, "it did not say any of {words:?}: {now}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The old cluster's API server and the source's server in mid-dump, the target's in mid-restore and while it is compared, and the
/// new cluster's kubelet: each is named, with the moment at which it is given up. What comes back in time is gone on with; the
/// target's server in mid-restore does not, and the restore begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_named() {
    operator().await;
    let scene = Scene::new(Layout::OldToNew, "hung", "onyx", &large()).await;
    let ledger = Ledger::begin(&scene.source, &scene.database).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let migration = scene.migrate("hung", |_| ()).await;
    const GIVEN_UP: &str = "unless that changes, this attempt is given up at";

    midway(&migration, StepName::Dump).await;
    component("old", "pause", "apiserver").await;
    println!("the old API server hangs");
    told(&migration, &[GIVEN_UP], NAMED).await;
    // What is over in the next second cannot be struck: the server stops before the dump goes on.
    signal(&scene.source, "STOP").await;
    component("old", "resume", "apiserver").await;
    healthy().await;
    println!("the source hangs");
    told(&migration, &["database \"postgres\" in"], NAMED).await;
    brake(&scene, LONG).await;
    signal(&scene.source, "CONT").await;

    midway(&migration, StepName::Restore).await;
    brake(&scene, 0).await;
    signal(&scene.target, "STOP").await;
    println!("the target hangs");
    told(&migration, &[GIVEN_UP], NAMED).await;
    told(&migration, &["attempt 2: the last one ended with"], ENDED).await;
    signal(&scene.target, "CONT").await;

    migration.until("the comparison", |s| (s.step == Some(StepName::Compare)).then_some(())).await;
    signal(&scene.target, "STOP").await;
    println!("the target hangs again");
    told(&migration, &[GIVEN_UP], NAMED).await;
    signal(&scene.target, "CONT").await;

    migration.until("the analysis", |s| (s.step > Some(StepName::Compare)).then_some(())).await;
    component("new", "pause", "kubelet").await;
    println!("the new kubelet hangs");
    told(&migration, &["(since 20", "cannot be read"], NAMED).await;
    component("new", "resume", "kubelet").await;

    migration.ended(Outcome::Succeeded).await;
    ledger.assert_kept(&scene.target, &[&scene.database]).await;
    moved(&scene, &migration, &content, &databases).await;
    scene.end().await;
}
