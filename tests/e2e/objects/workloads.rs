//! Stopping and starting workloads, and what is left of them meanwhile.

use pgmigration::api::{WorkloadKind, Writer};
use pgmigration::kubernetes::workloads::{
    AutoscalerKind, PodsLeft, Setting, Start, Stop, WorkloadId, WorkloadState, autoscalers, availability, find, get, pods_left,
    restore, rights, scale_to, stop,
};
use pgmigration::kubernetes::{Kind, access};

use super::{Stage, sleeper};
use crate::support::eventually;

const US: &str = "11111111-1111-1111-1111-111111111111";
const THEM: &str = "22222222-2222-2222-2222-222222222222";

fn named(kind: WorkloadKind, name: &str) -> Writer {
    Writer { kind, name: Some(name.into()), label_selector: None }
}

async fn one(stage: &Stage, kind: WorkloadKind, name: &str) -> WorkloadState {
    let mut found = find(&stage.client, stage.namespace(), &named(kind, name)).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

async fn up(stage: &Stage, id: &WorkloadId) {
    eventually(&format!("{} to come up", id.name), || async {
        let seen = availability(&stage.client, id).await.unwrap();
        if seen.complete { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn quiet(stage: &Stage, id: &WorkloadId) {
    eventually(&format!("{} to be quiet", id.name), || async {
        let left = pods_left(&stage.client, id).await.unwrap();
        if left.quiet() { Ok(()) } else { Err(left) }
    })
    .await;
}

/// The annotation as it stands on the object.
fn original(stage: &Stage, kind: &str, name: &str) -> String {
    stage.kubectl(&["get", kind, name, "-o", r"jsonpath={.metadata.annotations.pgmigration\.dev/original}"])
}

#[tokio::test]
async fn each_scaled_kind_stops_until_no_pod_is_left_and_starts_as_it_was() {
    let stage = Stage::new("scaled").await;
    let kinds = [
        (WorkloadKind::Deployment, "Deployment", "deployment.apps"),
        (WorkloadKind::StatefulSet, "StatefulSet", "statefulset.apps"),
        (WorkloadKind::ReplicaSet, "ReplicaSet", "replicaset.apps"),
    ];
    for (_, kind, _) in kinds {
        stage.apply(&sleeper(kind, &kind.to_lowercase(), 2, 1));
    }
    for (kind, text, resource) in kinds {
        let name = text.to_lowercase();
        let lacking = access::missing(&stage.client, stage.namespace(), &rights(kind, Some(&name))).await.unwrap();
        assert!(lacking.is_empty(), "the shipped Role lacks {lacking:?}");
        let before = one(&stage, kind, &name).await;
        let id = before.id();
        up(&stage, &id).await;

        assert_eq!(stop(&stage.client, US, &id).await.unwrap(), Stop::Stopped(Setting::Replicas(2)));
        assert_eq!(original(&stage, resource, &name), format!(r#"{{"migration":"{US}","replicas":2}}"#));
        quiet(&stage, &id).await;
        // A crash forgets that it was stopped: the second stop still knows how it was.
        assert_eq!(stop(&stage.client, US, &id).await.unwrap(), Stop::Stopped(Setting::Replicas(2)));
        assert_eq!(original(&stage, resource, &name), format!(r#"{{"migration":"{US}","replicas":2}}"#));

        assert_eq!(stop(&stage.client, THEM, &id).await.unwrap(), Stop::HeldByOther(US.into()));
        assert_eq!(restore(&stage.client, THEM, &id, Setting::Replicas(2)).await.unwrap(), Start::HeldByOther(US.into()));
        assert_eq!(one(&stage, kind, &name).await.replicas, Some(0));

        assert_eq!(restore(&stage.client, US, &id, Setting::Replicas(2)).await.unwrap(), Start::Set);
        assert_eq!(original(&stage, resource, &name), "");
        up(&stage, &id).await;
        assert_eq!(restore(&stage.client, US, &id, Setting::Replicas(2)).await.unwrap(), Start::Set, "twice is once");
    }
    stage.room.end().await;
}

#[tokio::test]
async fn a_terminating_pod_still_counts() {
    let stage = Stage::new("terminating").await;
    stage.apply(&sleeper("Deployment", "slow", 1, 600));
    let id = one(&stage, WorkloadKind::Deployment, "slow").await.id();
    up(&stage, &id).await;
    stop(&stage.client, US, &id).await.unwrap();
    let left: PodsLeft = eventually("the pod to be terminating", || async {
        let left = pods_left(&stage.client, &id).await.unwrap();
        if left.terminating == 1 && left.settled { Ok(left) } else { Err(left) }
    })
    .await;
    assert_eq!(left.names.len(), 1);
    assert!(!left.quiet());
    assert_eq!(one(&stage, WorkloadKind::Deployment, "slow").await.ready, 0, "the workload itself says that all is over");
    stage.kubectl(&["delete", "pod", &left.names[0], "--force", "--grace-period=0"]);
    quiet(&stage, &id).await;
    stage.room.end().await;
}

#[tokio::test]
async fn what_others_changed_meanwhile_is_left_alone() {
    let stage = Stage::new("others").await;
    stage.apply(
        &(sleeper("Deployment", "kept", 0, 0) + &sleeper("Deployment", "gone", 1, 0) + &sleeper("Deployment", "bystander", 1, 0)),
    );
    let kept = one(&stage, WorkloadKind::Deployment, "kept").await.id();
    stage.kubectl(&["scale", "deployment/kept", "--replicas=1"]);
    assert_eq!(stop(&stage.client, US, &kept).await.unwrap(), Stop::Stopped(Setting::Replicas(1)));
    stage.kubectl(&["scale", "deployment/kept", "--replicas=3"]);
    assert!(!pods_left(&stage.client, &kept).await.unwrap().quiet(), "somebody reverted the stop");
    assert_eq!(
        restore(&stage.client, US, &kept, Setting::Replicas(1)).await.unwrap(),
        Start::ChangedByOthers(Setting::Replicas(3))
    );
    let after = one(&stage, WorkloadKind::Deployment, "kept").await;
    assert_eq!((after.replicas, after.original), (Some(3), None));

    // Stopped at 0 already: the record says so, and resume sets what the spec wants.
    stage.kubectl(&["scale", "deployment/kept", "--replicas=0"]);
    assert_eq!(stop(&stage.client, US, &kept).await.unwrap(), Stop::Stopped(Setting::Replicas(0)));
    assert_eq!(scale_to(&stage.client, US, &kept, 1).await.unwrap(), Start::Set);
    assert_eq!(one(&stage, WorkloadKind::Deployment, "kept").await.replicas, Some(1));

    let gone = one(&stage, WorkloadKind::Deployment, "gone").await.id();
    stage.kubectl(&["delete", "deployment", "gone", "--wait=true"]);
    stage.apply(&sleeper("Deployment", "gone", 1, 0));
    assert_eq!(stop(&stage.client, US, &gone).await.unwrap(), Stop::Gone, "another workload has the name");
    assert_eq!(one(&stage, WorkloadKind::Deployment, "gone").await.replicas, Some(1));
    assert_eq!(pods_left(&stage.client, &gone).await.unwrap_err().kind(), Kind::NotFound);

    // By label, and not more than that.
    let by_label = Writer { kind: WorkloadKind::Deployment, name: None, label_selector: Some("tier=writers".into()) };
    let names: Vec<String> =
        find(&stage.client, stage.namespace(), &by_label).await.unwrap().into_iter().map(|w| w.name).collect();
    assert_eq!(names, ["bystander", "gone", "kept"]);
    let none = Writer { label_selector: Some("tier=none".into()), ..by_label };
    assert!(find(&stage.client, stage.namespace(), &none).await.unwrap().is_empty());
    let error = find(&stage.client, stage.namespace(), &named(WorkloadKind::Rollout, "x")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    stage.room.end().await;
}

#[tokio::test]
async fn a_stop_holds_against_a_busy_object() {
    let stage = Stage::new("busy").await;
    stage.apply(&sleeper("Deployment", "busy", 1, 0));
    let id = one(&stage, WorkloadKind::Deployment, "busy").await.id();
    // Status changes all the while: pods come and go.
    let noise = async {
        for n in 0..20 {
            stage.kubectl(&["annotate", "--overwrite", "deployment/busy", &format!("noise={n}")]);
            tokio::task::yield_now().await;
        }
    };
    let ((), stopped) = tokio::join!(noise, stop(&stage.client, US, &id));
    assert_eq!(stopped.unwrap(), Stop::Stopped(Setting::Replicas(1)));
    let now = one(&stage, WorkloadKind::Deployment, "busy").await;
    assert_eq!((now.replicas, now.original.map(|o| o.setting)), (Some(0), Some(Setting::Replicas(1))));
    stage.room.end().await;
}

#[tokio::test]
async fn a_cron_job_is_suspended_and_its_runs_are_waited_for() {
    let stage = Stage::new("cron").await;
    let image = crate::support::setting("PGM_PG15_IMAGE");
    stage.apply(&format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: clean}}\nspec:\n  schedule: '0 0 1 1 *'\n  jobTemplate:\n    spec:\n      backoffLimit: 0\n      \
         template:\n        spec:\n          restartPolicy: Never\n          terminationGracePeriodSeconds: 0\n          containers:\n          - {{name: main, image: '{image}', command: [sleep, infinity]}}\n"
    ));
    let id = one(&stage, WorkloadKind::CronJob, "clean").await.id();
    assert!(
        access::missing(&stage.client, stage.namespace(), &rights(WorkloadKind::CronJob, Some("clean")))
            .await
            .unwrap()
            .is_empty()
    );
    stage.kubectl(&["create", "job", "--from=cronjob/clean", "clean-now"]);
    // A Job of somebody else, and one that looks like a run by its name.
    stage.kubectl(&["create", "job", "clean-up-of-others", &format!("--image={image}"), "--", "sleep", "infinity"]);

    assert_eq!(stop(&stage.client, US, &id).await.unwrap(), Stop::Stopped(Setting::Suspended(false)));
    assert_eq!(
        get(&stage.client, stage.namespace(), WorkloadKind::CronJob, "clean").await.unwrap().unwrap().suspended,
        Some(true)
    );
    let left = eventually("the run's pod", || async {
        let left = pods_left(&stage.client, &id).await.unwrap();
        if left.names.len() == 2 { Ok(left) } else { Err(left) }
    })
    .await;
    assert!(left.names.iter().all(|name| name.contains("clean-now")), "{left:?}");
    stage.kubectl(&["delete", "job", "clean-now", "--wait=true"]);
    quiet(&stage, &id).await;
    assert_eq!(restore(&stage.client, US, &id, Setting::Suspended(false)).await.unwrap(), Start::Set);
    let after = one(&stage, WorkloadKind::CronJob, "clean").await;
    assert_eq!((after.suspended, after.original), (Some(false), None));
    stage.room.end().await;
}

#[tokio::test]
async fn autoscalers_of_a_workload_are_found() {
    let stage = Stage::new("scaler").await;
    stage.apply(&sleeper("Deployment", "api", 0, 0));
    stage.apply(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: api}\nspec:\n  minReplicas: 1\n  maxReplicas: 4\n  \
         scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: api}\n  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]\n",
    );
    let found = autoscalers(&stage.client, &one(&stage, WorkloadKind::Deployment, "api").await).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, found[0].name.as_str(), found[0].wakes_from_zero),
        (AutoscalerKind::HorizontalPodAutoscaler, "api", false)
    );
    stage.room.end().await;
}
