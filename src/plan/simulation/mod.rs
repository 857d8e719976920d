//! The judgement alone, driven through many lives of an object in a small world: exhaustively up to so many disturbances, and at
//! random with many more. What decides and records is the real code of `plan`; what the steps do is a model of `src/steps`.

mod call;
mod events;
mod explore;
mod invariants;
mod machine;
mod steps;
mod undo;
mod world;

#[test]
fn every_life_with_few_disturbances_keeps_every_promise() {
    let disturbances = std::env::var("DISTURBANCES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let most = std::env::var("STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000_000);
    let figures = explore::explore(disturbances, most);
    println!(
        "explored: {} states, {} transitions, depth {}, {} statuses, {disturbances} disturbances",
        figures.states, figures.transitions, figures.depth, figures.statuses
    );
}
