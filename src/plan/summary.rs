//! What users read: phase, message, progress and conditions, all derived from the facts of the status. Never read by a decision.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::advice::{self, fitted};
use super::decide::{Back, Rest, back};
use super::going_back;
use super::itinerary::{ITINERARY, leg_of, number};
use super::record::{LIMIT, bounded};
use crate::api::conditions::{reasons, types};
use crate::api::{Mode, Outcome, Phase, PostgresMigrationSpec, PostgresMigrationStatus, StepName, StepState, Undo, UndoCause};

struct Word {
    status: &'static str,
    reason: String,
    message: String,
}

fn word(status: &'static str, reason: &str, message: impl Into<String>) -> Word {
    Word { status, reason: reason.into(), message: message.into() }
}

/// Brings everything that is derived up to date. `rest` is the last decision, where it was to do nothing.
pub fn summarize(
    spec: &PostgresMigrationSpec,
    status: &mut PostgresMigrationStatus,
    generation: i64,
    rest: Option<Rest>,
    now: Timestamp,
) {
    // What the next decision will be is told at once: nobody must see a phase without the conditions that belong to it.
    let blocked = spec.mode == Mode::Plan && status.start_time.is_none() && !status.blockers.is_empty();
    let open = status.outcome.is_none() && status.undo.is_none();
    let coming = match &status.hold {
        _ if back(spec, status) == Back::Unacknowledged => Some(Rest::Unacknowledged),
        Some(_) if open => Some(Rest::Held),
        None if open && blocked => Some(Rest::Blocked),
        Some(_) | None => None,
    };
    let rest = rest.or(coming);
    status.phase = Some(phase(spec, status, rest));
    status.message = Some(bounded(&message(spec, status, rest)));
    status.progress = progress(status);
    status.size = size(status);
    status.observed_generation = Some(generation);
    for kind in types::ALL {
        let w = condition(kind, spec, status, rest);
        set(status, kind, w, generation, now);
    }
}

fn set(status: &mut PostgresMigrationStatus, kind: &str, w: Word, generation: i64, now: Timestamp) {
    let message = bounded(&w.message);
    if let Some(c) = status.conditions.iter_mut().find(|c| c.type_ == kind) {
        if c.status != w.status {
            c.last_transition_time = Time(now);
        }
        c.status = w.status.into();
        c.reason = w.reason;
        c.message = message;
        c.observed_generation = Some(generation);
    } else {
        status.conditions.push(Condition {
            type_: kind.into(),
            status: w.status.into(),
            reason: w.reason,
            message,
            last_transition_time: Time(now),
            observed_generation: Some(generation),
        });
    }
}

fn phase(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus, rest: Option<Rest>) -> Phase {
    if rest == Some(Rest::Unacknowledged) {
        return Phase::RequiresApproval;
    }
    match status.outcome {
        Some(Outcome::Succeeded) => return Phase::Succeeded,
        Some(Outcome::Failed) => return Phase::Failed,
        Some(Outcome::Cancelled) => return Phase::Cancelled,
        None => {}
    }
    if status.undo.is_some() {
        Phase::PendingRollback
    } else if status.hold.is_some() {
        Phase::RequiresApproval
    } else if status.start_time.is_some() {
        Phase::Running
    } else {
        match rest {
            Some(Rest::Planned) => Phase::Pending,
            Some(Rest::Blocked) => Phase::Failed,
            Some(Rest::Suspended | Rest::Held | Rest::Unacknowledged | Rest::Ended) => Phase::Pending,
            None if spec.mode == Mode::Plan || status.run > 0 => Phase::Planning,
            None => Phase::Pending,
        }
    }
}

fn message(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus, rest: Option<Rest>) -> String {
    if let Some(undo) = &status.undo {
        return if undo.complete { undone(spec, status, undo) } else { undoing(status, undo) };
    }
    if rest == Some(Rest::Unacknowledged) {
        return going_back::unacknowledged(spec, status);
    }
    match status.outcome {
        Some(Outcome::Succeeded) => return succeeded(spec, status),
        Some(Outcome::Failed) => return refused(spec, status),
        Some(Outcome::Cancelled) => return format!("Called off before anything was changed. {}", going_back::anew(spec, status)),
        None => {}
    }
    if let Some(hold) = &status.hold {
        let again = "Raise spec.retry to run this step again.";
        let back = if status.resumed {
            "Or set spec.rollback to go back: what the application has written to the new database would be saved before."
        } else {
            "Or set spec.rollback, or delete the object, to undo everything: the application was not started yet."
        };
        let head = format!("{} failed after the database was published ({}): ", title(hold.step), hold.reason);
        return fitted(&head, &hold.message, &["Nothing was undone.", advice::next(&hold.reason), again, back], LIMIT);
    }
    match rest {
        Some(Rest::Planned) => "The checks passed and nothing was touched. Set spec.mode to Migrate to begin.".into(),
        Some(Rest::Blocked) => refused(spec, status),
        Some(Rest::Suspended) => "Suspended: set spec.suspend to false to go on.".into(),
        Some(Rest::Held | Rest::Unacknowledged | Rest::Ended) | None => {
            current(status).map_or_else(|| "Not looked at yet.".into(), |(_, m)| m)
        }
    }
}

const CANCEL_TOO_LATE: &str = "spec.cancel came after the database was published and is not acted on. \
    Set spec.rollback to go back to the old database.";

/// Said when a finished object is deleted.
pub const FENCE_REMAINS: &str = "the object is deleted; the source database stays fenced and its data unchanged. docs/runbook.md tells how to open it by hand";

fn undone(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus, undo: &Undo) -> String {
    let back = put_back(status);
    let saved = going_back::saved(status);
    match undo.cause {
        UndoCause::Failure => {
            let head = format!("{} failed ({}): ", title(undo.step), undo.reason);
            fitted(&head, &undo.message, &[&back, &saved, advice::next(&undo.reason), "Then raise spec.retry."], LIMIT)
        }
        UndoCause::Cancel => fitted("Called off: ", &undo.message, &[&back, &saved, &going_back::anew(spec, status)], LIMIT),
        UndoCause::Rollback => fitted("Rolled back: ", &undo.message, &[&back, &saved, &going_back::anew(spec, status)], LIMIT),
        UndoCause::Deletion => fitted("Called off: ", &undo.message, &[&back, &saved], LIMIT),
    }
}

fn undoing(status: &PostgresMigrationStatus, undo: &Undo) -> String {
    let doing = current(status).map_or_else(String::new, |(_, m)| m);
    // What stands in the way of the undo is what a person must act on: it comes first when both are long.
    let doing = if struggling(status) {
        fitted(
            "",
            &doing,
            &["It is tried again until it works: mend the cause.", &going_back::outstanding(status)],
            LIMIT * 4 / 5,
        )
    } else {
        fitted("", &doing, &[], LIMIT * 3 / 5)
    };
    fitted("Undoing everything, because ", &undo.message, &[&doing], LIMIT)
}

/// Whether an undo keeps failing, or the opening of the old database that spec.unfence asks for.
fn struggling(status: &PostgresMigrationStatus) -> bool {
    let undoing = status.undo.as_ref().is_some_and(|u| !u.complete);
    let opening = status.outcome == Some(Outcome::Succeeded);
    (undoing || opening) && status.steps.iter().any(|s| s.failures > 5)
}

/// What the undo put back, last step first, as the steps say that were undone.
fn put_back(status: &PostgresMigrationStatus) -> String {
    let undone = |step: &StepName| status.steps.iter().any(|s| s.name == *step && s.state == StepState::Undone);
    let workloads = match status.quiesced.len() {
        1 => "1 workload is as it was".to_owned(),
        n => format!("{n} workloads are as they were"),
    };
    let kept = status.saved.as_ref().is_some_and(|s| s.kept_as.is_some());
    let words = |step: StepName| match step {
        StepName::Publish => Some("what had the database's name has it again"),
        StepName::Repoint => Some("the settings of the application have their previous values"),
        StepName::Restore if kept => Some("the new database has another name"),
        StepName::Restore => Some("no copy is left on the target"),
        StepName::Dump if status.resumed => Some("the dump of the migration stays in the bucket"),
        StepName::Dump => Some("no dump is left in the bucket"),
        StepName::Fence => Some("the source database is open"),
        StepName::Quiesce => Some(workloads.as_str()),
        StepName::Pin
        | StepName::Preflight
        | StepName::VerifyArchive
        | StepName::Compare
        | StepName::Analyze
        | StepName::Witness
        | StepName::SchemaJob
        | StepName::Resume
        | StepName::Keep => None,
    };
    let all: Vec<&str> = ITINERARY.iter().rev().map(|leg| leg.step).filter(undone).filter_map(words).collect();
    let foreign = status.warnings.iter().any(|w| w.reason == reasons::CHANGED_BY_OTHERS);
    let but = if foreign { " Left alone is what somebody else had changed meanwhile: see status.warnings." } else { "" };
    match all.as_slice() {
        [] => "Nothing had been changed.".into(),
        all => format!("Everything that had been done is undone: {}.{but}", all.join(", ")),
    }
}

fn title(step: StepName) -> String {
    format!("Step {} ({step:?})", number(step))
}

/// Reason of success.
fn success_reason(status: &PostgresMigrationStatus) -> &'static str {
    if status.completion.as_ref().is_some_and(|c| c.earlier) { reasons::ALREADY_MIGRATED } else { reasons::SUCCEEDED }
}

fn succeeded(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus) -> String {
    let db = spec.databases.first();
    let name = db.map_or("", |d| d.target_name());
    if let Some(done) = status.completion.as_ref().filter(|c| c.earlier) {
        let asked = if spec.rollback.is_some() || spec.unfence { going_back::NOTHING_HERE } else { "" };
        return format!(
            "Nothing was done: an earlier object of this name (UID {}) moved the database to {name} at {}:{} and was done at {}. To move it once more, create an object of another name.{asked}",
            done.migration_uid, spec.target.endpoint.host, spec.target.endpoint.port, done.time
        );
    }
    let v = status.verification.clone().unwrap_or_default();
    let head = format!(
        "The application runs on database {name} at {}:{}. {} tables with {} rows were proven equal.",
        spec.target.endpoint.host, spec.target.endpoint.port, v.tables, v.rows
    );
    fitted(&format!("{head} "), &going_back::old_database(status), &[], LIMIT)
}

fn refused(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus) -> String {
    let next = match spec.mode {
        Mode::Plan => "Nothing was touched. Mend it: this is looked at again each minute.",
        Mode::Migrate => "Nothing was touched. Mend it, then edit the spec or raise spec.retry.",
    };
    let more = match status.blockers.len() {
        0 | 1 => String::new(),
        n => format!("(And {} more, see status.blockers.)", n - 1),
    };
    match status.blockers.first() {
        Some(b) => fitted(&format!("{} ({}): ", b.path, b.reason), &b.message, &[&more, next], LIMIT),
        None => {
            let last = status.steps.iter().rev().find_map(|s| s.message.as_deref());
            fitted("", last.unwrap_or("The checks could not be made"), &[next], LIMIT)
        }
    }
}

/// The step at work and what it does.
fn current(status: &PostgresMigrationStatus) -> Option<(StepName, String)> {
    let e = status.steps.iter().find(|s| Some(s.name) == status.step)?;
    let doing = leg_of(e.name).doing;
    let head = match e.state {
        StepState::Running | StepState::Done => format!("Step {} of {}: {doing}", number(e.name), ITINERARY.len()),
        StepState::Undoing | StepState::Undone => format!("Undoing step {}: {doing}", number(e.name)),
    };
    Some((e.name, e.message.as_ref().map_or_else(|| head.clone(), |m| format!("{head}: {m}"))))
}

fn progress(status: &PostgresMigrationStatus) -> Option<String> {
    match status.outcome {
        Some(Outcome::Succeeded) => return Some("100%".into()),
        Some(Outcome::Failed | Outcome::Cancelled) => return Some("-".into()),
        None => {}
    }
    let step = status.step?;
    let moving = matches!(step, StepName::Dump | StepName::VerifyArchive | StepName::Restore | StepName::Compare);
    match status.transfer.as_ref().filter(|_| moving && status.undo.is_none()) {
        Some(t) if t.percent.is_some() => {
            let left = t.seconds_left.map_or_else(String::new, |s| format!(" {s}s left"));
            Some(format!("{}%{left}", t.percent.unwrap_or(0)))
        }
        _ => Some(format!("{}/{}", number(step), ITINERARY.len())),
    }
}

fn size(status: &PostgresMigrationStatus) -> Option<String> {
    let database = status.pinned.as_ref().map(|p| p.database_bytes)?;
    let archive = status.archive.as_ref().and_then(|a| a.bytes);
    Some(archive.map_or_else(|| bytes(database), |a| format!("{} ({} archived)", bytes(database), bytes(a))))
}

/// Bytes for people, in binary units.
pub fn bytes(n: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[allow(clippy::cast_precision_loss)]
    let mut v = n.max(0) as f64;
    let mut unit = 0;
    while v >= 1024.0 && unit + 1 < UNITS.len() {
        v /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{v:.1} {}", UNITS[unit]) }
}

/// Reason of the failure that ended or stopped the run.
fn failure_reason(status: &PostgresMigrationStatus) -> String {
    if let Some(undo) = &status.undo {
        return undo.reason.clone();
    }
    if let Some(hold) = &status.hold {
        return hold.reason.clone();
    }
    if let Some(b) = status.blockers.first() {
        return b.reason.clone();
    }
    let of_step = status.steps.iter().rev().find_map(|s| s.message.as_ref()?.split_once(": ").map(|(r, _)| r.to_owned()));
    of_step.filter(|r| reasons::ALL.contains(&r.as_str())).unwrap_or_else(|| reasons::BLOCKED.into())
}

fn condition(kind: &str, spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus, rest: Option<Rest>) -> Word {
    let text = status.message.clone().unwrap_or_default();
    let undoing = status.undo.as_ref().is_some_and(|u| !u.complete);
    let asked_back = rest == Some(Rest::Unacknowledged);
    match kind {
        types::READY | types::STALLED if asked_back => {
            word(if kind == types::READY { "False" } else { "True" }, reasons::ROLLBACK_NOT_ACKNOWLEDGED, text)
        }
        types::RECONCILING if asked_back => word("False", reasons::DONE, ""),
        types::SUCCEEDED if asked_back => match status.outcome {
            Some(_) => word("True", success_reason(status), succeeded(spec, status)),
            None => word("Unknown", reasons::ROLLBACK_NOT_ACKNOWLEDGED, text),
        },
        types::READY => match (status.outcome, rest) {
            (Some(Outcome::Succeeded), _) => word("True", success_reason(status), text),
            (Some(Outcome::Failed), _) => word("False", &failure_reason(status), text),
            (Some(Outcome::Cancelled), _) => word("False", reasons::CANCELLED, text),
            (None, Some(Rest::Planned)) => word("False", reasons::PLANNED, text),
            (None, Some(Rest::Suspended)) => word("False", reasons::SUSPENDED, text),
            (None, Some(Rest::Blocked | Rest::Held)) => word("False", &failure_reason(status), text),
            (None, Some(Rest::Ended | Rest::Unacknowledged) | None) => word("False", reasons::PROGRESSING, text),
        },
        types::RECONCILING => {
            if status.outcome.is_none() && rest.is_none() {
                word("True", if undoing { reasons::UNDOING } else { reasons::PROGRESSING }, text)
            } else {
                word("False", reasons::DONE, "")
            }
        }
        types::STALLED => match (status.outcome, rest) {
            (Some(Outcome::Failed), _) | (None, Some(Rest::Blocked | Rest::Held)) => word("True", &failure_reason(status), text),
            _ if struggling(status) => word("True", reasons::UNDOING, text),
            _ => word("False", reasons::DONE, ""),
        },
        types::SUCCEEDED => match status.outcome {
            Some(Outcome::Succeeded) => word("True", success_reason(status), text),
            Some(Outcome::Failed) => word("False", &failure_reason(status), text),
            Some(Outcome::Cancelled) => word("False", reasons::CANCELLED, text),
            None if spec.cancel && status.undo.is_none() && status.publication.as_ref().is_some_and(|p| p.published) => {
                word("Unknown", reasons::CANCEL_TOO_LATE, CANCEL_TOO_LATE)
            }
            None => word("Unknown", reasons::PROGRESSING, ""),
        },
        types::ROLLED_BACK => match &status.undo {
            Some(u) if u.complete => word("True", &u.reason, text),
            Some(u) => word("False", reasons::UNDOING, u.message.clone()),
            None => word("Unknown", reasons::UNKNOWN, ""),
        },
        types::PLANNED if !status.blockers.is_empty() => word("False", &failure_reason(status), text),
        _ => step_condition(kind, status),
    }
}

/// A condition that speaks of one step: True while its effect stands.
fn step_condition(kind: &str, status: &PostgresMigrationStatus) -> Word {
    let Some(leg) = ITINERARY.iter().find(|l| l.condition == Some(kind)) else {
        return word("Unknown", reasons::UNKNOWN, "");
    };
    let succeeded = status.outcome == Some(Outcome::Succeeded);
    match status.steps.iter().find(|s| s.name == leg.step) {
        Some(e) => match e.state {
            StepState::Undone if kind == types::FENCED && succeeded => word("False", reasons::UNFENCED, going_back::UNFENCED),
            // A rollback that came after the application had run leaves the archive where it is.
            StepState::Undone if kind == types::ARCHIVED && status.resumed && status.archive.is_some() => {
                word("True", reasons::DONE, step_evidence(kind, status))
            }
            StepState::Done => word("True", reasons::DONE, step_evidence(kind, status)),
            StepState::Running => word("False", reasons::PROGRESSING, e.message.clone().unwrap_or_default()),
            StepState::Undoing => word("Unknown", reasons::UNDOING, e.message.clone().unwrap_or_default()),
            StepState::Undone => word("False", reasons::UNDONE, ""),
        },
        None => word("Unknown", reasons::UNKNOWN, ""),
    }
}

fn step_evidence(kind: &str, status: &PostgresMigrationStatus) -> String {
    match kind {
        types::PLANNED => match status.warnings.len() {
            0 => "No findings.".into(),
            n => format!("{n} warnings, see status.warnings."),
        },
        types::QUIESCED => format!("{} workloads stopped, no pod of them is left.", status.quiesced.len()),
        types::FENCED => "The source database refuses everyone else.".into(),
        types::ARCHIVED => status.archive.as_ref().map_or_else(String::new, |a| {
            format!("{}/{}, {} bytes, SHA-256 {}", a.bucket, a.key, a.bytes.unwrap_or(0), a.sha256.clone().unwrap_or_default())
        }),
        types::VERIFIED => status
            .verification
            .as_ref()
            .map_or_else(String::new, |v| format!("{} tables with {} rows are equal.", v.tables, v.rows)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
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
            let begins =
                "spec.databases[0].name (DatabaseNotFound): there is none. Correct the name of the database. Nothing was";
            assert!(message.starts_with(begins) && message.contains(words), "{message}");
        }
    }
}
