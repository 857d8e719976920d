//! Everything that a migration may change, as one text: equal before and after means that nothing is left of it.

use serde_json::{Value, json};

use super::scene::{Scene, bucket};
use super::{Side, setting};

/// Databases with all that an administrator can set on them, roles, and settings of both.
const SERVER: &str = r"
SELECT 'database', datname, pg_get_userbyid(datdba), datallowconn, datconnlimit, datistemplate, datacl, shobj_description(oid, 'pg_database')
FROM pg_database ORDER BY datname;
SELECT 'role', rolname, rolsuper, rolcanlogin, rolconnlimit, rolvaliduntil FROM pg_roles ORDER BY rolname;
SELECT 'setting', setdatabase, setrole, setconfig FROM pg_db_role_setting ORDER BY 2, 3;
SELECT 'slot', slot_name FROM pg_replication_slots ORDER BY 2;
";

impl Scene {
    /// [`Self::world`] and the bucket.
    pub async fn snapshot(&self) -> String {
        self.world().await + &self.uploads().await
    }

    /// Both servers, both namespaces and the object's namespace. Without what the application's own work changes, and without
    /// the objects of the migration's kind.
    pub async fn world(&self) -> String {
        let apart = ![&self.source, &self.target].iter().any(|s| s.side == Side::New && s.namespace == self.home);
        let home = if apart { objects(Side::New, &self.home).await } else { String::new() };
        self.ends().await + &home
    }

    /// The same without the object's namespace, unless one of the servers is in it.
    pub async fn ends(&self) -> String {
        let mut text = String::new();
        for server in [&self.source, &self.target] {
            server.assert_unharmed().await;
            text += &server.name;
            text.push('\n');
            text += &server.sql("postgres", SERVER).await;
            text.push('\n');
            text += &server.exec(&["sh", "-c", "ls -A /tmp"], "").await.unwrap();
        }
        let mut places = vec![(self.source.side, &self.source.namespace), (self.target.side, &self.target.namespace)];
        places.dedup();
        for (side, namespace) in places {
            text += &objects(side, namespace).await;
        }
        text
    }

    /// What this scene's migrations have begun or left in the bucket.
    pub async fn uploads(&self) -> String {
        let bucket = bucket().await;
        let prefix = format!("tests/{}/", self.home);
        let objects = bucket.list(&prefix).await.unwrap();
        let unfinished = bucket.unfinished(&prefix).await.unwrap();
        format!("{objects:?} {unfinished:?}\n")
    }
}

/// Fails with the lines in which two snapshots differ.
#[track_caller]
pub fn assert_same(before: &str, after: &str) {
    let missing =
        |one: &str, other: &str| one.lines().filter(|line| !other.lines().any(|l| l == *line)).collect::<Vec<_>>().join("\n");
    assert!(before == after, "not as before. Gone:\n{}\nNew:\n{}", missing(before, after), missing(after, before));
}

/// Workloads, settings and Jobs of a namespace.
pub async fn objects(side: Side, namespace: &str) -> String {
    let kinds = "deployments,statefulsets,cronjobs,jobs,configmaps,secrets,services,serviceaccounts";
    let text = side.kubectl_aside(&["-n", namespace, "get", kinds, "-o", "json"], "").await.unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let mut lines: Vec<String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let mut annotations = item["metadata"]["annotations"].clone();
            if let Some(map) = annotations.as_object_mut() {
                // Counts templates that were tried, also ones taken back.
                map.remove("deployment.kubernetes.io/revision");
            }
            let mut labels = item["metadata"]["labels"].clone();
            if let Some(map) = labels.as_object_mut() {
                // Kubernetes notes there when a token was last used.
                map.remove("kubernetes.io/legacy-token-last-used");
            }
            let [annotations, labels] = [annotations, labels].map(|map| if map == json!({}) { Value::Null } else { map });
            let metadata = &item["metadata"];
            json!([item["kind"], metadata["name"], annotations, labels, metadata["finalizers"], item["spec"], item["data"]])
                .to_string()
        })
        .collect();
    lines.sort();
    format!("{namespace}\n{}\n", lines.join("\n"))
}

/// Everything that may be read without the right to read Secrets: objects, events and logs of the scene's namespace, the
/// operator's log.
pub async fn readable(scene: &Scene) -> String {
    let mut text = String::new();
    let mut places = vec![(Side::New, scene.home.as_str()), (scene.target.side, scene.target.namespace.as_str())];
    places.dedup();
    for (side, namespace) in places {
        let kinds = "postgresmigrations,events,jobs,pods,configmaps";
        let kinds = if side == Side::New { kinds } else { "events,jobs,pods,configmaps" };
        text += &side.kubectl_aside(&["-n", namespace, "get", kinds, "-o", "yaml"], "").await.unwrap();
    }
    let operator = ["-n", super::SYSTEM, "logs", "--tail=-1", "-l", "app.kubernetes.io/name=postgres-migration-operator"];
    text += &Side::New.kubectl_aside(&operator, "").await.unwrap();
    assert!(!text.is_empty() && !setting("PGM_S3_SECRET_KEY").is_empty());
    text
}
