//! The decision as a table: what is so, what comes next.

use jiff::Timestamp;

use super::*;
use crate::api::conditions::reasons;
use crate::api::{Completion, Fence, FenceKind, Finding, Hold, Publication, Rollback, Undo};
use crate::plan::checks::fixtures;
use crate::plan::record::{Advance, advanced, begin, begin_run, undo_advanced};

/// An object in the middle of its life; tests change it in place.
#[derive(Clone)]
struct Object {
    spec: PostgresMigrationSpec,
    status: PostgresMigrationStatus,
    generation: i64,
    deleting: bool,
    finalizer: bool,
}

impl Object {
    /// Of a run that has begun, with `done` steps done.
    fn after(done: usize) -> Self {
        let (spec, mut status) = (fixtures::spec(), PostgresMigrationStatus::default());
        begin_run(&mut status, &spec, 1);
        for leg in &ITINERARY[..done] {
            begin(&mut status, leg.step, at(1));
            advanced(&mut status, &spec, leg.step, Advance::Done, at(1));
        }
        Self { spec, status, generation: 1, deleting: false, finalizer: done > 1 }
    }

    /// Begins the step that comes next.
    fn under_way(mut self) -> Self {
        let step = first_undone(&self.status).unwrap();
        begin(&mut self.status, step, at(2));
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn ended(self, outcome: Outcome) -> Self {
        self.with(|o| o.status.outcome = Some(outcome))
    }

    fn next(&self) -> Next {
        let Self { spec, status, generation, deleting, finalizer } = self;
        next(View { spec, status, generation: *generation, deleting: *deleting, finalizer: *finalizer })
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn place(step: StepName) -> usize {
    ITINERARY.iter().position(|leg| leg.step == step).unwrap()
}

fn plan(o: &mut Object) {
    o.spec.mode = Mode::Plan;
    o.status.start_time = None;
}

fn blocked(o: &mut Object) {
    o.status.blockers = vec![Finding { reason: reasons::POD_NOT_READY.into(), path: "spec".into(), message: "x".into() }];
}

fn undo(o: &mut Object, cause: UndoCause) {
    let (reason, message) = (reasons::UNDOING.into(), "x".into());
    o.status.undo = Some(Undo { cause, reason, message, step: StepName::Dump, start_time: None, complete: false });
}

fn publish(o: &mut Object) {
    o.status.publication = Some(Publication { originals: "{}".into(), set_aside: None, row_changes: None, published: true });
}

fn hold(o: &mut Object) {
    o.status.hold = Some(Hold { step: StepName::Repoint, reason: reasons::REPOINT_FAILED.into(), message: "x".into() });
}

fn rollback(acknowledged: bool) -> impl FnOnce(&mut Object) {
    let acknowledge = if acknowledged { vec![RollbackAcknowledgement::TargetWrites] } else { vec![] };
    move |o| o.spec.rollback = Some(Rollback { acknowledge, ..Rollback::default() })
}

#[test]
fn a_new_object_begins_unless_it_is_going() {
    let new = Object { status: PostgresMigrationStatus::default(), finalizer: false, ..Object::after(0) };
    assert_eq!(new.next(), Next::BeginRun);
    assert_eq!(new.clone().with(|o| o.deleting = true).next(), Next::Rest(Rest::Ended));
    assert_eq!(new.with(|o| (o.deleting, o.finalizer) = (true, true)).next(), Next::Release);
}

#[test]
fn steps_come_in_their_order_and_the_finalizer_before_the_first_effect() {
    for (done, leg) in ITINERARY.iter().enumerate() {
        assert_eq!(Object::after(done).next(), Next::Run(leg.step));
        let bare = Object::after(done).with(|o| o.finalizer = false).next();
        assert_eq!(bare, if leg.step < StepName::Quiesce { Next::Run(leg.step) } else { Next::AddFinalizer });
    }
    assert_eq!(Object::after(ITINERARY.len()).next(), Next::End(Outcome::Succeeded));
    let by_another = Completion { earlier: true, ..Completion::default() };
    assert_eq!(Object::after(1).with(|o| o.status.completion = Some(by_another)).next(), Next::End(Outcome::Succeeded));
}

#[test]
fn a_plan_looks_and_rests() {
    assert_eq!(Object::after(0).with(plan).next(), Next::Run(StepName::Pin));
    assert_eq!(Object::after(1).with(plan).next(), Next::Run(StepName::Preflight));
    assert_eq!(Object::after(1).under_way().with(plan).with(blocked).next(), Next::Rest(Rest::Blocked));
    assert_eq!(Object::after(2).with(plan).next(), Next::Rest(Rest::Planned));
    let edited = Object::after(2).with(plan).with(|o| o.generation = 2);
    assert_eq!(edited.next(), Next::BeginRun);
    let started = Object::after(2).with(|o| o.generation = 2);
    assert_eq!(started.next(), Next::Run(StepName::Quiesce), "what has started is not begun again by an edit");
}

#[test]
fn a_suspension_lets_a_step_end() {
    let suspended = Object::after(4).with(|o| o.spec.suspend = true);
    assert_eq!(suspended.next(), Next::Rest(Rest::Suspended));
    assert_eq!(suspended.under_way().next(), Next::Run(StepName::Dump));
}

#[test]
fn calling_off_undoes_what_was_begun_until_the_database_is_published() {
    let cancel = |o: &mut Object| o.spec.cancel = true;
    assert_eq!(Object::after(1).with(cancel).next(), Next::End(Outcome::Cancelled));
    assert_eq!(Object::after(3).with(cancel).next(), Next::BeginUndo(UndoCause::Cancel));
    let published = place(StepName::Repoint);
    assert_eq!(Object::after(published).with(publish).with(cancel).next(), Next::Run(StepName::Repoint));
}

#[test]
fn going_back_needs_a_word_once_the_application_may_have_written() {
    assert_eq!(Object::after(1).with(rollback(false)).next(), Next::End(Outcome::Cancelled));
    assert_eq!(Object::after(3).with(rollback(false)).next(), Next::BeginUndo(UndoCause::Rollback));
    let resumed = Object::after(place(StepName::Keep)).with(|o| o.status.resumed = true);
    assert_eq!(resumed.clone().with(rollback(false)).next(), Next::Rest(Rest::Unacknowledged));
    assert_eq!(resumed.clone().with(rollback(true)).next(), Next::BeginUndo(UndoCause::Rollback));
    let both = resumed.with(rollback(true)).with(|o| o.deleting = true);
    assert_eq!(both.next(), Next::BeginUndo(UndoCause::Rollback), "wanted undone, and then gone");
}

#[test]
fn what_is_held_waits_for_a_person() {
    let held = Object::after(place(StepName::Repoint)).with(publish).with(hold);
    assert_eq!(held.next(), Next::Rest(Rest::Held));
    assert_eq!(held.with(|o| o.spec.retry = Some(1)).next(), Next::Unhold);
}

#[test]
fn a_deletion_undoes_unless_the_application_runs() {
    let going = |o: &mut Object| o.deleting = true;
    assert_eq!(Object::after(1).with(going).with(|o| o.finalizer = true).next(), Next::Release);
    assert_eq!(Object::after(1).with(going).next(), Next::Rest(Rest::Ended));
    assert_eq!(Object::after(6).with(going).next(), Next::BeginUndo(UndoCause::Deletion));
    let starting = Object::after(place(StepName::Resume)).under_way().with(|o| o.status.resumed = true).with(going);
    assert_eq!(starting.next(), Next::Run(StepName::Resume));
    assert_eq!(starting.clone().with(hold).next(), Next::Release);
    assert_eq!(starting.with(|o| o.finalizer = false).next(), Next::Rest(Rest::Ended));
    let keeping = Object::after(place(StepName::Keep)).with(|o| o.status.resumed = true).with(going);
    assert_eq!(keeping.next(), Next::Release);
}

#[test]
fn an_undo_walks_back_over_what_had_effects_and_ends_as_its_cause_says() {
    for (cause, outcome) in [
        (UndoCause::Failure, Outcome::Failed),
        (UndoCause::Cancel, Outcome::Cancelled),
        (UndoCause::Deletion, Outcome::Cancelled),
        (UndoCause::Rollback, Outcome::Cancelled),
    ] {
        let mut object = Object::after(place(StepName::Publish)).with(|o| undo(o, cause));
        let mut walked = Vec::new();
        while let Next::Undo(step) = object.next() {
            walked.push(step);
            undo_advanced(&mut object.status, step, &Advance::Done, at(3));
        }
        let effects = ITINERARY[..place(StepName::Publish)].iter().rev().filter(|leg| leg.has_effects);
        assert_eq!(walked, effects.map(|leg| leg.step).collect::<Vec<_>>());
        assert_eq!(object.next(), Next::EndUndo);
        object.status.undo.as_mut().unwrap().complete = true;
        assert_eq!(object.next(), Next::End(outcome));
    }
}

#[test]
fn after_a_run_without_success_the_object_is_free_and_a_new_one_begins_when_asked_for() {
    for outcome in [Outcome::Failed, Outcome::Cancelled] {
        let over = Object::after(5).ended(outcome);
        assert_eq!(over.next(), Next::Release);
        assert_eq!(over.clone().with(|o| o.deleting = true).next(), Next::Release);
        let free = over.with(|o| o.finalizer = false);
        assert_eq!(free.next(), Next::Rest(Rest::Ended));
        assert_eq!(free.clone().with(|o| o.generation = 2).next(), Next::Rest(Rest::Ended), "an edit alone is not enough");
        assert_eq!(free.clone().with(|o| o.spec.retry = Some(1)).next(), Next::BeginRun);
        let again = free.clone().with(|o| (o.spec.retry, o.status.observed_retry) = (Some(1), 1));
        assert_eq!(again.next(), Next::Rest(Rest::Ended), "each number counts once");
        assert_eq!(free.clone().with(|o| (o.spec.retry, o.spec.cancel) = (Some(1), true)).next(), Next::Rest(Rest::Ended));
        assert_eq!(free.clone().with(|o| o.spec.retry = Some(1)).with(rollback(true)).next(), Next::Rest(Rest::Ended));
        let gone = free.with(|o| (o.spec.retry, o.deleting) = (Some(1), true));
        assert_eq!(gone.next(), Next::Rest(Rest::Ended));
    }
    let refused = Object::after(1).ended(Outcome::Failed).with(|o| o.generation = 2);
    assert_eq!(refused.next(), Next::BeginRun, "nothing was touched: an edit begins anew");
}

#[test]
fn after_success_only_a_rollback_or_an_unfence_does_anything() {
    let done = Object::after(ITINERARY.len()).ended(Outcome::Succeeded).with(|o| o.status.resumed = true);
    assert_eq!(done.next(), Next::Rest(Rest::Ended));
    assert_eq!(done.clone().with(|o| (o.generation, o.spec.retry) = (2, Some(1))).next(), Next::Rest(Rest::Ended));
    assert_eq!(done.clone().with(|o| o.deleting = true).next(), Next::Release);
    assert_eq!(done.clone().with(rollback(false)).next(), Next::Rest(Rest::Unacknowledged));
    assert_eq!(done.clone().with(rollback(true)).next(), Next::BeginUndo(UndoCause::Rollback));
    assert_eq!(done.clone().with(rollback(true)).with(|o| o.finalizer = false).next(), Next::AddFinalizer);
    let opened = done.clone().with(|o| o.spec.unfence = true);
    assert_eq!(opened.next(), Next::Rest(Rest::Ended), "there is no fence of this object");
    let method = FenceKind::Swap;
    let fenced = opened.with(|o| o.status.fence = Some(Fence { method, originals: "{}".into(), closed: true, witness: None }));
    assert_eq!(fenced.next(), Next::Unfence);
    assert_eq!(fenced.with(|o| o.finalizer = false).next(), Next::AddFinalizer);
}
