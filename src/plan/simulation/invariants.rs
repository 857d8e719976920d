//! What must hold, whatever happens: each promise a function of its name. They are asked at every effect and of every state.

use super::call::Call;
use super::machine::{Back, Object, Point};
use super::world::{Before, Content, Database, EXISTING, JobState, Name, SOURCE, Setting, Task, World};
use crate::api::conditions::{reasons, types};
use crate::api::{Outcome, PostgresMigrationStatus, StepName, UndoCause};
use crate::plan::decide::Rest;
use crate::plan::itinerary::ITINERARY;

/// I1: at most one database accepts the application's writes. While the copy has its final name and takes connections, the
/// source does not take any under the name that applications know. Unless a user has asked for that: `spec.unfence`.
pub fn i1_one_database_accepts_writes(world: &World) {
    assert!(world.unfenced || !(world.source_accepts() && world.target_accepts()), "I1: both databases accept writes");
}

/// I2: the pointer moves only with an equal digest of the live fence epoch: what gets the final name was compared with the
/// source behind the fence that still stands, was found equal, and neither was changed since.
pub fn i2_the_pointer_moves_only_with_proof(world: &World, copy: Database) {
    assert!(world.fenced(), "I2: published while the source is open");
    assert!(world.proof, "I2: published without a comparison under this fence");
    assert_eq!(copy.content, Content::Equal, "I2: published something else than the source holds");
}

/// I2, its other half: the application's setting leads to the new name only while the copy has it.
pub fn i2_the_setting_leads_to_a_published_copy(world: &World, new: Setting) {
    assert!(new != Setting::New || world.target_accepts(), "I2: the application is led to a copy that is not published");
}

/// I3: nothing destructive ever touches the source, nor the database that had the final name, nor what the application wrote
/// to the new one, as long as that is nowhere else. Dropping is the one thing that destroys.
pub fn i3_nothing_destructive_touches_the_source(doomed: Database, unsaved: bool) {
    assert!(doomed.oid != SOURCE && doomed.oid != EXISTING, "I3: {doomed:?} is dropped");
    assert!(doomed.name != Name::Application, "I3: a database is dropped that applications know");
    assert!(!unsaved || doomed.content == Content::Empty, "I3: rows of the application are dropped unsaved");
}

/// I4: every state ends or waits with a reason. Whoever looks at the object reads what goes on: the whole set of conditions,
/// each with a reason that is a constant of ours, one of Ready, Reconciling and Stalled telling where things stand, in words.
pub fn i4_every_state_ends_or_waits_with_a_reason(status: &PostgresMigrationStatus, rest: Option<Rest>, unacknowledged: bool) {
    let condition = |kind: &str| {
        let mut of_kind = status.conditions.iter().filter(|c| c.type_ == kind);
        let found = of_kind.next().unwrap_or_else(|| panic!("I4: no condition {kind}"));
        assert!(of_kind.next().is_none(), "I4: two conditions {kind}");
        assert!(reasons::ALL.contains(&found.reason.as_str()), "I4: {kind} has the reason {:?}", found.reason);
        found
    };
    types::ALL.iter().for_each(|kind| {
        condition(kind);
    });
    assert!(status.phase.is_some(), "I4: no phase");
    assert!(status.message.as_ref().is_some_and(|m| !m.trim().is_empty()), "I4: no message");
    let (ready, reconciling, stalled) = (condition(types::READY), condition(types::RECONCILING), condition(types::STALLED));
    assert!(!ready.message.is_empty(), "I4: Ready says nothing");
    let active = status.outcome.is_none() && rest.is_none() && status.hold.is_none() && !unacknowledged;
    let blocked = !status.blockers.is_empty() && status.start_time.is_none();
    assert!(
        reconciling.status == "True" || !active || blocked,
        "I4: at work, but not Reconciling: {:?} {:?}",
        status.step,
        status.undo
    );
    let struggling = status.steps.iter().any(|s| s.failures > 5);
    match (status.outcome, rest) {
        (Some(Outcome::Succeeded) | None, _) if unacknowledged => {
            let word = condition(types::SUCCEEDED).status.as_str();
            assert_eq!((ready.status.as_str(), stalled.status.as_str()), ("False", "True"));
            assert_eq!(word == "True", status.outcome.is_some(), "I4: a question changes what has happened");
            assert!(stalled.reason == reasons::ROLLBACK_NOT_ACKNOWLEDGED && stalled.message.contains("TargetWrites"));
        }
        (Some(Outcome::Succeeded), _) => {
            assert_eq!((ready.status.as_str(), stalled.status == "True"), ("True", struggling));
        }
        (Some(Outcome::Failed), _) | (None, Some(Rest::Blocked | Rest::Held)) => {
            assert_eq!((ready.status.as_str(), stalled.status.as_str()), ("False", "True"));
            assert!(!stalled.message.is_empty(), "I4: stalled without a word");
        }
        (Some(Outcome::Cancelled) | None, _) => assert_eq!(ready.status, "False"),
    }
}

/// I4, its other half: what is so when nobody does anything any more. Either the database moved and the application runs on
/// it, or a person is asked, or everything is as it was.
pub fn i4_at_rest(status: &PostgresMigrationStatus, point: &Point, rest: Rest) {
    let world = &point.world;
    if point.late {
        return;
    }
    match (status.outcome, rest) {
        (Some(Outcome::Succeeded), rest) => {
            succeeded(world, status.fence.is_some());
            assert!(
                !point.object.unfence || status.fence.is_none() || rest == Rest::Unacknowledged,
                "I4: nobody opens the source"
            );
            let asked = point.object.rollback;
            assert!(asked != Back::Acknowledged, "I4: nobody goes back");
            assert_eq!(asked == Back::Asked, rest == Rest::Unacknowledged, "I4: a question that nobody asked");
        }
        (Some(Outcome::Failed | Outcome::Cancelled), _) => {
            as_it_was(world);
            assert!(!point.object.finalizer, "I4: ended with our finalizer");
            assert!(world.writer.up, "I4: ended, and a writer stands still");
            assert!(world.application.up || world.before == Before::Bare, "I4: ended, and the application stands still");
        }
        (None, Rest::Held) => assert!(status.hold.as_ref().is_some_and(|h| !h.message.is_empty()), "I4: held without a word"),
        (None, Rest::Unacknowledged) => {
            assert!(status.resumed && point.object.rollback == Back::Asked, "I4: a question that nobody asked");
            assert!(world.target_accepts() && world.fenced(), "I4: something was undone before it was acknowledged");
        }
        (None, Rest::Planned | Rest::Blocked) => as_it_was(world),
        (None, Rest::Suspended) => panic!("I4: suspended although nobody wants it"),
        (None, Rest::Ended) => panic!("I4: at rest without an outcome"),
    }
}

/// I4: an undo that cannot go on waits for a person: the application was started on the new database, and what it wrote there
/// is not thrown away.
pub fn i4_an_undo_waits_for_a_person(point: &Point) {
    assert!(point.late || (point.world.application.up && point.world.target_accepts()), "I4: an undo that never ends");
}

/// Our finalizer goes: either the application may run on the new database already, or nothing of the migration is left.
pub fn i4_released(status: &PostgresMigrationStatus, point: &Point) {
    let world = &point.world;
    if status.resumed && status.outcome != Some(Outcome::Cancelled) {
        assert!(world.target_accepts(), "I4: released, and the new database is not there");
        assert!(world.unfenced || !world.source_accepts(), "I4: released, and both databases are open");
        let told = status.hold.is_some();
        assert!(point.late || told || world.application.up, "I4: released, and the application stands still without a word");
    } else {
        as_it_was_unless(point.late, world);
    }
}

fn succeeded(world: &World, fence: bool) {
    assert!(if fence { world.fenced() || world.unfenced } else { world.source_accepts() }, "success without a fence");
    assert!(world.marked && world.bucket.marked, "success without a mark");
    assert!(world.target_accepts(), "success without a published copy");
    assert!(world.setting == Setting::New || world.taken, "success, and the application is led elsewhere");
    assert!(world.application.up && world.application.original.is_none(), "success without an application");
    assert!(world.bucket.sealed, "success without an archive");
    let movers = Task::ALL.iter().zip(world.jobs).filter(|(task, job)| **task != Task::Schema && job.state != JobState::Absent);
    assert_eq!(movers.count(), 0, "success, and movers are left");
}

/// Nothing of a migration stands in the world.
pub fn as_it_was(world: &World) {
    for leg in ITINERARY.iter().filter(|leg| leg.has_effects) {
        assert!(!stands(world, leg.step), "left behind by {:?}: {world:?}", leg.step);
    }
}

/// What was done last is undone first: while `step` is undone, nothing of a later step stands.
pub fn undo_goes_backwards(world: &World, step: StepName) {
    for leg in ITINERARY.iter().filter(|leg| leg.has_effects && leg.step > step) {
        assert!(!stands(world, leg.step), "{step:?} is undone before {:?}", leg.step);
    }
}

/// Whether there is a copy that is not published.
fn copies(world: &World) -> bool {
    [Name::Staging, Name::Kept].into_iter().any(|name| world.target.named(name).is_some())
}

/// Whether an effect of `step` stands in the world.
fn stands(world: &World, step: StepName) -> bool {
    let job = |task: Task| world.jobs[task as usize].state != JobState::Absent;
    match step {
        StepName::Quiesce => world.application.original.is_some() || world.writer.original.is_some(),
        StepName::Fence => {
            !world.source_accepts()
                || world.source.named(Name::Tombstone).is_some()
                || world.subscription != (world.before == Before::Full)
        }
        StepName::Dump => job(Task::Dump) || world.bucket.archive.is_some() || world.bucket.sealed,
        StepName::VerifyArchive => job(Task::Verify),
        StepName::Restore => [Task::Restore, Task::Save, Task::SaveRead].into_iter().any(job) || copies(world) || world.orphan,
        StepName::Compare => job(Task::Compare) || job(Task::CompareAgain),
        StepName::Analyze => job(Task::Analyze),
        StepName::Publish => {
            let before = world.target.oid(EXISTING);
            world.target.named(Name::Application) != before || before.is_some_and(|d| !d.open)
        }
        StepName::Repoint => world.setting == Setting::New || world.previous.is_some(),
        StepName::SchemaJob => job(Task::Schema),
        StepName::Keep => world.marked || world.bucket.marked,
        StepName::Pin | StepName::Preflight | StepName::Witness | StepName::Resume => false,
    }
}

/// Intent before effect: when something is about to happen, our finalizer is on the object, the spec is fixed, and what was
/// persisted before this call lets whoever comes after a crash find what happened.
pub fn no_effect_without_intent(cx: &Call<'_>, intent: bool, what: &str) {
    assert!(intent, "no intent before the effect: {what}");
    assert!(cx.finalizer, "no finalizer before the effect: {what}");
    assert!(cx.seen.start_time.is_some(), "the spec is not fixed before the effect: {what}");
    assert!(cx.seen.steps.iter().any(|s| s.name == cx.step), "{:?} was not begun before the effect: {what}", cx.step);
}

/// No effect twice: a mover is started only when no other one of this migration is at work.
pub fn no_mover_beside_another(world: &World) {
    let mut at_work =
        Task::ALL.iter().zip(world.jobs).filter(|(task, job)| **task != Task::Schema && job.state == JobState::Running);
    assert!(at_work.next().is_none(), "effect twice: a mover is started beside another one");
}

/// A step goes forward only while that is wanted, and never once its undo has begun.
pub fn forward_is_wanted(status: &PostgresMigrationStatus, object: Object) {
    assert!(status.undo.is_none(), "forward although everything is being undone");
    assert!(status.outcome.is_none(), "forward although the run ended");
    assert!(!object.deleting || status.resumed, "forward although the object is being deleted");
}

/// Going back is begun only by whoever may ask for it; what the application has written goes out of sight only when its author
/// has said that they know.
pub fn going_back_is_wanted(status: &PostgresMigrationStatus, object: Object, cause: UndoCause) {
    assert!(status.undo.is_none(), "an undo of an undo");
    match cause {
        UndoCause::Rollback => {
            assert!(object.rollback != Back::No, "rolled back, and nobody asked for it");
            assert!(!status.resumed || object.rollback == Back::Acknowledged, "rows go out of sight unacknowledged");
        }
        UndoCause::Cancel => assert!(object.cancel && !status.resumed, "called off, and nobody asked for it"),
        UndoCause::Deletion => assert!(object.deleting && !status.resumed, "undone by a deletion that nobody asked for"),
        UndoCause::Failure => panic!("a failure undoes at once"),
    }
    assert!(status.outcome.is_none() || cause == UndoCause::Rollback, "undone after the end");
}

/// The object stays small whatever happens.
pub fn the_status_is_small(status: &PostgresMigrationStatus) {
    let size = serde_json::to_string(status).unwrap().len();
    assert!(size < 64 * 1024, "a status of {size} bytes");
}

/// As [`as_it_was`], unless an operator acts, or has acted, on what is no longer so.
pub fn as_it_was_unless(late: bool, world: &World) {
    if !late {
        as_it_was(world);
    }
}
