//! Facts for the tests of this folder: a migration that nothing is wrong with.

use super::Place;
use crate::api::{PostgresMigrationSpec, Side};

/// A spec that uses everything.
pub(crate) fn spec() -> PostgresMigrationSpec {
    serde_json::from_value(serde_json::json!({
        "mode": "Migrate",
        "serviceAccountName": "mover",
        "source": {
            "cluster": {"namespace": "old", "kubeconfigSecretRef": {"name": "old-cluster", "key": "kubeconfig"}},
            "postgres": {"exec": {"workloadRef": {"kind": "StatefulSet", "name": "postgres"}}},
            "writers": [{"kind": "Deployment", "name": "api"}, {"kind": "Deployment", "labelSelector": "app=worker"}],
        },
        "archive": {"s3": {"bucket": "migrations", "credentialsSecretRef": {"name": "bucket"}}},
        "databases": [{"name": "app", "owner": {"name": "app_owner", "passwordSecretRef": {"name": "onyx-db", "key": "password"}}}],
        "target": {
            "postgres": {"exec": {"workloadRef": {"kind": "StatefulSet", "name": "postgres"}}},
            "endpoint": {"host": "postgres"},
            "application": {
                "repoint": [
                    {"kind": "ConfigMap", "name": "app", "key": "HOST", "template": "$(host)"},
                    {"kind": "Secret", "name": "app", "key": "PASSWORD", "template": "$(password)"},
                    {"workloadRef": {"kind": "Deployment", "name": "worker"}, "container": "c", "env": "HOST", "template": "$(host)"},
                ],
                "schemaJobs": [{"name": "alembic", "workloadRef": {"kind": "Deployment", "name": "api"}, "container": "api", "command": ["true"]}],
                "workloads": [{"kind": "Deployment", "name": "api", "replicas": 2}],
            },
        },
    }))
    .unwrap()
}

/// The place of an end.
pub(crate) fn place(side: Side) -> Place {
    let (cluster, namespace) = match side {
        Side::Source => ("the old cluster", "old"),
        Side::Target => ("this cluster", "new"),
    };
    Place { side, cluster: cluster.into(), namespace: namespace.into(), pod: "postgres-0".into() }
}
