//! What users read: phase, message, progress and conditions, all derived from the facts of the status. Never read by a decision.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::advice::{self, fitted};
use super::decide::{Back, Rest, back};
use super::going_back;
use super::itinerary::{ITINERARY, leg_of, number};
use super::record::{LIMIT, bounded};
use crate::api::conditions::{reasons, types};
use crate::api::{
    Mode, Outcome, Phase, PostgresMigrationSpec, PostgresMigrationStatus, Side, StepName, StepState, Undo, UndoCause, Workload,
};

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
    status.message = Some(bounded(&message(spec, status, rest, now)));
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

fn message(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus, rest: Option<Rest>, now: Timestamp) -> String {
    if let Some(undo) = &status.undo {
        return if undo.complete { undone(spec, status, undo) } else { undoing(status, undo, now) };
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
            current(status, now).unwrap_or_else(|| "Not looked at yet.".into())
        }
    }
}

const CANCEL_TOO_LATE: &str = "spec.cancel came after the database was published and is not acted on. \
    Set spec.rollback to go back to the old database.";

/// Workloads of the application that a hold left standing still, for an object that is deleted: somebody has to start them.
pub fn not_started(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus) -> Option<String> {
    // An application that is a writer too was stopped once, for the source.
    let stopped = |w: &Workload| {
        let named = |side| status.quiesced.iter().find(|q| q.side == side && q.kind == w.kind && q.name == w.name);
        named(Side::Target).or_else(|| named(Side::Source))
    };
    let left = spec.target.application.workloads.iter().filter_map(stopped).filter(|q| !q.restored);
    let names: Vec<String> = left.map(|q| format!("{:?} {}/{}", q.kind, q.namespace, q.name)).take(10).collect();
    let hold = status.hold.as_ref()?;
    (!names.is_empty()).then(|| {
        fitted(
            &format!("Not started: {}; start them by hand. Held was {}: ", names.join(", "), title(hold.step)),
            &hold.message,
            &[],
            LIMIT,
        )
    })
}

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

fn undoing(status: &PostgresMigrationStatus, undo: &Undo, now: Timestamp) -> String {
    let doing = current(status, now).unwrap_or_default();
    // What stands in the way of the undo is what a person must act on: it comes first when both are long.
    let doing = if struggling(status) {
        fitted(
            "",
            &doing,
            &[
                "It is tried again until it works: mend the cause. Where it cannot be mended, docs/runbook.md tells what to do by hand.",
                &going_back::outstanding(status),
            ],
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

/// Seconds that a step may have nothing new to say before it is said since when.
const UNCHANGED: i64 = 60;

/// A moment for people: to the second, as Kubernetes writes it.
pub fn second(moment: Timestamp) -> String {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment).to_string()
}

/// The step at work, what it does, and since when it has nothing new to say.
fn current(status: &PostgresMigrationStatus, now: Timestamp) -> Option<String> {
    let e = status.steps.iter().find(|s| Some(s.name) == status.step)?;
    let doing = leg_of(e.name).doing;
    let head = match e.state {
        StepState::Running | StepState::Done => format!("Step {} of {}: {doing}", number(e.name), ITINERARY.len()),
        StepState::Undoing | StepState::Undone => format!("Undoing step {}: {doing}", number(e.name)),
    };
    let Some(message) = &e.message else { return Some(head) };
    let since = e.message_since.as_ref().filter(|since| now.as_second() - since.0.as_second() >= UNCHANGED);
    let since = since.map_or_else(String::new, |since| format!(" (since {})", second(since.0)));
    let room = LIMIT.saturating_sub(head.chars().count() + since.chars().count() + 2);
    let message: String = message.chars().take(room).collect();
    Some(format!("{head}: {message}{since}"))
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
mod life_tests;
#[cfg(test)]
mod tests;
