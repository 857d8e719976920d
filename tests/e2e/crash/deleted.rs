//! What a migration lives on is deleted behind its fence: its Secrets, its account, its whole namespace. Nothing is opened or dropped
//! by guess: the object says what is missing and what still stands, and goes on when it is back, or leaves the rest to a person.

use pgmigration::api::{Outcome, PostgresMigrationStatus, StepName};
use serde_json::json;

use crate::interruptions::as_before;
use crate::support::ledger::Ledger;
use crate::support::migration::{Migration, condition};
use crate::support::scene::{ACCOUNT, Layout, Scene};
use crate::support::{Side, eventually};

const SOURCE: &str = include_str!("../support/source.sql");

/// What docs/runbook.md tells a person to do where the fence of `database` is to be opened by hand.
fn by_hand(database: &str, uid: &str) -> String {
    let text = include_str!("../../../docs/runbook.md");
    let script = text.split_once("## By hand").and_then(|(_, rest)| rest.split_once("```sql")).unwrap().1;
    let script = script.split_once("```").unwrap().0;
    assert!(script.contains("shop_f47ac10b58ccf"), "{script}");
    script.replace("f47ac10b58cc", &uid[..12]).replace("shop", database)
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_namespace_it_names_what_is_left_to_do_by_hand() {
    let scene = Scene::new(Layout::OldToNew, "gone", "onyx", SOURCE).await;
    let ledger = Ledger::begin(&scene.source, &scene.database).await;
    let migration = scene.migrate("gone", |_| ()).await;
    migration.stop_after(StepName::Restore).await;
    let uid = migration.api.get(&migration.name).await.unwrap().metadata.uid.unwrap().replace('-', "");
    Side::New.kubectl_aside(&["delete", "namespace", &scene.home, "--wait=false"], "").await.unwrap();
    let message = stuck(&migration).await;
    for words in ["Not put back yet: ", "dump ", "fence of the source database", "/api", "/worker"] {
        assert!(message.contains(words), "no {words:?} in {message}");
    }
    scene.source.sql("postgres", &by_hand("onyx", &uid)).await;
    scene.deploy(&scene.source, 1);
    scene.writes(&scene.source).await;
    ledger.assert_kept(&scene.source, &[&scene.database]).await;
    let release = ["-n", &scene.home, "patch", "pgmig", "gone", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    Side::New.kubectl_aside(&release, "").await.unwrap();
    eventually("the namespace to be gone", || async {
        match Side::New.kubectl_aside(&["get", "namespace", &scene.home], "").await {
            Err(error) if error.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    Side::Old.kubectl_aside(&["delete", "namespace", &scene.source.namespace, "--wait=false"], "").await.unwrap();
}
