//! What the application wrote to the new database is saved before a rollback drops that: nothing is ever dropped undumped.
//!
//! The database is withdrawn under a name that no run ever takes, neither this one, whose forward steps an operator that comes late
//! may still believe in, nor a later one. So it is with one that was published but on which the application was not started yet. Effects: a mover dumps it to a key of its own; another reads the dump back. Intent and
//! evidence stand in `status.saved`. What cannot be saved is kept under that name, and the undo goes on, because the application must
//! not stand still for it.

use super::context::{Context, archive, lost, path, sql};
use super::s04_fence::admins;
use super::transfer::{Moved, drive_back};
use crate::api::conditions::reasons;
use crate::api::{Saved, Side};
use crate::archive::{ErrorKind, keys};
use crate::plan::operation::{DumpTask, Task, Verdict, VerifyTask};
use crate::plan::record::{Advance, bounded};
use crate::plan::{Class, Failure};
use crate::postgres::catalog;
use crate::postgres::names::kept_name;
use crate::postgres::staging;

/// How often a mover is started for it.
const ATTEMPTS: i64 = 4;

/// How it stands with the rows of the application.
pub enum Saving {
    /// They are safe, or there is no database: what is left of it may be dropped.
    Over,
    /// The database is kept under another name, and is not to be dropped.
    Kept,
    /// Not yet.
    Not(Advance),
}

/// Before the new database is withdrawn: the name that it gets then, and where it will be saved.
///
/// # Errors
/// The status does not tell where the archive is.
pub fn intend(cx: &mut Context<'_>) -> Result<(), Failure> {
    let own = cx.status.archive.clone().ok_or_else(|| lost("where the archive is"))?;
    let database = kept_name(cx.database().target_name(), cx.names.uid(), cx.status.run);
    let key = keys::saved(&own.key, 1);
    let row_changes = cx.status.publication.as_ref().and_then(|p| p.row_changes);
    cx.status.saved = Some(Saved { bucket: own.bucket, key, database, row_changes, attempt: 1, ..Saved::default() });
    Ok(())
}

/// Goes on with saving the withdrawn database with this OID.
pub async fn save(cx: &mut Context<'_>, oid: u32) -> Result<Saving, Failure> {
    let Some(known) = cx.status.saved.clone() else {
        // It went by somebody's hand before it could be withdrawn. If it did not, nothing must be dropped.
        return match called(cx, oid).await? {
            None => Ok(Saving::Over),
            Some(_) => Err(lost("under which name the new database was put by")),
        };
    };
    if known.kept_as.is_some() {
        return keep(cx, &known, oid).await;
    }
    if known.verified {
        return Ok(Saving::Over);
    }
    if !cx.status.resumed {
        return unlooked_for(cx, &known, oid).await;
    }
    let moved = if known.sha256.is_none() { dump(cx, &known).await } else { verify(cx, &known).await };
    match moved {
        Ok(Moved::Done(verdict)) => Ok(Saving::Not(evidence(cx, &known, &verdict))),
        Ok(Moved::Not(Advance::NextAttempt(failure))) => Ok(Saving::Not(failed(cx, &failure, known.attempt < ATTEMPTS))),
        Ok(Moved::Not(advance)) => Ok(Saving::Not(advance)),
        // The mover never came to its work: that passes, or it is another server, where nothing must be done at all.
        Err(f) if f.class == Class::Transient || matches!(f.reason, reasons::SERVER_CHANGED | reasons::STATUS_LOST) => Err(f),
        Err(failure) => {
            // Something else is at the key, or has become of it: the next attempt writes elsewhere.
            let again = failure.reason == reasons::ARCHIVE_DAMAGED && known.attempt < ATTEMPTS;
            Ok(Saving::Not(failed(cx, &failure, again)))
        }
    }
}

/// Before the application was started nobody should have written to the new database, and as a rule nobody has. What somebody wrote all
/// the same is kept where it is: no dump is waited for, because the old application stands still.
async fn unlooked_for(cx: &mut Context<'_>, known: &Saved, oid: u32) -> Result<Saving, Failure> {
    let Some(name) = called(cx, oid).await? else { return Ok(Saving::Over) };
    let mut session = cx.session(Side::Target, &name, "undo").await?;
    let now = catalog::row_changes(session.as_mut()).await.map_err(|e| sql(Side::Target, &e));
    session.close().await;
    if known.row_changes == Some(now?) {
        return Ok(Saving::Over);
    }
    if let Some(saved) = &mut cx.status.saved {
        saved.kept_as = Some(name);
        saved.failure =
            Some("rows were changed in it after it was published: by a schema job, or by somebody who is not in the spec".into());
    }
    Ok(Saving::Not(Advance::Again))
}

async fn called(cx: &mut Context<'_>, oid: u32) -> Result<Option<String>, Failure> {
    let mut target = admins(cx, Side::Target).await?;
    let name = staging::name_of(&mut target, oid).await.map_err(|e| sql(Side::Target, &e));
    target.close().await;
    name
}

async fn dump(cx: &mut Context<'_>, known: &Saved) -> Result<Moved, Failure> {
    let pinned = cx.status.pinned.clone().ok_or_else(|| lost("what both ends were"))?;
    let task = Task::Dump(DumpTask {
        source: cx.database_end(Side::Target, &known.database)?,
        reader: Some(cx.database_end(Side::Target, "postgres")?),
        archive: cx.archive_end(&known.key),
        database: cx.database().target_name().into(),
        run: pinned.stamp,
        estimated_bytes: u64::try_from(pinned.database_bytes).unwrap_or(0),
    });
    let server = cx.place(Side::Target).map_or_else(String::new, |place| place.server());
    let about = format!("saving database {:?} of {server} before it is dropped", known.database);
    drive_back(cx, known.attempt, about, task).await
}

async fn verify(cx: &mut Context<'_>, known: &Saved) -> Result<Moved, Failure> {
    let pinned = cx.status.pinned.clone().ok_or_else(|| lost("what both ends were"))?;
    let task = Task::Verify(VerifyTask {
        archive: cx.archive_end(&known.key),
        keys: vec![known.key.clone()],
        run: pinned.stamp,
        run_manifest_key: keys::saved_seal(&known.key),
    });
    drive_back(cx, known.attempt, "reading the saved dump back".into(), task).await
}

/// Takes what a mover has proven.
fn evidence(cx: &mut Context<'_>, known: &Saved, verdict: &Verdict) -> Advance {
    let bytes = verdict.bytes.and_then(|n| i64::try_from(n).ok());
    let complete = bytes.is_some() && verdict.sha256.is_some();
    let same = known.sha256.is_none() || (bytes == known.bytes && verdict.sha256 == known.sha256);
    if !complete || !same {
        let message = format!("spec.archive.s3: {}/{} was not read back as it was written", known.bucket, known.key);
        return failed(cx, &Failure::terminal(reasons::ARCHIVE_DAMAGED, message), known.attempt < ATTEMPTS);
    }
    if let Some(saved) = &mut cx.status.saved {
        saved.verified = known.sha256.is_some();
        saved.bytes = bytes;
        saved.sha256.clone_from(&verdict.sha256);
    }
    Advance::Again
}

/// Takes a failure: the next attempt is due, or the database is to be kept.
fn failed(cx: &mut Context<'_>, failure: &Failure, again: bool) -> Advance {
    let archive = cx.status.archive.clone().unwrap_or_default();
    let Some(saved) = &mut cx.status.saved else { return Advance::Again };
    if !again {
        saved.kept_as = Some(saved.database.clone());
        saved.failure = Some(bounded(&failure.to_string()));
        return Advance::Again;
    }
    saved.attempt += 1;
    if failure.reason == reasons::ARCHIVE_DAMAGED {
        saved.key = keys::saved(&archive.key, saved.attempt);
        (saved.bytes, saved.sha256) = (None, None);
    }
    Advance::NextAttempt(failure.clone())
}

/// Leaves the database where it is, and says so.
async fn keep(cx: &mut Context<'_>, known: &Saved, oid: u32) -> Result<Saving, Failure> {
    if called(cx, oid).await?.is_none() {
        // Dropped by somebody meanwhile: there is nothing to keep.
        if let Some(saved) = &mut cx.status.saved {
            saved.kept_as = None;
        }
        return Ok(Saving::Kept);
    }
    if cx.status.warnings.iter().any(|w| w.reason == reasons::TARGET_WRITES_KEPT) {
        return Ok(Saving::Kept);
    }
    let server = cx.place(Side::Target).map_or_else(|| "the target".into(), |place| place.server());
    let what = if cx.status.resumed {
        "what the application had written to the new database could not be saved in the bucket and"
    } else {
        "the new database, in which nobody should have written before the application was started,"
    };
    let why = known.failure.as_deref().unwrap_or_default();
    let message = format!("{what} is kept as database {:?} of {server}: {why}", known.database);
    cx.warn(reasons::TARGET_WRITES_KEPT, path(Side::Target), &message);
    Ok(Saving::Kept)
}

/// The archive of a migration whose application has run stays, as was promised. Only its run's manifest makes room: the next run
/// writes one of its own.
pub async fn put_manifest_by(cx: &mut Context<'_>, archive_key: &str) -> Result<(), Failure> {
    let (now, past) = (keys::run_manifest(&cx.run_prefix()), keys::past_run_manifest(archive_key));
    let bucket = cx.bucket().await?;
    bucket.abort_orphans(&cx.run_prefix()).await.map_err(|e| archive(&e))?;
    let found = bucket.run_manifest(&now).await.map_err(|e| archive(&e))?;
    let Some(manifest) = found.filter(|manifest| manifest.databases.iter().any(|d| d.key == archive_key)) else { return Ok(()) };
    match bucket.write_document(&past, &manifest).await {
        Ok(_) => {}
        // Something else has that name: what it says is somebody else's business, and the manifest's place is needed.
        Err(e) if e.kind == ErrorKind::PreconditionFailed => {}
        Err(e) => return Err(archive(&e)),
    }
    bucket.delete(&now).await.map_err(|e| archive(&e))
}
