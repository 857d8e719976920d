//! Cases played one after the other, side by side on stages of their own: hours of work, so it can be broken off and goes on where
//! it was. One line for each case as it ends, a table at the end.
//!
//! Settings: SEED (1), LANES side by side (2), CHAOS_STATE (a folder outside the checkout that keeps what is done).

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::log;
use super::stage::Stage;
use crate::support::dice::number;
use crate::support::{SYSTEM, Side};

/// What a case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// It was struck as it should be, and everything held.
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
pub struct Case {
    /// Counts from 1.
    pub round: u64,
    /// What is done to it.
    pub way: String,
    /// Where.
    pub at: String,
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

/// Plays a case, judges it, and gives the stage back as it was; panics with what is not as promised.
pub type Play = fn(Stage, Case) -> BoxFuture<'static, (Stage, Verdict, String)>;

/// What is done, and where that is kept.
pub struct Campaign {
    folder: PathBuf,
    done: Vec<Done>,
}

impl Campaign {
    /// What was done with this seed before.
    pub fn open() -> Self {
        let folder =
            std::env::var_os("CHAOS_STATE").map_or_else(|| std::env::temp_dir().join("pgmigration-chaos"), PathBuf::from);
        let folder = folder.join(format!("seed-{}", number("SEED", 1)));
        fs::create_dir_all(folder.join("failures")).unwrap();
        let text = fs::read_to_string(folder.join("done")).unwrap_or_default();
        Self { folder, done: text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() }
    }

    /// A document beside what is done; made by `make` when it is not there.
    pub async fn document(&self, name: &str, make: impl AsyncFnOnce() -> String) -> String {
        let file = self.folder.join(name);
        if let Ok(text) = fs::read_to_string(&file) {
            return text;
        }
        let text = make().await;
        fs::write(&file, &text).unwrap();
        text
    }

    fn add(&mut self, done: Done) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.folder.join("done")).unwrap();
        writeln!(file, "{}", serde_json::to_string(&done).unwrap()).unwrap();
        println!(
            "{:?} {:>3} s  {} {} {}  {}",
            done.verdict,
            done.seconds,
            done.case.round,
            done.case.way,
            done.case.at.replace('\n', " + "),
            done.why
        );
        self.done.push(done);
    }

    /// Plays those of `all` that are not done, and judges all together.
    pub async fn run(self, all: Vec<Case>, play: Play) {
        let wanted = all.clone();
        let left: VecDeque<Case> = all.into_iter().filter(|case| !self.done.iter().any(|d| d.case == *case)).collect();
        println!("{} cases, {} left; state in {}", wanted.len(), left.len(), self.folder.display());
        let (queue, state) = (Arc::new(Mutex::new(left)), Arc::new(Mutex::new(self)));
        let lanes: Vec<_> =
            (0..number("LANES", 2)).map(|_| tokio::spawn(lane(Arc::clone(&queue), Arc::clone(&state), play))).collect();
        for lane in lanes {
            lane.await.unwrap();
        }
        state.lock().unwrap().judge(&wanted);
    }

    fn judge(&self, wanted: &[Case]) {
        let done: Vec<&Done> = self.done.iter().filter(|d| wanted.contains(&d.case)).collect();
        let mut ways: Vec<&str> = done.iter().map(|d| d.case.way.as_str()).collect();
        ways.sort_unstable();
        ways.dedup();
        println!(
            "\n{:<14} {:>6} {:>6} {:>12} {:>6} {:>8} {:>7}",
            "way", "cases", "held", "not reached", "lost", "doubled", "failed"
        );
        for way in ways {
            let count = |verdict| done.iter().filter(|d| d.case.way == way && d.verdict == verdict).count();
            let tried = done.iter().filter(|d| d.case.way == way).count();
            let [held, not, lost, doubled, failed] =
                [Verdict::Held, Verdict::NotReached, Verdict::Lost, Verdict::Doubled, Verdict::Failed].map(count);
            println!("{way:<14} {tried:>6} {held:>6} {not:>12} {lost:>6} {doubled:>8} {failed:>7}");
        }
        let bad: Vec<&&Done> = done.iter().filter(|d| !matches!(d.verdict, Verdict::Held | Verdict::NotReached)).collect();
        assert!(bad.is_empty(), "{} cases did not hold: {bad:#?}", bad.len());
        let not = done.iter().filter(|d| d.verdict == Verdict::NotReached).count();
        assert!(not * 20 <= done.len(), "{not} of {} cases tried nothing", done.len());
    }
}

/// Plays cases until none is left. A stage on which one failed is not used again.
async fn lane(queue: Arc<Mutex<VecDeque<Case>>>, state: Arc<Mutex<Campaign>>, play: Play) {
    let mut stage: Option<Stage> = None;
    loop {
        let Some(case) = queue.lock().unwrap().pop_front() else { break };
        let (begun, since) = (Instant::now(), log::now());
        let ready = match stage.take() {
            Some(stage) => stage,
            None => Stage::new("chaos").await,
        };
        let homes = [(Side::New, ready.scene.home.clone()), (Side::Old, ready.scene.source.namespace.clone())];
        let (verdict, why) = match tokio::spawn(play(ready, case.clone())).await {
            Ok((left, verdict, why)) => {
                stage = Some(left);
                (verdict, why)
            }
            Err(failed) => {
                let panic = failed.into_panic();
                let why = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
                let why = why.unwrap_or_default();
                let evidence = evidence(&homes, &since).await;
                let name: String = format!("{} {} {}", case.round, case.way, case.at);
                let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(200).collect();
                let file = state.lock().unwrap().folder.join("failures").join(&name);
                fs::write(file, format!("{case:?}\n{why}\n{evidence}")).unwrap();
                let verdict = match why.split(':').next() {
                    Some("lost") => Verdict::Lost,
                    _ if why.contains("doubled: ") => Verdict::Doubled,
                    _ => Verdict::Failed,
                };
                (verdict, format!("failures/{name}: {}", why.lines().next().unwrap_or_default()))
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
