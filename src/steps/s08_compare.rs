//! Compare every row of both databases.
//!
//! Effect: a mover Job digests both sides and writes the per-table document beside the archive. A difference is final: no
//! attempt of this run can make it equal. Undo: end the mover; the document goes with the archive.

use super::context::{Context, lost};
use super::transfer::{Moved, drive};
use crate::api::conditions::reasons;
use crate::api::{Side, StepName, Verification};
use crate::plan::Failure;
use crate::plan::operation::{CompareTask, Task};
use crate::plan::record::Advance;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let (Some(archive), Some(staging)) = (cx.status.archive.clone(), cx.status.staging.clone()) else {
        return Err(lost("what is to be compared"));
    };
    let task = Task::Compare(CompareTask {
        source: cx.database_end(Side::Source, &super::s04_fence::current_name(cx))?,
        target: cx.database_end(Side::Target, &staging.database)?,
        archive: cx.archive_end(&archive.key),
    });
    match drive(cx, StepName::Compare, task).await? {
        Moved::Not(advance) => Ok(advance),
        Moved::Done(verdict) => {
            let int = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok());
            let (Some(tables), Some(rows), true) = (int(verdict.tables), int(verdict.rows), verdict.differences_total == 0)
            else {
                return Err(Failure::terminal(
                    reasons::NOT_EQUAL,
                    "the mover ended well, but did not say what it compared: the copy counts as different",
                ));
            };
            cx.status.verification = Some(Verification {
                equal: true,
                tables,
                rows,
                digest: verdict.digest,
                report_key: verdict.document,
                ..Verification::default()
            });
            Ok(Advance::Done)
        }
    }
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    Ok(super::transfer::end_movers(cx).await?.unwrap_or(Advance::Done))
}
