//! What a migration lives on is deleted behind its fence: its Secrets, its account, its whole namespace. Nothing is opened or dropped
//! by guess: the object says what is missing and what still stands, and goes on when it is back, or leaves the rest to a person.

use pgmigration::api::{Outcome, PostgresMigrationStatus, StepName};
use pgmigration::plan::itinerary::ITINERARY;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::interruptions::as_before;
use crate::runbook::{COPY, FENCE, NAME, TOMBSTONE, by_hand, digits};
use crate::support::ledger::Ledger;
use crate::support::migration::{Migration, condition};
use crate::support::scene::{ACCOUNT, Layout, Scene};
use crate::support::snapshot::assert_same;
use crate::support::{Side, eventually};

const SOURCE: &str = include_str!("../support/source.sql");

/// Waits until the undo has failed often enough to call for a person; returns what it says.
async fn stuck(migration: &Migration) -> String {
    let stalled =
        |s: &PostgresMigrationStatus| (condition(s, "Stalled") == "True").then(|| s.message.clone().unwrap_or_default());
    let message = migration.until("the undo to be stuck", stalled).await;
    println!("{message}");
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_secret_or_its_account_it_waits_and_goes_on() {
    let scene = Scene::new(Layout::OldToNew, "deleted", "onyx", SOURCE).await;
    let before = scene.snapshot().await;
    for (kind, name, cancel) in [("secret", "bucket", false), ("secret", "old-cluster", true), ("serviceaccount", ACCOUNT, true)]
    {
        let migration = scene.migrate(&format!("without-{name}"), |_| ()).await;
        migration.stop_after(StepName::Restore).await;
        Side::New.kubectl_aside(&["-n", &scene.home, "delete", kind, name], "").await.unwrap();
        // The way forward waits for a server that it cannot reach, as for one whose pod is replaced; the way back shows at once.
        migration.change(json!({"suspend": false, "cancel": cancel})).await;
        let message = stuck(&migration).await;
        for words in [name, "It is tried again until it works", "Not put back yet: ", "fence of the source database", "/api"] {
            assert!(message.contains(words), "{name}: no {words:?} in {message}");
        }
        assert!(scene.source.try_sql("onyx", "SELECT 1").await.is_err(), "{name}: the source was opened without the application");
        scene.grant();
        migration.ended(if cancel { Outcome::Cancelled } else { Outcome::Failed }).await;
        as_before(&scene, &before).await;
        migration.delete().await;
    }
    scene.end().await;
}

/// What became of an object whose namespace was deleted.
enum End {
    /// It was released: nothing was left to undo, or the application had been allowed to write.
    Released {
        /// The latter.
        resumed: bool,
    },
    /// It keeps its namespace and says this.
    Stuck(String),
}

/// Waits until the object is gone, or says that it cannot go on.
async fn end(migration: &Migration) -> End {
    let mut resumed = false;
    migration
        .follow("its release, or what it cannot put back", |object| {
            let Some(object) = object else { return Some(End::Released { resumed }) };
            let status = object.status.clone().unwrap_or_default();
            resumed = status.resumed;
            let stuck = condition(&status, "Stalled") == "True" && status.undo.is_some() && status.outcome.is_none();
            (stuck && object.metadata.deletion_timestamp.is_some()).then(|| End::Stuck(status.message.unwrap_or_default()))
        })
        .await
}

/// The object's own namespace goes in the midst of each step. Either nothing was left to undo, or the object names everything that is,
/// and whoever does what the runbook says has all as it was, and every acknowledged row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_namespace_in_each_step_it_names_what_is_left_to_do_by_hand() {
    let steps = ITINERARY.map(|leg| tokio::spawn(without_its_namespace(leg.step)));
    for (step, done) in ITINERARY.iter().zip(steps) {
        done.await.unwrap_or_else(|error| panic!("{:?}: {error}", step.step));
    }
}

async fn without_its_namespace(step: StepName) {
    // As many at a time as the clusters carry.
    static LANES: Semaphore = Semaphore::const_new(3);
    let _lane = LANES.acquire().await.unwrap();
    // Both servers in the other cluster: of this one everything is gone.
    let scene = Scene::new(Layout::Remote, "gone", "onyx", SOURCE).await;
    let (source, target) = (&scene.source, &scene.target);
    let ledgers = [Ledger::begin(source, &scene.database).await, Ledger::begin(target, &scene.database).await];
    let (before, content) = (scene.ends().await, source.content(&scene.database).await);
    let migration = scene.migrate("gone", |_| ()).await;
    migration.begun(step).await;
    let uid = migration.api.get(&migration.name).await.unwrap().metadata.uid.unwrap();
    Side::New.kubectl_aside(&["delete", "namespace", &scene.home, "--wait=false"], "").await.unwrap();
    let end = end(&migration).await;

    let derived = |letter: &str| format!("onyx_{}{letter}", digits(&uid));
    let [fenced, tombstone, copied, aside, kept] = ["f", "t", "s", "a", "k1"].map(derived);
    let (at_source, at_target) = (source.databases().await, target.databases().await);
    let closed = at_source.contains(&fenced);
    let [published, copy, taken_back] = [&aside, &copied, &kept].map(|name| at_target.contains(name));
    match end {
        End::Released { resumed: true } => {
            assert!(closed && published, "{step:?}: {at_source:?} {at_target:?}");
            // What was not started stands in the operator's log: nothing can be written in a namespace that goes.
            scene.start_by_hand(target).await;
            scene.writes(target).await;
            ledgers[0].assert_kept(target, &["onyx"]).await;
            ledgers[1].assert_kept(target, &["onyx", &aside]).await;
            println!("{step:?}: released, the application works on the new database");
        }
        End::Released { resumed: false } => {
            ledgers[0].assert_kept(source, &["onyx"]).await;
            if taken_back {
                // Rows came before it was taken back, and no mover could save them: it is kept.
                ledgers[1].assert_kept(target, &["onyx", &kept]).await;
                target.sql("postgres", &by_hand(COPY, "onyx", &uid)).await;
                ledgers[1].settle(target, "onyx").await;
            }
            ledgers[1].assert_kept(target, &["onyx"]).await;
            assert_same(&before, &scene.ends().await);
            println!("{step:?}: released, all is as it was");
        }
        End::Stuck(message) => {
            println!("{step:?}: {message}");
            let in_target = async |words: &str| {
                let words: Vec<&str> = ["-n", &target.namespace].into_iter().chain(words.split_whitespace()).collect();
                target.side.kubectl_aside(&words, "").await.unwrap()
            };
            let of_ours = format!("-l pgmigration.dev/migration-uid={uid}");
            let has = async |kind: &str| !in_target(&format!("get {kind} {of_ours} -o name")).await.is_empty();
            let archive = scene.uploads().await.contains(".dump");
            let on_the_target = |name: &str| format!("copy {name:?} on the target");
            for (there, words) in [
                (has("jobs").await, "schema jobs".to_owned()),
                (published, "the database's name on the target".to_owned()),
                (has("secrets").await, "settings of the application (previous values: Secret ".to_owned()),
                (copy, on_the_target(&copied)),
                (taken_back, on_the_target(&kept)),
                (archive, "dump ".to_owned()),
                (closed, "fence of the source database".to_owned()),
                (true, "/api".to_owned()),
            ] {
                // What is only intended is named too: nobody can tell whether it was done.
                assert!(message.contains(&words) || !there, "{step:?}: no {words:?} in {message}");
            }
            in_target(by_hand("**Schema jobs.**", "onyx", &uid).trim().trim_start_matches("kubectl ")).await;
            target.sql("postgres", &by_hand(NAME, "onyx", &uid)).await;
            let all = target.databases().await;
            let written: Vec<&str> = ["onyx", &kept].into_iter().filter(|name| all.iter().any(|one| one == name)).collect();
            ledgers[1].assert_kept(target, &written).await;
            target.sql("postgres", &by_hand(COPY, "onyx", &uid)).await;
            ledgers[1].settle(target, "onyx").await;
            source.sql("postgres", &by_hand(FENCE, "onyx", &uid)).await;
            if source.databases().await.contains(&tombstone) {
                source.sql("postgres", &by_hand(TOMBSTONE, "onyx", &uid)).await;
            }
            // Settings and workloads: their manifests are at hand here.
            for server in [source, target] {
                scene.start_by_hand(server).await;
            }
            in_target(&format!("delete secrets {of_ours}")).await;
            for server in [source, target] {
                scene.writes(server).await;
            }
            ledgers[0].assert_kept(source, &["onyx"]).await;
            ledgers[1].assert_kept(target, &["onyx"]).await;
            assert_same(&before, &scene.ends().await);
            let release =
                ["-n", &scene.home, "patch", "pgmig", "gone", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
            Side::New.kubectl_aside(&release, "").await.unwrap();
        }
    }
    if !closed {
        assert_same(&content, &source.content("onyx").await);
    }
    assert!(scene.uploads().await.ends_with("] []\n"), "{step:?}: an upload was left: {}", scene.uploads().await);
    eventually("the namespace to be gone", || async {
        match Side::New.kubectl_aside(&["get", "namespace", &scene.home], "").await {
            Err(error) if error.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for server in [source, target] {
        server.side.kubectl_aside(&["delete", "namespace", &server.namespace, "--wait=false"], "").await.unwrap();
    }
}
