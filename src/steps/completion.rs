//! The mark of a finished migration: looked for before anything else, written last of all, taken off first when that is rolled
//! back.
//!
//! It stands in two places, since either may go: on the target database, and in the bucket, where a mark counts only for
//! the very database (server and OID) that it speaks of.

use std::time::Duration;

use super::context::{Context, SHORT, archive, sql};
use super::s01_pin as pin;
use super::s04_fence::{admins, swap};
use crate::api::conditions::reasons;
use crate::api::{Completion, Finding, Side};
use crate::archive::keys;
use crate::kubernetes::psql::{PsqlCarrier, PsqlLogin};
use crate::plan::completion::{Mark, Speaks};
use crate::plan::{Failure, record};
use crate::postgres::carrier::{Carrier, SqlError};
use crate::postgres::{catalog, completion};

/// How long the bucket may take to tell of earlier migrations: whether it works at all is judged later.
const BUCKET: Duration = Duration::from_secs(10);

/// What was published, where it is.
struct Place {
    system_identifier: String,
    oid: u32,
    /// The mark on the database itself.
    mark: Option<Mark>,
}

/// The mark of an earlier object of this name. Nothing is found where nothing can be asked: the checks that follow say why.
///
/// # Errors
/// The mark speaks of another move than the spec.
pub async fn find(cx: &mut Context<'_>) -> Result<Option<Completion>, Failure> {
    let Ok(Some(place)) = published(cx).await else { return Ok(None) };
    let there = (place.system_identifier.as_str(), place.oid);
    let mut marks: Vec<Mark> = place.mark.clone().into_iter().collect();
    if marks.is_empty() {
        marks = tokio::time::timeout(BUCKET, archived(cx)).await.ok().and_then(Result::ok).unwrap_or_default();
    }
    let (home, name) = (cx.home(), cx.object.metadata.name.clone().unwrap_or_default());
    for mark in marks {
        match mark.speaks(&home, &name, cx.spec(), there) {
            Speaks::OfThis => {
                return Ok(Some(Completion { migration_uid: mark.migration_uid, time: mark.time, earlier: true }));
            }
            Speaks::OfAnotherSpec => {
                return Err(Failure::needs_human(
                    reasons::ALREADY_MIGRATED,
                    format!(
                        "spec.databases[0].targetName: an earlier PostgresMigration {home}/{name} (UID {}) made database {:?} of the target, from another source or server than this one names, and was done at {}: give this object another name",
                        mark.migration_uid,
                        cx.database().target_name(),
                        mark.time
                    ),
                ));
            }
            Speaks::OfOthers => {}
        }
    }
    Ok(None)
}

async fn published(cx: &mut Context<'_>) -> Result<Option<Place>, Failure> {
    let end = pin::end(cx, Side::Target, false).await?;
    let client = cx.cluster(Side::Target).await?;
    let login = PsqlLogin::new(&end.admin_user, &cx.names.application("completion"));
    let carrier = PsqlCarrier::new(client, Context::exec_target(&end), login);
    let name = cx.database().target_name();
    let asked = async {
        let mut session = carrier.connect("postgres", SHORT).await?;
        let Some(found) = catalog::database(session.as_mut(), name).await? else { return Ok(None) };
        let settings = catalog::database_settings(session.as_mut(), found.oid).await?;
        session.close().await;
        Ok::<_, SqlError>(Some((found.oid, completion::read(&settings).and_then(|text| serde_json::from_str(text).ok()))))
    };
    let found = asked.await.map_err(|e| sql(Side::Target, &e))?;
    Ok(found.map(|(oid, mark)| Place { system_identifier: end.system_identifier, oid, mark }))
}

/// Marks in the bucket of all objects that ever had this name.
async fn archived(cx: &mut Context<'_>) -> Result<Vec<Mark>, Failure> {
    let name = cx.object.metadata.name.clone().unwrap_or_default();
    let prefix = keys::migration_prefix(&cx.spec().archive.s3.prefix, &cx.home(), &name);
    let bucket = cx.bucket().await?;
    let mut marks = Vec::new();
    for object in bucket.list(&prefix).await.map_err(|e| archive(&e))? {
        if object.key.rsplit('/').next() == Some(keys::COMPLETED) {
            marks.extend(bucket.read_document::<Mark>(&object.key).await.map_err(|e| archive(&e))?);
        }
    }
    Ok(marks)
}

/// Marks the end, at the time that the status holds. One mark is enough: that the other could not be written is a warning.
///
/// # Errors
/// Neither could be written.
pub async fn mark(cx: &mut Context<'_>) -> Result<(), Failure> {
    let pinned = cx.pinned(Side::Target)?;
    let time = cx.status.completion.as_ref().map_or_else(String::new, |c| c.time.clone());
    let name = cx.database().target_name().to_owned();
    let mut target = admins(cx, Side::Target).await?;
    let found = async { catalog::database(target.session().await?, &name).await }.await;
    let oid = match found {
        Ok(Some(found)) => found.oid,
        // The application runs on it: what is gone now went by somebody's hand, and there is nothing to mark.
        Ok(None) => {
            target.close().await;
            return Ok(());
        }
        Err(e) => {
            target.close().await;
            return Err(sql(Side::Target, &e));
        }
    };
    let object = cx.object.metadata.name.clone().unwrap_or_default();
    let identity = (cx.home(), object, cx.names.uid().to_owned());
    let mark = Mark::new((&identity.0, &identity.1, &identity.2), cx.spec(), (&pinned.system_identifier, oid), time);
    let text = serde_json::to_string(&mark).map_err(|e| Failure::terminal(reasons::STATUS_LOST, e.to_string()))?;
    let marked = completion::mark(&mut target, &name, &text).await;
    target.close().await;
    let marked = marked.map_err(|e| swap(Side::Target, reasons::QUERY_FAILED, &e.into()))?;
    let kept = async {
        let bucket = cx.bucket().await?;
        bucket.write_document(&keys::completion(&cx.run_prefix()), &mark).await.map_err(|e| archive(&e))
    };
    match kept.await {
        Ok(_) => Ok(()),
        Err(failure) if marked => {
            cx.status.warnings.push(Finding {
                reason: failure.reason.into(),
                path: "spec.archive.s3".into(),
                message: record::bounded(&format!(
                    "the end of the migration is marked on the target database only: {}",
                    failure.message
                )),
            });
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// Takes our mark off the target database. Another object's stays, and so does whatever has the name by now.
pub async fn unmark(cx: &mut Context<'_>) -> Result<(), Failure> {
    let name = cx.database().target_name().to_owned();
    let uid = cx.names.uid().to_owned();
    let mut target = admins(cx, Side::Target).await?;
    let unmarked = async {
        let session = target.session().await?;
        let Some(found) = catalog::database(session, &name).await? else { return Ok(()) };
        let settings = catalog::database_settings(session, found.oid).await?;
        let mark = completion::read(&settings).and_then(|text| serde_json::from_str::<Mark>(text).ok());
        if mark.is_some_and(|mark| mark.migration_uid == uid) { completion::unmark(&mut target, &name).await } else { Ok(()) }
    }
    .await;
    target.close().await;
    unmarked.map_err(|e: SqlError| swap(Side::Target, reasons::QUERY_FAILED, &e.into()))
}

/// Deletes our mark in the bucket.
pub async fn forget(cx: &mut Context<'_>) -> Result<(), Failure> {
    let key = keys::completion(&cx.run_prefix());
    let bucket = cx.bucket().await?;
    bucket.delete(&key).await.map_err(|e| archive(&e))
}
