//! Restore: the archive from the bucket into the staging database, as its owner.

use super::ends::PodEnd;
use super::error::MoverError;
use super::stream::{self, Ended};
use super::{Context, extensions, orphans, verify, watch};
use crate::archive::manifest::DatabaseManifest;
use crate::archive::{Bucket, Reader, Sha256, keys};
use crate::kubernetes::exec::Stdin;
use crate::plan::operation::{Phase, Reason, RestoreTask, Verdict};
use crate::postgres::catalog;
use crate::postgres::tools::toc::{self, Filtered};
use crate::postgres::tools::{self, Login, scripts};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Attempts to put the list of entries into the pod: an input that is cut short on the way is seen and sent again.
const KEEP_ATTEMPTS: u32 = 3;

/// Bytes handed to the process at once.
const PIECE: usize = 1 << 20;

/// Largest table of contents, bytes.
const LARGEST_LISTING: usize = 64 << 20;

/// How long a failed restore may take to find out whether the archive is to blame.
const BLAME: Duration = Duration::from_mins(1);

/// Largest restore document, bytes.
const LARGEST_DOCUMENT: u64 = 64 << 20;

/// Notices that a settled restore leaves beside the archive, create-only: proof that the database with this OID holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RestoreDocument {
    /// System identifier of the server.
    system_identifier: String,
    /// OID of the database.
    database_oid: u32,
    /// The object that was restored.
    key: String,
    /// Its SHA-256.
    sha256: String,
    /// Entries restored.
    entries: u64,
    /// Tables whose data was restored.
    tables: u64,
    /// Entries that nobody restored, with the reason.
    not_restored: Vec<String>,
}

/// Runs the task.
///
/// # Errors
/// See [`Reason`]. The staging database is then to be dropped: part of the archive may be in it.
pub async fn run(context: &Context, task: &RestoreTask) -> Result<Verdict, MoverError> {
    let bucket = context.opener.bucket(&task.archive).await?;
    let target = context.opener.pod(&task.target).await?;
    let uid = &context.operation.migration.uid;
    let manifest = verify::sealed(&bucket, uid, &task.archive.key, &task.sealed).await?;
    match restore(context, task, &bucket, &target, &manifest).await {
        Err(error) if matches!(error.reason, Reason::RestoreFailed | Reason::ExtensionFailed) => {
            Err(blame(context, &bucket, &manifest, error).await)
        }
        result => result,
    }
}

/// A tool that fails may have met bytes that nobody wrote: then that is the reason to tell.
async fn blame(context: &Context, bucket: &Bucket, manifest: &DatabaseManifest, error: MoverError) -> MoverError {
    match tokio::time::timeout(BLAME, verify::read_again(context, bucket, manifest)).await {
        Ok(Err(damage)) if damage.reason == Reason::ArchiveDamaged => damage.of(&error.message),
        Ok(Ok(()) | Err(_)) | Err(_) => error,
    }
}

async fn restore(
    context: &Context,
    task: &RestoreTask,
    bucket: &Bucket,
    target: &PodEnd,
    manifest: &DatabaseManifest,
) -> Result<Verdict, MoverError> {
    let uid = &context.operation.migration.uid;
    let object = verify::object_of(bucket, manifest).await?;
    let password = context.opener.password_line(&task.owner).await?;
    orphans::end(target, uid).await?;

    let (mut session, server) = target.checked_session().await?;
    let document_key = keys::document(&task.archive.key, "restore", server.database_oid);
    if let Some(document) = settled(bucket, &document_key, manifest, &server).await? {
        let text = format!("{:?} was restored by an earlier attempt", manifest.key);
        return Ok(verdict(context, Reason::Adopted, text, manifest, &document, document_key));
    }
    let inventory = catalog::inventory(session.as_mut()).await?;
    if inventory.user_objects > 0 {
        return Err(MoverError::new(
            Reason::TargetNotEmpty,
            format!("database {:?} in {} holds {} objects already", task.target.database, target.target, inventory.user_objects),
        ));
    }
    let listing = watch::over(context, target, list(context, target, bucket.reader(&manifest.key, &object))).await?;
    let made = extensions::create(session.as_mut(), manifest, &task.owner.role).await?;
    let lent = extensions::lent(session.as_mut(), &task.owner.role).await?;
    for right in &lent {
        session.execute(&right.grant, extensions::STATEMENT).await?;
    }
    session.close().await;
    let filtered = toc::filter(&listing, &made).map_err(|e| MoverError::new(Reason::RestoreFailed, e))?;
    drop(listing);
    context.counters.update(|p| {
        p.bytes_total = Some(manifest.bytes);
        p.tables_total = Some(filtered.tables);
    });
    let kept = watch::over(context, target, keep(context, target, &filtered)).await?;
    let reader = bucket.reader(&manifest.key, &object);
    let work = transfer(context, target, task, manifest, reader, password, &kept);
    let restored = watch::over(context, target, work).await;
    match &restored {
        Ok(()) => orphans::sweep(target, uid).await?,
        Err(_) => {
            if let Err(error) = orphans::end(target, uid).await {
                tracing::warn!(%error, "what the failed restore left is still there");
            }
        }
    }
    restored?;
    if !lent.is_empty() {
        let mut session = target.session(&task.target.database).await?;
        for right in &lent {
            session.execute(&right.revoke, extensions::STATEMENT).await?;
        }
        session.close().await;
    }
    context.counters.enter(Phase::Sealing);
    let document = RestoreDocument {
        system_identifier: server.system_identifier,
        database_oid: server.database_oid,
        key: manifest.key.clone(),
        sha256: manifest.sha256.clone(),
        entries: filtered.entries,
        tables: filtered.tables,
        not_restored: filtered.left_out,
    };
    bucket.write_document(&document_key, &document).await?;
    let text = format!(
        "{} entries with {} tables of {:?} are in {:?}",
        document.entries, document.tables, manifest.key, task.target.database
    );
    Ok(verdict(context, Reason::Done, text, manifest, &document, document_key))
}

fn verdict(
    context: &Context,
    reason: Reason,
    text: String,
    manifest: &DatabaseManifest,
    document: &RestoreDocument,
    document_key: String,
) -> Verdict {
    Verdict {
        bytes: Some(manifest.bytes),
        sha256: Some(manifest.sha256.clone()),
        tables: Some(document.tables),
        not_restored: document.not_restored.iter().take(20).cloned().collect(),
        not_restored_total: document.not_restored.len() as u64,
        document: Some(document_key),
        ..context.verdict(reason, text)
    }
}

/// The document of an earlier attempt that restored the same archive into the same database.
async fn settled(
    bucket: &Bucket,
    key: &str,
    manifest: &DatabaseManifest,
    server: &catalog::Server,
) -> Result<Option<RestoreDocument>, MoverError> {
    let Some(text) = bucket.get_small(key, LARGEST_DOCUMENT).await? else { return Ok(None) };
    let document: RestoreDocument = serde_json::from_slice(&text)
        .map_err(|e| MoverError::new(Reason::ArchiveDamaged, format!("{key:?} cannot be read: {e}")))?;
    let same = document.system_identifier == server.system_identifier
        && document.database_oid == server.database_oid
        && document.sha256 == manifest.sha256;
    Ok(same.then_some(document))
}

/// Has the target's own `pg_restore` list the archive. It stops reading when it has seen enough.
async fn list(context: &Context, target: &PodEnd, reader: Reader) -> Result<String, MoverError> {
    let nonce = stream::nonce()?;
    let tag = context.operation.session_tag();
    let argv = scripts::produce(&nonce, &tag, &context.operation.migration.uid, &tools::list());
    let what = format!("pg_restore --list in {}", target.target);
    let (stdin, mut running) = stream::start(&target.client, &target.target, &what, &argv, &nonce, true).await?;
    let judged = running.judged();
    let mut listing = Vec::new();
    let drain = async {
        while let Some(bytes) = running.next(|| {}).await? {
            if listing.len() + bytes.len() > LARGEST_LISTING {
                return Err(MoverError::new(
                    Reason::RestoreFailed,
                    format!("{what}: the table of contents is longer than {LARGEST_LISTING} bytes"),
                ));
            }
            listing.extend_from_slice(&bytes);
        }
        Ok(())
    };
    feed_until(context, stdin, None, reader, judged, |_| {}, drain).await?;
    let mut hash = Sha256::default();
    hash.update(&listing);
    let (bytes, sha256) = stream::counted(hash);
    running.ended()?.proven(Reason::RestoreFailed, bytes, &sha256)?;
    // Only the numbers before each entry's first semicolon are read again by pg_restore; names may be in any encoding.
    Ok(String::from_utf8_lossy(&listing).into_owned())
}

/// Puts the list of entries into a private file in the pod; gives its path.
async fn keep(context: &Context, target: &PodEnd, filtered: &Filtered) -> Result<String, MoverError> {
    let mut attempt = 1;
    loop {
        match keep_once(context, target, filtered).await {
            Err(error) if matches!(error.reason, Reason::ArchiveMismatch | Reason::StreamBroken) && attempt < KEEP_ATTEMPTS => {
                tracing::warn!(%error, "sending the list of entries again");
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn keep_once(context: &Context, target: &PodEnd, filtered: &Filtered) -> Result<String, MoverError> {
    let nonce = stream::nonce()?;
    let argv = scripts::keep(&nonce, &context.operation.session_tag(), &context.operation.migration.uid);
    let what = format!("the list of entries in {}", target.target);
    let (stdin, mut running) = stream::start(&target.client, &target.target, &what, &argv, &nonce, true).await?;
    let list = Bytes::from(filtered.list.clone().into_bytes());
    let feed = async move {
        if let Some(mut stdin) = stdin
            && stdin.write(list).await.is_ok()
        {
            // The pod's verdict tells whether all of it came.
            let _ = stdin.close().await;
        }
    };
    let mut path = Vec::new();
    let drain = async {
        while let Some(bytes) = running.next(|| {}).await? {
            path.extend_from_slice(&bytes);
        }
        Ok::<(), MoverError>(())
    };
    let ((), drained) = tokio::join!(feed, drain);
    drained?;
    running.ended()?.proven(Reason::RestoreFailed, filtered.list.len() as u64, &Sha256::hex_of(filtered.list.as_bytes()))?;
    Ok(String::from_utf8_lossy(&path).trim().to_owned())
}

async fn transfer(
    context: &Context,
    target: &PodEnd,
    task: &RestoreTask,
    manifest: &DatabaseManifest,
    reader: Reader,
    password: Option<Bytes>,
    kept: &str,
) -> Result<(), MoverError> {
    let nonce = stream::nonce()?;
    let tag = context.operation.session_tag();
    let login = Login { database: &task.target.database, user: &task.owner.role, tag: &tag, settings: &[] };
    let argv = tools::restore(&login, kept);
    let argv = scripts::consume(&nonce, &tag, &context.operation.migration.uid, password.is_some(), &argv);
    let what = format!("pg_restore into {:?} in {}", task.target.database, target.target);
    context.counters.enter(Phase::Working);
    let (stdin, running) = stream::start(&target.client, &target.target, &what, &argv, &nonce, true).await?;
    let mut hash = Sha256::default();
    let judged = running.judged();
    let drain = running.drain(|| context.counters.update(|p| p.tables_done += 1));
    let count = |bytes: &Bytes| {
        hash.update(bytes);
        context.counters.bytes(bytes.len());
    };
    let ended: Ended = feed_until(context, stdin, password, reader, judged, count, drain).await?;
    let (bytes, sha256) = stream::counted(hash);
    if ended.verdict(Reason::RestoreFailed).is_ok() && (bytes != manifest.bytes || sha256 != manifest.sha256) {
        return Err(MoverError::new(
            Reason::ArchiveDamaged,
            format!(
                "{:?} gave {bytes} bytes with SHA-256 {sha256}, its manifest says {} and {}",
                manifest.key, manifest.bytes, manifest.sha256
            ),
        ));
    }
    ended.proven(Reason::RestoreFailed, bytes, &sha256)
}

/// Feeds first the password line, then the archive, until all is fed or the script has said its verdict; then ends the input.
/// A process that stops reading early is judged by what it says; an archive that cannot be read ends everything.
async fn feed_until<T>(
    context: &Context,
    stdin: Option<Stdin>,
    password: Option<Bytes>,
    mut reader: Reader,
    judged: CancellationToken,
    mut count: impl FnMut(&Bytes),
    drain: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    let feed = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        if let Some(line) = password
            && stdin.write(line).await.is_err()
        {
            return Ok(());
        }
        while let Some(mut bytes) = context.counters.at_bucket(next_unless(&mut reader, &judged)).await? {
            while !bytes.is_empty() && !judged.is_cancelled() {
                let piece = bytes.split_to(bytes.len().min(PIECE));
                count(&piece);
                if stdin.write(piece).await.is_err() {
                    return Ok(());
                }
                context.counters.moved();
            }
        }
        // Closing fails only when the process has ended; its own verdict tells the rest.
        let _ = stdin.close().await;
        Ok::<(), MoverError>(())
    };
    tokio::pin!(feed, drain);
    let mut feeding = true;
    loop {
        tokio::select! {
            result = &mut drain => return result,
            outcome = &mut feed, if feeding => {
                outcome?;
                feeding = false;
            }
        }
    }
}

/// The next bytes, or `None` at the end and once the verdict is known.
async fn next_unless(reader: &mut Reader, judged: &CancellationToken) -> Result<Option<Bytes>, MoverError> {
    tokio::select! {
        biased;
        () = judged.cancelled() => Ok(None),
        next = reader.next() => Ok(next?),
    }
}
