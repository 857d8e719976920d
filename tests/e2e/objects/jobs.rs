//! Jobs of ours in a real cluster: made once, judged by how they end, gone with their pods.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use pgmigration::api::{PostgresMigration, WorkloadKind};
use pgmigration::kubernetes::Kind;
use pgmigration::kubernetes::events::{Events, Severity};
use pgmigration::kubernetes::jobs::mover::MoverJob;
use pgmigration::kubernetes::jobs::schema::SchemaJob;
use pgmigration::kubernetes::jobs::{Created, JobState, Owned, create, delete, gone, job_state, log_tail, of_migration};
use pgmigration::kubernetes::labels::MigrationId;
use pgmigration::kubernetes::workloads::pod_template;

use super::{ACCOUNT, Stage, sleeper};
use crate::support::{Side, eventually, setting};

fn us() -> MigrationId {
    MigrationId { name: "onyx".into(), uid: "11111111-1111-1111-1111-111111111111".into() }
}

async fn schema(stage: &Stage, name: &str, script: &str, deadline: i64) -> k8s_openapi::api::batch::v1::Job {
    let template = pod_template(&stage.client, stage.namespace(), WorkloadKind::Deployment, "api").await.unwrap().unwrap();
    let job = SchemaJob {
        migration: us(),
        namespace: stage.namespace().into(),
        name: name.into(),
        container: Some("main".into()),
        command: ["sh", "-c", script].map(Into::into).to_vec(),
        deadline_seconds: deadline,
    };
    job.build(&template).unwrap()
}

async fn ended(stage: &Stage, name: &str) -> JobState {
    eventually(&format!("the end of Job {name}"), || async {
        match job_state(&stage.client, stage.namespace(), name).await.unwrap() {
            end @ (JobState::Succeeded { .. } | JobState::Failed { .. }) => Ok(end),
            other => Err(other),
        }
    })
    .await
}

#[tokio::test]
async fn a_schema_job_runs_in_the_surroundings_of_the_live_template() {
    let stage = Stage::new("schema").await;
    stage.apply(&sleeper("Deployment", "api", 0, 0));
    let (client, namespace) = (&stage.client, stage.namespace());

    let job = schema(&stage, "good", "echo host $POSTGRES_HOST", 600).await;
    let Created::New(uid) = create(client, &us(), &job).await.unwrap() else { panic!("it cannot exist yet") };
    assert_eq!(create(client, &us(), &job).await.unwrap(), Created::Existed(uid.clone()), "a crash finds it again");
    let them = MigrationId { uid: "other".into(), ..us() };
    assert_eq!(create(client, &them, &job).await.unwrap_err().kind(), Kind::Conflict);
    let JobState::Succeeded { uid: found, end: Some(end) } = ended(&stage, "good").await else { panic!("it did not succeed") };
    assert_eq!((found.as_str(), end.exit_code, end.pod.container.as_str()), (uid.as_str(), 0, "main"));
    assert_eq!(log_tail(client, namespace, &end.pod, 10).await.unwrap(), "host old\n");
    let owned = Owned { name: "good".into(), uid: uid.clone(), ending_since: None };
    assert_eq!(of_migration(client, namespace, &us()).await.unwrap(), [owned]);

    // On one stream: the runtime copies each by itself, so that lines of two have no order in a log.
    let script = "{ seq 1 100; echo revision not found; } >&2; exit 3";
    create(client, &us(), &schema(&stage, "bad", script, 600).await).await.unwrap();
    let JobState::Failed { message, end: Some(end), .. } = ended(&stage, "bad").await else { panic!("it did not fail") };
    assert!(message.starts_with("BackoffLimitExceeded"), "{message}");
    assert_eq!((end.exit_code, end.message.ends_with("revision not found\n")), (3, true), "{end:?}");
    assert_eq!(log_tail(client, namespace, &end.pod, 2).await.unwrap(), "100\nrevision not found\n");

    create(client, &us(), &schema(&stage, "slow", "sleep infinity", 1).await).await.unwrap();
    let JobState::Failed { message, .. } = ended(&stage, "slow").await else { panic!("it did not fail") };
    assert!(message.starts_with("DeadlineExceeded"), "{message}");

    // Two pods are there (the one past its deadline was deleted); what selects the application's pods selects none of them.
    assert_eq!(stage.kubectl(&["get", "pods", "-o", "name"]).lines().count(), 2);
    assert_eq!(stage.kubectl(&["get", "pods", "-o", "name", "-l", "app=api"]), "");

    delete(client, namespace, "good", "another UID").await.unwrap();
    assert!(!gone(client, namespace, "good").await.unwrap(), "only the Job with that UID is deleted");
    delete(client, namespace, "good", &uid).await.unwrap();
    eventually("the Job to be gone", || async {
        if gone(client, namespace, "good").await.unwrap() { Ok(()) } else { Err("there") }
    })
    .await;
    assert_eq!(job_state(client, namespace, "good").await.unwrap(), JobState::Absent);
    delete(client, namespace, "good", &uid).await.unwrap();

    stage.room.end().await;
}

#[tokio::test]
async fn an_image_that_is_not_there_is_told_with_its_time() {
    let stage = Stage::new("image").await;
    stage.apply(&sleeper("Deployment", "api", 0, 0));
    let mut job = schema(&stage, "stuck", "true", 600).await;
    let container = &mut job.spec.as_mut().unwrap().template.spec.as_mut().unwrap().containers[0];
    container.image = Some("localhost/no-such-image:1".into());
    container.image_pull_policy = Some("Never".into());
    create(&stage.client, &us(), &job).await.unwrap();
    let waiting = eventually("the container to be stuck", || async {
        match job_state(&stage.client, stage.namespace(), "stuck").await.unwrap() {
            JobState::Running { pod: Some(_), waiting: Some(waiting), .. } if !waiting.is_ordinary() => Ok(waiting),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(waiting.reason, "ErrImageNeverPull");
    assert!(waiting.since.is_some() && waiting.message.contains("no-such-image"), "{waiting:?}");
    stage.room.end().await;
}

/// The PostgresMigration that owns a mover, in cluster old where no operator answers.
async fn migration(stage: &Stage) -> PostgresMigration {
    Side::Old.apply(include_str!("../../../crds/postgresmigrations.yaml"));
    let object = serde_json::json!({
        "apiVersion": "pgmigration.dev/v1alpha1", "kind": "PostgresMigration", "metadata": {"name": "onyx", "namespace": stage.namespace()},
        "spec": {
            "serviceAccountName": ACCOUNT,
            "source": {"postgres": {"exec": {"labelSelector": "app=pg"}}},
            "archive": {"s3": {"bucket": "archive", "credentialsSecretRef": {"name": "bucket"}}},
            "databases": [{"name": "onyx", "owner": {"name": "onyx", "passwordSecretRef": {"name": "db", "key": "password"}}}],
            "target": {"postgres": {"exec": {"labelSelector": "app=other"}}, "endpoint": {"host": "pg"}},
        },
    });
    let resource = ApiResource::erase::<PostgresMigration>(&());
    let api = Api::<DynamicObject>::namespaced_with(Side::Old.client().await, stage.namespace(), &resource);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let made = eventually("the kind to be served", || async { api.create(&PostParams::default(), &object).await }).await;
    made.try_parse().unwrap()
}

#[tokio::test]
async fn a_mover_is_admitted_where_pod_security_is_restricted_and_ends_with_its_owner() {
    let stage = Stage::new("mover").await;
    stage.kubectl(&["label", "namespace", stage.namespace(), "pod-security.kubernetes.io/enforce=restricted"]);
    let owner = migration(&stage).await;
    let id = MigrationId { name: "onyx".into(), uid: owner.metadata.uid.clone().unwrap() };
    let job = MoverJob {
        migration: id.clone(),
        namespace: stage.namespace().into(),
        name: "mover-1".into(),
        service_account: ACCOUNT.into(),
        image: setting("PGM_IMAGE"),
        image_pull_secrets: vec![],
        operation: "no operation: $(HOME) $$".into(),
        deadline_seconds: Some(60),
        crash_at: None,
    };
    // The operator makes movers with rights of its own; here the administrator stands in for it.
    let admin = Side::Old.client().await;
    create(&admin, &id, &job.build().unwrap()).await.unwrap();
    let pods = Api::<Pod>::namespaced(admin.clone(), stage.namespace());
    let pod = eventually("the mover's pod", || async {
        let selector = ListParams::default().labels("batch.kubernetes.io/job-name=mover-1");
        pods.list(&selector).await.unwrap().items.pop().ok_or("none yet")
    })
    .await;
    assert_eq!(pod.spec.as_ref().unwrap().service_account_name.as_deref(), Some(ACCOUNT));
    // What is no operation is refused: the Job fails, and never by being killed for the deadline.
    let JobState::Failed { message, end: Some(end), .. } = ended(&stage, "mover-1").await else { panic!("it did not fail") };
    assert!(message.starts_with("BackoffLimitExceeded"), "{message}");
    assert_ne!(end.exit_code, 0);

    let events = Events::new(admin.clone(), Some("test".into()));
    events.publish(&owner, Severity::Warning, "DumpFailed", "Dump", &"ä".repeat(2000)).await.unwrap();
    let told = stage.kubectl(&[
        "get",
        "events",
        "--field-selector=involvedObject.kind=PostgresMigration",
        "-o",
        "jsonpath={.items[*].reason}",
    ]);
    assert_eq!(told, "DumpFailed");

    stage.kubectl(&["delete", "postgresmigration", "onyx", "--wait=true"]);
    eventually("the mover to go with its owner", || async {
        if gone(&admin, stage.namespace(), "mover-1").await.unwrap() { Ok(()) } else { Err("there") }
    })
    .await;
    stage.room.end().await;
}
