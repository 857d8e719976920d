//! What a failure means: tried again, undone, or held for a person.

use jiff::Timestamp;

use super::itinerary::leg_of;
use crate::api::{PostgresMigrationStatus, StepName, StepStatus};

/// How a failure is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Usually passes: tried again while the step's patience lasts.
    Transient,
    /// A person must change something.
    NeedsHuman,
    /// Nothing that is tried again can help.
    Terminal,
}

impl Class {
    /// How the log calls it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::NeedsHuman => "needs-human",
            Self::Terminal => "terminal",
        }
    }
}

/// A step that did not work, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// How it is dealt with.
    pub class: Class,
    /// Reason constant of `api::conditions::reasons`.
    pub reason: &'static str,
    /// What happened, why, what to do.
    pub message: String,
}

impl Failure {
    /// Usually passes.
    pub fn transient(reason: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Transient, reason, message: message.into() }
    }

    /// A person must change something.
    pub fn needs_human(reason: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::NeedsHuman, reason, message: message.into() }
    }

    /// Nothing that is tried again can help.
    pub fn terminal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Terminal, reason, message: message.into() }
    }
}

/// What to do about a failure of a step on its way forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Try again after so many seconds.
    TryAgain(i64),
    /// End the run: nothing was changed yet.
    Refuse,
    /// Undo everything.
    Undo,
    /// Wait for a person: the database is published.
    Hold,
}

/// Judges a failure of `step`; `entry` already counts it.
pub fn remedy(status: &PostgresMigrationStatus, step: StepName, entry: &StepStatus, failure: &Failure, now: Timestamp) -> Remedy {
    let since = entry.failing_since.as_ref().map_or(0, |t| now.as_second() - t.0.as_second());
    if failure.class == Class::Transient && since < leg_of(step).patience_seconds {
        return Remedy::TryAgain(backoff(entry.failures));
    }
    if status.publication.as_ref().is_some_and(|p| p.published) {
        Remedy::Hold
    } else if status.start_time.is_none() {
        Remedy::Refuse
    } else {
        Remedy::Undo
    }
}

/// Seconds to wait after so many failures in a row: 1, 2, 4, 8, then 15.
pub fn backoff(failures: i64) -> i64 {
    match failures {
        i64::MIN..=1 => 1,
        2 => 2,
        3 => 4,
        4 => 8,
        _ => 15,
    }
}

/// Seconds to wait before a mover's attempt of this number: trouble on the network rarely passes at once.
pub fn pause(attempt: i64) -> i64 {
    match attempt {
        i64::MIN..=1 => 0,
        2 => 2,
        3 => 15,
        _ => 60,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::reasons;
    use crate::api::{Publication, StepState};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entry(step: StepName, since: i64) -> StepStatus {
        StepStatus {
            name: step,
            state: StepState::Running,
            start_time: None,
            end_time: None,
            duration_seconds: None,
            attempt: 1,
            failures: 3,
            failing_since: Some(Time(at(since))),
            not_before: None,
            message: None,
            message_since: None,
        }
    }

    #[test]
    fn classes_are_told_apart_in_the_log() {
        assert_eq!(
            [Class::Transient, Class::NeedsHuman, Class::Terminal].map(Class::label),
            ["transient", "needs-human", "terminal"]
        );
    }

    #[test]
    fn pauses_grow_and_stop_growing() {
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(backoff), [1, 1, 2, 4, 8, 15, 15]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(pause), [0, 0, 2, 15, 60, 60]);
    }

    #[test]
    fn patience_ends() {
        let status = PostgresMigrationStatus { start_time: Some(Time(at(0))), ..Default::default() };
        let f = Failure::transient(reasons::TRANSIENT, "x");
        let e = entry(StepName::Fence, 1000);
        assert_eq!(remedy(&status, StepName::Fence, &e, &f, at(1119)), Remedy::TryAgain(4));
        assert_eq!(remedy(&status, StepName::Fence, &e, &f, at(1120)), Remedy::Undo);
    }

    #[test]
    fn the_place_of_a_failure_decides_its_remedy() {
        let f = Failure::terminal(reasons::NOT_EQUAL, "x");
        let mut status = PostgresMigrationStatus::default();
        let e = entry(StepName::Compare, 0);
        assert_eq!(remedy(&status, StepName::Preflight, &e, &f, at(1)), Remedy::Refuse);
        status.start_time = Some(Time(at(0)));
        assert_eq!(remedy(&status, StepName::Compare, &e, &f, at(1)), Remedy::Undo);
        status.publication = Some(Publication { originals: String::new(), set_aside: None, row_changes: None, published: false });
        assert_eq!(remedy(&status, StepName::Publish, &e, &f, at(1)), Remedy::Undo);
        status.publication.as_mut().unwrap().published = true;
        assert_eq!(remedy(&status, StepName::SchemaJob, &e, &f, at(1)), Remedy::Hold);
    }
}
