//! Restore the dump beside the target database, under a staging name.
//!
//! Effects: the staging database (from template0, with the source's encoding and locale, owned by the owner), then one mover
//! Job per attempt; each new attempt begins with a fresh staging database. Probe: `pg_database` by name, the Job's verdict.
//! Undo: end the mover, drop the staging database; one that an application has written to is saved before. Nothing that an
//! application can see is touched.

use super::context::{Context, SHORT, lost, sql};
use super::s04_fence::{DEADLINE, admins, current_name, swap};
use super::saving::{self, Saving};
use super::transfer::{Moved, drive, end_mover_sessions, end_movers};
use crate::api::conditions::reasons;
use crate::api::{Side, Staging, StepName};
use crate::archive::keys;
use crate::plan::Failure;
use crate::plan::operation::{OwnerLogin, RestoreTask, Sealed, SecretKey, Task};
use crate::plan::record::{self, Advance};
use crate::postgres::admin::AdminSessions;
use crate::postgres::names::{DerivedRole, derived_name};
use crate::postgres::{catalog, staging};

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let attempt = cx.attempt(StepName::Restore);
    let name = derived_name(cx.database().target_name(), cx.names.uid(), DerivedRole::Staging);
    let Some(archive) = cx.status.archive.clone().filter(|a| a.sealed) else {
        return Err(lost("that the archive was sealed"));
    };
    let (Some(bytes), Some(sha256)) = (archive.bytes.and_then(|b| u64::try_from(b).ok()), archive.sha256.clone()) else {
        return Err(lost("what the archive was when it was sealed"));
    };
    let made = cx.status.staging.as_ref().filter(|s| s.attempt == attempt);
    match made {
        // The intent: whatever stands under the staging name belongs to an earlier attempt and is dropped.
        None => {
            cx.status.staging = Some(Staging { database: name, attempt, ..Staging::default() });
            Ok(Advance::Again)
        }
        Some(s) if s.oid.is_none() => make_staging(cx, &name).await,
        Some(_) => {
            let owner = cx.database().owner.clone();
            let task = Task::Restore(RestoreTask {
                archive: cx.archive_end(&archive.key),
                target: cx.database_end(Side::Target, &name)?,
                owner: OwnerLogin {
                    role: owner.name,
                    password_secret: Some(SecretKey { name: owner.password_secret_ref.name, key: owner.password_secret_ref.key }),
                },
                sealed: Sealed { run_manifest_key: keys::run_manifest(&cx.run_prefix()), bytes, sha256 },
                jobs: cx.spec().target.restore_jobs,
            });
            match drive(cx, StepName::Restore, task).await? {
                Moved::Not(advance) => Ok(advance),
                Moved::Done(verdict) => {
                    if let Some(s) = &mut cx.status.staging {
                        s.not_restored = verdict.not_restored.iter().take(20).map(|t| record::bounded(t)).collect();
                        s.not_restored_total = i64::try_from(verdict.not_restored_total).unwrap_or(i64::MAX);
                    }
                    Ok(Advance::Done)
                }
            }
        }
    }
}

async fn make_staging(cx: &mut Context<'_>, name: &str) -> Result<Advance, Failure> {
    if let Some(wait) = drop_staging(cx, name).await? {
        return Ok(wait);
    }
    let failed = |e| swap(Side::Target, reasons::RESTORE_FAILED, &e);
    let current = current_name(cx);
    let mut source = admins(cx, Side::Source).await?;
    let dress = staging::dress_of(&mut source, &current).await.map_err(|e| swap(Side::Source, reasons::SOURCE_CHANGED, &e));
    source.close().await;
    let (model, _) = dress?;
    let owner = cx.database().owner.name.clone();
    let mut target = admins(cx, Side::Target).await?;
    let oid = staging::create_staging(&mut target, name, &owner, &model, DEADLINE).await.map_err(failed);
    target.close().await;
    let oid = oid?;
    if let Some(s) = &mut cx.status.staging {
        s.oid = Some(i64::from(oid));
    }
    Ok(Advance::Again)
}

/// Drops the staging database, if it is there. `None` when it is gone.
async fn drop_staging(cx: &mut Context<'_>, name: &str) -> Result<Option<Advance>, Failure> {
    // Held from the first look on: another operator may have a copy of its own under that name by the time of the drop.
    let mut target = admins(cx, Side::Target).await?;
    let dropped = drop_with(cx, &mut target, name).await;
    target.close().await;
    dropped
}

async fn drop_with(cx: &mut Context<'_>, target: &mut AdminSessions, name: &str) -> Result<Option<Advance>, Failure> {
    if let Some(wait) = end_mover_sessions(cx, target, Side::Target, StepName::Restore).await? {
        return Ok(Some(wait));
    }
    let found = async { catalog::database(target.session().await?, name).await }.await;
    let Some(found) = found.map_err(|e| sql(Side::Target, &e))? else { return Ok(None) };
    // One that is closed has been on its way out before. What stands against this does not stand against the drop.
    if found.allow_connections
        && found.connection_limit != -2
        && let Err(failure) = empty(target, name, found.oid).await
    {
        tracing::warn!(
            reason = failure.reason,
            message = failure.message,
            database = name,
            "its tables stay until it is dropped"
        );
    }
    staging::drop_database(target, name, found.oid, DEADLINE)
        .await
        .map_err(|e| swap(Side::Target, reasons::RESTORE_FAILED, &e))?;
    Ok(None)
}

async fn empty(target: &mut AdminSessions, name: &str, oid: u32) -> Result<(), Failure> {
    let emptied = async {
        let mut within = target.enter(name, SHORT).await?;
        let emptied = staging::empty(within.as_mut(), oid).await;
        within.close().await;
        emptied
    };
    emptied.await.map_err(|e| sql(Side::Target, &e))
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let made = derived_name(cx.database().target_name(), cx.names.uid(), DerivedRole::Staging);
    let mut name = made.clone();
    let mut oid = cx.status.staging.as_ref().and_then(|s| s.oid).and_then(|oid| u32::try_from(oid).ok());
    if let Some(written) = oid.filter(|_| cx.status.resumed || cx.status.saved.is_some()) {
        match saving::save(cx, written).await? {
            Saving::Over => {}
            Saving::Kept => oid = None,
            Saving::Not(advance) => return Ok(advance),
        }
        if let Some(saved) = &cx.status.saved {
            name.clone_from(&saved.database);
        }
    }
    if let Some(wait) = end_movers(cx).await? {
        return Ok(wait);
    }
    if cx.status.staging.is_none() {
        return Ok(Advance::Done);
    }
    if let Some(wait) = drop_staging(cx, &made).await? {
        return Ok(wait);
    }
    // By its OID as well: a copy that an operator that came late has published after all is called otherwise, and the source
    // must not open beside it.
    if let Some(oid) = oid {
        let mut target = admins(cx, Side::Target).await?;
        let dropped = staging::drop_database(&mut target, &name, oid, DEADLINE)
            .await
            .map_err(|e| swap(Side::Target, reasons::RESTORE_FAILED, &e));
        target.close().await;
        dropped?;
    }
    cx.status.staging = None;
    if !cx.status.resumed && cx.status.saved.as_ref().is_some_and(|saved| saved.kept_as.is_none()) {
        cx.status.saved = None;
    }
    Ok(Advance::Done)
}
