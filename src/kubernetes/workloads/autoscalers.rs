//! Autoscalers that may scale a stopped workload up again: found and reported, never changed here.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::super::errors::{Error, Request, absent_as_none, ask};
use super::{WorkloadState, resource};

/// What kind of autoscaler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoscalerKind {
    /// autoscaling/v2 HorizontalPodAutoscaler.
    HorizontalPodAutoscaler,
    /// keda.sh/v1alpha1 ScaledObject. It makes a HorizontalPodAutoscaler of its own, which is listed too.
    ScaledObject,
}

/// An autoscaler of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autoscaler {
    /// What kind.
    pub kind: AutoscalerKind,
    /// Its name, in the workload's namespace.
    pub name: String,
    /// Fewest replicas that it sets. A HorizontalPodAutoscaler with at least 1 leaves a workload at 0 alone.
    pub min_replicas: i32,
    /// Most replicas that it sets.
    pub max_replicas: Option<i32>,
    /// Whether it may raise a workload that was set to 0.
    pub wakes_from_zero: bool,
}

/// The autoscalers that target `workload`. Empty for a CronJob.
///
/// Needs the right to list HorizontalPodAutoscalers, and ScaledObjects where KEDA is installed.
///
/// # Errors
/// When a list cannot be had; a missing right is never read as "none".
pub async fn autoscalers(client: &Client, workload: &WorkloadState) -> Result<Vec<Autoscaler>, Error> {
    if !super::scales(workload.kind) {
        return Ok(Vec::new());
    }
    let namespace = &workload.namespace;
    let request = Request::new("list", "horizontalpodautoscalers.autoscaling", namespace, "");
    let api = Api::<HorizontalPodAutoscaler>::namespaced(client.clone(), namespace);
    let mut found: Vec<Autoscaler> =
        ask(request, api.list(&ListParams::default())).await?.iter().filter_map(|hpa| of_hpa(workload, hpa)).collect();

    if serves_keda(client).await? {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("keda.sh", "v1alpha1", "ScaledObject"), "scaledobjects");
        let request = Request::new("list", "scaledobjects.keda.sh", namespace, "");
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        found.extend(ask(request, api.list(&ListParams::default())).await?.iter().filter_map(|object| of_keda(workload, object)));
    }
    Ok(found)
}

/// Discovery, which every account may use: a list alone would be forbidden where the kind does not even exist.
async fn serves_keda(client: &Client) -> Result<bool, Error> {
    let request = Request::new("get", "/apis/keda.sh/v1alpha1", "", "");
    Ok(absent_as_none(ask(request, client.list_api_group_resources("keda.sh/v1alpha1")).await)?.is_some())
}

fn targets(workload: &WorkloadState, group_version: Option<&str>, kind: &str, name: &str) -> bool {
    let Some(resource) = resource(workload.kind) else { return false };
    let same_group = group_version.is_none_or(|gv| gv.split('/').next() == Some(resource.group.as_str()));
    same_group && kind == resource.kind && name == workload.name
}

fn of_hpa(workload: &WorkloadState, hpa: &HorizontalPodAutoscaler) -> Option<Autoscaler> {
    let spec = hpa.spec.as_ref()?;
    let target = &spec.scale_target_ref;
    let min_replicas = spec.min_replicas.unwrap_or(1);
    targets(workload, target.api_version.as_deref(), &target.kind, &target.name).then(|| Autoscaler {
        kind: AutoscalerKind::HorizontalPodAutoscaler,
        name: hpa.name_any(),
        min_replicas,
        max_replicas: Some(spec.max_replicas),
        wakes_from_zero: min_replicas == 0,
    })
}

fn of_keda(workload: &WorkloadState, object: &DynamicObject) -> Option<Autoscaler> {
    let text = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_str);
    let number = |pointer: &str| object.data.pointer(pointer).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok());
    let kind = text("/spec/scaleTargetRef/kind").unwrap_or("Deployment");
    let paused = object.annotations().get("autoscaling.keda.sh/paused").is_some_and(|value| value == "true")
        || object.annotations().get("autoscaling.keda.sh/paused-replicas").is_some_and(|value| value == "0");
    targets(workload, text("/spec/scaleTargetRef/apiVersion"), kind, text("/spec/scaleTargetRef/name")?).then(|| Autoscaler {
        kind: AutoscalerKind::ScaledObject,
        name: object.name_any(),
        min_replicas: number("/spec/minReplicaCount").unwrap_or(0),
        max_replicas: number("/spec/maxReplicaCount"),
        wakes_from_zero: !paused,
    })
}

#[cfg(test)]
mod tests {
    use super::super::state_of;
    use super::*;
    use crate::api::WorkloadKind;
    use serde_json::json;

    fn workload() -> WorkloadState {
        let object = json!({"metadata": {"name": "api", "uid": "u"}, "spec": {"selector": {"matchLabels": {"a": "b"}}}});
        state_of("n", WorkloadKind::Deployment, &serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn only_the_autoscaler_of_this_workload_counts() {
        let hpa = |group: &str, kind: &str, name: &str, min: i32| -> HorizontalPodAutoscaler {
            let spec = json!({"minReplicas": min, "maxReplicas": 5, "scaleTargetRef": {"apiVersion": format!("{group}/v1"), "kind": kind, "name": name}});
            serde_json::from_value(json!({"metadata": {"name": "h"}, "spec": spec})).unwrap()
        };
        assert!(!of_hpa(&workload(), &hpa("apps", "Deployment", "api", 1)).unwrap().wakes_from_zero);
        assert!(of_hpa(&workload(), &hpa("apps", "Deployment", "api", 0)).unwrap().wakes_from_zero);
        assert_eq!(of_hpa(&workload(), &hpa("apps", "Deployment", "other", 1)), None);
        assert_eq!(of_hpa(&workload(), &hpa("apps", "StatefulSet", "api", 1)), None);
        assert_eq!(of_hpa(&workload(), &hpa("example.org", "Deployment", "api", 1)), None);
    }

    #[test]
    fn a_scaled_object_wakes_unless_it_is_paused() {
        let scaled = |annotations: Value| -> DynamicObject {
            serde_json::from_value(
                json!({"metadata": {"name": "k", "annotations": annotations}, "spec": {"scaleTargetRef": {"name": "api"}}}),
            )
            .unwrap()
        };
        assert!(of_keda(&workload(), &scaled(json!({}))).unwrap().wakes_from_zero);
        assert!(!of_keda(&workload(), &scaled(json!({"autoscaling.keda.sh/paused-replicas": "0"}))).unwrap().wakes_from_zero);
        assert!(of_keda(&workload(), &scaled(json!({"autoscaling.keda.sh/paused-replicas": "2"}))).unwrap().wakes_from_zero);
    }
}
