//! Notices a stream that will never end.
//!
//! When a container runtime loses an exec, its stream may stay open and silent for ever. A tool at work has a session in the
//! server; when for a long time nothing moves and there is no such session either, nobody is left who could end the stream.

use super::Context;
use super::ends::PodEnd;
use super::error::MoverError;
use crate::plan::operation::Reason;
use crate::postgres::carrier::Question;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_mins(1);

/// Looks in a row that must find neither movement nor a session: longer than a slow S3 server may hold up the last bytes.
const LOOKS: u32 = 12;

const SESSIONS: &str =
    "SELECT pg_catalog.to_jsonb(pg_catalog.count(*)) FROM pg_catalog.pg_stat_activity AS a WHERE a.application_name = $1::text";

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

async fn lost(context: &Context, pod: &PodEnd) -> MoverError {
    let mut before = context.counters.now();
    let mut silent = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = context.counters.now();
        let session = match sessions(context, pod).await {
            Ok(count) => count > 0,
            // Not known: the server restarts, or the way to it is down, which the stream itself will show.
            Err(error) => {
                tracing::debug!(%error, "cannot look for the session of the tool");
                true
            }
        };
        silent = if now == before && !session { silent + 1 } else { 0 };
        before = now;
        if silent >= LOOKS {
            let minutes = LOOK.as_secs() * u64::from(LOOKS) / 60;
            return MoverError::new(
                Reason::StreamBroken,
                format!("nothing moved in {} for {minutes} min, and the tool has no session: its stream is lost", pod.target),
            );
        }
    }
}

async fn sessions(context: &Context, pod: &PodEnd) -> Result<u64, MoverError> {
    let tag = format!("pgmigration/{}/watch", context.operation.migration.uid);
    let mut session = pod.session_tagged("postgres", &tag).await?;
    let question = Question::new("sessions of the tool", SESSIONS).with(context.operation.session_tag());
    let count = session.ask(&question, Duration::from_secs(30)).await?;
    session.close().await;
    Ok(count.as_u64().unwrap_or(0))
}
