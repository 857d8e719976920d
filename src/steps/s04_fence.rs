//! Close the source database to everyone else.
//!
//! Effect: the swap fence (the database is renamed away and a refusing tombstone takes its name, in one transaction, from
//! sessions opened beforehand), or the layered one where renaming is not allowed. Originals are recorded before. Probe: the
//! catalogs, by OID. Undo: the same transaction backwards. The fence stays after success.

use std::sync::Arc;
use std::time::Duration;

use super::context::{Context, SHORT, sql};
use crate::api::conditions::reasons;
use crate::api::names::session_tag_prefix;
use crate::api::{Fence, FenceKind, Side};
use crate::plan::Failure;
use crate::plan::checks::servers;
use crate::plan::record::Advance;
use crate::postgres::admin::AdminSessions;
use crate::postgres::carrier::Carrier;
use crate::postgres::catalog;
use crate::postgres::fence::{self, FenceNames, FenceState};
use crate::postgres::layered::{self, LayeredFence};
use crate::postgres::swap::SwapError;

/// Deadline of each single thing that the fence does.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The name that the source database has at this moment.
pub fn current_name(cx: &Context<'_>) -> String {
    let name = &cx.database().name;
    match &cx.status.fence {
        Some(f) if f.closed && f.method == FenceKind::Swap => FenceNames::derive(name, cx.names.uid()).fenced,
        Some(_) | None => name.clone(),
    }
}

/// A failure of the swap in words.
pub fn swap(side: Side, reason: &'static str, e: &SwapError) -> Failure {
    match e {
        SwapError::Sql(e) => sql(side, e),
        SwapError::Blocked { .. } => Failure::needs_human(reason, format!("{}: {e}", super::context::path(side))),
        SwapError::Unexpected(_) => Failure::terminal(reason, format!("{}: {e}", super::context::path(side))),
    }
}

/// Admin sessions on `side`, held until the call ends.
///
/// All steps, and their undos, share one name a side, and so one lock (decision 0017): opening ends what an earlier holder left
/// running, so that a statement of an operator that died cannot take effect after another step has looked. The record is looked
/// at after that, since an operator that slept may be the one that opens last.
pub async fn admins(cx: &mut Context<'_>, side: Side) -> Result<AdminSessions, Failure> {
    let name = match side {
        Side::Source => "admin-source",
        Side::Target => "admin-target",
    };
    let carrier: Arc<dyn Carrier> = Arc::new(cx.carrier(side, name).await?);
    let admins = AdminSessions::open(carrier, "postgres", SHORT).await.map_err(|e| sql(side, &e))?;
    match cx.unsurpassed().await {
        Ok(()) => Ok(admins),
        Err(failure) => {
            admins.close().await;
            Err(failure)
        }
    }
}

fn lost() -> Failure {
    super::context::lost("what the fence was made of")
}

fn text<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::terminal(reasons::FENCE_FAILED, e.to_string()))
}

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let Some(known) = cx.status.fence.clone() else {
        let mut admins = admins(cx, Side::Source).await?;
        let recorded = plan(cx, &mut admins).await;
        admins.close().await;
        cx.status.fence = Some(recorded?);
        return Ok(Advance::Again);
    };
    let mut admins = admins(cx, Side::Source).await?;
    let closed = match known.method {
        FenceKind::Swap => close_by_swap(cx, &mut admins, &known).await,
        FenceKind::Layered => close_in_layers(cx, &mut admins, &known).await,
    };
    admins.close().await;
    closed?;
    if let Some(f) = &mut cx.status.fence {
        f.closed = true;
    }
    let witness = witness(cx).await?;
    if let Some(f) = &mut cx.status.fence {
        f.witness = Some(witness);
    }
    Ok(Advance::Done)
}

/// The witness of the closed database, taken from inside it.
pub async fn witness(cx: &mut Context<'_>) -> Result<String, Failure> {
    let name = current_name(cx);
    let mut session = cx.session(Side::Source, &name, "witness").await?;
    let witness = catalog::witness(session.as_mut()).await.map_err(|e| sql(Side::Source, &e));
    session.close().await;
    text(&witness?)
}

async fn plan(cx: &Context<'_>, admins: &mut AdminSessions) -> Result<Fence, Failure> {
    let name = cx.database().name.clone();
    let server = async { catalog::server(admins.session().await?).await }.await.map_err(|e| sql(Side::Source, &e))?;
    let owner = async {
        let session = admins.session().await?;
        let owner = catalog::database(session, &name).await?.map(|found| found.owner).unwrap_or_default();
        Ok(catalog::roles(session, &[owner]).await?.into_iter().next())
    };
    let owner: Option<catalog::Role> = owner.await.map_err(|e| sql(Side::Source, &e))?;
    let method = servers::fence_kind(cx.spec().source.fence, &server, owner.as_ref());
    let unexpected = |e: &SwapError| swap(Side::Source, reasons::FENCE_FAILED, e);
    let originals = match method {
        FenceKind::Swap => {
            let found = fence::originals(admins, &name).await.map_err(|e| unexpected(&e))?;
            let comment = format!(
                "Moved by PostgresMigration {}/{} to {}:{}. The data is kept, unchanged, under another name on this server.",
                cx.home(),
                cx.object.metadata.name.as_deref().unwrap_or_default(),
                cx.spec().target.endpoint.host,
                cx.spec().target.endpoint.port
            );
            text(&fence::Fence { names: FenceNames::derive(&name, cx.names.uid()), originals: found, comment })?
        }
        // Barring a role from the server is felt in its other databases too: only the database's owner is barred, since
        // it could grant itself back what is revoked.
        FenceKind::Layered => {
            let owner: Vec<String> = owner.map(|role| role.name).into_iter().collect();
            let found = layered::originals(admins, &name, &owner).await.map_err(|e| unexpected(&e))?;
            if !found.subscriptions.is_empty() {
                return Err(Failure::terminal(
                    reasons::FENCE_NOT_POSSIBLE,
                    format!(
                        "spec.source.fence: subscriptions {:?} write into the database, and the layered fence cannot stop them: disable them first",
                        found.subscriptions
                    ),
                ));
            }
            text(&found)?
        }
    };
    Ok(Fence { method, originals, closed: false, witness: None })
}

fn swap_fence(known: &Fence) -> Result<fence::Fence, Failure> {
    serde_json::from_str(&known.originals).map_err(|_| lost())
}

async fn close_by_swap(cx: &mut Context<'_>, admins: &mut AdminSessions, known: &Fence) -> Result<(), Failure> {
    let fence = swap_fence(known)?;
    let failed = |e: SwapError| swap(Side::Source, reasons::FENCE_FAILED, &e);
    let state = fence.state(admins).await.map_err(|e| sql(Side::Source, &e))?;
    if !fence.originals.subscriptions.is_empty() && matches!(state, FenceState::Open { .. }) {
        let inside = admins.enter(&fence.names.database, SHORT).await;
        let mut inside = inside.map_err(|e| sql(Side::Source, &e))?;
        let disabled = fence.disable_subscriptions(inside.as_mut(), DEADLINE).await.map_err(failed);
        inside.close().await;
        disabled?;
    }
    fence.raise(admins, DEADLINE).await.map_err(failed)?;
    fence.wait_for_standbys(admins, DEADLINE).await.map_err(failed)?;
    tight(cx, admins, known).await
}

fn layers(known: &Fence) -> Result<LayeredFence, Failure> {
    serde_json::from_str(&known.originals).map(|originals| LayeredFence { originals }).map_err(|_| lost())
}

async fn close_in_layers(cx: &Context<'_>, admins: &mut AdminSessions, known: &Fence) -> Result<(), Failure> {
    layers(known)?.raise(admins, DEADLINE).await.map_err(|e| swap(Side::Source, reasons::FENCE_FAILED, &e))?;
    tight(cx, admins, known).await
}

/// Fails unless the fence is tight at this moment: no foreign session, no worker of a subscription, tombstone untouched, same
/// server and timeline.
pub async fn tight(cx: &Context<'_>, admins: &mut AdminSessions, known: &Fence) -> Result<(), Failure> {
    let ours = session_tag_prefix(cx.names.uid());
    let (leaks, may_pass) = match known.method {
        FenceKind::Swap => {
            let fence = swap_fence(known)?;
            let evidence = fence.evidence(admins, &ours).await.map_err(|e| sql(Side::Source, &e))?;
            (evidence.leaks(&fence.originals), evidence.may_pass(&fence.originals))
        }
        FenceKind::Layered => {
            let state = layers(known)?.state(admins, &ours).await;
            let state = state.map_err(|e| swap(Side::Source, reasons::FENCE_FAILED, &e))?;
            (state.leaks(), state.may_pass())
        }
    };
    if leaks.is_empty() {
        return Ok(());
    }
    let message = format!("spec.source: the database is not closed: {}", leaks.join("; "));
    // A piece that was broken and mended again may have let writes in between: waiting for that would hide it.
    Err(if may_pass {
        Failure::transient(reasons::FENCE_FAILED, message)
    } else {
        Failure::terminal(reasons::FENCE_FAILED, message)
    })
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let Some(known) = cx.status.fence.clone() else { return Ok(Advance::Done) };
    let mut admins = admins(cx, Side::Source).await?;
    let opened = open(&mut admins, &known).await;
    admins.close().await;
    // What somebody wrote into the tombstone is not ours to drop, and no reason to keep the rest from being undone.
    if let Some(why) = opened? {
        cx.warn(reasons::FENCE_FAILED, "spec.source", &format!("left behind: {why}"));
    }
    cx.status.fence = None;
    Ok(Advance::Done)
}

/// Opens the database. Why its tombstone is left behind, if it is.
async fn open(admins: &mut AdminSessions, known: &Fence) -> Result<Option<String>, Failure> {
    let failed = |e: SwapError| swap(Side::Source, reasons::FENCE_FAILED, &e);
    let fence = match known.method {
        FenceKind::Swap => swap_fence(known)?,
        FenceKind::Layered => return layers(known)?.lift(admins, DEADLINE).await.map(|()| None).map_err(failed),
    };
    fence.reopen(admins, DEADLINE).await.map_err(failed)?;
    if !fence.originals.subscriptions.is_empty() {
        let inside = admins.enter(&fence.names.database, SHORT).await;
        let mut inside = inside.map_err(|e| sql(Side::Source, &e))?;
        let enabled = fence.enable_subscriptions(inside.as_mut(), DEADLINE).await.map_err(|e| sql(Side::Source, &e));
        inside.close().await;
        enabled?;
    }
    // Last, since dropping the tombstone may wait for any session of the server: the database works already.
    match fence.lift(admins, DEADLINE).await {
        Ok(()) => Ok(None),
        Err(SwapError::Unexpected(why)) => Ok(Some(why)),
        Err(e) => Err(failed(e)),
    }
}
