//! Waits for what was told to end: Jobs, their pods, sessions. Only their end tells that they work no more, so each is waited
//! for; but not for ever.

use jiff::Timestamp;

use super::context::Context;
use crate::api::conditions::reasons;
use crate::api::{StepName, StepStatus};
use crate::kubernetes::jobs::{Owned, Stray};
use crate::plan::Failure;
use crate::plan::record::Advance;

/// Seconds that it may take. Pods have half a minute, on a node that answers; sessions end within moments, in a server that works.
const GONE_WITHIN: i64 = 600;

/// A wait for a Job that was deleted.
///
/// # Errors
/// It does not go: a person must look at the node of its pod. Only the end of that pod tells that it works no more.
pub fn ending(now: Timestamp, since: Option<Timestamp>, message: String) -> Result<Advance, Failure> {
    let waited = since.map_or(0, |since| now.as_second() - since.as_second());
    if waited > GONE_WITHIN {
        return Err(Failure::needs_human(reasons::DEADLINE_EXCEEDED, format!("for {waited} s: {message}")));
    }
    Ok(wait(message))
}

/// The same for Jobs that were deleted; `None` when none is left.
pub fn all_ending(now: Timestamp, left: &[Owned], what: &str) -> Result<Option<Advance>, Failure> {
    let Some(first) = left.first() else { return Ok(None) };
    let since = left.iter().filter_map(|job| job.ending_since).min();
    let more = if left.len() > 1 { ", ..." } else { "" };
    ending(now, since, format!("{} {what} are ending: Job {}{more}", left.len(), first.name)).map(Some)
}

/// The same for pods whose Jobs are gone: they work on until they end.
pub fn strays_ending<'a>(
    now: Timestamp,
    namespace: &str,
    mut left: impl Iterator<Item = &'a Stray>,
) -> Result<Option<Advance>, Failure> {
    let Some(Stray { pod, job, ending_since, made }) = left.next() else { return Ok(None) };
    let words = format!("pod {namespace}/{pod} has not ended although its Job {job} is gone");
    if ending_since.is_some() {
        return ending(now, *ending_since, words).map(Some);
    }
    let words = format!("{words}, and nobody has told it to end: delete it");
    // Kubernetes tells it a moment after its Job was deleted, so this may pass.
    let age = made.map_or(0, |made| now.as_second() - made.as_second());
    if age > GONE_WITHIN { Err(Failure::transient(reasons::DEADLINE_EXCEEDED, words)) } else { Ok(Some(wait(words))) }
}

/// The same for sessions that a server was told to end, `words` ending with how many of them are left. It tells nobody when
/// it was told: the time is that since which `step` has said nothing but this.
///
/// # Errors
/// So many have been left for too long. It is said until one of them has ended.
pub fn sessions_ending(cx: &Context<'_>, step: StepName, words: String) -> Result<Advance, Failure> {
    sessions(cx.now, cx.status.steps.iter().find(|s| s.name == step), words)
}

fn sessions(now: Timestamp, step: Option<&StepStatus>, words: String) -> Result<Advance, Failure> {
    let too_long = format!("{words}, for more than {} minutes now", GONE_WITHIN / 60);
    let said = step.and_then(|s| s.message.as_deref()).unwrap_or_default();
    let since = step.and_then(|s| s.message_since.as_ref()).filter(|_| said == words);
    let waited = since.map_or(0, |since| now.as_second() - since.0.as_second());
    if waited > GONE_WITHIN || said.contains(&too_long) {
        return Err(Failure::needs_human(
            reasons::QUERY_FAILED,
            format!("{too_long}: the server does not end what it was told to end"),
        ));
    }
    Ok(wait(words))
}

fn wait(message: String) -> Advance {
    Advance::Wait { seconds: 1, message }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::StepState;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn sessions_are_waited_for_as_long_as_they_become_fewer_and_no_longer() {
        let words = |left: u64| format!("sessions of movers are ending: {left} to go");
        let mut step = StepStatus {
            name: StepName::Dump,
            state: StepState::Undoing,
            start_time: None,
            end_time: None,
            duration_seconds: None,
            attempt: 1,
            failures: 3,
            failing_since: None,
            not_before: None,
            message: Some("QueryFailed: another failure".into()),
            message_since: Some(Time(at(-5000))),
        };
        assert_eq!(sessions(at(0), None, words(2)), Ok(wait(words(2))), "nothing said yet");
        assert_eq!(sessions(at(0), Some(&step), words(2)), Ok(wait(words(2))), "what was said is something else");
        (step.message, step.message_since) = (Some(words(2)), Some(Time(at(0))));
        assert_eq!(sessions(at(GONE_WITHIN), Some(&step), words(2)), Ok(wait(words(2))));
        assert_eq!(sessions(at(GONE_WITHIN + 1), Some(&step), words(1)), Ok(wait(words(1))), "one has ended");
        let failure = sessions(at(GONE_WITHIN + 1), Some(&step), words(2)).unwrap_err();
        assert!(failure.message.starts_with("sessions of movers are ending: 2 to go, for more than 10 minutes now"), "{failure}");
        // As an undo writes it down: it goes on failing until something has changed.
        (step.message, step.message_since) = (Some(format!("{failure} (source)")), Some(Time(at(GONE_WITHIN + 1))));
        assert_eq!(sessions(at(GONE_WITHIN + 2), Some(&step), words(2)), Err(failure));
        assert_eq!(sessions(at(GONE_WITHIN + 2), Some(&step), words(1)), Ok(wait(words(1))));
    }
}
