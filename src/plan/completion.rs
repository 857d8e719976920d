//! Done means done: what the mark of a finished migration says, and whether it speaks of this object.
//!
//! An object that is made again from the same manifest (by a GitOps tool, from a backup of the cluster) has another UID and an
//! empty status. It finds the mark and ends without doing anything, even when the old cluster is gone for good.

use serde::{Deserialize, Serialize};

use crate::api::PostgresMigrationSpec;
use crate::archive::Sha256;

/// The only version of the mark.
const VERSION: u32 = 1;

/// What is written on the target database and beside the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// Version of this form.
    pub version: u32,
    /// Namespace of the object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub migration_uid: String,
    /// [`digest`] of its spec.
    pub spec: String,
    /// System identifier of the target's server.
    pub system_identifier: String,
    /// OID of the published database.
    pub database_oid: u32,
    /// When it was done, RFC 3339 in UTC.
    pub time: String,
}

/// Whom a mark speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Of an object of this name that wanted the same.
    OfThis,
    /// Of an object of this name that wanted something else.
    OfAnotherSpec,
    /// Of another object, or of a database that is not there any more.
    OfOthers,
}

impl Mark {
    /// A mark.
    pub fn new(identity: (&str, &str, &str), spec: &PostgresMigrationSpec, place: (&str, u32), time: String) -> Self {
        let ((namespace, name, uid), (system_identifier, database_oid)) = (identity, place);
        Self {
            version: VERSION,
            namespace: namespace.into(),
            name: name.into(),
            migration_uid: uid.into(),
            spec: digest(spec),
            system_identifier: system_identifier.into(),
            database_oid,
            time,
        }
    }

    /// Whom it speaks of, seen from object `namespace`/`name` with `spec`, whose target database stands at `place` (system
    /// identifier, OID).
    pub fn speaks(&self, namespace: &str, name: &str, spec: &PostgresMigrationSpec, place: (&str, u32)) -> Speaks {
        let here = (self.system_identifier.as_str(), self.database_oid) == place;
        if self.version != VERSION || !here || self.namespace != namespace || self.name != name {
            Speaks::OfOthers
        } else if self.spec == digest(spec) {
            Speaks::OfThis
        } else {
            Speaks::OfAnotherSpec
        }
    }
}

/// SHA-256 over what says which database moves from where to where, in hex. Modes, credentials, writers and what is done for
/// the application may differ between two objects that mean the same move.
pub fn digest(spec: &PostgresMigrationSpec) -> String {
    let database = spec.databases.first();
    let cluster = |cluster: &Option<crate::api::Cluster>| cluster.as_ref().and_then(|c| c.namespace.clone());
    let parts = serde_json::json!([
        cluster(&spec.source.cluster),
        spec.source.postgres,
        database.map(|d| d.name.clone()),
        cluster(&spec.target.cluster),
        spec.target.postgres,
        database.map(|d| d.target_name().to_owned()),
    ]);
    Sha256::hex_of(parts.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(database: &str) -> PostgresMigrationSpec {
        serde_json::from_value(serde_json::json!({
            "serviceAccountName": "x",
            "source": {"postgres": {"exec": {"labelSelector": "a=b"}}},
            "archive": {"s3": {"bucket": "abc", "credentialsSecretRef": {"name": "s"}}},
            "databases": [{"name": database, "owner": {"name": "o", "passwordSecretRef": {"name": "s", "key": "k"}}}],
            "target": {"postgres": {"exec": {"labelSelector": "a=c"}}, "endpoint": {"host": "h"}}
        }))
        .unwrap()
    }

    #[test]
    fn a_mark_speaks_of_the_same_move_at_the_same_place_only() {
        let mark = Mark::new(("ns", "name", "uid"), &spec("d"), ("7", 16384), "2026-11-26T00:00:00Z".into());
        assert_eq!(mark.speaks("ns", "name", &spec("d"), ("7", 16384)), Speaks::OfThis);
        let mut same = spec("d");
        same.suspend = true;
        same.mode = crate::api::Mode::Migrate;
        assert_eq!(mark.speaks("ns", "name", &same, ("7", 16384)), Speaks::OfThis);
        assert_eq!(mark.speaks("ns", "name", &spec("e"), ("7", 16384)), Speaks::OfAnotherSpec);
        for (namespace, name, place) in [
            ("other", "name", ("7", 16384)),
            ("ns", "other", ("7", 16384)),
            ("ns", "name", ("8", 16384)),
            ("ns", "name", ("7", 16385)),
        ] {
            assert_eq!(mark.speaks(namespace, name, &spec("d"), place), Speaks::OfOthers);
        }
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), mark);
    }
}
