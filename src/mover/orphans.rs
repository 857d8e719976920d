//! What an attempt that died left behind: sessions in a server, processes and files in a pod, uploads in a bucket.
//!
//! A lost client does not end what it started. Before a new attempt begins, and when one ends early, all of that is ended and
//! seen to be gone.

use super::ends::PodEnd;
use super::error::MoverError;
use crate::crash;
use crate::plan::operation::{Reason, mover_tag_prefix, session_tag_prefix};
use crate::postgres::carrier::{Question, Session};
use crate::postgres::tools::scripts;
use std::time::Duration;
use tokio::time::Instant;

/// How long ended sessions may take to be gone.
const GONE_WITHIN: Duration = Duration::from_mins(1);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a sweep of the pod may take.
const SWEEP: Duration = Duration::from_mins(1);

/// How long an attempt that has failed tidies up.
const AFTERWARDS: Duration = Duration::from_mins(1);

/// How long a session may take to come up for that.
const CONNECT: Duration = Duration::from_secs(15);

/// Where sessions of a server can be seen even when the migration's databases are gone.
const MAINTENANCE: &str = "postgres";

// A prefix is compared, not matched: a UID holds no pattern characters, but nothing here depends on that.
const END: &str = "SELECT pg_catalog.jsonb_build_object('left', pg_catalog.count(*), 'refused', pg_catalog.count(*) FILTER (WHERE NOT t.told)) \
FROM (SELECT pg_catalog.pg_terminate_backend(a.pid) AS told FROM pg_catalog.pg_stat_activity AS a \
WHERE pg_catalog.left(a.application_name, pg_catalog.length($1::text)) = $1::text AND a.pid <> pg_catalog.pg_backend_pid()) AS t";

/// Ends sessions, processes and files of migration `uid` at a pod, and sees that they are gone.
///
/// # Errors
/// [`Reason::OrphansRemain`] when something is left after about a minute, and the reasons of sessions and exec.
pub async fn end(pod: &PodEnd, uid: &str) -> Result<(), MoverError> {
    let place = || format!("end of what runs in {}", pod.target.pod);
    crash::around(place, async {
        // Not under the tag that is being ended.
        let session = pod.session_tagged(MAINTENANCE, &tag(uid)).await?;
        sessions(session, pod, uid).await?;
        sweep(pod, uid).await
    })
    .await
}

fn tag(uid: &str) -> String {
    format!("{}sweep", session_tag_prefix(uid))
}

/// Does the same for an attempt that has failed, as far as a minute allows: the next one looks for all of it again, and a server
/// that answers nothing must not keep the failure from being told.
pub async fn end_after_failure(pod: &PodEnd, uid: &str) {
    let work = crash::around(|| format!("end of what failed in {}", pod.target.pod), async {
        sessions(pod.session_now(MAINTENANCE, &tag(uid), CONNECT).await?, pod, uid).await?;
        sweep(pod, uid).await
    });
    match tokio::time::timeout(AFTERWARDS, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "what the failed attempt left is still there"),
        Err(_) => tracing::warn!(seconds = AFTERWARDS.as_secs(), "what the failed attempt left may still be there"),
    }
}

async fn sessions(mut session: Box<dyn Session>, pod: &PodEnd, uid: &str) -> Result<(), MoverError> {
    let question = Question::new("end orphaned sessions", END).with(mover_tag_prefix(uid));
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let answer = session.ask(&question, Duration::from_secs(30)).await?;
        if answer["left"].as_u64() == Some(0) {
            session.close().await;
            return Ok(());
        }
        if Instant::now() > until {
            return Err(MoverError::new(
                Reason::OrphansRemain,
                format!("sessions of an earlier attempt do not end in {}: {answer}", pod.target),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends processes of migration `uid` in the container and removes its files.
///
/// # Errors
/// [`Reason::OrphansRemain`] when a process is left, and the reasons of exec.
pub async fn sweep(pod: &PodEnd, uid: &str) -> Result<(), MoverError> {
    let done = pod.run(&scripts::sweep(uid), &[], SWEEP, Reason::OrphansRemain).await?;
    match String::from_utf8_lossy(&done.stdout).trim() {
        "0" => Ok(()),
        left => Err(MoverError::new(
            Reason::OrphansRemain,
            format!("processes of an earlier attempt do not end in {}: {left} left", pod.target),
        )),
    }
}
