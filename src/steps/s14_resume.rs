//! Start the application on the new database.
//!
//! Effects: that it may write is recorded first (from here on, going back costs data), then one workload a call is scaled up.
//! Done when all are available. Undo: each is stopped again, and the object carries again how it was before the migration; done when
//! no pod is left.

use super::context::Context;
use super::s03_quiesce::{id, original, words};
use crate::api::conditions::reasons;
use crate::api::{Quiesced, Side, StepName, Workload};
use crate::kubernetes::workloads::{self, Setting, Start, Stop};
use crate::plan::Failure;
use crate::plan::record::Advance;

/// Seconds that the application may take to become available.
const DEADLINE: i64 = 900;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    if !cx.status.resumed {
        cx.status.resumed = true;
        return Ok(Advance::Again);
    }
    let mut waiting = Vec::new();
    for workload in &cx.spec().target.application.workloads {
        let Some(at) = position(cx, workload).await? else { continue };
        let q = cx.status.quiesced[at].clone();
        let client = cx.cluster(q.side).await?;
        if !q.restored {
            let wanted = match (original(&q), workload.replicas) {
                (Setting::Replicas(_), Some(n)) => Setting::Replicas(n),
                (before, _) => before,
            };
            cx.unsurpassed().await?;
            let done = match wanted {
                Setting::Replicas(n) => workloads::scale_to(&client, cx.names.uid(), &id(&q), n).await,
                Setting::Suspended(_) => workloads::restore(&client, cx.names.uid(), &id(&q), wanted).await,
            }
            .map_err(|e| cx.api(q.side, &e))?;
            match done {
                Start::Set => {}
                Start::ChangedByOthers(now) => {
                    let message = format!("{} was started by somebody already, and is left so: {now:?}", words(cx, &q));
                    cx.warn(reasons::CHANGED_BY_OTHERS, "spec.target.application.workloads", &message);
                }
                Start::Gone | Start::HeldByOther(_) => {
                    return Err(Failure::needs_human(
                        reasons::NOT_AVAILABLE,
                        format!(
                            "spec.target.application.workloads: {} is gone or held by another migration: start it by hand",
                            words(cx, &q)
                        ),
                    ));
                }
            }
            cx.status.quiesced[at].restored = true;
            return Ok(Advance::Again);
        }
        let now = workloads::availability(&client, &id(&q)).await.map_err(|e| cx.api(q.side, &e))?;
        if !now.complete {
            let pods = now.not_ready.into_iter().take(3).collect::<Vec<_>>().join(", ");
            waiting.push(format!("{}: {} of {} available {pods}", words(cx, &q), now.available, now.wanted));
        }
    }
    if waiting.is_empty() {
        return Ok(Advance::Done);
    }
    let waiting = waiting.join("; ");
    let begun = cx.status.steps.iter().find(|s| s.name == StepName::Resume).and_then(|s| s.start_time.as_ref());
    let waited = begun.map_or(0, |t| cx.now.as_second() - t.0.as_second());
    if waited > DEADLINE {
        return Err(Failure::needs_human(
            reasons::NOT_AVAILABLE,
            format!("spec.target.application.workloads: not available {waited} s after the start: {waiting}"),
        ));
    }
    Ok(Advance::Wait { seconds: 2, message: waiting })
}

/// Seconds that pods may take to go when the application is stopped again.
const STOPPED_WITHIN: i64 = 600;

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    if !cx.status.resumed {
        return Ok(Advance::Done);
    }
    let own = application(cx).await?;
    // The intent: whatever of it was started is to be stopped, also where a crash came before that was written down.
    let begun = |q: &Quiesced| q.restored || q.stopped;
    if own.iter().any(|at| begun(&cx.status.quiesced[*at])) {
        for at in own {
            let q = &mut cx.status.quiesced[at];
            (q.requested, q.stopped, q.restored) = (false, false, false);
        }
        return Ok(Advance::Again);
    }
    if let Some(at) = own.iter().copied().find(|at| !cx.status.quiesced[*at].requested) {
        let q = cx.status.quiesced[at].clone();
        let client = cx.cluster(q.side).await?;
        cx.unsurpassed().await?;
        let stopped = workloads::stop_again(&client, cx.names.uid(), &id(&q), original(&q)).await;
        if let Stop::HeldByOther(other) = stopped.map_err(|e| cx.api(q.side, &e))? {
            return Err(Failure::needs_human(
                reasons::CHANGED_BY_OTHERS,
                format!("{} is held by another migration (UID {other}): wait for its end, or call it off", words(cx, &q)),
            ));
        }
        cx.status.quiesced[at].requested = true;
        return Ok(Advance::Again);
    }
    let mut left = Vec::new();
    for at in own {
        let q = cx.status.quiesced[at].clone();
        let client = cx.cluster(q.side).await?;
        let found = workloads::get(&client, &q.namespace, q.kind, &q.name).await.map_err(|e| cx.api(q.side, &e))?;
        let Some(now) = found.filter(|now| now.uid == q.uid) else { continue };
        if now.setting() != now.setting().stopped() {
            return Err(Failure::needs_human(
                reasons::CHANGED_BY_OTHERS,
                format!(
                    "{} was started again by somebody after it was stopped: stop it, and whatever keeps it running (an autoscaler, a GitOps controller), then the rollback goes on",
                    words(cx, &q)
                ),
            ));
        }
        let pods = workloads::pods_left(&client, &now.id()).await.map_err(|e| cx.api(q.side, &e))?;
        if !pods.quiet() {
            let what = if pods.names.is_empty() { "its controller has not seen it yet".into() } else { pods.names.join(", ") };
            left.push(format!("{}: {what}", words(cx, &q)));
        }
    }
    if left.is_empty() {
        return Ok(Advance::Done);
    }
    let left = left.into_iter().take(10).collect::<Vec<_>>().join("; ");
    let waited = cx.undoing_for();
    if waited > STOPPED_WITHIN {
        return Err(Failure::needs_human(
            reasons::WRITERS_STILL_RUNNING,
            format!("{waited} s after the rollback began there are still pods of: {left}"),
        ));
    }
    Ok(Advance::Wait { seconds: 1, message: format!("waiting until no pod is left: {left}") })
}

/// Where the application's workloads stand among the stopped ones. What is gone, or was made anew, is not among them.
async fn application(cx: &mut Context<'_>) -> Result<Vec<usize>, Failure> {
    let (side, namespace) = (Side::Target, cx.namespace(Side::Target));
    let client = cx.cluster(side).await?;
    let mut found = Vec::new();
    for workload in &cx.spec().target.application.workloads {
        let now = workloads::get(&client, &namespace, workload.kind, &workload.name).await.map_err(|e| cx.api(side, &e))?;
        found.extend(now.and_then(|now| cx.status.quiesced.iter().position(|q| q.uid == now.uid)));
    }
    Ok(found)
}

/// Where `workload` stands among the stopped ones, whichever side it was stopped for.
async fn position(cx: &mut Context<'_>, workload: &Workload) -> Result<Option<usize>, Failure> {
    let side = Side::Target;
    let namespace = cx.namespace(side);
    let object = cx.object_words(side, &format!("{:?}", workload.kind), &workload.name);
    let client = cx.cluster(side).await?;
    let Some(now) = workloads::get(&client, &namespace, workload.kind, &workload.name).await.map_err(|e| cx.api(side, &e))?
    else {
        return Err(Failure::needs_human(
            reasons::OBJECT_NOT_FOUND,
            format!(
                "spec.target.application.workloads: {object} is gone: one that is made anew is not taken up, start it by hand"
            ),
        ));
    };
    let matches = |q: &Quiesced| q.uid == now.uid;
    cx.status.quiesced.iter().position(matches).map(Some).ok_or_else(|| {
        Failure::needs_human(
            reasons::CHANGED_BY_OTHERS,
            format!(
                "spec.target.application.workloads: {object} was replaced by another object of that name meanwhile, and is not taken up: start it by hand, then delete this object; the fence stays"
            ),
        )
    })
}
