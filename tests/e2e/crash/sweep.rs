//! Every boundary by itself, one migration each: hours of work, so it can be broken off and goes on where it was.
//!
//! `make chaos` runs it with its settings: ROUNDS (1), SEED (1), LANES side by side (2), CHAOS_STATE (a folder outside the
//! checkout that keeps what is done). The first round ends at each boundary alone; later ones at two of one migration, and at
//! bytes that the seed picks. One line for each case as it ends, a table at the end.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use pgmigration::api::StepName;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::log;
use super::stage::{Seen, Stage, Way};
use crate::support::dice::{Dice, number};
use crate::support::{SYSTEM, Side};

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Verdict {
    /// The process ended there, and everything held.
    Held,
    /// This run did not come past there: nothing was tried.
    NotReached,
    /// An acknowledged row is gone.
    Lost,
    /// An effect happened twice.
    Doubled,
    /// Something else is not as promised.
    Failed,
}

/// A migration and where it is struck.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Case {
    round: u64,
    way: String,
    at: String,
}

/// A line of the state file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Done {
    #[serde(flatten)]
    case: Case,
    verdict: Verdict,
    seconds: u64,
    why: String,
}

const WAYS: [(&str, Way); 3] = [("forward", Way::Forward), ("cancelled", Way::Cancelled), ("deleted", Way::Deleted)];

/// How boundaries of movers begin, and whose they are.
const MOVERS: [(&str, StepName); 5] = [
    ("mover dump", StepName::Dump),
    ("mover verify", StepName::VerifyArchive),
    ("mover restore", StepName::Restore),
    ("mover compare", StepName::Compare),
    ("mover analyze", StepName::Analyze),
];

struct State {
    folder: PathBuf,
    done: Vec<Done>,
}

impl State {
    fn open(seed: u64) -> Self {
        let folder =
            std::env::var_os("CHAOS_STATE").map_or_else(|| std::env::temp_dir().join("pgmigration-chaos"), PathBuf::from);
        let folder = folder.join(format!("seed-{seed}"));
        fs::create_dir_all(folder.join("failures")).unwrap();
        let text = fs::read_to_string(folder.join("done")).unwrap_or_default();
        Self { folder, done: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }

    fn add(&mut self, done: Done) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.folder.join("done")).unwrap();
        writeln!(file, "{}", serde_json::to_string(&done).unwrap()).unwrap();
        println!(
            "{:?} {:>3} s  {} {} {}  {}",
            done.verdict, done.seconds, done.case.round, done.case.way, done.case.at, done.why
        );
        self.done.push(done);
    }
}

/// The boundaries of each way: from the state, or by listening to a migration that nothing strikes.
async fn boundaries(state: &Mutex<State>) -> BTreeMap<String, Vec<String>> {
    let file = state.lock().unwrap().folder.join("boundaries");
    if let Ok(text) = fs::read_to_string(&file) {
        return serde_json::from_str(&text).unwrap();
    }
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
    fs::write(&file, serde_json::to_string_pretty(&found).unwrap()).unwrap();
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

/// Plays cases until none is left. A stage on which one failed is not used again.
async fn lane(queue: Arc<Mutex<VecDeque<Case>>>, state: Arc<Mutex<State>>) {
    let mut stage: Option<Stage> = None;
    loop {
        let Some(case) = queue.lock().unwrap().pop_front() else { break };
        let way = WAYS.iter().find(|(name, _)| *name == case.way).unwrap().1;
        let (begun, since) = (Instant::now(), log::now());
        let mut played = match stage.take() {
            Some(stage) => stage,
            None => Stage::new("chaos").await,
        };
        let homes = [(Side::New, played.scene.home.clone()), (Side::Old, played.scene.source.namespace.clone())];
        let at = case.at.clone();
        let task = tokio::spawn(async move {
            let seen = played.play(way, &at, false).await;
            (played, seen)
        });
        let (verdict, why) = match task.await {
            Ok((played, seen)) => {
                stage = Some(played);
                judge(&case, &seen)
            }
            Err(failed) => {
                let panic = failed.into_panic();
                let why = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
                let why = why.unwrap_or_default();
                let evidence = evidence(&homes, &since).await;
                let number = state.lock().unwrap().done.len();
                let file = state.lock().unwrap().folder.join(format!("failures/{number}"));
                fs::write(file, format!("{case:?}\n{why}\n{evidence}")).unwrap();
                let verdict = match why.split(':').next() {
                    Some("lost") => Verdict::Lost,
                    _ if why.contains("doubled: ") => Verdict::Doubled,
                    _ => Verdict::Failed,
                };
                (verdict, format!("failures/{number}: {}", why.lines().next().unwrap_or_default()))
            }
        };
        state.lock().unwrap().add(Done { case, verdict, seconds: begun.elapsed().as_secs(), why });
    }
    if let Some(stage) = stage {
        stage.scene.end().await;
    }
}

/// What people need to find out why, and the end of what failed: it must not take the machine from the cases to come.
async fn evidence(homes: &[(Side, String); 2], since: &str) -> String {
    let home = &homes[0].1;
    let mut text = String::new();
    for arguments in [
        vec!["-n", home, "get", "pgmig,jobs,pods,events", "-o", "yaml"],
        vec!["-n", SYSTEM, "logs", "deployment/postgres-migration-operator", "--since-time", since],
    ] {
        text += &Side::New.kubectl_aside(&arguments, "").await.unwrap_or_else(|error| error);
    }
    let free = json!({"metadata": {"finalizers": null}}).to_string();
    for object in Side::New.kubectl_aside(&["-n", home, "get", "pgmig", "-o", "name"], "").await.unwrap_or_default().lines() {
        let _ = Side::New.kubectl_aside(&["-n", home, "patch", object, "--type=merge", "-p", &free], "").await;
    }
    for (side, namespace) in homes {
        let _ = side.kubectl_aside(&["delete", "namespace", namespace, "--wait=false"], "").await;
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_boundary_by_itself() {
    let (rounds, seed, lanes) = (number("ROUNDS", 1), number("SEED", 1), number("LANES", 2));
    let state = Arc::new(Mutex::new(State::open(seed)));
    let boundaries = boundaries(&state).await;
    let known: usize = boundaries.values().map(Vec::len).sum();
    assert!(known >= 150, "only {known} boundaries are known: {boundaries:?}");
    let all = cases(&boundaries, rounds, seed);
    let wanted = all.len();
    let left = {
        let done = &state.lock().unwrap().done;
        all.into_iter().filter(|case| !done.iter().any(|d| d.case == *case)).collect::<VecDeque<_>>()
    };
    println!(
        "{wanted} cases at {known} boundaries, {} left; seed {seed}, state in {:?}",
        left.len(),
        state.lock().unwrap().folder
    );
    let queue = Arc::new(Mutex::new(left));
    let lanes: Vec<_> = (0..lanes).map(|_| tokio::spawn(lane(Arc::clone(&queue), Arc::clone(&state)))).collect();
    for lane in lanes {
        lane.await.unwrap();
    }

    let state = state.lock().unwrap();
    println!("\n{:<12} {:>6} {:>6} {:>12} {:>6} {:>8} {:>7}", "way", "cases", "held", "not reached", "lost", "doubled", "failed");
    for (way, _) in WAYS {
        let count = |verdict| state.done.iter().filter(|d| d.case.way == way && d.verdict == verdict).count();
        let tried = state.done.iter().filter(|d| d.case.way == way).count();
        let [held, not, lost, doubled, failed] =
            [Verdict::Held, Verdict::NotReached, Verdict::Lost, Verdict::Doubled, Verdict::Failed].map(count);
        println!("{way:<12} {tried:>6} {held:>6} {not:>12} {lost:>6} {doubled:>8} {failed:>7}");
    }
    let bad: Vec<&Done> = state.done.iter().filter(|d| !matches!(d.verdict, Verdict::Held | Verdict::NotReached)).collect();
    assert!(bad.is_empty(), "{} cases did not hold: {bad:#?}", bad.len());
    let not = state.done.iter().filter(|d| d.verdict == Verdict::NotReached).count();
    assert!(not * 20 <= state.done.len(), "{not} of {} cases tried nothing", state.done.len());
}
