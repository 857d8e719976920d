//! Start the application on the new database.
//!
//! Effects: that it may write is recorded first (from here on, going back costs data), then one workload a call is scaled up.
//! Done when all are available. Undo exists only for the moment before the first of them was started.

use super::context::Context;
use super::s03_quiesce::{id, original, words};
use crate::api::conditions::reasons;
use crate::api::{Quiesced, StepName, Workload};
use crate::kubernetes::workloads::{self, Setting, Start};
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

/// Where `workload` stands among the stopped ones, whichever side it was stopped for.
async fn position(cx: &mut Context<'_>, workload: &Workload) -> Result<Option<usize>, Failure> {
    let side = crate::api::Side::Target;
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
