//! What the API server itself makes of an object: defaults filled in, and refusals that say what must be.
//!
//! In cluster old, where no operator answers: only the definition speaks.

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use pgmigration::api::PostgresMigration;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{Room, Side, eventually};

/// The smallest object: what has no default.
fn smallest() -> Value {
    json!({
        "apiVersion": "pgmigration.dev/v1alpha1", "kind": "PostgresMigration", "metadata": {"name": "onyx"},
        "spec": {
            "serviceAccountName": "mover",
            "source": {"postgres": {"exec": {"workloadRef": {"kind": "StatefulSet", "name": "postgres"}}}},
            "archive": {"s3": {"bucket": "archive", "credentialsSecretRef": {"name": "bucket"}}},
            "databases": [{"name": "onyx", "owner": {"name": "onyx_app", "passwordSecretRef": {"name": "db", "key": "password"}}}],
            "target": {
                "postgres": {"exec": {"labelSelector": "app=shared-postgres"}},
                "endpoint": {"host": "shared-postgres"},
            },
        },
    })
}

/// The smallest object with `value` at `path` below spec; a null takes the member away.
fn with(path: &str, value: Value) -> Value {
    let mut object = smallest();
    let mut at = &mut object["spec"];
    for step in path.split('.') {
        at = match step.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[step],
        };
    }
    *at = value;
    object
}

async fn api(room: &Room) -> Api<DynamicObject> {
    static DEFINED: OnceCell<()> = OnceCell::const_new();
    let client = Side::Old.client().await;
    let resource = ApiResource::erase::<PostgresMigration>(&());
    let api = Api::<DynamicObject>::namespaced_with(client, &room.name, &resource);
    DEFINED
        .get_or_init(|| async {
            Side::Old.apply(include_str!("../../crds/postgresmigrations.yaml"));
            let plural = PostgresMigration::plural(&());
            eventually(&format!("{plural} to be served"), || async { api.list(&kube::api::ListParams::default()).await }).await;
        })
        .await;
    api
}

async fn create(api: &Api<DynamicObject>, object: Value, keep: bool) -> Result<Value, String> {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let params = PostParams { dry_run: !keep, ..PostParams::default() };
    match api.create(&params, &object).await {
        Ok(made) => Ok(serde_json::to_value(made).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn defaults_are_filled_in_and_the_object_reads_back() {
    let room = Room::new(Side::Old, "defaults").await;
    let api = api(&room).await;
    let made = create(&api, smallest(), true).await.unwrap();
    for (pointer, value) in [
        ("/spec/mode", json!("Plan")),
        ("/spec/suspend", json!(false)),
        ("/spec/cancel", json!(false)),
        ("/spec/archive/retentionDays", json!(30)),
        ("/spec/archive/s3/region", json!("us-east-1")),
        ("/spec/archive/s3/forcePathStyle", json!(false)),
        ("/spec/source/fence", json!("Auto")),
        ("/spec/databases/0/ownership", json!("Single")),
        ("/spec/databases/0/existingTarget", json!("Refuse")),
        ("/spec/target/endpoint/port", json!(5432)),
        ("/spec/target/application", json!({})),
    ] {
        assert_eq!(made.pointer(pointer), Some(&value), "{pointer}");
    }
    let typed: PostgresMigration = serde_json::from_value(made).unwrap();
    assert!(typed.status.is_none());
    let shown = Side::Old.kubectl(&["-n", &room.name, "get", "pgmig", "-o", "wide"], "").unwrap();
    let columns: Vec<_> = shown.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["NAME", "PHASE", "STEP", "PROGRESS", "SIZE", "MESSAGE", "AGE"]);
    room.end().await;
}

#[tokio::test]
async fn what_must_not_be_is_refused_with_a_sentence() {
    let room = Room::new(Side::Old, "refused").await;
    let api = api(&room).await;
    let both = json!({"workloadRef": {"kind": "StatefulSet", "name": "postgres"}, "labelSelector": "app=postgres"});
    let repoint = |value: Value| with("target.application", json!({"repoint": [value]}));
    for (object, sentence) in [
        (with("source.postgres.exec", both), "postgres.exec must have exactly one of workloadRef and labelSelector"),
        (with("target.postgres.exec", json!({})), "postgres.exec must have exactly one of workloadRef and labelSelector"),
        (with("source.writers", json!([{"kind": "Deployment"}])), "a writer must have exactly one of name and labelSelector"),
        (
            with("source.writers", json!([{"kind": "Deployment", "name": "a", "labelSelector": "app=a"}])),
            "a writer must have exactly one of name and labelSelector",
        ),
        (with("source.cluster", json!({})), "cluster must name a namespace, a kubeconfigSecretRef, or both"),
        (with("archive.s3.endpoint", json!("http://minio.example")), "archive.s3.endpoint must begin with https://"),
        (
            with("databases.0.name", json!("postgres")),
            "databases postgres, template0 and template1 must not be moved or replaced",
        ),
        (
            with("databases.0.targetName", json!("template1")),
            "databases postgres, template0 and template1 must not be moved or replaced",
        ),
        (
            with("target.postgres", smallest()["spec"]["source"]["postgres"].clone()),
            "source and target must not be the same database",
        ),
        (
            repoint(json!({"kind": "ConfigMap", "name": "a", "template": "$(host)"})),
            "repoint must have exactly one of kind+name+key and workloadRef+container+env",
        ),
        (
            repoint(
                json!({"kind": "ConfigMap", "name": "a", "key": "URL", "template": "postgres://$(user):$(password)@$(host)"}),
            ),
            "$(password) must only be used for a key of a Secret",
        ),
        (with("databases", json!([])), "spec.databases in body should have at least 1 items"),
        (with("databases.0.name", json!("x".repeat(64))), "may not be more than 63"),
        (with("serviceAccountName", json!("Mover")), "spec.serviceAccountName in body should match"),
        (with("archive.s3.bucket", json!("ab")), "spec.archive.s3.bucket in body should be at least 3 chars long"),
        (with("archive.retentionDays", json!(-1)), "spec.archive.retentionDays in body should be greater than or equal to 0"),
        (with("target.endpoint.port", json!(65536)), "spec.target.endpoint.port in body should be less than or equal to 65535"),
        (with("mode", json!("Rehearse")), "spec.mode: Unsupported value: \"Rehearse\""),
        (with("databases.0.ownership", json!("Preserve")), "spec.databases[0].ownership: Unsupported value: \"Preserve\""),
        (
            with("source.writers", json!([{"kind": "Pod", "name": "a"}])),
            "spec.source.writers[0].kind: Unsupported value: \"Pod\"",
        ),
        (with("archive.s3.credentialsSecretRef", Value::Null), "spec.archive.s3.credentialsSecretRef"),
    ] {
        let refusal = create(&api, object.clone(), false).await.expect_err(&format!("{} was accepted", object["spec"]));
        assert!(refusal.contains(sentence), "{refusal}\ndoes not say: {sentence}");
    }
    room.end().await;
}

#[tokio::test]
async fn what_may_be_is_accepted() {
    let room = Room::new(Side::Old, "accepted").await;
    let api = api(&room).await;
    let same_server = smallest()["spec"]["source"]["postgres"].clone();
    let mut renamed = with("target.postgres", same_server.clone());
    renamed["spec"]["databases"][0]["targetName"] = json!("onyx_new");
    let mut elsewhere = with("target.postgres", same_server.clone());
    elsewhere["spec"]["source"]["cluster"] = json!({"kubeconfigSecretRef": {"name": "old", "key": "kubeconfig"}});
    let mut namespaces = with("target.postgres", same_server);
    namespaces["spec"]["source"]["cluster"] = json!({"namespace": "a"});
    namespaces["spec"]["target"]["cluster"] = json!({"namespace": "b"});
    let repoint = json!({"repoint": [
        {"kind": "Secret", "name": "a", "key": "URL", "template": "postgres://$(user):$(password)@$(host):$(port)/$(database)"},
        {"workloadRef": {"kind": "Deployment", "name": "api"}, "container": "api", "env": "PGHOST", "template": "$(host)"},
    ]});
    for object in [
        renamed,
        elsewhere,
        namespaces,
        with("target.application", repoint),
        with("databases.0.name", json!("Ümläut \"x\" ' $$ ; --")),
    ] {
        create(&api, object.clone(), false).await.unwrap_or_else(|refusal| panic!("{refusal}: {}", object["spec"]));
    }
    room.end().await;
}

#[tokio::test]
async fn a_started_migration_takes_only_control_fields() {
    let room = Room::new(Side::Old, "started").await;
    let api = api(&room).await;
    create(&api, smallest(), true).await.unwrap();
    let change = |change: Value| {
        let api = api.clone();
        async move {
            match api.patch("onyx", &PatchParams::default(), &Patch::Merge(json!({"spec": change}))).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) => Err(status.message),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let status = |status: Value| {
        let api = api.clone();
        async move { api.patch_status("onyx", &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.unwrap() }
    };
    change(json!({"mode": "Migrate", "target": {"endpoint": {"port": 5433}}})).await.unwrap();

    status(json!({"startTime": "2026-01-01T00:00:00Z", "phase": "Running"})).await;
    for fixed in [
        json!({"mode": "Plan"}),
        json!({"serviceAccountName": "other"}),
        json!({"source": {"writers": [{"kind": "Deployment", "name": "a"}]}}),
        json!({"archive": {"s3": {"prefix": "elsewhere"}}}),
        json!({"databases": [{"name": "other", "owner": {"name": "o", "passwordSecretRef": {"name": "db", "key": "password"}}}]}),
        json!({"target": {"endpoint": {"port": 5434}}}),
    ] {
        let refusal = change(fixed.clone()).await.expect_err(&format!("{fixed} was accepted"));
        assert!(refusal.contains("spec must not change once the migration has started"), "{refusal}");
    }
    for control in
        [json!({"suspend": true}), json!({"suspend": false}), json!({"retry": 2}), json!({"archive": {"retentionDays": 7}})]
    {
        change(control).await.unwrap();
    }
    let refusal = change(json!({"retry": 1})).await.unwrap_err();
    assert!(refusal.contains("spec.retry must only grow"), "{refusal}");
    let refusal = change(json!({"retry": null})).await.unwrap_err();
    assert!(refusal.contains("spec.retry must only grow"), "{refusal}");

    // What calls a migration off may be taken back, but not while it is being undone.
    change(json!({"rollback": {"to": "Elsewhere"}})).await.unwrap_err();
    change(json!({"rollback": {"acknowledge": ["Everything"]}})).await.unwrap_err();
    let off = json!({"cancel": true, "unfence": true, "rollback": {"acknowledge": ["TargetWrites"]}});
    let taken_back = [json!({"cancel": false}), json!({"rollback": null})];
    change(off.clone()).await.unwrap();
    for back in &taken_back {
        change(back.clone()).await.unwrap();
    }
    change(off).await.unwrap();
    let undo = json!({"cause": "Rollback", "reason": "RollbackRequested", "message": "spec.rollback is set", "step": "Keep"});
    status(json!({"undo": undo})).await;
    for back in &taken_back {
        let refusal = change(back.clone()).await.expect_err(&format!("{back} was accepted"));
        assert!(refusal.contains("must not be taken back while everything is being undone"), "{refusal}");
    }
    change(json!({"rollback": {"acknowledge": []}, "unfence": false})).await.unwrap();
    status(json!({"outcome": "Cancelled"})).await;
    for back in taken_back {
        change(back).await.unwrap();
    }
    room.end().await;
}

/// What people copy from: unknown members are refused here, which an API server otherwise only drops.
#[tokio::test]
async fn examples_are_what_they_seem() {
    let room = Room::new(Side::Old, "examples").await;
    api(&room).await;
    let readme = include_str!("../../README.md");
    let example = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let demonstration = include_str!("../demo/manifests/migration.yaml").replace("S3_SERVER", "s3.example");
    for text in [example, &demonstration] {
        assert!(text.contains("kind: PostgresMigration"), "{text}");
        let text = text.replace("namespace: onyx}", &format!("namespace: {}}}", room.name));
        Side::Old.kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", "-"], &text).unwrap();
    }
    room.end().await;
}
