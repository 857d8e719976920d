//! What all lanes share: a PostgreSQL 15 in the old cluster with one source, a PostgreSQL 17 in the new one, an S3 server.

use std::sync::Arc;

use pgmigration::plan::operation::{DatabaseEnd, SecretKey};

use super::store::Store;
use crate::mover::fixture::{ASKING, end, pod_manifest, ready};
use crate::support::server::CANARY;
use crate::support::{Room, Side, setting};

pub const SOURCE: &str = "cut source";
pub const OWNER: &str = "cut owner";
pub const OWNER_PASSWORD: &str = r" o\w:n'er$ ";

pub struct Stage {
    pub store: Store,
    pub old: Room,
    pub new: Room,
    /// Without kubeconfig: that is each lane's own.
    pub source: DatabaseEnd,
    pub target: DatabaseEnd,
    /// Size of the source in bytes.
    pub size: u64,
    /// Digest of the source, computed with nothing of the product.
    pub digest: String,
}

impl Stage {
    /// Starts servers; `rows` of about 1 kB go into the largest table.
    pub async fn new(purpose: &str, rows: u64) -> Arc<Self> {
        let (old, new, store) = tokio::join!(Room::new(Side::Old, purpose), Room::new(Side::New, purpose), Store::new(purpose));
        Side::Old.apply(&pod_manifest(&old.name, &setting("PGM_PG15_IMAGE"), ""));
        Side::New.apply(&pod_manifest(&new.name, &setting("PGM_PG17_IMAGE"), ASKING));
        let (source_pod, target_pod) = tokio::join!(ready(Side::Old, &old.name), ready(Side::New, &new.name));
        let (source, target) = (end(&old.name, source_pod, None, SOURCE), end(&new.name, target_pod, None, ""));
        let mut stage = Self { store, source, target, old, new, size: 0, digest: String::new() };
        let identifier = "SELECT system_identifier FROM pg_control_system()";
        stage.source.system_identifier = stage.sql(Side::Old, "postgres", identifier).await;
        stage.target.system_identifier = stage.sql(Side::New, "postgres", identifier).await;
        for side in [Side::Old, Side::New] {
            stage.sql(side, "postgres", CANARY).await;
        }
        stage.sql(Side::Old, "postgres", &format!("CREATE DATABASE \"{SOURCE}\" TEMPLATE template0")).await;
        stage.sql(Side::Old, SOURCE, &include_str!("source.sql").replace("$ROWS", &rows.to_string())).await;
        let password = OWNER_PASSWORD.replace('\'', "''");
        stage.sql(Side::New, "postgres", &format!("CREATE ROLE \"{OWNER}\" LOGIN PASSWORD '{password}'")).await;
        stage.size = stage.sql(Side::Old, SOURCE, "SELECT pg_database_size(current_database())").await.parse().unwrap();
        stage.digest = stage.digest(Side::Old, SOURCE).await.unwrap();
        Arc::new(stage)
    }

    fn namespace(&self, side: Side) -> &str {
        match side {
            Side::Old => &self.old.name,
            Side::New => &self.new.name,
        }
    }

    /// Runs a command in the pod.
    pub async fn exec(&self, side: Side, argv: &[&str], input: &[u8]) -> Result<String, String> {
        let arguments: Vec<&str> =
            ["-n", self.namespace(side), "exec", "-i", "pg", "--"].into_iter().chain(argv.iter().copied()).collect();
        side.kubectl_aside(&arguments, input).await.map(|printed| printed.trim().to_owned())
    }

    pub async fn try_sql(&self, side: Side, database: &str, sql: &str) -> Result<String, String> {
        let conninfo = format!("dbname='{database}' user=postgres");
        let psql = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &conninfo];
        self.exec(side, &psql, sql.as_bytes()).await
    }

    /// Runs SQL as the administrator and gives what psql prints.
    pub async fn sql(&self, side: Side, database: &str, sql: &str) -> String {
        self.try_sql(side, database, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A digest of all content, or why there is none.
    pub async fn digest(&self, side: Side, database: &str) -> Result<String, String> {
        self.try_sql(side, database, include_str!("digest.sql")).await
    }

    /// What runs or lies about of a migration: one line each.
    pub async fn left(&self, uid: &str) -> Vec<String> {
        let look = |side: Side| async move {
            let found = self.exec(side, &["sh", "-s", uid], include_bytes!("left.sh")).await;
            let found = found.unwrap_or_else(|error| panic!("looking for what is left: {error}"));
            found.lines().map(|line| format!("{side:?}: {line}")).collect::<Vec<_>>()
        };
        let (old, new) = tokio::join!(look(Side::Old), look(Side::New));
        [old, new].concat()
    }

    /// Decodes an archive whole, with the target's own tool, into nothing.
    pub async fn decode(&self, archive: &[u8]) -> Result<(), String> {
        self.exec(Side::New, &["pg_restore", "-f", "/dev/null"], archive).await.map(|_| ())
    }

    pub fn secret_key(name: &str, key: &str) -> SecretKey {
        SecretKey { name: name.into(), key: key.into() }
    }

    /// Deletes the namespaces.
    pub async fn end(self: Arc<Self>) {
        if let Some(stage) = Arc::into_inner(self) {
            tokio::join!(stage.old.end(), stage.new.end());
        }
    }
}
