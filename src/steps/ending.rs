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

/// The same for sessions that a server was told to end; `oldest` is the process of the oldest that is left, and `what` says of
/// what kind they are. The server tells nobody when it was told: the time is that since which `step` has said nothing but this.
///
/// # Errors
/// The same one has been left for too long. It is said until that one has ended.
pub fn session_ending(cx: &Context<'_>, step: StepName, oldest: i32, what: &str) -> Result<Advance, Failure> {
    session(cx.now, cx.status.steps.iter().find(|s| s.name == step), oldest, what)
}

fn session(now: Timestamp, step: Option<&StepStatus>, oldest: i32, what: &str) -> Result<Advance, Failure> {
    let words = format!("{what} was told to end and has not ended: process {oldest} of the server");
    let too_long = format!("{words}, for more than {} minutes now", GONE_WITHIN / 60);
    let said = step.and_then(|s| s.message.as_deref()).unwrap_or_default();
    let since = step.and_then(|s| s.message_since.as_ref()).filter(|_| said == words);
    let waited = since.map_or(0, |since| now.as_second() - since.0.as_second());
    if waited > GONE_WITHIN || said.contains(&too_long) {
        return Err(Failure::needs_human(reasons::QUERY_FAILED, too_long));
    }
    Ok(wait(words))
}

/// A wait that is looked at again in a second.
pub fn wait(message: String) -> Advance {
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
    fn a_session_is_waited_for_until_it_has_ended_and_no_longer_than_it_may_take() {
        let what = "a mover's session at the source";
        let words = |oldest: i32| format!("{what} was told to end and has not ended: process {oldest} of the server");
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
        assert_eq!(session(at(0), None, 42, what), Ok(wait(words(42))), "nothing said yet");
        assert_eq!(session(at(0), Some(&step), 42, what), Ok(wait(words(42))), "what was said is something else");
        (step.message, step.message_since) = (Some(words(42)), Some(Time(at(0))));
        assert_eq!(session(at(GONE_WITHIN), Some(&step), 42, what), Ok(wait(words(42))));
        assert_eq!(session(at(GONE_WITHIN + 1), Some(&step), 4, what), Ok(wait(words(4))), "that one has ended");
        let failure = session(at(GONE_WITHIN + 1), Some(&step), 42, what).unwrap_err();
        assert_eq!(failure.message, format!("{}, for more than 10 minutes now", words(42)));
        // As an undo writes it down: it goes on failing until something has changed.
        (step.message, step.message_since) = (Some(failure.to_string()), Some(Time(at(GONE_WITHIN + 1))));
        assert_eq!(session(at(GONE_WITHIN + 2), Some(&step), 42, what), Err(failure));
        assert_eq!(session(at(GONE_WITHIN + 2), Some(&step), 4, what), Ok(wait(words(4))));
    }
}
