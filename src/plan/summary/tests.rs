use super::*;
use crate::api::{Fence, FenceKind, Hold, Side, WorkloadKind};
use crate::plan::checks::fixtures::spec;
use crate::plan::{Failure, record};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A run that failed at the comparison with this message, and is undone.
fn failed_at_compare(message: &str) -> PostgresMigrationStatus {
    let mut status = PostgresMigrationStatus { run: 1, start_time: Some(Time(at(1))), ..Default::default() };
    status.quiesced = vec![crate::api::Quiesced {
        side: Side::Source,
        kind: WorkloadKind::Deployment,
        namespace: "old".into(),
        name: "api".into(),
        uid: "u".into(),
        replicas: Some(2),
        suspended: None,
        requested: true,
        stopped: true,
        restored: true,
    }];
    for leg in ITINERARY.iter().take(number(StepName::Compare)) {
        record::begin(&mut status, leg.step, at(2));
    }
    let failure = Failure::terminal(reasons::NOT_EQUAL, message);
    record::failed(&mut status, Mode::Migrate, StepName::Compare, &failure, at(3));
    for leg in ITINERARY.iter().take(number(StepName::Compare)).filter(|leg| leg.has_effects) {
        record::undo_advanced(&mut status, leg.step, &record::Advance::Done, at(4));
    }
    record::end_undo(&mut status);
    record::end(&mut status, Outcome::Failed, at(4));
    summarize(&spec(), &mut status, 1, None, at(5));
    status
}

#[test]
fn after_an_undo_it_is_said_what_failed_why_what_was_put_back_and_what_to_do() {
    let message = failed_at_compare("table public.a: row counts 1 and 2").message.unwrap();
    assert_eq!(
        message,
        format!(
            "Step 8 (Compare) failed (NotEqual): table public.a: row counts 1 and 2. Everything that had been done is \
             undone: no copy is left on the target, no dump is left in the bucket, the source database is open, \
             1 workload is as it was. {} Then raise spec.retry.",
            advice::next(reasons::NOT_EQUAL)
        )
    );
    let long = failed_at_compare(&"x".repeat(9000)).message.unwrap();
    assert_eq!(long.chars().count(), LIMIT);
    assert!(long.ends_with("Then raise spec.retry.") && long.contains("the source database is open"), "{long}");
}

#[test]
fn an_undo_that_keeps_failing_names_what_is_left_to_put_back() {
    let mut status = failed_at_compare("x");
    status.outcome = None;
    status.undo.as_mut().unwrap().complete = false;
    status.quiesced = (0..6)
        .map(|n| crate::api::Quiesced { name: format!("api-{n}"), restored: false, ..status.quiesced[0].clone() })
        .collect();
    status.fence = Some(Fence { method: FenceKind::Swap, originals: String::new(), closed: true, witness: None });
    status.archive = Some(crate::api::ArchiveStatus { bucket: "b".into(), key: "k.dump".into(), ..Default::default() });
    for name in [StepName::Fence, StepName::Quiesce, StepName::Dump] {
        status.steps.iter_mut().find(|s| s.name == name).unwrap().state = StepState::Undoing;
    }
    status.step = Some(StepName::Dump);
    let at_dump = status.steps.iter().position(|s| s.name == StepName::Dump).unwrap();
    status.steps[at_dump].message = Some(format!("SecretNotFound: Secret new/bucket is not there {}", "y".repeat(2000)));
    status.steps[at_dump].failures = 3;
    summarize(&spec(), &mut status, 1, None, at(6));
    assert!(!status.message.as_ref().unwrap().contains("Not put back yet"), "{status:?}");
    status.steps[at_dump].failures = 6;
    summarize(&spec(), &mut status, 1, None, at(6));
    let message = status.message.clone().unwrap();
    let left = "Not put back yet: dump b/k.dump, fence of the source database, source Deployment old/api-0, \
        source Deployment old/api-1, source Deployment old/api-2, source Deployment old/api-3, \
        source Deployment old/api-4, source Deployment old/api-5.";
    assert!(message.ends_with(left) && message.contains("Secret new/bucket is not there"), "{message}");
    assert!(message.chars().count() <= LIMIT);
    // The longest names that Kubernetes has do not push out the cause.
    for q in &mut status.quiesced {
        (q.namespace, q.name, q.side) = ("n".repeat(63), "a".repeat(200), Side::Target);
    }
    summarize(&spec(), &mut status, 1, None, at(6));
    let message = status.message.unwrap();
    let (namespace, name) = ("n".repeat(63), "a".repeat(200));
    let left = format!("database, target Deployment {namespace}/{name} and 5 more, see the status.");
    assert!(message.ends_with(&left) && message.contains("Secret new/bucket is not there"), "{message}");
    assert!(message.chars().count() <= LIMIT);
}

#[test]
fn what_waits_for_long_says_since_when() {
    let mut status = PostgresMigrationStatus { run: 1, start_time: Some(Time(at(1))), ..Default::default() };
    record::begin(&mut status, StepName::Quiesce, at(1_000));
    let mut said = |message: &str, second: i64| {
        let wait = record::Advance::Wait { seconds: 1, message: message.into() };
        record::advanced(&mut status, &spec(), StepName::Quiesce, wait, at(second));
        summarize(&spec(), &mut status, 1, None, at(second));
        status.message.clone().unwrap()
    };
    let head = "Step 3 of 15: stopping the writers";
    assert_eq!(said("waiting for a", 1_010), format!("{head}: waiting for a"));
    assert_eq!(said("waiting for b", 1_050), format!("{head}: waiting for b"));
    assert_eq!(said("waiting for b", 1_109), format!("{head}: waiting for b"));
    assert_eq!(said("waiting for b", 1_110), format!("{head}: waiting for b (since 1970-01-01T00:17:30Z)"));
    assert_eq!(said("waiting for b", 1_170), format!("{head}: waiting for b (since 1970-01-01T00:17:30Z)"));
    assert_eq!(said("waiting for c", 1_171), format!("{head}: waiting for c"));
    let long = said(&"x".repeat(2_000), 1_172);
    assert_eq!(long.chars().count(), LIMIT);
    let long = said(&"x".repeat(2_000), 1_300);
    assert!(long.ends_with("x (since 1970-01-01T00:19:32Z)") && long.chars().count() == LIMIT, "{long}");
}

#[test]
fn what_was_left_to_somebody_else_is_pointed_at() {
    let mut status = failed_at_compare("x");
    let message = "Deployment old/api was left as it is".to_owned();
    status.warnings =
        vec![crate::api::Finding { reason: reasons::CHANGED_BY_OTHERS.into(), path: "spec.source.writers".into(), message }];
    summarize(&spec(), &mut status, 1, None, at(6));
    assert!(status.message.unwrap().contains("see status.warnings"));
}

#[test]
fn a_copy_that_is_kept_is_named_whatever_the_undo_was_for() {
    let mut status = failed_at_compare("x");
    status.saved = Some(crate::api::Saved { kept_as: Some("shop_k1".into()), ..Default::default() });
    for cause in [UndoCause::Failure, UndoCause::Cancel, UndoCause::Deletion, UndoCause::Rollback] {
        status.undo.as_mut().unwrap().cause = cause;
        let said = undone(&spec(), &status, status.undo.as_ref().unwrap());
        assert!(said.contains("kept on the target's server as database shop_k1"), "{cause:?}: {said}");
    }
}

#[test]
fn deletion_is_offered_only_while_it_undoes_everything() {
    let mut status = PostgresMigrationStatus { run: 1, start_time: Some(Time(at(1))), ..Default::default() };
    let hold = Hold { step: StepName::Resume, reason: reasons::NOT_AVAILABLE.into(), message: "x".repeat(2000) };
    status.hold = Some(hold);
    let mut said = |resumed| {
        status.resumed = resumed;
        summarize(&spec(), &mut status, 1, None, at(2));
        status.message.clone().unwrap()
    };
    assert!(said(false).ends_with("or delete the object, to undo everything: the application was not started yet."));
    let after = said(true);
    assert!(!after.contains("delete") && after.contains("Raise spec.retry to run this step again."), "{after}");
}

#[test]
fn a_refusal_says_how_the_next_look_comes_about() {
    let mut status = PostgresMigrationStatus { run: 1, ..Default::default() };
    record::begin(&mut status, StepName::Pin, at(1));
    let failure = Failure::needs_human(reasons::DATABASE_NOT_FOUND, "spec.databases[0].name: there is none");
    for (mode, words) in [(Mode::Plan, "looked at again each minute"), (Mode::Migrate, "raise spec.retry")] {
        let mut status = status.clone();
        let spec = PostgresMigrationSpec { mode, ..spec() };
        record::failed(&mut status, mode, StepName::Pin, &failure, at(2));
        summarize(&spec, &mut status, 1, None, at(3));
        let message = status.message.unwrap();
        let begins = "spec.databases[0].name (DatabaseNotFound): there is none. Correct the name of the database. Nothing was";
        assert!(message.starts_with(begins) && message.contains(words), "{message}");
    }
}

#[test]
fn what_a_hold_left_standing_still_is_named_when_the_object_goes() {
    let mut status = failed_at_compare("x");
    status.hold = Some(Hold { step: StepName::Resume, reason: reasons::NOT_AVAILABLE.into(), message: "worker is gone".into() });
    let mut spec = spec();
    spec.target.application.workloads = ["api", "worker"]
        .map(|name| crate::api::Workload { kind: WorkloadKind::Deployment, name: name.into(), replicas: None })
        .into();
    let stopped = |side, namespace: &str, name: &str, restored| crate::api::Quiesced {
        side,
        namespace: namespace.into(),
        name: name.into(),
        restored,
        ..failed_at_compare("x").quiesced[0].clone()
    };
    // Writers of the old side stay stopped, also those of the same name.
    status.quiesced = vec![
        stopped(Side::Source, "old", "api", false),
        stopped(Side::Target, "new", "api", true),
        stopped(Side::Source, "old", "worker", false),
    ];
    let said = not_started(&spec, &status).unwrap();
    assert_eq!(said, "Not started: Deployment old/worker; start them by hand. Held was Step 14 (Resume): worker is gone.");
    status.quiesced[2].restored = true;
    assert_eq!(not_started(&spec, &status), None);
}
