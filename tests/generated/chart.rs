//! The chart installs what `config/operator` says.

use serde_json::Value;

use crate::rights::render;
use crate::root;

/// The chart's templates with their values put in by hand: the few expressions that they hold, and no others.
fn rendered(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("charts/postgres-migration-operator/templates").join(file)).unwrap();
    let text = text
        .replace("{{- if .Values.crd }}", "")
        .replace("{{- end }}", "")
        .replace("{{ .Release.Namespace }}", "pgmigration-system")
        .replace("{{ required \"image must name the operator's image\" .Values.image | quote }}", "\"image:1\"")
        .replace("{{ .Values.image | quote }}", "\"image:1\"")
        .replace("{{ .Values.replicas }}", "1")
        .replace("{{ .Values.log.format }}", "json")
        .replace("{{ .Values.log.filter | quote }}", "\"info\"");
    assert!(!text.contains("{{"), "{file} holds an expression that this test does not know");
    serde_saphyr::from_multiple(&text).unwrap()
}

#[test]
fn the_chart_installs_the_same_objects() {
    let mut chart: Vec<Value> =
        ["postgresmigrations.yaml", "rbac.yaml", "deployment.yaml"].into_iter().flat_map(rendered).collect();
    let kept = chart[0]["metadata"].as_object_mut().unwrap().remove("annotations");
    assert_eq!(kept, Some(serde_json::json!({"helm.sh/resource-policy": "keep"})));
    let plain: Vec<Value> =
        render(&["operator", "image:1"]).into_iter().filter(|document| document["kind"] != "Namespace").collect();
    assert_eq!(chart.len(), plain.len());
    for (ours, theirs) in chart.iter().zip(&plain) {
        assert!(ours == theirs, "the chart's {} {} differs from config/operator", ours["kind"], ours["metadata"]["name"]);
    }
}
