//! What belongs to a workload: its pods, by owner chain within its selector, and how far they have come.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::super::errors::{Error, Kind, Request, ask};
use super::super::pods::{list, state};
use super::{Setting, WorkloadId, WorkloadState, controller_of, get};
use crate::api::WorkloadKind;

/// Times that a workload is looked at again until its controller has caught up.
const LOOKS: usize = 8;
/// Between them.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// What is left of a workload that was told to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodsLeft {
    /// Names of pods, and `job/<name>` of Jobs that may still make pods. Pods whose containers have all ended do not count.
    pub names: Vec<String>,
    /// How many of the pods are being deleted.
    pub terminating: usize,
    /// How the workload is set now: not the stopped setting when somebody reverted it.
    pub setting: Setting,
    /// Whether the controllers have seen that setting. Until then new pods may still appear.
    pub settled: bool,
}

impl PodsLeft {
    /// True when the workload is stopped, its controllers know, and no pod is left.
    pub fn quiet(&self) -> bool {
        self.setting == self.setting.stopped() && self.settled && self.names.is_empty()
    }
}

/// How far a workload has come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Availability {
    /// Replicas wanted; 0 for a CronJob.
    pub wanted: i32,
    /// Pods available.
    pub available: i32,
    /// True when the controller has seen the present spec and every wanted pod, of the present template, is available.
    /// A CronJob is complete when it is not suspended.
    pub complete: bool,
    /// Pods that are not ready, each with its state: at most eight.
    pub not_ready: Vec<String>,
}

/// The pods that are left of a workload, terminating ones included.
///
/// # Errors
/// [`Kind::NotFound`] when the workload is gone or another one has its name: its pods can no longer be told.
pub async fn pods_left(client: &Client, id: &WorkloadId) -> Result<PodsLeft, Error> {
    let (now, seen) = caught_up(client, id).await?;
    let (pods, mut names, settled) = if now.kind == WorkloadKind::CronJob {
        let (pods, jobs) = of_cron_job(client, &now).await?;
        (pods, jobs, true)
    } else {
        let (pods, sets_settled) = of_scaled(client, &now).await?;
        (pods, Vec::new(), sets_settled && seen && now.current == 0)
    };
    let alive: Vec<&Pod> = pods.iter().filter(|pod| !is_over(pod)).collect();
    names.extend(alive.iter().map(|pod| pod.name_any()));
    names.sort();
    Ok(PodsLeft {
        names,
        terminating: alive.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count(),
        setting: now.setting(),
        settled,
    })
}

/// How far a workload has come up.
///
/// # Errors
/// [`Kind::NotFound`] when the workload is gone or another one has its name.
pub async fn availability(client: &Client, id: &WorkloadId) -> Result<Availability, Error> {
    let (now, seen) = caught_up(client, id).await?;
    let Some(wanted) = now.replicas else {
        return Ok(Availability { wanted: 0, available: 0, complete: now.suspended == Some(false), not_ready: Vec::new() });
    };
    let complete = seen && now.available >= wanted && now.updated >= wanted && now.current == wanted;
    let not_ready = if complete {
        Vec::new()
    } else {
        let (pods, _) = of_scaled(client, &now).await?;
        let unready = pods.iter().map(|pod| (pod.name_any(), state(pod))).filter(|(_, state)| state != "ready");
        unready.take(8).map(|(name, state)| format!("{name} ({state})")).collect()
    };
    Ok(Availability { wanted, available: now.available, complete, not_ready })
}

/// The workload, and whether its controller has seen it as it was when this was called.
///
/// Whoever keeps annotating a Deployment moves its generation on each time, and no controller ever catches up with the newest:
/// it has to with the one that stood at the beginning.
async fn caught_up(client: &Client, id: &WorkloadId) -> Result<(WorkloadState, bool), Error> {
    let mut now = present(client, id).await?;
    let begun = now.generation;
    if now.kind == WorkloadKind::CronJob {
        return Ok((now, true)); // Its controller does not tell how far it is: its Jobs are looked at instead.
    }
    for _ in 0..LOOKS {
        if now.observed_generation >= begun {
            return Ok((now, true));
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        now = present(client, id).await?;
    }
    let seen = now.observed_generation >= begun;
    Ok((now, seen))
}

async fn present(client: &Client, id: &WorkloadId) -> Result<WorkloadState, Error> {
    let request = || Request::new("get", &format!("{:?}", id.kind), &id.namespace, &id.name);
    match get(client, &id.namespace, id.kind, &id.name).await? {
        Some(now) if now.uid == id.uid => Ok(now),
        Some(now) => {
            Err(Error::new(Kind::NotFound, request(), format!("it was replaced: its UID is {}, not {}", now.uid, id.uid)))
        }
        None => Err(Error::new(Kind::NotFound, request(), "it does not exist")),
    }
}

/// The pods of a workload that [`super::scales`].
pub(in super::super) async fn pods_of(client: &Client, workload: &WorkloadState) -> Result<Vec<Pod>, Error> {
    Ok(of_scaled(client, workload).await?.0)
}

/// Pods of the selector except those that certainly belong to somebody else, and whether all ReplicaSets of a Deployment
/// have seen their own spec. When in doubt a pod is counted: a ReplicaSet may be cleaned up before its last pod has ended.
async fn of_scaled(client: &Client, now: &WorkloadState) -> Result<(Vec<Pod>, bool), Error> {
    let mut pods = list(client, &now.namespace, &now.selector).await?;
    if now.kind != WorkloadKind::Deployment {
        pods.retain(|pod| controller_of(&pod.metadata).is_none_or(|owner| owner.uid == now.uid));
        return Ok((pods, true));
    }
    // After the pods, so that the set of every pod seen is known, if it is still there.
    let request = Request::new("list", "replicasets.apps", &now.namespace, "");
    let api = Api::<ReplicaSet>::namespaced(client.clone(), &now.namespace);
    let sets = ask(request, api.list(&ListParams::default().labels(&now.selector))).await?.items;
    let (own, foreign): (Vec<_>, Vec<_>) =
        sets.iter().partition(|set| controller_of(&set.metadata).is_some_and(|owner| owner.uid == now.uid));
    pods.retain(|pod| match controller_of(&pod.metadata) {
        None => true,
        Some(owner) => {
            owner.kind == "ReplicaSet" && !foreign.iter().any(|set| set.metadata.uid.as_deref() == Some(owner.uid.as_str()))
        }
    });
    Ok((pods, own.iter().all(|set| has_seen_its_spec(set))))
}

fn has_seen_its_spec(set: &ReplicaSet) -> bool {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    observed >= set.metadata.generation.unwrap_or(0)
}

/// Pods of the CronJob's Jobs, and the Jobs that may still make some.
async fn of_cron_job(client: &Client, now: &WorkloadState) -> Result<(Vec<Pod>, Vec<String>), Error> {
    let mut pods = list(client, &now.namespace, "batch.kubernetes.io/job-name").await?;
    let request = Request::new("list", "jobs.batch", &now.namespace, "");
    let jobs = ask(request, Api::<Job>::namespaced(client.clone(), &now.namespace).list(&ListParams::default())).await?.items;
    let (own, foreign): (Vec<_>, Vec<_>) =
        jobs.iter().partition(|job| controller_of(&job.metadata).is_some_and(|owner| owner.uid == now.uid));
    let is = |job: &&Job, uid: &str| job.metadata.uid.as_deref() == Some(uid);
    let prefix = format!("{}-", now.name);
    pods.retain(|pod| match controller_of(&pod.metadata) {
        None => false,
        Some(owner) if own.iter().any(|job| is(job, &owner.uid)) => true,
        // A Job that is gone leaves its pods behind for a moment; then only its name tells.
        Some(owner) => owner.kind == "Job" && owner.name.starts_with(&prefix) && !foreign.iter().any(|job| is(job, &owner.uid)),
    });
    let active = own.iter().filter(|job| !job_is_over(job)).map(|job| format!("job/{}", job.name_any())).collect();
    Ok((pods, active))
}

fn job_is_over(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let over = conditions.into_iter().flatten().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
    // A suspended Job makes no pods; those that it had are counted by themselves.
    over || job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false)
}

/// Whether every container of a pod has ended for good. The phase alone may run ahead of the kubelet.
fn is_over(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let running =
        status.container_statuses.iter().flatten().any(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()));
    ended && !running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_over_only_when_no_container_runs() {
        let pod = |phase: &str, state: serde_json::Value| -> Pod {
            let status = json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]});
            serde_json::from_value(json!({"metadata": {"name": "a"}, "status": status})).unwrap()
        };
        let ended = json!({"terminated": {"exitCode": 0}});
        assert!(is_over(&pod("Succeeded", ended.clone())));
        assert!(is_over(&pod("Failed", ended.clone())));
        assert!(!is_over(&pod("Failed", json!({"running": {}}))), "evicted, still ending");
        assert!(!is_over(&pod("Running", ended)));
        assert!(!is_over(&Pod::default()));
    }

    #[test]
    fn quiet_needs_the_setting_the_controllers_and_no_pod() {
        let quiet = PodsLeft { names: vec![], terminating: 0, setting: Setting::Replicas(0), settled: true };
        assert!(quiet.quiet());
        assert!(!PodsLeft { names: vec!["a".into()], ..quiet.clone() }.quiet());
        assert!(!PodsLeft { setting: Setting::Replicas(1), ..quiet.clone() }.quiet());
        assert!(!PodsLeft { setting: Setting::Suspended(false), ..quiet.clone() }.quiet());
        assert!(!PodsLeft { settled: false, ..quiet }.quiet());
    }
}
