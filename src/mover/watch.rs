//! Notices what will never end, and tells why nothing moves.
//!
//! A connection may lose everything and stay open, a container runtime may lose an exec whose stream then stays open too, and a
//! server may stand still with all its processes. Pings tell the first only, and only of streams without input: behind input that
//! a tool has not read yet nobody answers. So when nothing moves, the pod is asked on another way. A tool that works is busy in
//! the server (an index that takes hours, a lock that it waits for) or uses the processor; one that does neither waits for us, and
//! while we wait for it, nothing will ever happen.

use super::Context;
use super::ends::PodEnd;
use super::error::MoverError;
use crate::plan::operation::{Reason, mover_tag_prefix};
use crate::postgres::carrier::Question;
use crate::postgres::tools::scripts;
use futures::future::join_all;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks. Only when nothing has moved since the last one is anybody asked.
const LOOK: Duration = Duration::from_secs(10);

/// The same while the tool is found at work again and again.
const SELDOM: Duration = Duration::from_mins(1);

/// Looks in a row that must find nothing at work.
const LOOKS: u32 = 5;

/// How long nothing may move while the pod cannot be asked either.
const BLIND: Duration = Duration::from_mins(5);

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// How long the pod may take to look at all of its processes.
const COUNTED: Duration = Duration::from_secs(30);

// The state of sessions that the administrator may not see is unknown: they are not taken for idle.
const BUSY: &str = "SELECT pg_catalog.to_jsonb(pg_catalog.count(*)) FROM pg_catalog.pg_stat_activity AS a \
WHERE a.application_name = $1::text AND a.state IS DISTINCT FROM 'idle' AND a.wait_event_type IS DISTINCT FROM 'Client'";

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// A tool whose bytes pass through us: it may wait for us while we wait for it.
    Stream,
    /// Answers of sessions, whose loss is noticed by pings.
    Answers,
}

/// Runs `work`, unless its stream from or to a tool in `pod` is found lost.
///
/// # Errors
/// Those of `work`, and [`Reason::StreamBroken`].
pub async fn over<T>(
    context: &Context,
    pod: &PodEnd,
    work: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    let pods = [pod];
    tokio::select! {
        result = work => result,
        error = lost(context, &pods, Of::Stream) => Err(error),
    }
}

/// Runs `work`, which waits for answers of sessions in `pods`, unless one of those does not answer anybody.
///
/// # Errors
/// Those of `work`, and [`Reason::StreamBroken`].
pub async fn answers<T>(
    context: &Context,
    pods: &[&PodEnd],
    work: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    tokio::select! {
        result = work => result,
        error = lost(context, pods, Of::Answers) => Err(error),
    }
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
struct Signs {
    /// Sessions of the tool that do not wait for their client.
    busy: u64,
    /// Time that its processes have used, in ticks.
    ticks: String,
}

async fn lost(context: &Context, pods: &[&PodEnd], of: Of) -> MoverError {
    let places = || pods.iter().map(|pod| pod.target.to_string()).collect::<Vec<_>>().join(" and ");
    let counters = &context.counters;
    let (mut moves, mut moved) = (counters.moves(), Instant::now());
    let (mut idle, mut ticks, mut pause) = (0, Vec::new(), LOOK);
    loop {
        tokio::time::sleep(pause).await;
        let now = counters.moves();
        if now != moves || counters.is_at_bucket() {
            (moves, moved, idle, pause) = (now, Instant::now(), 0, LOOK);
            ticks.clear();
            continue;
        }
        let looks = join_all(pods.iter().map(|pod| look(context, pod))).await;
        if counters.moves() != moves || counters.is_at_bucket() {
            // What moved in the meantime is the better news.
            continue;
        }
        let (found, left) = match looks.into_iter().collect::<Result<Vec<Signs>, MoverError>>() {
            Ok(signs) => {
                let busy = signs.iter().any(|s| s.busy > 0);
                let used: Vec<String> = signs.into_iter().map(|s| s.ticks).collect();
                let works = busy || used != ticks && !ticks.is_empty();
                ticks = used;
                if works {
                    (moved, idle, pause) = (Instant::now(), 0, SELDOM.min(pause * 2));
                    (if busy { "the server is at work" } else { "the tool is at work" }.to_owned(), None)
                } else {
                    (idle, pause) = (idle + 1, LOOK);
                    let left =
                        if of == Of::Stream { LOOK * LOOKS.saturating_sub(idle) } else { BLIND.saturating_sub(moved.elapsed()) };
                    (format!("nobody is at work for it in {}", places()), Some(left))
                }
            }
            Err(error) => {
                pause = LOOK;
                (error.message, Some(BLIND.saturating_sub(moved.elapsed())))
            }
        };
        if of == Of::Stream && idle >= LOOKS || moved.elapsed() > BLIND {
            let waited = moved.elapsed().as_secs();
            let message = format!("for {waited} s nothing moved between here and {}: {found}", places());
            return MoverError::new(Reason::StreamBroken, message);
        }
        counters.quiet(&found, left);
    }
}

/// Asks a pod whether anybody works for us in it.
async fn look(context: &Context, pod: &PodEnd) -> Result<Signs, MoverError> {
    let uid = &context.operation.migration.uid;
    let used = pod.run(&scripts::used(uid), &[], COUNTED, Reason::StreamBroken).await?;
    let mut session = pod.session_now("postgres", &format!("{}watch", mover_tag_prefix(uid)), ANSWER).await?;
    let question = Question::new("sessions of the tool at work", BUSY).with(context.operation.session_tag());
    let busy = session.ask(&question, ANSWER).await.map_err(|error| MoverError::from(error).of(&pod.target.to_string()))?;
    session.close().await;
    Ok(Signs { busy: busy.as_u64().unwrap_or(0), ticks: String::from_utf8_lossy(&used.stdout).trim().to_owned() })
}
