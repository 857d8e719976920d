//! Tidy up: the movers' Jobs go; the fence, the archive and the old data stay.
//!
//! Effects: Jobs are deleted, then the end is marked on the target database and in the bucket, at a time that is recorded
//! before: both marks may be written again. Undo: both marks go, or an object that is made again would take the work for done.

use super::completion;
use super::context::Context;
use super::transfer::end_movers;
use crate::api::{Completion, StepName};
use crate::plan::Failure;
use crate::plan::record::Advance;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    if let Some(wait) = end_movers(cx).await? {
        return Ok(wait);
    }
    if cx.status.completion.is_none() {
        let (migration_uid, time) = (cx.names.uid().to_owned(), cx.now.to_string());
        cx.status.completion = Some(Completion { migration_uid, time, earlier: false });
        return Ok(Advance::Again);
    }
    completion::mark(cx).await?;
    Ok(Advance::Done)
}

/// Failures in a row after which the mark in the bucket is left where it is. It counts only for the very database that is taken
/// away now, so going back must not wait for a bucket that does not answer.
const PATIENCE: i64 = 4;

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    if cx.status.completion.is_none() {
        return Ok(Advance::Done);
    }
    completion::unmark(cx).await?;
    match completion::forget(cx).await {
        Ok(()) => {}
        Err(failure) if cx.failures(StepName::Keep) >= PATIENCE => {
            let message = format!("the mark of the finished migration could not be deleted: {}", failure.message);
            cx.warn(failure.reason, "spec.archive.s3", &message);
        }
        Err(failure) => return Err(failure),
    }
    cx.status.completion = None;
    Ok(Advance::Done)
}
