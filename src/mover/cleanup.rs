//! Cleanup: nothing of a migration's attempts runs or lies about any more. Finished archives stay.

use super::error::MoverError;
use super::{Context, orphans};
use crate::plan::operation::{CleanupTask, Reason, Verdict};

/// Runs the task. Every end is tried, also after another one failed.
///
/// # Errors
/// The first failure; see [`Reason`].
pub async fn run(context: &Context, task: &CleanupTask) -> Result<Verdict, MoverError> {
    let uid = &context.operation.migration.uid;
    let mut first = None;
    let mut note = |result: Result<(), MoverError>| {
        if let Err(error) = result {
            tracing::warn!(%error, "cleanup of one end failed");
            first.get_or_insert(error);
        }
    };
    for database in &task.databases {
        note(match context.opener.pod_if_there(database).await {
            Ok(Some(pod)) => orphans::end(&pod, uid).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        });
    }
    for archive in &task.archives {
        note(
            async {
                if archive.prefix.trim_matches('/').is_empty() {
                    return Err(MoverError::new(
                        Reason::InvalidOperation,
                        "cleanup needs a prefix: without one it would abort foreign uploads",
                    ));
                }
                let bucket = context.opener.bucket(archive).await?;
                let aborted = bucket.abort_orphans(&format!("{}/", archive.prefix.trim_end_matches('/'))).await?;
                tracing::info!(aborted, "unfinished uploads are gone");
                Ok(())
            }
            .await,
        );
    }
    match first {
        None => Ok(context.verdict(Reason::Done, "nothing of earlier attempts is left")),
        Some(error) => Err(error),
    }
}
