//! Tidy up: the movers' Jobs go; the fence, the archive and the old data stay.
//!
//! Effects: Jobs are deleted, then the end is marked on the target database and in the bucket, at a time that is recorded
//! before: both marks may be written again. Nothing is undone of it.

use super::completion;
use super::context::Context;
use super::transfer::end_movers;
use crate::api::Completion;
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
