//! The runbook, one file a step: what the step does to the world, how it finds out whether that happened, how it is undone.
//!
//! A step is called again and again until it says `Done`. Each call performs at most one effect; before an effect its intent
//! stands in the status, after it the evidence. A step that finds its effect already there does not repeat it: this is how a
//! crash is survived. The judgement of what comes next is not here but in `plan`.

mod completion;
mod context;
mod ending;
mod saving;

pub use context::{Context, Installation};

use futures::future::{self, BoxFuture, FutureExt as _};

use crate::api::conditions::reasons;
use crate::api::{Side, StepName, StepState};
use crate::plan::Failure;
use crate::plan::record::Advance;

mod s01_pin;
mod s02_preflight;
mod s03_quiesce;
mod s04_fence;
mod s05_dump;
mod s06_verify_archive;
mod s07_restore;
mod s08_compare;
mod s09_analyze;
mod s10_witness;
mod s11_publish;
mod s12_repoint;
mod s13_schema_job;
mod s14_resume;
mod s15_keep;
mod transfer;

/// Goes on with `step`.
///
/// # Errors
/// What went wrong, with its class: `plan::failure` decides what is done about it. The status may have been changed before.
pub async fn run(step: StepName, cx: &mut Context<'_>) -> Result<Advance, Failure> {
    forward(step, cx).await.map_err(|failure| cx.placed(failure))
}

/// A plain function, so that what makes the futures of all steps is off the stack before one of them runs: together they are
/// larger than a thread's stack in a build without optimization.
fn forward<'a>(step: StepName, cx: &'a mut Context<'_>) -> BoxFuture<'a, Result<Advance, Failure>> {
    match step {
        StepName::Pin => s01_pin::run(cx).boxed(),
        StepName::Preflight => s02_preflight::run(cx).boxed(),
        StepName::Quiesce => s03_quiesce::run(cx).boxed(),
        StepName::Fence => s04_fence::run(cx).boxed(),
        StepName::Dump => s05_dump::run(cx).boxed(),
        StepName::VerifyArchive => s06_verify_archive::run(cx).boxed(),
        StepName::Restore => s07_restore::run(cx).boxed(),
        StepName::Compare => s08_compare::run(cx).boxed(),
        StepName::Analyze => s09_analyze::run(cx).boxed(),
        StepName::Witness => s10_witness::run(cx).boxed(),
        StepName::Publish => s11_publish::run(cx).boxed(),
        StepName::Repoint => s12_repoint::run(cx).boxed(),
        StepName::SchemaJob => s13_schema_job::run(cx).boxed(),
        StepName::Resume => s14_resume::run(cx).boxed(),
        StepName::Keep => s15_keep::run(cx).boxed(),
    }
}

/// Goes on undoing `step`. Steps without effects have nothing to undo and are never asked.
///
/// # Errors
/// As [`run`]; an undo is tried again for as long as it takes.
pub async fn undo(step: StepName, cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let found = found_again(step, cx).await;
    let undone = match found {
        Ok(()) => backward(step, cx).await,
        Err(failure) => Err(failure),
    };
    undone.map_err(|failure| cx.placed(failure))
}

/// Long after a migration its servers may live in other pods, or be gone, and another server may have their place. Before the first
/// effect of going back from a published database both must be there: what runs is not stopped for a way that leads nowhere.
/// Later on they are looked for anew after each failure.
async fn found_again(step: StepName, cx: &mut Context<'_>) -> Result<(), Failure> {
    let published = cx.status.publication.as_ref().is_some_and(|p| p.published);
    let untouched = !cx.status.steps.iter().any(|s| matches!(s.state, StepState::Undoing | StepState::Undone));
    let failed = cx.failures(step) > 0;
    if cx.status.pinned.is_none() || !(failed || published && untouched) {
        return Ok(());
    }
    // Without an undo it is the source alone that is to be opened.
    let sides: &[Side] = if cx.status.undo.is_some() { &[Side::Source, Side::Target] } else { &[Side::Source] };
    for side in sides {
        match s01_pin::follow(cx, *side).boxed().await {
            Err(failure) if published || failure.reason == reasons::SERVER_CHANGED => return Err(failure),
            // The step may need nothing of it, or says itself what it lacks.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// As [`forward`].
fn backward<'a>(step: StepName, cx: &'a mut Context<'_>) -> BoxFuture<'a, Result<Advance, Failure>> {
    match step {
        // Nothing is undone of them: they change nothing.
        StepName::Pin | StepName::Preflight | StepName::Witness => future::ready(Ok(Advance::Done)).boxed(),
        StepName::Quiesce => s03_quiesce::undo(cx).boxed(),
        StepName::Fence => s04_fence::undo(cx).boxed(),
        StepName::Dump => s05_dump::undo(cx).boxed(),
        StepName::VerifyArchive => s06_verify_archive::undo(cx).boxed(),
        StepName::Restore => s07_restore::undo(cx).boxed(),
        StepName::Compare => s08_compare::undo(cx).boxed(),
        StepName::Analyze => s09_analyze::undo(cx).boxed(),
        StepName::Publish => s11_publish::undo(cx).boxed(),
        StepName::Repoint => s12_repoint::undo(cx).boxed(),
        StepName::SchemaJob => s13_schema_job::undo(cx).boxed(),
        StepName::Resume => s14_resume::undo(cx).boxed(),
        StepName::Keep => s15_keep::undo(cx).boxed(),
    }
}
