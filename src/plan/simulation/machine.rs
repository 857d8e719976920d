//! One object and its operators: what can happen next, and what it comes to. A visit is made as `operator::reconcile` makes it,
//! with the real judgement; only the steps and the world are models.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::call::{Call, Cut, Stop};
use super::events::{Event, Free};
use super::world::{Before, World};
use super::{invariants, steps, undo};
use crate::api::{
    Mode, Outcome, PostgresMigrationSpec, PostgresMigrationStatus, Rollback, RollbackAcknowledgement, StepName, UndoCause,
};
use crate::plan::decide::{self, Next, Rest, View, next};
use crate::plan::record;
use crate::plan::summary::summarize;

/// What `spec.rollback` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Back {
    /// Absent.
    No,
    /// Set, with nothing acknowledged.
    Asked,
    /// Set, with `TargetWrites` acknowledged.
    Acknowledged,
}

/// What users set on the object, and its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// `spec.mode` is Plan.
    pub plan: bool,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.cancel`.
    pub cancel: bool,
    /// `spec.rollback`.
    pub rollback: Back,
    /// `spec.unfence`.
    pub unfence: bool,
    /// `spec.retry`.
    pub retry: u8,
    /// `metadata.generation`.
    pub generation: u8,
    /// `metadata.deletionTimestamp`.
    pub deleting: bool,
    /// Whether our finalizer is on it.
    pub finalizer: bool,
    /// Whether it is gone.
    pub gone: bool,
}

/// Everything at one moment: the object with its status, the world, and a visit of another operator that read the object a
/// while ago and has not acted yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// Number of the status in the machine's list.
    pub status: u32,
    /// The rest of the object.
    pub object: Object,
    /// What is outside of it.
    pub world: World,
    /// What the visit that lingers has read.
    pub lingering: Option<(u32, Object)>,
    /// Whether a visit had effects although somebody else had gone on since it read the object. What it does so is recorded by
    /// nobody and may be left behind; the data must be safe all the same.
    pub late: bool,
}

/// What a visit came to.
#[derive(Clone, Copy)]
pub struct Visited {
    /// Where things stand then.
    pub point: Point,
    /// The decision, where it was to do nothing.
    pub rest: Option<Rest>,
    /// Effects that the call had.
    pub effects: u8,
    /// Whether the undo fails again and again.
    pub stuck: bool,
}

/// Multiplies and folds: quick, and the same on every machine.
#[derive(Default)]
pub struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    // The number of an enum's variant: small, and never negative.
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n.unsigned_abs() as u64);
    }
}

/// A number for a value: equal values have equal numbers.
pub fn fingerprint(value: &impl Hash) -> u64 {
    let mut fold = Fold::default();
    value.hash(&mut fold);
    fold.finish()
}

/// The judgement, and every status that it ever wrote.
pub struct Machine {
    spec: PostgresMigrationSpec,
    statuses: Vec<PostgresMigrationStatus>,
    known: HashMap<u64, Vec<u32>>,
    shown: HashSet<(u32, [bool; 4], u8, u8)>,
    /// The last visit that was not cut short: it is asked for several times in a row.
    last: Option<(Point, (u32, Object), Visited)>,
    /// Seconds; `None`: time passes as it is needed, and no status remembers it.
    clock: Option<i64>,
}

/// The moment at which everything happens while no clock runs.
const MOMENT: i64 = 1_000_000;
/// Failures in a row after which patience is over while no clock runs.
const PATIENCE: i64 = 3;
/// Failures of an undo after which it shows as stalled.
const STUCK: i64 = 6;

impl Machine {
    /// A machine, with a running clock or none.
    pub fn new(clock: bool) -> Self {
        let spec = serde_json::from_value(serde_json::json!({
            "mode": "Migrate", "serviceAccountName": "x",
            "source": {"postgres": {"exec": {"labelSelector": "a=b"}}},
            "archive": {"s3": {"bucket": "abc", "credentialsSecretRef": {"name": "s"}}},
            "databases": [{"name": "d", "owner": {"name": "o", "passwordSecretRef": {"name": "s", "key": "k"}}}],
            "target": {"postgres": {"exec": {"labelSelector": "a=c"}}, "endpoint": {"host": "h"}}
        }));
        Self {
            spec: spec.unwrap(),
            statuses: Vec::new(),
            known: HashMap::new(),
            shown: HashSet::new(),
            last: None,
            clock: clock.then_some(MOMENT),
        }
    }

    /// A new object in a world that no migration has touched.
    pub fn birth(&mut self, before: Before) -> Point {
        let object = Object {
            plan: false,
            suspend: false,
            cancel: false,
            rollback: Back::No,
            unfence: false,
            retry: 0,
            generation: 1,
            deleting: false,
            finalizer: false,
            gone: false,
        };
        Point {
            status: self.keep(PostgresMigrationStatus::default()),
            object,
            world: World::new(before),
            lingering: None,
            late: false,
        }
    }

    /// A status by its number.
    pub fn status(&self, number: u32) -> &PostgresMigrationStatus {
        &self.statuses[number as usize]
    }

    /// How many different statuses there were.
    pub fn statuses(&self) -> usize {
        self.statuses.len()
    }

    /// Lets time pass.
    pub fn pass(&mut self, seconds: i64) {
        self.clock.iter_mut().for_each(|clock| *clock += seconds);
    }

    fn now(&self, status: &PostgresMigrationStatus) -> Timestamp {
        let late = status.steps.iter().any(|s| s.failures >= PATIENCE);
        Timestamp::from_second(self.clock.unwrap_or(if late { MOMENT + 10_000 } else { MOMENT })).unwrap()
    }

    /// The number of a status. The mark only finds candidates: equal are those that are equal as a whole.
    fn keep(&mut self, mut status: PostgresMigrationStatus) -> u32 {
        if self.clock.is_none() {
            timeless(&mut status);
        }
        let steps: Vec<_> = status.steps.iter().map(|s| (s.name, s.state as u8, s.attempt, s.failures)).collect();
        let rest = (status.run, status.observed_retry, status.observed_generation, status.outcome.map(|o| o as u8));
        let facts = (status.quiesced.len(), status.quiesced.iter().filter(|q| q.requested).count(), status.repointed.is_some());
        let saved = status.saved.as_ref().map(|s| (s.attempt, s.verified, s.sha256.is_some(), s.kept_as.is_some()));
        let more =
            (status.transfer.as_ref().map(|t| (t.job.as_str(), t.started)), status.fence.is_some(), status.undo.is_some(), saved);
        let mark = fingerprint(&(steps, rest, facts, more));
        let candidates = self.known.entry(mark).or_default();
        if let Some(number) = candidates.iter().find(|n| self.statuses[**n as usize] == status) {
            return *number;
        }
        let number = u32::try_from(self.statuses.len()).unwrap();
        candidates.push(number);
        self.statuses.push(status);
        number
    }

    /// What people read, of every status that is written: derived by the real summary and held against the promises.
    fn show(&mut self, number: u32, object: Object, rest: Option<Rest>) {
        let mark = rest.map_or(0, |r| r as u8 + 1);
        let wishes = [object.plan, object.suspend, object.cancel, object.unfence];
        if !self.shown.insert((number, wishes, object.rollback as u8, mark)) {
            return;
        }
        let mut status = self.status(number).clone();
        let now = self.now(&status);
        let generation = generation_seen(&status, object);
        self.wish(object);
        summarize(&self.spec, &mut status, generation, rest, now);
        let unacknowledged = decide::back(&self.spec, &status) == decide::Back::Unacknowledged;
        invariants::i4_every_state_ends_or_waits_with_a_reason(&status, rest, unacknowledged);
        if number.is_multiple_of(16) {
            invariants::the_status_is_small(&status);
        }
        assert_eq!(status.observed_generation, Some(generation));
    }

    /// The spec as `object` has it.
    pub fn spec(&mut self, object: Object) -> &PostgresMigrationSpec {
        self.wish(object);
        &self.spec
    }

    fn wish(&mut self, object: Object) {
        self.spec.mode = if object.plan { Mode::Plan } else { Mode::Migrate };
        (self.spec.suspend, self.spec.cancel) = (object.suspend, object.cancel);
        self.spec.unfence = object.unfence;
        let known = vec![RollbackAcknowledgement::TargetWrites];
        self.spec.rollback = match object.rollback {
            Back::No => None,
            Back::Asked => Some(Rollback::default()),
            Back::Acknowledged => Some(Rollback { acknowledge: known, ..Rollback::default() }),
        };
        self.spec.retry = (object.retry > 0).then(|| object.retry.into());
    }

    /// Whether something happens then, and what it comes to. `None`: it cannot happen, or changes nothing.
    pub fn happen(&mut self, point: Point, event: Event) -> Option<Point> {
        let after = match event {
            Event::Visit(cut) => self.visit(point, (point.status, point.object), cut).point,
            Event::Linger => Point { lingering: Some((point.status, point.object)), ..point },
            Event::Wake(cut) => {
                let seen = point.lingering?;
                self.visit(Point { lingering: None, ..point }, seen, cut).point
            }
            Event::World(free) => Point { world: free.happen(point.world)?, ..point },
            Event::Trouble(trouble) => {
                let published = self.status(point.status).verification.as_ref().is_some_and(|v| v.witnessed);
                Point { world: trouble.happen(point.world, published)?, ..point }
            }
            Event::User(wish) => {
                let status = self.status(point.status);
                Point { object: wish.happen(point.object, status)?, ..point }
            }
        };
        invariants::i1_one_database_accepts_writes(&after.world);
        (after != point).then_some(after)
    }

    /// One visit of an operator that read the object as `seen`.
    pub fn visit(&mut self, point: Point, seen: (u32, Object), cut: Option<(u8, Cut)>) -> Visited {
        if cut.is_some() || self.clock.is_some() {
            return self.reconcile(point, seen, cut);
        }
        match self.last {
            Some((p, s, visited)) if (p, s) == (point, seen) => visited,
            _ => {
                let visited = self.reconcile(point, seen, None);
                self.last = Some((point, seen, visited));
                visited
            }
        }
    }

    /// `operator::reconcile`.
    fn reconcile(&mut self, point: Point, seen: (u32, Object), cut: Option<(u8, Cut)>) -> Visited {
        let before = self.status(seen.0).clone();
        let (object, mut status, mut world) = (seen.1, before.clone(), point.world);
        let now = self.now(&before);
        self.wish(object);
        let generation = object.generation.into();
        let view = View { spec: &self.spec, status: &before, generation, deleting: object.deleting, finalizer: object.finalizer };
        let mut visited = Visited { point, rest: None, effects: 0, stuck: false };
        let alone = (point.status, point.object) == seen;
        let strict = point.status == seen.0 && !point.late;
        match next(view) {
            Next::BeginRun => {
                invariants::as_it_was_unless(!strict, &point.world);
                record::begin_run(&mut status, &self.spec, generation);
            }
            Next::AddFinalizer if alone => visited.point.object.finalizer = true,
            Next::Release if alone => {
                invariants::i4_released(&before, &point);
                visited.point.object.finalizer = false;
            }
            // The patch carries the version that was read: refused.
            Next::AddFinalizer | Next::Release => {}
            Next::Run(step) => {
                if !record::begin(&mut status, step, now) && record::pause(&before, step, now) == 0 {
                    invariants::forward_is_wanted(&before, object);
                    let mut call = Call::new(step, &mut world, &mut status, &before, (object.finalizer, strict), cut);
                    let answer = steps::run(step, &mut call);
                    visited.effects = call.effects;
                    match answer {
                        Ok(advance) => {
                            record::advanced(&mut status, &self.spec, step, advance, now);
                        }
                        Err(Stop::Failed(failure)) => {
                            record::failed(&mut status, self.spec.mode, step, &failure, now);
                        }
                        Err(Stop::Crash) => status.clone_from(&before),
                    }
                }
            }
            Next::BeginUndo(cause) => {
                invariants::going_back_is_wanted(&before, object, cause);
                let (reason, message) = record::undo_words(cause);
                record::begin_undo(&mut status, cause, reason, message, now);
            }
            Next::Undo(step) => {
                if record::pause(&before, step, now) == 0 {
                    let mut call = Call::new(step, &mut world, &mut status, &before, (object.finalizer, strict), cut);
                    visited.effects = undo_call(&mut call, now);
                }
            }
            Next::Unfence => {
                assert!(object.unfence && before.outcome == Some(Outcome::Succeeded), "unfenced, and nobody asked for it");
                if record::pause(&before, StepName::Fence, now) == 0 {
                    world.unfenced = true;
                    let mut call = Call::new(StepName::Fence, &mut world, &mut status, &before, (object.finalizer, strict), cut);
                    visited.effects = unfence_call(&mut call, now);
                }
            }
            Next::EndUndo => {
                invariants::as_it_was_unless(!strict, &point.world);
                record::end_undo(&mut status);
            }
            Next::End(outcome) => record::end(&mut status, outcome, now),
            Next::Unhold => record::unhold(&mut status, &self.spec, now),
            Next::Rest(Rest::Blocked) => {
                record::look_again(&mut status);
                visited.rest = Some(Rest::Blocked);
            }
            Next::Rest(rest) => visited.rest = Some(rest),
        }
        visited.point.world = world;
        visited.point.late |= point.status != seen.0 && visited.effects > 0;
        visited.stuck = status.undo.is_some() && status.steps.iter().any(|s| s.failures >= STUCK);
        if let Some(rest) = visited.rest {
            self.show(seen.0, object, Some(rest));
        }
        status.observed_generation = Some(generation_seen(&status, object));
        // Compare-and-set: written only over the status that was read, whatever else of the object has changed.
        if point.status == seen.0 {
            visited.point.status = self.keep(status);
            if visited.point.status != seen.0 {
                self.show(visited.point.status, object, None);
            }
        }
        visited.point.object.gone = visited.point.object.deleting && !visited.point.object.finalizer;
        visited
    }

    /// Everybody calms down: no trouble, no wishes, one operator. What comes next then; `None` at rest.
    pub fn calm(&mut self, point: Point) -> Option<Point> {
        if point.object.gone {
            return None;
        }
        if point.object.suspend || point.lingering.is_some() {
            let generation = point.object.generation + u8::from(point.object.suspend);
            return Some(Point { object: Object { suspend: false, generation, ..point.object }, lingering: None, ..point });
        }
        if let Some(world) = Free::PROGRESS.iter().find_map(|free| free.happen(point.world)) {
            return Some(Point { world, ..point });
        }
        self.pass(2);
        let visited = self.visit(point, (point.status, point.object), None);
        invariants::i1_one_database_accepts_writes(&visited.point.world);
        match visited.rest {
            Some(rest) => invariants::i4_at_rest(self.status(point.status), &point, rest),
            None if visited.stuck => invariants::i4_an_undo_waits_for_a_person(&point),
            None => return Some(visited.point),
        }
        None
    }
}

/// One call of an undo. Gives the effects that it had.
fn undo_call(call: &mut Call<'_>, now: Timestamp) -> u8 {
    let step = call.step;
    let asked = call.seen.undo.as_ref().is_some_and(|undo| undo.cause == UndoCause::Rollback);
    assert!(!call.seen.resumed || asked, "undone although the application may have written");
    if call.alone {
        invariants::undo_goes_backwards(call.world, step);
    }
    match undo::undo(step, call) {
        Ok(advance) => record::undo_advanced(call.status, step, &advance, now),
        Err(Stop::Failed(failure)) => {
            record::undo_failed(call.status, step, &failure, now);
        }
        Err(Stop::Crash) => call.status.clone_from(call.seen),
    }
    call.effects
}

/// One call of the fence's undo, of a run that stays ended. Gives the effects that it had.
fn unfence_call(call: &mut Call<'_>, now: Timestamp) -> u8 {
    match undo::undo(StepName::Fence, call) {
        Ok(advance) => record::unfence_advanced(call.status, &advance, now),
        Err(Stop::Failed(failure)) => {
            record::unfence_failed(call.status, &failure, now);
        }
        Err(Stop::Crash) => call.status.clone_from(call.seen),
    }
    call.effects
}

/// `Visit::generation_seen`.
fn generation_seen(status: &PostgresMigrationStatus, object: Object) -> i64 {
    status.observed_generation.filter(|_| status.start_time.is_none()).unwrap_or_else(|| object.generation.into())
}

/// Takes off what only says when: no decision is to depend on it here. Words go as well: no decision reads them.
fn timeless(status: &mut PostgresMigrationStatus) {
    let moment = |time: &mut Option<Time>| {
        if time.is_some() {
            *time = Some(Time(Timestamp::from_second(MOMENT).unwrap()));
        }
    };
    moment(&mut status.start_time);
    moment(&mut status.completion_time);
    status.undo.iter_mut().for_each(|undo| moment(&mut undo.start_time));
    for step in &mut status.steps {
        moment(&mut step.start_time);
        moment(&mut step.end_time);
        moment(&mut step.failing_since);
        step.message_since = None;
        step.not_before = None;
        step.message = None;
        step.duration_seconds = step.duration_seconds.map(|_| 0);
        step.failures = step.failures.min(STUCK);
    }
}
