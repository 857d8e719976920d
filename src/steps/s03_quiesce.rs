//! Stop the writers, and hold the application of the target at 0.
//!
//! Effects: replicas 0, CronJobs suspended, one workload a call; how each was is recorded in the status and on the object
//! before. Done only when no pod is left, terminating ones included, on two reads. Undo: each is set back, if it still is as
//! we left it.

use std::collections::BTreeSet;

use super::context::Context;
use crate::api::conditions::reasons;
use crate::api::{Quiesced, Side, StepName, Writer};
use crate::kubernetes::workloads::{self, Setting, Start, Stop, WorkloadId, WorkloadState};
use crate::plan::Failure;
use crate::plan::checks::workloads::{MOST_WRITERS, too_many};
use crate::plan::record::Advance;

/// Seconds that pods may take to go.
const DEADLINE: i64 = 600;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let found = all(cx).await?;
    let known: BTreeSet<String> = cx.status.quiesced.iter().map(|q| q.uid.clone()).collect();
    let new: Vec<Quiesced> = found.iter().filter(|(_, w)| !known.contains(&w.uid)).map(|(side, w)| record(*side, w)).collect();
    if !new.is_empty() {
        let writers = cx.status.quiesced.iter().chain(&new).filter(|q| q.side == Side::Source).count();
        if writers > MOST_WRITERS {
            return Err(Failure::needs_human(reasons::SPEC_INVALID, format!("spec.source.writers: {}", too_many(writers))));
        }
        cx.status.quiesced.extend(new);
        return Ok(Advance::Again);
    }
    if let Some(at) = cx.status.quiesced.iter().position(|q| !q.requested) {
        let q = cx.status.quiesced[at].clone();
        let client = cx.cluster(q.side).await?;
        cx.unsurpassed().await?;
        match workloads::stop(&client, cx.names.uid(), &id(&q)).await.map_err(|e| cx.api(q.side, &e))? {
            Stop::Stopped(original) => set_original(&mut cx.status.quiesced[at], original),
            Stop::Gone => cx.status.quiesced[at].stopped = true,
            Stop::HeldByOther(other) => {
                return Err(Failure::needs_human(
                    reasons::CHANGED_BY_OTHERS,
                    format!(
                        "{} is held at 0 by another migration (UID {other}): wait for its end, or call it off",
                        words(cx, &q)
                    ),
                ));
            }
        }
        cx.status.quiesced[at].requested = true;
        return Ok(Advance::Again);
    }
    let mut left = Vec::new();
    for at in 0..cx.status.quiesced.len() {
        let q = cx.status.quiesced[at].clone();
        let client = cx.cluster(q.side).await?;
        let Some(now) = found.iter().map(|(_, w)| w).find(|w| w.uid == q.uid) else { continue };
        if matches!(now.setting(), Setting::Replicas(1..) | Setting::Suspended(false)) {
            return Err(Failure::needs_human(
                reasons::CHANGED_BY_OTHERS,
                format!(
                    "{} was started again by somebody after it was stopped: look for an autoscaler or a GitOps controller that owns it{}",
                    words(cx, &q),
                    now.controller.as_ref().map_or_else(String::new, |c| format!(" (its controller is {c})"))
                ),
            ));
        }
        let pods = workloads::pods_left(&client, &now.id()).await.map_err(|e| cx.api(q.side, &e))?;
        if pods.quiet() {
            continue;
        }
        cx.status.quiesced[at].stopped = false;
        let what = if pods.names.is_empty() { "its controller has not seen it yet".into() } else { pods.names.join(", ") };
        left.push(format!("{}: {what}", words(cx, &q)));
    }
    if !left.is_empty() {
        let begun = cx.status.steps.iter().find(|s| s.name == StepName::Quiesce).and_then(|s| s.start_time.as_ref());
        let waited = begun.map_or(0, |t| cx.now.as_second() - t.0.as_second());
        let left = left.into_iter().take(10).collect::<Vec<_>>().join("; ");
        if waited > DEADLINE {
            return Err(Failure::needs_human(
                reasons::WRITERS_STILL_RUNNING,
                format!("{waited} s after they were stopped there are still pods of: {left}"),
            ));
        }
        return Ok(Advance::Wait { seconds: 1, message: format!("waiting until no pod is left: {left}") });
    }
    // The second read: pods that a controller was about to make must have shown themselves by now.
    if cx.status.quiesced.iter().any(|q| !q.stopped) {
        for q in &mut cx.status.quiesced {
            q.stopped = true;
        }
        return Ok(Advance::Wait { seconds: 1, message: "no pod is left; looking once more".into() });
    }
    Ok(Advance::Done)
}

/// Everything that is to be stopped, as it is now. An object that is writer and application is named once, on the source.
pub async fn all(cx: &mut Context<'_>) -> Result<Vec<(Side, WorkloadState)>, Failure> {
    let mut found: Vec<(Side, WorkloadState)> = Vec::new();
    let application = cx
        .spec()
        .target
        .application
        .workloads
        .iter()
        .map(|w| (Side::Target, Writer { kind: w.kind, name: Some(w.name.clone()), label_selector: None }));
    let named: Vec<(Side, Writer)> =
        cx.spec().source.writers.iter().map(|w| (Side::Source, w.clone())).chain(application).collect();
    for (side, writer) in named {
        let client = cx.cluster(side).await?;
        for w in workloads::find(&client, &cx.namespace(side), &writer).await.map_err(|e| cx.api(side, &e))? {
            if !found.iter().any(|(_, f)| f.uid == w.uid) {
                found.push((side, w));
            }
        }
    }
    Ok(found)
}

fn record(side: Side, w: &WorkloadState) -> Quiesced {
    let mut q = Quiesced {
        side,
        kind: w.kind,
        namespace: w.namespace.clone(),
        name: w.name.clone(),
        uid: w.uid.clone(),
        replicas: None,
        suspended: None,
        requested: false,
        stopped: false,
        restored: false,
    };
    set_original(&mut q, w.setting());
    q
}

fn set_original(q: &mut Quiesced, setting: Setting) {
    match setting {
        Setting::Replicas(n) => q.replicas = Some(n),
        Setting::Suspended(s) => q.suspended = Some(s),
    }
}

/// Whether the application of the target stands still yet, before the new database is taken from it: whoever started it behind
/// our back let it write there, and what it wrote is nowhere else. `None`: it stands still.
///
/// # Errors
/// It was started by somebody.
pub async fn application_at_rest(cx: &mut Context<'_>) -> Result<Option<Advance>, Failure> {
    let client = cx.cluster(Side::Target).await?;
    let namespace = cx.namespace(Side::Target);
    for workload in &cx.spec().target.application.workloads {
        let found =
            workloads::get(&client, &namespace, workload.kind, &workload.name).await.map_err(|e| cx.api(Side::Target, &e))?;
        let Some(now) = found else { continue };
        let words = format!("{:?} {namespace}/{}", now.kind, now.name);
        if now.setting() != now.setting().stopped() {
            let lost = if cx.status.resumed {
                "what it wrote there is saved before that is dropped: stop it, and the undo goes on"
            } else {
                "which undoing would lose: save what must be kept, then stop it, and the undo goes on"
            };
            return Err(Failure::needs_human(
                reasons::CHANGED_BY_OTHERS,
                format!("{words} was started by somebody and may have written to the new database; {lost}"),
            ));
        }
        let pods = workloads::pods_left(&client, &now.id()).await.map_err(|e| cx.api(Side::Target, &e))?;
        if !pods.quiet() {
            let names = pods.names.join(", ");
            let waited = cx.undoing_for();
            if waited > DEADLINE {
                return Err(Failure::needs_human(
                    reasons::WRITERS_STILL_RUNNING,
                    format!("{waited} s after the undo began there are still pods of {words}: {names}"),
                ));
            }
            return Ok(Some(Advance::Wait { seconds: 1, message: format!("waiting until no pod of {words} is left: {names}") }));
        }
    }
    Ok(None)
}

/// The identity of a stopped workload.
pub fn id(q: &Quiesced) -> WorkloadId {
    WorkloadId { kind: q.kind, namespace: q.namespace.clone(), name: q.name.clone(), uid: q.uid.clone() }
}

/// A stopped workload for people.
pub fn words(cx: &Context<'_>, q: &Quiesced) -> String {
    cx.object_words(q.side, &format!("{:?}", q.kind), &q.name)
}

/// How it was before.
pub fn original(q: &Quiesced) -> Setting {
    match q.suspended {
        Some(s) => Setting::Suspended(s),
        None => Setting::Replicas(q.replicas.unwrap_or(0)),
    }
}

/// What was not put back is told: somebody else's word was the last one.
fn left_alone(cx: &mut Context<'_>, q: &Quiesced, why: &str) {
    let path = match q.side {
        Side::Source => "spec.source.writers",
        Side::Target => "spec.target.application.workloads",
    };
    let message = format!("{} was left as it is, because {why}; before the migration it was {:?}", words(cx, q), original(q));
    cx.warn(reasons::CHANGED_BY_OTHERS, path, &message);
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let Some(at) = cx.status.quiesced.iter().position(|q| !q.restored) else { return Ok(Advance::Done) };
    let q = cx.status.quiesced[at].clone();
    let client = cx.cluster(q.side).await?;
    cx.unsurpassed().await?;
    let done = workloads::restore(&client, cx.names.uid(), &id(&q), original(&q)).await.map_err(|e| cx.api(q.side, &e))?;
    match done {
        Start::Set | Start::Gone => {}
        Start::ChangedByOthers(now) => left_alone(cx, &q, &format!("somebody set it to {now:?} meanwhile")),
        Start::HeldByOther(other) => left_alone(cx, &q, &format!("another migration (UID {other}) holds it")),
    }
    cx.status.quiesced[at].restored = true;
    Ok(Advance::Again)
}
