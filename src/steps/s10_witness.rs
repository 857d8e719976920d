//! Prove that the source has not changed since it was closed.
//!
//! The fence must be tight, and next transaction id and sequences must be where they were when it was closed. On a server
//! with other busy databases the transaction id moves; then the whole comparison is made once more instead.

use super::context::{Context, lost};
use super::s04_fence as fence;
use super::transfer::{Moved, drive};
use crate::api::conditions::reasons;
use crate::api::{Side, StepName};
use crate::plan::Failure;
use crate::plan::operation::{CompareTask, Task};
use crate::plan::record::Advance;
use crate::postgres::catalog::Witness;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let Some(known) = cx.status.fence.clone() else {
        return Err(lost("how the source was closed"));
    };
    let mut admins = fence::admins(cx, Side::Source).await?;
    let tight = fence::tight(cx, &mut admins, &known).await;
    admins.close().await;
    tight?;
    let moved = !cx.status.verification.as_ref().is_some_and(|v| v.moved) && {
        let now = fence::witness(cx).await?;
        let read = |text: &str| serde_json::from_str::<Witness>(text).ok();
        let (before, now) = (known.witness.as_deref().and_then(read), read(&now));
        !matches!((before, now), (Some(before), Some(now)) if before.proves_quiet(&now))
    };
    let recompare = moved || cx.status.verification.as_ref().is_some_and(|v| v.moved && !v.witnessed);
    if moved {
        if let Some(v) = &mut cx.status.verification {
            v.moved = true;
        }
        return Ok(Advance::Again);
    }
    if recompare {
        let (Some(archive), Some(staging)) = (cx.status.archive.clone(), cx.status.staging.clone()) else {
            return Err(lost("what is to be compared"));
        };
        let task = Task::Compare(CompareTask {
            source: cx.database_end(Side::Source, &fence::current_name(cx))?,
            target: cx.database_end(Side::Target, &staging.database)?,
            archive: cx.archive_end(&archive.key),
        });
        match drive(cx, StepName::Witness, task).await {
            Ok(Moved::Not(advance)) => return Ok(advance),
            Ok(Moved::Done(_)) => {}
            Err(f) if f.reason == reasons::NOT_EQUAL => {
                return Err(Failure::terminal(
                    reasons::SOURCE_CHANGED,
                    format!("the source changed under the fence: {}", f.message),
                ));
            }
            Err(f) => return Err(f),
        }
    }
    if let Some(v) = &mut cx.status.verification {
        v.witnessed = true;
    }
    Ok(Advance::Done)
}
