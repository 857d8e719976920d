//! The operator as it is shipped: it runs where only the strictest pods may, as any user, with its own few rights.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, LogParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::support::{OPERATOR, Room, SYSTEM, Side, available, eventually, operator, render, undisturbed};

#[tokio::test]
async fn runs_among_the_strictest_pods_as_any_user() {
    operator().await;
    let client = Side::New.client().await;
    let namespace = Api::<Namespace>::all(client.clone()).get(SYSTEM).await.unwrap();
    assert_eq!(namespace.metadata.labels.unwrap()["pod-security.kubernetes.io/enforce"], "restricted");

    // As OpenShift would: some user that no image knows, in the root group. It may not take part in the election: it looks for
    // the lease in a namespace where it has no rights.
    let deployments = Api::<Deployment>::namespaced(client.clone(), SYSTEM);
    let mut other = serde_json::to_value(deployments.get(OPERATOR).await.unwrap()).unwrap();
    let labels = json!({"app": "any-user"});
    other["metadata"] = json!({"name": "any-user", "labels": labels});
    other["spec"]["selector"]["matchLabels"] = labels.clone();
    other["spec"]["template"]["metadata"] = json!({"labels": labels});
    other["spec"]["template"]["spec"]["securityContext"]["runAsUser"] = json!(1_000_730_000);
    other["spec"]["template"]["spec"]["securityContext"]["runAsGroup"] = json!(0);
    let environment = other["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    environment.retain(|variable| variable["name"] != "POD_NAMESPACE");
    environment.push(json!({"name": "POD_NAMESPACE", "value": "default"}));
    other["status"] = json!({});
    let _ = deployments.delete("any-user", &kube::api::DeleteParams::foreground()).await;
    eventually("no any-user", || async { deployments.get_opt("any-user").await.unwrap().map_or(Ok(()), |_| Err("still there")) })
        .await;
    deployments.create(&PostParams::default(), &serde_json::from_value(other).unwrap()).await.unwrap();
    available(&client, SYSTEM, "any-user").await;

    let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    let pod = pods.list(&ListParams::default().labels("app=any-user")).await.unwrap().items.remove(0);
    let log = pods.logs(pod.metadata.name.as_ref().unwrap(), &LogParams::default()).await.unwrap();
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
    }
    assert!(log.contains("\"message\":\"starting\"") && !log.contains("holding the lease"), "{log}");
    deployments.delete("any-user", &kube::api::DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn answers_on_its_port() {
    operator().await;
    let _there = undisturbed().await;
    let client = Side::New.client().await;
    let ask = |path: &'static str| {
        let client = client.clone();
        async move {
            let uri = format!("/api/v1/namespaces/{SYSTEM}/services/{OPERATOR}:http/proxy{path}");
            client.request_text(http::Request::get(uri).body(Vec::new()).unwrap()).await
        }
    };
    assert_eq!(ask("/healthz").await.unwrap(), "ok\n");
    assert_eq!(ask("/readyz").await.unwrap(), "ok\n");
    let page = ask("/metrics").await.unwrap();
    assert!(page.contains(&format!("pgmigration_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))), "{page}");
    // It is ready before it leads: an earlier one may still hold the lease.
    eventually("the operator to lead", || async {
        let page = ask("/metrics").await.map_err(|error| error.to_string())?;
        if page.lines().any(|line| line == "pgmigration_leader 1") { Ok(()) } else { Err(page) }
    })
    .await;
}

async fn may(client: &Client, user: &str, verb: &str, group: &str, resource: &str, namespace: &str, name: Option<&str>) -> bool {
    let (resource, subresource) =
        resource.split_once('/').map_or((resource, None), |(whole, part)| (whole, Some(part.to_owned())));
    let attributes = ResourceAttributes {
        verb: Some(verb.into()),
        group: Some(group.into()),
        resource: Some(resource.into()),
        subresource,
        namespace: Some(namespace.into()),
        name: name.map(Into::into),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.into()),
        groups: Some(vec!["system:serviceaccounts".into(), "system:authenticated".into()]),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await.unwrap();
    answer.status.unwrap().allowed
}

#[tokio::test]
async fn rights_end_where_nobody_granted_more() {
    operator().await;
    let client = Side::New.client().await;
    let (home, elsewhere) = (Room::new(Side::New, "rights").await, Room::new(Side::New, "elsewhere").await);
    let account = "onyx-migration";
    Side::New.apply(&render(&["account", &home.name, account]));
    Side::New.apply(&render(&["target", &home.name, account]));
    Side::New.apply(&render(&["source", &elsewhere.name, account, &home.name]));
    let operator = format!("system:serviceaccount:{SYSTEM}:{OPERATOR}");
    let mover = format!("system:serviceaccount:{}:{account}", home.name);
    let (home, away) = (home.name.clone(), elsewhere.name.clone());
    for (user, verb, group, resource, namespace, name, expected) in [
        (&operator, "patch", "pgmigration.dev", "postgresmigrations/status", &home, None, true),
        (&operator, "create", "pgmigration.dev", "postgresmigrations", &home, None, false),
        (&operator, "impersonate", "", "serviceaccounts", &home, Some(account), true),
        (&operator, "impersonate", "", "serviceaccounts", &home, Some("default"), false),
        (&operator, "impersonate", "", "serviceaccounts", &away, Some(account), false),
        (&operator, "create", "batch", "jobs", &home, None, true),
        (&operator, "create", "batch", "jobs", &away, None, false),
        (&operator, "get", "", "secrets", &home, None, false),
        (&operator, "create", "", "pods/exec", &home, None, false),
        (&operator, "patch", "apps", "deployments", &home, None, false),
        (&mover, "get", "", "secrets", &home, None, true),
        (&mover, "list", "", "secrets", &home, None, false),
        (&mover, "get", "", "secrets", &away, None, false),
        (&mover, "create", "", "pods/exec", &away, None, true),
        (&mover, "patch", "apps", "deployments/scale", &away, None, true),
        (&mover, "patch", "", "configmaps", &home, None, true),
        (&mover, "patch", "", "configmaps", &away, None, false),
        (&mover, "patch", "pgmigration.dev", "postgresmigrations", &home, None, false),
    ] {
        // Granted rights reach the authorizer's cache a moment later.
        let what = format!("{user} {verb} {resource} {name:?} in {namespace}: {expected}");
        eventually(&what, || async {
            if may(&client, user, verb, group, resource, namespace, name).await == expected { Ok(()) } else { Err("not so") }
        })
        .await;
    }
    for namespace in [home, away] {
        Side::New.kubectl(&["delete", "namespace", &namespace, "--wait=false"], "").unwrap();
    }
}
