//! Every boundary by itself, one migration each. `make chaos` runs it with its settings: ROUNDS (1) and those of [`campaign`].
//! The first round ends at each boundary alone; later ones at two of one migration, and at bytes that the seed picks.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use pgmigration::api::StepName;

use super::campaign::{Campaign, Case, Verdict};
use super::stage::{Seen, Stage, Way};
use crate::support::dice::{Dice, number};

const WAYS: [(&str, Way); 3] = [("forward", Way::Forward), ("cancelled", Way::Cancelled), ("deleted", Way::Deleted)];

/// How boundaries of movers begin, and whose they are.
const MOVERS: [(&str, StepName); 5] = [
    ("mover dump", StepName::Dump),
    ("mover verify", StepName::VerifyArchive),
    ("mover restore", StepName::Restore),
    ("mover compare", StepName::Compare),
    ("mover analyze", StepName::Analyze),
];

/// The boundaries of each way, by listening to a migration that nothing strikes.
async fn boundaries() -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let mut stage = Stage::new("listen").await;
    for (name, way) in WAYS {
        let mut passed = stage.play(way, "", true).await.passed;
        // What leads to the turning point is the same as forward, and need not be swept again.
        passed.retain(|boundary| found.get("forward").is_none_or(|forward: &Vec<String>| !forward.contains(boundary)));
        println!("{name}: {} boundaries", passed.len());
        found.insert(name.to_owned(), passed);
    }
    stage.scene.end().await;
    found
}

fn cases(boundaries: &BTreeMap<String, Vec<String>>, rounds: u64, seed: u64) -> Vec<Case> {
    let mut all = Vec::new();
    let mut dice = Dice::new(seed);
    for round in 1..=rounds {
        let mut these = Vec::new();
        for (way, names) in boundaries {
            let largest = |mover: &str| {
                let of = |name: &String| name.strip_prefix(&format!("{mover}: byte ")).and_then(|n| n.parse::<usize>().ok());
                names.iter().filter_map(of).max()
            };
            let mut ats = names.clone();
            if round > 1 {
                // A second crash anywhere in the same migration.
                ats.iter_mut().for_each(|at| *at = format!("{at}\n{}", names[dice.below(names.len())]));
            }
            for mover in ["mover dump 1", "mover verify 1", "mover restore 1"] {
                if let Some(largest) = largest(mover) {
                    ats.extend((0..5).map(|_| format!("{mover}: byte {}", 1 + dice.below(largest))));
                }
            }
            these.extend(ats.into_iter().map(|at| Case { round, way: way.clone(), at }));
        }
        dice.shuffle(&mut these);
        all.extend(these);
    }
    all
}

/// Whether the process ended where it should, and nothing began anew but the movers that ended.
fn judge(case: &Case, seen: &Seen) -> (Verdict, String) {
    let struck: Vec<Option<StepName>> =
        case.at.lines().map(|at| MOVERS.iter().find(|(m, _)| at.starts_with(m)).map(|(_, s)| *s)).collect();
    if let Some(step) = seen.repeated.iter().find(|step| !struck.contains(&Some(**step))) {
        return (Verdict::Doubled, format!("{step:?} was started again without need"));
    }
    let reached = case.at.lines().zip(&struck).all(|(at, step)| match step {
        None => seen.ended.iter().any(|ended| ended == at),
        // Its verdict stands, so nobody starts another; all others are seen by the next attempt.
        Some(_) if at.ends_with("after verdict") => true,
        Some(step) => seen.repeated.contains(step),
    });
    (if reached { Verdict::Held } else { Verdict::NotReached }, String::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_boundary_by_itself() {
    let campaign = Campaign::open();
    let known = campaign.document("boundaries", async || serde_json::to_string_pretty(&boundaries().await).unwrap()).await;
    let known: BTreeMap<String, Vec<String>> = serde_json::from_str(&known).unwrap();
    let count: usize = known.values().map(Vec::len).sum();
    assert!(count >= 150, "only {count} boundaries are known: {known:?}");
    println!("{count} boundaries");
    let play = |mut stage: Stage, case: Case| {
        async move {
            let way = WAYS.iter().find(|(name, _)| *name == case.way).unwrap().1;
            let seen = stage.play(way, &case.at, false).await;
            let (verdict, why) = judge(&case, &seen);
            (stage, verdict, why)
        }
        .boxed()
    };
    campaign.run(cases(&known, number("ROUNDS", 1), number("SEED", 1)), play).await;
}
