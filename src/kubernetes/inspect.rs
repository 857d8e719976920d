//! Looks at objects that nothing is changed about: who keeps a workload's size, and what the probes of a pod run.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};

use super::config::ownership::{Field, Manager, owner_of, tracked_by};
use super::errors::{Error, Request, absent_as_none, ask};
use super::workloads::{self, WorkloadState};
use crate::api::WorkloadKind;

/// Tools that write a field back by themselves, from who manages it and where its object says it comes from.
pub fn reverting(managers: &[Manager], tracked: &[String]) -> Vec<String> {
    let managers = managers.iter().filter(|manager| manager.tool.reverts()).map(|manager| manager.name.clone());
    // Helm writes only when somebody runs it.
    managers.chain(tracked.iter().filter(|origin| !origin.starts_with("Helm ")).cloned()).collect()
}

/// Tools that put the replicas, or the suspension, of a workload back by themselves; its controller is not among them.
///
/// # Errors
/// When the API server does not say.
pub async fn size_kept_by(client: &Client, workload: &WorkloadState) -> Result<Vec<String>, Error> {
    let (api, request) = workloads::api(client, &workload.namespace, workload.kind, "get", &workload.name)?;
    let Some(object) = absent_as_none(ask(request, api.get(&workload.name)).await)? else { return Ok(Vec::new()) };
    let field = if workload.kind == WorkloadKind::CronJob { Field::Suspend } else { Field::Replicas };
    let managers = owner_of(object.metadata.managed_fields.as_deref().unwrap_or_default(), &field);
    // An object from Git whose size Git leaves open is nobody's but the scaler's.
    let tracked = if managers.iter().any(|manager| manager.tool.reverts() || manager.applies) {
        let controller = workload.controller.as_ref().map(|name| name.replace('/', " "));
        tracked_by(&object.metadata).into_iter().filter(|origin| Some(origin) != controller.as_ref()).collect()
    } else {
        Vec::new()
    };
    Ok(reverting(&managers, &tracked))
}

/// The commands that the probes of a container run.
///
/// # Errors
/// When the pod is gone, or the API server does not say.
pub async fn exec_probes(client: &Client, namespace: &str, pod: &str, container: &str) -> Result<Vec<Vec<String>>, Error> {
    let request = Request::new("get", "pods", namespace, pod);
    let pod: Pod = ask(request, Api::<Pod>::namespaced(client.clone(), namespace).get(pod)).await?;
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let probes = containers
        .into_iter()
        .filter(|c| c.name == container)
        .flat_map(|c| [c.startup_probe, c.liveness_probe, c.readiness_probe]);
    let mut commands: Vec<Vec<String>> = probes.flatten().filter_map(|probe| probe.exec?.command).collect();
    commands.dedup();
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::config::ownership::Tool;

    #[test]
    fn only_what_writes_back_by_itself_counts() {
        let manager = |name: &str, tool| Manager { name: name.into(), tool, applies: true };
        let managers =
            [manager("argocd-controller", Tool::ArgoCd), manager("kubectl", Tool::Kubectl), manager("helm", Tool::Helm)];
        let tracked = ["Helm release shop".to_owned(), "ExternalSecret db".to_owned()];
        assert_eq!(reverting(&managers, &tracked), ["argocd-controller", "ExternalSecret db"]);
    }
}
