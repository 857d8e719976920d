//! A whole scene for one test: two servers, an application on each side, rights as shipped, a bucket; all in namespaces of
//! its own.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use pgmigration::archive::{Bucket, BucketConfig};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::application::{self, Login};
use super::migration::Migration;
use super::server::{ADMIN, Server};
use super::{Room, Side, eventually, operator, render, setting};

/// Role that owns migrated databases.
pub const OWNER: &str = "owner";
/// Service account of the migrations.
pub const ACCOUNT: &str = "mover";
/// Bucket of all tests.
pub const BUCKET: &str = "pgm-e2e";

/// Where both ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Source in cluster old, target beside the object in cluster new.
    OldToNew,
    /// Both in cluster new, each in a namespace of its own. The target's database is empty, and its application waits at 0.
    Here,
    /// Both in one namespace of cluster new, with one application. The target has no such database.
    OnePlace,
    /// Both in cluster old, the object in cluster new.
    Remote,
}

/// The scene.
pub struct Scene {
    /// Where both ends are.
    pub layout: Layout,
    /// Namespace of the object, in cluster new.
    pub home: String,
    /// The server that the database leaves. Its application is in the same namespace.
    pub source: Server,
    /// The server that it goes to. Its application is in the same namespace.
    pub target: Server,
    /// Name of the database on both sides.
    pub database: String,
    /// Words that nobody may ever read outside of Secrets.
    pub canaries: Vec<String>,
    owner_password: String,
    rooms: Vec<Room>,
}

/// A word that no other run of the tests used.
fn unique(what: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    format!("canary-{what}-{}-{}", now.as_nanos(), std::process::id())
}

/// Manifests of objects in `namespace`.
pub fn list(namespace: &str, mut items: Vec<Value>) -> String {
    for item in &mut items {
        item["metadata"]["namespace"] = json!(namespace);
    }
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

async fn strict(side: Side, purpose: &str) -> Room {
    let room = Room::new(side, purpose).await;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    side.kubectl_aside(&["label", "namespace", &room.name, enforce], "").await.unwrap();
    room
}

impl Scene {
    /// Sets everything up: servers run, the source is filled by `seed` (SQL), applications write on both sides, rights are
    /// granted, the operator runs.
    pub async fn new(layout: Layout, purpose: &str, database: &str, seed: &str) -> Self {
        Self::within(layout, purpose, database, seed, None).await
    }

    /// The same with a target whose databases have room for so many MiB only.
    pub async fn within(layout: Layout, purpose: &str, database: &str, seed: &str, room: Option<u32>) -> Self {
        operator().await;
        let (rooms, home, at_source, at_target) = match layout {
            Layout::OldToNew => {
                let (home, old) = (strict(Side::New, purpose).await, strict(Side::Old, purpose).await);
                let names = (home.name.clone(), (Side::Old, old.name.clone()), (Side::New, home.name.clone()));
                (vec![home, old], names.0, names.1, names.2)
            }
            Layout::Here => {
                let (home, other) = (strict(Side::New, purpose).await, strict(Side::New, purpose).await);
                let names = (home.name.clone(), (Side::New, other.name.clone()), (Side::New, home.name.clone()));
                (vec![home, other], names.0, names.1, names.2)
            }
            Layout::OnePlace => {
                let home = strict(Side::New, purpose).await;
                let name = home.name.clone();
                (vec![home], name.clone(), (Side::New, name.clone()), (Side::New, name))
            }
            Layout::Remote => {
                let home = strict(Side::New, purpose).await;
                let (one, other) = (strict(Side::Old, purpose).await, strict(Side::Old, purpose).await);
                let names = (home.name.clone(), (Side::Old, one.name.clone()), (Side::Old, other.name.clone()));
                (vec![home, one, other], names.0, names.1, names.2)
            }
        };
        let [admin_password, owner_password] = ["admin", "owner"].map(unique);
        let scene = Self {
            layout,
            source: Server { side: at_source.0, namespace: at_source.1, name: "old-pg".into(), major: 15, room: None },
            target: Server { side: at_target.0, namespace: at_target.1, name: "new-pg".into(), major: 17, room },
            home,
            database: database.into(),
            canaries: vec![admin_password, owner_password.clone(), setting("PGM_S3_SECRET_KEY")],
            owner_password,
            rooms,
        };
        scene.start(seed).await;
        scene
    }

    async fn start(&self, seed: &str) {
        let admin_password = &self.canaries[0];
        for server in [&self.source, &self.target] {
            server.side.apply(&list(&server.namespace, server.manifests(admin_password)));
        }
        self.grant();
        let create = format!("CREATE DATABASE \"{}\"", self.database.replace('"', "\"\""));
        self.source.begin().await;
        self.source.sql("postgres", &create).await;
        self.source.sql(&self.database, seed).await;
        self.target.begin().await;
        self.target.sql("postgres", &format!("CREATE ROLE {OWNER} LOGIN PASSWORD '{}'", self.owner_password)).await;
        match self.layout {
            Layout::OnePlace => {}
            Layout::Here => {
                self.target.sql("postgres", &create).await;
                self.deploy(&self.target, 0);
            }
            Layout::OldToNew | Layout::Remote => {
                self.target.sql("postgres", &create).await;
                // The application of the new side has made a schema by itself: the usual case.
                let own = "CREATE SCHEMA app; CREATE TABLE app.written (id bigserial PRIMARY KEY, host text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())";
                self.target.sql(&self.database, own).await;
                self.deploy(&self.target, 1);
            }
        }
        self.deploy(&self.source, 1);
        self.writes(&self.source).await;
        if matches!(self.layout, Layout::OldToNew | Layout::Remote) {
            self.writes(&self.target).await;
        }
    }

    /// Sets the application beside `server` up, or back to how it was.
    pub fn deploy(&self, server: &Server, replicas: u32) {
        let login = Login {
            host: server.name.clone(),
            database: self.database.clone(),
            user: ADMIN.into(),
            password: self.canaries[0].clone(),
        };
        server.side.apply(&list(&server.namespace, application::manifests(&login, replicas)));
    }

    /// Starts the application beside `server` as its manifests say, by hand as it were: no mark of a migration is left on it.
    pub async fn start_by_hand(&self, server: &Server) {
        self.deploy(server, 1);
        // What the manifests do not say.
        let resume = r#"{"spec": {"suspend": false}}"#;
        let record = format!("{}-", pgmigration::api::names::ORIGINAL_ANNOTATION);
        let annotate = ["annotate", "deployments,cronjobs", "--all", &record];
        // Pods read their environment once, as it was when they were started.
        let restart = ["delete", "pods", "-l", "app in (api, worker)"];
        for words in [["patch", "cronjob/tidy", "-p", resume], annotate, restart] {
            let arguments = [&["-n", server.namespace.as_str()], words.as_slice()].concat();
            server.side.kubectl_aside(&arguments, "").await.unwrap();
        }
    }

    /// The shipped rights and what the object names in its own namespace.
    pub fn grant(&self) {
        Side::New.apply(&render(&["account", &self.home, ACCOUNT]));
        let remote = |server: &Server| server.side == Side::Old;
        if remote(&self.source) {
            // One account there, for both ends.
            let home = &self.source.namespace;
            Side::Old.apply(&render(&["remote", home, ACCOUNT]));
            Side::Old.apply(&render(&["source", home, ACCOUNT]));
            if remote(&self.target) {
                Side::Old.apply(&render(&["target", &self.target.namespace, ACCOUNT, home]));
            }
        } else {
            Side::New.apply(&render(&["source", &self.source.namespace, ACCOUNT, &self.home]));
        }
        if !remote(&self.target) {
            Side::New.apply(&render(&["target", &self.target.namespace, ACCOUNT, &self.home]));
        }
        let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        let mut secrets = vec![
            secret("db", json!({"password": self.owner_password})),
            secret(
                "bucket",
                json!({
                    "AWS_ACCESS_KEY_ID": setting("PGM_S3_ACCESS_KEY"), "AWS_SECRET_ACCESS_KEY": setting("PGM_S3_SECRET_KEY"),
                    "ca.crt": std::fs::read_to_string(setting("PGM_S3_CA")).unwrap(),
                }),
            ),
        ];
        if remote(&self.source) {
            secrets.push(secret("old-cluster", json!({"kubeconfig": kubeconfig_of(&self.source.namespace, ACCOUNT)})));
        }
        Side::New.apply(&list(&self.home, secrets));
    }

    /// The object's spec: Migrate, everything named, the target set aside.
    pub fn spec(&self) -> Value {
        let cluster = |server: &Server| match server.side {
            Side::Old => {
                json!({"namespace": server.namespace, "kubeconfigSecretRef": {"name": "old-cluster", "key": "kubeconfig"}})
            }
            Side::New => json!({"namespace": server.namespace}),
        };
        let postgres = |server: &Server| json!({"exec": {"workloadRef": {"kind": "StatefulSet", "name": server.name}}});
        let mut spec = json!({
            "mode": "Migrate",
            "serviceAccountName": ACCOUNT,
            "source": {
                "cluster": cluster(&self.source), "postgres": postgres(&self.source),
                "writers": [
                    {"kind": "Deployment", "name": "api"},
                    {"kind": "Deployment", "labelSelector": "app=worker"},
                    {"kind": "CronJob", "name": "tidy"},
                ],
            },
            "archive": {"s3": {
                "bucket": BUCKET, "prefix": "tests", "endpoint": setting("PGM_S3_ENDPOINT"), "forcePathStyle": true,
                "credentialsSecretRef": {"name": "bucket"}, "caSecretRef": {"name": "bucket", "key": "ca.crt"},
            }},
            "databases": [{"name": self.database, "existingTarget": "SetAside",
                "owner": {"name": OWNER, "passwordSecretRef": {"name": "db", "key": "password"}}}],
            "target": {
                "cluster": cluster(&self.target), "postgres": postgres(&self.target), "endpoint": {"host": self.target.name},
                "application": {
                    "repoint": application::repoint(),
                    "schemaJobs": [application::schema_job()],
                    "workloads": [
                        {"kind": "Deployment", "name": "api", "replicas": 2},
                        {"kind": "Deployment", "name": "worker"},
                        {"kind": "CronJob", "name": "tidy"},
                    ],
                },
            },
        });
        if self.target.namespace == self.home {
            spec["target"].as_object_mut().unwrap().remove("cluster");
        }
        spec
    }

    /// Applies an object called `name` with [`Self::spec`], changed by `change`.
    pub async fn migrate(&self, name: &str, change: impl FnOnce(&mut Value)) -> Migration {
        bucket().await;
        let mut spec = self.spec();
        change(&mut spec);
        Migration::apply(&self.home, name, spec).await
    }

    /// Waits until the application writes rows again that lead to `server` by its name.
    pub async fn writes(&self, server: &Server) {
        let count = || async {
            let sql = format!("SELECT count(*) FROM app.written WHERE host = '{}'", server.name);
            server.try_sql(&self.database, &sql).await.and_then(|n| n.parse::<u64>().map_err(|e| e.to_string()))
        };
        let before = eventually("the application's table", count).await;
        eventually(&format!("the application to write to {}", server.name), || async {
            let now = count().await?;
            if now > before { Ok(()) } else { Err(format!("{now} rows, as before")) }
        })
        .await;
    }

    /// Ends all its namespaces.
    pub async fn end(self) {
        for room in self.rooms {
            room.end().await;
        }
    }
}

/// A kubeconfig of an account in cluster old, as a user of the shipped files makes it.
pub fn kubeconfig_of(namespace: &str, account: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubeconfig");
    let output = Command::new(script)
        .args([namespace, account, "--kubeconfig", &Side::Old.kubeconfig()])
        .env("KUBECTL", std::env::var("PGM_KUBECTL").unwrap_or_else(|_| "kubectl".into()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The bucket of all tests, made when it is not there.
pub async fn bucket() -> Bucket {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        // The SHA-256 of an empty body.
        let digest = "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let answer = Command::new("curl")
            .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--cacert", &setting("PGM_S3_CA")])
            .args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--header", digest, "-X", "PUT"])
            .args(["--user", &format!("{}:{}", setting("PGM_S3_ACCESS_KEY"), setting("PGM_S3_SECRET_KEY"))])
            .arg(format!("{}/{BUCKET}", setting("PGM_S3_ENDPOINT")))
            .output()
            .unwrap();
        let code = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(["200", "409"].contains(&code.as_str()), "the S3 server answered {code}");
    })
    .await;
    Bucket::connect(&BucketConfig {
        bucket: BUCKET.into(),
        endpoint: Some(setting("PGM_S3_ENDPOINT")),
        region: "us-east-1".into(),
        force_path_style: true,
        access_key: setting("PGM_S3_ACCESS_KEY"),
        secret_key: setting("PGM_S3_SECRET_KEY"),
        ca_pem: Some(std::fs::read(setting("PGM_S3_CA")).unwrap()),
    })
    .unwrap()
}
