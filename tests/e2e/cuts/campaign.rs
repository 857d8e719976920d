//! Many cases side by side: those that end soon on a few lanes that go round the operations, those whose fault is silence on
//! lanes of their own, which mostly wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::case::{Case, OPS, Profile, choose, known};
use super::lane::Lane;
use super::stage::Stage;
use super::trial::{Outcome, Player, Trial};

/// Lanes of silent cases.
const SILENT: usize = 8;

/// Listens to a whole migration over a sound network, once for each way to the S3 server.
pub async fn listen(stage: &Arc<Stage>, lanes: [usize; 2]) -> Profile {
    let over = |number: usize, plain: bool| async move {
        let mut player = Player::new(Lane::new(stage, number).await);
        let mut seen: Profile = BTreeMap::new();
        for op in OPS {
            player.prepare(op).await.unwrap();
            player.lane.arm(None);
            let ended = player.lane.run(player.lane.task(op, plain)).await;
            assert_eq!(ended.code, Some(0), "{op:?}: {ended:#?}");
            let all = seen.entry(op).or_default();
            (all.old, all.new) = (player.lane.old.traffic(), player.lane.new.traffic());
            (all.bucket, all.answers) = (player.lane.bucket.traffic(), player.lane.answers.answers());
        }
        (player, seen)
    };
    let ((one, mut profile), (two, plain)) = tokio::join!(over(lanes[0], false), over(lanes[1], true));
    for (op, seen) in plain {
        profile.get_mut(&op).unwrap().answers = seen.answers;
    }
    drop((one, two));
    profile
}

/// Cuts that were once not stood, and those of a seed.
pub fn cases(profile: &Profile, seed: u64, cuts: u64) -> Vec<Case> {
    known(profile).into_iter().chain((0..cuts).map(|number| choose(profile, seed, number))).collect()
}

/// Plays cases and tells each as it ends.
pub async fn play(
    stage: &Arc<Stage>,
    cases: &[Case],
    quick: usize,
    told: impl Fn(&Case, &Trial) + Send + Sync + 'static,
) -> Vec<(Case, Trial)> {
    let told = Arc::new(told);
    let mut groups: BTreeMap<u64, Vec<Case>> = BTreeMap::new();
    let mut silent = VecDeque::new();
    for case in cases {
        if case.hit.is_silent() {
            silent.push_back(vec![*case]);
        } else {
            groups.entry(case.number / 4).or_default().push(*case);
        }
    }
    let lanes = [(groups.into_values().collect::<VecDeque<_>>(), quick), (silent, SILENT)];
    let done = Arc::new(Mutex::new(Vec::new()));
    let (mut tasks, mut number) = (Vec::new(), 10);
    for (queue, count) in lanes {
        let count = count.min(queue.len());
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..count {
            number += 1;
            let (stage, queue, done, told) = (Arc::clone(stage), Arc::clone(&queue), Arc::clone(&done), Arc::clone(&told));
            tasks.push(tokio::spawn(async move {
                let mut player = Player::new(Lane::new(&stage, number).await);
                loop {
                    let Some(group) = queue.lock().unwrap().pop_front() else { break };
                    for case in group {
                        let trial = player.play(&case).await;
                        told(&case, &trial);
                        done.lock().unwrap().push((case, trial));
                    }
                }
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    std::mem::take(&mut *done.lock().unwrap())
}

/// One line for a case.
pub fn line(case: &Case, trial: &Trial) -> String {
    let why = if trial.why.is_empty() { String::new() } else { format!("\n    {}", trial.why.replace('\n', "\n    ")) };
    format!("{:?} {:>5.1} s, tidy {:>4.1} s  {case}  {}{why}", trial.outcome, trial.took, trial.tidied, trial.said)
}

/// The table of all cases, and those that did not hold.
pub fn table(done: &[(Case, Trial)]) -> (String, Vec<String>) {
    let mut text = format!(
        "{:<8} {:>6} {:>5} {:>10} {:>13} {:>7} {:>5} {:>7} {:>9} {:>9}\n",
        "cut", "cases", "held", "not struck", "false success", "orphans", "hung", "failed", "longest s", "tidied s"
    );
    for op in OPS {
        let these: Vec<&Trial> = done.iter().filter(|(case, _)| case.op == op).map(|(_, trial)| trial).collect();
        let count = |outcome| these.iter().filter(|t| t.outcome == outcome).count();
        let most = |of: fn(&Trial) -> f64| these.iter().map(|t| of(t)).fold(0.0, f64::max);
        text += &format!(
            "{:<8} {:>6} {:>5} {:>10} {:>13} {:>7} {:>5} {:>7} {:>9.1} {:>9.1}\n",
            format!("{op:?}"),
            these.len(),
            count(Outcome::Held),
            count(Outcome::NotStruck),
            count(Outcome::FalseSuccess),
            count(Outcome::Orphans),
            count(Outcome::Hung),
            count(Outcome::Failed),
            most(|t| t.took),
            most(|t| t.tidied),
        );
    }
    let bad = done.iter().filter(|(_, t)| !matches!(t.outcome, Outcome::Held | Outcome::NotStruck));
    (text, bad.map(|(case, trial)| line(case, trial)).collect())
}
