//! The judgement alone, driven through many lives of an object in a small world: through every life with few disturbances, and
//! through many lives with many. What decides and records is the real code of `plan`; what the steps do to the world is a model
//! of `src/steps`, line by line. A life that breaks a promise prints what led to it.

mod call;
mod events;
mod explore;
mod invariants;
mod lives;
mod machine;
mod steps;
mod undo;
mod world;

use jiff::Timestamp;

use super::decide::Rest;
use super::summary::summarize;
use crate::api::conditions::{reasons, types};
use crate::api::{Outcome, StepName, UndoCause};
use call::Cut;
use events::{Event, Free, Trouble, Wish};
use explore::{Figures, explore};
use machine::{Machine, Point};
use world::{Before, JobState, Task};

/// Disturbances in one life of the exploration: any of them at any moment. Each more costs forty times as much.
const DISTURBANCES: usize = 2;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn every_life(before: Before) -> Figures {
    let disturbances = setting("DISTURBANCES").unwrap_or(DISTURBANCES);
    let figures = explore(before, disturbances);
    println!("every life with at most {disturbances} disturbances, {before:?} world: {figures:?}");
    let back = [figures.rolled_back, figures.asked, figures.unfenced];
    let ends = [figures.succeeded, figures.undone, figures.cancelled, figures.held, figures.gone, figures.late];
    assert!(disturbances == 0 || back.iter().all(|n| *n > 0), "every way back must be gone");
    assert!(disturbances == 0 || ends.iter().all(|n| *n > 0), "every end must be reached");
    figures
}

#[test]
fn a_calm_life_succeeds() {
    for before in [Before::Full, Before::Bare] {
        let mut machine = Machine::new(true);
        let mut point = machine.birth(before);
        while let Some(after) = machine.calm(point) {
            point = after;
        }
        assert_eq!(machine.status(point.status).outcome, Some(Outcome::Succeeded));
        assert!(point.world.target_accepts() && point.object.finalizer);
    }
}

#[test]
fn deletion_in_mid_step_undoes_before_it_releases() {
    let mut machine = Machine::new(true);
    let mut point = machine.birth(Before::Full);
    // Stopping the writers has begun.
    while point.world.application.up {
        point = machine.calm(point).unwrap();
    }
    point = machine.happen(point, Event::User(Wish::Delete)).unwrap();
    point = machine.happen(point, Event::Visit(None)).unwrap();
    let undo = machine.status(point.status).undo.as_ref().unwrap();
    assert_eq!(undo.cause, UndoCause::Deletion);
    while let Some(after) = machine.calm(point) {
        assert!(!after.object.gone || after.world.application.up, "gone, and the application stands still");
        point = after;
    }
    assert!(point.object.gone);
}

/// A life that has succeeded, and in which the application has written to the new database.
fn written(machine: &mut Machine) -> Point {
    let mut point = machine.birth(Before::Full);
    while let Some(after) = machine.calm(point) {
        point = after;
    }
    let point = machine.happen(point, Event::World(Free::Writes)).unwrap();
    assert!(point.world.written);
    point
}

#[test]
fn a_rollback_waits_for_a_word_then_gives_back_what_was_and_the_next_run_begins_anew() {
    let mut machine = Machine::new(true);
    let point = written(&mut machine);
    let asked = machine.happen(point, Event::User(Wish::Rollback)).unwrap();
    let rests = machine.visit(asked, (asked.status, asked.object), None);
    assert_eq!((rests.rest, rests.point.world), (Some(Rest::Unacknowledged), point.world));
    let taken_back = machine.happen(asked, Event::User(Wish::TakeBack)).unwrap();
    assert!(machine.calm(taken_back).is_none(), "it goes on as before");

    let mut point = machine.happen(asked, Event::User(Wish::Acknowledge)).unwrap();
    while let Some(after) = machine.calm(point) {
        point = after;
    }
    let status = machine.status(point.status);
    assert!(status.saved.as_ref().is_some_and(|s| s.verified) && status.undo.as_ref().is_some_and(|u| u.complete));
    assert_eq!((status.outcome, status.run), (Some(Outcome::Cancelled), 1));
    assert!(point.world.source_accepts() && !point.world.target_accepts() && point.world.bucket.past);

    let raised = machine.happen(point, Event::User(Wish::Retry)).unwrap();
    assert!(machine.calm(raised).is_none(), "what called the last run off calls off the next");
    let mut point = machine.happen(raised, Event::User(Wish::TakeBack)).unwrap();
    while let Some(after) = machine.calm(point) {
        point = after;
    }
    let status = machine.status(point.status);
    assert_eq!((status.outcome, status.run), (Some(Outcome::Succeeded), 2));
}

#[test]
fn what_cannot_be_saved_is_kept() {
    let mut machine = Machine::new(true);
    let point = written(&mut machine);
    let mut point = machine.happen(point, Event::User(Wish::Acknowledge)).unwrap();
    while point.world.jobs[Task::Save as usize].state != JobState::Running {
        point = machine.happen(point, Event::Visit(None)).or_else(|| machine.calm(point)).unwrap();
        machine.pass(100);
    }
    point = machine.happen(point, Event::Trouble(Trouble::Refuses(Task::Save))).unwrap();
    while let Some(after) = machine.calm(point) {
        point = after;
    }
    assert_eq!(machine.status(point.status).outcome, Some(Outcome::Cancelled));
    assert!(point.world.kept == 1 && point.world.source_accepts());
}

#[test]
fn rows_that_somebody_wrote_before_the_application_was_started_are_kept() {
    for written in [false, true] {
        let mut machine = Machine::new(true);
        let mut point = machine.birth(Before::Full);
        while machine.status(point.status).step != Some(StepName::SchemaJob) {
            point = machine.calm(point).unwrap();
        }
        if written {
            point = machine.happen(point, Event::Trouble(Trouble::WrittenNew)).unwrap();
        }
        point = machine.happen(point, Event::User(Wish::Rollback)).unwrap();
        while let Some(after) = machine.calm(point) {
            point = after;
        }
        let status = machine.status(point.status);
        assert_eq!((status.outcome, status.saved.is_some()), (Some(Outcome::Cancelled), written));
        assert!(point.world.kept == u8::from(written) && point.world.source_accepts());
    }
}

#[test]
fn an_opened_source_can_still_be_gone_back_to() {
    let mut machine = Machine::new(true);
    let point = written(&mut machine);
    let mut point = machine.happen(point, Event::User(Wish::Unfence)).unwrap();
    while let Some(after) = machine.calm(point) {
        point = after;
    }
    assert!(point.world.source_accepts() && point.world.target_accepts() && point.world.unfenced);
    let (mut status, spec) = (machine.status(point.status).clone(), machine.spec(point.object).clone());
    summarize(&spec, &mut status, 1, None, Timestamp::from_second(0).unwrap());
    let fenced = status.conditions.iter().find(|c| c.type_ == types::FENCED).unwrap();
    assert_eq!((fenced.status.as_str(), fenced.reason.as_str()), ("False", reasons::UNFENCED));
    assert_eq!(status.step, Some(StepName::Keep));
    let mut point = machine.happen(point, Event::User(Wish::Acknowledge)).unwrap();
    while let Some(after) = machine.calm(point) {
        point = after;
    }
    assert_eq!(machine.status(point.status).outcome, Some(Outcome::Cancelled));
}

#[test]
fn a_held_step_is_stalled_from_the_first_moment_that_anybody_sees_it() {
    let mut machine = Machine::new(true);
    let mut point = machine.birth(Before::Full);
    while machine.status(point.status).step != Some(StepName::SchemaJob) {
        point = machine.calm(point).unwrap();
    }
    point = machine.happen(point, Event::Visit(Some((0, Cut::Refusal)))).unwrap();
    let (mut status, spec) = (machine.status(point.status).clone(), machine.spec(point.object).clone());
    summarize(&spec, &mut status, 1, None, Timestamp::from_second(0).unwrap());
    let condition = |kind| status.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.as_str(), c.reason.as_str()));
    assert_eq!(condition(types::STALLED), Some(("True", reasons::CHANGED_BY_OTHERS)));
    assert_eq!(condition(types::RECONCILING).map(|(status, _)| status), Some("False"));
}

#[test]
fn every_life_with_two_disturbances_keeps_every_promise_in_a_full_world() {
    let figures = every_life(Before::Full);
    assert!(figures.states >= 500_000 || setting::<usize>("DISTURBANCES").is_some(), "the world has become too simple");
}

#[test]
fn every_life_with_two_disturbances_keeps_every_promise_in_a_bare_world() {
    let figures = every_life(Before::Bare);
    assert!(figures.states >= 500_000 || setting::<usize>("DISTURBANCES").is_some(), "the world has become too simple");
}

#[test]
fn many_lives_with_many_disturbances_keep_every_promise() {
    match setting("SEED") {
        Some(seed) => println!("seed {seed}: {:?}", lives::live(seed, true)),
        None => lives::many(setting("LIVES").unwrap_or(3000)),
    }
}
