//! The hook itself, on a mover's process that needs no cluster to come to a verdict.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use pgmigration::crash::MOVER_ENV;
use pgmigration::plan::operation::{CleanupTask, MigrationRef, OPERATION_ENV, OPERATION_VERSION, Operation, Task, Verdict};

/// Runs a mover that finds no cluster. How it ended, and its verdict if it left one.
fn run(case: &str, crash_at: Option<&str>) -> (ExitStatus, Option<Verdict>) {
    let operation = Operation {
        version: OPERATION_VERSION,
        migration: MigrationRef { namespace: "n".into(), name: "m".into(), uid: "0a1b2c3d-4e5f-6789-abcd-ef0123456789".into() },
        attempt: 3,
        task: Task::Cleanup(CleanupTask { databases: vec![], archives: vec![] }),
    };
    let verdict = std::env::temp_dir().join(format!("pgm-crash-{}-{case}", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_postgres-migration-operator"));
    command.arg("mover").env_remove("KUBECONFIG").env("HOME", "/nonexistent").env("LOG_FILTER", "off");
    command.env(OPERATION_ENV, serde_json::to_string(&operation).unwrap()).env("TERMINATION_LOG", &verdict);
    command.envs(crash_at.map(|at| (MOVER_ENV, at)));
    let status = command.status().unwrap();
    let text = std::fs::read_to_string(&verdict).ok();
    let _ = std::fs::remove_file(&verdict);
    (status, text.map(|text| Verdict::parse(&text).unwrap()))
}

#[test]
fn a_mover_ends_where_it_is_told_and_nowhere_else() {
    const ABORTED: Option<i32> = Some(6);
    let (undisturbed, verdict) = run("undisturbed", None);
    assert!(undisturbed.code().is_some_and(|code| code > 0) && verdict.is_some(), "{undisturbed} {verdict:?}");

    let (status, none) = run("before", Some("mover cleanup 3: before verdict"));
    assert_eq!((status.signal(), none), (ABORTED, None));
    let (status, left) = run("after", Some("mover dump 3: before verdict\n  mover cleanup 3: after verdict"));
    assert_eq!((status.signal(), left), (ABORTED, verdict.clone()));
    for other in ["", "*", "mover*", "mover cleanup 2: before verdict", "mover dump 3: before verdict"] {
        assert_eq!(run("other", Some(other)), (undisturbed, verdict.clone()), "{other:?}");
    }
}
