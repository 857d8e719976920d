//! Lead the application to the new database: keys of ConfigMaps and Secrets, literal variables of workloads.
//!
//! Effects: all previous values go into one Secret, create-only, then one setting a call is written by compare-and-set, its
//! number recorded before. The status never holds a value. Undo: backwards, each only if it still holds what we wrote, and only
//! while the application stands still.

use super::context::{Context, kubernetes};
use super::s03_quiesce::application_at_rest;
use crate::api::conditions::reasons;
use crate::api::{Repointed, Side};
use crate::kubernetes::config::previous::{self, Previous};
use crate::kubernetes::config::{self, ConfigError, Place, Replacement, Value};
use crate::plan::Failure;
use crate::plan::record::Advance;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let places = places(cx)?;
    if places.is_empty() {
        return Ok(Advance::Done);
    }
    let client = cx.cluster(Side::Target).await?;
    let namespace = cx.namespace(Side::Target);
    let secret = cx.names.previous_values();
    let Some(known) = cx.status.repointed.clone() else {
        let mut found = Vec::new();
        for (n, (place, _)) in places.iter().enumerate() {
            let now = config::read(&client, &namespace, place).await.map_err(|e| failed(cx, n, &e))?;
            found.push(Previous { place: place.clone(), value: now.value });
        }
        previous::keep(&client, &namespace, &secret, &cx.migration(), &found).await.map_err(|e| cx.api(Side::Target, &e))?;
        cx.status.repointed = Some(Repointed { previous_values: secret, begun: 0, written: 0 });
        return Ok(Advance::Again);
    };
    if known.begun == known.written {
        if usize::try_from(known.begun).is_ok_and(|n| n >= places.len()) {
            return Ok(Advance::Done);
        }
        if let Some(r) = &mut cx.status.repointed {
            r.begun += 1;
        }
        return Ok(Advance::Again);
    }
    let (at, place, before, new) = begun(cx, &known).await?;
    cx.unsurpassed().await?;
    let done = config::replace(&client, &namespace, &place, before.as_ref(), Some(&new)).await.map_err(|e| failed(cx, at, &e))?;
    match done {
        Replacement::Written | Replacement::Already => {}
        Replacement::ChangedByOthers => {
            return Err(Failure::needs_human(
                reasons::CHANGED_BY_OTHERS,
                format!(
                    "spec.target.application.repoint[{at}]: {place} in namespace {namespace} of {} was changed by somebody during the migration, and is left as it is: give it its previous value, which is kept in Secret {namespace}/{}, or the new one",
                    cx.cluster_words(Side::Target),
                    known.previous_values
                ),
            ));
        }
    }
    if let Some(r) = &mut cx.status.repointed {
        r.written = r.begun;
    }
    Ok(Advance::Again)
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let client = cx.cluster(Side::Target).await?;
    let namespace = cx.namespace(Side::Target);
    let Some(known) = cx.status.repointed.clone().filter(|k| k.begun > 0) else {
        previous::forget(&client, &namespace, &cx.names.previous_values(), &cx.migration())
            .await
            .map_err(|e| cx.api(Side::Target, &e))?;
        cx.status.repointed = None;
        return Ok(Advance::Done);
    };
    if let Some(wait) = application_at_rest(cx).await? {
        return Ok(wait);
    }
    let (at, place, before, new) = begun(cx, &known).await?;
    cx.unsurpassed().await?;
    match config::replace(&client, &namespace, &place, Some(&new), before.as_ref()).await.map_err(|e| failed(cx, at, &e))? {
        Replacement::Written | Replacement::Already => {}
        Replacement::ChangedByOthers => {
            let cluster = cx.cluster_words(Side::Target);
            cx.warn(
                reasons::CHANGED_BY_OTHERS,
                &format!("spec.target.application.repoint[{at}]"),
                &format!("{place} in namespace {namespace} of {cluster} was left as somebody set it meanwhile"),
            );
        }
    }
    if let Some(r) = &mut cx.status.repointed {
        r.begun -= 1;
        r.written = r.written.min(r.begun);
    }
    Ok(Advance::Again)
}

/// The setting begun last: its number, place, previous value and new value.
async fn begun(cx: &mut Context<'_>, known: &Repointed) -> Result<(usize, Place, Option<Value>, Value), Failure> {
    let secret = cx.object_words(Side::Target, "Secret", &known.previous_values);
    let lost = || {
        let what = "which keeps the previous values of the settings, is gone or does not fit the spec";
        Failure::terminal(reasons::REPOINT_FAILED, format!("spec.target.application.repoint: {secret}, {what}"))
    };
    let client = cx.cluster(Side::Target).await?;
    let kept = previous::kept(&client, &cx.namespace(Side::Target), &known.previous_values, &cx.migration())
        .await
        .map_err(|e| cx.api(Side::Target, &e))?
        .ok_or_else(lost)?;
    let at = usize::try_from(known.begun - 1).map_err(|_| lost())?;
    let (place, template) = places(cx)?.into_iter().nth(at).ok_or_else(lost)?;
    let before = kept.into_iter().find(|p| p.place == place).ok_or_else(lost)?.value;
    let new = Value::text(&filled(cx, &template).await?);
    Ok((at, place, before, new))
}

/// The settings of the spec and their templates, in order.
fn places(cx: &Context<'_>) -> Result<Vec<(Place, String)>, Failure> {
    let named = |(n, r)| {
        Place::of(r).map(|place| (place, r.template.clone())).ok_or_else(|| {
            Failure::terminal(reasons::REPOINT_FAILED, format!("spec.target.application.repoint[{n}]: it names no setting"))
        })
    };
    cx.spec().target.application.repoint.iter().enumerate().map(named).collect()
}

/// A template with its words filled in.
async fn filled(cx: &mut Context<'_>, template: &str) -> Result<String, Failure> {
    let endpoint = &cx.spec().target.endpoint;
    let database = cx.database();
    let password = if template.contains("$(password)") {
        let r = &database.owner.password_secret_ref;
        cx.secret(&r.name, &r.key, "spec.databases[0].owner.passwordSecretRef").await?
    } else {
        String::new()
    };
    Ok(crate::plan::template::fill(
        template,
        &[
            ("host", &endpoint.host),
            ("port", &endpoint.port.to_string()),
            ("database", database.target_name()),
            ("user", &database.owner.name),
            ("password", &password),
        ],
    ))
}

fn failed(cx: &Context<'_>, n: usize, e: &ConfigError) -> Failure {
    let message = format!("spec.target.application.repoint[{n}]: {e} ({})", cx.cluster_words(Side::Target));
    match e {
        ConfigError::Absent(_) => Failure::needs_human(reasons::REPOINT_NOT_FOUND, message),
        ConfigError::Refused(_) => Failure::needs_human(reasons::REPOINT_FAILED, message),
        ConfigError::Api(e) => Failure { message, ..kubernetes(e) },
    }
}
