//! Jobs: created once, watched until their end, read, deleted with their pods.
//!
//! Belongs here: what holds for every Job of ours; [`mover`] and [`schema`] build them. Does not belong here: what a verdict means,
//! and whether there is a next attempt.

pub mod mover;
pub mod schema;

use futures::AsyncReadExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, LogParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Client, ResourceExt};

use super::access::Right;
use super::errors::{DEADLINE, Error, Kind, Request, absent_as_none, ask};
use super::labels::MigrationId;
use super::pods::list;

/// Most bytes of a log that are kept: the last ones.
const LOG_KEPT: usize = 64 * 1024;
/// Most bytes of a log that are read to find them.
const LOG_READ: usize = 8 * 1024 * 1024;

/// A pod of a Job, and our container in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobPod {
    /// Name of the pod.
    pub name: String,
    /// The container that the Job was made with: others may have been injected.
    pub container: String,
}

/// What a Job waits for that may never come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Kubernetes' word, such as `Unschedulable`, `ImagePullBackOff`, `CreateContainerConfigError`, `ContainerCreating`; ours: `NoPod`.
    pub reason: String,
    /// More about it.
    pub message: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

impl Waiting {
    /// Whether this is what every pod passes through on its way, rather than a fault.
    pub fn is_ordinary(&self) -> bool {
        matches!(self.reason.as_str(), "ContainerCreating" | "PodInitializing" | "NoPod" | "Scheduling")
    }
}

/// How the container of a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// Pod and container.
    pub pod: JobPod,
    /// Exit code.
    pub exit_code: i32,
    /// Kubernetes' word: `Completed`, `Error`, `OOMKilled`, `DeadlineExceeded`, ...
    pub reason: String,
    /// The termination message, at most 4096 bytes. Empty when the process left none.
    pub message: String,
}

/// Where a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// There is no Job of that name.
    Absent,
    /// It is being deleted, and so are its pods.
    Deleting {
        /// Since when.
        since: Option<Timestamp>,
    },
    /// Neither succeeded nor failed yet.
    Running {
        /// UID of the Job.
        uid: String,
        /// Its pod, once there is one.
        pod: Option<JobPod>,
        /// What it waits for, unless the container runs or has run.
        waiting: Option<Waiting>,
        /// Since when its pod is being deleted: until the node says that it has ended, it may work.
        leaving: Option<Timestamp>,
        /// How the container ended, when it has: Kubernetes' word follows seconds later, or never while an injected container runs.
        end: Option<Termination>,
    },
    /// Kubernetes says Complete. Whether the work was done is for the verdict to say.
    Succeeded {
        /// UID of the Job.
        uid: String,
        /// How the container ended. Absent when the pod is gone.
        end: Option<Termination>,
    },
    /// Kubernetes says Failed.
    Failed {
        /// UID of the Job.
        uid: String,
        /// Why, in Kubernetes' words: `BackoffLimitExceeded: ...`, `DeadlineExceeded: ...`.
        message: String,
        /// How the container ended. Absent when the pod is gone, or never started: past its deadline a Job deletes its pod,
        /// and the log goes with it.
        end: Option<Termination>,
    },
}

/// A Job that was made for a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was deleted, while its pods are not gone yet.
    pub ending_since: Option<Timestamp>,
}

/// How a create-only creation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was created now. Holds the UID.
    New(String),
    /// It was there already, for the same migration. Holds the UID.
    Existed(String),
}

/// The rights that Jobs need in their namespace.
pub fn rights() -> Vec<Right> {
    let mut rights: Vec<Right> = ["create", "get", "delete"].into_iter().map(|verb| Right::new(verb, "batch", "jobs")).collect();
    rights.extend([Right::new("list", "", "pods"), Right::new("get", "", "pods/log")]);
    rights
}

/// Creates a Job, unless it is there already: a crash between creating it and writing that down finds it again.
///
/// # Errors
/// [`Kind::Conflict`] when a Job of that name exists that was not made for `migration`, or is being deleted.
pub async fn create(client: &Client, migration: &MigrationId, job: &Job) -> Result<Created, Error> {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let api = Api::<Job>::namespaced(client.clone(), &namespace);
    let parameters = PostParams { field_manager: Some(crate::api::names::FIELD_MANAGER.into()), ..PostParams::default() };
    match ask(Request::new("create", "jobs.batch", &namespace, &name), api.create(&parameters, job)).await {
        Ok(made) => Ok(Created::New(made.uid().unwrap_or_default())),
        Err(error) if error.kind() == Kind::AlreadyExists => {
            let found = ask(Request::new("get", "jobs.batch", &namespace, &name), api.get(&name)).await?;
            let conflict =
                |why: &str| Err(Error::new(Kind::Conflict, Request::new("create", "jobs.batch", &namespace, &name), why));
            if !migration.owns(found.metadata.labels.as_ref()) {
                conflict("a Job of that name exists that was not made for this migration")
            } else if found.metadata.deletion_timestamp.is_some() {
                conflict("a Job of that name is still being deleted")
            } else {
                Ok(Created::Existed(found.uid().unwrap_or_default()))
            }
        }
        Err(error) => Err(error),
    }
}

/// Where a Job stands.
///
/// # Errors
/// When the API server does not say.
pub async fn job_state(client: &Client, namespace: &str, name: &str) -> Result<JobState, Error> {
    let api = Api::<Job>::namespaced(client.clone(), namespace);
    match absent_as_none(ask(Request::new("get", "jobs.batch", namespace, name), api.get(name)).await)? {
        None => Ok(JobState::Absent),
        Some(Job { metadata: ObjectMeta { deletion_timestamp: Some(since), .. }, .. }) => {
            Ok(JobState::Deleting { since: Some(since.0) })
        }
        Some(job) => {
            let uid = job.uid().unwrap_or_default();
            let pods = list(client, namespace, &format!("batch.kubernetes.io/controller-uid={uid}")).await?;
            Ok(judge(&job, &pods))
        }
    }
}

fn judge(job: &Job, pods: &[Pod]) -> JobState {
    let uid = job.uid().unwrap_or_default();
    let container = job
        .spec
        .as_ref()
        .and_then(|spec| Some(spec.template.spec.as_ref()?.containers.first()?.name.clone()))
        .unwrap_or_default();
    let mut pods: Vec<&Pod> = pods.iter().collect();
    pods.sort_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let end = pods.iter().rev().find_map(|pod| termination(pod, &container));
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let condition = |kind: &str| conditions.into_iter().flatten().find(|c| c.type_ == kind && c.status == "True");
    if let Some(failed) = condition("Failed") {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        JobState::Failed { uid, message: format!("{}: {}", text(&failed.reason), text(&failed.message)), end }
    } else if condition("Complete").is_some() {
        JobState::Succeeded { uid, end }
    } else {
        let pod = pods.last();
        let waiting = match pod {
            Some(pod) => waiting(pod, &container),
            None => Some(Waiting {
                reason: "NoPod".into(),
                message: format!("no pod was made for Job {} yet; its events say why", job.name_any()),
                since: job.creation_timestamp().map(|time| time.0),
            }),
        };
        let end = pod.and_then(|pod| termination(pod, &container));
        let leaving = pod.and_then(|pod| pod.metadata.deletion_timestamp.as_ref()).map(|time| time.0);
        JobState::Running { leaving, uid, pod: pod.map(|pod| JobPod { name: pod.name_any(), container }), waiting, end }
    }
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|status| status.name == container)
}

fn termination(pod: &Pod, container: &str) -> Option<Termination> {
    let ended = status_of(pod, container)?.state.as_ref()?.terminated.as_ref()?;
    Some(Termination {
        pod: JobPod { name: pod.name_any(), container: container.into() },
        exit_code: ended.exit_code,
        reason: ended.reason.clone().unwrap_or_default(),
        message: ended.message.clone().unwrap_or_default(),
    })
}

fn waiting(pod: &Pod, container: &str) -> Option<Waiting> {
    let status = pod.status.as_ref()?;
    let scheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled");
    let since = scheduled.and_then(|c| c.last_transition_time.as_ref()).map(|time| time.0);
    if let Some(refused) = scheduled.filter(|c| c.status == "False") {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        return Some(Waiting { reason: text(&refused.reason), message: text(&refused.message), since });
    }
    match status_of(pod, container) {
        Some(found) => found.state.as_ref()?.waiting.as_ref().map(|waiting| Waiting {
            reason: waiting.reason.clone().unwrap_or_default(),
            message: waiting.message.clone().unwrap_or_default(),
            since,
        }),
        None if status.phase.as_deref() == Some("Pending") => {
            let since = since.or_else(|| pod.creation_timestamp().map(|time| time.0));
            Some(Waiting { reason: "Scheduling".into(), message: String::new(), since })
        }
        None => None,
    }
}

/// The last lines of a container's log: at most `lines`, and at most 64 KiB. Invalid UTF-8 is replaced.
///
/// # Errors
/// [`Kind::Invalid`] while the container has not started; [`Kind::NotFound`] when the pod is gone.
pub async fn log_tail(client: &Client, namespace: &str, pod: &JobPod, lines: u32) -> Result<String, Error> {
    let request = || Request::new("get", "pods/log", namespace, &pod.name);
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let parameters =
        LogParams { container: Some(pod.container.clone()), tail_lines: Some(i64::from(lines)), ..LogParams::default() };
    let mut stream = Box::pin(ask(request(), api.log_stream(&pod.name, &parameters)).await?);
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let mut total = 0;
    let reading = async {
        while total < LOG_READ {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            total += n;
            kept.extend_from_slice(&buffer[..n]);
            let excess = kept.len().saturating_sub(LOG_KEPT);
            kept.drain(..excess);
        }
        Ok::<(), std::io::Error>(())
    };
    match tokio::time::timeout(DEADLINE, reading).await {
        Ok(Ok(())) => Ok(String::from_utf8_lossy(&kept).into_owned()),
        Ok(Err(error)) => Err(Error::new(Kind::Unreachable, request(), error.to_string())),
        Err(_) => Err(Error::new(Kind::Unreachable, request(), format!("the log did not end within {DEADLINE:?}"))),
    }
}

/// Deletes the Job with this UID and its pods. The Job goes after its pods: see [`gone`]. One that is not there is fine.
///
/// # Errors
/// When the API server does not take the order.
pub async fn delete(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<(), Error> {
    let api = Api::<Job>::namespaced(client.clone(), namespace);
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
        ..DeleteParams::default()
    };
    match ask(Request::new("delete", "jobs.batch", namespace, name), api.delete(name, &parameters)).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether no Job of that name, and no pod of one, is there any more.
///
/// # Errors
/// When the API server does not say.
pub async fn gone(client: &Client, namespace: &str, name: &str) -> Result<bool, Error> {
    let api = Api::<Job>::namespaced(client.clone(), namespace);
    if absent_as_none(ask(Request::new("get", "jobs.batch", namespace, name), api.get(name)).await)?.is_some() {
        return Ok(false);
    }
    Ok(list(client, namespace, &format!("batch.kubernetes.io/job-name={name}")).await?.is_empty())
}

/// The Jobs of a migration in a namespace: what a cleanup must end. `list jobs` is needed.
///
/// # Errors
/// When they cannot be listed.
pub async fn of_migration(client: &Client, namespace: &str, migration: &MigrationId) -> Result<Vec<Owned>, Error> {
    let selector = format!("{}={}", crate::api::names::UID_LABEL, migration.uid);
    let parameters = kube::api::ListParams::default().labels(&selector);
    let api = Api::<Job>::namespaced(client.clone(), namespace);
    let jobs = ask(Request::new("list", "jobs.batch", namespace, ""), api.list(&parameters)).await?;
    let owned = |job: Job| Owned {
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        ending_since: job.metadata.deletion_timestamp.map(|time| time.0),
    };
    Ok(jobs.into_iter().map(owned).collect())
}

/// A pod of a Job that is gone: whoever deleted the Job in the background or orphaned its pods did not wait for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Name of the pod.
    pub pod: String,
    /// Name that its Job had.
    pub job: String,
    /// Since when it is being deleted. Absent: nobody has told it to end.
    pub ending_since: Option<Timestamp>,
    /// When it was made.
    pub made: Option<Timestamp>,
}

/// Pods that were made for a migration, have not ended, and belong to none of its `jobs`.
///
/// # Errors
/// When they cannot be listed.
pub async fn strays(client: &Client, namespace: &str, migration: &MigrationId, jobs: &[Owned]) -> Result<Vec<Stray>, Error> {
    let selector = format!("{}={}", crate::api::names::UID_LABEL, migration.uid);
    Ok(list(client, namespace, &selector).await?.iter().filter_map(|pod| stray(pod, jobs)).collect())
}

fn stray(pod: &Pod, jobs: &[Owned]) -> Option<Stray> {
    let ended = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    let label = |name: &str| pod.labels().get(name).map_or("", String::as_str);
    let owner = label("batch.kubernetes.io/controller-uid");
    (!ended && !jobs.iter().any(|job| job.uid == owner)).then(|| Stray {
        pod: pod.name_any(),
        job: label("batch.kubernetes.io/job-name").into(),
        ending_since: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        made: pod.creation_timestamp().map(|time| time.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(condition: Option<(&str, &str, &str)>) -> Job {
        let conditions: Vec<Value> = condition
            .iter()
            .map(|(kind, reason, message)| json!({"type": kind, "status": "True", "reason": reason, "message": message}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "j", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"template": {"spec": {"containers": [{"name": "mover"}]}}},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn pod(name: &str, created: &str, state: Option<Value>, conditions: Value) -> Pod {
        let other =
            json!({"name": "injected", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let own = state
            .map(|state| json!({"name": "mover", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}));
        let statuses: Vec<Value> = std::iter::once(other).chain(own).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": created},
            "status": {"phase": "Pending", "containerStatuses": statuses, "conditions": conditions},
        }))
        .unwrap()
    }

    fn mover(name: &str) -> JobPod {
        JobPod { name: name.into(), container: "mover".into() }
    }

    #[test]
    fn the_end_is_that_of_our_container_in_the_latest_pod() {
        let ended = |code: i32| json!({"terminated": {"exitCode": code, "reason": "Error", "message": format!("said {code}")}});
        let pods = [
            pod("b", "2026-01-01T00:00:02Z", Some(ended(2)), json!([])),
            pod("a", "2026-01-01T00:00:01Z", Some(ended(1)), json!([])),
        ];
        match judge(&job(Some(("Failed", "BackoffLimitExceeded", "too often"))), &pods) {
            JobState::Failed { message, end: Some(end), .. } => {
                assert_eq!(message, "BackoffLimitExceeded: too often");
                assert_eq!((end.pod, end.exit_code, end.message.as_str()), (mover("b"), 2, "said 2"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_job_without_a_pod_ends_without_a_termination() {
        assert_eq!(judge(&job(Some(("Complete", "", ""))), &[]), JobState::Succeeded { uid: "u".into(), end: None });
        // What announces the end is not the end: pods may still run.
        assert!(matches!(judge(&job(Some(("FailureTarget", "DeadlineExceeded", ""))), &[]), JobState::Running { .. }));
        assert!(matches!(judge(&job(Some(("SuccessCriteriaMet", "", ""))), &[]), JobState::Running { .. }));
    }

    #[test]
    fn a_pod_that_has_not_ended_and_whose_job_is_gone_is_a_stray() {
        let pod = |uid: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({"status": {"phase": phase}, "metadata": {"name": "p", "labels": {
                "batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": "j"}}}))
            .unwrap()
        };
        let jobs = [Owned { name: "j".into(), uid: "there".into(), ending_since: None }];
        let found = Stray { pod: "p".into(), job: "j".into(), ending_since: None, made: None };
        for phase in ["Pending", "Running", "Unknown"] {
            assert_eq!(stray(&pod("gone", phase), &jobs), Some(found.clone()), "a Job of the same name is another");
            assert_eq!(stray(&pod("there", phase), &jobs), None);
        }
        assert_eq!([stray(&pod("gone", "Succeeded"), &jobs), stray(&pod("gone", "Failed"), &jobs)], [None, None]);
    }

    #[test]
    fn an_end_is_seen_before_kubernetes_says_so() {
        let ended = json!({"terminated": {"exitCode": 0, "reason": "Completed", "message": "said"}});
        let earlier = pod("a", "2026-01-01T00:00:01Z", Some(ended.clone()), json!([]));
        let end = |pods: &[Pod]| match judge(&job(None), pods) {
            JobState::Running { end, .. } => end.map(|end| end.message),
            other => panic!("{other:?}"),
        };
        assert_eq!(end(std::slice::from_ref(&earlier)).as_deref(), Some("said"), "although the injected one runs");
        let running = pod("b", "2026-01-01T00:00:02Z", Some(json!({"running": {}})), json!([]));
        assert_eq!(end(&[earlier, running]), None, "the latest pod is the one that counts");
    }

    #[test]
    fn what_a_pod_waits_for_is_told_with_its_time() {
        let since = "2026-01-01T00:00:05Z";
        let unschedulable = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes", "lastTransitionTime": since}]);
        let scheduled = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": since}]);
        let pulling = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        let waiting = |pods: &[Pod]| match judge(&job(None), pods) {
            JobState::Running { waiting, .. } => waiting,
            other => panic!("{other:?}"),
        };
        let first = waiting(&[pod("a", since, None, unschedulable)]).unwrap();
        assert_eq!(
            (first.reason.as_str(), first.message.as_str(), first.since),
            ("Unschedulable", "0/1 nodes", Some(since.parse().unwrap()))
        );
        let second = waiting(&[pod("a", since, Some(pulling), scheduled.clone())]).unwrap();
        assert_eq!(
            (second.reason.as_str(), second.is_ordinary(), second.since),
            ("ImagePullBackOff", false, Some(since.parse().unwrap()))
        );
        assert_eq!(waiting(&[pod("a", since, Some(json!({"running": {}})), scheduled)]), None);
        assert_eq!(waiting(&[]).unwrap().reason, "NoPod");
    }
}
