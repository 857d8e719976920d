//! Postgres servers of tests, and plain SQL in their pods: by kubectl and psql, with nothing of the product in between.

use serde_json::{Value, json};

use super::{Side, eventually, setting};

/// Superuser of every server of a test.
pub const ADMIN: &str = "postgres";

/// Makes what a server loses when it crashes and starts again, however short that is: a row of an unlogged table, in database
/// `postgres`.
pub const CANARY: &str = "CREATE UNLOGGED TABLE canary AS SELECT 1 AS alive";

/// `1` as long as the server has never crashed since [`CANARY`].
pub const ALIVE: &str = "SELECT count(*) FROM canary";

/// A server: a StatefulSet of one pod and a Service, both of this name.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its cluster.
    pub side: Side,
    /// Its namespace.
    pub namespace: String,
    /// Name of StatefulSet, Service and container's pod (`<name>-0`).
    pub name: String,
    /// Major version: 15 or 17.
    pub major: u32,
    /// MiB that its databases may take; its write-ahead log is kept elsewhere. Absent: as much as there is.
    pub room: Option<u32>,
}

impl Server {
    /// Its manifests. `password` is the superuser's by network; the local socket asks for none.
    pub fn manifests(&self, password: &str) -> Vec<Value> {
        let labels = json!({"app": self.name});
        let image = setting(&format!("PGM_PG{}_IMAGE", self.major));
        // A server that cannot write its log crashes; one that cannot write a table says so.
        let data = self.room.map_or_else(|| json!({}), |mib| json!({"medium": "Memory", "sizeLimit": format!("{mib}Mi")}));
        vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name}, "spec": {"selector": labels, "ports": [{"port": 5432}]}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self.name}, "stringData": {"POSTGRES_PASSWORD": password}}),
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": self.name}, "spec": {
                "serviceName": self.name, "replicas": 1, "selector": {"matchLabels": labels}, "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
                        "containers": [{
                            "name": "postgres", "image": image, "args": ["-c", "fsync=off", "-c", "max_wal_size=2GB", "-c", "wal_level=logical"],
                            "env": [
                                {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
                                {"name": "POSTGRES_INITDB_ARGS", "value": "--waldir=/var/lib/postgresql/log/wal"},
                            ],
                            "envFrom": [{"secretRef": {"name": self.name}}],
                            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                            "volumeMounts": [
                                {"name": "data", "mountPath": "/var/lib/postgresql/data"},
                                {"name": "log", "mountPath": "/var/lib/postgresql/log"},
                            ],
                        }],
                        "volumes": [{"name": "data", "emptyDir": data}, {"name": "log", "emptyDir": {}}],
                    },
                },
            }}),
        ]
    }

    /// Waits until it takes connections by network: the server of its own set-up does not.
    pub async fn ready(&self) {
        eventually(&format!("Postgres {} to accept connections", self.name), || async {
            self.exec(&["pg_isready", "-q", "-h", "127.0.0.1"], "").await
        })
        .await;
    }

    /// As [`Self::ready`], for the first time.
    pub async fn begin(&self) {
        self.ready().await;
        self.sql("postgres", CANARY).await;
    }

    /// Fails when it crashed and started again since [`Self::begin`]: nothing that a migration does may do that to it.
    pub async fn assert_unharmed(&self) {
        assert_eq!(self.sql("postgres", ALIVE).await, "1", "server {} crashed and started again", self.name);
    }

    /// Name of its pod.
    pub fn pod(&self) -> String {
        format!("{}-0", self.name)
    }

    /// Runs a command in its container.
    pub async fn exec(&self, argv: &[&str], input: impl AsRef<[u8]>) -> Result<String, String> {
        let pod = self.pod();
        let mut arguments = vec!["-n", &self.namespace, "exec", "-i", &pod, "-c", "postgres", "--"];
        arguments.extend(argv);
        self.side.kubectl_aside(&arguments, input).await
    }

    /// Runs a script as superuser; what it prints, without alignment.
    pub async fn try_sql(&self, database: &str, script: &str) -> Result<String, String> {
        let database = format!("PGDATABASE={database}");
        let printed = self.exec(&["env", &database, "psql", "-X", "-Atq", "-v", "ON_ERROR_STOP=1", "-U", ADMIN], script).await?;
        Ok(printed.trim_end().to_owned())
    }

    /// As [`Self::try_sql`], for scripts that must succeed.
    pub async fn sql(&self, database: &str, script: &str) -> String {
        self.try_sql(database, script).await.unwrap_or_else(|error| panic!("{} {database}: {error}", self.name))
    }

    /// Names of its databases, in order.
    pub async fn databases(&self) -> Vec<String> {
        self.sql("postgres", "SELECT datname FROM pg_database ORDER BY datname COLLATE \"C\"")
            .await
            .lines()
            .map(Into::into)
            .collect()
    }

    /// Everything in a database that a move must carry over: one line for each table (rows and a digest of them), sequence,
    /// large object, column, constraint, index, function, extension and comment. Without what the application of the test
    /// changes by itself: `app.written` and `app.version`.
    pub async fn content(&self, database: &str) -> String {
        self.sql(database, include_str!("content.sql")).await
    }
}
