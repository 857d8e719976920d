//! Manifests: the documents that make an archive exist.
//!
//! One per database, written create-only after its object is complete; one per run, written create-only after every
//! object of the run was read again and proven. Whoever finds the run's manifest may rely on everything it names.

use super::{ArchiveError, Bucket, ErrorKind, Put, keys};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The only version of both documents.
pub const MANIFEST_VERSION: u32 = 1;

/// Largest manifest that is read, in bytes: 4 MiB.
const LIMIT: u64 = 4_194_304;

/// Everything a restore needs to know about one archive object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseManifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// UID of the migration object that made it.
    pub migration_uid: String,
    /// The run it belongs to.
    pub run: String,
    /// Name of the database as its users know it.
    pub database: String,
    /// Key of the object.
    pub key: String,
    /// Length of the object in bytes.
    pub bytes: u64,
    /// SHA-256 of the object, lower-case hex; equal in pod, mover and bucket.
    pub sha256: String,
    /// Entity tag of the object, quotes included.
    pub etag: String,
    /// `pg_dump` format; always `custom`.
    pub format: String,
    /// Compression as `pg_dump` was told, `gzip:1` or `zstd:1`.
    pub compression: String,
    /// System identifier of the server it was dumped from, decimal.
    pub system_identifier: String,
    /// `server_version_num` of that server.
    pub server_version_num: u32,
    /// Version line of the `pg_dump` that wrote it.
    pub tool: String,
    /// When the dump began, RFC 3339 in UTC.
    pub started: String,
    /// Size of the database in bytes when it was dumped.
    pub database_bytes: u64,
    /// Extensions of the database, which an administrator must create before the owner restores.
    pub extensions: Vec<Extension>,
}

/// An extension of a dumped database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// The schema of its objects.
    pub schema: String,
    /// OID of that schema in the dumped database, by which the archive's entry of it is known.
    pub schema_oid: u32,
    /// Whether that schema belongs to the extension itself and comes with it.
    pub own_schema: bool,
    /// Installed version.
    pub version: String,
    /// Extensions that it needs.
    pub requires: Vec<String>,
}

/// Seals a run: all its archives are whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunManifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// UID of the migration object.
    pub migration_uid: String,
    /// The run.
    pub run: String,
    /// One entry per database, in the order of the object's spec.
    pub databases: Vec<DatabaseManifest>,
}

impl DatabaseManifest {
    /// Itself, when it is the manifest of this archive.
    fn describing(self, archive_key: &str) -> Result<Self, ArchiveError> {
        if self.version == MANIFEST_VERSION && self.key == archive_key {
            return Ok(self);
        }
        let words = format!("{:?} describes {:?} in version {}", keys::manifest(archive_key), self.key, self.version);
        Err(ArchiveError::new(ErrorKind::Mismatch, words))
    }
}

impl RunManifest {
    /// Itself, when it has the form that this program reads.
    fn found_at(self, key: &str) -> Result<Self, ArchiveError> {
        if self.version == MANIFEST_VERSION {
            return Ok(self);
        }
        Err(ArchiveError::new(ErrorKind::Mismatch, format!("{key:?} has version {}", self.version)))
    }
}

impl Bucket {
    /// Reads the manifest of an archive; `None` when there is none, so that archive does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when it cannot be read or belongs to another key, and the kinds of the request.
    pub async fn database_manifest(&self, archive_key: &str) -> Result<Option<DatabaseManifest>, ArchiveError> {
        let key = keys::manifest(archive_key);
        self.read_document::<DatabaseManifest>(&key).await?.map(|manifest| manifest.describing(archive_key)).transpose()
    }

    /// Reads the manifest of a run; `None` when the run is not sealed.
    ///
    /// # Errors
    /// As [`Bucket::database_manifest`].
    pub async fn run_manifest(&self, key: &str) -> Result<Option<RunManifest>, ArchiveError> {
        self.read_document::<RunManifest>(key).await?.map(|manifest| manifest.found_at(key)).transpose()
    }

    /// Writes a document create-only; an equal one is success.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`] when an unequal one is there, and the kinds of the request.
    pub async fn write_document<T: Serialize>(&self, key: &str, document: &T) -> Result<Put, ArchiveError> {
        let text = serde_json::to_vec_pretty(document)
            .map_err(|e| ArchiveError::new(ErrorKind::Other, format!("{key:?} cannot be written as JSON: {e}")))?;
        self.put_create_only(key, Bytes::from(text), "application/json").await
    }

    /// Reads a document of at most 4 MiB; `None` when there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when it is not of this form, and the kinds of the request.
    pub async fn read_document<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ArchiveError> {
        let Some(text) = self.get_small(key, LIMIT).await? else { return Ok(None) };
        if let Ok(document) = serde_json::from_slice(&text) {
            return Ok(Some(document));
        }
        // What cannot be read twice is damaged in the bucket, and not on its way.
        let Some(text) = self.get_small(key, LIMIT).await? else { return Ok(None) };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| ArchiveError::new(ErrorKind::Mismatch, format!("{key:?} cannot be read: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(version: u32, key: &str) -> DatabaseManifest {
        DatabaseManifest {
            version,
            migration_uid: "u".into(),
            run: "r".into(),
            database: "d".into(),
            key: key.into(),
            bytes: 1,
            sha256: "00".into(),
            etag: "\"e\"".into(),
            format: "custom".into(),
            compression: "gzip:1".into(),
            system_identifier: "1".into(),
            server_version_num: 150_000,
            tool: "pg_dump (PostgreSQL) 15.1".into(),
            started: "2026-01-01T00:00:00Z".into(),
            database_bytes: 1,
            extensions: Vec::new(),
        }
    }

    #[test]
    fn a_manifest_of_another_archive_or_form_is_none_of_ours() {
        assert_eq!(manifest(1, "p/a.dump").describing("p/a.dump").unwrap(), manifest(1, "p/a.dump"));
        for other in [manifest(1, "p/b.dump"), manifest(2, "p/a.dump"), manifest(2, "p/b.dump")] {
            let error = other.clone().describing("p/a.dump").unwrap_err();
            assert_eq!(error.kind, ErrorKind::Mismatch);
            for words in ["p/a.dump.manifest.json", &other.key, &other.version.to_string()] {
                assert!(error.message.contains(words), "{words}: {}", error.message);
            }
        }
    }

    #[test]
    fn a_run_in_another_form_is_not_sealed() {
        let run = |version| RunManifest { version, migration_uid: "u".into(), run: "r".into(), databases: Vec::new() };
        assert_eq!(run(1).found_at("p/run").unwrap(), run(1));
        let error = run(2).found_at("p/run").unwrap_err();
        assert!(error.kind == ErrorKind::Mismatch && error.message.contains("p/run"), "{}", error.message);
    }
}
