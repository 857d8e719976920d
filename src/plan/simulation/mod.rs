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

use explore::{Figures, explore};
use world::Before;

/// Disturbances in one life of the exploration: any of them at any moment. A third one takes the better part of an hour.
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
