use super::*;
use crate::api::Publication;
use crate::plan::checks::fixtures::spec;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "as the fields of the status have it")]
fn time(second: i64) -> Option<Time> {
    Some(Time(at(second)))
}

/// Of a run that began its first step at 10 s.
fn begun(step: StepName) -> PostgresMigrationStatus {
    let mut status = PostgresMigrationStatus::default();
    begin_run(&mut status, &spec(), 1);
    begin(&mut status, step, at(10));
    status
}

fn transient() -> Failure {
    Failure::transient(reasons::QUERY_FAILED, "spec.source.postgres: no answer")
}

#[test]
fn a_new_run_keeps_conditions_and_counts_from_where_the_last_one_stood() {
    let wanted = |retry| PostgresMigrationSpec { retry: Some(retry), ..spec() };
    let mut status = begun(StepName::Pin);
    assert_eq!((status.run, status.observed_retry, status.observed_generation), (1, 0, Some(1)));
    let ready =
        serde_json::json!({"type": "Ready", "status": "False", "reason": "R", "message": "m", "lastTransitionTime": at(1)});
    let conditions = vec![serde_json::from_value(ready).unwrap()];
    status.conditions.clone_from(&conditions);

    begin_run(&mut status, &wanted(4), 2);
    assert_eq!((status.run, status.observed_retry, status.observed_generation), (1, 4, Some(2)), "the first touched nothing");
    assert!(status.steps.is_empty() && status.conditions == conditions);
    status.start_time = time(12);
    begin_run(&mut status, &wanted(3), 3);
    assert_eq!((status.run, status.observed_retry, status.start_time), (2, 4, None), "a number that was seen stays seen");
}

#[test]
fn no_two_attempts_of_any_run_have_one_number() {
    let mut status = begun(StepName::Dump);
    assert_eq!((attempt(&status, StepName::Dump), attempt(&status, StepName::Restore)), (1, 1));
    status.steps[0].attempt = 3;
    assert_eq!(attempt(&status, StepName::Dump), 3);
    status.run = 3;
    assert_eq!((attempt(&status, StepName::Dump), attempt(&status, StepName::Restore)), (2003, 2001));
}

#[test]
fn the_intent_stands_once_with_the_time_of_its_beginning() {
    let mut status = begun(StepName::Dump);
    status.transfer = Some(crate::api::Transfer::default());
    assert!(!begin(&mut status, StepName::Dump, at(20)));
    assert_eq!((status.steps.len(), &status.steps[0].start_time), (1, &time(10)));
    assert!(status.transfer.is_some(), "it goes on");
    assert!(begin(&mut status, StepName::VerifyArchive, at(20)));
    assert!(status.transfer.is_none() && status.step == Some(StepName::VerifyArchive));
}

#[test]
fn what_a_step_came_to_is_written_down() {
    let mut status = begun(StepName::Dump);
    let wait = |words: &str| Advance::Wait { seconds: 1, message: words.into() };
    let take = |status: &mut PostgresMigrationStatus, advance, second| {
        assert_eq!(advanced(status, &spec(), StepName::Dump, advance, at(second)), None);
        status.steps[0].clone()
    };
    let e = take(&mut status, wait("1 of 2"), 11);
    assert_eq!((e.message.as_deref(), e.message_since), (Some("1 of 2"), time(11)));
    let e = take(&mut status, wait("1 of 2"), 12);
    assert_eq!(e.message_since, time(11), "nothing new");
    let e = take(&mut status, wait("2 of 2"), 13);
    assert_eq!((e.message.as_deref(), e.message_since), (Some("2 of 2"), time(13)));

    let next = |status: &mut PostgresMigrationStatus, second| take(status, Advance::NextAttempt(transient()), second);
    for (attempt, second, pause) in [(2, 20, 2), (3, 30, 15), (4, 50, 60)] {
        let e = next(&mut status, second);
        assert_eq!((e.attempt, e.not_before.clone(), e.state), (attempt, time(second + pause), StepState::Running));
        assert!(e.message.unwrap().starts_with(&format!("attempt {attempt}: the last one ended with QueryFailed: ")));
    }
    failed(&mut status, Mode::Migrate, StepName::Dump, &transient(), at(60));
    let e = take(&mut status, Advance::Again, 61);
    assert_eq!((e.failures, e.failing_since), (0, None));
    let e = take(&mut status, Advance::Done, 75);
    assert_eq!((e.state, e.end_time, e.duration_seconds, e.message), (StepState::Done, time(75), Some(65), None));
}

#[test]
fn the_last_attempt_is_a_failure() {
    let mut status = begun(StepName::Dump);
    status.start_time = time(5);
    status.steps[0].attempt = 4;
    let remedy = advanced(&mut status, &spec(), StepName::Dump, Advance::NextAttempt(transient()), at(20));
    assert_eq!(remedy, Some(Remedy::Undo));
    let undo = status.undo.unwrap();
    assert_eq!((undo.cause, undo.step, undo.start_time), (UndoCause::Failure, StepName::Dump, time(20)));
    assert_eq!(undo.message, "spec.source.postgres: no answer (attempt 4 of 4)");
}

#[test]
fn a_run_starts_when_the_checks_of_a_migration_are_done() {
    for (mode, started) in [(Mode::Migrate, time(11)), (Mode::Plan, None)] {
        let mut status = begun(StepName::Preflight);
        let spec = PostgresMigrationSpec { mode, ..spec() };
        advanced(&mut status, &spec, StepName::Preflight, Advance::Done, at(11));
        assert_eq!(status.start_time, started);
    }
    let mut status = begun(StepName::Pin);
    advanced(&mut status, &spec(), StepName::Pin, Advance::Done, at(11));
    assert_eq!(status.start_time, None);
}

#[test]
fn a_failure_is_tried_again_refused_undone_or_held() {
    let mut status = begun(StepName::Pin);
    for (failures, second, pause) in [(1, 11, 1), (2, 12, 2), (3, 14, 4)] {
        let remedy = failed(&mut status, Mode::Migrate, StepName::Pin, &transient(), at(second));
        assert_eq!(remedy, Remedy::TryAgain(pause));
        let e = &status.steps[0];
        assert_eq!((e.failures, &e.failing_since, &e.not_before), (failures, &time(11), &time(second + pause)));
        assert_eq!(super::pause(&status, StepName::Pin, at(second)), pause);
    }
    assert_eq!((super::pause(&status, StepName::Pin, at(99)), super::pause(&status, StepName::Dump, at(0))), (0, 0));

    let wrong = Failure::needs_human(reasons::OBJECT_NOT_FOUND, "spec.target.cluster: no such Secret");
    let mut planned = begun(StepName::Pin);
    assert_eq!(failed(&mut planned, Mode::Plan, StepName::Pin, &wrong, at(11)), Remedy::Refuse);
    assert_eq!((planned.outcome, planned.blockers.len()), (None, 1));
    assert_eq!(failed(&mut planned, Mode::Migrate, StepName::Pin, &wrong, at(12)), Remedy::Refuse);
    assert_eq!((planned.outcome, planned.completion_time.clone()), (Some(Outcome::Failed), time(12)));
    assert_eq!(planned.blockers.len(), 1, "what stands there says more");

    status.start_time = time(5);
    assert_eq!(failed(&mut status, Mode::Migrate, StepName::Pin, &wrong, at(20)), Remedy::Undo);
    let undo = status.undo.take().unwrap();
    assert_eq!((undo.reason.as_str(), undo.complete), (reasons::OBJECT_NOT_FOUND, false));
    assert_eq!((status.steps[0].failures, status.steps[0].not_before.clone()), (0, None), "an undo counts anew");

    status.publication = Some(Publication { originals: "{}".into(), set_aside: None, row_changes: None, published: true });
    assert_eq!(failed(&mut status, Mode::Migrate, StepName::Pin, &wrong, at(21)), Remedy::Hold);
    let hold = status.hold.as_ref().unwrap();
    assert_eq!((hold.step, hold.reason.as_str()), (StepName::Pin, reasons::OBJECT_NOT_FOUND));
    assert!(status.undo.is_none());
}

#[test]
fn a_finding_stands_at_the_place_that_its_message_begins_with() {
    let place = |message: &str| {
        let found = finding(&Failure::terminal(reasons::SPEC_INVALID, message));
        (found.path, found.message)
    };
    let expected = |path: &str, message: &str| (path.to_owned(), format!("{message}. Correct the spec."));
    assert_eq!(place("spec.target.endpoint: no such host"), expected("spec.target.endpoint", "no such host"));
    assert_eq!(place("spec.target and more: x"), expected("spec", "spec.target and more: x"));
    assert_eq!(place("psql: no such host"), expected("spec", "psql: no such host"));
    assert_eq!(place("no such host"), expected("spec", "no such host"));
}

#[test]
fn what_was_held_goes_on_with_a_new_attempt_unless_a_job_has_done_its_work() {
    for (step, reason, next) in [
        (StepName::Repoint, reasons::REPOINT_FAILED, 2),
        (StepName::SchemaJob, reasons::SCHEMA_JOB_FAILED, 2),
        (StepName::SchemaJob, reasons::CLUSTER_UNREACHABLE, 1),
    ] {
        let mut status = begun(step);
        failed(&mut status, Mode::Migrate, step, &transient(), at(11));
        status.hold = Some(Hold { step, reason: reason.into(), message: "x".into() });
        unhold(&mut status, &PostgresMigrationSpec { retry: Some(7), ..spec() }, at(20));
        let e = &status.steps[0];
        assert_eq!((e.attempt, e.failures, &e.failing_since, &e.not_before), (next, 0, &None, &None), "{step:?} {reason}");
        assert_eq!((&e.message, &e.message_since, &e.start_time), (&None, &None, &time(20)));
        assert_eq!((status.hold.is_none(), status.observed_retry), (true, 7));
    }
}

#[test]
fn an_undo_that_a_person_asked_for_says_so() {
    let words = [UndoCause::Cancel, UndoCause::Deletion, UndoCause::Rollback].map(undo_words);
    let cancelled = (reasons::CANCELLED, "spec.cancel is set");
    let deleted = (reasons::DELETED, "the object is being deleted");
    assert_eq!(words, [cancelled, deleted, (reasons::ROLLBACK_REQUESTED, "spec.rollback is set")]);
}

#[test]
fn an_undo_is_written_down_and_tried_for_as_long_as_it_takes() {
    let mut status = begun(StepName::Fence);
    (status.outcome, status.completion_time) = (Some(Outcome::Succeeded), time(11));
    begin_undo(&mut status, UndoCause::Rollback, "R", "m", at(12));
    assert_eq!((status.outcome, status.completion_time.clone()), (None, None), "it has not succeeded any more");
    let seconds: Vec<_> = (0..6).map(|n| undo_failed(&mut status, StepName::Fence, &transient(), at(20 + n))).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 15, 15]);
    let e = &status.steps[0];
    assert_eq!((e.state, e.failures, &e.failing_since), (StepState::Undoing, 6, &time(20)));
    assert_eq!((&e.not_before, e.message.as_deref()), (&time(40), Some("QueryFailed: spec.source.postgres: no answer")));

    let wait = Advance::Wait { seconds: 1, message: "1 to go".into() };
    undo_advanced(&mut status, StepName::Fence, &wait, at(41));
    let e = &status.steps[0];
    assert_eq!((e.failures, &e.failing_since, e.message.as_deref()), (0, &None, Some("1 to go")));
    status.saved = Some(crate::api::Saved { attempt: 3, ..crate::api::Saved::default() });
    undo_advanced(&mut status, StepName::Fence, &Advance::NextAttempt(transient()), at(42));
    let e = &status.steps[0];
    assert_eq!((&e.not_before, e.state), (&time(57), StepState::Undoing));
    assert!(e.message.as_deref().unwrap().starts_with("attempt 3: the last one ended with QueryFailed"));
    undo_advanced(&mut status, StepName::Fence, &Advance::Done, at(60));
    assert_eq!((status.steps[0].state, &status.steps[0].message), (StepState::Undone, &None));
    end_undo(&mut status);
    assert!(status.undo.unwrap().complete);
}

#[test]
fn opening_the_old_database_afterwards_leaves_the_run_where_it_ended() {
    let mut status = begun(StepName::Fence);
    begin(&mut status, StepName::Keep, at(11));
    assert_eq!(unfence_failed(&mut status, &transient(), at(20)), 1);
    assert_eq!((status.step, status.steps[0].state, status.steps[0].failures), (Some(StepName::Keep), StepState::Undoing, 1));
    unfence_advanced(&mut status, &Advance::Done, at(21));
    assert_eq!((status.step, status.steps[0].state), (Some(StepName::Keep), StepState::Undone));
}

#[test]
fn the_checks_are_made_again_from_nothing() {
    let mut status = begun(StepName::Pin);
    let finding = finding(&transient());
    (status.blockers, status.warnings) = (vec![finding.clone()], vec![finding]);
    status.completion = Some(crate::api::Completion::default());
    look_again(&mut status);
    assert!(status.steps.is_empty() && status.blockers.is_empty() && status.warnings.is_empty());
    assert!(status.completion.is_none() && status.run == 1);
}

#[test]
fn words_of_any_length_fit() {
    assert_eq!(bounded(&"ä".repeat(LIMIT)), "ä".repeat(LIMIT));
    assert_eq!(bounded(&"ä".repeat(LIMIT + 1)), format!("{}…", "ä".repeat(LIMIT - 1)));
}
