//! Hundreds of cuts and damages: broken off, they go on where they were.
//!
//! `make chaos` runs it with its settings: CUTS (300) and DAMAGES (200) for each of ROUNDS (1), SEED (1), CHAOS_STATE (a folder
//! that keeps what is done). One line for each case as it ends, a table at the end.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::case::Case;
use super::damage::{self, Refusal};
use super::stage::Stage;
use super::trial::Trial;
use super::{ROWS, campaign, kind};
use crate::support::dice::number;

/// A file with a line for each thing done.
struct Done<T> {
    file: PathBuf,
    all: Mutex<Vec<T>>,
}

impl<T: Serialize + DeserializeOwned + Clone> Done<T> {
    fn open(seed: u64, name: &str) -> Arc<Self> {
        let folder =
            std::env::var_os("CHAOS_STATE").map_or_else(|| std::env::temp_dir().join("pgmigration-chaos"), PathBuf::from);
        let folder = folder.join(format!("cuts-seed-{seed}"));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(name);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let all = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Arc::new(Self { file, all: Mutex::new(all) })
    }

    fn add(&self, one: &T) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file).unwrap();
        writeln!(file, "{}", serde_json::to_string(one).unwrap()).unwrap();
        self.all.lock().unwrap().push(one.clone());
    }

    fn all(&self) -> Vec<T> {
        self.all.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_without_end() {
    let (rounds, seed) = (number("ROUNDS", 1), number("SEED", 1));
    let cuts = rounds * number("CUTS", 300);
    let done = Done::<(Case, Trial)>::open(seed, "cuts");
    // Numbers tell cases apart: what a place in a stream is differs by some bytes from run to run.
    let known: Vec<u64> = done.all().iter().map(|(case, _)| case.number).collect();
    if (0..cuts).any(|number| !known.contains(&number)) {
        let stage = Stage::new("cuts", ROWS).await;
        let profile = campaign::listen(&stage, [0, 1]).await;
        let left: Vec<Case> =
            campaign::cases(&profile, seed, cuts).into_iter().filter(|case| !known.contains(&case.number)).collect();
        println!("{cuts} cuts, {} left; seed {seed}, state in {:?}", left.len(), done.file);
        let record = Arc::clone(&done);
        campaign::play(&stage, &left, 2, move |case, trial| {
            println!("{}", campaign::line(case, trial));
            record.add(&(*case, trial.clone()));
        })
        .await;
        stage.end().await;
    }
    let (table, bad) = campaign::table(&done.all());
    println!("\n{table}");
    assert!(bad.is_empty(), "{} cuts did not hold:\n{}", bad.len(), bad.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damages_without_end() {
    let (rounds, seed) = (number("ROUNDS", 1), number("SEED", 1));
    let count = rounds * number("DAMAGES", 200);
    let done = Done::<Refusal>::open(seed, "damages");
    let known: Vec<u64> = done.all().iter().map(|refusal| refusal.damage.number).collect();
    let left: Vec<_> = kind::damages(seed, count).into_iter().filter(|damage| !known.contains(&damage.number)).collect();
    if !left.is_empty() {
        println!("{count} damages, {} left; seed {seed}, state in {:?}", left.len(), done.file);
        let stage = Stage::new("damage", ROWS).await;
        let record = Arc::clone(&done);
        damage::play(&stage, &left, 2, move |refusal| {
            println!("{}", damage::line(refusal));
            record.add(refusal);
        })
        .await;
        stage.end().await;
    }
    let all = done.all();
    let bad: Vec<String> = all.iter().filter(|refusal| refusal.untouched.is_none()).map(damage::line).collect();
    let untouched = all.iter().filter(|refusal| refusal.untouched == Some(true)).count();
    println!("\n{} damages, {} refused, {untouched} of them before the target was touched", all.len(), all.len() - bad.len());
    assert!(bad.is_empty(), "{} damages were not refused:\n{}", bad.len(), bad.join("\n"));
}
