//! Give the copy its final name: the same swap as the fence, on the target. Nothing was visible to applications before.
//!
//! Effects: settings of the database that a dump does not carry, then the renaming in one transaction. OIDs are recorded
//! before. Probe: the catalogs, by OID. Undo: the same transaction backwards, to another name once an application has written to it. A database that had the name is set aside,
//! never dropped.

use super::context::{Context, lost, sql};
use super::s03_quiesce::application_at_rest;
use super::s04_fence::{self as fence, DEADLINE, admins, swap};
use super::saving;
use crate::api::conditions::reasons;
use crate::api::{ExistingTarget, Publication, Side};
use crate::plan::Failure;
use crate::plan::record::{self, Advance};
use crate::postgres::catalog;
use crate::postgres::publish::{self, PublishNames, PublishState};
use crate::postgres::staging;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let proven = cx.status.verification.as_ref().is_some_and(|v| v.equal && v.witnessed);
    if !proven {
        return Err(lost("that the copy was proven equal"));
    }
    let failed = |e| swap(Side::Target, reasons::PUBLISH_FAILED, &e);
    let Some(known) = cx.status.publication.clone() else {
        cx.status.publication = Some(plan(cx).await?);
        return Ok(Advance::Again);
    };
    let publication = read(&known)?;
    // The last look before the pointer moves: nobody may have written to the source.
    if let Some(closed) = cx.status.fence.clone() {
        let mut source = admins(cx, Side::Source).await?;
        let tight = fence::tight(cx, &mut source, &closed).await;
        source.close().await;
        tight?;
    }
    let mut target = admins(cx, Side::Target).await?;
    let published = publication.publish(&mut target, DEADLINE).await.map_err(failed);
    target.close().await;
    published?;
    if let Some(p) = &mut cx.status.publication {
        p.published = true;
    }
    Ok(Advance::Done)
}

fn read(known: &Publication) -> Result<publish::Publication, Failure> {
    serde_json::from_str(&known.originals).map_err(|_| lost("what was to be published"))
}

/// Dresses the staging database and records what is to be swapped.
async fn plan(cx: &mut Context<'_>) -> Result<Publication, Failure> {
    let failed = |e| swap(Side::Target, reasons::PUBLISH_FAILED, &e);
    let name = cx.database().target_name().to_owned();
    let names = PublishNames::derive(&name, cx.names.uid());
    let mut source = admins(cx, Side::Source).await?;
    let dress = staging::dress_of(&mut source, &fence::current_name(cx)).await.map_err(failed);
    source.close().await;
    let (model, settings) = dress?;
    if cx.database().existing_target == ExistingTarget::Refuse {
        refuse_tables(cx, &name).await?;
    }
    let mut target = admins(cx, Side::Target).await?;
    let owner = &cx.database().owner.name;
    let planned = async {
        let left = staging::carry(&mut target, &model, &settings, &names.staging, owner).await?;
        let planned = publish::plan(&mut target, names.clone()).await?;
        Ok((left, planned))
    }
    .await
    .map_err(failed);
    target.close().await;
    let (left, planned) = planned?;
    // By its OID, never by its name alone: another database under that name, made by an operator that came late or by a
    // person, was not compared.
    let compared = cx.status.staging.as_ref().and_then(|s| s.oid);
    if compared != Some(i64::from(planned.staging_oid)) {
        return Err(Failure::terminal(
            reasons::PUBLISH_FAILED,
            format!("database {:?} of the target is not the one that was compared: somebody replaced it", planned.names.staging),
        ));
    }
    for one in left.iter().take(10) {
        cx.status.warnings.push(crate::api::Finding {
            reason: reasons::NOT_CARRIED_OVER.into(),
            path: "spec.databases[0]".into(),
            message: record::bounded(&format!("{}: {}", one.what, one.why)),
        });
    }
    let set_aside = planned.existing_oid.map(|_| planned.names.aside.clone());
    let originals = serde_json::to_string(&planned).map_err(|e| Failure::terminal(reasons::PUBLISH_FAILED, e.to_string()))?;
    let mut session = cx.session(Side::Target, &planned.names.staging, "publish").await?;
    let changes = catalog::row_changes(session.as_mut()).await.map_err(|e| sql(Side::Target, &e));
    session.close().await;
    Ok(Publication { originals, set_aside, row_changes: Some(changes?), published: false })
}

/// A target that got tables after the checks is refused as it would have been then.
async fn refuse_tables(cx: &mut Context<'_>, name: &str) -> Result<(), Failure> {
    let mut session = cx.session(Side::Target, "postgres", "publish").await?;
    let found = catalog::database(session.as_mut(), name).await.map_err(|e| sql(Side::Target, &e));
    session.close().await;
    if found?.is_none() {
        return Ok(());
    }
    let mut inside = cx.session(Side::Target, name, "publish").await?;
    let inventory = catalog::inventory(inside.as_mut()).await.map_err(|e| sql(Side::Target, &e));
    inside.close().await;
    if inventory?.holds_tables() {
        return Err(Failure::terminal(
            reasons::TARGET_NOT_EMPTY,
            format!(
                "spec.databases[0].existingTarget: database {name:?} of {} got tables since the checks: it is not replaced",
                cx.place(Side::Target).map_or_else(|| "the target".into(), |place| place.server())
            ),
        ));
    }
    Ok(())
}

/// Whether the copy has its final name, for everybody to find.
async fn in_sight(cx: &mut Context<'_>, publication: &publish::Publication) -> Result<bool, Failure> {
    let mut target = admins(cx, Side::Target).await?;
    let state = publication.state(&mut target).await.map_err(|e| sql(Side::Target, &e));
    target.close().await;
    Ok(matches!(state?, PublishState::Published | PublishState::Withdrawing))
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let Some(known) = cx.status.publication.clone() else { return Ok(Advance::Done) };
    let mut publication = read(&known)?;
    // A database that others may have written to never has the name again that the steps forward drop.
    if cx.status.saved.is_none() && (cx.status.resumed || in_sight(cx, &publication).await?) {
        saving::intend(cx)?;
        return Ok(Advance::Again);
    }
    if let Some(saved) = &cx.status.saved {
        publication.names.staging.clone_from(&saved.database);
    }
    let mut target = admins(cx, Side::Target).await?;
    let state = publication.state(&mut target).await.map_err(|e| sql(Side::Target, &e));
    // From the moment that the copy had its name, the application may have written to it.
    let at_rest = match &state {
        Ok(PublishState::Published | PublishState::Withdrawing) => application_at_rest(cx).await,
        Ok(_) | Err(_) => Ok(None),
    };
    let withdrawn = match (state, at_rest) {
        (Ok(PublishState::Unpublished), _) => Ok(None),
        (Ok(PublishState::Gone { open: true }), _) => {
            // Somebody dropped it: there is nothing to save.
            cx.status.saved = None;
            Ok(None)
        }
        (Ok(_), Ok(None)) => {
            let withdrawn = publication.withdraw(&mut target, DEADLINE).await;
            withdrawn.map(|()| None).map_err(|e| swap(Side::Target, reasons::PUBLISH_FAILED, &e))
        }
        (Ok(_), Ok(Some(wait))) => Ok(Some(wait)),
        (Err(f), _) | (Ok(_), Err(f)) => Err(f),
    };
    target.close().await;
    if let Some(wait) = withdrawn? {
        return Ok(wait);
    }
    cx.status.publication = None;
    Ok(Advance::Done)
}
