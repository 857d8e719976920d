//! Bad input: one clear condition, no effect on either side, nothing lost.
//!
//! Every test asks for a whole migration (`mode: Migrate`) of one stage that all of them share, with one thing wrong. Since
//! none may change anything, each compares the stage with how it was in the beginning: databases, the next transaction id of
//! every server (any write takes one), workloads, settings, Secrets, Jobs and the bucket.

mod stage;

use std::time::{Duration, Instant};

use kube::api::DeleteParams;
use pgmigration::api::conditions::{reasons, types};
use pgmigration::api::{Outcome, PostgresMigrationStatus};
use serde_json::{Value, json};

use self::stage::{Stage, stage};
use crate::support::migration::Migration;
use crate::support::setting;
use crate::support::snapshot::assert_same;

/// A look that got no answer is repeated for 15 seconds before it is a refusal; two cores and thirty tests do the rest.
const SOON: Duration = Duration::from_secs(240);

/// Waits until the checks have come to an end.
async fn judged(migration: &Migration) -> PostgresMigrationStatus {
    let begun = Instant::now();
    loop {
        let status = migration.status().await;
        let planned = status.conditions.iter().find(|c| c.type_ == types::PLANNED);
        if status.outcome.is_some()
            || planned.is_some_and(|c| c.status == "True" || c.reason != reasons::PROGRESSING && c.status == "False")
        {
            return status;
        }
        assert!(begun.elapsed() < SOON, "{} was not judged: {:?} {:?}", migration.name, status.message, status.steps);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Applies the stage's spec with `change`, which must be refused: `reason` at `path`, in a message that holds all `words`.
/// In words, `{old}` and `{home}` stand for the stage's namespaces.
async fn refused(name: &str, change: impl FnOnce(&mut Value), reason: &str, path: &str, words: &[&str]) {
    let stage = stage().await;
    let mut spec = stage.spec();
    change(&mut spec);
    let migration = Migration::apply(&stage.home, name, spec).await;
    let status = judged(&migration).await;
    let told = format!("{name}: {:?} {:#?}", status.message, status.blockers);
    assert_eq!(status.outcome, Some(Outcome::Failed), "{told}");
    assert!(status.start_time.is_none() && status.quiesced.is_empty() && status.fence.is_none(), "{told}");
    let planned = status.conditions.iter().find(|c| c.type_ == types::PLANNED).unwrap();
    assert_eq!((planned.status.as_str(), planned.reason.as_str()), ("False", reason), "{told}");
    let first = &status.blockers[0];
    assert_eq!((first.reason.as_str(), first.path.as_str()), (reason, path), "{told}");
    for word in words {
        let word = word.replace("{old}", &stage.old).replace("{home}", &stage.home);
        assert!(first.message.contains(&word), "{word:?} is not said; {told}");
    }
    assert!(planned.message.contains(path), "{}", planned.message);
    assert!(status.message.as_ref().unwrap().contains(path), "{told}");
    let object = migration.api.get(name).await.unwrap();
    assert!(object.metadata.finalizers.is_none(), "a finalizer without anything to undo");
    unchanged(stage).await;
    migration.api.delete(name, &DeleteParams::default()).await.unwrap();
}

async fn unchanged(stage: &Stage) {
    assert_same(&stage.before, &stage.snapshot().await);
}

fn set(spec: &mut Value, pointer: &str, value: Value) {
    *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("the spec has no {pointer}")) = value;
}

const OLD_CLUSTER: &str = "the cluster of Secret old-cluster";

#[tokio::test]
async fn the_stage_itself_is_fit_and_a_plan_changes_nothing() {
    let stage = stage().await;
    let mut spec = stage.spec();
    set(&mut spec, "/mode", json!("Plan"));
    let migration = Migration::apply(&stage.home, "fit", spec).await;
    let status = judged(&migration).await;
    let planned = status.conditions.iter().find(|c| c.type_ == types::PLANNED).unwrap();
    assert_eq!(planned.status, "True", "{:#?}", status.blockers);
    assert!(status.outcome.is_none() && status.start_time.is_none());
    migration.until("rest", |s| (format!("{:?}", s.phase) == "Some(Pending)").then_some(())).await;
    let said: Vec<&str> = status.warnings.iter().map(|w| w.reason.as_str()).collect();
    assert_eq!(said, [reasons::COLLATION_CHANGED], "{:#?}", status.warnings);
    unchanged(stage).await;
    migration.api.delete("fit", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_plan_that_is_blocked_is_looked_at_again_once_it_is_mended() {
    let stage = stage().await;
    let mut spec = stage.spec();
    set(&mut spec, "/mode", json!("Plan"));
    set(&mut spec, "/databases/0/name", json!("nonesuch"));
    let migration = Migration::apply(&stage.home, "mended", spec).await;
    let status = judged(&migration).await;
    assert_eq!(status.blockers[0].reason, reasons::DATABASE_NOT_FOUND);
    assert!(status.outcome.is_none(), "a plan does not fail: {:?}", status.outcome);
    migration.change(json!({"databases": stage.spec()["databases"]})).await;
    let begun = Instant::now();
    loop {
        let status = migration.status().await;
        if status.conditions.iter().any(|c| c.type_ == types::PLANNED && c.status == "True") {
            break;
        }
        assert!(begun.elapsed() < SOON, "{:?} {:#?}", status.message, status.blockers);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    unchanged(stage).await;
    migration.api.delete("mended", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn source_pod_absent() {
    let change = |spec: &mut Value| set(spec, "/source/postgres/exec/workloadRef/name", json!("nonesuch"));
    refused(
        "source-absent",
        change,
        reasons::POD_NOT_READY,
        "spec.source.postgres.exec",
        &["StatefulSet {old}/nonesuch", OLD_CLUSTER],
    )
    .await;
}

#[tokio::test]
async fn source_pod_not_running() {
    let change =
        |spec: &mut Value| set(spec, "/source/postgres/exec/workloadRef", json!({"kind": "Deployment", "name": "pending"}));
    let words = ["Deployment {old}/pending", "Pending", OLD_CLUSTER];
    refused("source-pending", change, reasons::POD_NOT_READY, "spec.source.postgres.exec", &words).await;
}

#[tokio::test]
async fn container_without_pg_dump() {
    let change = |spec: &mut Value| set(spec, "/source/postgres/exec/container", json!("bare"));
    let words = ["lacks pg_dump:", "\"bare\"", "{old}/pg-0", OLD_CLUSTER];
    refused("no-pg-dump", change, reasons::TOOL_NOT_FOUND, "spec.source.postgres.exec.container", &words).await;
}

#[tokio::test]
async fn container_absent() {
    let change = |spec: &mut Value| set(spec, "/source/postgres/exec/container", json!("nonesuch"));
    let words = ["nonesuch", "{old}/pg-0", OLD_CLUSTER];
    refused("container-absent", change, reasons::OBJECT_NOT_FOUND, "spec.source.postgres.exec", &words).await;
}

#[tokio::test]
async fn database_absent() {
    let change = |spec: &mut Value| set(spec, "/databases/0/name", json!("nonesuch"));
    let words = ["\"nonesuch\"", "{old}/pg-0", OLD_CLUSTER];
    refused("database-absent", change, reasons::DATABASE_NOT_FOUND, "spec.databases[0].name", &words).await;
}

#[tokio::test]
async fn target_older_than_source() {
    let change = |spec: &mut Value| {
        set(spec, "/source", json!({"postgres": {"exec": {"workloadRef": {"kind": "StatefulSet", "name": "pg"}}}}));
        set(spec, "/databases/0/name", json!("full"));
        set(spec, "/target/postgres/exec/workloadRef/name", json!("older"));
        set(spec, "/target/endpoint/host", json!("older"));
    };
    let words = ["PostgreSQL 15", "{home}/older-0 of this cluster", "{home}/pg-0 of this cluster"];
    refused("target-older", change, reasons::TARGET_OLDER, "spec.target.postgres", &words).await;
}

#[tokio::test]
async fn target_database_holds_tables() {
    let change = |spec: &mut Value| set(spec, "/databases/0/targetName", json!("full"));
    let words = ["\"full\"", "1 tables", "{home}/pg-0 of this cluster"];
    refused("target-full", change, reasons::TARGET_NOT_EMPTY, "spec.databases[0].existingTarget", &words).await;
}

#[tokio::test]
async fn owner_role_absent() {
    let change = |spec: &mut Value| set(spec, "/databases/0/owner/name", json!("nobody"));
    let words = ["\"nobody\" does not exist", "{home}/pg-0 of this cluster"];
    refused("owner-absent", change, reasons::OWNER_NOT_READY, "spec.databases[0].owner.name", &words).await;
}

#[tokio::test]
async fn owner_password_wrong() {
    let change = |spec: &mut Value| set(spec, "/databases/0/owner/passwordSecretRef", json!({"name": "db", "key": "wrong"}));
    let words = ["pg:5432", "password authentication failed", "{home}/pg-0 of this cluster"];
    refused("owner-password", change, reasons::ENDPOINT_MISMATCH, "spec.target.endpoint", &words).await;
}

#[tokio::test]
async fn workload_at_zero_without_replicas() {
    let change = |spec: &mut Value| set(spec, "/target/application/workloads/0", json!({"kind": "Deployment", "name": "idle"}));
    let path = "spec.target.application.workloads[0].replicas";
    refused("at-zero", change, reasons::REPLICAS_NOT_KNOWN, path, &["Deployment {home}/idle of this cluster"]).await;
}

#[tokio::test]
async fn workload_of_the_application_absent() {
    let change = |spec: &mut Value| set(spec, "/target/application/workloads/0/name", json!("nonesuch"));
    let path = "spec.target.application.workloads[0].name";
    refused("workload-absent", change, reasons::OBJECT_NOT_FOUND, path, &["Deployment {home}/nonesuch of this cluster"]).await;
}

#[tokio::test]
async fn endpoint_leads_to_another_server() {
    let change = |spec: &mut Value| set(spec, "/target/endpoint/host", json!("older"));
    let words = ["older:5432", "another server", "{home}/pg-0 of this cluster"];
    refused("other-server", change, reasons::ENDPOINT_MISMATCH, "spec.target.endpoint", &words).await;
}

#[tokio::test]
async fn endpoint_leads_nowhere() {
    let change = |spec: &mut Value| set(spec, "/target/endpoint/port", json!(5433));
    let words = ["pg:5433", "does not answer", "{home}/pg-0 of this cluster"];
    refused("no-server", change, reasons::ENDPOINT_MISMATCH, "spec.target.endpoint", &words).await;
}

#[tokio::test]
async fn bucket_absent() {
    let change = |spec: &mut Value| set(spec, "/archive/s3/bucket", json!("pgm-e2e-nonesuch"));
    let words = ["pgm-e2e-nonesuch", "Secret {home}/bucket of this cluster"];
    refused("bucket-absent", change, reasons::BUCKET_NOT_FOUND, "spec.archive.s3", &words).await;
}

#[tokio::test]
async fn bucket_secret_wrong() {
    let change = |spec: &mut Value| set(spec, "/archive/s3/credentialsSecretRef/name", json!("wrong-bucket"));
    let words = ["pgm-e2e", "Secret {home}/wrong-bucket of this cluster"];
    refused("bucket-forbidden", change, reasons::BUCKET_FORBIDDEN, "spec.archive.s3", &words).await;
}

#[tokio::test]
async fn bucket_unreachable() {
    let endpoint = setting("PGM_S3_ENDPOINT");
    let (host, _) = endpoint.rsplit_once(':').unwrap();
    let change = |spec: &mut Value| set(spec, "/archive/s3/endpoint", json!(format!("{host}:1")));
    let words = [host, "Secret {home}/bucket of this cluster"];
    refused("bucket-unreachable", change, reasons::BUCKET_UNREACHABLE, "spec.archive.s3", &words).await;
}

#[tokio::test]
async fn secrets_absent() {
    let cases = [
        ("bucket", "/archive/s3/credentialsSecretRef/name", "spec.archive.s3.credentialsSecretRef"),
        ("ca", "/archive/s3/caSecretRef/name", "spec.archive.s3.caSecretRef"),
        ("owner", "/databases/0/owner/passwordSecretRef/name", "spec.databases[0].owner.passwordSecretRef"),
        ("kubeconfig", "/source/cluster/kubeconfigSecretRef/name", "spec.source.cluster.kubeconfigSecretRef"),
    ];
    for (name, pointer, path) in cases {
        let change = |spec: &mut Value| set(spec, pointer, json!("nonesuch"));
        let name = format!("no-secret-{name}");
        refused(&name, change, reasons::SECRET_NOT_FOUND, path, &["Secret {home}/nonesuch", "this cluster"]).await;
    }
}

#[tokio::test]
async fn keys_of_secrets_absent() {
    let cases = [
        ("ca", "/archive/s3/caSecretRef/key", "spec.archive.s3.caSecretRef"),
        ("owner", "/databases/0/owner/passwordSecretRef/key", "spec.databases[0].owner.passwordSecretRef"),
        ("kubeconfig", "/source/cluster/kubeconfigSecretRef/key", "spec.source.cluster.kubeconfigSecretRef"),
    ];
    for (name, pointer, path) in cases {
        let change = |spec: &mut Value| set(spec, pointer, json!("nonesuch"));
        refused(&format!("no-key-{name}"), change, reasons::SECRET_NOT_FOUND, path, &["{home}/", "nonesuch", "this cluster"])
            .await;
    }
    let change = |spec: &mut Value| set(spec, "/archive/s3/credentialsSecretRef/name", json!("db"));
    let words = ["Secret {home}/db", "AWS_ACCESS_KEY_ID", "this cluster"];
    refused("no-key-bucket", change, reasons::SECRET_NOT_FOUND, "spec.archive.s3.credentialsSecretRef", &words).await;
}

async fn kubeconfig(key: &str, reason: &str, words: &[&str]) {
    let change = |spec: &mut Value| set(spec, "/source/cluster/kubeconfigSecretRef", json!({"name": "kubeconfigs", "key": key}));
    let words: Vec<&str> = ["Secret {home}/kubeconfigs"].iter().chain(words).copied().collect();
    let name = format!("kubeconfig-{key}");
    refused(&name, change, reason, "spec.source.cluster.kubeconfigSecretRef", &words).await;
}

#[tokio::test]
async fn kubeconfig_unreachable() {
    kubeconfig("unreachable", reasons::CLUSTER_UNREACHABLE, &["namespace {old}"]).await;
}

#[tokio::test]
async fn kubeconfig_expired() {
    kubeconfig("expired", reasons::CLUSTER_UNAUTHORIZED, &["expired at 2001-"]).await;
}

#[tokio::test]
async fn kubeconfig_revoked() {
    kubeconfig("revoked", reasons::CLUSTER_UNAUTHORIZED, &["namespace {old}"]).await;
}

#[tokio::test]
async fn kubeconfig_that_runs_or_reads_or_trusts_anything() {
    kubeconfig("exec", reasons::KUBECONFIG_REFUSED, &["exec"]).await;
    kubeconfig("files", reasons::KUBECONFIG_REFUSED, &["tokenFile"]).await;
    kubeconfig("insecure", reasons::KUBECONFIG_REFUSED, &["insecure-skip-tls-verify"]).await;
}

#[tokio::test]
async fn account_without_exec_and_scale() {
    let change = |spec: &mut Value| set(spec, "/serviceAccountName", json!("weak"));
    let words = [
        "ServiceAccount {home}/weak",
        "namespace {home} of this cluster",
        "get pods/exec",
        "create pods/exec",
        "patch deployments.apps/scale \"api\"",
    ];
    refused("weak", change, reasons::MISSING_PERMISSION, "spec.serviceAccountName", &words).await;
}

#[tokio::test]
async fn account_of_the_kubeconfig_without_rights() {
    let words = [
        "Secret {home}/kubeconfigs key weak",
        "namespace {old}",
        "get pods/exec",
        "create pods/exec",
        "list pods",
        "patch deployments.apps/scale \"writer\"",
        "list deployments.apps",
    ];
    kubeconfig("weak", reasons::MISSING_PERMISSION, &words).await;
}

#[tokio::test]
async fn account_that_nobody_allowed() {
    for (account, word) in [("unmarked", "pgmigration.dev/allow"), ("nonesuch", "config/migration/account.yaml")] {
        let change = |spec: &mut Value| set(spec, "/serviceAccountName", json!(account));
        let named = format!("ServiceAccount {{home}}/{account}");
        let path = "spec.serviceAccountName";
        refused(&format!("account-{account}"), change, reasons::SERVICE_ACCOUNT_NOT_ALLOWED, path, &[&named, word]).await;
    }
}

#[tokio::test]
async fn writers_that_match_nothing() {
    let change =
        |spec: &mut Value| set(spec, "/source/writers", json!([{"kind": "Deployment", "labelSelector": "tier=nonesuch"}]));
    let words = ["Deployment", "tier=nonesuch", "namespace {old}", OLD_CLUSTER];
    refused("no-writers", change, reasons::WRITER_NOT_FOUND, "spec.source.writers[0].labelSelector", &words).await;
}

#[tokio::test]
async fn writers_among_which_the_server_is() {
    let change = |spec: &mut Value| set(spec, "/source/writers", json!([{"kind": "StatefulSet", "name": "pg"}]));
    let words = ["StatefulSet {old}/pg", OLD_CLUSTER];
    refused("server-as-writer", change, reasons::SERVER_AMONG_WORKLOADS, "spec.source.writers[0]", &words).await;
}

#[tokio::test]
async fn writers_of_a_kind_that_is_not_supported() {
    let change = |spec: &mut Value| set(spec, "/source/writers", json!([{"kind": "DaemonSet", "name": "agent"}]));
    refused("daemons", change, reasons::KIND_NOT_SUPPORTED, "spec.source.writers[0].kind", &["DaemonSet"]).await;
}

#[tokio::test]
async fn settings_that_cannot_be_re_pointed() {
    let entry = |name: &str, key: &str| json!([{"kind": "ConfigMap", "name": name, "key": key, "template": "$(host)"}]);
    for (case, value, word) in [
        ("object", entry("nonesuch", "PGHOST"), "ConfigMap {home}/nonesuch does not exist"),
        ("key", entry("app-config", "NONESUCH"), "ConfigMap app-config key NONESUCH in namespace {home} of this cluster"),
        ("immutable", entry("fixed", "PGHOST"), "immutable"),
    ] {
        let change = |spec: &mut Value| set(spec, "/target/application/repoint", value);
        let path = "spec.target.application.repoint[0]";
        refused(&format!("repoint-{case}"), change, reasons::REPOINT_NOT_FOUND, path, &[word]).await;
    }
}

#[tokio::test]
async fn schema_job_of_a_container_that_is_not_there() {
    let change = |spec: &mut Value| set(spec, "/target/application/schemaJobs/0/container", json!("nonesuch"));
    let path = "spec.target.application.schemaJobs[0].container";
    refused("schema-job", change, reasons::OBJECT_NOT_FOUND, path, &["Deployment {home}/api of this cluster", "\"nonesuch\""])
        .await;
}

#[tokio::test]
async fn prepared_transactions() {
    let change = |spec: &mut Value| set(spec, "/databases/0/name", json!("prepared"));
    let words = ["\"pending\"", "{old}/pg-0", OLD_CLUSTER];
    refused("prepared", change, reasons::PREPARED_TRANSACTIONS, "spec.databases[0].name", &words).await;
}

#[tokio::test]
async fn expressions_that_ask_for_the_name_of_the_database() {
    let change = |spec: &mut Value| set(spec, "/databases/0/name", json!("named"));
    let words = ["current_database()", "{old}/pg-0", OLD_CLUSTER];
    refused("named", change, reasons::DATABASE_NAME_IN_EXPRESSION, "spec.databases[0]", &words).await;
}

#[tokio::test]
async fn everything_wrong_at_once_is_said_at_once() {
    let change = |spec: &mut Value| {
        set(spec, "/databases/0/owner/name", json!("nobody"));
        set(spec, "/archive/s3/bucket", json!("pgm-e2e-nonesuch"));
        set(spec, "/source/writers", json!([{"kind": "Deployment", "name": "nonesuch"}]));
        set(spec, "/target/application/workloads/0", json!({"kind": "Deployment", "name": "idle"}));
    };
    let stage = stage().await;
    let mut spec = stage.spec();
    change(&mut spec);
    let migration = Migration::apply(&stage.home, "everything", spec).await;
    let status = judged(&migration).await;
    let all: Vec<&str> = status.blockers.iter().map(|b| b.reason.as_str()).collect();
    for reason in [reasons::OWNER_NOT_READY, reasons::BUCKET_NOT_FOUND, reasons::WRITER_NOT_FOUND, reasons::REPLICAS_NOT_KNOWN] {
        assert!(all.contains(&reason), "{reason} is not among {all:?}");
    }
    assert!(status.message.unwrap().contains("3 more"), "{all:?}");
    unchanged(stage).await;
    migration.api.delete("everything", &DeleteParams::default()).await.unwrap();
}
