//! Clients, rights, Secrets, the pod of a server.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::{Api, Client};
use pgmigration::api::{ExecPostgres, WorkloadKind, WorkloadRef};
use pgmigration::kubernetes::access::{Right, missing};
use pgmigration::kubernetes::clients::{ClientError, impersonated, reach, remote};
use pgmigration::kubernetes::pods::{PodError, PodIdentity, Presence, resolve, still_there};
use pgmigration::kubernetes::secrets::{SecretError, read_secret_key, read_secret_text};

use super::{ACCOUNT, Stage, sleeper};
use crate::support::{Room, Side, eventually};

async fn who(client: &Client) -> (String, Vec<String>) {
    let review = Api::<SelfSubjectReview>::all(client.clone())
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .unwrap();
    let user = review.status.unwrap().user_info.unwrap();
    (user.username.unwrap_or_default(), user.groups.unwrap_or_default())
}

#[tokio::test]
async fn an_impersonated_account_is_that_account_and_nothing_more() {
    let stage = Stage::new("who").await;
    let (name, groups) = who(&stage.client).await;
    assert_eq!(name, format!("system:serviceaccount:{}:{ACCOUNT}", stage.namespace()));
    assert!(!groups.iter().any(|group| group == "system:masters"), "{groups:?}");
    assert!(groups.contains(&format!("system:serviceaccounts:{}", stage.namespace())), "{groups:?}");

    let wanted = [
        Right::new("get", "", "pods/exec"),
        Right::new("patch", "apps", "deployments/scale"),
        Right::new("delete", "", "namespaces"),
        Right::new("list", "", "secrets"),
        Right::new("get", "", "secrets").to("one"),
        Right::new("list", "", "secrets"),
    ];
    let lacking: Vec<String> =
        missing(&stage.client, stage.namespace(), &wanted).await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(lacking, ["delete namespaces", "list secrets"]);
    let nobody = impersonated(&Side::Old.config().await, stage.namespace(), "nobody").unwrap();
    assert_eq!(missing(&nobody, stage.namespace(), &wanted).await.unwrap().len(), 5);
    stage.room.end().await;
}

#[tokio::test]
async fn a_kubeconfig_leads_to_its_cluster_or_says_why_not() {
    let stage = Stage::new("remote").await;
    let admin = Side::Old.config().await;
    let token = stage.kubectl(&["create", "token", ACCOUNT, "--duration=10m"]);
    let authority = Side::Old
        .kubectl(
            &[
                "config",
                "view",
                "--minify",
                "--flatten",
                "--raw",
                "-o",
                "jsonpath={.clusters[0].cluster.certificate-authority-data}",
            ],
            "",
        )
        .unwrap();
    let other_authority = Side::New
        .kubectl(
            &[
                "config",
                "view",
                "--minify",
                "--flatten",
                "--raw",
                "-o",
                "jsonpath={.clusters[0].cluster.certificate-authority-data}",
            ],
            "",
        )
        .unwrap();
    let kubeconfig = |server: &str, authority: &str, token: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: '{server}', certificate-authority-data: '{authority}'}}}}]\n\
             users: [{{name: u, user: {{token: '{token}'}}}}]\n"
        )
    };
    let server = admin.cluster_url.to_string();
    let tried = async |server: &str, authority: &str, token: &str| {
        let (client, server) = remote(&kubeconfig(server, authority, token))?;
        reach(&client, &server).await.map(|_| client)
    };

    let client = tried(&server, &authority, token.trim()).await.unwrap();
    assert_eq!(who(&client).await.0, format!("system:serviceaccount:{}:{ACCOUNT}", stage.namespace()));

    let wrong = tried(&server, &authority, "wrong").await.err().unwrap();
    assert!(matches!(wrong, ClientError::Unauthorized { .. }), "{wrong}");
    let foreign = tried(&server, &other_authority, token.trim()).await.err().unwrap();
    assert!(matches!(&foreign, ClientError::Unreachable { detail, .. } if detail.contains("certificate")), "{foreign}");
    let closed = tried("https://127.0.0.1:9", &authority, token.trim()).await.err().unwrap();
    assert!(matches!(closed, ClientError::Unreachable { .. }), "{closed}");
    let nowhere = tried("https://no-such-host.invalid", &authority, token.trim()).await.err().unwrap();
    assert!(matches!(nowhere, ClientError::Unreachable { .. }), "{nowhere}");
    stage.room.end().await;
}

#[tokio::test]
async fn a_secret_key_is_read_or_its_absence_is_told_exactly() {
    let stage = Stage::new("secret").await;
    let elsewhere = Room::new(Side::Old, "secret-elsewhere").await;
    stage.apply(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: bucket}\nstringData: {key: 'value ', empty: ''}\ndata: {binary: //8=}\n",
    );
    let namespace = stage.namespace();
    assert_eq!(read_secret_key(&stage.client, namespace, "bucket", "key").await.unwrap(), b"value ");
    assert_eq!(read_secret_text(&stage.client, namespace, "bucket", "key").await.unwrap(), "value");
    let error = read_secret_key(&stage.client, namespace, "bucket", "other").await.unwrap_err();
    assert!(matches!(error, SecretError::KeyAbsent { .. }), "{error}");
    let error = read_secret_key(&stage.client, namespace, "bucket", "empty").await.unwrap_err();
    assert!(matches!(error, SecretError::KeyAbsent { .. }), "{error}");
    let error = read_secret_key(&stage.client, namespace, "absent", "key").await.unwrap_err();
    assert!(matches!(error, SecretError::SecretAbsent { .. }), "{error}");
    let error = read_secret_text(&stage.client, namespace, "bucket", "binary").await.unwrap_err();
    assert!(matches!(error, SecretError::NotText { .. }), "{error}");
    let error = read_secret_key(&stage.client, &elsewhere.name, "bucket", "key").await.unwrap_err();
    assert!(matches!(error, SecretError::Forbidden { .. }), "{error}");
    stage.room.end().await;
    elsewhere.end().await;
}

fn by_workload(kind: WorkloadKind, name: &str) -> ExecPostgres {
    let workload_ref = Some(WorkloadRef { kind, name: name.into() });
    ExecPostgres { workload_ref, label_selector: None, container: None, admin_user: None }
}

#[tokio::test]
async fn the_pod_of_a_server_is_found_and_known_again() {
    let stage = Stage::new("pod").await;
    stage.apply(&(sleeper("StatefulSet", "pg", 1, 0) + &sleeper("Deployment", "twin", 2, 0)));
    let namespace = stage.namespace();
    let found: PodIdentity = eventually("the pod of the StatefulSet", || async {
        resolve(&stage.client, namespace, &by_workload(WorkloadKind::StatefulSet, "pg")).await
    })
    .await;
    assert_eq!((found.name.as_str(), found.container.as_str()), ("pg-0", "main"));
    let by_label = ExecPostgres { workload_ref: None, label_selector: Some("app=pg".into()), container: None, admin_user: None };
    assert_eq!(resolve(&stage.client, namespace, &by_label).await.unwrap(), found);
    assert_eq!(still_there(&stage.client, &found).await.unwrap(), Presence::Ready);

    let twins = eventually("two ready pods", || async {
        match resolve(&stage.client, namespace, &by_workload(WorkloadKind::Deployment, "twin")).await {
            Err(PodError::Ambiguous(text)) => Ok(text),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(twins.contains("2 running and ready pods"), "{twins}");
    let error = resolve(&stage.client, namespace, &by_workload(WorkloadKind::Deployment, "absent")).await.unwrap_err();
    assert!(
        matches!(&error, PodError::NotFound(text) if text == &format!("Deployment {namespace}/absent does not exist")),
        "{error}"
    );
    let error = resolve(&stage.client, namespace, &by_workload(WorkloadKind::DaemonSet, "pg")).await.unwrap_err();
    assert!(matches!(error, PodError::Unusable(_)), "{error}");

    stage.kubectl(&["delete", "pod", "pg-0", "--wait=true"]);
    eventually("another pod of that name", || async {
        match still_there(&stage.client, &found).await.unwrap() {
            Presence::Replaced(uid) if uid != found.uid => Ok(()),
            other => Err(other),
        }
    })
    .await;
    stage.room.end().await;
}
