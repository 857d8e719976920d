//! The judgement alone, driven through many lives of an object by a seeded schedule: steps that fail, users that change their
//! minds. The world is the least that tells right from wrong: which effects stand. A failing life prints the seed that replays it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Failure;
use super::decide::{Next, Rest, View, next};
use super::itinerary::{ITINERARY, leg_of};
use super::record::{self, Advance};
use super::summary::summarize;
use crate::api::conditions::{reasons, types};
use crate::api::{Mode, Outcome, PostgresMigrationSpec, PostgresMigrationStatus, Publication, StepName, UndoCause};

/// xorshift64*: enough to choose between events, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn one_in(&mut self, n: u64) -> bool {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).is_multiple_of(n)
    }
}

fn spec() -> PostgresMigrationSpec {
    serde_json::from_value(serde_json::json!({
        "mode": "Migrate", "serviceAccountName": "x",
        "source": {"postgres": {"exec": {"labelSelector": "a=b"}}},
        "archive": {"s3": {"bucket": "abc", "credentialsSecretRef": {"name": "s"}}},
        "databases": [{"name": "d", "owner": {"name": "o", "passwordSecretRef": {"name": "s", "key": "k"}}}],
        "target": {"postgres": {"exec": {"labelSelector": "a=c"}}, "endpoint": {"host": "h"}}
    }))
    .unwrap()
}

struct Life {
    dice: Dice,
    spec: PostgresMigrationSpec,
    status: PostgresMigrationStatus,
    generation: i64,
    deleting: bool,
    finalizer: bool,
    gone: bool,
    clock: i64,
    /// Effects that stand in the world, in the order in which they came.
    stands: Vec<StepName>,
    visits: usize,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            spec: spec(),
            status: PostgresMigrationStatus::default(),
            generation: 1,
            deleting: false,
            finalizer: false,
            gone: false,
            clock: 1_000_000,
            stands: Vec::new(),
            visits: 0,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.clock).unwrap()
    }

    fn user(&mut self) {
        let ended = self.status.outcome.is_some();
        if self.dice.one_in(60) {
            self.spec.suspend = !self.spec.suspend;
            self.generation += 1;
        }
        if self.dice.one_in(120) && !self.spec.cancel {
            self.spec.cancel = true;
            self.generation += 1;
        }
        if self.dice.one_in(80) || (ended && self.dice.one_in(3)) || (self.status.hold.is_some() && self.dice.one_in(3)) {
            self.spec.retry = Some(self.spec.retry.unwrap_or(0) + 1);
            self.generation += 1;
        }
        if self.dice.one_in(200) {
            self.deleting = true;
        }
        if self.status.start_time.is_none() && self.dice.one_in(40) {
            self.spec.mode = if self.spec.mode == Mode::Plan { Mode::Migrate } else { Mode::Plan };
            self.generation += 1;
        }
    }

    /// What a step comes to. Its effect may stand although it failed: that is what undo is for.
    fn step(&mut self, step: StepName) -> Result<Advance, Failure> {
        assert!(self.status.steps.iter().any(|s| s.name == step), "{step:?}: no intent before the call");
        if leg_of(step).has_effects {
            assert!(self.finalizer, "{step:?}: an effect without our finalizer");
            assert!(self.status.start_time.is_some(), "{step:?}: an effect before the spec was fixed");
            assert!(!self.deleting || self.status.resumed, "{step:?}: forward although deleted");
            if !self.stands.contains(&step) && !self.dice.one_in(4) {
                self.stands.push(step);
                if step == StepName::Publish && !self.dice.one_in(3) {
                    self.status.publication = Some(Publication { originals: String::new(), set_aside: None, published: true });
                }
                return Ok(Advance::Again);
            }
        }
        match () {
            () if self.dice.one_in(40) => Err(Failure::transient(reasons::TRANSIENT, "x")),
            () if self.dice.one_in(60) => Err(Failure::terminal(reasons::NOT_EQUAL, "x")),
            () if self.dice.one_in(40) && leg_of(step).attempts > 1 => {
                Ok(Advance::NextAttempt(Failure::transient(reasons::MOVER_LOST, "x")))
            }
            () if self.dice.one_in(3) => Ok(Advance::Wait { seconds: 2, message: "x".into() }),
            () => {
                if leg_of(step).has_effects && !self.stands.contains(&step) {
                    self.stands.push(step);
                }
                match step {
                    StepName::Publish => {
                        self.status.publication =
                            Some(Publication { originals: String::new(), set_aside: None, published: true });
                    }
                    StepName::Resume => self.status.resumed = true,
                    _ => {}
                }
                Ok(Advance::Done)
            }
        }
    }

    fn undo(&mut self, step: StepName) -> Result<Advance, Failure> {
        assert!(!self.status.resumed, "undone after the application started");
        if self.dice.one_in(5) {
            return Err(Failure::transient(reasons::TRANSIENT, "x"));
        }
        if let Some(at) = self.stands.iter().position(|s| *s == step) {
            assert!(self.stands.iter().all(|s| *s <= step), "{step:?} is undone before a later step: {:?}", self.stands);
            self.stands.remove(at);
            if step == StepName::Publish {
                self.status.publication = None;
            }
            return Ok(Advance::Again);
        }
        Ok(Advance::Done)
    }

    /// One visit, as `operator::reconcile` makes it. A crash may strike before what it came to is recorded.
    fn visit(&mut self) -> Option<Rest> {
        self.visits += 1;
        self.clock += 1;
        let decision = next(View {
            spec: &self.spec,
            status: &self.status,
            generation: self.generation,
            deleting: self.deleting,
            finalizer: self.finalizer,
        });
        let before = self.status.clone();
        let now = self.now();
        let mut rest = None;
        match decision {
            Next::BeginRun => {
                assert!(self.stands.is_empty(), "a run begins over standing effects {:?}", self.stands);
                record::begin_run(&mut self.status, &self.spec, self.generation);
            }
            Next::AddFinalizer => self.finalizer = true,
            Next::Release => {
                assert!(self.stands.is_empty() || self.status.resumed, "released over {:?}", self.stands);
                self.finalizer = false;
            }
            Next::Run(step) => {
                if !record::begin(&mut self.status, step, now) {
                    match self.step(step) {
                        Ok(a) => {
                            record::advanced(&mut self.status, &self.spec, step, a, now);
                        }
                        Err(f) => {
                            record::failed(&mut self.status, self.spec.mode, step, &f, now);
                        }
                    }
                }
            }
            Next::BeginUndo(cause) => {
                let (reason, message) = record::undo_words(cause);
                record::begin_undo(&mut self.status, cause, reason, message);
            }
            Next::Undo(step) => match self.undo(step) {
                Ok(a) => record::undo_advanced(&mut self.status, step, &a),
                Err(f) => {
                    record::undo_failed(&mut self.status, step, &f, now);
                }
            },
            Next::EndUndo => {
                assert!(self.stands.is_empty(), "undo ended over {:?}", self.stands);
                record::end_undo(&mut self.status);
            }
            Next::End(outcome) => {
                if outcome != Outcome::Succeeded {
                    assert!(self.stands.is_empty(), "{outcome:?} over {:?}", self.stands);
                }
                record::end(&mut self.status, outcome, now);
            }
            Next::Unhold => record::unhold(&mut self.status, &self.spec, now),
            Next::Rest(r) => rest = Some(r),
        }
        if rest.is_none() && self.dice.one_in(25) {
            self.status = before;
        } else {
            let seen = self.status.observed_generation.filter(|_| self.status.start_time.is_none()).unwrap_or(self.generation);
            summarize(&self.spec, &mut self.status, seen, rest, now);
        }
        self.gone = self.deleting && !self.finalizer;
        rest
    }

    fn check(&self) {
        if self.visits.is_multiple_of(32) {
            let size = serde_json::to_string(&self.status).unwrap().len();
            assert!(size < 64 * 1024, "status of {size} bytes");
        }
        for kind in types::ALL {
            let n = self.status.conditions.iter().filter(|c| c.type_ == kind).count();
            assert!(n == 1 || (n == 0 && self.status.phase.is_none()), "{n} conditions {kind}");
        }
        if self.status.outcome == Some(Outcome::Succeeded) {
            assert!(
                ITINERARY.iter().filter(|l| l.has_effects).all(|l| self.stands.contains(&l.step)),
                "success without {:?}",
                self.stands
            );
        }
    }
}

fn live(seed: u64) -> Life {
    let mut life = Life::new(seed);
    while !life.gone && life.visits < 3000 {
        if life.visits < 800 {
            life.user();
        } else {
            // Everybody calms down: every life must come to rest, or go.
            life.spec.suspend = false;
            life.dice = Dice(life.dice.0 | 1);
        }
        let rest = life.visit();
        life.check();
        if life.visits >= 800 && matches!(rest, Some(Rest::Ended | Rest::Planned | Rest::Held)) {
            break;
        }
    }
    assert!(life.visits < 3000, "never came to rest");
    life
}

#[test]
fn every_life_keeps_its_order_and_comes_to_rest() {
    let (mut succeeded, mut undone, mut cancelled, mut deleted, mut visits) = (0, 0, 0, 0, 0);
    for seed in 0..600 {
        let life = std::panic::catch_unwind(|| live(seed)).unwrap_or_else(|_| panic!("replay with live({seed})"));
        visits += life.visits;
        deleted += usize::from(life.gone);
        match life.status.outcome {
            Some(Outcome::Succeeded) => succeeded += 1,
            Some(Outcome::Failed) => undone += 1,
            Some(Outcome::Cancelled) => cancelled += 1,
            None => {}
        }
    }
    println!("{visits} visits: {succeeded} succeeded, {undone} undone, {cancelled} cancelled, {deleted} deleted");
    assert!(succeeded > 20 && undone > 2 && cancelled > 20 && deleted > 20, "the schedules must reach every end");
}

#[test]
fn deletion_in_mid_step_undoes_before_it_releases() {
    let mut life = Life::new(7);
    life.finalizer = true;
    life.deleting = true;
    life.status.run = 1;
    life.status.start_time = Some(Time(life.now()));
    let now = life.now();
    record::begin(&mut life.status, StepName::Quiesce, now);
    let view = View { spec: &life.spec, status: &life.status, generation: 1, deleting: true, finalizer: true };
    assert_eq!(next(view), Next::BeginUndo(UndoCause::Deletion));
}

#[test]
fn a_held_step_is_stalled_from_the_first_moment_that_anybody_sees_it() {
    let mut life = Life::new(1);
    let now = life.now();
    record::begin_run(&mut life.status, &life.spec, 1);
    life.status.start_time = Some(Time(now));
    life.status.publication = Some(Publication { originals: String::new(), set_aside: None, published: true });
    record::begin(&mut life.status, StepName::SchemaJob, now);
    let failure = Failure::needs_human(reasons::SCHEMA_JOB_FAILED, "x");
    record::failed(&mut life.status, life.spec.mode, StepName::SchemaJob, &failure, now);
    summarize(&life.spec, &mut life.status, 1, None, now);
    let condition =
        |kind| life.status.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.as_str(), c.reason.as_str()));
    assert_eq!(condition(types::STALLED), Some(("True", reasons::SCHEMA_JOB_FAILED)));
    assert_eq!(condition(types::RECONCILING).map(|(status, _)| status), Some("False"));
}
