//! What a migration depends on is stopped in its tracks: it takes connections and answers nothing, so that no error ever comes.
//! Nothing may wait for it in silence.

use std::process::Command;
use std::time::{Duration, Instant};

use pgmigration::api::{Outcome, PostgresMigrationStatus, StepName};

use super::paused::{in_node, process};
use super::troubled::healthy;
use crate::interruptions::{LONG, brake, large, midway};
use crate::migration::moved;
use crate::support::ledger::Ledger;
use crate::support::migration::Migration;
use crate::support::scene::{Layout, Scene};
use crate::support::server::Server;
use crate::support::{Side, operator, setting};

/// The longest that a person may have to wait until the status names what hangs.
const NAMED: Duration = Duration::from_secs(120);

/// The longest until an attempt ends that waits for what answers nothing: a mover asks for five minutes, then tidies up for one.
const ENDED: Duration = Duration::from_secs(420);

/// Something that is stopped, until this is dropped: a test that fails must not leave it so.
struct Stopped(Box<dyn Fn() + Send>);

impl Drop for Stopped {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs a program to its end, which must be a good one.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Stops all processes of a component.
fn stop_component(cluster: &'static str, name: &'static str) -> Stopped {
    let script = setting("PGM_COMPONENT");
    run(&script, &[cluster, "pause", name]);
    Stopped(Box::new(move || drop(run(&script, &[cluster, "resume", name]))))
}

async fn uid(server: &Server) -> String {
    let pod = ["-n", &server.namespace, "get", "pod", &server.pod(), "-o", "jsonpath={.metadata.uid}"];
    server.side.kubectl_aside(&pod, "").await.unwrap()
}

/// Stops all processes of the server in this pod, and none of the tools beside it.
fn stop_server(server: &Server, uid: &str) -> Stopped {
    let script = r#"all=
      for p in /proc/[0-9]*; do
        [ "$(cat "$p/comm" 2>/dev/null)" = postgres ] && grep -q "$UID_OF_POD" "$p/cgroup" && all="$all ${p#/proc/}"
      done
      kill -$SIGNAL $all && echo $all | wc -w"#;
    // systemd writes the UID with underscores.
    let pattern = uid.replace('-', "[-_]");
    let (node, cluster) = (setting("PGM_NODE"), if server.side == Side::Old { "old" } else { "new" });
    let send = move |signal: &str| {
        let script = script.replace("$UID_OF_POD", &pattern).replace("$SIGNAL", signal);
        run(&node, &[cluster, "sh", "-c", &script])
    };
    let struck = send("STOP");
    assert!(struck.trim().parse::<u32>().unwrap() > 3, "processes: {struck}");
    Stopped(Box::new(move || drop(send("CONT"))))
}

/// What the object says about its step at work.
fn said(status: &PostgresMigrationStatus) -> String {
    let step = status.steps.iter().find(|s| Some(s.name) == status.step).and_then(|s| s.message.clone()).unwrap_or_default();
    let condition = status.conditions.iter().find(|c| c.type_ == "Reconciling").map(|c| format!("{}: {}", c.reason, c.message));
    format!("{step} [{}] [{}]", status.message.as_deref().unwrap_or_default(), condition.unwrap_or_default())
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
    // Nobody tells while an API server hangs.
    let (at_source, at_target) = (uid(&scene.source).await, uid(&scene.target).await);
    const GIVEN_UP: &str = "unless that changes, this attempt is given up at";

    midway(&migration, StepName::Dump).await;
    let server = stop_component("old", "apiserver");
    println!("the old API server hangs");
    told(&migration, &[GIVEN_UP], NAMED).await;
    // What is over in the next second cannot be struck: the source stops before the dump goes on.
    let source = stop_server(&scene.source, &at_source);
    drop(server);
    healthy().await;
    println!("the source hangs");
    told(&migration, &["database \"postgres\" in"], NAMED).await;
    brake(&scene, LONG).await;
    drop(source);

    midway(&migration, StepName::Restore).await;
    brake(&scene, 0).await;
    let target = stop_server(&scene.target, &at_target);
    println!("the target hangs");
    told(&migration, &[GIVEN_UP], NAMED).await;
    told(&migration, &["attempt 2: the last one ended with"], ENDED).await;
    drop(target);

    let compares = |s: &PostgresMigrationStatus| s.transfer.as_ref().is_some_and(|t| t.operation == "compare" && t.started);
    migration.until("the comparison", |s| compares(s).then_some(())).await;
    let target = stop_server(&scene.target, &at_target);
    println!("the target hangs again");
    told(&migration, &[GIVEN_UP], NAMED).await;
    drop(target);

    migration.until("the analysis", |s| (s.step > Some(StepName::Compare)).then_some(())).await;
    let kubelet = stop_component("new", "kubelet");
    println!("the new kubelet hangs");
    told(&migration, &["did not end within", "not ready", "cannot be read"], NAMED).await;
    drop(kubelet);

    migration.ended(Outcome::Succeeded).await;
    ledger.assert_kept(&scene.target, &[&scene.database]).await;
    moved(&scene, &migration, &content, &databases).await;
    scene.end().await;
}

/// A mover whose process stands still, while its node is well: it is told of, then its Job is deleted and the next attempt begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mover_that_stands_still_is_ended() {
    operator().await;
    let scene = Scene::new(Layout::OldToNew, "still", "onyx", &large()).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let migration = scene.migrate("still", |_| ()).await;
    let job = midway(&migration, StepName::Dump).await.transfer.unwrap().job;
    let pod = ["-n", &scene.home, "get", "pods", "-l", &format!("job-name={job}"), "-o", "jsonpath={.items[0].metadata.name}"];
    let pod = Side::New.kubectl_aside(&pod, "").await.unwrap();
    in_node(format!("kill -STOP {}", process(&pod).await.unwrap())).await.unwrap();
    println!("the mover stands still");
    told(&migration, &["has printed nothing since"], Duration::from_secs(240)).await;
    told(&migration, &["attempt 2: the last one ended with"], Duration::from_secs(720)).await;
    migration.ended(Outcome::Succeeded).await;
    moved(&scene, &migration, &content, &databases).await;
    scene.end().await;
}
