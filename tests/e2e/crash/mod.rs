//! Crash anywhere: operator and movers end at every boundary between two effects, and either the migration succeeds or
//! everything is as it was; no acknowledged row is lost, nothing is done twice, nothing is left behind.
//!
//! Stages of their own (`tests/run crash`, `tests/run trouble`), because all objects of an operator are struck when it ends.

mod campaign;
mod deleted;
mod full;
mod hung;
mod log;
mod paused;
mod process;
mod stage;
mod sweep;
mod troubled;
mod wishes;

use pgmigration::api::StepName;
use tokio::sync::OnceCell;

use crate::support::{OPERATOR, SYSTEM, Side, available, interrupting, operator, render, setting};
use stage::{Stage, Way};

/// The operator as shipped, but that objects may end it. The next one that is installed as shipped loses that again.
async fn armed() {
    static ARMED: OnceCell<()> = OnceCell::const_new();
    ARMED
        .get_or_init(|| async {
            operator().await;
            let _alone = interrupting().await;
            let shipped = render(&["operator", &setting("PGM_IMAGE")]);
            let first = "        - name: OPERATOR_IMAGE\n";
            let (before, after) = shipped.split_once(first).unwrap();
            let variable = format!("        - name: {}\n          value: enabled\n", pgmigration::crash::OPERATOR_ENV);
            Side::New.apply(&format!("{before}{variable}{first}{after}"));
            available(&Side::New.client().await, SYSTEM, OPERATOR).await;
        })
        .await;
}

/// The operator ends at every boundary of a whole migration, once at each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_at_every_boundary_forward() {
    let mut stage = Stage::new("crash").await;
    let seen = stage.play(Way::Forward, "*", false).await;
    assert!(seen.ended.len() >= 60, "it ended at {} boundaries only: {:?}", seen.ended.len(), seen.ended);
    assert_eq!(seen.repeated, [], "doubled: movers that were started again");
    stage.scene.end().await;
}

/// The same of migrations that are undone: from the last moment before publishing, and from the last that can be undone at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_at_every_boundary_back() {
    let mut stage = Stage::new("undo").await;
    for (way, least) in [(Way::Cancelled, 40), (Way::Deleted, 60)] {
        let seen = stage.play(way, "BeginUndo*\nUndo(*\nEndUndo*\nEnd(*\nRelease*", false).await;
        assert!(seen.ended.len() >= least, "{way:?}: it ended at {} boundaries only: {:?}", seen.ended.len(), seen.ended);
        assert_eq!(seen.repeated, [], "{way:?}: doubled: movers that were started again");
    }
    stage.scene.end().await;
}

/// The same of one that is rolled back after its end: no row that was acknowledged on either side is nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_at_every_boundary_of_a_rollback() {
    let mut stage = Stage::new("rollback").await;
    let seen = stage.play(Way::RolledBack, "BeginUndo*\nUndo(*\nEndUndo*\nEnd(Cancelled*\nRelease*", false).await;
    assert!(seen.ended.len() >= 60, "it ended at {} boundaries only: {:?}", seen.ended.len(), seen.ended);
    assert_eq!(seen.repeated, [], "doubled: movers that were started again");
    stage.scene.end().await;
}

/// Every mover ends in the midst of its work, those that carry bytes between two of them, and again between its last effect
/// and its verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_movers_between_effect_and_verdict() {
    let mut stage = Stage::new("movers").await;
    let at = "
        mover dump 1: byte 500000
        mover dump 2: after complete onyx__.dump
        mover dump 3: before verdict
        mover verify 1: byte 70000
        mover verify 2: before verdict
        mover restore 1: byte 300000
        mover restore 2: after write onyx__.dump.restore..json
        mover restore 3: before verdict
        mover compare 1: both sides digested
        mover compare 2: after write onyx__.dump.compare..json
        mover analyze 1: after start of ANALYZE
    ";
    let seen = stage.play(Way::Forward, at, false).await;
    let movers = [StepName::Dump, StepName::VerifyArchive, StepName::Restore, StepName::Compare, StepName::Analyze];
    assert_eq!(seen.repeated, movers);
    stage.scene.end().await;
}
