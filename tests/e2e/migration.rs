//! Whole migrations between real servers: what must be true of both sides, of the bucket and of the object afterwards.

use std::collections::BTreeMap;

use pgmigration::api::{Outcome, PostgresMigrationStatus, StepName, StepState};
use serde_json::{Value, json};

use crate::support::Side;
use crate::support::migration::{Migration, condition};
use crate::support::scene::{BUCKET, Layout, OWNER, Scene, bucket};
use crate::support::server::Server;
use crate::support::snapshot::{assert_same, objects, readable};

const SOURCE: &str = include_str!("support/source.sql");

async fn get(side: Side, namespace: &str, what: &[&str]) -> Value {
    let mut arguments = vec!["-n", namespace, "get", "-o", "json"];
    arguments.extend(what);
    serde_json::from_str(&side.kubectl_aside(&arguments, "").await.unwrap()).unwrap()
}

fn base64(value: &Value) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Waits as a person would.
async fn wait(migration: &Migration, condition: &str) {
    let what = format!("pgmig/{}", migration.name);
    let condition = format!("--for=condition={condition}");
    let waited = Side::New.kubectl_aside(&["-n", &migration.namespace, "wait", &condition, "--timeout=300s", &what], "").await;
    if let Err(error) = waited {
        panic!("{error}{:#?}", migration.status().await);
    }
}

/// Names of databases that a server had not before.
async fn new_databases(server: &Server, before: &[String]) -> Vec<String> {
    server.databases().await.into_iter().filter(|name| !before.contains(name)).collect()
}

/// What holds after every migration, wherever both ends are. `content`, `databases`: of the source before.
pub async fn moved(scene: &Scene, migration: &Migration, content: &str, databases: &[String]) -> PostgresMigrationStatus {
    let status = migration.ended(Outcome::Succeeded).await;
    let (source, target, name) = (&scene.source, &scene.target, &scene.database);
    source.assert_unharmed().await;
    target.assert_unharmed().await;

    // The data: equal to what the source held, and to what it still holds behind the fence; every row of the application is there.
    assert_same(content, &target.content(name).await);
    let refused = source.try_sql(name, "SELECT 1").await.unwrap_err();
    assert!(refused.contains("not currently accepting connections"), "a superuser got {refused}");
    let fenced = new_databases(source, databases).await;
    let [fenced] = fenced.as_slice() else { panic!("behind the fence: {fenced:?}") };
    assert_same(content, &source.content(fenced).await);
    let rows =
        format!("SELECT count(*), md5(string_agg(x::text, '' ORDER BY id)) FROM app.written AS x WHERE host = '{}'", source.name);
    assert_eq!(source.sql(fenced, &rows).await, target.sql(name, &rows).await);
    let foreign = format!(
        "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname IN ('app', 'Odd \"schema\";--')
         AND pg_get_userbyid(relowner) <> '{OWNER}'"
    );
    assert_eq!(target.sql(name, &foreign).await, "0", "not everything belongs to the owner");
    assert_eq!(target.sql(name, "SELECT version_num FROM app.version").await, "0002", "the schema job did not run");

    // The application: led to the new database, started there, and nowhere else.
    scene.writes(target).await;
    let config = get(target.side, &target.namespace, &["configmap/app-config"]).await;
    assert_eq!(config["data"], json!({"PGHOST": target.name, "PGPORT": "5432", "PGDATABASE": name, "PGCONNECT_TIMEOUT": "5"}));
    let password = base64(&get(Side::New, &scene.home, &["secret/db"]).await["data"]["password"]);
    let secret = get(target.side, &target.namespace, &["secret/app-secret"]).await;
    assert_eq!(base64(&secret["data"]["PGUSER"]), OWNER);
    assert_eq!(base64(&secret["data"]["PGPASSWORD"]), password);
    assert_eq!(base64(&secret["data"]["URL"]), format!("postgres://{OWNER}:{password}@{}:5432/{name}", target.name));
    let workloads = get(target.side, &target.namespace, &["deployment/api", "deployment/worker", "cronjob/tidy"]).await;
    let [api, worker, tidy] = [0, 1, 2].map(|n| workloads["items"][n].clone());
    let environment = json!([{"name": "DATABASE_HOST", "value": target.name}, {"name": "OTHER", "value": "stays"}]);
    assert_eq!(api["spec"]["template"]["spec"]["containers"][0]["env"], environment);
    for (workload, replicas) in [(&api, 2), (&worker, 1)] {
        assert_eq!(workload["spec"]["replicas"], replicas, "{}", workload["metadata"]["name"]);
        assert_eq!(workload["status"]["availableReplicas"], replicas, "{}", workload["metadata"]["name"]);
    }
    assert_eq!(tidy["spec"]["suspend"], false);
    for workload in [&api, &worker, &tidy] {
        let annotations = workload["metadata"]["annotations"].to_string();
        assert!(!annotations.contains("pgmigration.dev"), "left on the workload: {annotations}");
    }
    if scene.layout != Layout::OnePlace {
        let stopped = get(source.side, &source.namespace, &["deployment/api", "deployment/worker", "cronjob/tidy"]).await;
        assert_eq!([0, 1].map(|n| stopped["items"][n]["spec"]["replicas"].clone()), [json!(0), json!(0)]);
        assert_eq!(stopped["items"][2]["spec"]["suspend"], true);
    }

    // The previous values are kept, in a Secret beside what was changed.
    let previous = status.repointed.as_ref().unwrap().previous_values.clone();
    let kept = get(target.side, &target.namespace, &[&format!("secret/{previous}")]).await;
    let kept: String = kept["data"].as_object().unwrap().values().map(base64).collect();
    assert!(
        kept.contains(&scene.canaries[0]) || kept.contains(&encoded(&scene.canaries[0])),
        "the previous password is not kept"
    );

    schema_job(scene, &status).await;
    nothing_left(scene, migration).await;
    told(&status);
    status
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The schema job's Job is there to be read, and no Service leads to its pods.
async fn schema_job(scene: &Scene, status: &PostgresMigrationStatus) {
    let (side, namespace) = (scene.target.side, &scene.target.namespace);
    let job = status.schema_jobs[0].job.clone();
    let pods = get(side, namespace, &["pods", "-l", &format!("job-name={job}")]).await;
    let pod = &pods["items"][0];
    let labels: BTreeMap<String, String> = serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap();
    let services = get(side, namespace, &["services"]).await;
    for service in services["items"].as_array().unwrap() {
        let selector: BTreeMap<String, String> = serde_json::from_value(service["spec"]["selector"].clone()).unwrap();
        let selected = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        assert!(!selected, "Service {} selects {labels:?}", service["metadata"]["name"]);
    }
    assert_eq!(pod["spec"]["containers"].as_array().unwrap().len(), 1);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(pod["spec"]["containers"][0][probe], Value::Null, "{probe}");
    }
    let log = side.kubectl_aside(&["-n", namespace, "logs", &format!("job/{job}")], "").await.unwrap();
    assert!(log.contains(&format!("upgrading on {} as {OWNER}", scene.target.name)), "{log}");
}

/// No mover, upload, session, temporary file or staging database is left.
async fn nothing_left(scene: &Scene, migration: &Migration) {
    let uid = migration.api.get(&migration.name).await.unwrap().metadata.uid.unwrap();
    let label = format!("pgmigration.dev/migration-uid={uid}");
    let jobs = get(Side::New, &scene.home, &["jobs,pods", "-l", &label]).await;
    let names: Vec<&str> = jobs["items"].as_array().unwrap().iter().filter_map(|job| job["metadata"]["name"].as_str()).collect();
    assert!(names.iter().all(|name| name.contains("upgrade")), "left: {names:?}");
    for server in [&scene.source, &scene.target] {
        let sessions = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE '%' || '";
        let sessions = server.sql("postgres", &format!("{sessions}{uid}' || '%' AND pid <> pg_backend_pid()")).await;
        assert_eq!(sessions, "", "sessions are left on {}", server.name);
        assert_eq!(server.exec(&["ls", "-A", "/tmp"], "").await.unwrap(), "", "files are left in the pod of {}", server.name);
    }
    let unfinished = bucket().await.unfinished(&format!("tests/{}/", scene.home)).await.unwrap();
    assert!(unfinished.is_empty(), "{unfinished:?}");
}

/// The status tells the whole story in order, with times.
fn told(status: &PostgresMigrationStatus) {
    assert_eq!(status.steps.len(), 15);
    let mut last = None;
    for step in &status.steps {
        assert_eq!(step.state, StepState::Done, "{:?}", step.name);
        let (start, end) = (step.start_time.as_ref().unwrap().0, step.end_time.as_ref().unwrap().0);
        assert_eq!(step.duration_seconds, Some(end.as_second() - start.as_second()), "{:?}", step.name);
        assert!(last.is_none_or(|last| last <= start) && start <= end, "{:?}: {start} to {end}", step.name);
        last = Some(end);
    }
    for kind in ["Ready", "Planned", "Quiesced", "Fenced", "Archived", "Verified", "Published", "Succeeded"] {
        assert_eq!(condition(status, kind), "True", "{kind}");
    }
    let verification = status.verification.as_ref().unwrap();
    assert!(
        verification.equal && verification.witnessed && verification.tables >= 7 && verification.rows > 3000,
        "{verification:?}"
    );
    let archive = status.archive.as_ref().unwrap();
    assert!(archive.sealed && archive.bytes.unwrap() > 1_000_000 && archive.sha256.as_ref().unwrap().len() == 64, "{archive:?}");
}

/// The dump in the bucket stands by itself: pg_restore alone makes the same database of it.
async fn archive(scene: &Scene, status: &PostgresMigrationStatus, content: &str) {
    let (bucket, archive) = (bucket().await, status.archive.as_ref().unwrap());
    assert_eq!(archive.bucket, BUCKET);
    let objects: Vec<String> = bucket.list(&format!("tests/{}/", scene.home)).await.unwrap().into_iter().map(|o| o.key).collect();
    let folder = archive.key.rsplit_once('/').unwrap().0;
    assert!(objects.iter().all(|key| key.starts_with(folder)), "{objects:?} beside {folder}");
    let run = bucket.get_small(&format!("{folder}/run.manifest.json"), 1 << 20).await.unwrap().expect("no run manifest");
    let run: Value = serde_json::from_slice(&run).unwrap();
    assert!(run.to_string().contains(archive.sha256.as_ref().unwrap()), "{run}");
    let report = status.verification.as_ref().unwrap().report_key.clone().unwrap();
    let report = bucket.get_small(&report, 1 << 22).await.unwrap().expect("no report");
    assert!(String::from_utf8_lossy(&report).contains("documents"), "the report names no table");

    let dump = bucket.get_small(&archive.key, 1 << 28).await.unwrap().expect("no dump");
    assert_eq!(i64::try_from(dump.len()).unwrap(), archive.bytes.unwrap());
    // From a file: a tool that leaves some of its input unread would hang kubectl.
    let file = "/tmp/by-hand.dump";
    scene.target.exec(&["sh", "-c", "cat >\"$0\"", file], &dump).await.unwrap();
    let listed = scene.target.exec(&["pg_restore", "-l", file], "").await.unwrap();
    assert!(listed.contains("TABLE DATA app documents"), "{listed}");
    scene.target.sql("postgres", "CREATE DATABASE by_hand").await;
    scene
        .target
        .exec(&["pg_restore", "-U", "postgres", "--no-owner", "--exit-on-error", "-d", "by_hand", file], "")
        .await
        .unwrap();
    scene.target.exec(&["rm", file], "").await.unwrap();
    assert_same(content, &scene.target.content("by_hand").await);
    scene.target.sql("postgres", "DROP DATABASE by_hand").await;
}

/// What a person sees at a glance, and what nobody may see.
async fn seen(scene: &Scene, migration: &Migration) {
    let list = async |wide: &[&str]| {
        let mut arguments = vec!["-n", migration.namespace.as_str(), "get", "pgmig", migration.name.as_str()];
        arguments.extend(wide);
        let text = Side::New.kubectl_aside(&arguments, "").await.unwrap();
        let mut lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        (lines.next().unwrap(), lines.next().unwrap())
    };
    let (head, line) = list(&[]).await;
    assert_eq!(head, ["NAME", "PHASE", "STEP", "PROGRESS", "AGE"]);
    assert_eq!(line[..4], [migration.name.as_str(), "Succeeded", "Keep", "100%"]);
    let (head, line) = list(&["-o", "wide"]).await;
    assert_eq!(head, ["NAME", "PHASE", "STEP", "PROGRESS", "SIZE", "MESSAGE", "AGE"]);
    assert!(
        line[4].parse::<f64>().is_ok() && line.contains(&"archived)".to_owned()) && line.contains(&"proven".to_owned()),
        "{line:?}"
    );

    let events = get(Side::New, &migration.namespace, &["events"]).await;
    let reasons: Vec<&str> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["involvedObject"]["name"] == migration.name.as_str())
        .filter_map(|event| event["reason"].as_str())
        .collect();
    assert!(reasons.contains(&"StepDone") && reasons.contains(&"Succeeded"), "{reasons:?}");

    let object = serde_json::to_string(&migration.api.get(&migration.name).await.unwrap()).unwrap();
    assert!(object.len() < 65_536, "the object has {} bytes", object.len());
    let readable = readable(scene).await;
    for canary in &scene.canaries {
        assert!(!readable.contains(canary.as_str()) && !readable.contains(&encoded(canary)), "a secret can be read: {canary}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_old_to_new() {
    let scene = Scene::new(Layout::OldToNew, "move", "onyx", SOURCE).await;
    let databases = scene.source.databases().await;
    let content = scene.source.content("onyx").await;

    // One object for all of its life: planned first, with nothing touched.
    let before = scene.snapshot().await;
    let migration = scene.migrate("onyx", |spec| spec["mode"] = json!("Plan")).await;
    wait(&migration, "Planned").await;
    let planned = migration.until("rest after planning", |s| (condition(s, "Reconciling") == "False").then(|| s.clone())).await;
    assert_eq!(format!("{:?}", planned.phase.unwrap()), "Pending", "{:?}", planned.message);
    assert!(planned.blockers.is_empty() && planned.start_time.is_none(), "{:?}", planned.blockers);
    assert_same(&before, &scene.snapshot().await);

    // Suspended, it finishes the step at work and begins no other.
    migration.change(json!({"mode": "Migrate"})).await;
    let stopped = migration.stop_after(StepName::Dump).await;
    assert!(scene.target.try_sql("onyx", "SELECT 1").await.is_ok(), "nothing may be seen on the target before publishing");
    assert_eq!(stopped.steps.last().unwrap().name, StepName::Dump);
    migration.change(json!({"suspend": false})).await;
    wait(&migration, "Succeeded").await;

    let status = moved(&scene, &migration, &content, &databases).await;
    archive(&scene, &status, &content).await;
    seen(&scene, &migration).await;
    let aside = status.publication.as_ref().unwrap().set_aside.clone().unwrap();
    let rows = scene.target.sql(&aside, "SELECT count(*) FROM app.written").await;
    assert_ne!(rows, "0", "the rows that the new side had of its own");

    // The object may go: fence and data stay.
    migration.delete().await;
    assert!(scene.source.try_sql("onyx", "SELECT 1").await.is_err());
    scene.writes(&scene.target).await;
    made_again(&scene).await;
    scene.end().await;
}

/// An object that Git brings back finds that its work is done, even where the old cluster is gone, and does nothing.
async fn made_again(scene: &Scene) {
    let (databases, workloads) = (scene.target.databases().await, objects(scene.target.side, &scene.target.namespace).await);
    let again = scene
        .migrate("onyx", |spec| {
            spec["source"]["cluster"]["kubeconfigSecretRef"]["name"] = json!("gone-with-the-cluster");
        })
        .await;
    let status = again.ended(Outcome::Succeeded).await;
    let succeeded = status.conditions.iter().find(|c| c.type_ == "Succeeded").unwrap();
    assert_eq!((succeeded.status.as_str(), succeeded.reason.as_str()), ("True", "AlreadyMigrated"));
    assert!(status.start_time.is_none() && status.quiesced.is_empty() && status.archive.is_none());
    assert!(again.api.get("onyx").await.unwrap().metadata.finalizers.is_none(), "it would have something to undo");
    again.delete().await;

    // The mark in the bucket alone is enough; another move under the same name is refused.
    scene.target.sql("postgres", "ALTER DATABASE onyx RESET pgmigration.completed").await;
    let again = scene.migrate("onyx", |_| ()).await;
    assert_eq!(again.ended(Outcome::Succeeded).await.completion.map(|c| c.earlier), Some(true));
    again.delete().await;
    let other = scene.migrate("onyx", |spec| spec["source"]["postgres"]["exec"]["workloadRef"]["name"] = json!("another")).await;
    let status = other.ended(Outcome::Failed).await;
    assert_eq!(status.blockers[0].reason, "AlreadyMigrated", "{:#?}", status.blockers);
    other.delete().await;
    assert_eq!(scene.target.databases().await, databases);
    assert_same(&workloads, &objects(scene.target.side, &scene.target.namespace).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_two_namespaces_into_an_empty_database() {
    let name = r#"Shöp "1"; -- $$"#;
    let scene = Scene::new(Layout::Here, "here", name, SOURCE).await;
    let databases = scene.source.databases().await;
    let content = scene.source.content(name).await;
    let migration = scene
        .migrate("onyx", |spec| {
            spec["databases"][0]["existingTarget"] = json!("Refuse");
            spec["target"]["application"]["workloads"][1]["replicas"] = json!(1);
        })
        .await;
    wait(&migration, "Succeeded").await;
    moved(&scene, &migration, &content, &databases).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_application_is_led_from_one_server_to_the_other() {
    let scene = Scene::new(Layout::OnePlace, "one", "onyx", SOURCE).await;
    let databases = scene.source.databases().await;
    let content = scene.source.content("onyx").await;
    let migration = scene.migrate("onyx", |_| ()).await;
    wait(&migration, "Succeeded").await;
    let status = moved(&scene, &migration, &content, &databases).await;
    assert_eq!(status.quiesced.len(), 3, "stopped once each: {:?}", status.quiesced);
    assert_eq!(status.publication.unwrap().set_aside, None);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_in_another_cluster() {
    let scene = Scene::new(Layout::Remote, "remote", "onyx", SOURCE).await;
    let databases = scene.source.databases().await;
    let content = scene.source.content("onyx").await;
    let migration = scene.migrate("onyx", |_| ()).await;
    wait(&migration, "Succeeded").await;
    moved(&scene, &migration, &content, &databases).await;
    scene.end().await;
}
