//! Migrations that are broken off, and parts that fail under them: either they go on to the end, or everything is as it was.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use pgmigration::api::{Outcome, Phase, PostgresMigration, PostgresMigrationStatus, StepName, StepState, UndoCause};
use pgmigration::plan::failure::Class;
use pgmigration::plan::record::Advance;
use pgmigration::steps::{self, Context, Installation};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::migration::{Migration, condition, state};
use crate::support::scene::{Layout, OWNER, Scene};
use crate::support::server::Server;
use crate::support::snapshot::assert_same;
use crate::support::{OPERATOR, SYSTEM, Side, available, eventually, interrupting};

const SOURCE: &str = include_str!("support/source.sql");

/// The same with 250 MB that no compression makes smaller: long enough under way to be struck there. Before them comes a row whose
/// check takes as long as [`brake`] says.
pub fn large() -> String {
    let ballast = "CREATE FUNCTION app.takes_long(n int4) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS
          $$ BEGIN PERFORM pg_catalog.pg_sleep(pg_catalog.current_setting('app.brake', true)::float8); RETURN true; END $$;
        CREATE TABLE app.a_brake (n int4 CHECK (app.takes_long(n)));
        INSERT INTO app.a_brake VALUES (1);
        CREATE TABLE app.ballast (id int4 PRIMARY KEY, payload bytea NOT NULL);
        INSERT INTO app.ballast SELECT i, gen_random_bytes(1000) FROM generate_series(1, 225000) AS i;";
    format!("{SOURCE}\n{ballast}")
}

/// Seconds within which a restore is struck for certain.
pub const LONG: u32 = 120;

/// Makes restores of [`large`] that begin from now on stand still among their rows for so many seconds: a fast one would be over
/// before it is struck.
pub async fn brake(scene: &Scene, seconds: u32) {
    scene.target.sql("postgres", &format!("ALTER ROLE {OWNER} SET app.brake = '{seconds}'")).await;
}

/// Waits until some bytes of `step` have arrived, but not all.
pub async fn midway(migration: &Migration, step: StepName) -> PostgresMigrationStatus {
    let status = migration
        .until(&format!("{step:?} under way"), |s| {
            assert_ne!(state(s, step), Some(StepState::Done), "{step:?} was over before it could be struck");
            let transfer = s.transfer.as_ref().filter(|_| state(s, step) == Some(StepState::Running))?;
            let total = transfer.bytes_total?;
            (0 < transfer.bytes_done && transfer.bytes_done < total).then(|| s.clone())
        })
        .await;
    let transfer = status.transfer.as_ref().unwrap();
    assert!(transfer.bytes_total.unwrap() > 200_000_000, "{transfer:?}");
    status
}

/// Attempts that a step took.
pub fn attempts(status: &PostgresMigrationStatus, step: StepName) -> i64 {
    status.steps.iter().find(|s| s.name == step).unwrap().attempt
}

/// Deletes the pod of the mover at work. With no seconds of `grace` it is killed without a word.
async fn strike_mover(migration: &Migration, job: &str, grace: u32) {
    let pods = Api::<Pod>::namespaced(Side::New.client().await, &migration.namespace);
    let found = pods.list(&ListParams::default().labels(&format!("job-name={job}"))).await.unwrap().items;
    let [pod] = found.as_slice() else { panic!("{} pods of Job {job}", found.len()) };
    let how = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
    pods.delete(pod.metadata.name.as_ref().unwrap(), &how).await.unwrap();
}

/// Deletes the operator's pod, then waits until another is available.
async fn strike_operator(grace: u32) {
    let _alone = interrupting().await;
    replace_operator(grace, async {}).await;
}

/// As [`strike_operator`], and does `meanwhile` before there is another. The caller holds the right to it.
async fn replace_operator(grace: u32, meanwhile: impl Future<Output = ()>) {
    let client = Side::New.client().await;
    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    let labels = ListParams::default().labels(&format!("app.kubernetes.io/name={OPERATOR}"));
    let struck: Vec<String> = pods.list(&labels).await.unwrap().items.into_iter().filter_map(|pod| pod.metadata.name).collect();
    let how = DeleteParams { grace_period_seconds: Some(grace), ..DeleteParams::default() };
    for pod in &struck {
        pods.delete(pod, &how).await.unwrap();
    }
    meanwhile.await;
    eventually("the operator's pod to be replaced", || async {
        let left = pods.list(&labels).await.map_err(|error| error.to_string())?.items;
        if left.iter().any(|pod| struck.contains(pod.metadata.name.as_ref().unwrap())) {
            Err("still there".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    available(&client, SYSTEM, OPERATOR).await;
}

/// After the end of a migration that was called off: everything is as before, and both applications work.
pub async fn as_before(scene: &Scene, before: &str) {
    assert_same(before, &scene.snapshot().await);
    scene.writes(&scene.source).await;
    scene.writes(&scene.target).await;
}

/// As [`as_before`]; the object is not held back by a finalizer either.
pub async fn called_off(scene: &Scene, migration: &Migration, before: &str) {
    let status = migration.ended(Outcome::Cancelled).await;
    assert_eq!((condition(&status, "RolledBack"), condition(&status, "Succeeded")), ("True", "False"));
    eventually("the object to be released", || async {
        let finalizers = migration.api.get(&migration.name).await.map_err(|error| error.to_string())?.metadata.finalizers;
        if finalizers.clone().unwrap_or_default().is_empty() { Ok(()) } else { Err(format!("{finalizers:?}")) }
    })
    .await;
    as_before(scene, before).await;
}

/// Everything that was in the source is on the target.
async fn arrived(scene: &Scene, migration: &Migration, content: &str) -> PostgresMigrationStatus {
    let status = migration.ended(Outcome::Succeeded).await;
    scene.source.assert_unharmed().await;
    scene.target.assert_unharmed().await;
    assert_same(content, &scene.target.content("onyx").await);
    scene.writes(&scene.target).await;
    assert!(scene.source.try_sql("onyx", "SELECT 1").await.is_err(), "the source is open");
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_in_mid_dump_then_operator_and_mover_struck() {
    let scene = Scene::new(Layout::OldToNew, "struck", "onyx", &large()).await;
    let content = scene.source.content("onyx").await;

    let before = scene.snapshot().await;
    let deleted = scene.migrate("deleted", |_| ()).await;
    midway(&deleted, StepName::Dump).await;
    deleted.delete().await;
    as_before(&scene, &before).await;

    let migration = scene.migrate("struck", |_| ()).await;
    let struck = midway(&migration, StepName::Dump).await;
    strike_operator(30).await;
    brake(&scene, LONG).await;
    let struck_again = midway(&migration, StepName::Restore).await;
    brake(&scene, 0).await;
    strike_mover(&migration, &struck_again.transfer.unwrap().job, 30).await;
    let status = arrived(&scene, &migration, &content).await;
    // The mover did not need the operator: its successor went on with the same one.
    assert_eq!(attempts(&status, StepName::Dump), attempts(&struck, StepName::Dump));
    assert_eq!(attempts(&status, StepName::Restore), 2);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mover_killed_in_mid_dump_operator_in_mid_restore() {
    let scene = Scene::new(Layout::OldToNew, "killed", "onyx", &large()).await;
    let content = scene.source.content("onyx").await;
    let migration = scene.migrate("killed", |_| ()).await;
    let struck = midway(&migration, StepName::Dump).await;
    strike_mover(&migration, &struck.transfer.unwrap().job, 0).await;
    migration.until("a second attempt", |s| (attempts(s, StepName::Dump) == 2).then_some(())).await;
    brake(&scene, 15).await;
    midway(&migration, StepName::Restore).await;
    strike_operator(0).await;
    let status = arrived(&scene, &migration, &content).await;
    assert_eq!(attempts(&status, StepName::Dump), 2);
    assert_eq!(attempts(&status, StepName::Restore), 1);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn called_off_wherever_it_stands() {
    let scene = Scene::new(Layout::OldToNew, "cancel", "onyx", SOURCE).await;
    let before = scene.snapshot().await;

    let migration = one_of_two(&scene).await;
    migration.until("the fence", |s| s.fence.as_ref().filter(|f| f.closed).map(|_| ())).await;
    migration.change(json!({"cancel": true})).await;
    called_off(&scene, &migration, &before).await;

    let migration = scene.migrate("after-restore", |_| ()).await;
    let stopped = migration.stop_after(StepName::Restore).await;
    assert!(scene.target.databases().await.contains(&stopped.staging.unwrap().database), "there is no copy");
    assert!(scene.source.try_sql("onyx", "SELECT 1").await.is_err(), "there is no fence");
    let seen = migration.api.get(&migration.name).await.unwrap();
    let uid = seen.metadata.uid.as_ref().unwrap();
    let earlier = [
        held_by_another(&scene.source, &format!("pgm/{uid}/admin-source")).await,
        held_by_another(&scene.target, &format!("pgm/{uid}/admin-target")).await,
    ];
    migration.change(json!({"cancel": true})).await;
    called_off(&scene, &migration, &before).await;
    for ended in earlier {
        let said = ended.await.unwrap().unwrap_err();
        assert!(said.contains("terminating connection due to administrator command"), "{said}");
    }
    slept(&seen).await;
    as_before(&scene, &before).await;

    // In the midst of the swap: somebody else's lock holds the renaming up, and its operator dies.
    let migration = scene.migrate("during-publish", |_| ()).await;
    migration.stop_after(StepName::Analyze).await;
    called_back_in_the_swap(&scene, &migration, json!({"cancel": true}), UndoCause::Cancel).await;
    called_off(&scene, &migration, &before).await;
    scene.end().await;
}

/// A session as an operator leaves it that hangs, or that nobody hears of any more. Returns when it has the migration's lock.
async fn held_by_another(server: &Server, name: &str) -> JoinHandle<Result<String, String>> {
    let hold =
        format!("SET application_name = '{name}'; SELECT pg_advisory_lock(hashtextextended('{name}', 0)); SELECT pg_sleep(600)");
    let held = tokio::spawn({
        let server = server.clone();
        async move { server.try_sql("postgres", &hold).await }
    });
    eventually("the lock of the migration", || async {
        let locks = server.sql("postgres", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted").await;
        if locks == "1" { Ok(()) } else { Err(locks) }
    })
    .await;
    held
}

/// An operator that saw the object behind its restore, slept until all was undone, and goes on where it was.
async fn slept(seen: &PostgresMigration) {
    let config = Side::New.config().await;
    let client = Side::New.client().await;
    let installation = Installation { client, config, image: "none".into(), namespace: SYSTEM.into() };
    let refused = async |undo: bool, step: StepName, change: fn(&mut PostgresMigrationStatus)| {
        let mut status = seen.status.clone().unwrap();
        change(&mut status);
        let mut cx = Context::new(&installation, seen, &mut status, Timestamp::now());
        let failure = loop {
            match if undo { steps::undo(step, &mut cx).await } else { steps::run(step, &mut cx).await } {
                // It only wrote down what it is about to do.
                Ok(Advance::Again) => {}
                Ok(advance) => panic!("{step:?} was not due any more: {advance:?}"),
                Err(failure) => break failure,
            }
        };
        assert!(failure.message.contains("another one has taken over"), "{step:?}: {}", failure.message);
        assert_eq!(failure.class, Class::Transient);
    };
    refused(false, StepName::Fence, |_| {}).await;
    refused(false, StepName::Fence, |s| s.fence = None).await;
    refused(false, StepName::Restore, |s| s.staging.as_mut().unwrap().oid = None).await;
    refused(true, StepName::Restore, |_| {}).await;
    refused(false, StepName::Compare, |s| s.transfer = None).await;
    refused(false, StepName::SchemaJob, |_| {}).await;
    refused(false, StepName::Quiesce, |s| s.quiesced[0].requested = false).await;
    refused(false, StepName::Resume, |s| s.resumed = true).await;
    refused(true, StepName::Dump, |_| {}).await;
    refused(true, StepName::Fence, |_| {}).await;
    refused(true, StepName::Quiesce, |_| {}).await;
}

/// Goes on from before the swap, which somebody else's lock holds up; in its midst the operator is killed while `spec` asks to go back.
/// Returns when the lock is gone and the undo, for this cause, is under way.
pub async fn called_back_in_the_swap(scene: &Scene, migration: &Migration, spec: Value, cause: UndoCause) {
    let target = scene.target.clone();
    let holder = tokio::spawn(async move { target.try_sql("postgres", HOLD).await });
    eventually("the lock on the database", || async {
        let held = scene.target.sql("postgres", HELD).await;
        if held == "t" { Ok(()) } else { Err(held) }
    })
    .await;
    let alone = interrupting().await;
    migration.change(json!({"suspend": false})).await;
    migration.until("the swap under way", |s| s.publication.as_ref().map(|p| assert!(!p.published))).await;
    eventually("the old database of the target to be closed for the swap", || async {
        let open = scene.target.sql("postgres", "SELECT datallowconn FROM pg_database WHERE datname = 'onyx'").await;
        if open == "f" { Ok(()) } else { Err(open) }
    })
    .await;
    replace_operator(0, migration.change(spec)).await;
    drop(alone);
    let found = migration.until("the undo", |s| s.undo.as_ref().map(|undo| undo.cause)).await;
    assert_eq!(found, cause);
    let released = scene.target.sql("postgres", RELEASE).await;
    assert_eq!(released, "t", "the lock was held to the end");
    holder.await.unwrap().unwrap_err();
}

/// Two objects that move one database, applied at once: one is refused with the other's name, the other goes on.
async fn one_of_two(scene: &Scene) -> Migration {
    let (one, two) = tokio::join!(scene.migrate("behind-the-fence", |_| ()), scene.migrate("rival", |_| ()));
    let (going, refused) = eventually("one of two objects to be refused", || async {
        let (first, second) = (one.status().await, two.status().await);
        match (first.outcome, second.outcome) {
            (None, Some(_)) => Ok((one.clone(), two.clone())),
            (Some(_), None) => Ok((two.clone(), one.clone())),
            (Some(_), Some(_)) => panic!("both ended: {:?}, {:?}", first.message, second.message),
            (None, None) => Err((first.message, second.message)),
        }
    })
    .await;
    let status = refused.ended(Outcome::Failed).await;
    assert!(status.start_time.is_none() && status.quiesced.is_empty(), "it had begun");
    let [blocker] = status.blockers.as_slice() else { panic!("{:#?}", status.blockers) };
    assert_eq!((blocker.reason.as_str(), blocker.path.as_str()), ("ClaimedByAnother", "spec.databases[0].name"));
    let named = format!("PostgresMigration {}/{}", going.namespace, going.name);
    assert!(blocker.message.contains(&named), "{}", blocker.message);
    refused.delete().await;
    going
}

/// Holds a lock on the target's database (as `COMMENT` does until its transaction ends) that keeps it from being renamed, until
/// [`RELEASE`].
const HOLD: &str = "SET application_name = 'holder'; BEGIN; COMMENT ON DATABASE onyx IS 'held'; SELECT pg_sleep(600);";
const HELD: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'holder' AND wait_event = 'PgSleep'";
const RELEASE: &str = "SELECT bool_and(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'holder'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_schema_job_holds_until_it_is_tried_again() {
    let scene = Scene::new(Layout::OldToNew, "schema", "onyx", SOURCE).await;
    let content = scene.source.content("onyx").await;
    let script = r#"
        test "$REVISION" = ready || { echo "the new revision needs REVISION to be ready"; exit 3; }
        psql -X -v ON_ERROR_STOP=1 -c "UPDATE app.version SET version_num = '0002'"
    "#;
    let migration = scene
        .migrate("schema", |spec| spec["target"]["application"]["schemaJobs"][0]["command"] = json!(["sh", "-ec", script]))
        .await;
    let held = migration.until("the hold", |s| (s.phase == Some(Phase::RequiresApproval)).then(|| s.clone())).await;
    assert_eq!(held.hold.as_ref().unwrap().step, StepName::SchemaJob);
    let message = held.message.as_ref().unwrap();
    for words in ["the new revision needs REVISION to be ready", "exit code 3", "spec.retry"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!((condition(&held, "Stalled"), condition(&held, "Succeeded")), ("True", "Unknown"));

    // It waits, and nothing has been started.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(migration.status().await.phase, Some(Phase::RequiresApproval));
    let counts = ["-n", &scene.home, "get", "deployment/api", "deployment/worker", "-o", "jsonpath={.items[*].spec.replicas}"];
    assert_eq!(Side::New.kubectl_aside(&counts, "").await.unwrap(), "0 0");
    assert_eq!(scene.target.sql("onyx", "SELECT version_num FROM app.version").await, "0001");

    let ready = json!({"data": {"REVISION": "ready"}}).to_string();
    Side::New
        .kubectl_aside(&["-n", &scene.home, "patch", "configmap", "app-config", "--type=merge", "-p", &ready], "")
        .await
        .unwrap();
    migration.change(json!({"retry": 1})).await;
    let status = arrived(&scene, &migration, &content).await;
    assert_eq!(attempts(&status, StepName::SchemaJob), 2);
    assert_eq!(scene.target.sql("onyx", "SELECT version_num FROM app.version").await, "0002");
    scene.end().await;
}
