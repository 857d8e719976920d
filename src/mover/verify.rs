//! Verify: every object of the run read again from the bucket, then the run sealed.

use super::Context;
use super::error::MoverError;
use crate::archive::manifest::{DatabaseManifest, MANIFEST_VERSION, RunManifest};
use crate::archive::{Bucket, ObjectInfo, Sha256};
use crate::plan::operation::{Phase, Reason, Sealed, Verdict, VerifyTask};

/// How an archive of the custom format begins.
const MAGIC: &[u8] = b"PGDMP";

/// Runs the task.
///
/// # Errors
/// See [`Reason`]; the run is not sealed then.
pub async fn run(context: &Context, task: &VerifyTask) -> Result<Verdict, MoverError> {
    let bucket = context.opener.bucket(&task.archive).await?;
    let uid = &context.operation.migration.uid;
    let mut manifests = Vec::new();
    for key in &task.keys {
        let manifest = manifest_of(&bucket, key).await?;
        if manifest.migration_uid != *uid || manifest.run != task.run {
            return Err(MoverError::new(Reason::ArchiveOccupied, format!("{key:?} belongs to another run")));
        }
        manifests.push(manifest);
    }
    let run = RunManifest { version: MANIFEST_VERSION, migration_uid: uid.clone(), run: task.run.clone(), databases: manifests };
    let bytes: u64 = run.databases.iter().map(|m| m.bytes).sum();
    let sha256 = run.databases.first().map(|m| m.sha256.clone());
    let verdict = |reason, text: String| Verdict { bytes: Some(bytes), sha256: sha256.clone(), ..context.verdict(reason, text) };
    if bucket.run_manifest(&task.run_manifest_key).await?.as_ref() == Some(&run) {
        for manifest in &run.databases {
            object_of(&bucket, manifest).await?;
        }
        return Ok(verdict(Reason::Adopted, "the run was sealed by an earlier attempt".into()));
    }
    context.counters.update(|p| p.bytes_total = Some(bytes));
    context.counters.enter(Phase::Working);
    for manifest in &run.databases {
        read_again(context, &bucket, manifest).await?;
    }
    context.counters.enter(Phase::Sealing);
    context.counters.at_bucket(bucket.write_document(&task.run_manifest_key, &run)).await?;
    Ok(verdict(Reason::Done, format!("{} archives with {bytes} bytes are whole; the run is sealed", run.databases.len())))
}

/// The manifest of a key.
///
/// # Errors
/// [`Reason::ArchiveAbsent`] when there is none.
pub async fn manifest_of(bucket: &Bucket, key: &str) -> Result<DatabaseManifest, MoverError> {
    let manifest = bucket.database_manifest(key).await?;
    manifest
        .ok_or_else(|| MoverError::new(Reason::ArchiveAbsent, format!("{key:?} has no manifest, so there is no such archive")))
}

/// The object that a manifest describes.
///
/// # Errors
/// [`Reason::ArchiveAbsent`] when it is gone, [`Reason::ArchiveDamaged`] when another one is there.
pub async fn object_of(bucket: &Bucket, manifest: &DatabaseManifest) -> Result<ObjectInfo, MoverError> {
    let key = &manifest.key;
    let Some(object) = bucket.head(key).await? else {
        return Err(MoverError::new(Reason::ArchiveAbsent, format!("{key:?} is gone although its manifest is there")));
    };
    if object.bytes == manifest.bytes && object.etag == manifest.etag {
        return Ok(object);
    }
    Err(MoverError::new(
        Reason::ArchiveDamaged,
        format!(
            "{key:?} has {} bytes and tag {}, its manifest says {} and {}",
            object.bytes, object.etag, manifest.bytes, manifest.etag
        ),
    ))
}

/// The manifest of an archive that was sealed, when everything is still as it was then.
///
/// # Errors
/// [`Reason::ArchiveAbsent`] without manifest or seal, [`Reason::ArchiveOccupied`] for one of another migration,
/// [`Reason::ArchiveDamaged`] for one that tells anything else than what was sealed.
pub async fn sealed(bucket: &Bucket, uid: &str, key: &str, sealed: &Sealed) -> Result<DatabaseManifest, MoverError> {
    let manifest = manifest_of(bucket, key).await?;
    if manifest.migration_uid != uid {
        return Err(MoverError::new(Reason::ArchiveOccupied, format!("{key:?} belongs to migration {}", manifest.migration_uid)));
    }
    if (manifest.bytes, &manifest.sha256) != (sealed.bytes, &sealed.sha256) {
        return Err(MoverError::new(
            Reason::ArchiveDamaged,
            format!(
                "{key:?} was sealed as {} bytes with SHA-256 {}, its manifest says {} and {}",
                sealed.bytes, sealed.sha256, manifest.bytes, manifest.sha256
            ),
        ));
    }
    let place = &sealed.run_manifest_key;
    let Some(run) = bucket.run_manifest(place).await? else {
        return Err(MoverError::new(Reason::ArchiveAbsent, format!("{place:?} is gone: the run of {key:?} is not sealed")));
    };
    if run.databases.contains(&manifest) {
        return Ok(manifest);
    }
    Err(MoverError::new(Reason::ArchiveDamaged, format!("the manifest of {key:?} is not the one that {place:?} sealed")))
}

/// Reads an archive from its first byte to its last and compares length and SHA-256.
///
/// # Errors
/// [`Reason::ArchiveDamaged`], and those of the bucket.
pub async fn read_again(context: &Context, bucket: &Bucket, manifest: &DatabaseManifest) -> Result<(), MoverError> {
    let object = object_of(bucket, manifest).await?;
    let mut reader = bucket.reader(&manifest.key, &object);
    let mut hash = Sha256::default();
    let mut begins = Vec::new();
    while let Some(bytes) = context.counters.at_bucket(reader.next()).await? {
        if begins.len() < MAGIC.len() {
            begins.extend_from_slice(&bytes[..bytes.len().min(MAGIC.len() - begins.len())]);
        }
        hash.update(&bytes);
        context.counters.bytes(bytes.len());
    }
    let damaged = |what: String| Err(MoverError::new(Reason::ArchiveDamaged, format!("{:?}: {what}", manifest.key)));
    if begins != MAGIC {
        return damaged("it is no archive of pg_dump".into());
    }
    let (bytes, sha256) = super::stream::counted(hash);
    if bytes != manifest.bytes || sha256 != manifest.sha256 {
        return damaged(format!(
            "read back {bytes} bytes with SHA-256 {sha256}, written were {} bytes with {}",
            manifest.bytes, manifest.sha256
        ));
    }
    Ok(())
}
