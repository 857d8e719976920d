//! Dump: pg_dump in the source's pod, its output into the bucket, its manifest last.

use super::ends::PodEnd;
use super::error::MoverError;
use super::stream;
use super::{Context, orphans, watch};
use crate::archive::manifest::{DatabaseManifest, Extension, MANIFEST_VERSION};
use crate::archive::{Bucket, Writer, Written, keys};
use crate::plan::operation::{DumpTask, Phase, Reason, Verdict};
use crate::postgres::catalog;
use crate::postgres::tools::{self, Compression, scripts};
use crate::postgres::versions::Version;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// How long the sample that decides the compression may take.
const SAMPLE: Duration = Duration::from_mins(2);

/// How long a failed dump may take to abort its upload.
const ABORT: Duration = Duration::from_mins(1);

/// Maintenance database that the sample is taken of.
const SAMPLE_DATABASE: &str = "template1";

/// What the tools of both ends agreed on.
struct Choice {
    compression: Compression,
    version: Version,
    tool: String,
}

/// Runs the task.
///
/// # Errors
/// See [`Reason`]. Nothing is visible at the key then, unless an object without manifest whose manifest's answer was lost.
pub async fn run(context: &Context, task: &DumpTask) -> Result<Verdict, MoverError> {
    let bucket = context.opener.bucket(&task.archive).await?;
    let source = context.opener.pod(&task.source).await?;
    if let Some(manifest) = context.counters.at_bucket(adopted(context, &bucket, task)).await? {
        let text = format!("{:?} was dumped by an earlier attempt", manifest.key);
        return Ok(verdict(context, Reason::Adopted, text, &manifest));
    }
    orphans::end(&source, &context.operation.migration.uid).await?;
    // What has no manifest does not exist.
    context.counters.at_bucket(bucket.abort_orphans(&task.archive.key)).await?;
    context.counters.at_bucket(bucket.delete(&task.archive.key)).await?;

    let (mut session, server) = source.checked_session().await?;
    let inventory = catalog::inventory(session.as_mut()).await?;
    let extensions = catalog::extensions(session.as_mut()).await?;
    session.close().await;
    let choice = choose(context, &source, task).await?;
    context.counters.update(|p| {
        p.bytes_total = Some(task.estimated_bytes);
        p.tables_total = Some(inventory.counts.tables);
    });

    let started = Timestamp::now();
    let written = transfer(context, &bucket, &source, task, &choice, server.version, server.superuser).await?;
    context.counters.enter(Phase::Sealing);
    let manifest = DatabaseManifest {
        version: MANIFEST_VERSION,
        migration_uid: context.operation.migration.uid.clone(),
        run: task.run.clone(),
        database: task.database.clone(),
        key: task.archive.key.clone(),
        bytes: written.bytes,
        sha256: written.sha256,
        etag: written.etag,
        format: "custom".into(),
        compression: choice.compression.to_string(),
        system_identifier: server.system_identifier,
        server_version_num: server.version.0,
        tool: choice.tool,
        started: started.to_string(),
        database_bytes: task.estimated_bytes,
        extensions: extensions.into_iter().map(described).collect(),
    };
    context.counters.at_bucket(bucket.write_document(&keys::manifest(&task.archive.key), &manifest)).await?;
    let text = format!("{} bytes of {:?} are in {:?}", manifest.bytes, task.database, manifest.key);
    Ok(verdict(context, Reason::Done, text, &manifest))
}

fn verdict(context: &Context, reason: Reason, text: String, manifest: &DatabaseManifest) -> Verdict {
    Verdict { bytes: Some(manifest.bytes), sha256: Some(manifest.sha256.clone()), ..context.verdict(reason, text) }
}

fn described(extension: catalog::InstalledExtension) -> Extension {
    Extension {
        name: extension.name,
        schema: extension.schema,
        schema_oid: extension.schema_oid,
        own_schema: extension.owns_schema,
        version: extension.version,
        requires: extension.requires,
    }
}

/// The manifest of an earlier attempt, when it still describes the object at the key.
async fn adopted(context: &Context, bucket: &Bucket, task: &DumpTask) -> Result<Option<DatabaseManifest>, MoverError> {
    let Some(manifest) = bucket.database_manifest(&task.archive.key).await? else { return Ok(None) };
    if manifest.migration_uid != context.operation.migration.uid || manifest.run != task.run {
        return Err(MoverError::new(Reason::ArchiveOccupied, format!("{:?} belongs to another run", manifest.key)));
    }
    super::verify::object_of(bucket, &manifest).await?;
    Ok(Some(manifest))
}

/// zstd where `pg_dump` can write it and the reader's `pg_restore` can read it, seen on a real small archive; else gzip.
async fn choose(context: &Context, source: &PodEnd, task: &DumpTask) -> Result<Choice, MoverError> {
    let (version, tool) = source.tool_version("pg_dump").await?;
    let gzip = Choice { compression: Compression::Gzip, version, tool: tool.clone() };
    if version.major() < 16 {
        return Ok(gzip);
    }
    let login = source.admin_login(SAMPLE_DATABASE, &[]);
    let argv = tools::dump_sample(&login, Compression::Zstd, version);
    let Ok(sample) = source.run(&argv, &[], SAMPLE, Reason::DumpFailed).await else { return Ok(gzip) };
    if let Some(reader) = &task.reader {
        let reader = context.opener.pod(reader).await?;
        let Ok(listed) = reader.run(&tools::list(), &sample.stdout, SAMPLE, Reason::RestoreFailed).await else { return Ok(gzip) };
        // A reader without zstd lists the archive all the same, with a warning.
        if !listed.stderr.is_empty() {
            return Ok(gzip);
        }
    }
    Ok(Choice { compression: Compression::Zstd, version, tool })
}

async fn transfer(
    context: &Context,
    bucket: &Bucket,
    source: &PodEnd,
    task: &DumpTask,
    choice: &Choice,
    server: Version,
    superuser: bool,
) -> Result<Written, MoverError> {
    let mut writer = context.counters.at_bucket(bucket.writer(&task.archive.key)).await?;
    let work = pipe(context, source, task, choice, server, superuser, &mut writer);
    let piped = watch::over(context, source, work).await;
    match piped {
        Ok(()) => {
            context.counters.enter(Phase::Sealing);
            let written = context.counters.at_bucket(writer.complete()).await?;
            // The answer to its beginning may have been lost, and so another upload begun in its place.
            context.counters.at_bucket(bucket.abort_orphans(&task.archive.key)).await?;
            Ok(written)
        }
        Err(error) => {
            // The next attempt aborts what it finds.
            let _ = tokio::time::timeout(ABORT, writer.abort()).await;
            // What still runs in the pod would only be in the way of the next attempt, which looks for it again.
            orphans::end_after_failure(source, &context.operation.migration.uid).await;
            Err(error)
        }
    }
}

async fn pipe(
    context: &Context,
    source: &PodEnd,
    task: &DumpTask,
    choice: &Choice,
    server: Version,
    superuser: bool,
    writer: &mut Writer,
) -> Result<(), MoverError> {
    let nonce = stream::nonce()?;
    // A login event trigger would fire for pg_dump too, and write; only a superuser can switch it off.
    let settings: &[&str] = if server.major() >= 17 && superuser { &["event_triggers=off"] } else { &[] };
    let login = source.admin_login(&task.source.database, settings);
    let argv = tools::dump(&login, choice.compression, choice.version);
    let argv = scripts::produce(&nonce, login.tag, &context.operation.migration.uid, &argv);
    let what = format!("pg_dump of {:?} in {}", task.source.database, source.target);
    context.counters.enter(Phase::Working);
    let (stdin, running) = stream::start(&source.client, &source.target, &what, &argv, &nonce).await?;
    let mut running = running.holding(stdin);
    while let Some(bytes) = running.next(|said| context.counters.said(said)).await? {
        context.counters.at_bucket(writer.write(&bytes)).await?;
        context.counters.bytes(bytes.len());
    }
    running.ended()?.proven(Reason::DumpFailed, writer.bytes(), &writer.sha256())
}
