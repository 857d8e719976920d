//! Notices a stream that will never end.
//!
//! A connection may lose everything and stay open, and a container runtime may lose an exec whose stream then stays open too.
//! Pings tell that of streams without input only: behind input that a tool has not read yet nobody answers. So when nothing
//! moves, the pod is asked on another way. A tool that works is busy in the server (an index that takes hours, a lock that it
//! waits for) or uses the processor; one that does neither waits for us, and while we wait for it, nothing will ever happen.

use super::Context;
use super::ends::PodEnd;
use super::error::MoverError;
use crate::plan::operation::Reason;
use crate::postgres::carrier::Question;
use crate::postgres::tools::scripts;
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

/// How long the pod may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

const BUSY: &str = "SELECT pg_catalog.to_jsonb(pg_catalog.count(*)) FROM pg_catalog.pg_stat_activity AS a \
WHERE a.application_name = $1::text AND a.state <> 'idle' AND a.wait_event_type IS DISTINCT FROM 'Client'";

/// Runs `work`, unless its stream is found lost.
///
/// # Errors
/// Those of `work`, and [`Reason::StreamBroken`].
pub async fn over<T>(
    context: &Context,
    pod: &PodEnd,
    work: impl Future<Output = Result<T, MoverError>>,
) -> Result<T, MoverError> {
    tokio::select! {
        result = work => result,
        error = lost(context, pod) => Err(error),
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

async fn lost(context: &Context, pod: &PodEnd) -> MoverError {
    let broken = |what: String| MoverError::new(Reason::StreamBroken, format!("{what}: the stream to {} is lost", pod.target));
    let (mut moves, mut moved) = (context.counters.moves(), Instant::now());
    let (mut idle, mut ticks, mut pause) = (0, String::new(), LOOK);
    loop {
        tokio::time::sleep(pause).await;
        let now = context.counters.moves();
        if now != moves || context.counters.is_at_bucket() {
            (moves, moved, idle, pause) = (now, Instant::now(), 0, LOOK);
            ticks.clear();
            continue;
        }
        match tokio::time::timeout(ANSWER, look(context, pod)).await {
            Ok(Ok(signs)) if signs.busy > 0 || signs.ticks != ticks && !ticks.is_empty() => {
                (moved, idle, ticks) = (Instant::now(), 0, signs.ticks);
                pause = SELDOM.min(pause * 2);
            }
            Ok(Ok(signs)) => {
                idle += 1;
                (ticks, pause) = (signs.ticks, LOOK);
            }
            Ok(Err(error)) => tracing::debug!(%error, "the pod cannot be asked whether the tool is at work"),
            Err(_) => tracing::debug!("the pod does not say whether the tool is at work"),
        }
        if idle >= LOOKS {
            return broken(format!("for {} s nothing moved, and the tool waits", moved.elapsed().as_secs()));
        }
        if moved.elapsed() > BLIND {
            return broken(format!("for {} s nothing moved, and the pod cannot be asked", moved.elapsed().as_secs()));
        }
    }
}

async fn look(context: &Context, pod: &PodEnd) -> Result<Signs, MoverError> {
    let uid = &context.operation.migration.uid;
    let used = pod.run(&scripts::used(uid), &[], ANSWER, Reason::StreamBroken).await?;
    let mut session = pod.session_tagged("postgres", &format!("pgmigration/{uid}/watch")).await?;
    let question = Question::new("sessions of the tool at work", BUSY).with(context.operation.session_tag());
    let busy = session.ask(&question, ANSWER).await?;
    session.close().await;
    Ok(Signs { busy: busy.as_u64().unwrap_or(0), ticks: String::from_utf8_lossy(&used.stdout).trim().to_owned() })
}
