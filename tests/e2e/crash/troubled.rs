//! API servers that die: one of them in each step of a migration, by turns, without a word, or all of them for minutes. Watches
//! break, requests are cut in two, answers are lost. Those that forget what was watched: they answer 410. And those that live and
//! have no time: they answer 429.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use pgmigration::api::{Outcome, PostgresMigration, StepName};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::interruptions::{large, midway};
use crate::migration::moved;
use crate::support::dice::number;
use crate::support::ledger::Ledger;
use crate::support::migration::{Migration, condition};
use crate::support::scene::{Layout, Scene};
use crate::support::snapshot::assert_same;
use crate::support::{OPERATOR, SYSTEM, Side, available, eventually, operator, setting};

use super::paused::{holder, in_node, process};

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

/// Strikes once in each step, as soon as it is seen; `strike` takes how often that was before. The steps that were struck.
async fn in_each_step(migration: &Migration, mut strike: impl AsyncFnMut(usize)) -> Vec<StepName> {
    let mut struck: Vec<StepName> = Vec::new();
    loop {
        let step = migration.until("the next step", |s| match s.outcome {
            Some(_) => Some(None),
            None => s.step.filter(|step| !struck.contains(step)).map(Some),
        });
        let Some(step) = step.await else { return struck };
        strike(struck.len()).await;
        struck.push(step);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_dies_in_each_step() {
    operator().await;
    let scene = Scene::new(Layout::OldToNew, "troubled", "onyx", include_str!("../support/source.sql")).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let migration = scene.migrate("troubled", |_| ()).await;
    let struck = in_each_step(&migration, async |n| match n % 4 {
        0 | 2 => component("new", "kill", "apiserver").await,
        1 => component("old", "kill", "apiserver").await,
        _ => component("new", "kill", "etcd").await,
    });
    let struck = struck.await;
    healthy().await;
    migration.ended(Outcome::Succeeded).await;
    moved(&scene, &migration, &content, &databases).await;
    assert!(struck.len() >= 12, "it was struck in {struck:?} only");
    scene.end().await;
}

/// An object that nobody looks at for minutes (it is suspended): what is changed in it is known from a watch alone, or from a
/// new list when that watch was told that its version is gone.
struct Bystander {
    object: Migration,
    changes: i64,
}

impl Bystander {
    async fn patch(&self, patch: &Value) -> kube::Result<PostgresMigration> {
        self.object.api.patch(&self.object.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// An API server that began knows no version of before it: whoever goes on watching from there is told so (410). Stops the
    /// operator, has its API server begin anew, changes the object, wakes the operator, and waits until it has seen the change.
    /// Whether that was the operator of before, with the lease and so the watches of before.
    async fn unseen(&mut self) -> bool {
        const OBJECTS: &str = "/apis/pgmigration.dev/v1alpha1/postgresmigrations";
        let (pid, before) = (leading().await, lease().await);
        in_node(format!("kill -STOP {pid}")).await.unwrap();
        // Nobody watches from a later version than this.
        let list = eventually("a list", || Side::New.kubectl_aside(&["get", "--raw", OBJECTS], "")).await;
        let list: Value = serde_json::from_str(&list).unwrap();
        self.changes += 1;
        // A later version, whatever else goes on; of something that the operator does not watch, or it would go on from there.
        let label = format!("change={}", self.changes);
        let mark = ["label", "--overwrite", "namespace", &self.object.namespace, &label];
        eventually("a label", || Side::New.kubectl_aside(&mark, "")).await;
        component("new", "kill", "apiserver").await;
        eventually("the API server", || Side::New.kubectl_aside(&["get", "--raw", "/readyz"], "")).await;
        let change = json!({"spec": {"retry": self.changes}});
        let generation = eventually("a change", || self.patch(&change)).await.metadata.generation;
        // Its probes have given up on it, perhaps: then there is nothing to wake.
        let _ = in_node(format!("kill -CONT {pid}")).await;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap();
        let watch = format!("{OBJECTS}?watch=1&timeoutSeconds=1&resourceVersion={version}");
        let (Ok(answer) | Err(answer)) = Side::New.kubectl_aside(&["get", "--raw", &watch], "").await;
        assert!(answer.contains("too old resource version"), "{watch} was answered: {answer}");
        eventually("the change to be seen", || async {
            let seen = self.object.status().await.observed_generation;
            if seen == generation { Ok(()) } else { Err(format!("{seen:?} of {generation:?}")) }
        })
        .await;
        let after = eventually("a renewal", || async {
            let now = lease().await;
            if now["renewTime"] == before["renewTime"] { Err(now) } else { Ok(now) }
        })
        .await;
        ["holderIdentity", "acquireTime"].iter().all(|field| after[field] == before[field])
    }
}

async fn leading() -> String {
    eventually("the leader's process", async || process(&holder().await).await).await
}

async fn lease() -> Value {
    let get = ["-n", SYSTEM, "get", "lease", OPERATOR, "-o", "jsonpath={.spec}"];
    serde_json::from_str(&eventually("the lease", || Side::New.kubectl_aside(&get, "")).await).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_forgets_what_was_watched_again_and_again() {
    operator().await;
    let scene = Scene::new(Layout::OldToNew, "forgotten", "onyx", include_str!("../support/source.sql")).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let object = scene.migrate("bystander", |spec| (spec["mode"], spec["suspend"]) = (json!("Plan"), json!(true))).await;
    let mut bystander = Bystander { object, changes: 0 };
    let migration = scene.migrate("forgotten", |_| ()).await;
    let mut kept = 0;
    let struck = in_each_step(&migration, async |_| kept += usize::from(bystander.unseen().await)).await;
    healthy().await;
    let status = migration.ended(Outcome::Succeeded).await;
    moved(&scene, &migration, &content, &databases).await;
    println!("in {struck:?}; {kept} times the operator kept its lease and its watches");
    // It takes a while to be told, and short steps pass meanwhile.
    assert!(struck.len() >= 6, "it was struck in {struck:?} only");
    assert!(kept * 2 >= struck.len(), "the operator led anew, so it watched nothing of before, but {kept} times");
    // A mover that was asking the dying API server something ends, once a step; one that did not is not started anew for a watch.
    let again: Vec<_> = status.steps.iter().filter(|step| step.attempt > 2).map(|step| (step.name, step.attempt)).collect();
    assert_eq!(again, [], "a mover was started anew more often than its step was struck");
    scene.end().await;
}

/// Of certain accounts both API servers take one request at a time, and refuse all others with 429 (API Priority and Fairness,
/// KEP-1040: a level without seats takes a request that is alone).
struct Busy {
    account: String,
}

const BUSY: &str = "pgmigration-test-busy";
const SEAT: &str = "pgmigration-test-busy-seat";
const SIDES: [Side; 2] = [Side::Old, Side::New];

impl Busy {
    /// For the accounts in `namespaces`.
    async fn new(namespaces: &[&str]) -> Self {
        let group = |name: &&str| json!({"kind": "Group", "group": {"name": format!("system:serviceaccounts:{name}")}});
        let subjects: Vec<_> = namespaces.iter().map(group).collect();
        let account = format!("system:serviceaccount:{}:busy", namespaces[0]);
        let any = json!(["*"]);
        let level = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "PriorityLevelConfiguration",
            "metadata": {"name": BUSY},
            "spec": {"type": "Limited", "limited": {
                "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"},
            }},
        });
        let flow = |name: &str, precedence: u32, subjects: Value| {
            json!({
                "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
                "kind": "FlowSchema",
                "metadata": {"name": name},
                "spec": {"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": BUSY}, "rules": [{
                    "subjects": subjects,
                    "resourceRules": [
                        {"verbs": any, "apiGroups": any, "resources": any, "namespaces": any, "clusterScope": true},
                    ],
                    "nonResourceRules": [{"verbs": any, "nonResourceURLs": any}],
                }]},
            })
        };
        // What takes the seat has a schema of its own, so that its own refusals are not counted.
        let seat = flow(SEAT, 2, json!([{"kind": "User", "user": {"name": account}}]));
        let items = json!([level, seat, flow(BUSY, 3, json!(subjects))]);
        let manifests = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        for side in SIDES {
            side.kubectl_aside(&["apply", "--server-side", "-f", "-"], &manifests).await.unwrap();
        }
        Self { account }
    }

    /// A request that takes the one seat: what it asks for never comes to its end.
    fn seat(&self, side: Side) -> Child {
        Command::new(setting("PGM_KUBECTL"))
            .args(["--kubeconfig", &side.kubeconfig(), "--as", &self.account, "--as-group", "system:authenticated"])
            .args(["create", "--raw", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// The seats are taken until the API server of the object has refused something.
    async fn once(&self) {
        let before = refused(Side::New).await;
        let mut seats = SIDES.map(|side| (side, self.seat(side), Instant::now()));
        eventually("a refusal", || {
            for (side, seat, since) in &mut seats {
                // One that was refused itself waits for the end of its input, and tells nobody.
                if since.elapsed() > Duration::from_secs(3) {
                    leave(seat);
                    (*seat, *since) = (self.seat(*side), Instant::now());
                }
            }
            async move {
                let now = refused(Side::New).await;
                if now > before { Ok(()) } else { Err(now) }
            }
        })
        .await;
        seats.iter_mut().for_each(|(_, seat, _)| leave(seat));
    }
}

fn leave(seat: &mut Child) {
    seat.kill().unwrap();
    seat.wait().unwrap();
}

impl Drop for Busy {
    fn drop(&mut self) {
        for side in SIDES {
            for (kind, name) in [("flowschema", BUSY), ("flowschema", SEAT), ("prioritylevelconfiguration", BUSY)] {
                let _ = side.kubectl(&["delete", kind, name, "--ignore-not-found"], "");
            }
        }
    }
}

/// Requests that an API server has refused as [`Busy`] says, since it began.
async fn refused(side: Side) -> u64 {
    let metrics = eventually("metrics", || side.kubectl_aside(&["get", "--raw", "/metrics"], "")).await;
    let ours = format!("flow_schema=\"{BUSY}\"");
    let lines = metrics.lines().filter(|l| l.starts_with("apiserver_flowcontrol_rejected_requests_total{") && l.contains(&ours));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_servers_have_no_time_in_each_step() {
    operator().await;
    let scene = Scene::new(Layout::OldToNew, "busy", "onyx", include_str!("../support/source.sql")).await;
    let content = scene.source.content(&scene.database).await;
    let databases = scene.source.databases().await;
    let begun = [refused(Side::Old).await, refused(Side::New).await];
    let busy = Busy::new(&[SYSTEM, &scene.source.namespace, &scene.target.namespace]).await;
    let migration = scene.migrate("busy", |_| ()).await;
    let struck = in_each_step(&migration, async |_| busy.once().await).await;
    let status = migration.ended(Outcome::Succeeded).await;
    moved(&scene, &migration, &content, &databases).await;
    let refused = [refused(Side::Old).await - begun[0], refused(Side::New).await - begun[1]];
    println!("refused in {struck:?}: {refused:?} (old, new)");
    assert!(struck.len() >= 12, "it was struck in {struck:?} only");
    assert!(refused[0] > 0, "cluster old was never asked in vain");
    let again: Vec<_> = status.steps.iter().filter(|step| step.attempt > 1).map(|step| (step.name, step.attempt)).collect();
    assert_eq!(again, [], "a mover was started anew for a request that was refused");
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
