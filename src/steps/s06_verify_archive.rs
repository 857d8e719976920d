//! Read the dump back from the bucket and seal the run.
//!
//! Effect: a mover Job reads the whole object, compares length and SHA-256 with what the dump said, then writes the run's
//! manifest, create-only and last of all. Undo: with the dump's.

use super::context::{Context, lost};
use super::transfer::{Moved, drive};
use crate::api::StepName;
use crate::api::conditions::reasons;
use crate::archive::keys;
use crate::plan::Failure;
use crate::plan::operation::{Task, VerifyTask};
use crate::plan::record::Advance;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let (Some(archive), Some(pinned)) = (cx.status.archive.clone(), cx.status.pinned.clone()) else {
        return Err(lost("where the archive is"));
    };
    let task = Task::Verify(VerifyTask {
        archive: cx.archive_end(&archive.key),
        keys: vec![archive.key.clone()],
        run: pinned.stamp,
        run_manifest_key: keys::run_manifest(&cx.run_prefix()),
    });
    match drive(cx, StepName::VerifyArchive, task).await? {
        Moved::Not(advance) => Ok(advance),
        Moved::Done(verdict) => {
            let same = verdict.bytes.and_then(|b| i64::try_from(b).ok()) == archive.bytes && verdict.sha256 == archive.sha256;
            if !same {
                return Err(Failure::terminal(
                    reasons::ARCHIVE_DAMAGED,
                    format!(
                        "spec.archive.s3: {}/{} was uploaded as {} bytes with SHA-256 {} and read back as {} bytes with SHA-256 {}",
                        archive.bucket,
                        archive.key,
                        archive.bytes.unwrap_or_default(),
                        archive.sha256.unwrap_or_default(),
                        verdict.bytes.unwrap_or_default(),
                        verdict.sha256.unwrap_or_default()
                    ),
                ));
            }
            if let Some(a) = &mut cx.status.archive {
                a.sealed = true;
            }
            Ok(Advance::Done)
        }
    }
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    Ok(super::transfer::end_movers(cx).await?.unwrap_or(Advance::Done))
}
