//! Rules for the shipped rights: nothing by wildcard, nothing of a neighbour's, every rule explained.

use std::collections::BTreeSet;
use std::process::Command;

use pgmigration::api::PostgresMigrationSpec;
use pgmigration::kubernetes::access::Right;
use pgmigration::plan::checks::rights;
use serde_json::{Value, json};

use crate::root;

/// All documents that `config/render` prints for these arguments.
pub(crate) fn render(arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(root().join("config/render")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

fn rules(documents: &[Value], kind: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let words = |value: &Value| value.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect();
    documents
        .iter()
        .filter(|document| document["kind"] == kind)
        .flat_map(|role| role["rules"].as_array().unwrap())
        .map(|rule| (words(&rule["resources"]), words(&rule["verbs"])))
        .collect()
}

const RENDERINGS: [&[&str]; 5] = [
    &["operator", "registry.example/operator:1"],
    &["account", "onyx", "mover"],
    &["source", "onyx", "mover"],
    &["target", "onyx", "mover", "home"],
    &["remote", "onyx", "mover"],
];

#[test]
fn no_wildcards_and_no_listing_of_secrets() {
    for arguments in RENDERINGS {
        let documents = render(arguments);
        for (resources, verbs) in [rules(&documents, "Role"), rules(&documents, "ClusterRole")].concat() {
            assert!(!resources.is_empty() && !verbs.is_empty());
            for word in resources.iter().chain(&verbs) {
                assert!(!word.contains('*'), "{arguments:?} grants {word}");
            }
            if resources.iter().any(|resource| resource == "secrets") {
                assert!(!verbs.iter().any(|verb| verb == "list" || verb == "watch"), "{arguments:?} lists secrets");
            }
        }
    }
}

#[test]
fn the_operator_reaches_nothing_of_anybody_by_itself() {
    let documents = render(RENDERINGS[0]);
    for (resources, verbs) in rules(&documents, "ClusterRole") {
        for resource in &resources {
            let reading = verbs.iter().all(|verb| ["get", "list", "watch"].contains(&verb.as_str()));
            assert!(
                resource.starts_with("postgresmigrations") || resource == "events" || (resource == "jobs" && reading),
                "{resource}: {verbs:?} everywhere"
            );
        }
    }
}

#[test]
fn the_operator_may_take_on_one_account_only() {
    let documents = render(RENDERINGS[1]);
    let role = documents.iter().find(|document| document["metadata"]["name"] == "pgmigration-operator-mover").unwrap();
    let rule = role["rules"].as_array().unwrap().iter().find(|rule| rule["verbs"].to_string().contains("impersonate")).unwrap();
    assert_eq!((&rule["resources"][0], &rule["resourceNames"]), (&"serviceaccounts".into(), &serde_json::json!(["mover"])));
}

#[test]
fn every_name_is_filled_in() {
    for arguments in &RENDERINGS[1..] {
        for document in render(arguments) {
            let text = document.to_string();
            for placeholder in ["NAMESPACE\"", "ACCOUNT", "HOME\""] {
                assert!(!text.contains(placeholder), "{arguments:?} leaves {placeholder}: {text}");
            }
        }
    }
    let target = render(RENDERINGS[3]);
    let binding = target.iter().find(|document| document["kind"] == "RoleBinding").unwrap();
    assert_eq!((&binding["metadata"]["namespace"], &binding["subjects"][0]["namespace"]), (&"onyx".into(), &"home".into()));
    let operator = render(RENDERINGS[0]);
    let container =
        &operator.iter().find(|document| document["kind"] == "Deployment").unwrap()["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["env"][0]["value"]), (&RENDERINGS[0][1].into(), &RENDERINGS[0][1].into()));
}

#[test]
fn every_rule_is_explained() {
    for file in ["operator/rbac.yaml", "migration/account.yaml", "migration/source.yaml", "migration/target.yaml"] {
        let text = std::fs::read_to_string(root().join("config").join(file)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let mut explained_role = false;
        for pair in lines.windows(2) {
            if pair[1] == "rules:" || pair[0] == "---" {
                explained_role = pair[0] == "---" && pair[1].starts_with('#');
            }
            let first_of_explained = pair[0] == "rules:" && pair[1].starts_with("- apiGroups");
            if pair[1].starts_with("- apiGroups") && !first_of_explained {
                assert!(pair[0].starts_with('#') || explained_role, "config/{file}: no reason before {:?}", pair[1]);
            }
        }
    }
}

/// A spec that uses everything there is, so that every right is asked for.
fn everything() -> PostgresMigrationSpec {
    let kinds = ["Deployment", "StatefulSet", "ReplicaSet", "CronJob"];
    let by_name = kinds.map(|kind| json!({"kind": kind, "name": "x"}));
    let by_label = kinds.map(|kind| json!({"kind": kind, "labelSelector": "app=x"}));
    let server = |kind: &str| json!({"exec": {"workloadRef": {"kind": kind, "name": "postgres"}}});
    let variable =
        |kind: &str| json!({"workloadRef": {"kind": kind, "name": "x"}, "container": "c", "env": "E", "template": "$(host)"});
    let key = |kind: &str| json!({"kind": kind, "name": "x", "key": "k", "template": "$(host)"});
    let writers = [by_name.clone(), by_label].concat();
    let spec = json!({
        "serviceAccountName": "mover",
        "source": {
            "cluster": {"kubeconfigSecretRef": {"name": "old", "key": "kubeconfig"}},
            "postgres": server("StatefulSet"),
            "writers": writers,
        },
        "archive": {"s3": {"bucket": "archive", "credentialsSecretRef": {"name": "s3"}, "caSecretRef": {"name": "ca", "key": "ca.crt"}}},
        "databases": [{"name": "d", "owner": {"name": "o", "passwordSecretRef": {"name": "db", "key": "password"}}}],
        "target": {
            "postgres": server("Deployment"),
            "endpoint": {"host": "postgres"},
            "application": {
                "repoint": [key("ConfigMap"), key("Secret"), variable("Deployment"), variable("StatefulSet")],
                "schemaJobs": [{"name": "alembic", "workloadRef": {"kind": "Deployment", "name": "x"}, "command": ["alembic"]}],
                "workloads": by_name,
            },
        },
    });
    serde_json::from_value(spec).unwrap()
}

/// Asked for without a review before: a cluster may have none of them, and KEDA need not be there at all.
const AUTOSCALERS: [&str; 2] = ["list horizontalpodautoscalers.autoscaling", "list scaledobjects.keda.sh"];

/// What the code asks for and what the Role grants are the same: nothing missing, nothing too much. A right to one object is
/// granted for all of its kind, because a Role cannot know their names.
#[test]
fn roles_grant_what_is_asked_for_and_no_more() {
    let spec = everything();
    for (role, part, asked) in [
        ("pgmigration-account", "account", rights::home(&spec)),
        ("pgmigration-source", "source", rights::source(&spec)),
        ("pgmigration-target", "target", rights::target(&spec, "previous")),
    ] {
        let asked: BTreeSet<String> = asked.into_iter().map(|right| Right { name: None, ..right }.to_string()).collect();
        let documents = render(&[part, "onyx", "mover"]);
        let rules = documents.iter().find(|document| document["kind"] == "Role" && document["metadata"]["name"] == role).unwrap();
        let mut granted = BTreeSet::new();
        for rule in rules["rules"].as_array().unwrap() {
            for (resource, verb) in product(&rule["resources"], &rule["verbs"]) {
                granted.insert(Right::new(&verb, rule["apiGroups"][0].as_str().unwrap(), &resource).to_string());
            }
        }
        let missing: Vec<_> = asked.difference(&granted).collect();
        let unused: Vec<_> = granted.difference(&asked).filter(|right| !AUTOSCALERS.contains(&right.as_str())).collect();
        assert!(missing.is_empty() && unused.is_empty(), "{role} lacks {missing:?}; nobody asks for {unused:?}");
    }
}

fn product(one: &Value, other: &Value) -> Vec<(String, String)> {
    let words =
        |value: &Value| -> Vec<String> { value.as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect() };
    words(one).into_iter().flat_map(|a| words(other).into_iter().map(move |b| (a.clone(), b))).collect()
}
