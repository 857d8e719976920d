//! The table "Over a life" of docs/conditions.md, line by line, and what people read beside it.

use super::*;
use crate::api::{ArchiveStatus, Completion, Hold, Pinned, PinnedEnd, Publication, Rollback, Transfer};
use crate::plan::checks::fixtures;
use crate::plan::record::{self, Advance};
use crate::plan::{Failure, itinerary};

const BOOK: &str = include_str!("../../../docs/conditions.md");

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

struct Object {
    spec: PostgresMigrationSpec,
    status: PostgresMigrationStatus,
    rest: Option<Rest>,
}

impl Object {
    /// Of a run that has done the steps before `step` and begun that one.
    fn at(step: StepName) -> Self {
        let (spec, mut status) = (fixtures::spec(), PostgresMigrationStatus::default());
        record::begin_run(&mut status, &spec, 1);
        for leg in &ITINERARY[..number(step) - 1] {
            record::begin(&mut status, leg.step, at(10));
            record::advanced(&mut status, &spec, leg.step, Advance::Done, at(10));
        }
        record::begin(&mut status, step, at(10));
        Self { spec, status, rest: None }
    }

    fn done() -> Self {
        Self::at(StepName::Keep).with(|o| {
            record::advanced(&mut o.status, &o.spec, StepName::Keep, Advance::Done, at(10));
            o.status.resumed = true;
            record::end(&mut o.status, Outcome::Succeeded, at(11));
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn resting(self, rest: Rest) -> Self {
        Self { rest: Some(rest), ..self }
    }

    fn failing(self, failure: &Failure) -> Self {
        self.with(|o| {
            let step = o.status.step.unwrap();
            record::failed(&mut o.status, o.spec.mode, step, failure, at(11));
        })
    }

    fn undoing(self, cause: UndoCause) -> Self {
        let (reason, words) = record::undo_words(cause);
        self.with(|o| record::begin_undo(&mut o.status, cause, reason, words, at(12)))
    }

    fn undone(self, outcome: Outcome) -> Self {
        self.with(|o| {
            for leg in ITINERARY.iter().filter(|leg| leg.has_effects) {
                if o.status.steps.iter().any(|e| e.name == leg.step) {
                    record::undo_advanced(&mut o.status, leg.step, &Advance::Done, at(13));
                }
            }
            record::end_undo(&mut o.status);
            record::end(&mut o.status, outcome, at(13));
        })
    }

    /// What is derived from it.
    fn seen(mut self) -> PostgresMigrationStatus {
        summarize(&self.spec, &mut self.status, 1, self.rest, at(14));
        self.status
    }
}

fn plan(o: &mut Object) {
    o.spec.mode = Mode::Plan;
    o.status.start_time = None;
}

fn publish(o: &mut Object) {
    o.status.publication = Some(Publication { originals: "{}".into(), set_aside: None, row_changes: None, published: true });
}

fn ask_back(o: &mut Object) {
    o.spec.rollback = Some(Rollback::default());
}

fn wrong() -> Failure {
    Failure::terminal(reasons::NOT_EQUAL, "table public.a differs")
}

fn found<'a>(status: &'a PostgresMigrationStatus, kind: &str) -> &'a Condition {
    status.conditions.iter().find(|c| c.type_ == kind).unwrap()
}

/// One line of the table, and an object at that moment.
#[track_caller]
fn line(moment: &str, object: Object) {
    let row = BOOK.lines().find(|line| line.starts_with(&format!("| {moment} |"))).unwrap_or_else(|| panic!("no line: {moment}"));
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).skip(1).collect();
    let status = object.seen();
    let phase = format!("`{:?}`", status.phase.unwrap());
    assert_eq!(cells[0], phase, "{moment}");
    let kinds = [types::READY, types::RECONCILING, types::STALLED, types::SUCCEEDED, types::ROLLED_BACK];
    for (kind, cell) in kinds.into_iter().zip(&cells[1..]) {
        let condition = found(&status, kind);
        let fits = cell.split("; ").any(|told| told.split(' ').next() == Some(condition.status.as_str()));
        assert!(fits, "{moment}: {kind} is {} and not {cell}", condition.status);
        let (told, reason) = (cell.split('`').nth(1), condition.reason.as_str());
        assert!(told.is_none_or(|told| told == reason), "{moment}: {kind} has the reason {reason} and not {cell}");
        if cell.contains("its reason") {
            assert_eq!(reason, reasons::NOT_EQUAL, "{moment}: {kind}");
        }
        assert_eq!(condition.observed_generation, Some(1));
    }
}

#[test]
fn every_moment_of_a_life_is_as_the_book_says() {
    line("checks are running", Object::at(StepName::Pin));
    line("checks are running", Object::at(StepName::Preflight).with(plan));
    line("planned", Object::at(StepName::Preflight).with(plan).resting(Rest::Planned));
    line("blocked, `mode: Plan`", Object::at(StepName::Preflight).with(plan).failing(&wrong()).resting(Rest::Blocked));
    line("blocked, `mode: Plan`", Object::at(StepName::Preflight).with(plan).failing(&wrong()));
    line("blocked, `mode: Migrate`", Object::at(StepName::Preflight).failing(&wrong()));
    line("steps are running", Object::at(StepName::Restore));
    line("suspended between steps", Object::at(StepName::Restore).resting(Rest::Suspended));
    let held = || Object::at(StepName::Repoint).with(publish).failing(&wrong());
    line("held after `Publish`", held().resting(Rest::Held));
    line("held after `Publish`", held());
    line("`spec.rollback` waits for `acknowledge`", Object::done().with(ask_back));
    line("`spec.rollback` waits for `acknowledge`", Object::at(StepName::Keep).with(ask_back).with(|o| o.status.resumed = true));
    line("being undone", Object::at(StepName::Restore).undoing(UndoCause::Cancel));
    let stuck =
        |o: &mut Object| (0..6).for_each(|n| _ = record::undo_failed(&mut o.status, StepName::Restore, &wrong(), at(12 + n)));
    line("being undone", Object::at(StepName::Restore).undoing(UndoCause::Cancel).with(stuck));
    line("failed and undone", Object::at(StepName::Compare).failing(&wrong()).undone(Outcome::Failed));
    line("cancelled and undone", Object::at(StepName::Compare).undoing(UndoCause::Cancel).undone(Outcome::Cancelled));
    let back = Object::done().undoing(UndoCause::Rollback).undone(Outcome::Cancelled);
    line("rolled back (`spec.rollback`)", back);
    line("done", Object::done());
}

#[test]
fn an_undo_stalls_after_six_failures_and_not_before() {
    let stalled = |failures: i64, object: Object| {
        let mut object = object;
        (0..failures).for_each(|n| _ = record::undo_failed(&mut object.status, StepName::Fence, &wrong(), at(12 + n)));
        let status = object.seen();
        (found(&status, types::STALLED).status.clone(), status.message.unwrap())
    };
    let undoing = || Object::at(StepName::Restore).undoing(UndoCause::Cancel);
    assert_eq!(stalled(5, undoing()).0, "False");
    let (six, message) = stalled(6, undoing());
    assert!(six == "True" && message.contains("It is tried again until it works"), "{message}");
    let head = "Undoing everything, because spec.cancel is set. Undoing step 4: closing the source database: NotEqual:";
    assert!(message.starts_with(head), "{message}");
    // The same for an old database that is to be opened after the end; while a run goes forward, its patience decides.
    let unfencing = Object::done();
    assert_eq!(stalled(6, unfencing).0, "True");
    assert_eq!(stalled(6, Object::at(StepName::Restore)).0, "False");
}

#[test]
fn a_long_cause_leaves_room_for_what_is_being_done() {
    let object = Object::at(StepName::Restore).undoing(UndoCause::Cancel).with(|o| {
        o.status.undo.as_mut().unwrap().message = "c".repeat(LIMIT);
        let wait = Advance::Wait { seconds: 1, message: "d".repeat(LIMIT) };
        record::undo_advanced(&mut o.status, StepName::Restore, &wait, at(13));
    });
    let message = object.seen().message.unwrap();
    let (cause, doing) = ["c", "d"].map(|c| message.matches(c).count()).into();
    assert_eq!(message.chars().count(), LIMIT);
    assert!((350..420).contains(&cause) && (550..615).contains(&doing), "{cause} {doing}");
}

#[test]
fn what_an_undo_put_back_depends_on_what_had_been_done_and_what_stays() {
    let undone = |object: Object| object.undone(Outcome::Cancelled).seen().message.unwrap();
    let at_resume = || Object::at(StepName::Resume).undoing(UndoCause::Rollback);
    let said = undone(at_resume());
    let all = "Rolled back: spec.rollback is set. Everything that had been done is undone: the settings of the application have \
        their previous values, what had the database's name has it again, no copy is left on the target, no dump is left in the \
        bucket, the source database is open, 0 workloads are as they were.";
    assert!(said.starts_with(all), "{said}");
    let said = undone(at_resume().with(|o| o.status.resumed = true));
    assert!(said.contains("the dump of the migration stays in the bucket"), "{said}");
    let kept = crate::api::Saved { kept_as: Some("d_k1".into()), ..crate::api::Saved::default() };
    let said = undone(at_resume().with(|o| o.status.saved = Some(kept)));
    assert!(said.contains("the new database has another name") && said.contains("database d_k1"), "{said}");
    let said = undone(Object::at(StepName::Quiesce).undoing(UndoCause::Deletion).with(|o| o.status.steps.pop().map_or((), drop)));
    assert_eq!(said, "Called off: the object is being deleted. Nothing had been changed.");
}

#[test]
fn conditions_of_steps_say_what_stands() {
    let mut object = Object::at(StepName::Compare);
    object.status.archive = Some(ArchiveStatus {
        bucket: "b".into(),
        key: "k".into(),
        bytes: Some(7),
        sha256: Some("ff".into()),
        ..Default::default()
    });
    object.status.steps.last_mut().unwrap().message = Some("1 of 2 tables".into());
    let status = object.seen();
    let said = |status: &PostgresMigrationStatus, kind| {
        let c = found(status, kind);
        (c.status.clone(), c.reason.clone(), c.message.clone())
    };
    let told = |status: &str, reason: &str, message: &str| (status.to_owned(), reason.to_owned(), message.to_owned());
    assert_eq!(said(&status, types::PLANNED), told("True", "Done", "No findings."));
    assert_eq!(said(&status, types::QUIESCED), told("True", "Done", "0 workloads stopped, no pod of them is left."));
    assert_eq!(said(&status, types::FENCED), told("True", "Done", "The source database refuses everyone else."));
    assert_eq!(said(&status, types::ARCHIVED), told("True", "Done", "b/k, 7 bytes, SHA-256 ff"));
    assert_eq!(said(&status, types::VERIFIED), told("Unknown", "Unknown", ""));
    assert_eq!(said(&status, types::PUBLISHED), told("Unknown", "Unknown", ""));

    let undoing = |object: Object| object.undoing(UndoCause::Cancel);
    let wait = Advance::Wait { seconds: 1, message: "w".into() };
    let going =
        undoing(Object::at(StepName::Compare)).with(|o| record::undo_advanced(&mut o.status, StepName::Fence, &wait, at(13)));
    let status = going.seen();
    assert_eq!(said(&status, types::FENCED), told("Unknown", "Undoing", "w"));
    let status = undoing(Object::at(StepName::Compare)).undone(Outcome::Cancelled).seen();
    assert_eq!(said(&status, types::FENCED), told("False", "Undone", ""));
    assert_eq!(said(&status, types::ARCHIVED), told("False", "Undone", ""));
    let archive = || Some(ArchiveStatus { bucket: "b".into(), key: "k".into(), ..Default::default() });
    let after = Object::done().with(|o| o.status.archive = archive()).undoing(UndoCause::Rollback).undone(Outcome::Cancelled);
    assert_eq!(said(&after.seen(), types::ARCHIVED).0, "True", "it was promised to stay");
    let opened = Object::done().with(|o| record::unfence_advanced(&mut o.status, &Advance::Done, at(13))).seen();
    assert_eq!(said(&opened, types::FENCED), told("False", "Unfenced", going_back::UNFENCED));
    assert!(opened.message.unwrap().ends_with(going_back::UNFENCED));

    let mut warned = Object::at(StepName::Quiesce);
    warned.status.warnings = vec![record::finding(&wrong()); 2];
    assert_eq!(said(&warned.seen(), types::PLANNED).2, "2 warnings, see status.warnings.");
    let running =
        Object::at(StepName::Quiesce).with(|o| _ = record::advanced(&mut o.status, &o.spec, StepName::Quiesce, wait, at(12)));
    assert_eq!(said(&running.seen(), types::QUIESCED), told("False", "Progressing", "w"));
}

#[test]
fn a_cancel_that_came_too_late_is_told() {
    let late = |o: &mut Object| o.spec.cancel = true;
    let status = Object::at(StepName::Repoint).with(publish).with(late).seen();
    assert_eq!(found(&status, types::SUCCEEDED).reason, reasons::CANCEL_TOO_LATE);
    for other in [Object::at(StepName::Publish).with(late), Object::at(StepName::Repoint).with(publish)] {
        assert_eq!(found(&other.seen(), types::SUCCEEDED).reason, reasons::PROGRESSING);
    }
}

#[test]
fn a_condition_keeps_the_time_of_its_last_change() {
    let mut object = Object::at(StepName::Restore);
    let mut changed = |second: i64, change: fn(&mut Object)| {
        change(&mut object);
        summarize(&object.spec, &mut object.status, second, object.rest, at(second));
        let ready = found(&object.status, types::RECONCILING);
        (ready.last_transition_time.0.as_second(), ready.observed_generation)
    };
    assert_eq!(changed(20, |_| ()), (20, Some(20)));
    assert_eq!(changed(30, |o| record::end_undo(&mut o.status)), (20, Some(30)));
    assert_eq!(changed(40, |o| record::end(&mut o.status, Outcome::Failed, at(40))), (40, Some(40)));
}

#[test]
fn success_says_where_the_application_runs_or_that_nothing_was_done() {
    let verified = |o: &mut Object| {
        let (tables, rows) = (3, 12);
        o.status.verification = Some(crate::api::Verification { tables, rows, ..Default::default() });
    };
    let said = Object::done().with(verified).seen().message.unwrap();
    assert!(said.contains("3 tables with 12 rows were proven equal. The old database is kept, unchanged and fenced."), "{said}");
    let earlier = |o: &mut Object| {
        o.status.completion = Some(Completion { earlier: true, migration_uid: "u-1".into(), ..Completion::default() });
    };
    let again = Object::done().with(earlier).seen();
    assert_eq!(found(&again, types::READY).reason, reasons::ALREADY_MIGRATED);
    let said = again.message.unwrap();
    assert!(
        said.starts_with("Nothing was done: an earlier object of this name (UID u-1)") && said.ends_with("another name."),
        "{said}"
    );
    for ask in [|o: &mut Object| o.spec.unfence = true, ask_back] {
        let said = Object::done().with(earlier).with(ask).seen().message.unwrap();
        assert!(said.ends_with(going_back::NOTHING_HERE), "{said}");
    }
}

#[test]
fn a_refusal_names_the_first_finding_and_counts_the_others() {
    let refused = |n: usize| {
        let o = Object::at(StepName::Preflight).with(|o| o.status.blockers = vec![record::finding(&wrong()); n]);
        o.with(|o| record::end(&mut o.status, Outcome::Failed, at(12))).seen().message.unwrap()
    };
    assert!(refused(1).starts_with("spec (NotEqual): table public.a differs.") && !refused(1).contains("more"), "{}", refused(1));
    assert!(refused(3).contains("(And 2 more, see status.blockers.)"), "{}", refused(3));
    assert!(refused(0).starts_with("The checks could not be made. Nothing was touched."), "{}", refused(0));
    let called_off = Object::at(StepName::Pin).with(|o| record::end(&mut o.status, Outcome::Cancelled, at(12))).seen();
    assert!(called_off.message.unwrap().starts_with("Called off before anything was changed."));
}

#[test]
fn progress_is_a_share_of_the_bytes_or_of_the_steps() {
    let progress = |o: Object| o.seen().progress;
    let some = |text: &str| Some(text.to_owned());
    let transfer = |percent, seconds_left| Some(Transfer { percent, seconds_left, ..Transfer::default() });
    let moving = |step, percent, left| progress(Object::at(step).with(|o| o.status.transfer = transfer(percent, left)));
    assert_eq!(progress(Object::at(StepName::Fence)), some("4/15"));
    for step in [StepName::Dump, StepName::VerifyArchive, StepName::Restore, StepName::Compare] {
        assert_eq!(moving(step, Some(40), Some(90)), some("40% 90s left"));
        assert_eq!(moving(step, Some(3), None), some("3%"));
    }
    assert_eq!(moving(StepName::Dump, None, None), some("5/15"));
    assert_eq!(moving(StepName::Publish, Some(99), None), some("11/15"), "that was another step's");
    let undoing = Object::at(StepName::Dump).undoing(UndoCause::Cancel).with(|o| o.status.transfer = transfer(Some(40), None));
    assert_eq!(progress(undoing), some("5/15"));
    assert_eq!(progress(Object::done()), some("100%"));
    assert_eq!(progress(Object::at(StepName::Pin).failing(&wrong())), some("-"));
    assert_eq!(itinerary::number(StepName::Keep), 15);
}

#[test]
fn sizes_and_moments_read_easily() {
    let sizes = [-1, 0, 1023, 1024, 1536, 1 << 20, 5 << 30, 7 << 40, 9000 << 40].map(bytes);
    assert_eq!(sizes, ["-1 B", "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB", "7.0 TiB", "9000.0 TiB"]);
    assert_eq!(second(Timestamp::new(61, 999_000_000).unwrap()), "1970-01-01T00:01:01Z");
    let pinned = |o: &mut Object| {
        let (stamp, source, target) = (String::new(), PinnedEnd::default(), PinnedEnd::default());
        o.status.pinned = Some(Pinned { stamp, source, target, database_bytes: 2048, database_oid: 1 });
    };
    let sized = Object::at(StepName::Dump).with(pinned);
    assert_eq!(sized.seen().size.as_deref(), Some("2.0 KiB"));
    let archive = |o: &mut Object| o.status.archive = Some(ArchiveStatus { bytes: Some(512), ..Default::default() });
    assert_eq!(Object::at(StepName::Dump).with(pinned).with(archive).seen().size.as_deref(), Some("2.0 KiB (512 B archived)"));
    assert_eq!(Object::at(StepName::Pin).seen().size, None);
}

#[test]
fn the_reason_of_a_failure_is_found_where_it_stands() {
    let ready = |o: Object| found(&o.seen(), types::READY).reason.clone();
    let over = |o: Object| o.with(|o| record::end(&mut o.status, Outcome::Failed, at(12)));
    let mut held = Object::at(StepName::Repoint).resting(Rest::Held);
    held.status.hold = Some(Hold { step: StepName::Repoint, reason: reasons::REPOINT_FAILED.into(), message: "x".into() });
    assert_eq!(ready(held), reasons::REPOINT_FAILED);
    assert_eq!(ready(over(Object::at(StepName::Pin))), reasons::BLOCKED);
    let said = |words: &str| over(Object::at(StepName::Pin).with(|o| o.status.steps[0].message = Some(words.into())));
    assert_eq!(ready(said("QueryFailed: no answer")), reasons::QUERY_FAILED);
    assert_eq!(ready(said("no reason: at all")), reasons::BLOCKED);
}

#[test]
fn a_rollback_that_is_not_acknowledged_leaves_what_was_proven() {
    let asked = |o: Object| o.with(ask_back).resting(Rest::Unacknowledged).seen();
    let status = asked(Object::done());
    let condition = found(&status, types::SUCCEEDED);
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", reasons::SUCCEEDED));
    assert!(status.message.as_deref().unwrap().contains("spec.rollback.acknowledge"), "{:?}", status.message);
    assert!(!condition.message.contains("spec.rollback.acknowledge"), "{}", condition.message);
    let status = asked(Object::at(StepName::Keep).with(|o| o.status.resumed = true));
    let condition = found(&status, types::SUCCEEDED);
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("Unknown", reasons::ROLLBACK_NOT_ACKNOWLEDGED));
}
