//! A fence that somebody breaks while the copy is made: each piece of it by itself. Seen before anything is published, named,
//! undone; the name that applications use never leads anywhere else.

use pgmigration::api::{Outcome, StepName};
use serde_json::json;

use super::{SOURCE, crowd};
use crate::support::ledger::Ledger;
use crate::support::migration::condition;
use crate::support::scene::{Layout, Scene};
use crate::support::server::ADMIN;

/// Plays a migration whose fence is broken by `script` (in database `inside` of the source) when the copy has been compared,
/// and judges that it was seen, in these words, and that nothing was published. `after` is run once everything is undone.
async fn broken(scene: &Scene, name: &str, layered: bool, inside: &str, script: &str, words: &str, after: &str) {
    let published = oid(scene).await;
    let migration = scene
        .migrate(name, |spec| {
            if layered {
                spec["source"]["fence"] = json!("Layered");
            }
        })
        .await;
    migration.stop_after(StepName::Compare).await;
    let fenced = crowd::fenced_name(&scene.source, &scene.database).await;
    let inside = if inside == "fenced" && !layered { &fenced } else { inside };
    scene.source.sql(inside, script).await;
    migration.change(json!({"suspend": false})).await;
    let status = migration.until("the undo", |s| s.undo.as_ref().map(|_| s.clone())).await;
    let undo = status.undo.unwrap();
    assert!(undo.message.contains(words), "{name}: {undo:?}");
    assert!(undo.step <= StepName::Publish, "{name}: {undo:?}");
    if !after.is_empty() {
        scene.source.sql("postgres", after).await;
    }
    let status = migration.ended(Outcome::Failed).await;
    assert_eq!(condition(&status, "RolledBack"), "True", "{name}");
    assert_ne!(condition(&status, "Published"), "True", "{name}");
    assert_eq!(oid(scene).await, published, "{name}: the target's name leads to another database");
    scene.writes(&scene.source).await;
    scene.writes(&scene.target).await;
    migration.delete().await;
}

async fn oid(scene: &Scene) -> String {
    let sql = format!("SELECT oid FROM pg_database WHERE datname = '{}'", scene.database);
    scene.target.sql("postgres", &sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_piece_of_the_swap_fence() {
    let scene = Scene::new(Layout::OldToNew, "broken", "onyx", SOURCE).await;
    crowd::prepare(&scene).await;
    let psql = format!("/usr/lib/postgresql/{}/bin/psql", scene.source.major);
    let writer = Ledger::begin(&scene.source, &scene.database).await;
    let fed = Ledger::of(&scene.source, crowd::FEEDS, &["feeds", &scene.database, &psql, ADMIN]);
    for (name, inside, script, words) in [
        ("reopened", "postgres", "ALTER DATABASE onyx ALLOW_CONNECTIONS true", "the tombstone accepts connections"),
        ("dropped", "postgres", "ALTER DATABASE onyx IS_TEMPLATE false; DROP DATABASE onyx", "the tombstone was dropped"),
        ("woken", "fenced", "ALTER SUBSCRIPTION fed ENABLE", "is not at rest"),
        ("found", "fenced", "INSERT INTO app.written (host) VALUES ('behind the fence')", "the source changed under the fence"),
    ] {
        let script = script.replace("onyx", &scene.database);
        // Lest the superuser who writes on fills the opened tombstone: it would have to be kept. The table is not in it.
        broken(&scene, name, false, inside, &script, words, "").await;
        writer.goes_on().await;
        writer.assert_kept(&scene.source, &[&scene.database]).await;
    }
    drop((writer, fed));
    scene.end().await;
}

/// The layered fence does not bind superusers, and is refused where one is connected: the application of the source logs in as the
/// database's owner from now on.
async fn as_ordinary_owner(scene: &Scene) {
    let password = &scene.canaries[0];
    let role = format!("CREATE ROLE app_owner LOGIN PASSWORD '{password}'; ALTER DATABASE onyx OWNER TO app_owner");
    scene.source.sql("postgres", &role).await;
    let grants = "GRANT USAGE ON SCHEMA app TO app_owner; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA app TO app_owner;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA app TO app_owner";
    scene.source.sql("onyx", grants).await;
    let (side, namespace) = (scene.source.side, scene.source.namespace.as_str());
    let login = json!({"stringData": {"PGUSER": "app_owner"}}).to_string();
    side.kubectl_aside(&["-n", namespace, "patch", "secret", "app-secret", "--type=merge", "-p", &login], "").await.unwrap();
    side.kubectl_aside(&["-n", namespace, "rollout", "restart", "deployment/api", "deployment/worker"], "").await.unwrap();
    for deployment in ["deployment/api", "deployment/worker"] {
        let wait = ["-n", namespace, "rollout", "status", deployment, "--timeout=180s"];
        side.kubectl_aside(&wait, "").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_piece_of_the_layered_fence() {
    let scene = Scene::new(Layout::OldToNew, "layers", "onyx", SOURCE).await;
    as_ordinary_owner(&scene).await;
    for (name, script, words) in [
        ("role", "ALTER ROLE app_owner LOGIN", "role \"app_owner\" may log in"),
        ("limit", "ALTER DATABASE onyx CONNECTION LIMIT -1", "connection limit is not 0"),
        ("grant", "GRANT CONNECT ON DATABASE onyx TO PUBLIC", "everybody may connect"),
    ] {
        broken(&scene, name, true, "postgres", script, words, "").await;
    }
    scene.end().await;
}
