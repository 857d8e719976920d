//! Workloads that run pods: finding, stopping, and starting them again.
//!
//! Stopping is remembered on the object itself, in [`ORIGINAL_ANNOTATION`], before anything is changed; starting is
//! compare-and-set: what somebody else set meanwhile is reported and left alone.
//! Belongs here: Deployment, StatefulSet, ReplicaSet, CronJob as one shape. Does not belong here: which workloads to stop, and when.

mod autoscalers;
mod belongings;
mod setting;

pub use autoscalers::{Autoscaler, AutoscalerKind, autoscalers};
pub(super) use belongings::pods_of;
pub use belongings::{Availability, PodsLeft, availability, pods_left};
pub use setting::{Start, Stop, restore, scale_to, stop, stop_again};

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::access::Right;
use super::errors::{Error, Kind, Request, absent_as_none, ask};
use crate::api::names::ORIGINAL_ANNOTATION;
use crate::api::{WorkloadKind, Writer};

/// One workload as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadState {
    /// Kind: one for which [`supported`] holds.
    pub kind: WorkloadKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// Replicas wanted. Absent for a CronJob.
    pub replicas: Option<i32>,
    /// Whether a CronJob is suspended. Absent for the others.
    pub suspended: Option<bool>,
    /// Selector of its pods in the form of a label query. Empty for a CronJob.
    pub selector: String,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that have been ready for `minReadySeconds`.
    pub available: i32,
    /// Pods of the present template. For a ReplicaSet: all of them.
    pub updated: i32,
    /// Generation of the spec.
    pub generation: i64,
    /// Generation that its controller has seen.
    pub observed_generation: i64,
    /// Pods that exist, ready or not, terminating ones not counted.
    pub current: i32,
    /// `Kind/name` of the controller that owns this workload, which may revert what is done to it.
    pub controller: Option<String>,
    /// What stands in [`ORIGINAL_ANNOTATION`].
    pub original: Option<Original>,
}

/// Identity of a workload: another one of the same name has another UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadId {
    /// Kind.
    pub kind: WorkloadKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl WorkloadState {
    /// Its identity.
    pub fn id(&self) -> WorkloadId {
        WorkloadId { kind: self.kind, namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }

    /// How it is set now.
    pub fn setting(&self) -> Setting {
        match self.suspended {
            Some(suspended) => Setting::Suspended(suspended),
            None => Setting::Replicas(self.replicas.unwrap_or(1)),
        }
    }
}

/// What a stop changes: the replicas of a workload, or the suspension of a CronJob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Setting {
    /// `spec.replicas`.
    Replicas(i32),
    /// `spec.suspend` of a CronJob.
    Suspended(bool),
}

impl Setting {
    /// What it is while the workload is stopped.
    #[must_use]
    pub fn stopped(self) -> Self {
        match self {
            Self::Replicas(_) => Self::Replicas(0),
            Self::Suspended(_) => Self::Suspended(true),
        }
    }
}

/// What a workload was before a migration stopped it: the JSON in [`ORIGINAL_ANNOTATION`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Original {
    /// UID of the migration that stopped it.
    pub migration: String,
    /// How it was set.
    #[serde(flatten)]
    pub setting: Setting,
}

/// Group, version, kind, plural of a kind that is supported.
fn resource(kind: WorkloadKind) -> Option<ApiResource> {
    let (group, kind, plural) = match kind {
        WorkloadKind::Deployment => ("apps", "Deployment", "deployments"),
        WorkloadKind::StatefulSet => ("apps", "StatefulSet", "statefulsets"),
        WorkloadKind::ReplicaSet => ("apps", "ReplicaSet", "replicasets"),
        WorkloadKind::CronJob => ("batch", "CronJob", "cronjobs"),
        WorkloadKind::DaemonSet
        | WorkloadKind::Job
        | WorkloadKind::ReplicationController
        | WorkloadKind::DeploymentConfig
        | WorkloadKind::Rollout => return None,
    };
    Some(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural))
}

/// API group and plural name of a kind that is supported.
pub(super) fn plural(kind: WorkloadKind) -> Option<(String, String)> {
    resource(kind).map(|resource| (resource.group, resource.plural))
}

/// Whether this kind can be stopped and started.
pub fn supported(kind: WorkloadKind) -> bool {
    resource(kind).is_some()
}

/// Whether this kind keeps a number of pods running.
pub fn scales(kind: WorkloadKind) -> bool {
    supported(kind) && kind != WorkloadKind::CronJob
}

/// The rights that [`find`], [`stop`], [`pods_left`] and the starts need. Empty for a kind that is not supported.
/// With `name`, the object's own rights are narrowed to it (lists never can be).
pub fn rights(kind: WorkloadKind, name: Option<&str>) -> Vec<Right> {
    let Some(resource) = resource(kind) else { return Vec::new() };
    let narrowed = |verb: &str, sub: &str| {
        let right = Right::new(verb, &resource.group, &format!("{}{sub}", resource.plural));
        match name {
            Some(name) => right.to(name),
            None => right,
        }
    };
    let mut rights = vec![narrowed("get", ""), narrowed("patch", ""), Right::new("list", "", "pods")];
    if name.is_none() {
        rights.push(Right::new("list", &resource.group, &resource.plural));
    }
    if scales(kind) {
        rights.push(narrowed("patch", "/scale"));
    }
    if kind == WorkloadKind::Deployment {
        rights.push(Right::new("list", "apps", "replicasets"));
    }
    if kind == WorkloadKind::CronJob {
        rights.push(Right::new("list", "batch", "jobs"));
    }
    rights
}

pub(super) fn api(
    client: &Client,
    namespace: &str,
    kind: WorkloadKind,
    verb: &'static str,
    name: &str,
) -> Result<(Api<DynamicObject>, Request), Error> {
    let Some(resource) = resource(kind) else {
        let request = Request::new(verb, &format!("{kind:?}"), namespace, name);
        return Err(Error::new(Kind::Invalid, request, format!("workloads of kind {kind:?} are not supported")));
    };
    let request = Request::new(verb, &format!("{}.{}", resource.plural, resource.group), namespace, name);
    Ok((Api::namespaced_with(client.clone(), namespace, &resource), request))
}

/// The workloads that `writer` names. Empty when there is none: the caller decides what that means.
///
/// # Errors
/// [`Kind::Invalid`] for a kind that is not supported, or a selector that cannot be read.
pub async fn find(client: &Client, namespace: &str, writer: &Writer) -> Result<Vec<WorkloadState>, Error> {
    match (&writer.name, &writer.label_selector) {
        (Some(name), None) => Ok(get(client, namespace, writer.kind, name).await?.into_iter().collect()),
        (None, Some(selector)) => {
            let (api, request) = api(client, namespace, writer.kind, "list", "")?;
            let found = ask(request, api.list(&ListParams::default().labels(selector))).await?;
            let mut states =
                found.items.iter().map(|object| state_of(namespace, writer.kind, object)).collect::<Result<Vec<_>, _>>()?;
            states.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(states)
        }
        (Some(_), Some(_)) | (None, None) => {
            let (_, request) = api(client, namespace, writer.kind, "list", "")?;
            Err(Error::new(Kind::Invalid, request, "a writer must have exactly one of name and labelSelector"))
        }
    }
}

/// One workload, or `None` when it is not there.
///
/// # Errors
/// [`Kind::Invalid`] for a kind that is not supported, or a workload whose selector cannot be read.
pub async fn get(client: &Client, namespace: &str, kind: WorkloadKind, name: &str) -> Result<Option<WorkloadState>, Error> {
    let (api, request) = api(client, namespace, kind, "get", name)?;
    match absent_as_none(ask(request, api.get(name)).await)? {
        Some(object) => Ok(Some(state_of(namespace, kind, &object)?)),
        None => Ok(None),
    }
}

/// The pod template of a workload as it is now, or `None` when the workload is not there.
///
/// # Errors
/// [`Kind::Invalid`] for a kind that is not supported, or a template that cannot be read.
pub async fn pod_template(
    client: &Client,
    namespace: &str,
    kind: WorkloadKind,
    name: &str,
) -> Result<Option<PodTemplateSpec>, Error> {
    let (api, request) = api(client, namespace, kind, "get", name)?;
    let Some(object) = absent_as_none(ask(request.clone(), api.get(name)).await)? else { return Ok(None) };
    let template = object.data.pointer(template_pointer(kind)).cloned().unwrap_or_default();
    serde_json::from_value(template).map(Some).map_err(|error| Error::new(Kind::Invalid, request, error.to_string()))
}

/// Where the pod template is in an object of this kind.
pub(super) fn template_pointer(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::CronJob => "/spec/jobTemplate/spec/template",
        WorkloadKind::Deployment
        | WorkloadKind::StatefulSet
        | WorkloadKind::ReplicaSet
        | WorkloadKind::DaemonSet
        | WorkloadKind::Job
        | WorkloadKind::ReplicationController
        | WorkloadKind::DeploymentConfig
        | WorkloadKind::Rollout => "/spec/template",
    }
}

fn state_of(namespace: &str, kind: WorkloadKind, object: &DynamicObject) -> Result<WorkloadState, Error> {
    let data = &object.data;
    let number = |pointer: &str| data.pointer(pointer).and_then(Value::as_i64);
    let count = |pointer: &str| number(pointer).and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
    let selector = match data.pointer("/spec/selector") {
        Some(selector) if scales(kind) => label_query(selector).map_err(|why| {
            Error::new(Kind::Invalid, Request::new("use", &format!("{kind:?}"), namespace, &object.name_any()), why)
        })?,
        Some(_) | None => String::new(),
    };
    let scaled = scales(kind);
    Ok(WorkloadState {
        kind,
        namespace: namespace.into(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        resource_version: object.resource_version().unwrap_or_default(),
        replicas: scaled.then(|| number("/spec/replicas").and_then(|n| i32::try_from(n).ok()).unwrap_or(1)),
        suspended: (!scaled).then(|| data.pointer("/spec/suspend").and_then(Value::as_bool).unwrap_or(false)),
        selector,
        ready: count("/status/readyReplicas"),
        available: count("/status/availableReplicas"),
        updated: if kind == WorkloadKind::ReplicaSet { count("/status/replicas") } else { count("/status/updatedReplicas") },
        current: count("/status/replicas"),
        generation: object.metadata.generation.unwrap_or(0),
        observed_generation: number("/status/observedGeneration").unwrap_or(0),
        controller: controller_of(&object.metadata).map(|owner| format!("{}/{}", owner.kind, owner.name)),
        original: object.annotations().get(ORIGINAL_ANNOTATION).map(|text| original_of(text)),
    })
}

/// An annotation that cannot be read belongs to nobody we know: it is kept as a foreign holder's name.
fn original_of(text: &str) -> Original {
    serde_json::from_str(text).unwrap_or_else(|_| Original { migration: text.into(), setting: Setting::Replicas(0) })
}

fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A `LabelSelector` as the text of a label query. An empty selector is refused: as a query it would match everything.
fn label_query(selector: &Value) -> Result<String, String> {
    let mut parts = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let text = |member: &str| expression.get(member).and_then(Value::as_str).unwrap_or_default();
        let values: Vec<&str> =
            expression.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let key = text("key");
        parts.push(match text("operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            other => return Err(format!("its selector has the unknown operator {other:?}")),
        });
    }
    if parts.is_empty() { Err("its selector is empty".into()) } else { Ok(parts.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_becomes_the_query_that_means_the_same() {
        let selector = json!({"matchLabels": {"app": "api"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "x", "operator": "NotIn", "values": ["c"]},
            {"key": "y", "operator": "Exists"},
            {"key": "z", "operator": "DoesNotExist"},
        ]});
        assert_eq!(label_query(&selector).unwrap(), "app=api,tier in (a,b),x notin (c),y,!z");
        assert!(label_query(&json!({})).unwrap_err().contains("empty"));
        assert!(
            label_query(&json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}))
                .unwrap_err()
                .contains("Gt")
        );
    }

    #[test]
    fn an_original_is_readable_by_people_and_by_us() {
        let original = Original { migration: "u".into(), setting: Setting::Replicas(3) };
        let text = serde_json::to_string(&original).unwrap();
        assert_eq!(text, r#"{"migration":"u","replicas":3}"#);
        assert_eq!(original_of(&text), original);
        let suspended = Original { migration: "u".into(), setting: Setting::Suspended(false) };
        assert_eq!(original_of(&serde_json::to_string(&suspended).unwrap()), suspended);
        assert_eq!(original_of("???").migration, "???", "what cannot be read is not ours");
    }

    #[test]
    fn absent_fields_have_the_meaning_that_kubernetes_gives_them() {
        let object = |spec: Value| {
            serde_json::from_value::<DynamicObject>(json!({"metadata": {"name": "a", "uid": "u"}, "spec": spec})).unwrap()
        };
        let deployment =
            state_of("n", WorkloadKind::Deployment, &object(json!({"selector": {"matchLabels": {"a": "b"}}}))).unwrap();
        assert_eq!((deployment.replicas, deployment.suspended, deployment.setting()), (Some(1), None, Setting::Replicas(1)));
        let cron = state_of("n", WorkloadKind::CronJob, &object(json!({}))).unwrap();
        assert_eq!((cron.replicas, cron.suspended, cron.setting()), (None, Some(false), Setting::Suspended(false)));
    }

    #[test]
    fn rights_are_as_narrow_as_they_can_be() {
        let all: Vec<String> = rights(WorkloadKind::Deployment, Some("api")).iter().map(ToString::to_string).collect();
        let expected = [
            "get deployments.apps \"api\"",
            "patch deployments.apps \"api\"",
            "list pods",
            "patch deployments.apps/scale \"api\"",
            "list replicasets.apps",
        ];
        assert_eq!(all, expected);
        assert!(rights(WorkloadKind::Rollout, None).is_empty());
    }
}
