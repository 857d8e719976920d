//! Facts for the tests of this folder: a migration that nothing is wrong with.

use super::{Findings, Found, Place};
use crate::api::{PostgresMigrationSpec, Side};
use crate::postgres::catalog::{Capped, Counts, Database, Inventory, Role, Server};
use crate::postgres::versions::Version;

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

/// A server that its admin, a superuser, may do anything on.
pub(crate) fn server() -> Server {
    Server {
        version: Version(150_018),
        system_identifier: "1".into(),
        timeline: 1,
        in_recovery: false,
        database: "postgres".into(),
        database_oid: 5,
        encoding: "UTF8".into(),
        user: "postgres".into(),
        superuser: true,
        createdb: true,
        createrole: true,
        bypassrls: true,
        signal_backend: true,
        read_all_stats: true,
        read_large_objects: true,
        read_hba: true,
        max_connections: 100,
        wal_level: "replica".into(),
        synchronous_standby_names: String::new(),
        block_size: 8192,
        lock_slots: 6400,
        lock_limit: 13_000,
        next_xid: "700".into(),
    }
}

/// A database of role `src_owner`.
pub(crate) fn database(name: &str) -> Database {
    Database {
        oid: 16_384,
        name: name.into(),
        allow_connections: true,
        is_template: false,
        connection_limit: -1,
        owner: "src_owner".into(),
        encoding: "UTF8".into(),
        collate: "en_US.UTF-8".into(),
        ctype: "en_US.UTF-8".into(),
        locale_provider: "libc".into(),
        locale: None,
        icu_rules: None,
        collation_version: Some("2.36".into()),
        actual_collation_version: Some("2.36".into()),
        tablespace: "pg_default".into(),
        comment: None,
        size: Some(1000),
    }
}

/// A role that may log in, and that the admin may become.
pub(crate) fn role(name: &str) -> Role {
    Role {
        name: name.into(),
        oid: 16_385,
        superuser: false,
        login: true,
        inherit: true,
        createdb: false,
        createrole: false,
        replication: false,
        bypassrls: false,
        connection_limit: -1,
        valid_until: None,
        member_of: vec![],
        reachable: true,
        inherited: true,
    }
}

/// A database with so many tables.
pub(crate) fn inventory(tables: u64) -> Inventory {
    let none = || Capped { total: 0, items: vec![] };
    Inventory {
        counts: Counts {
            schemas: 1,
            tables,
            partitioned_tables: 0,
            partitions: 0,
            foreign_tables: 0,
            sequences: 0,
            views: 0,
            materialized_views: 0,
            indexes: 0,
            functions: 0,
            types: 0,
            large_objects: 0,
            large_object_bytes: 0,
            row_security_tables: 0,
        },
        table_bytes: 100,
        estimated_rows: 10,
        user_objects: tables,
        largest_tables: Capped { total: 0, items: vec![] },
        schemas: Capped { total: 1, items: vec!["public".into()] },
        unpopulated: none(),
        invalid_indexes: none(),
        unlogged_tables: none(),
        foreign_tables: none(),
        tablespace_tables: none(),
    }
}

#[track_caller]
fn found(all: &[Found], reason: &str, path: Option<&str>, words: &[&str]) {
    let found = all.iter().find(|f| f.reason == reason && path.is_none_or(|path| f.path == path));
    let found = found.unwrap_or_else(|| panic!("no {reason} at {path:?} in {all:#?}"));
    words.iter().for_each(|word| assert!(found.message.contains(word), "{word:?} is not in {:?}", found.message));
}

/// A blocker with this reason and path holds all these words.
#[track_caller]
pub(crate) fn blocked(out: &Findings, reason: &str, path: &str, words: &[&str]) {
    found(&out.blockers, reason, Some(path), words);
}

/// A warning with this reason holds all these words.
#[track_caller]
pub(crate) fn warned(out: &Findings, reason: &str, words: &[&str]) {
    found(&out.warnings, reason, None, words);
}
