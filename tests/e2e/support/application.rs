//! The application of a test: it writes a row every moment to whatever its configuration leads it to.

use serde_json::{Value, json};

use super::setting;

/// Writes where PGHOST leads, and is ready once that has worked: a startup probe, because a probe that runs a process each second
/// for as long as the pod lives costs more than the pod itself. Not by Debian's `psql`, a Perl program that looks for the
/// real one each time: a dozen of these pods would keep a small machine busy.
const WRITE: &str = r#"
while :; do
  /usr/lib/postgresql/17/bin/psql -X -q -v ON_ERROR_STOP=1 -c "INSERT INTO app.written (host) VALUES ('$PGHOST')" && touch /tmp/wrote
  sleep 1
done
"#;

/// Where an application writes before anything is migrated.
#[derive(Clone, Debug)]
pub struct Login {
    /// Host of the server.
    pub host: String,
    /// Name of the database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
}

fn container(name: &str, login: &Login) -> Value {
    json!({
        "name": name, "image": setting("PGM_PG17_IMAGE"), "command": ["sh", "-c", WRITE],
        "env": [{"name": "DATABASE_HOST", "value": login.host}, {"name": "OTHER", "value": "stays"}],
        "envFrom": [{"configMapRef": {"name": "app-config"}}, {"secretRef": {"name": "app-secret"}}],
        "startupProbe": {"exec": {"command": ["test", "-e", "/tmp/wrote"]}, "periodSeconds": 1, "failureThreshold": 600},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    })
}

fn pod(app: &str, login: &Login) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container(app, login)],
        },
    })
}

/// A Deployment `app` that writes as long as it runs.
pub fn deployment(app: &str, login: &Login, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "labels": {"app": app}}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": pod(app, login)}})
}

/// ConfigMap `app-config`, Secret `app-secret`, Deployments `api` (behind a Service) and `worker`, CronJob `tidy`, which
/// never runs by the clock. The Deployments have `replicas` pods each.
pub fn manifests(login: &Login, replicas: u32) -> Vec<Value> {
    let mut tidy = pod("tidy", login);
    tidy["spec"]["restartPolicy"] = json!("Never");
    vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app-config"},
            "data": {"PGHOST": login.host, "PGPORT": "5432", "PGDATABASE": login.database, "PGCONNECT_TIMEOUT": "5"}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "app-secret"},
            "stringData": {"PGUSER": login.user, "PGPASSWORD": login.password, "URL": format!("postgres://{}@{}", login.user, login.host)}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"}, "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}]}}),
        deployment("api", login, replicas),
        deployment("worker", login, replicas),
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tidy"}, "spec": {
            "schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": tidy}}}}),
    ]
}

/// What leads it to the new database: `spec.target.application.repoint`.
pub fn repoint() -> Value {
    json!([
        {"kind": "ConfigMap", "name": "app-config", "key": "PGHOST", "template": "$(host)"},
        {"kind": "ConfigMap", "name": "app-config", "key": "PGPORT", "template": "$(port)"},
        {"kind": "ConfigMap", "name": "app-config", "key": "PGDATABASE", "template": "$(database)"},
        {"kind": "Secret", "name": "app-secret", "key": "PGUSER", "template": "$(user)"},
        {"kind": "Secret", "name": "app-secret", "key": "PGPASSWORD", "template": "$(password)"},
        {"kind": "Secret", "name": "app-secret", "key": "URL", "template": "postgres://$(user):$(password)@$(host):$(port)/$(database)"},
        {"workloadRef": {"kind": "Deployment", "name": "api"}, "container": "api", "env": "DATABASE_HOST", "template": "$(host)"},
    ])
}

/// A schema job in the surroundings of `api`: brings `app.version` from 0001 to 0002, and runs where both names lead to the
/// new database.
pub fn schema_job() -> Value {
    let script = r#"
        echo "upgrading on $DATABASE_HOST as $PGUSER"
        psql -X -v ON_ERROR_STOP=1 -c "UPDATE app.version SET version_num = '0002' WHERE version_num = '0001' AND current_user = '$PGUSER'"
    "#;
    json!({"name": "upgrade", "workloadRef": {"kind": "Deployment", "name": "api"}, "container": "api",
        "command": ["sh", "-ec", script], "deadlineSeconds": 120})
}
