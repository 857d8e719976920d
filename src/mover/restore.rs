//! Restore: the archive from the bucket into the staging database, as its owner.

use super::contents::{self, Head, Passing};
use super::ends::PodEnd;
use super::error::MoverError;
use super::stream::{self, Ended};
use super::{Context, extensions, orphans, verify, watch};
use crate::archive::manifest::DatabaseManifest;
use crate::archive::{Bucket, Reader, keys};
use crate::kubernetes::exec::Stdin;
use crate::plan::operation::{Phase, Reason, RestoreTask, Verdict};
use crate::postgres::carrier::{Question, Session};
use crate::postgres::catalog;
use crate::postgres::tools::toc::{self, Parts};
use crate::postgres::tools::{self, Login, scripts};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Bytes handed to the process at once.
const PIECE: usize = 1 << 20;

/// From so many bytes of archive on, indexes are made side by side. Before, sessions of their own take longer to begin than they
/// save.
const WORTH_PARTS: u64 = 4 << 20;

/// From this attempt on everything is restored by one session, should it be the others that fail: two indexes of one table can lock
/// each other out when one of them is its replica identity and it is clustered on the other.
const CAREFUL_ATTEMPT: u32 = 3;

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
    let manifest = context.counters.at_bucket(verify::sealed(&bucket, uid, &task.archive.key, &task.sealed)).await?;
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
    let object = context.counters.at_bucket(verify::object_of(bucket, manifest)).await?;
    let password = context.opener.password_line(&task.owner).await?;
    orphans::end(target, uid).await?;

    let (mut session, server) = target.checked_session().await?;
    let document_key = keys::document(&task.archive.key, "restore", server.database_oid);
    if let Some(document) = context.counters.at_bucket(settled(bucket, &document_key, manifest, &server)).await? {
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
    let found = watch::over(context, target, contents::list(context, target, bucket, &manifest.key, &object)).await?;
    let made = extensions::create(session.as_mut(), manifest, &task.owner.role).await?;
    let lent = extensions::lent(session.as_mut(), &task.owner.role).await?;
    for right in &lent {
        session.execute(&right.grant, extensions::STATEMENT).await?;
    }
    let jobs = jobs(session.as_mut(), &task.owner.role, task.jobs).await?;
    session.close().await;
    let filtered = toc::filter(&found.listing, &made).map_err(|e| MoverError::new(Reason::RestoreFailed, e))?;
    context.counters.update(|p| {
        p.bytes_total = Some(manifest.bytes);
        p.tables_total = Some(filtered.tables);
        p.indexes_total = Some(filtered.indexes);
    });
    let document = RestoreDocument {
        system_identifier: server.system_identifier,
        database_oid: server.database_oid,
        key: manifest.key.clone(),
        sha256: manifest.sha256.clone(),
        entries: filtered.entries,
        tables: filtered.tables,
        not_restored: filtered.left_out.clone(),
    };
    let one_by_one = manifest.bytes < WORTH_PARTS || jobs == 1 || context.operation.attempt >= CAREFUL_ATTEMPT;
    let parts = if one_by_one { filtered.whole() } else { filtered.in_parts() };
    let tool = Tool { context, target, task, password };
    let reader = bucket.reader(&manifest.key, &object);
    let restored = watch::over(context, target, tool.restore(manifest, reader, &parts, &found.head, jobs)).await;
    match &restored {
        Ok(()) => orphans::sweep(target, uid).await?,
        Err(_) => orphans::end_after_failure(target, uid).await,
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
    context.counters.at_bucket(bucket.write_document(&document_key, &document)).await?;
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

/// Sessions that the role may have beside those that it has, `null` for any number.
const ROOM: &str = "SELECT coalesce(pg_catalog.to_jsonb(CASE WHEN NOT r.rolsuper AND r.rolconnlimit >= 0 THEN r.rolconnlimit - \
(SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a WHERE a.usesysid = r.oid) END), 'null') \
FROM pg_catalog.pg_roles AS r WHERE r.rolname = $1::text";

/// As many of the `wanted` jobs as the owner may have sessions, but one that may still be ending; at least one.
async fn jobs(session: &mut dyn Session, owner: &str, wanted: u32) -> Result<u32, MoverError> {
    let question = Question::new("sessions that the owner may have", ROOM).with(owner);
    let room = session.ask(&question, extensions::STATEMENT).await?.as_i64();
    let jobs = room.map_or(wanted, |room| wanted.min(u32::try_from(room - 1).unwrap_or(0)));
    Ok(jobs.max(1))
}

/// `pg_restore` in the target's pod.
struct Tool<'a> {
    context: &'a Context,
    target: &'a PodEnd,
    task: &'a RestoreTask,
    password: Option<Bytes>,
}

impl Tool<'_> {
    /// Restores part after part: rows come as a stream, which only one session can take in; what stands on rows needs no
    /// stream, so several sessions make it.
    async fn restore(
        &self,
        manifest: &DatabaseManifest,
        reader: Reader,
        parts: &Parts,
        head: &Head,
        jobs: u32,
    ) -> Result<(), MoverError> {
        let list = self.kept(&parts.rows).await?;
        self.context.counters.enter(Phase::Working);
        self.rows(manifest, reader, head, &list).await?;
        for (part, jobs) in [(&parts.indexes, jobs), (&parts.rest, 1)] {
            if !part.is_empty() {
                let list = self.kept(part).await?;
                let argv = |login: &Login<'_>| tools::restore_definitions(login, &list, &head.path, jobs);
                let (ended, passed) = self.run(argv, None).await?;
                let (bytes, sha256, _) = passed.counted(None);
                ended.proven(Reason::RestoreFailed, bytes, &sha256)?;
            }
        }
        Ok(())
    }

    async fn kept(&self, list: &str) -> Result<String, MoverError> {
        contents::keep(self.context, self.target, list).await
    }

    /// What needs the whole archive.
    async fn rows(&self, manifest: &DatabaseManifest, reader: Reader, head: &Head, list: &str) -> Result<(), MoverError> {
        let (ended, passed) = self.run(|login| tools::restore(login, list), Some((reader, head))).await?;
        let (bytes, sha256, same_head) = passed.counted(Some(head));
        let damaged = |what: String| Err(MoverError::new(Reason::ArchiveDamaged, format!("{:?} {what}", manifest.key)));
        if ended.verdict(Reason::RestoreFailed).is_ok() {
            if bytes != manifest.bytes || sha256 != manifest.sha256 {
                return damaged(format!(
                    "gave {bytes} bytes with SHA-256 {sha256}, its manifest says {} and {}",
                    manifest.bytes, manifest.sha256
                ));
            }
            if !same_head {
                return damaged("began with other bytes when its table of contents was read".into());
            }
        }
        ended.proven(Reason::RestoreFailed, bytes, &sha256)
    }

    async fn run(
        &self,
        argv: impl Fn(&Login<'_>) -> Vec<String>,
        archive: Option<(Reader, &Head)>,
    ) -> Result<(Ended, Passing), MoverError> {
        let (context, target) = (self.context, self.target);
        let nonce = stream::nonce()?;
        let (tag, database) = (context.operation.session_tag(), &self.task.target.database);
        let argv = argv(&Login { database, user: &self.task.owner.role, tag: &tag, settings: &[] });
        let argv = scripts::consume(&nonce, &tag, &context.operation.migration.uid, self.password.is_some(), &argv);
        let what = format!("pg_restore into {database:?} in {}", target.target);
        let (stdin, running) = stream::start(&target.client, &target.target, &what, &argv, &nonce).await?;
        let (reader, head) = archive.unzip();
        let mut passing = Passing::new(head);
        let judged = running.judged();
        let drain = running.drain(|said| context.counters.said(said));
        let count = |bytes: &Bytes| {
            passing.update(bytes);
            context.counters.bytes(bytes.len());
        };
        let ended = feed_until(context, stdin, self.password.clone(), reader, judged, count, drain).await?;
        Ok((ended, passing))
    }
}

/// Feeds first the password line, then the archive if there is one, until all is fed or the script has said its verdict; then ends the input.
/// A process that stops reading early is judged by what it says; an archive that cannot be read ends everything.
async fn feed_until<T>(
    context: &Context,
    stdin: Option<Stdin>,
    password: Option<Bytes>,
    mut reader: Option<Reader>,
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
        if let Some(reader) = &mut reader {
            while let Some(mut bytes) = context.counters.at_bucket(next_unless(reader, &judged)).await? {
                while !bytes.is_empty() && !judged.is_cancelled() {
                    let piece = bytes.split_to(bytes.len().min(PIECE));
                    count(&piece);
                    if stdin.write(piece).await.is_err() {
                        return Ok(());
                    }
                    context.counters.moved();
                }
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
