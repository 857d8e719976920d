//! Analyze: planner statistics of the staging database, so that the first queries after publishing are planned well.

use super::error::MoverError;
use super::{Context, orphans, stream, watch};
use crate::plan::operation::{AnalyzeTask, Phase, Reason, Verdict};
use crate::postgres::catalog;
use crate::postgres::tools::{self, scripts};

/// Runs the task. It may be repeated at will.
///
/// # Errors
/// See [`Reason`].
pub async fn run(context: &Context, task: &AnalyzeTask) -> Result<Verdict, MoverError> {
    let target = context.opener.pod(&task.target).await?;
    let uid = &context.operation.migration.uid;
    orphans::end(&target, uid).await?;
    let (mut session, _) = target.checked_session().await?;
    let inventory = catalog::inventory(session.as_mut()).await?;
    session.close().await;
    context.counters.update(|p| p.tables_total = Some(inventory.counts.tables));
    context.counters.enter(Phase::Working);
    let nonce = stream::nonce()?;
    let login = target.admin_login(&task.target.database, &[]);
    let argv = scripts::produce(&nonce, login.tag, uid, &tools::analyze(&login));
    let what = format!("ANALYZE of {:?} in {}", task.target.database, target.target);
    let (stdin, running) = stream::start(&target.client, &target.target, &what, &argv, &nonce).await?;
    let running = running.holding(stdin);
    watch::over(context, &target, running.drain(|said| context.counters.said(said))).await?.verdict(Reason::AnalyzeFailed)?;
    let tables = inventory.counts.tables;
    Ok(Verdict {
        tables: Some(tables),
        ..context.verdict(Reason::Done, format!("{tables} tables of {:?} are analyzed", task.target.database))
    })
}
