//! What people ask for, and what they take away, in the midst of every step: each step ends where docs/runbook.md says, with all that
//! was acknowledged in the database that the application works on.

use futures::FutureExt as _;
use pgmigration::plan::itinerary::ITINERARY;

use super::campaign::{Campaign, Case, Verdict};
use super::stage::{Stage, Wish};
use crate::support::dice::{Dice, number};
use crate::support::scene::ACCOUNT;

const WISHES: [(&str, Wish); 7] = [
    ("suspended", Wish::Suspend),
    ("called off", Wish::Cancel),
    ("rolled back", Wish::Rollback),
    ("deleted", Wish::Delete),
    ("no bucket", Wish::Lose("secret", "bucket")),
    ("no kubeconfig", Wish::Lose("secret", "old-cluster")),
    ("no account", Wish::Lose("serviceaccount", ACCOUNT)),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wish_in_every_step() {
    let mut dice = Dice::new(number("SEED", 1));
    let mut all: Vec<Case> = WISHES
        .iter()
        .flat_map(|(way, _)| ITINERARY.map(|leg| Case { round: 1, way: (*way).to_owned(), at: format!("{:?}", leg.step) }))
        .collect();
    dice.shuffle(&mut all);
    let play = |mut stage: Stage, case: Case| {
        async move {
            let wish = WISHES.iter().find(|(way, _)| *way == case.way).unwrap().1;
            let step = ITINERARY.iter().map(|leg| leg.step).find(|step| format!("{step:?}") == case.at).unwrap();
            let how = stage.ask(wish, step).await;
            (stage, Verdict::Held, how)
        }
        .boxed()
    };
    Campaign::open().run(all, play).await;
}
