//! Gather planner statistics in the staging database: a dump carries none, and an application that starts without them is slow.
//!
//! Effect: a mover Job runs ANALYZE. Undo: end the mover; the statistics go with the staging database.

use super::context::{Context, lost};
use super::transfer::{Moved, drive};
use crate::api::{Side, StepName};
use crate::plan::Failure;
use crate::plan::operation::{AnalyzeTask, Task};
use crate::plan::record::Advance;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let Some(staging) = cx.status.staging.clone() else {
        return Err(lost("what the copy is called"));
    };
    let task = Task::Analyze(AnalyzeTask { target: cx.database_end(Side::Target, &staging.database)? });
    match drive(cx, StepName::Analyze, task).await? {
        Moved::Not(advance) => Ok(advance),
        Moved::Done(_) => Ok(Advance::Done),
    }
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    Ok(super::transfer::end_movers(cx).await?.unwrap_or(Advance::Done))
}
