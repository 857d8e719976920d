//! What users read: phase, message, progress and conditions, all derived from the facts of the status. Never read by a decision.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::decide::Rest;
use super::itinerary::{ITINERARY, leg_of, number};
use super::record::bounded;
use crate::api::conditions::{reasons, types};
use crate::api::{Mode, Outcome, Phase, PostgresMigrationSpec, PostgresMigrationStatus, StepName, StepState, UndoCause};

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
    let coming = match (&status.hold, blocked) {
        (Some(_), _) => Some(Rest::Held),
        (None, true) => Some(Rest::Blocked),
        (None, false) => None,
    };
    let rest = rest.or(coming.filter(|_| status.outcome.is_none() && status.undo.is_none()));
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
            Some(Rest::Suspended | Rest::Held | Rest::Ended) => Phase::Pending,
            None if spec.mode == Mode::Plan || status.run > 0 => Phase::Planning,
            None => Phase::Pending,
        }
    }
}

fn message(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus, rest: Option<Rest>) -> String {
    if let Some(undo) = &status.undo {
        return match (undo.complete, undo.cause) {
            (true, UndoCause::Failure) => format!(
                "{} failed: {} Everything that had been done is undone: the application runs on the old database again. Mend the cause, then raise spec.retry.",
                undo.step_words(),
                sentence(&undo.message)
            ),
            (true, UndoCause::Cancel | UndoCause::Deletion) => {
                format!("Called off ({}). Everything that had been done is undone.", undo.message)
            }
            (false, _) => {
                let doing = current(status).map_or_else(String::new, |(_, m)| m);
                format!("Undoing everything, because {}. {doing}", undo.message)
            }
        };
    }
    match status.outcome {
        Some(Outcome::Succeeded) => return succeeded(spec, status),
        Some(Outcome::Failed) => return refused(status),
        Some(Outcome::Cancelled) => return "Called off before anything was changed.".into(),
        None => {}
    }
    if let Some(hold) = &status.hold {
        return format!(
            "{} failed after the database was published: {} Nothing was undone. Mend the cause and raise spec.retry to run this step again, or delete the object while the application has not started to undo everything.",
            title(hold.step),
            sentence(&hold.message)
        );
    }
    match rest {
        Some(Rest::Planned) => "The checks passed and nothing was touched. Set spec.mode to Migrate to begin.".into(),
        Some(Rest::Blocked) => refused(status),
        Some(Rest::Suspended) => "Suspended: set spec.suspend to false to go on.".into(),
        Some(Rest::Held | Rest::Ended) | None => current(status).map_or_else(|| "Not looked at yet.".into(), |(_, m)| m),
    }
}

impl crate::api::Undo {
    fn step_words(&self) -> String {
        title(self.step)
    }
}

fn title(step: StepName) -> String {
    format!("Step {} ({step:?})", number(step))
}

fn sentence(text: &str) -> String {
    let t = text.trim_end();
    if t.ends_with(['.', '!', '?']) { t.to_owned() } else { format!("{t}.") }
}

fn succeeded(spec: &PostgresMigrationSpec, status: &PostgresMigrationStatus) -> String {
    let db = spec.databases.first();
    let name = db.map_or("", |d| d.target_name());
    let v = status.verification.clone().unwrap_or_default();
    format!(
        "The application runs on database {name} at {}:{}. {} tables with {} rows were proven equal. The old database is kept, unchanged and fenced.",
        spec.target.endpoint.host, spec.target.endpoint.port, v.tables, v.rows
    )
}

fn refused(status: &PostgresMigrationStatus) -> String {
    let what = match status.blockers.as_slice() {
        [] => status.steps.iter().rev().find_map(|s| s.message.clone()).unwrap_or_else(|| "the checks could not be made".into()),
        [one] => format!("{}: {}", one.path, one.message),
        [first, rest @ ..] => format!("{}: {} (and {} more, see status.blockers)", first.path, first.message, rest.len()),
    };
    format!("{} Nothing was touched. Mend it, then edit the spec or raise spec.retry.", sentence(&what))
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
    let stuck = undoing && status.steps.iter().any(|s| s.failures > 5);
    match kind {
        types::READY => match (status.outcome, rest) {
            (Some(Outcome::Succeeded), _) => word("True", reasons::SUCCEEDED, text),
            (Some(Outcome::Failed), _) => word("False", &failure_reason(status), text),
            (Some(Outcome::Cancelled), _) => word("False", reasons::CANCELLED, text),
            (None, Some(Rest::Planned)) => word("False", reasons::PLANNED, text),
            (None, Some(Rest::Suspended)) => word("False", reasons::SUSPENDED, text),
            (None, Some(Rest::Blocked | Rest::Held)) => word("False", &failure_reason(status), text),
            (None, Some(Rest::Ended) | None) => word("False", reasons::PROGRESSING, text),
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
            _ if stuck => word("True", reasons::UNDOING, text),
            _ => word("False", reasons::DONE, ""),
        },
        types::SUCCEEDED => match status.outcome {
            Some(Outcome::Succeeded) => word("True", reasons::SUCCEEDED, text),
            Some(Outcome::Failed) => word("False", &failure_reason(status), text),
            Some(Outcome::Cancelled) => word("False", reasons::CANCELLED, text),
            None if spec.cancel && status.undo.is_none() && status.publication.as_ref().is_some_and(|p| p.published) => {
                word("Unknown", reasons::CANCEL_TOO_LATE, "spec.cancel came after the database was published and is not acted on")
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
    match status.steps.iter().find(|s| s.name == leg.step) {
        Some(e) => match e.state {
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
