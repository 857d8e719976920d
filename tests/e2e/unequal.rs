//! A copy that differs is found, named, and never published: the application goes on where it was.

use pgmigration::api::{Outcome, StepName};
use serde_json::json;

use crate::support::migration::condition;
use crate::support::scene::{Layout, Scene};
use crate::support::snapshot::assert_same;

const SOURCE: &str = include_str!("support/source.sql");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_one_value_one_row_one_definition() {
    let scene = Scene::new(Layout::OldToNew, "unequal", "onyx", SOURCE).await;
    let before = scene.snapshot().await;
    let cases: [(&str, &str, &[&str]); 5] = [
        (
            "byte",
            "UPDATE app.documents SET secret = set_byte(secret, 299, get_byte(secret, 299) # 1) WHERE id = 1234",
            &["documents"],
        ),
        ("sequence", "SELECT setval('app.invoice', 4712)", &["invoice"]),
        ("row", r#"DELETE FROM "Odd ""schema"";--"."select" WHERE t = 50"#, &["select"]),
        (
            "definitions",
            "ALTER TABLE app.documents ALTER COLUMN title SET DEFAULT 'x'; DROP INDEX app.documents_body; \
             CREATE OR REPLACE VIEW app.titles AS SELECT id, title FROM app.documents WHERE amount > 11",
            &["table app.documents differs", "index documents_body", "column title default 'x'", "view app.titles differs"],
        ),
        (
            "marks",
            "GRANT SELECT ON app.written TO PUBLIC; COMMENT ON FUNCTION app.touch() IS 'touched'; \
             ALTER MATERIALIZED VIEW app.totals OWNER TO postgres",
            &["table app.written differs: + grants SELECT to PUBLIC", "app.touch() differs", "app.totals differs: + belongs to"],
        ),
    ];
    for (name, change, named) in cases {
        let migration = scene.migrate(name, |_| ()).await;
        let stopped = migration.stop_after(StepName::Restore).await;
        let script = format!("SET session_replication_role = replica; {change};");
        scene.target.sql(&stopped.staging.unwrap().database, &script).await;
        migration.change(json!({"suspend": false})).await;
        let status = migration.ended(Outcome::Failed).await;
        assert_eq!(condition(&status, "RolledBack"), "True");
        let succeeded = status.conditions.iter().find(|c| c.type_ == "Succeeded").unwrap();
        assert_eq!((succeeded.status.as_str(), succeeded.reason.as_str()), ("False", "NotEqual"));
        let message = status.message.unwrap();
        for named in named {
            assert!(message.contains(named), "{name}: no {named} in {message}");
        }
        scene.writes(&scene.source).await;
        assert_same(&before, &scene.snapshot().await);
    }
    scene.end().await;
}
