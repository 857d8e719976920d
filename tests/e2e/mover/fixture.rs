//! A PostgreSQL 15 in the old cluster, a PostgreSQL 17 in the new one that asks every login for a password, and a bucket.

use crate::support::server::{ALIVE, CANARY};
use crate::support::{Room, Side, eventually, setting};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use pgmigration::archive::{Bucket, BucketConfig, keys};
use pgmigration::mover::Context;
use pgmigration::plan::operation::{
    AnalyzeTask, ArchiveEnd, CleanupTask, CompareTask, DatabaseEnd, DumpTask, MigrationRef, OPERATION_VERSION, Operation,
    OwnerLogin, RestoreTask, Sealed, SecretKey, Task, VerifyTask,
};
use std::process::Command;

/// A name that shows every mistake in quoting.
pub const SOURCE: &str = "we ird'\"db";
pub const STAGING: &str = "app's staging";
pub const OWNER: &str = "app owner";
pub const OWNER_PASSWORD: &str = r" o\w:n'er$ ";
pub const RUN: &str = "20261123_060000";

/// Environment of a server that asks every login for a password, in a container that knows only its administrator's.
pub const ASKING: &str =
    "    - {name: POSTGRES_INITDB_ARGS, value: --auth-local=scram-sha-256}\n    - {name: PGPASSWORD, value: admin-of-test}";

pub struct World {
    pub old: Room,
    pub new: Room,
    pub uid: String,
    bucket: BucketConfig,
    source: DatabaseEnd,
    target: DatabaseEnd,
}

/// A pod named `pg` with a server; `env` are further lines for its container's environment.
pub fn pod_manifest(namespace: &str, image: &str, env: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: pg, namespace: {namespace}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{runAsNonRoot: true, runAsUser: 999, runAsGroup: 999, fsGroup: 999}}
  containers:
  - name: postgres
    image: {image}
    args: ["-c", "max_wal_size=2GB", "-c", "fsync=off", "-c", "max_locks_per_transaction=256"]
    env:
    - {{name: PGDATA, value: /var/lib/postgresql/data/pgdata}}
    - {{name: POSTGRES_PASSWORD, value: admin-of-test}}
{env}
    startupProbe: {{exec: {{command: [pg_isready, -h, 127.0.0.1]}}, periodSeconds: 1, failureThreshold: 120}}
    volumeMounts: [{{name: data, mountPath: /var/lib/postgresql/data}}]
  volumes: [{{name: data, emptyDir: {{}}}}]
"#
    )
}

impl World {
    /// Starts both servers. `rows` of about 1 kB go into the largest table of the source.
    pub async fn new(purpose: &str, rows: u32) -> Self {
        let (old, new) = (Room::new(Side::Old, purpose).await, Room::new(Side::New, purpose).await);
        // The container knows its administrator's password; the owner's must come from the Secret.
        Side::Old.apply(&pod_manifest(&old.name, &setting("PGM_PG15_IMAGE"), ""));
        Side::New.apply(&pod_manifest(&new.name, &setting("PGM_PG17_IMAGE"), ASKING));
        let kubeconfig = std::fs::read_to_string(Side::Old.kubeconfig()).unwrap();
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mover", "namespace": new.name},
            "stringData": {
                "kubeconfig": kubeconfig, "owner": OWNER_PASSWORD, "ca.crt": std::fs::read_to_string(setting("PGM_S3_CA")).unwrap(),
                "AWS_ACCESS_KEY_ID": setting("PGM_S3_ACCESS_KEY"), "AWS_SECRET_ACCESS_KEY": setting("PGM_S3_SECRET_KEY"),
            },
        });
        Side::New.apply(&secret.to_string());
        let bucket = make_bucket(&new.name);
        let source_pod = ready(Side::Old, &old.name).await;
        let target_pod = ready(Side::New, &new.name).await;
        let mut world = Self {
            uid: new_uid(&new.name),
            bucket,
            source: end(&old.name, source_pod, Some(SecretKey { name: "mover".into(), key: "kubeconfig".into() }), SOURCE),
            target: end(&new.name, target_pod, None, STAGING),
            old,
            new,
        };
        world.source.system_identifier = world.sql(Side::Old, "postgres", "SELECT system_identifier FROM pg_control_system()");
        world.target.system_identifier = world.sql(Side::New, "postgres", "SELECT system_identifier FROM pg_control_system()");
        for side in [Side::Old, Side::New] {
            world.sql(side, "postgres", CANARY);
        }
        world.fill(rows);
        world.sql(
            Side::New,
            "postgres",
            &format!("CREATE ROLE \"{OWNER}\" LOGIN PASSWORD '{}'", OWNER_PASSWORD.replace('\'', "''")),
        );
        world.create_staging();
        world
    }

    fn fill(&self, rows: u32) {
        self.sql(Side::Old, "postgres", &format!("CREATE DATABASE \"{}\" TEMPLATE template0", SOURCE.replace('"', "\"\"")));
        self.sql(Side::Old, SOURCE, &include_str!("source.sql").replace("$ROWS", &rows.to_string()));
    }

    /// Makes the staging database anew.
    pub fn create_staging(&self) {
        let name = format!("\"{STAGING}\"");
        self.sql(Side::New, "postgres", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
        self.sql(Side::New, "postgres", &format!("CREATE DATABASE {name} OWNER \"{OWNER}\" TEMPLATE template0"));
    }

    /// Runs SQL as the administrator and gives what psql prints.
    pub fn sql(&self, side: Side, database: &str, sql: &str) -> String {
        let quoted = database.replace('\\', "\\\\").replace('\'', "\\'");
        let namespace = self.namespace(side);
        let conninfo = format!("dbname='{quoted}' user=postgres");
        let psql = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &conninfo];
        let arguments: Vec<&str> = ["-n", namespace, "exec", "-i", "pg", "--"].into_iter().chain(psql).collect();
        side.kubectl(&arguments, sql).unwrap().trim().to_owned()
    }

    /// Runs a command in the pod and gives what it prints.
    pub fn shell(&self, side: Side, script: &str) -> String {
        side.kubectl(&["-n", self.namespace(side), "exec", "pg", "--", "sh", "-c", script], "").unwrap().trim().to_owned()
    }

    fn namespace(&self, side: Side) -> &str {
        match side {
            Side::Old => &self.old.name,
            Side::New => &self.new.name,
        }
    }

    pub fn bucket(&self) -> Bucket {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Bucket::connect(&self.bucket).unwrap()
    }

    pub fn prefix(&self) -> String {
        keys::run_prefix("", &self.new.name, "move", &self.uid)
    }

    pub fn key(&self) -> String {
        keys::archive(&self.prefix(), "app", RUN)
    }

    pub fn archive(&self) -> ArchiveEnd {
        ArchiveEnd {
            bucket: self.bucket.bucket.clone(),
            endpoint: self.bucket.endpoint.clone(),
            region: self.bucket.region.clone(),
            force_path_style: true,
            credentials_secret: "mover".into(),
            ca_secret: Some(SecretKey { name: "mover".into(), key: "ca.crt".into() }),
            prefix: self.prefix(),
            key: self.key(),
        }
    }

    pub fn source(&self) -> DatabaseEnd {
        self.source.clone()
    }

    pub fn target(&self) -> DatabaseEnd {
        self.target.clone()
    }

    /// The mover's context for a task, in this process, with the administrator's rights.
    pub async fn context(&self, attempt: u32, task: Task) -> Context {
        let migration = MigrationRef { namespace: self.new.name.clone(), name: "move".into(), uid: self.uid.clone() };
        let operation = Operation { version: OPERATION_VERSION, migration, attempt, task };
        let client = pgmigration::kubernetes::clients::own(&Side::New.config().await).unwrap();
        Context::new(operation, client)
    }

    /// Bytes of the source database.
    pub fn size(&self) -> u64 {
        self.sql(Side::Old, SOURCE, "SELECT pg_database_size(current_database())").parse().unwrap()
    }

    pub fn dump(&self) -> Task {
        Task::Dump(DumpTask {
            source: self.source(),
            reader: Some(self.target()),
            archive: self.archive(),
            database: "app".into(),
            run: RUN.into(),
            estimated_bytes: self.size(),
        })
    }

    pub fn verify(&self) -> Task {
        Task::Verify(VerifyTask {
            archive: self.archive(),
            keys: vec![self.key()],
            run: RUN.into(),
            run_manifest_key: keys::run_manifest(&self.prefix()),
        })
    }

    /// Of the archive that is there.
    pub async fn restore(&self) -> Task {
        let password_secret = Some(SecretKey { name: "mover".into(), key: "owner".into() });
        Task::Restore(RestoreTask {
            archive: self.archive(),
            target: self.target(),
            owner: OwnerLogin { role: OWNER.into(), password_secret },
            sealed: self.sealed(&self.key(), keys::run_manifest(&self.prefix())).await,
            jobs: 2,
        })
    }

    /// What the manifest of an archive says.
    pub async fn sealed(&self, key: &str, run_manifest_key: String) -> Sealed {
        let manifest = self.bucket().database_manifest(key).await.unwrap().unwrap();
        Sealed { run_manifest_key, bytes: manifest.bytes, sha256: manifest.sha256 }
    }

    pub fn compare(&self) -> Task {
        Task::Compare(CompareTask { source: self.source(), target: self.target(), archive: self.archive() })
    }

    pub fn analyze(&self) -> Task {
        Task::Analyze(AnalyzeTask { target: self.target() })
    }

    pub fn cleanup(&self) -> Task {
        Task::Cleanup(CleanupTask { databases: vec![self.source(), self.target()], archives: vec![self.archive()] })
    }

    /// Sessions of the mover at a server.
    pub fn sessions(&self, side: Side) -> u32 {
        let count = self.sql(side, "postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgm/%'");
        count.parse().unwrap()
    }

    /// Files of the mover in a pod.
    pub fn files(&self, side: Side) -> String {
        self.shell(side, "ls -d /tmp/pgm.* /dev/shm/pgm.* /var/run/postgresql/pgm.* 2>/dev/null || true")
    }

    /// Nothing of the mover's runs or lies about.
    pub async fn assert_tidy(&self) {
        for side in [Side::Old, Side::New] {
            assert_eq!(self.sessions(side), 0, "sessions at {side:?}");
            assert_eq!(self.files(side), "", "files at {side:?}");
            assert_eq!(self.sql(side, "postgres", ALIVE), "1", "the server at {side:?} crashed and started again");
        }
        assert_eq!(self.bucket().unfinished("").await.unwrap(), vec![]);
    }

    pub async fn end(self) {
        self.old.end().await;
        self.new.end().await;
    }
}

/// A UID that is always the same for the same seed.
pub fn new_uid(seed: &str) -> String {
    let hex = pgmigration::archive::Sha256::hex_of(seed.as_bytes());
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

/// A database in the pod `pg`; the server's identifier is still to be filled in.
pub fn end(namespace: &str, pod_uid: String, kubeconfig_secret: Option<SecretKey>, database: &str) -> DatabaseEnd {
    DatabaseEnd {
        kubeconfig_secret,
        namespace: namespace.into(),
        pod: "pg".into(),
        pod_uid,
        container: "postgres".into(),
        admin_user: "postgres".into(),
        system_identifier: String::new(),
        database: database.into(),
    }
}

/// Waits until the pod `pg` is ready; its UID.
pub async fn ready(side: Side, namespace: &str) -> String {
    let pods = Api::<Pod>::namespaced(side.client().await, namespace);
    eventually("PostgreSQL to become ready", || async {
        let pod = pods.get("pg").await.map_err(|e| e.to_string())?;
        let conditions = pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
        if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
            Ok(pod.metadata.uid.unwrap())
        } else {
            Err(format!("{:?}", pod.status))
        }
    })
    .await
}

fn make_bucket(name: &str) -> BucketConfig {
    let (access_key, secret_key, endpoint) =
        (setting("PGM_S3_ACCESS_KEY"), setting("PGM_S3_SECRET_KEY"), setting("PGM_S3_ENDPOINT"));
    let output = Command::new("curl")
        .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert", &setting("PGM_S3_CA")])
        .args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &format!("{access_key}:{secret_key}"), "-X", "PUT"])
        .args(["--header", &format!("x-amz-content-sha256: {}", pgmigration::archive::Sha256::hex_of(b""))])
        .arg(format!("{endpoint}/{name}"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "making bucket {name}");
    BucketConfig {
        bucket: name.into(),
        endpoint: Some(endpoint),
        region: "us-east-1".into(),
        force_path_style: true,
        access_key,
        secret_key,
        ca_pem: Some(std::fs::read(setting("PGM_S3_CA")).unwrap()),
    }
}
