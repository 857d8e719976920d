//! Every question gives the same answer over both carriers: psql over exec, and the protocol over a forwarded port.
//!
//! And what is done to databases through either of them is the same thing: the fence is raised over one carrier and
//! lifted over the other.

use std::sync::Arc;

use pgmigration::kubernetes::psql::PsqlLogin;
use pgmigration::postgres::admin::AdminSessions;
use pgmigration::postgres::carrier::{Carrier, Session};
use pgmigration::postgres::catalog;
use pgmigration::postgres::digest::structure;
use pgmigration::postgres::digest::{self, Hash, LargeObjectMethod, Method, Recipe};
use pgmigration::postgres::fence::{Fence, FenceNames, FenceState, originals};
use serde::Serialize;
use serde_json::Value;

use crate::carriers::{SOON, Server, TAG};
use crate::support::Side;

/// The databases that the room's own tests ask about, filled by the same scripts.
const TORTURE: &str = include_str!("../postgres/torture.sql");
const CONTENTS: &str = include_str!("../postgres/contents.sql");

const UID: &str = "0b1c2d3e-4f5a-6789-abcd-ef0123456789";

/// What differs between two moments or two sessions.
const VOLATILE: &[&str] = &["pid", "age", "transaction_age", "next_xid", "wal_lsn", "current_lsn", "active_pid", "size"];

fn steady(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.retain(|name, _| !VOLATILE.contains(&name.as_str()));
            for member in members.values_mut() {
                *member = steady(member.take());
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = steady(item.take());
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

/// The answers so far, by question.
struct Answers(Vec<(&'static str, Value)>);

impl Answers {
    fn add(&mut self, name: &'static str, answer: impl Serialize) {
        self.0.push((name, steady(serde_json::to_value(answer).unwrap())));
    }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

/// Every question of the catalog room, to a database of [`TORTURE`] and to the database `postgres` beside it.
async fn catalog_answers(app: &mut dyn Session, admin: &mut dyn Session) -> Answers {
    let mut answers = Answers(Vec::new());
    let oid = catalog::server(app).await.unwrap().database_oid;
    answers.add("server", catalog::server(app).await.unwrap());
    answers.add("witness", catalog::witness(app).await.unwrap());
    answers.add("row changes", catalog::row_changes(app).await.unwrap());
    answers.add("databases", catalog::databases(admin).await.unwrap());
    answers.add("database", catalog::database(admin, "app").await.unwrap());
    answers.add("absent database", catalog::database(admin, r#"no"such' \ $1 :x"#).await.unwrap());
    answers.add("database settings", catalog::database_settings(admin, oid).await.unwrap());
    answers.add("inventory", catalog::inventory(app).await.unwrap());
    answers.add("extensions", catalog::extensions(app).await.unwrap());
    answers.add("available extensions", catalog::available_extensions(app, &names(&["plpgsql", "no'ne"])).await.unwrap());
    answers.add("roles", catalog::roles(admin, &names(&["owner", "postgres", "nobody"])).await.unwrap());
    answers.add("alembic versions", catalog::alembic_versions(app).await.unwrap());
    answers.add("prepared transactions", catalog::prepared_transactions(admin, "app").await.unwrap());
    answers.add("sessions", catalog::sessions(admin, oid, TAG).await.unwrap());
    answers.add("index builds", catalog::index_builds(admin, oid).await.unwrap());
    answers.add("subscriptions", catalog::subscriptions(admin, oid).await.unwrap());
    answers.add("replication slots", catalog::replication_slots(admin, "app").await.unwrap());
    answers.add("standbys", catalog::standbys(admin, None).await.unwrap());
    answers.add("event triggers", catalog::event_triggers(app).await.unwrap());
    answers.add("uses of the database's name", catalog::database_name_uses(app).await.unwrap());
    answers.add("uses of the search path", catalog::search_path_uses(app).await.unwrap());
    answers.add("access rules", catalog::hba_lines(admin, "app").await.unwrap());
    answers
}

/// Every question of the digest room, to a database of [`CONTENTS`].
async fn digest_answers(session: &mut dyn Session) -> Answers {
    let mut answers = Answers(Vec::new());
    digest::prepare(session).await.unwrap();
    answers.add("self-test", digest::self_test(session).await.unwrap());
    answers.add("sequences", digest::sequences(session).await.unwrap());
    answers.add("schemas", digest::schemas(session).await.unwrap());
    let (tables, unpopulated) = digest::tables(session).await.unwrap();
    assert_eq!(tables.len(), 15);
    for hash in [Hash::Seeded, Hash::Sha256] {
        let recipe = Recipe { hash, to_utf8: false };
        for table in &tables {
            for method in [Method::Row, Method::Columns] {
                let answer = digest::digest_table(session, table, recipe, Some(method), SOON).await.unwrap();
                answers.add("table digest", answer);
            }
        }
        for method in [LargeObjectMethod::Pages, LargeObjectMethod::Contents] {
            answers.add("large objects", digest::large_objects(session, recipe, method, SOON).await.unwrap());
        }
    }
    answers.add("tables", (tables, unpopulated));
    for side in [structure::Side::Source, structure::Side::Target] {
        let all = structure::structure(session, side).await.unwrap();
        let objects: Vec<_> = all.objects.keys().cloned().collect();
        let lines = structure::lines(session, side, &all, &objects).await.unwrap();
        assert_eq!(lines.len(), objects.len());
        answers.add("lines of objects", lines.into_iter().collect::<Vec<_>>());
        answers.add("structure", all.objects.into_iter().collect::<Vec<_>>());
    }
    answers
}

fn same(exec: Answers, network: Answers) {
    assert_eq!(exec.0.len(), network.0.len());
    for ((name, exec), (_, network)) in exec.0.into_iter().zip(network.0) {
        assert_eq!(exec, network, "{name}");
    }
}

async fn fill(server: &Server, database: &str, script: &str) {
    // Autovacuum would change estimates and sizes between two answers.
    let create =
        format!("ALTER SYSTEM SET autovacuum = off;\nSELECT pg_reload_conf();\nCREATE DATABASE {database} TEMPLATE template0;\n");
    for (into, text) in [("postgres", create.as_str()), (database, script)] {
        let argv = ["psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", into, "-f", "-"];
        let done = server.run(&argv, text.as_bytes()).await.unwrap();
        assert_eq!(done.exit_code, 0, "{done:?}");
    }
}

async fn on(side: Side) {
    let server = Server::start(side).await;
    // The image's server takes no prepared transactions.
    let torture = TORTURE.split("BEGIN;\n").next().unwrap();
    fill(&server, "app", torture).await;
    fill(&server, "data", CONTENTS).await;

    // Somebody else is connected, so that there is a session to see.
    let foreign = server.psql(PsqlLogin::new("postgres", "somebody")).connect("app", SOON).await.unwrap();
    let network = server.network(5432);
    let over_exec = catalog_answers(&mut *server.session("app").await, &mut *server.session("postgres").await).await;
    let mut app = network.connect("app", SOON).await.unwrap();
    let mut admin = network.connect("postgres", SOON).await.unwrap();
    let over_network = catalog_answers(&mut *app, &mut *admin).await;
    let sessions = over_exec.0.iter().find(|(name, _)| *name == "sessions").unwrap();
    assert_eq!(sessions.1["total"], 1);
    same(over_exec, over_network);
    app.close().await;
    admin.close().await;
    foreign.close().await;

    let over_exec = digest_answers(&mut *server.session("data").await).await;
    let mut data = network.connect("data", SOON).await.unwrap();
    same(over_exec, digest_answers(&mut *data).await);
    data.close().await;

    // The fence: up over one carrier, down over the other.
    let psql: Arc<dyn Carrier> = Arc::new(server.psql(PsqlLogin::new("postgres", "pgmigration/e2e/fence")));
    let network: Arc<dyn Carrier> = Arc::new(network.with_name("pgmigration/e2e/fence"));
    for (up, down) in [(&psql, &network), (&network, &psql)] {
        let mut admins = AdminSessions::open(up.clone(), "postgres", SOON).await.unwrap();
        let originals = originals(&mut admins, "data").await.unwrap();
        let fence = Fence { names: FenceNames::derive("data", UID), originals, comment: "moved".into() };
        fence.raise(&mut admins, SOON).await.unwrap();
        let leaks = fence.evidence(&mut admins, TAG).await.unwrap().leaks(&fence.originals);
        assert_eq!(leaks, Vec::<String>::new());
        down.connect("data", SOON).await.err().expect("refused");
        let mut admins = AdminSessions::open(down.clone(), "postgres", SOON).await.unwrap();
        fence.lift(&mut admins, SOON).await.unwrap();
        assert_eq!(fence.state(&mut admins).await.unwrap(), FenceState::Open { tombstone: None });
        down.connect("data", SOON).await.expect("open again").close().await;
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_carriers_give_the_same_answers_in_cluster_old() {
    on(Side::Old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_carriers_give_the_same_answers_in_cluster_new() {
    on(Side::New).await;
}
