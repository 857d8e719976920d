//! Finding the one pod of a PostgreSQL server, and seeing whether it is still the same.
//!
//! Belongs here: pods by workload or label, containers, identity. Does not belong here: what is run in them.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::errors::{Error, Request, absent_as_none, ask};
use super::workloads;
use crate::api::{ExecPostgres, WorkloadRef};

/// One pod and one container in it: another pod of the same name has another UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Container.
    pub container: String,
    /// Node that it runs on.
    pub node: Option<String>,
}

/// Why there is no single pod to work with.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PodError {
    /// The workload, or any pod of the selector, is not there.
    #[error("{0}")]
    NotFound(String),
    /// Pods are there, but none is running and ready.
    #[error("{0}")]
    NotReady(String),
    /// More than one pod is running and ready.
    #[error("{0}")]
    Ambiguous(String),
    /// The pod has no such container.
    #[error("{0}")]
    ContainerAbsent(String),
    /// The selector, or the kind of workload, cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// The API server gave another answer.
    #[error(transparent)]
    Api(#[from] Error),
}

/// What became of a pod that was resolved earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The same pod, running and ready.
    Ready,
    /// The same pod, in another state than running and ready; says which.
    NotReady(String),
    /// No pod of that name.
    Gone,
    /// Another pod has its name; holds the UID.
    Replaced(String),
}

/// Finds the one pod that is running, ready and not being deleted.
///
/// A container that `postgres` does not name is the first of the pod.
///
/// # Errors
/// See [`PodError`]; the message names the workload or selector, the namespace, and every pod seen with its state.
pub async fn resolve(client: &Client, namespace: &str, postgres: &ExecPostgres) -> Result<PodIdentity, PodError> {
    let (origin, pods) = match (&postgres.workload_ref, &postgres.label_selector) {
        (Some(workload), None) => of_workload(client, namespace, workload).await?,
        (None, Some(selector)) => {
            let origin = format!("label selector {selector:?} in namespace {namespace}");
            (origin, list(client, namespace, selector).await?)
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(PodError::Unusable("postgres.exec must have exactly one of workloadRef and labelSelector".into()));
        }
    };
    let pod = choose(&origin, &pods)?;
    let container = container(pod, postgres.container.as_deref())?;
    Ok(PodIdentity {
        namespace: namespace.into(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        container,
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
    })
}

async fn of_workload(client: &Client, namespace: &str, reference: &WorkloadRef) -> Result<(String, Vec<Pod>), PodError> {
    let origin = format!("{:?} {namespace}/{}", reference.kind, reference.name);
    if !workloads::scales(reference.kind) {
        return Err(PodError::Unusable(format!("{origin}: a PostgreSQL server must be a Deployment, StatefulSet or ReplicaSet")));
    }
    let Some(workload) = workloads::get(client, namespace, reference.kind, &reference.name).await? else {
        return Err(PodError::NotFound(format!("{origin} does not exist")));
    };
    Ok((origin, workloads::pods_of(client, &workload).await?))
}

pub(super) async fn list(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Pod>, Error> {
    let request = Request::new("list", "pods", namespace, "");
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    Ok(ask(request, api.list(&ListParams::default().labels(selector))).await?.items)
}

fn choose<'a>(origin: &str, pods: &'a [Pod]) -> Result<&'a Pod, PodError> {
    let ready: Vec<&Pod> = pods.iter().filter(|pod| state(pod) == "ready").collect();
    match ready.as_slice() {
        [pod] => Ok(pod),
        [] if pods.is_empty() => Err(PodError::NotFound(format!("{origin} has no pod"))),
        [] => Err(PodError::NotReady(format!("{origin} has no running and ready pod; seen: {}", seen(pods)))),
        _ => Err(PodError::Ambiguous(format!(
            "{origin} has {} running and ready pods, expected one; seen: {}",
            ready.len(),
            seen(pods)
        ))),
    }
}

fn seen(pods: &[Pod]) -> String {
    let mut all: Vec<String> = pods.iter().take(8).map(|pod| format!("{} ({})", pod.name_any(), state(pod))).collect();
    if pods.len() > 8 {
        all.push(format!("{} more", pods.len() - 8));
    }
    all.join(", ")
}

/// `ready`, or in few words why not.
pub(super) fn state(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "terminating".into();
    }
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_else(|| "Unknown".into());
    let condition = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status.as_str());
    if phase == "Running" && condition("Ready") == Some("True") {
        return "ready".into();
    }
    let waiting = status.container_statuses.iter().flatten().find_map(|c| c.state.as_ref()?.waiting.as_ref()?.reason.clone());
    match (waiting, phase.as_str()) {
        (Some(reason), _) => format!("{phase}, {reason}"),
        (None, "Running") => "Running, not ready".into(),
        (None, "Pending") if condition("PodScheduled") == Some("False") => "Pending, not scheduled".into(),
        (None, _) => phase,
    }
}

fn container(pod: &Pod, wanted: Option<&str>) -> Result<String, PodError> {
    let names: Vec<&str> = pod.spec.iter().flat_map(|spec| &spec.containers).map(|c| c.name.as_str()).collect();
    let found = match wanted {
        Some(wanted) => names.iter().find(|name| **name == wanted),
        None => names.first(),
    };
    match found {
        Some(name) => Ok((*name).to_owned()),
        None => Err(PodError::ContainerAbsent(format!(
            "pod {}/{} has no container {:?}; it has: {}",
            pod.namespace().unwrap_or_default(),
            pod.name_any(),
            wanted.unwrap_or_default(),
            names.join(", ")
        ))),
    }
}

/// Whether the pod is still the one that was resolved, and fit to work with.
///
/// # Errors
/// When the API server does not say.
pub async fn still_there(client: &Client, pod: &PodIdentity) -> Result<Presence, Error> {
    let request = Request::new("get", "pods", &pod.namespace, &pod.name);
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace);
    Ok(match absent_as_none(ask(request, api.get(&pod.name)).await)? {
        None => Presence::Gone,
        Some(found) if found.uid().as_deref() != Some(pod.uid.as_str()) => Presence::Replaced(found.uid().unwrap_or_default()),
        Some(found) => match state(&found) {
            state if state == "ready" => Presence::Ready,
            state => Presence::NotReady(state),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, phase: &str, ready: &str, terminating: bool) -> Pod {
        let mut pod = serde_json::json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"containers": [{"name": "postgres"}, {"name": "exporter"}]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        });
        if terminating {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn exactly_one_ready_pod_is_chosen() {
        let pods =
            [pod("old", "Running", "True", true), pod("new", "Running", "True", false), pod("done", "Failed", "False", false)];
        assert_eq!(choose("x", &pods).unwrap().name_any(), "new");
    }

    #[test]
    fn anything_else_tells_what_was_seen() {
        let none = choose("StatefulSet n/pg", &[]).unwrap_err();
        assert!(matches!(&none, PodError::NotFound(text) if text == "StatefulSet n/pg has no pod"), "{none}");
        let unready =
            choose("StatefulSet n/pg", &[pod("a", "Running", "False", false), pod("b", "Running", "True", true)]).unwrap_err();
        assert!(
            matches!(&unready, PodError::NotReady(text) if text.ends_with("seen: a (Running, not ready), b (terminating)")),
            "{unready}"
        );
        let two =
            choose("StatefulSet n/pg", &[pod("a", "Running", "True", false), pod("b", "Running", "True", false)]).unwrap_err();
        assert!(
            matches!(&two, PodError::Ambiguous(text) if text.contains("2 running and ready pods") && text.contains("a (ready), b (ready)"))
        );
    }

    #[test]
    fn the_container_is_the_first_or_the_one_named() {
        let pod = pod("a", "Running", "True", false);
        assert_eq!(container(&pod, None).unwrap(), "postgres");
        assert_eq!(container(&pod, Some("exporter")).unwrap(), "exporter");
        let absent = container(&pod, Some("pg")).unwrap_err();
        assert_eq!(absent.to_string(), "pod n/a has no container \"pg\"; it has: postgres, exporter");
    }
}
