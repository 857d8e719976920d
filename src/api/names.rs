//! Names derived from an object: pure, stable for its whole life, unique by its UID.

use super::spec::PostgresMigration;
use kube::ResourceExt;

/// Finalizer of every object that may have effects.
pub const FINALIZER: &str = "pgmigration.dev/undo";
/// Annotation that makes a ServiceAccount usable: `"true"`.
pub const ALLOW_ANNOTATION: &str = "pgmigration.dev/allow";
/// Label with the object's UID on everything that the operator creates.
pub const UID_LABEL: &str = "pgmigration.dev/migration-uid";
/// Label with the object's name on everything that the operator creates.
pub const NAME_LABEL: &str = "pgmigration.dev/migration";
/// Annotation on a stopped workload: its original replicas or suspension, as JSON.
pub const ORIGINAL_ANNOTATION: &str = "pgmigration.dev/original";
/// Field manager of every write.
pub const FIELD_MANAGER: &str = "pgmigration";
/// Environment variable of a mover's container that holds its operation document as JSON.
pub const OPERATION_ENV: &str = "PGM_OPERATION";
/// Key of the access key in a bucket's Secret.
pub const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
/// Key of the secret key in a bucket's Secret.
pub const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";

/// What the `application_name` of every session of a migration begins with, the operator's own included: by it ours are told
/// from foreign ones.
pub fn session_tag_prefix(uid: &str) -> String {
    format!("pgm/{uid}/")
}

/// Names that belong to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    namespace: String,
    name: String,
    uid: String,
}

impl Names {
    /// The names of `object`. An object that never was in an API server has an empty UID.
    pub fn of(object: &PostgresMigration) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any(), uid: object.uid().unwrap_or_default() }
    }

    /// The object's UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// First eight hex digits of the UID.
    pub fn uid8(&self) -> String {
        self.hex(8)
    }

    fn hex(&self, n: usize) -> String {
        self.uid.chars().filter(char::is_ascii_hexdigit).take(n).collect()
    }

    /// Name of a schema job's Job.
    pub fn schema_job(&self, name: &str, attempt: i64) -> String {
        format!("pgmig-{}-{name}-{attempt}", self.uid8())
    }

    /// Whether a Job of this migration is a schema job's, of whatever attempt, and no mover's.
    pub fn is_schema_job(&self, job: &str) -> bool {
        job.starts_with(&format!("pgmig-{}-", self.uid8()))
    }

    /// Name of the Secret that keeps previous values of re-pointed settings.
    pub fn previous_values(&self) -> String {
        format!("pgmig-{}-previous", self.uid8())
    }

    /// `application_name` of the operator's own sessions: `pgm/<uid>/<what>`, at most 63 bytes.
    pub fn application(&self, what: &str) -> String {
        format!("{}{what}", session_tag_prefix(&self.uid))
    }
}
