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

use super::summary::summarize;
use crate::api::conditions::{reasons, types};
use crate::api::{Outcome, StepName, UndoCause};
use call::Cut;
use events::{Event, Wish};
use explore::{Figures, explore};
use machine::Machine;
use world::Before;

/// Disturbances in one life of the exploration: any of them at any moment. Each more costs forty times as much.
const DISTURBANCES: usize = 2;

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

fn every_life(before: Before) -> Figures {
    let disturbances = setting("DISTURBANCES").unwrap_or(DISTURBANCES);
    let figures = explore(before, disturbances);
    println!("every life with at most {disturbances} disturbances, {before:?} world: {figures:?}");
    let ends = [figures.succeeded, figures.undone, figures.cancelled, figures.held, figures.gone, figures.late];
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
