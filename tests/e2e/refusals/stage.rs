//! The one stage of all refusals: three servers, an application that sleeps, rights as shipped, and everything that a spec
//! may wrongly name.

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::scene::{BUCKET, bucket, kubeconfig_of, list};
use crate::support::server::Server;
use crate::support::snapshot::objects;
use crate::support::{Room, Side, eventually, operator, render, setting};

const ACCOUNT: &str = "mover";
const OWNER: &str = "owner";
const PASSWORD: &str = "refusals-owner";

/// Databases and what is set on them; the next transaction id moves with every write to any of them.
const SERVER: &str = r"
SELECT datname, oid, datallowconn, datconnlimit, datistemplate, datacl, datdba, shobj_description(oid, 'pg_database') FROM pg_database ORDER BY oid;
SELECT rolname, rolsuper, rolcanlogin, rolconnlimit FROM pg_roles ORDER BY rolname;
SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting ORDER BY 1, 2;
SELECT pg_snapshot_xmax(pg_current_snapshot());
";

/// The stage.
pub struct Stage {
    /// Namespace of the objects and the target, in cluster new.
    pub home: String,
    /// Namespace of the source, in cluster old.
    pub old: String,
    /// How everything was in the beginning.
    pub before: String,
    servers: [Server; 3],
}

/// The stage, set up once for all tests of the process.
pub async fn stage() -> &'static Stage {
    static STAGE: OnceCell<Stage> = OnceCell::const_new();
    STAGE.get_or_init(set_up).await
}

/// The namespaces outlive the process, since no test knows that it is the last; the next run takes them away.
async fn sweep(side: Side) {
    let label = "pgmigration.dev/refusals=true";
    side.kubectl_aside(&["delete", "namespace", "-l", label, "--wait=false"], "").await.unwrap();
}

async fn room(side: Side) -> String {
    sweep(side).await;
    let name = Room::new(side, "refusals").await.name;
    side.kubectl_aside(&["label", "namespace", &name, "pgmigration.dev/refusals=true"], "").await.unwrap();
    name
}

fn sleeper(name: &str, replicas: u32, selector: Value) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"tier": "application"}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 0, "nodeSelector": selector,
            "containers": [{"name": "main", "image": setting("PGM_PG17_IMAGE"), "command": ["sleep", "infinity"]}],
        }},
    }})
}

/// A server whose transaction ids only we move; beside it a container that has everything but `pg_dump`.
fn server(server: &Server) -> Vec<Value> {
    let mut all = server.manifests("refusals-admin");
    for object in &mut all {
        let Some(spec) = object.pointer_mut("/spec/template/spec") else { continue };
        let socket = json!({"name": "socket", "mountPath": "/var/run/postgresql"});
        spec["volumes"].as_array_mut().unwrap().push(json!({"name": "socket", "emptyDir": {}}));
        spec["volumes"].as_array_mut().unwrap().push(json!({"name": "tools", "emptyDir": {}}));
        let main = &mut spec["containers"][0];
        for argument in ["-c", "autovacuum=off", "-c", "max_prepared_transactions=5"] {
            main["args"].as_array_mut().unwrap().push(json!(argument));
        }
        main["volumeMounts"].as_array_mut().unwrap().push(socket.clone());
        let mut bare = main.clone();
        let take = "PATH=/usr/local/bin:/usr/bin:/bin; ln -sf /usr/lib/postgresql/*/bin/psql /tools/psql
            for tool in sh mktemp mkfifo tee dd wc sha256sum cat rm kill tr sleep env; do ln -sf \"$(command -v $tool || echo /bin/$tool)\" /tools/$tool; done
            exec sleep infinity";
        for (member, value) in [
            ("name", json!("bare")),
            ("command", json!(["/bin/sh", "-c", take])),
            ("env", json!([{"name": "PATH", "value": "/tools"}])),
            ("volumeMounts", json!([socket, {"name": "tools", "mountPath": "/tools"}])),
        ] {
            bare[member] = value;
        }
        bare.as_object_mut().unwrap().remove("args");
        spec["containers"].as_array_mut().unwrap().push(bare);
    }
    all
}

fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

/// What is wrong with a kubeconfig, by key.
fn kubeconfigs(good: &str, weak: &str) -> Value {
    let replaced = |key: &str, value: &str| -> String {
        let line = |line: &str| match line.trim_start().starts_with(key) {
            true => format!("{}{value}", &line[..line.len() - line.trim_start().len()]),
            false => line.to_owned(),
        };
        let text: Vec<String> = good.lines().map(line).collect();
        assert_ne!(text.join("\n"), good.trim_end(), "the kubeconfig has no {key}");
        text.join("\n")
    };
    let server = good.lines().find_map(|line| line.trim_start().strip_prefix("server: ")).unwrap();
    let (host, _) = server.rsplit_once(':').unwrap();
    // {"alg":"none"} . {"exp":1000000000}: September 2001.
    let expired = "eyJhbGciOiJub25lIn0.eyJleHAiOjEwMDAwMDAwMDB9.c2ln";
    json!({
        "unreachable": replaced("server:", &format!("server: {host}:1")),
        "expired": replaced("token:", &format!("token: {expired}")),
        "revoked": replaced("token:", "token: nonsense"),
        "exec": replaced("token:", "exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true, interactiveMode: Never}"),
        "files": replaced("token:", "tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token"),
        "insecure": replaced("certificate-authority-data:", "insecure-skip-tls-verify: true"),
        "weak": weak,
    })
}

/// The shipped Role of the target without exec and scale, under another name.
fn weakened(home: &str) -> String {
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&render(&["target", home, "weak"])).unwrap();
    for document in &mut documents {
        document["metadata"]["name"] = json!("weak");
        if let Some(rules) = document.get_mut("rules").and_then(Value::as_array_mut) {
            rules.retain(|rule| {
                !rule["resources"].to_string().contains("/scale") && !rule["resources"].to_string().contains("/exec")
            });
        }
        if let Some(reference) = document.get_mut("roleRef") {
            reference["name"] = json!("weak");
        }
    }
    json!({"apiVersion": "v1", "kind": "List", "items": documents}).to_string()
}

async fn set_up() -> Stage {
    operator().await;
    bucket().await;
    let (home, old) = (room(Side::New).await, room(Side::Old).await);
    let at = |side: Side, name: &str, major: u32| Server {
        side,
        namespace: if side == Side::New { home.clone() } else { old.clone() },
        name: name.into(),
        major,
        room: None,
    };
    let servers = [at(Side::Old, "pg", 15), at(Side::New, "pg", 17), at(Side::New, "older", 15)];
    for one in &servers {
        one.side.apply(&list(&one.namespace, server(one)));
    }
    grant(&home, &old);
    let immutable = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "fixed"}, "immutable": true, "data": {"PGHOST": "x"}});
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app-config"}, "data": {"PGHOST": "x"}});
    let application =
        vec![sleeper("api", 1, json!({})), sleeper("idle", 0, json!({})), config, immutable, secret("app", json!({"URL": "x"}))];
    Side::New.apply(&list(&home, application));
    Side::Old.apply(&list(&old, vec![sleeper("writer", 1, json!({})), sleeper("pending", 1, json!({"no": "such-node"}))]));

    for one in &servers {
        one.ready().await;
    }
    let [source, target, older] = &servers;
    for name in ["app", "prepared", "named"] {
        source.sql("postgres", &format!("CREATE DATABASE {name}")).await;
        source
            .sql(
                name,
                "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT n, n FROM generate_series(1, 10) AS n",
            )
            .await;
    }
    source.sql("prepared", "BEGIN; DELETE FROM t; PREPARE TRANSACTION 'pending'").await;
    source.sql("named", "ALTER TABLE t ADD CHECK (current_database() = 'named')").await;
    target.sql("postgres", "CREATE DATABASE \"full\"").await;
    target.sql("full", "CREATE TABLE t (id int)").await;
    for one in [target, older] {
        one.sql("postgres", &format!("CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'")).await;
    }
    for (side, namespace, name) in [(Side::New, &home, "api"), (Side::Old, &old, "writer")] {
        crate::support::available(&side.client().await, namespace, name).await;
    }
    rights_arrive(&home, &old).await;
    let mut stage = Stage { home, old, before: String::new(), servers };
    stage.before = stage.snapshot().await;
    stage
}

/// The shipped rights, lesser ones, and every Secret that a spec may name.
fn grant(home: &str, old: &str) {
    Side::New.apply(&render(&["account", home, ACCOUNT]));
    Side::New.apply(&render(&["target", home, ACCOUNT]));
    Side::New.apply(&render(&["source", home, ACCOUNT]));
    Side::New.apply(&render(&["account", home, "weak"]));
    Side::New.apply(&weakened(home));
    Side::New.apply(
        &render(&["account", home, "unmarked"]).replace("pgmigration.dev/allow: \"true\"", "pgmigration.dev/allow: \"false\""),
    );
    Side::Old.apply(&render(&["remote", old, ACCOUNT]));
    Side::Old.apply(&render(&["source", old, ACCOUNT]));
    Side::Old.apply(&render(&["remote", old, "weak"]));
    let good = kubeconfig_of(old, ACCOUNT);
    let keys = |secret_key: &str| {
        json!({
            "AWS_ACCESS_KEY_ID": setting("PGM_S3_ACCESS_KEY"), "AWS_SECRET_ACCESS_KEY": secret_key,
            "ca.crt": std::fs::read_to_string(setting("PGM_S3_CA")).unwrap(),
        })
    };
    let secrets = vec![
        secret("db", json!({"password": PASSWORD, "wrong": "not it"})),
        secret("bucket", keys(&setting("PGM_S3_SECRET_KEY"))),
        secret("wrong-bucket", keys("not it")),
        secret("kubeconfigs", kubeconfigs(&good, &kubeconfig_of(old, "weak"))),
        secret("old-cluster", json!({"kubeconfig": good})),
    ];
    Side::New.apply(&list(home, secrets));
}

/// The authorizers learn of new Roles a moment later.
async fn rights_arrive(home: &str, old: &str) {
    for (side, namespace, account, verb, resource) in [
        (Side::New, home, ACCOUNT, "create", "pods --subresource=exec"),
        (Side::New, home, ACCOUNT, "patch", "configmaps"),
        (Side::New, home, "weak", "patch", "configmaps"),
        (Side::Old, old, ACCOUNT, "create", "pods --subresource=exec"),
    ] {
        let user = format!("--as=system:serviceaccount:{namespace}:{account}");
        let mut ask = vec!["-n", namespace, "auth", "can-i", &user, verb];
        ask.extend(resource.split(' '));
        eventually(&format!("{account} to {verb} {resource}"), || side.kubectl_aside(&ask, "")).await;
    }
}

impl Stage {
    /// A spec that nothing is wrong with.
    pub fn spec(&self) -> Value {
        let postgres = json!({"exec": {"workloadRef": {"kind": "StatefulSet", "name": "pg"}}});
        let mut source = postgres.clone();
        source["exec"]["container"] = json!("postgres");
        json!({
            "mode": "Migrate",
            "serviceAccountName": ACCOUNT,
            "source": {
                "cluster": {"namespace": self.old, "kubeconfigSecretRef": {"name": "old-cluster", "key": "kubeconfig"}},
                "postgres": source,
                "writers": [{"kind": "Deployment", "name": "writer"}, {"kind": "Deployment", "labelSelector": "tier=application"}],
            },
            "archive": {"s3": {
                "bucket": BUCKET, "prefix": "refusals", "endpoint": setting("PGM_S3_ENDPOINT"), "forcePathStyle": true,
                "credentialsSecretRef": {"name": "bucket"}, "caSecretRef": {"name": "bucket", "key": "ca.crt"},
            }},
            "databases": [{"name": "app", "targetName": "app",
                "owner": {"name": OWNER, "passwordSecretRef": {"name": "db", "key": "password"}}}],
            "target": {
                "postgres": postgres, "endpoint": {"host": "pg", "port": 5432},
                "application": {
                    "repoint": [
                        {"kind": "ConfigMap", "name": "app-config", "key": "PGHOST", "template": "$(host)"},
                        {"kind": "Secret", "name": "app", "key": "URL", "template": "postgres://$(user):$(password)@$(host):$(port)/$(database)"},
                    ],
                    "schemaJobs": [{"name": "upgrade", "workloadRef": {"kind": "Deployment", "name": "api"}, "container": "main", "command": ["true"]}],
                    "workloads": [{"kind": "Deployment", "name": "api", "replicas": 1}],
                },
            },
        })
    }

    /// Everything that a migration could change.
    pub async fn snapshot(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            text += &format!("{} {}\n{}\n", server.namespace, server.name, server.sql("postgres", SERVER).await);
        }
        text += &objects(Side::New, &self.home).await;
        text += &objects(Side::Old, &self.old).await;
        let bucket = bucket().await;
        let prefix = format!("refusals/{}/", self.home);
        format!("{text}{:?} {:?}\n", bucket.list(&prefix).await.unwrap(), bucket.unfinished(&prefix).await.unwrap())
    }
}
