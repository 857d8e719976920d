//! Every boundary, and bytes that the seed picks. `make chaos` runs it with its settings: ROUNDS (1), TOGETHER (1) and those of
//! [`campaign`]. The first round ends each migration at TOGETHER boundaries that are far apart, with 1 at each boundary by itself;
//! later ones at two or more that the seed brings together.

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
        // Listening suspends it for a while, which else nobody does.
        passed.retain(|boundary| !boundary.starts_with("Rest("));
        println!("{name}: {} boundaries", passed.len());
        found.insert(name.to_owned(), passed);
    }
    stage.scene.end().await;
    found
}

fn cases(boundaries: &BTreeMap<String, Vec<String>>, rounds: u64, together: usize, seed: u64) -> Vec<Case> {
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
            for mover in ["mover dump 1", "mover verify 1", "mover restore 1"] {
                if let Some(largest) = largest(mover) {
                    ats.extend((0..5).map(|_| format!("{mover}: byte {}", 1 + dice.below(largest))));
                }
            }
            let together = if round == 1 {
                together
            } else {
                dice.shuffle(&mut ats);
                together.max(2)
            };
            these.extend(grouped(&ats, together).into_iter().map(|at| Case { round, way: way.clone(), at }));
        }
        dice.shuffle(&mut these);
        all.extend(these);
    }
    all
}

/// Boundaries of one migration each, a line each: `together` that are far apart in `ats`, and of each mover one at most, since the
/// first ends its attempt.
fn grouped(ats: &[String], together: usize) -> Vec<String> {
    let apart = ats.len().div_ceil(together.max(1));
    let mover = |at: &str| MOVERS.iter().position(|(name, _)| at.starts_with(name));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (place, at) in ats.iter().enumerate() {
        let fits = |group: &&mut Vec<usize>| {
            let far = group.len() < together && group.last().is_some_and(|last| last + apart <= place);
            far && (mover(at).is_none() || group.iter().all(|other| mover(&ats[*other]) != mover(at)))
        };
        match groups.iter_mut().find(fits) {
            Some(group) => group.push(place),
            None => groups.push(vec![place]),
        }
    }
    groups.into_iter().map(|group| group.into_iter().map(|place| ats[place].as_str()).collect::<Vec<_>>().join("\n")).collect()
}

/// Whether the process ended where it should, and nothing began anew but the movers that ended.
fn judge(case: &Case, seen: &Seen) -> (Verdict, String) {
    let struck: Vec<Option<StepName>> =
        case.at.lines().map(|at| MOVERS.iter().find(|(m, _)| at.starts_with(m)).map(|(_, s)| *s)).collect();
    if let Some(step) = seen.repeated.iter().find(|step| !struck.contains(&Some(**step))) {
        return (Verdict::Doubled, format!("{step:?} was started again without need"));
    }
    let passed_by = |(at, step): &(&str, &Option<StepName>)| match step {
        None => !seen.ended.iter().any(|ended| ended == at),
        // Its verdict stands, so nobody starts another; all others are seen by the next attempt.
        Some(_) if at.ends_with("after verdict") => false,
        Some(step) => !seen.repeated.contains(step),
    };
    let missed: Vec<&str> = case.at.lines().zip(&struck).filter(passed_by).map(|(at, _)| at).collect();
    if missed.is_empty() {
        (Verdict::Held, String::new())
    } else {
        (Verdict::NotReached, format!("not there: {}", missed.join(" + ")))
    }
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
    let together = usize::try_from(number("TOGETHER", 1)).unwrap();
    campaign.run(cases(&known, number("ROUNDS", 1), together, number("SEED", 1)), play).await;
}
