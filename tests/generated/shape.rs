//! Rules for the shape of the object, forced by consoles that draw forms from it, by status tools, and by upgrades that may
//! only loosen.

use kube::CustomResourceExt;
use pgmigration::api::PostgresMigration;
use serde_json::Value;

use crate::root;

/// The committed definition's schema: this is what gets installed.
fn schema() -> Value {
    let text = std::fs::read_to_string(root().join("crds/postgresmigrations.yaml")).unwrap();
    let definition: Value = serde_saphyr::from_str(&text).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every schema at or below `schema`, with its path.
fn walk(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    found.push((path.to_owned(), schema.clone()));
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        walk(member, &format!("{path}.{name}"), found);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), found);
    }
}

fn below(member: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    walk(&schema()["properties"][member], member, &mut found);
    assert!(found.len() > 40, "the walk saw only {} schemas of {member}", found.len());
    found
}

/// What breaks a rule for one schema of the spec.
fn faults(schema: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for word in [
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "$ref",
        "nullable",
        "additionalProperties",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
    ] {
        if !schema[word].is_null() {
            faults.push(format!("has {word}"));
        }
    }
    if schema["description"].as_str().is_none_or(|text| text.trim().len() < 5) {
        faults.push("is not described".into());
    }
    let bounded = |names: &[&str]| names.iter().all(|name| schema[*name].is_number());
    match schema["type"].as_str() {
        Some("string") if !schema["enum"].is_array() && !bounded(&["maxLength"]) => faults.push("has no maxLength".into()),
        Some("array") if !bounded(&["maxItems"]) => faults.push("has no maxItems".into()),
        Some("integer") if !bounded(&["minimum", "maximum"]) => faults.push("has no minimum and maximum".into()),
        Some("number") => faults.push("is a fraction".into()),
        Some("object") if schema["properties"].as_object().is_none_or(serde_json::Map::is_empty) => {
            faults.push("is a map".into())
        }
        Some("string" | "array" | "integer" | "boolean" | "object") => {}
        other => faults.push(format!("has type {other:?}")),
    }
    if schema["enum"].as_array().is_some_and(|words| words.iter().any(|word| !word.is_string())) {
        faults.push("has an enum of more than strings".into());
    }
    faults
}

#[test]
fn every_member_of_the_spec_is_plain_bounded_and_described() {
    let faults: Vec<_> = below("spec")
        .iter()
        // An item is described by the list that holds it.
        .flat_map(|(path, schema)| faults(schema).into_iter().map(move |fault| format!("{path} {fault}")))
        .filter(|fault| !fault.ends_with("[] is not described"))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_rules_find_what_they_look_for() {
    let bad = serde_json::json!({"type": "string", "nullable": true, "oneOf": []});
    assert_eq!(faults(&bad), ["has oneOf", "has nullable", "is not described", "has no maxLength"]);
    let map = serde_json::json!({"type": "object", "description": "Labels.", "additionalProperties": {"type": "string"}});
    assert_eq!(faults(&map), ["has additionalProperties", "is a map"]);
}

#[test]
fn refusals_are_sentences_for_people() {
    let (mut found, schema) = (below("spec"), schema());
    found.push((String::new(), schema));
    let mut count = 0;
    for (path, schema) in found {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            count += 1;
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.contains(" must "), "{path}: a rule's message says what must be: {message:?}");
            assert!(rule["rule"].as_str().is_some_and(|rule| !rule.is_empty()));
        }
    }
    assert!(count >= 8, "only {count} rules seen");
}

#[test]
fn conditions_and_steps_are_keyed_lists() {
    let schema = schema();
    for (list, key) in [("conditions", "type"), ("steps", "name")] {
        let list = &schema["properties"]["status"]["properties"][list];
        assert_eq!((list["x-kubernetes-list-type"].as_str(), &list["x-kubernetes-list-map-keys"][0]), (Some("map"), &key.into()));
    }
    assert!(below("status").iter().all(|(_, schema)| schema["nullable"].is_null()));
}

/// Members of the spec that may change while a migration runs. All others are fixed by a rule once it has started.
const CONTROLS: [&str; 5] = ["suspend", "cancel", "retry", "rollback", "unfence"];

#[test]
fn every_member_of_the_spec_is_fixed_or_a_control() {
    let schema = schema();
    let rules = schema["x-kubernetes-validations"].as_array().unwrap();
    let fixing = rules.iter().find_map(|rule| rule["rule"].as_str().filter(|text| text.contains("startTime"))).unwrap();
    let fixed = |path: &str| fixing.contains(&format!("self.spec.{path} == oldSelf.spec.{path}"));
    for name in schema["properties"]["spec"]["properties"].as_object().unwrap().keys() {
        if name == "archive" {
            // Its members one by one: how long it is kept may change.
            for part in schema["properties"]["spec"]["properties"]["archive"]["properties"].as_object().unwrap().keys() {
                assert!(fixed(&format!("archive.{part}")) != (part == "retentionDays"), "archive.{part}: fixed or a control?");
            }
        } else {
            assert!(fixed(name) != CONTROLS.contains(&name.as_str()), "{name}: fixed or a control?");
        }
    }
}

#[test]
fn what_kubectl_shows() {
    let crd = PostgresMigration::crd();
    let columns = crd.spec.versions[0].additional_printer_columns.clone().unwrap();
    let shown = |wide: i32| -> Vec<String> {
        columns.iter().filter(|column| column.priority.unwrap_or(0) <= wide).map(|column| column.name.clone()).collect()
    };
    assert_eq!(shown(0), ["Phase", "Step", "Progress", "Age"]);
    assert_eq!(shown(1), ["Phase", "Step", "Progress", "Size", "Message", "Age"]);
    assert_eq!(crd.spec.names.short_names.unwrap(), ["pgmig"]);
    // A column without a field behind it would stay empty for ever.
    let schema = schema();
    for column in &columns {
        let mut at = &schema;
        for name in column.json_path.split('.').skip(1).filter(|_| column.name != "Age") {
            at = &at["properties"][name];
            assert!(at.is_object(), "column {} shows {}, which is not there", column.name, column.json_path);
        }
    }
}
