//! Who owns a field: what `metadata.managedFields` records, and the marks that GitOps tools leave on objects.
//!
//! A field that Git pins will be written back sooner or later; this only finds out, `plan` decides.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use serde_json::Value;

use crate::api::WorkloadKind;
use crate::api::names::FIELD_MANAGER;

/// A field that may be owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A key of a ConfigMap's or Secret's data.
    Data(String),
    /// `spec.replicas`.
    Replicas,
    /// `spec.suspend` of a CronJob.
    Suspend,
    /// The value of an environment variable in a workload's template.
    Env {
        /// Kind of the workload.
        kind: WorkloadKind,
        /// Container.
        container: String,
        /// Variable.
        env: String,
    },
}

/// Tools that write what Git says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Argo CD.
    ArgoCd,
    /// Flux.
    Flux,
    /// Helm, run by a person or a pipeline.
    Helm,
    /// `kubectl apply`, run by a person or a pipeline.
    Kubectl,
    /// Ourselves.
    Ours,
    /// Anything else: another operator, an editor.
    Other,
}

impl Tool {
    /// Whether it writes the field back by itself, without anyone running it.
    pub fn reverts(self) -> bool {
        match self {
            Self::ArgoCd | Self::Flux => true,
            Self::Helm | Self::Kubectl | Self::Ours | Self::Other => false,
        }
    }
}

/// An owner of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// Its name in `managedFields`.
    pub name: String,
    /// Which tool that is.
    pub tool: Tool,
    /// Whether it owns the field by server-side apply; otherwise it wrote it once.
    pub applies: bool,
}

fn tool(manager: &str) -> Tool {
    let name = manager.to_ascii_lowercase();
    if name == FIELD_MANAGER {
        Tool::Ours
    } else if name.starts_with("argocd")
        || name.starts_with("argo-cd")
        || name == "openshift-gitops-argocd-application-controller"
    {
        Tool::ArgoCd
    } else if matches!(name.as_str(), "kustomize-controller" | "helm-controller") || name.starts_with("flux") {
        Tool::Flux
    } else if name == "helm" {
        Tool::Helm
    } else if name == "kubectl" || name.starts_with("kubectl-") {
        Tool::Kubectl
    } else {
        Tool::Other
    }
}

/// The managers that own `field`, in the order of the entries. Empty: nobody wrote it, or nobody knows.
pub fn owner_of(entries: &[ManagedFieldsEntry], field: &Field) -> Vec<Manager> {
    let path = path(field);
    let mut owners: Vec<Manager> = Vec::new();
    for entry in entries {
        let owned = entry.fields_v1.as_ref().is_some_and(|fields| covers(&fields.0, &path));
        let name = entry.manager.clone().unwrap_or_default();
        if owned && !owners.iter().any(|owner| owner.name == name) {
            owners.push(Manager { tool: tool(&name), applies: entry.operation.as_deref() == Some("Apply"), name });
        }
    }
    owners
}

/// One member of a path in the notation of `fieldsV1`.
enum Step {
    /// `f:<name>`.
    Member(String),
    /// `k:{"name":"<name>"}`.
    Named(String),
}

fn path(field: &Field) -> Vec<Step> {
    let members = |names: &[&str]| names.iter().map(|name| Step::Member((*name).to_owned())).collect::<Vec<_>>();
    match field {
        Field::Data(key) => members(&["data", key]),
        Field::Replicas => members(&["spec", "replicas"]),
        Field::Suspend => members(&["spec", "suspend"]),
        Field::Env { kind, container, env } => {
            let mut path = match kind {
                WorkloadKind::CronJob => members(&["spec", "jobTemplate", "spec", "template", "spec", "containers"]),
                WorkloadKind::Deployment
                | WorkloadKind::StatefulSet
                | WorkloadKind::ReplicaSet
                | WorkloadKind::DaemonSet
                | WorkloadKind::Job
                | WorkloadKind::ReplicationController
                | WorkloadKind::DeploymentConfig
                | WorkloadKind::Rollout => members(&["spec", "template", "spec", "containers"]),
            };
            path.push(Step::Named(container.clone()));
            path.push(Step::Member("env".into()));
            path.push(Step::Named(env.clone()));
            path.push(Step::Member("value".into()));
            path
        }
    }
}

/// Whether a field set holds this path. A set that ends above it with nothing below owns the whole subtree.
fn covers(fields: &Value, path: &[Step]) -> bool {
    let Some((step, rest)) = path.split_first() else { return true };
    let Some(map) = fields.as_object() else { return false };
    let below = match step {
        Step::Member(name) => map.get(&format!("f:{name}")),
        Step::Named(name) => map.iter().find(|(key, _)| names(key, name)).map(|(_, below)| below),
    };
    match below {
        None => false,
        Some(below) if below.as_object().is_some_and(serde_json::Map::is_empty) => true,
        Some(below) => covers(below, rest),
    }
}

/// Whether a list key such as `k:{"name":"api"}` is of the entry with this name.
fn names(key: &str, name: &str) -> bool {
    let Some(Ok(key)) = key.strip_prefix("k:").map(serde_json::from_str::<Value>) else { return false };
    key.get("name").and_then(Value::as_str) == Some(name)
}

/// What the labels and annotations of an object say about where it comes from, such as `Argo CD (shop:apps/Deployment:n/api)`.
pub fn tracked_by(metadata: &ObjectMeta) -> Vec<String> {
    let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key));
    let label = |key: &str| metadata.labels.as_ref().and_then(|all| all.get(key));
    let mut found = Vec::new();
    if let Some(id) = annotation("argocd.argoproj.io/tracking-id").or_else(|| label("argocd.argoproj.io/instance")) {
        found.push(format!("Argo CD ({id})"));
    }
    if let Some(name) = label("kustomize.toolkit.fluxcd.io/name") {
        found.push(format!("Flux Kustomization {name}"));
    }
    if let Some(name) = label("helm.toolkit.fluxcd.io/name") {
        found.push(format!("Flux HelmRelease {name}"));
    } else if let Some(name) = annotation("meta.helm.sh/release-name") {
        found.push(format!("Helm release {name}"));
    }
    if let Some(owner) = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true)) {
        found.push(format!("{} {}", owner.kind, owner.name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, fields: &Value) -> ManagedFieldsEntry {
        serde_json::from_value(json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields}))
            .unwrap()
    }

    #[test]
    fn the_owner_of_a_key_is_the_one_who_wrote_that_key() {
        let entries = [
            entry("argocd-controller", "Apply", &json!({"f:data": {".": {}, "f:POSTGRES_HOST": {}}})),
            entry("kubectl-edit", "Update", &json!({"f:data": {"f:OTHER": {}}})),
            entry("kustomize-controller", "Apply", &json!({"f:metadata": {"f:labels": {"f:data": {}}}})),
        ];
        let owners = owner_of(&entries, &Field::Data("POSTGRES_HOST".into()));
        assert_eq!(owners, [Manager { name: "argocd-controller".into(), tool: Tool::ArgoCd, applies: true }]);
        assert_eq!(owner_of(&entries, &Field::Data("OTHER".into()))[0].tool, Tool::Kubectl);
        assert!(owner_of(&entries, &Field::Data("ABSENT".into())).is_empty());
        assert!(owner_of(&[], &Field::Replicas).is_empty());
    }

    #[test]
    fn the_owner_of_a_variable_is_found_through_list_keys() {
        let env = json!({r#"k:{"name":"POSTGRES_HOST"}"#: {".": {}, "f:name": {}, "f:value": {}}});
        let containers = json!({r#"k:{"name":"api"}"#: {".": {}, "f:env": env}});
        let entries = [entry(
            "helm",
            "Update",
            &json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": containers}}}}),
        )];
        let of = |container: &str, env: &str| {
            owner_of(&entries, &Field::Env { kind: WorkloadKind::Deployment, container: container.into(), env: env.into() })
        };
        assert_eq!(of("api", "POSTGRES_HOST"), [Manager { name: "helm".into(), tool: Tool::Helm, applies: false }]);
        assert!(of("api", "OTHER").is_empty());
        assert!(of("web", "POSTGRES_HOST").is_empty());
        assert_eq!(owner_of(&entries, &Field::Replicas).len(), 1);
        assert!(owner_of(&entries, &Field::Suspend).is_empty());
    }

    #[test]
    fn whoever_owns_a_whole_subtree_owns_what_is_in_it() {
        let entries = [entry("app-operator", "Update", &json!({"f:data": {}}))];
        assert_eq!(owner_of(&entries, &Field::Data("ANY".into()))[0].tool, Tool::Other);
    }

    #[test]
    fn managers_are_known_by_name() {
        for (name, expected, reverts) in [
            ("argocd-controller", Tool::ArgoCd, true),
            ("argocd-application-controller", Tool::ArgoCd, true),
            ("kustomize-controller", Tool::Flux, true),
            ("helm-controller", Tool::Flux, true),
            ("helm", Tool::Helm, false),
            ("Helm", Tool::Helm, false),
            ("kubectl-client-side-apply", Tool::Kubectl, false),
            ("pgmigration", Tool::Ours, false),
            ("keda", Tool::Other, false),
        ] {
            assert_eq!((tool(name), tool(name).reverts()), (expected, reverts), "{name}");
        }
    }

    #[test]
    fn marks_on_the_object_are_read() {
        let metadata = serde_json::from_value(json!({
            "annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:n/api", "meta.helm.sh/release-name": "shop"},
            "labels": {"kustomize.toolkit.fluxcd.io/name": "apps"},
            "ownerReferences": [{"apiVersion": "x/v1", "kind": "Shop", "name": "s", "uid": "u", "controller": true}],
        }))
        .unwrap();
        assert_eq!(
            tracked_by(&metadata),
            ["Argo CD (shop:apps/Deployment:n/api)", "Flux Kustomization apps", "Helm release shop", "Shop s"]
        );
        assert!(tracked_by(&ObjectMeta::default()).is_empty());
    }
}
