//! Re-pointing settings, keeping what was there before, and who owns a field.

use pgmigration::api::{RepointKind, WorkloadKind, WorkloadRef};
use pgmigration::kubernetes::Kind;
use pgmigration::kubernetes::config::ownership::Tool;
use pgmigration::kubernetes::config::previous::{self, Previous};
use pgmigration::kubernetes::config::{ConfigError, Place, Replacement, Value, read, replace};
use pgmigration::kubernetes::labels::MigrationId;

use super::{Stage, sleeper};

fn key(kind: RepointKind, name: &str, key: &str) -> Place {
    Place::Key { kind, name: name.into(), key: key.into() }
}

fn variable(env: &str) -> Place {
    Place::Env {
        workload: WorkloadRef { kind: WorkloadKind::Deployment, name: "api".into() },
        container: "main".into(),
        env: env.into(),
    }
}

#[allow(clippy::unnecessary_wraps)] // what is expected is always optional
fn some(text: &str) -> Option<Value> {
    Some(Value::text(text))
}

const OBJECTS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: onyx-config, annotations: {argocd.argoproj.io/tracking-id: 'onyx:/ConfigMap:n/onyx-config'}}
data: {POSTGRES_HOST: old, OTHER: kept}
binaryData: {blob: //8=}
---
apiVersion: v1
kind: Secret
metadata: {name: onyx-secret}
stringData: {password: old}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: fixed}
immutable: true
data: {POSTGRES_HOST: old}
";

#[tokio::test]
async fn every_kind_of_setting_is_replaced_only_where_the_expected_value_stands() {
    let stage = Stage::new("settings").await;
    stage.apply(OBJECTS);
    stage.apply(&sleeper("Deployment", "api", 0, 0));
    let (client, namespace) = (&stage.client, stage.namespace());
    for place in [
        key(RepointKind::ConfigMap, "onyx-config", "POSTGRES_HOST"),
        key(RepointKind::Secret, "onyx-secret", "password"),
        variable("POSTGRES_HOST"),
    ] {
        let set = async |expected: Option<Value>, new: Option<Value>| {
            replace(client, namespace, &place, expected.as_ref(), new.as_ref()).await.unwrap()
        };
        assert_eq!(read(client, namespace, &place).await.unwrap().value, some("old"), "{place}");
        assert_eq!(set(some("old"), some("new $(x) \"y\"")).await, Replacement::Written, "{place}");
        assert_eq!(read(client, namespace, &place).await.unwrap().value, some("new $(x) \"y\""), "{place}");
        assert_eq!(set(some("old"), some("new $(x) \"y\"")).await, Replacement::Already, "{place}");
        assert_eq!(set(some("old"), some("third")).await, Replacement::ChangedByOthers, "{place}");
        assert_eq!(set(None, some("third")).await, Replacement::ChangedByOthers, "{place}");
        assert_eq!(set(some("new $(x) \"y\""), some("old")).await, Replacement::Written, "{place}");
    }
    // What was not there is made, and taken away again.
    for place in [
        key(RepointKind::ConfigMap, "onyx-config", "POSTGRES_PORT"),
        key(RepointKind::Secret, "onyx-secret", "user"),
        variable("POSTGRES_PORT"),
    ] {
        let set = async |expected: Option<Value>, new: Option<Value>| {
            replace(client, namespace, &place, expected.as_ref(), new.as_ref()).await.unwrap()
        };
        assert_eq!(read(client, namespace, &place).await.unwrap().value, None, "{place}");
        assert_eq!(set(None, some("5432")).await, Replacement::Written, "{place}");
        assert_eq!(set(some("5432"), None).await, Replacement::Written, "{place}");
        assert_eq!(read(client, namespace, &place).await.unwrap().value, None, "{place}");
        assert_eq!(set(some("5432"), None).await, Replacement::Already, "{place}");
    }
    let whole = stage.kubectl(&["get", "configmap", "onyx-config", "-o", "jsonpath={.data}{.binaryData}"]);
    assert_eq!(whole, r#"{"OTHER":"kept","POSTGRES_HOST":"old"}{"blob":"//8="}"#, "nothing else changed");
    let variables =
        stage.kubectl(&["get", "deployment", "api", "-o", "jsonpath={.spec.template.spec.containers[0].env[*].name}"]);
    assert_eq!(variables, "POSTGRES_HOST OTHER");
    stage.room.end().await;
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_before_anything_is_written() {
    let stage = Stage::new("refused").await;
    stage.apply(OBJECTS);
    stage.apply(&sleeper("Deployment", "api", 0, 0));
    for (place, expected) in [
        (key(RepointKind::ConfigMap, "fixed", "POSTGRES_HOST"), "immutable"),
        (key(RepointKind::ConfigMap, "onyx-config", "blob"), "binary"),
        (variable("OTHER"), "valueFrom"),
    ] {
        let error = read(&stage.client, stage.namespace(), &place).await.unwrap_err();
        assert!(matches!(&error, ConfigError::Refused(why) if why.contains(expected)), "{place}: {error}");
    }
    for place in [key(RepointKind::Secret, "absent", "x"), key(RepointKind::ConfigMap, "absent", "x")] {
        let error = read(&stage.client, stage.namespace(), &place).await.unwrap_err();
        assert!(matches!(&error, ConfigError::Absent(why) if why.ends_with("/absent does not exist")), "{place}: {error}");
    }
    stage.room.end().await;
}

#[tokio::test]
async fn two_writers_of_one_object_lose_nothing() {
    let stage = Stage::new("race").await;
    stage.apply(OBJECTS);
    stage.apply(&sleeper("Deployment", "api", 0, 0));
    let (client, namespace) = (&stage.client, stage.namespace());
    let written = |place: Place| async move { replace(client, namespace, &place, None, some("x").as_ref()).await };
    let settings: Vec<Place> =
        (0..3).flat_map(|n| [variable(&format!("V{n}")), key(RepointKind::ConfigMap, "onyx-config", &format!("V{n}"))]).collect();
    let answers = futures::future::join_all(settings.iter().cloned().map(written)).await;
    for answer in answers {
        assert_eq!(answer.unwrap(), Replacement::Written);
    }
    for place in &settings {
        assert_eq!(read(client, namespace, place).await.unwrap().value, some("x"), "{place}");
    }
    stage.room.end().await;
}

#[tokio::test]
async fn the_owner_of_a_field_is_known() {
    let stage = Stage::new("owner").await;
    let apply = |manager: &str, manifests: &str| {
        let flag = format!("--field-manager={manager}");
        crate::support::Side::Old
            .kubectl(&["-n", stage.namespace(), "apply", "--server-side", &flag, "-f", "-"], manifests)
            .unwrap();
    };
    apply("argocd-controller", OBJECTS);
    apply("kustomize-controller", &sleeper("Deployment", "api", 0, 0));
    let config = key(RepointKind::ConfigMap, "onyx-config", "POSTGRES_HOST");
    let reading = read(&stage.client, stage.namespace(), &config).await.unwrap();
    assert_eq!(reading.managers.iter().map(|m| (m.tool, m.applies)).collect::<Vec<_>>(), [(Tool::ArgoCd, true)]);
    assert_eq!(reading.tracked_by, ["Argo CD (onyx:/ConfigMap:n/onyx-config)"]);
    let reading = read(&stage.client, stage.namespace(), &variable("POSTGRES_HOST")).await.unwrap();
    assert_eq!(reading.managers.iter().map(|m| (m.tool, m.applies)).collect::<Vec<_>>(), [(Tool::Flux, true)]);
    // Our own write takes the field over, and says so.
    replace(&stage.client, stage.namespace(), &config, some("old").as_ref(), some("new").as_ref()).await.unwrap();
    let reading = read(&stage.client, stage.namespace(), &config).await.unwrap();
    assert_eq!(reading.managers.iter().map(|m| m.tool).collect::<Vec<_>>(), [Tool::Ours]);
    stage.room.end().await;
}

#[tokio::test]
async fn previous_values_are_kept_once_and_only_for_their_migration() {
    let stage = Stage::new("previous").await;
    let (client, namespace) = (&stage.client, stage.namespace());
    let us = MigrationId { name: "onyx".into(), uid: "u1".into() };
    let them = MigrationId { name: "other".into(), uid: "u2".into() };
    let first = vec![
        Previous { place: key(RepointKind::Secret, "s", "password"), value: Some(Value(vec![0xff, 0])) },
        Previous { place: variable("PORT"), value: None },
    ];
    let later = vec![Previous { place: variable("PORT"), value: some("changed since") }];
    assert_eq!(previous::kept(client, namespace, "kept", &us).await.unwrap(), None);
    assert_eq!(previous::keep(client, namespace, "kept", &us, &first).await.unwrap(), first);
    assert_eq!(previous::keep(client, namespace, "kept", &us, &later).await.unwrap(), first, "the first record stands");
    assert_eq!(previous::keep(client, namespace, "kept", &them, &later).await.unwrap_err().kind(), Kind::Conflict);
    previous::forget(client, namespace, "kept", &them).await.unwrap();
    assert_eq!(previous::kept(client, namespace, "kept", &us).await.unwrap(), Some(first));
    previous::forget(client, namespace, "kept", &us).await.unwrap();
    previous::forget(client, namespace, "kept", &us).await.unwrap();
    assert_eq!(previous::kept(client, namespace, "kept", &us).await.unwrap(), None);
    let lacking = pgmigration::kubernetes::access::missing(client, namespace, &previous::rights("kept")).await.unwrap();
    assert!(lacking.is_empty(), "the shipped Role lacks {lacking:?}");
    stage.room.end().await;
}
