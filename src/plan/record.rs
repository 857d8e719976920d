//! How the status changes: one function for each thing that can happen. Pure, so that a simulation can drive it.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::advice;
use super::failure::{self, Failure, Remedy};
use super::itinerary::leg_of;
use crate::api::conditions::reasons;
use crate::api::{
    Finding, Hold, Mode, Outcome, PostgresMigrationSpec, PostgresMigrationStatus, StepName, StepState, StepStatus, Undo,
    UndoCause,
};

/// Most characters of one text in the status.
pub const LIMIT: usize = 1024;

/// What one call of a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The step is done: its evidence stands in the status.
    Done,
    /// Something was recorded or one effect happened; call again at once.
    Again,
    /// Something outside has to happen first; look again after so many seconds.
    Wait {
        /// Seconds until the next look.
        seconds: i64,
        /// What is waited for.
        message: String,
    },
    /// A mover failed in a way that usually passes: start the next attempt.
    NextAttempt(Failure),
}

/// A new run: everything that the last one found is forgotten, but for its number. One that changed nothing does not count.
pub fn begin_run(status: &mut PostgresMigrationStatus, spec: &PostgresMigrationSpec, generation: i64) {
    let conditions = std::mem::take(&mut status.conditions);
    let counts = status.run == 0 || status.start_time.is_some();
    *status = PostgresMigrationStatus {
        conditions,
        run: status.run + i64::from(counts),
        observed_retry: spec.retry.unwrap_or(0).max(status.observed_retry),
        observed_generation: Some(generation),
        ..PostgresMigrationStatus::default()
    };
}

/// The checks are made again: what they found last time is forgotten.
pub fn look_again(status: &mut PostgresMigrationStatus) {
    status.steps.clear();
    status.blockers.clear();
    status.warnings.clear();
    status.pinned = None;
    status.completion = None;
}

fn entry(status: &mut PostgresMigrationStatus, step: StepName) -> &mut StepStatus {
    let at = status.steps.iter().position(|s| s.name == step).unwrap_or_else(|| {
        status.steps.push(StepStatus {
            name: step,
            state: StepState::Running,
            start_time: None,
            end_time: None,
            duration_seconds: None,
            attempt: 1,
            failures: 0,
            failing_since: None,
            not_before: None,
            message: None,
            message_since: None,
        });
        status.steps.len() - 1
    });
    &mut status.steps[at]
}

/// Notes what there is to say about a step, and since when it is that.
fn say(e: &mut StepStatus, message: &str, now: Timestamp) {
    let message = Some(bounded(message));
    if e.message != message || e.message_since.is_none() {
        (e.message, e.message_since) = (message, Some(Time(now)));
    }
}

/// The intent: `step` stands in the status before it does anything. True when it did not stand there before.
pub fn begin(status: &mut PostgresMigrationStatus, step: StepName, now: Timestamp) -> bool {
    let new = !status.steps.iter().any(|s| s.name == step);
    let e = entry(status, step);
    if new {
        e.start_time = Some(Time(now));
        // What the last step moved is not this one's progress.
        status.transfer = None;
    }
    status.step = Some(step);
    new
}

/// Number of the attempt at `step`, from 1, never the same for two runs: names of Jobs and tags of sessions carry it.
pub fn attempt(status: &PostgresMigrationStatus, step: StepName) -> i64 {
    let own = status.steps.iter().find(|s| s.name == step).map_or(1, |s| s.attempt);
    (status.run - 1).max(0) * 1000 + own
}

/// Takes what a call of `step` came to. `Some` when it was a failure after all.
pub fn advanced(
    status: &mut PostgresMigrationStatus,
    spec: &PostgresMigrationSpec,
    step: StepName,
    advance: Advance,
    now: Timestamp,
) -> Option<Remedy> {
    let e = entry(status, step);
    match advance {
        Advance::Done => {
            e.failures = 0;
            e.failing_since = None;
            (e.message, e.message_since) = (None, None);
            e.state = StepState::Done;
            e.end_time = Some(Time(now));
            e.duration_seconds = e.start_time.as_ref().map(|t| now.as_second() - t.0.as_second());
            if step == StepName::Preflight && spec.mode == Mode::Migrate {
                status.start_time = Some(Time(now));
            }
            None
        }
        Advance::Again => {
            e.failures = 0;
            e.failing_since = None;
            None
        }
        Advance::Wait { message, .. } => {
            e.failures = 0;
            e.failing_since = None;
            say(e, &message, now);
            None
        }
        Advance::NextAttempt(failure) => {
            if e.attempt >= leg_of(step).attempts {
                let message = format!("{} (attempt {} of {})", failure.message, e.attempt, leg_of(step).attempts);
                return Some(failed(status, spec.mode, step, &Failure::terminal(failure.reason, message), now));
            }
            e.attempt += 1;
            e.not_before = after(now, failure::pause(e.attempt));
            say(e, &format!("attempt {}: the last one ended with {failure}", e.attempt), now);
            None
        }
    }
}

/// Takes a failure of `step` on its way forward and says what is done about it.
pub fn failed(status: &mut PostgresMigrationStatus, mode: Mode, step: StepName, failure: &Failure, now: Timestamp) -> Remedy {
    let e = entry(status, step);
    e.failures += 1;
    e.failing_since.get_or_insert(Time(now));
    say(e, &failure.to_string(), now);
    let e = e.clone();
    let remedy = failure::remedy(status, step, &e, failure, now);
    match remedy {
        Remedy::TryAgain(seconds) => entry(status, step).not_before = after(now, seconds),
        Remedy::Refuse => {
            if status.blockers.is_empty() {
                status.blockers.push(finding(failure));
            }
            if mode == Mode::Migrate {
                end(status, Outcome::Failed, now);
            }
        }
        Remedy::Undo => begin_undo(status, UndoCause::Failure, failure.reason, &failure.message, now),
        Remedy::Hold => {
            status.hold = Some(Hold { step, reason: failure.reason.into(), message: bounded(&failure.message) });
        }
    }
    remedy
}

/// A failure as a finding, with what to do about it: messages that name a place in the spec begin with it.
pub fn finding(failure: &Failure) -> Finding {
    let (path, message) = match failure.message.split_once(": ") {
        Some((path, rest)) if path.starts_with("spec.") && !path.contains(' ') => (path, rest),
        _ => ("spec", failure.message.as_str()),
    };
    Finding { reason: failure.reason.into(), path: path.into(), message: advice::advised(message, failure.reason, LIMIT) }
}

/// A person raised `spec.retry` for a held step: it goes on.
pub fn unhold(status: &mut PostgresMigrationStatus, spec: &PostgresMigrationSpec, now: Timestamp) {
    if let Some(hold) = status.hold.take() {
        let e = entry(status, hold.step);
        // An attempt at the schema is over when its Job is: one that works, or has done its work, must not be run a second time.
        if hold.step != StepName::SchemaJob || hold.reason == reasons::SCHEMA_JOB_FAILED {
            e.attempt += 1;
        }
        e.failures = 0;
        e.failing_since = None;
        e.not_before = None;
        (e.message, e.message_since) = (None, None);
        e.start_time = Some(Time(now));
    }
    status.observed_retry = spec.retry.unwrap_or(0);
}

/// From here on everything is undone, last step first. A run that had succeeded has no outcome any more.
pub fn begin_undo(status: &mut PostgresMigrationStatus, cause: UndoCause, reason: &str, message: &str, now: Timestamp) {
    let step = status.step.unwrap_or(StepName::Pin);
    for e in &mut status.steps {
        e.failures = 0;
        e.failing_since = None;
        e.not_before = None;
    }
    status.hold = None;
    (status.outcome, status.completion_time) = (None, None);
    let (reason, message) = (reason.into(), bounded(message));
    status.undo = Some(Undo { cause, reason, message, step, start_time: Some(Time(now)), complete: false });
}

/// Words for an undo that a person asked for.
pub fn undo_words(cause: UndoCause) -> (&'static str, &'static str) {
    match cause {
        UndoCause::Failure => (reasons::TRANSIENT, ""),
        UndoCause::Cancel => (reasons::CANCELLED, "spec.cancel is set"),
        UndoCause::Deletion => (reasons::DELETED, "the object is being deleted"),
        UndoCause::Rollback => (reasons::ROLLBACK_REQUESTED, "spec.rollback is set"),
    }
}

/// Takes what a call of the undo of `step` came to.
pub fn undo_advanced(status: &mut PostgresMigrationStatus, step: StepName, advance: &Advance, now: Timestamp) {
    // The only mover that an undo starts saves what was written to the new database; it counts its attempts itself.
    let attempt = status.saved.as_ref().map_or(1, |s| s.attempt);
    let e = entry(status, step);
    e.failures = 0;
    e.failing_since = None;
    match advance {
        Advance::Done => {
            e.state = StepState::Undone;
            (e.message, e.message_since) = (None, None);
        }
        Advance::Again => e.state = StepState::Undoing,
        Advance::NextAttempt(failure) => {
            e.state = StepState::Undoing;
            e.not_before = after(now, failure::pause(attempt));
            say(e, &format!("attempt {attempt}: the last one ended with {failure}"), now);
        }
        Advance::Wait { message, .. } => {
            e.state = StepState::Undoing;
            say(e, message, now);
        }
    }
    status.step = Some(step);
}

/// Takes a failure of the undo of `step`: it is tried again for as long as it takes. Seconds until then.
pub fn undo_failed(status: &mut PostgresMigrationStatus, step: StepName, failure: &Failure, now: Timestamp) -> i64 {
    let e = entry(status, step);
    e.state = StepState::Undoing;
    e.failures += 1;
    e.failing_since.get_or_insert(Time(now));
    say(e, &failure.to_string(), now);
    let seconds = failure::backoff(e.failures);
    e.not_before = after(now, seconds);
    status.step = Some(step);
    seconds
}

/// As [`undo_advanced`], for `spec.unfence`: the run stays ended, and its last step the last.
pub fn unfence_advanced(status: &mut PostgresMigrationStatus, advance: &Advance, now: Timestamp) {
    let last = status.step;
    undo_advanced(status, StepName::Fence, advance, now);
    status.step = last;
}

/// As [`undo_failed`], for `spec.unfence`.
pub fn unfence_failed(status: &mut PostgresMigrationStatus, failure: &Failure, now: Timestamp) -> i64 {
    let last = status.step;
    let seconds = undo_failed(status, StepName::Fence, failure, now);
    status.step = last;
    seconds
}

/// Seconds from `now` until `step` may be called again; 0 when it may be now.
pub fn pause(status: &PostgresMigrationStatus, step: StepName, now: Timestamp) -> i64 {
    let not_before = status.steps.iter().find(|s| s.name == step).and_then(|s| s.not_before.as_ref());
    not_before.map_or(0, |t| (t.0.as_second() - now.as_second()).max(0))
}

fn after(now: Timestamp, seconds: i64) -> Option<Time> {
    Timestamp::from_second(now.as_second() + seconds).ok().map(Time)
}

/// All is undone.
pub fn end_undo(status: &mut PostgresMigrationStatus) {
    if let Some(undo) = &mut status.undo {
        undo.complete = true;
    }
}

/// The run is over.
pub fn end(status: &mut PostgresMigrationStatus, outcome: Outcome, now: Timestamp) {
    status.outcome = Some(outcome);
    status.completion_time = Some(Time(now));
}

/// At most [`LIMIT`] characters: the status must stay small whatever a server says.
pub fn bounded(text: &str) -> String {
    if text.chars().count() <= LIMIT { text.to_owned() } else { text.chars().take(LIMIT - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests;
