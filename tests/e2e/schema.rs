//! Schema jobs that do not do what they should: the copy's verdict stands, nothing is started, and what is told is what was so.

use pgmigration::api::{Outcome, Phase, PostgresMigrationStatus, StepName};
use serde_json::json;

use crate::support::application::{self, Login};
use crate::support::eventually;
use crate::support::migration::condition;
use crate::support::scene::{Layout, Scene, list};
use crate::support::snapshot::assert_same;

/// Waits for a sign, then changes the schema: for which it needs a lock.
const JOB: &str = r#"
until psql -X -Atc "SELECT to_regclass('app.sign')" | grep -q sign; do sleep 0.2; done
psql -X -v ON_ERROR_STOP=1 -c "ALTER TABLE app.version ADD COLUMN runs int DEFAULT 1" -c "UPDATE app.version SET version_num = '0002'"
"#;

/// A lock that somebody holds makes the job hang: ended at its deadline, held for a person, nothing scaled up; tried again when
/// the lock is gone, it runs once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_hang_on_a_lock_are_ended_and_run_once() {
    let scene = Scene::new(Layout::OldToNew, "schema", "onyx", include_str!("support/source.sql")).await;
    let target = &scene.target;
    let migration = scene
        .migrate("schema", |spec| {
            let job = &mut spec["target"]["application"]["schemaJobs"][0];
            job["command"] = json!(["sh", "-ec", JOB]);
            job["deadlineSeconds"] = json!(30);
        })
        .await;
    migration.begun(StepName::Repoint).await;
    let lock = "BEGIN; LOCK TABLE app.version IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600);";
    let holder = {
        let (target, database) = (target.clone(), scene.database.clone());
        tokio::spawn(async move { target.try_sql(&database, lock).await })
    };
    let held = "SELECT pid FROM pg_locks WHERE relation = 'app.version'::regclass AND mode = 'AccessExclusiveLock' AND granted";
    let pid = eventually("the lock to be held", || async {
        let pid = target.try_sql(&scene.database, held).await?;
        if pid.is_empty() { Err("nobody holds it".to_owned()) } else { Ok(pid) }
    })
    .await;
    target.sql(&scene.database, "CREATE TABLE app.sign ()").await;

    let status = migration.until("the hold", |s| (s.phase == Some(Phase::RequiresApproval)).then(|| s.clone())).await;
    let message = status.message.clone().unwrap();
    for word in ["SchemaJobFailed", "upgrade", "DeadlineExceeded"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!((condition(&status, "Verified"), condition(&status, "Published")), ("True", "True"));
    let replicas = ["-n", &target.namespace, "get", "deployments", "-o", "jsonpath={.items[*].spec.replicas}"];
    assert_eq!(target.side.kubectl_aside(&replicas, "").await.unwrap(), "0 0", "something was started");

    target.sql("postgres", &format!("SELECT pg_terminate_backend({pid})")).await;
    let _ = holder.await.unwrap();
    migration.change(json!({"retry": 1})).await;
    migration.ended(Outcome::Succeeded).await;
    assert_eq!(target.sql(&scene.database, "SELECT version_num, runs FROM app.version").await, "0002|1");
    scene.writes(target).await;
    scene.end().await;
}

/// An image that is nowhere is named while the job waits for it; nothing is scaled up, and a rollback leaves nothing of all this.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_image_is_missing_are_named_and_can_be_rolled_back() {
    let scene = Scene::new(Layout::OldToNew, "image", "onyx", include_str!("support/source.sql")).await;
    let target = &scene.target;
    let login =
        Login { host: target.name.clone(), database: scene.database.clone(), user: "nobody".into(), password: "none".into() };
    let mut tool = application::deployment("tool", &login, 0);
    tool["spec"]["template"]["spec"]["containers"][0]["image"] = json!("localhost/is-nowhere:1");
    target.side.apply(&list(&target.namespace, vec![tool]));
    let before = scene.snapshot().await;
    let migration = scene
        .migrate("image", |spec| {
            let job = &mut spec["target"]["application"]["schemaJobs"][0];
            (job["workloadRef"]["name"], job["container"]) = (json!("tool"), json!("tool"));
        })
        .await;
    let names_it = |s: &PostgresMigrationStatus| {
        let step = s.steps.iter().find(|e| e.name == StepName::SchemaJob)?;
        let message = step.message.as_deref().unwrap_or_default();
        (message.contains("ImagePull") && message.contains("localhost/is-nowhere:1")).then(|| s.clone())
    };
    let status = migration.until("the missing image to be named", names_it).await;
    assert_eq!((condition(&status, "Verified"), condition(&status, "Published")), ("True", "True"));
    let replicas = ["-n", &target.namespace, "get", "deployments", "-o", "jsonpath={.items[*].spec.replicas}"];
    assert_eq!(target.side.kubectl_aside(&replicas, "").await.unwrap(), "0 0 0", "something was started");

    migration.change(json!({"rollback": {}})).await;
    let status = migration.ended(Outcome::Cancelled).await;
    assert_eq!(condition(&status, "RolledBack"), "True");
    assert_same(&before, &scene.snapshot().await);
    for server in [&scene.source, target] {
        scene.writes(server).await;
    }
    scene.end().await;
}

/// Somebody deletes the Job, and its pod does not hear of it for a while: two schema jobs must never work on one database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_job_was_deleted_run_again_only_when_the_pod_has_ended() {
    let scene = Scene::new(Layout::OldToNew, "stray", "onyx", include_str!("support/source.sql")).await;
    let target = &scene.target;
    // The image asks for SIGINT (its STOPSIGNAL).
    let deaf = r#"trap '' TERM INT
        psql -X -v ON_ERROR_STOP=1 -c "INSERT INTO app.written (host) VALUES ('schema-job')"
        i=0; until [ $i = 60 ]; do i=$((i + 1)); sleep 1 || true; done"#;
    let migration = scene
        .migrate("stray", |spec| spec["target"]["application"]["schemaJobs"][0]["command"] = json!(["sh", "-ec", deaf]))
        .await;
    migration.begun(StepName::SchemaJob).await;
    eventually("the schema job at work", || async {
        let runs = target.try_sql("onyx", "SELECT count(*) FROM app.written WHERE host = 'schema-job'").await?;
        if runs == "1" { Ok(()) } else { Err(runs) }
    })
    .await;
    let job = migration.status().await.schema_jobs[0].job.clone();
    let kubectl = async |words: &[&str]| {
        let words = [&["-n", target.namespace.as_str()], words].concat();
        target.side.kubectl_aside(&words, "").await.unwrap()
    };
    let label = format!("batch.kubernetes.io/job-name={job}");
    let pod = kubectl(&["get", "pods", "-l", &label, "-o", "name"]).await;
    kubectl(&["delete", "job", &job, "--cascade=background"]).await;
    migration.until("the hold", |s| (s.phase == Some(Phase::RequiresApproval)).then_some(())).await;
    migration.change(json!({"retry": 1})).await;
    let pod = pod.trim().trim_start_matches("pod/");
    let told = |s: &PostgresMigrationStatus| {
        let step = s.steps.iter().find(|e| e.name == StepName::SchemaJob)?;
        let words = step.message.as_deref().unwrap_or_default();
        assert!(s.schema_jobs.iter().all(|j| j.job == job || !j.created), "a second one was made: {words}");
        (words.contains(pod) && words.contains("has not ended although its Job")).then_some(())
    };
    migration.until("the pod to be named", told).await;
    migration.until("the next job", |s| s.schema_jobs.iter().any(|j| j.job != job && j.created).then_some(())).await;
    let at_work = "--field-selector=status.phase!=Failed,status.phase!=Succeeded";
    assert_eq!(kubectl(&["get", "pods", "-l", &label, at_work, "-o", "name"]).await, "", "two schema jobs at once");

    migration.change(json!({"rollback": {}})).await;
    migration.ended(Outcome::Cancelled).await;
    scene.writes(&scene.source).await;
    scene.end().await;
}
