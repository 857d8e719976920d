//! One scene in which case after case is played: each leaves it as it found it, or is put back by plain SQL and manifests.

use std::collections::BTreeMap;

use kube::ResourceExt;
use pgmigration::api::{Outcome, Phase, PostgresMigrationStatus, StepName, StepState};
use serde_json::{Value, json};

use super::log;
use crate::migration::moved;
use crate::support::Side;
use crate::support::ledger::Ledger;
use crate::support::migration::{Migration, condition};
use crate::support::scene::{Layout, Scene, bucket};
use crate::support::server::Server;
use crate::support::snapshot::assert_same;

/// Name of the database on both sides.
const DATABASE: &str = "onyx";

/// Database on the target that a test makes of a saved dump.
const BY_HAND: &str = "by_hand";

/// How a migration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// To the end.
    Forward,
    /// Called off when the copy is complete and compared.
    Cancelled,
    /// Deleted where the most has been done that can be undone: published, led over, held by a schema job that failed.
    Deleted,
    /// Rolled back after its end, when the application has written to the new database.
    RolledBack,
}

/// What is asked of a migration in the midst of a step, or taken away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To stop for a while.
    Suspend,
    /// To be called off.
    Cancel,
    /// To be rolled back, whatever was written.
    Rollback,
    /// To be gone.
    Delete,
    /// To do without this object (kind and name) of its namespace, until it is seen to miss it.
    Lose(&'static str, &'static str),
}

/// What one case showed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Boundaries that operator and movers passed, in order, each once.
    pub passed: Vec<String>,
    /// Boundaries at which the operator ended.
    pub ended: Vec<String>,
    /// Steps that took more than one attempt.
    pub repeated: Vec<StepName>,
}

/// The scene and what it was like in the beginning.
pub struct Stage {
    /// The scene.
    pub scene: Scene,
    ledgers: [Ledger; 2],
    snapshot: String,
    content: String,
    databases: Vec<String>,
    oids: [String; 2],
    played: usize,
}

fn reason<'a>(status: &'a PostgresMigrationStatus, kind: &str) -> &'a str {
    status.conditions.iter().find(|c| c.type_ == kind).map_or("", |c| c.reason.as_str())
}

async fn oid(server: &Server, database: &str) -> String {
    server.sql("postgres", &format!("SELECT oid FROM pg_database WHERE datname = '{database}'")).await
}

impl Stage {
    /// A new scene whose writers never rest.
    pub async fn new(purpose: &str) -> Self {
        super::armed().await;
        let scene = Scene::new(Layout::OldToNew, purpose, DATABASE, include_str!("../support/source.sql")).await;
        let ledgers = [Ledger::every(&scene.source, DATABASE, "1").await, Ledger::every(&scene.target, DATABASE, "1").await];
        let oids = [oid(&scene.source, DATABASE).await, oid(&scene.target, DATABASE).await];
        let content = scene.source.content(DATABASE).await;
        let databases = scene.source.databases().await;
        Self { snapshot: scene.snapshot().await, scene, ledgers, content, databases, oids, played: 0 }
    }

    /// Plays a whole migration that ends `at` these boundaries (see `pgmigration::crash`), and judges what it leaves. With
    /// `listen` it tells the boundaries of the movers too.
    pub async fn play(&mut self, way: Way, at: &str, listen: bool) -> Seen {
        self.played += 1;
        let since = log::now();
        let before = self.generations().await;
        let migration = self.begin(&format!("case-{}", self.played), way, at).await;
        let uid = migration.api.get(&migration.name).await.unwrap().uid().unwrap();
        let mut seen = Seen::default();
        match way {
            Way::Forward => {
                if listen {
                    migration.stop_after(StepName::Resume).await;
                    seen.passed = log::of_movers(&self.scene.home, &uid).await;
                    migration.change(json!({"suspend": false})).await;
                }
                let status = migration.ended(Outcome::Succeeded).await;
                self.arrived(&migration, &status).await;
                seen.repeated = status.steps.iter().filter(|s| s.attempt > 1).map(|s| s.name).collect();
            }
            Way::Cancelled => {
                migration.stop_after(StepName::Analyze).await;
                migration.change(json!({"cancel": true, "suspend": false})).await;
                let status = migration.ended(Outcome::Cancelled).await;
                assert_eq!((condition(&status, "RolledBack"), condition(&status, "Succeeded")), ("True", "False"));
                let undone = status.steps.iter().filter(|s| s.name > StepName::Preflight && s.name != StepName::Witness);
                assert!(undone.clone().count() > 5 && undone.clone().all(|s| s.state == StepState::Undone), "{:?}", status.steps);
                seen.repeated = status.steps.iter().filter(|s| s.attempt > 1).map(|s| s.name).collect();
                migration.delete().await;
                self.as_before(&[DATABASE]).await;
            }
            Way::Deleted => {
                migration.until("the hold", |s| (s.phase == Some(Phase::RequiresApproval)).then_some(())).await;
                self.ledgers[1].goes_on().await;
                migration.delete().await;
                // The ledger has written to the published copy.
                let kept = self.added(&self.scene.target).await;
                self.as_before(&[DATABASE, &kept]).await;
            }
            Way::RolledBack => {
                migration.ended(Outcome::Succeeded).await;
                self.scene.writes(&self.scene.target).await;
                self.ledgers[1].goes_on().await;
                migration.change(json!({"rollback": {"acknowledge": ["TargetWrites"]}})).await;
                let over = |s: &PostgresMigrationStatus| (s.outcome == Some(Outcome::Cancelled)).then(|| s.clone());
                let status = migration.after_its_end("the end of the rollback", over).await;
                migration.delete().await;
                self.restore_what_was_saved(&status).await;
                self.as_before(&[DATABASE, BY_HAND]).await;
                seen.repeated = status.steps.iter().filter(|s| s.attempt > 1).map(|s| s.name).collect();
                assert_eq!(status.saved.map(|s| s.attempt), Some(1), "doubled: movers that save were started again");
            }
        }
        assert_eq!(self.changes_since(&before).await, expected(way), "doubled: changes of the workloads");
        let (passed, ended) = log::of_operator(&uid, &since).await;
        seen.passed.extend(passed);
        println!("{way:?}: the operator ended at {} boundaries, movers made it begin {:?} again", ended.len(), seen.repeated);
        seen.ended = ended;
        if way == Way::Forward {
            migration.delete().await;
            self.reset(&uid).await;
        }
        seen
    }

    /// Plays a whole migration of which something is asked when `step` has begun, and judges what it leaves. Returns
    /// how it ended, in words.
    pub async fn ask(&mut self, wish: Wish, step: StepName) -> String {
        self.played += 1;
        let migration = self.begin(&format!("asked-{}", self.played), Way::Forward, "").await;
        let uid = migration.api.get(&migration.name).await.unwrap().uid().unwrap();
        migration.begun(step).await;
        match wish {
            Wish::Suspend => {
                migration.change(json!({"suspend": true})).await;
                let rests =
                    |s: &PostgresMigrationStatus| (s.outcome.is_some() || reason(s, "Ready") == "Suspended").then_some(());
                migration.after_its_end("rest", rests).await;
                let status = migration.status().await;
                let slow = !matches!(step, StepName::Fence | StepName::Witness | StepName::Repoint | StepName::Keep);
                let rested = reason(&status, "Ready") == "Suspended";
                assert!(rested || !slow, "it went on to its end: {:?}", status.outcome);
                let last = status.steps.last().map(|s| (s.name, s.state));
                // A spec that changes before anything was touched is looked at anew.
                let begun = last.is_some_and(|(_, state)| state != StepState::Done);
                assert!(!rested || !begun, "it rests in the midst of {last:?}");
                migration.change(json!({"suspend": false})).await;
            }
            Wish::Cancel => migration.change(json!({"cancel": true})).await,
            Wish::Rollback => migration.change(json!({"rollback": {"acknowledge": ["TargetWrites"]}})).await,
            Wish::Delete => {
                migration.delete().await;
                return self.after_deletion(&uid, step).await;
            }
            Wish::Lose(kind, name) => self.lose(&migration, kind, name).await,
        }
        let over = |s: &PostgresMigrationStatus| match wish {
            Wish::Rollback => (s.outcome == Some(Outcome::Cancelled)).then(|| s.clone()),
            _ => s.outcome.map(|_| s.clone()),
        };
        let status = migration.after_its_end("the end", over).await;
        let outcome = status.outcome.unwrap();
        let allowed: &[Outcome] = match wish {
            Wish::Suspend => &[Outcome::Succeeded],
            Wish::Rollback => &[Outcome::Cancelled],
            // What begins within a second may be over before the wish has arrived.
            Wish::Cancel if step <= StepName::Restore => &[Outcome::Cancelled],
            Wish::Cancel if step >= StepName::Repoint => &[Outcome::Succeeded],
            Wish::Cancel => &[Outcome::Cancelled, Outcome::Succeeded],
            Wish::Delete => &[],
            Wish::Lose(..) => &[Outcome::Succeeded, Outcome::Failed],
        };
        assert!(allowed.contains(&outcome), "it ended with {outcome:?}: {}", status.message.unwrap_or_default());
        if outcome == Outcome::Succeeded {
            self.arrived(&migration, &status).await;
            migration.delete().await;
            self.reset(&uid).await;
        } else {
            let changed = status.start_time.is_some();
            assert!(!changed || condition(&status, "RolledBack") == "True", "{:?}", status.conditions);
            migration.delete().await;
            let mut there = vec![DATABASE.to_owned()];
            if status.saved.as_ref().is_some_and(|saved| saved.verified && saved.kept_as.is_none()) {
                self.restore_what_was_saved(&status).await;
            }
            if status.resumed {
                self.empty_the_bucket().await;
            }
            there.extend(self.new_on(&self.scene.target).await);
            self.as_before(&there.iter().map(String::as_str).collect::<Vec<_>>()).await;
        }
        format!("{outcome:?}")
    }

    /// Takes an object away, gives it back when the migration is seen to miss it, and helps it on where it waits for a person.
    async fn lose(&self, migration: &Migration, kind: &str, name: &str) {
        Side::New.kubectl_aside(&["-n", &self.scene.home, "delete", kind, name], "").await.unwrap();
        let misses = |s: &PostgresMigrationStatus| {
            let failing = s.steps.iter().any(|s| s.failures > 2) || s.steps.last().is_some_and(|s| s.attempt > 1);
            (s.outcome.is_some() || s.phase == Some(Phase::RequiresApproval) || failing).then_some(())
        };
        migration.after_its_end("what it misses", misses).await;
        self.scene.grant();
        let mut retries = 0;
        loop {
            let stands = |s: &PostgresMigrationStatus| match (s.outcome, s.phase) {
                (Some(_), _) => Some(true),
                (None, Some(Phase::RequiresApproval)) => Some(false),
                (None, _) => None,
            };
            if migration.after_its_end("the end or a hold", stands).await {
                return;
            }
            retries += 1;
            assert!(retries < 5, "it is held again and again");
            migration.change(json!({"retry": retries})).await;
            let goes_on = |s: &PostgresMigrationStatus| (s.observed_retry >= retries).then_some(());
            migration.after_its_end("the next attempt", goes_on).await;
        }
    }

    /// The object is gone: either everything is as it was, or the application works on the new database and nowhere else.
    async fn after_deletion(&self, uid: &str, step: StepName) -> String {
        let (source, target) = (&self.scene.source, &self.scene.target);
        if source.try_sql(DATABASE, "SELECT 1").await.is_ok() {
            let mut there = vec![DATABASE.to_owned()];
            there.extend(self.new_on(target).await);
            self.as_before(&there.iter().map(String::as_str).collect::<Vec<_>>()).await;
            return "all as it was".into();
        }
        // What begins within a second may be over before the wish has arrived.
        assert!(step >= StepName::SchemaJob, "the source stays fenced");
        self.scene.writes(target).await;
        self.ledgers[0].assert_kept(target, &[DATABASE]).await;
        let aside = self.added(target).await;
        self.ledgers[1].assert_kept(target, &[DATABASE, &aside]).await;
        assert_same(&self.content, &target.content(DATABASE).await);
        self.reset(uid).await;
        "the application runs on the new database".into()
    }

    async fn begin(&self, name: &str, way: Way, at: &str) -> Migration {
        bucket().await;
        let mut spec = self.scene.spec();
        let command = match way {
            // Rows that only the schema job writes tell how often it ran.
            Way::Forward | Way::Cancelled | Way::RolledBack => {
                "psql -X -v ON_ERROR_STOP=1 -c \"UPDATE app.version SET version_num = '0002'\" -c \"INSERT INTO app.written (host) VALUES ('schema-job')\""
            }
            Way::Deleted => "exit 3",
        };
        let said = r#"echo "upgrading on $DATABASE_HOST as $PGUSER""#;
        spec["target"]["application"]["schemaJobs"][0]["command"] = json!(["sh", "-ec", format!("{said}\n{command}")]);
        let object = json!({"apiVersion": "pgmigration.dev/v1alpha1", "kind": "PostgresMigration", "spec": spec, "metadata": {
            "name": name, "namespace": self.scene.home, "annotations": {pgmigration::crash::ANNOTATION: at}}});
        Side::New.kubectl_aside(&["apply", "--server-side", "-f", "-"], &object.to_string()).await.unwrap();
        Migration::of(Side::New.client().await, &self.scene.home, name)
    }

    /// Everything is where it belongs after a success, once, and nothing else is anywhere.
    async fn arrived(&self, migration: &Migration, status: &PostgresMigrationStatus) {
        let (source, target) = (&self.scene.source, &self.scene.target);
        let aside = status.publication.as_ref().unwrap().set_aside.clone().unwrap();
        self.ledgers[0].assert_kept(target, &[DATABASE]).await;
        self.ledgers[1].assert_kept(target, &[DATABASE, &aside]).await;
        moved(&self.scene, migration, &self.content, &self.databases).await;
        let runs = target.sql(DATABASE, "SELECT count(*) FROM app.written WHERE host = 'schema-job'").await;
        assert_eq!(runs, "1", "doubled: runs of the schema job");
        // The databases are the very ones that were recorded, not others of their names.
        let fenced = self.added(source).await;
        assert_eq!(oid(source, &fenced).await, self.oids[0], "doubled: the fence is around another database");
        assert_eq!(oid(target, &aside).await, self.oids[1], "doubled: another database was set aside");
        let made = status.staging.as_ref().unwrap().oid.unwrap().to_string();
        assert_eq!(oid(target, DATABASE).await, made, "doubled: another database was published than was compared");
        assert_eq!(self.added(target).await, aside, "databases that belong to nobody");
    }

    /// The one database of a server that was not there in the beginning.
    async fn added(&self, server: &Server) -> String {
        let added = self.new_on(server).await;
        let [one] = added.as_slice() else { panic!("new databases on {}: {added:?}", server.name) };
        one.clone()
    }

    /// All databases of a server that were not there in the beginning.
    async fn new_on(&self, server: &Server) -> Vec<String> {
        server.databases().await.into_iter().filter(|name| !self.databases.contains(name)).collect()
    }

    /// Makes a database [`BY_HAND`] of what a rollback has saved, and empties the bucket.
    async fn restore_what_was_saved(&self, status: &PostgresMigrationStatus) {
        let (target, bucket) = (&self.scene.target, bucket().await);
        let saved = status.saved.as_ref().filter(|saved| saved.verified).expect("nothing was saved");
        let dump = bucket.get_small(&saved.key, 1 << 28).await.unwrap().expect("no dump");
        target.exec(&["sh", "-c", "cat >/tmp/saved.dump"], &dump).await.unwrap();
        target.sql("postgres", &format!("CREATE DATABASE {BY_HAND}")).await;
        let restore = ["pg_restore", "-U", "postgres", "--no-owner", "--exit-on-error", "-d", BY_HAND, "/tmp/saved.dump"];
        target.exec(&restore, "").await.unwrap();
        target.exec(&["rm", "/tmp/saved.dump"], "").await.unwrap();
        self.empty_the_bucket().await;
    }

    /// Deletes what a migration that had succeeded leaves in the bucket.
    async fn empty_the_bucket(&self) {
        let bucket = bucket().await;
        for object in bucket.list(&format!("tests/{}/", self.scene.home)).await.unwrap() {
            bucket.delete(&object.key).await.unwrap();
        }
    }

    /// Everything is as it was, and works. What was written on the target's side is in the databases `on_target`.
    async fn as_before(&self, on_target: &[&str]) {
        let (source, target) = (&self.scene.source, &self.scene.target);
        self.ledgers[0].assert_kept(source, &[DATABASE]).await;
        self.ledgers[1].assert_kept(target, on_target).await;
        for kept in on_target.iter().filter(|name| **name != DATABASE) {
            target.sql("postgres", &format!("DROP DATABASE \"{kept}\"")).await;
        }
        self.ledgers[1].settle(target, DATABASE).await;
        assert_same(&self.snapshot, &self.scene.snapshot().await);
        assert_eq!([oid(source, DATABASE).await, oid(target, DATABASE).await], self.oids, "other databases of the same names");
        assert_same(&self.content, &source.content(DATABASE).await);
        self.alive().await;
    }

    async fn alive(&self) {
        self.scene.writes(&self.scene.source).await;
        self.scene.writes(&self.scene.target).await;
        for ledger in &self.ledgers {
            ledger.goes_on().await;
        }
    }

    /// How often each workload's specification was changed in its life.
    async fn generations(&self) -> BTreeMap<String, i64> {
        let mut all = BTreeMap::new();
        for server in [&self.scene.source, &self.scene.target] {
            let arguments = ["-n", &server.namespace, "get", "deployments,cronjobs", "-o", "json"];
            let list: Value = serde_json::from_str(&server.side.kubectl_aside(&arguments, "").await.unwrap()).unwrap();
            for item in list["items"].as_array().unwrap() {
                let name = format!("{} of {}", item["metadata"]["name"].as_str().unwrap(), server.name);
                all.insert(name, item["metadata"]["generation"].as_i64().unwrap());
            }
        }
        all
    }

    async fn changes_since(&self, before: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
        self.generations().await.into_iter().map(|(name, now)| (name.clone(), now - before[&name])).collect()
    }

    /// Puts back what a success has changed, by hand as it were.
    async fn reset(&self, uid: &str) {
        let (source, target) = (&self.scene.source, &self.scene.target);
        for (server, kept) in [(source, self.added(source).await), (target, self.added(target).await)] {
            let script = format!(
                "ALTER DATABASE \"{DATABASE}\" IS_TEMPLATE false;
                 ALTER DATABASE \"{DATABASE}\" ALLOW_CONNECTIONS false;
                 DROP DATABASE \"{DATABASE}\" WITH (FORCE);
                 ALTER DATABASE \"{kept}\" RENAME TO \"{DATABASE}\";
                 ALTER DATABASE \"{DATABASE}\" ALLOW_CONNECTIONS true;"
            );
            server.sql("postgres", &script).await;
            let label = format!("pgmigration.dev/migration-uid={uid}");
            let mine = ["-n", &server.namespace, "delete", "jobs,secrets", "-l", &label, "--cascade=foreground"];
            server.side.kubectl_aside(&mine, "").await.unwrap();
            self.scene.start_by_hand(server).await;
        }
        self.empty_the_bucket().await;
        self.ledgers[1].settle(target, DATABASE).await;
        self.alive().await;
        assert_same(&self.snapshot, &self.scene.snapshot().await);
    }
}

/// Changes of each workload: a record and a stop, a start and the record gone. A CronJob's record does not count as one. The
/// new side's `api` is led to where it was led before.
fn expected(way: Way) -> BTreeMap<String, i64> {
    let (once, twice) = ([4, 4, 2], [8, 8, 4]);
    let (source, target) = match way {
        Way::Forward => ([2, 2, 1], once),
        Way::Cancelled | Way::Deleted => (once, once),
        Way::RolledBack => (once, twice),
    };
    let names = ["api of old-pg", "worker of old-pg", "tidy of old-pg", "api of new-pg", "worker of new-pg", "tidy of new-pg"];
    names.iter().map(|name| (*name).to_owned()).zip(source.into_iter().chain(target)).collect()
}
