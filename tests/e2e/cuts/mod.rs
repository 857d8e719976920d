//! Cuts: single operations of the mover whose network fails at a byte that a seed picks. None says success of what is not
//! whole; an undo or the next attempt leaves nothing behind; the next attempt over a sound network succeeds.
//!
//! `PGM_CUTS=300 PGM_SEED=7` in the environment plays so many cases of another seed, `PGM_CUT='{...},...'` those whose lines
//! say so. `make chaos` plays many and goes on where it was.

mod campaign;
mod case;
mod chaos;
mod damage;
mod http;
mod kind;
mod lane;
mod stage;
mod store;
mod trial;
mod wire;

use case::Case;
use stage::Stage;

use crate::support::dice::number;

/// Rows of the source, each about 1 kB.
const ROWS: u64 = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_operation_is_no_success_leaves_nothing_and_succeeds_when_it_is_tried_again() {
    let (seed, cuts) = (number("PGM_SEED", 1), number("PGM_CUTS", 28));
    let stage = Stage::new("cuts", number("PGM_CUT_ROWS", ROWS)).await;
    let cases: Vec<Case> = match std::env::var("PGM_CUT") {
        Ok(text) => serde_json::from_str(&format!("[{text}]")).unwrap(),
        Err(_) => campaign::cases(&campaign::listen(&stage, [0, 1]).await, seed, cuts),
    };
    let done = campaign::play(&stage, &cases, 2, |case, trial| println!("{}", campaign::line(case, trial))).await;
    let (table, bad) = campaign::table(&done);
    println!("seed {seed}\n{table}");
    assert!(bad.is_empty(), "{} of {} cuts did not hold; PGM_CUT plays one again:\n{}", bad.len(), done.len(), bad.join("\n"));
    let struck = done.iter().filter(|(_, trial)| trial.outcome == trial::Outcome::Held).count();
    assert!(struck * 10 >= done.len() * 8, "only {struck} of {} faults struck", done.len());
    stage.end().await;
}
