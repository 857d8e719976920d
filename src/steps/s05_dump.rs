//! Dump the fenced source into the bucket.
//!
//! Effect: one mover Job that execs pg_dump in the source's own container and streams it into one object.
//! Probe: the Job's verdict; a new attempt finds a finished object by its manifest. Undo: end the mover and what it started
//! in the pod, abort its uploads, delete what this run wrote into the bucket. The archive of a migration whose application has
//! run stays: how long it is kept was promised.

use super::context::{Context, archive, lost};
use super::s04_fence::admins;
use super::saving;
use super::transfer::{Moved, drive, end_mover_sessions, end_movers};
use crate::api::conditions::reasons;
use crate::api::{ArchiveStatus, Side, StepName};
use crate::archive::keys;
use crate::plan::Failure;
use crate::plan::operation::{DumpTask, Task};
use crate::plan::record::Advance;

/// Failures in a row after which a bucket that does not answer is left as it is, once the application has run.
const PATIENCE: i64 = 4;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let Some(pinned) = cx.status.pinned.clone() else {
        return Err(lost("what both ends were"));
    };
    let database = cx.database().name.clone();
    let Some(planned) = cx.status.archive.clone() else {
        let key = keys::archive(&cx.run_prefix(), &database, &pinned.stamp);
        cx.status.archive = Some(ArchiveStatus { bucket: cx.spec().archive.s3.bucket.clone(), key, ..ArchiveStatus::default() });
        return Ok(Advance::Again);
    };
    let task = Task::Dump(DumpTask {
        source: cx.database_end(Side::Source, &super::s04_fence::current_name(cx))?,
        reader: Some(cx.database_end(Side::Target, "postgres")?),
        archive: cx.archive_end(&planned.key),
        database,
        run: pinned.stamp,
        estimated_bytes: u64::try_from(pinned.database_bytes).unwrap_or(0),
    });
    match drive(cx, StepName::Dump, task).await? {
        Moved::Not(advance) => Ok(advance),
        Moved::Done(verdict) => {
            let (Some(bytes), Some(sha256)) = (verdict.bytes, verdict.sha256.clone()) else {
                return Err(Failure::terminal(
                    reasons::DUMP_FAILED,
                    "the mover ended well, but did not say how much it uploaded: nothing of that can be trusted",
                ));
            };
            cx.status.archive = Some(ArchiveStatus { bytes: i64::try_from(bytes).ok(), sha256: Some(sha256), ..planned });
            Ok(Advance::Done)
        }
    }
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    if let Some(wait) = end_movers(cx).await? {
        return Ok(wait);
    }
    if cx.status.pinned.is_some() {
        for side in [Side::Source, Side::Target] {
            let mut admins = admins(cx, side).await?;
            let left = end_mover_sessions(cx, &mut admins, side, StepName::Dump).await;
            admins.close().await;
            if let Some(wait) = left? {
                return Ok(wait);
            }
            cx.sweep(side).await?;
        }
    }
    let Some(planned) = cx.status.archive.clone() else { return Ok(Advance::Done) };
    if cx.status.resumed {
        match saving::put_manifest_by(cx, &planned.key).await {
            Err(failure) if cx.failures(StepName::Dump) < PATIENCE => return Err(failure),
            // The application waits for the old database, and nothing that it needs is in the bucket.
            Err(failure) => cx.warn(failure.reason, "spec.archive.s3", &failure.message),
            Ok(()) => {}
        }
        return Ok(Advance::Done);
    }
    let bucket = cx.bucket().await?;
    cx.unsurpassed().await?;
    bucket.abort_orphans(&cx.run_prefix()).await.map_err(|e| archive(&e))?;
    // The manifest first: what has no manifest does not exist.
    let prefix = cx.run_prefix();
    let beside = planned.key.trim_end_matches(".dump").to_owned();
    let mut doomed: Vec<String> = vec![keys::run_manifest(&prefix), keys::manifest(&planned.key)];
    doomed.extend(
        bucket.list(&prefix).await.map_err(|e| archive(&e))?.into_iter().map(|o| o.key).filter(|k| k.starts_with(&beside)),
    );
    for key in doomed {
        bucket.delete(&key).await.map_err(|e| archive(&e))?;
    }
    cx.status.archive = None;
    Ok(Advance::Done)
}
