//! Stopping and starting: the record on the object first, then the change, each write bound to the object as it was read.

use kube::Client;
use kube::api::Patch;
use serde_json::{Value, json};

use super::super::errors::{Error, Kind, Request, ask, manager};
use super::{Original, Setting, WorkloadId, WorkloadState, api, get, state_of};
use crate::api::names::ORIGINAL_ANNOTATION;

/// Times that a write is tried again when the object changes under it. Controllers write status all the time.
const ATTEMPTS: usize = 8;

/// How a stop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is set to 0, or suspended; pods may still be there. Holds how it was before the *first* stop of this migration.
    Stopped(Setting),
    /// Another migration holds it; nothing was changed. Holds that migration's UID, or the annotation when it cannot be read.
    HeldByOther(String),
    /// There is no such workload any more, or another one has its name; nothing was changed.
    Gone,
}

/// How a start ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is set as wanted, by this call or an earlier one, and the annotation is gone.
    Set,
    /// It was no longer as this migration had left it. Its setting is untouched, the annotation is gone.
    ChangedByOthers(Setting),
    /// Another migration holds it; nothing was changed. Holds that migration's UID.
    HeldByOther(String),
    /// There is no such workload any more, or another one has its name; nothing was changed.
    Gone,
}

/// Sets a workload to 0 replicas, or suspends a CronJob, for the migration with the UID `migration`.
///
/// Before that, how it was is written to [`ORIGINAL_ANNOTATION`], create-only: a later call finds the first one's record.
/// Does not wait for pods: see [`super::pods_left`].
///
/// # Errors
/// [`Kind::Conflict`] when the object changed under every attempt.
pub async fn stop(client: &Client, migration: &str, id: &WorkloadId) -> Result<Stop, Error> {
    stop_from(client, migration, id, None).await
}

/// As [`stop`], for a workload that this migration had started already: what is written to the object is not how it is now, but
/// `original`, how it was before the first stop.
///
/// # Errors
/// As [`stop`].
pub async fn stop_again(client: &Client, migration: &str, id: &WorkloadId, original: Setting) -> Result<Stop, Error> {
    stop_from(client, migration, id, Some(original)).await
}

async fn stop_from(client: &Client, migration: &str, id: &WorkloadId, before: Option<Setting>) -> Result<Stop, Error> {
    for _ in 0..ATTEMPTS {
        let Some(mut now) = same(client, id).await? else { return Ok(Stop::Gone) };
        let original = match &now.original {
            Some(held) if held.migration != migration => return Ok(Stop::HeldByOther(held.migration.clone())),
            Some(own) => own.setting,
            None => before.unwrap_or_else(|| now.setting()),
        };
        if now.original.is_none() {
            let record = Original { migration: migration.into(), setting: original };
            let text = serde_json::to_string(&record).unwrap_or_default();
            match write(client, &now, json!({"metadata": {"annotations": {ORIGINAL_ANNOTATION: text}}})).await? {
                Some(newer) => now = newer,
                None => continue,
            }
        }
        if now.setting() == original.stopped() || set(client, &now, original.stopped()).await? {
            return Ok(Stop::Stopped(original));
        }
    }
    Err(contended(id))
}

/// Puts a stopped workload back to how it was. Compare-and-set: only when it is still as [`stop`] left it.
///
/// # Errors
/// [`Kind::Conflict`] when the object changed under every attempt.
pub async fn restore(client: &Client, migration: &str, id: &WorkloadId, original: Setting) -> Result<Start, Error> {
    start(client, migration, id, original).await
}

/// Starts a stopped workload with this many replicas. Compare-and-set: only when it is still as [`stop`] left it.
///
/// # Errors
/// [`Kind::Conflict`] when the object changed under every attempt.
pub async fn scale_to(client: &Client, migration: &str, id: &WorkloadId, replicas: i32) -> Result<Start, Error> {
    start(client, migration, id, Setting::Replicas(replicas)).await
}

async fn start(client: &Client, migration: &str, id: &WorkloadId, wanted: Setting) -> Result<Start, Error> {
    // Once our own write has succeeded, an autoscaler may go on from there: that is no change by others.
    let mut written = false;
    for _ in 0..ATTEMPTS {
        let Some(now) = same(client, id).await? else { return Ok(Start::Gone) };
        if let Some(held) = now.original.as_ref().filter(|held| held.migration != migration) {
            return Ok(if written { Start::Set } else { Start::HeldByOther(held.migration.clone()) });
        }
        let outcome = if written || now.setting() == wanted {
            Start::Set
        } else if now.setting() == wanted.stopped() {
            written = set(client, &now, wanted).await?;
            continue;
        } else {
            Start::ChangedByOthers(now.setting())
        };
        if now.original.is_none() {
            return Ok(outcome);
        }
        // The record goes last: as long as it stands, a crash finds out what is left to do.
        if write(client, &now, json!({"metadata": {"annotations": {ORIGINAL_ANNOTATION: Value::Null}}})).await?.is_some() {
            return Ok(outcome);
        }
    }
    Err(contended(id))
}

fn contended(id: &WorkloadId) -> Error {
    let request = Request::new("patch", &format!("{:?}", id.kind), &id.namespace, &id.name);
    Error::new(Kind::Conflict, request, format!("it changed {ATTEMPTS} times while it was to be written"))
}

async fn same(client: &Client, id: &WorkloadId) -> Result<Option<WorkloadState>, Error> {
    Ok(get(client, &id.namespace, id.kind, &id.name).await?.filter(|now| now.uid == id.uid))
}

/// `None` when the object is no longer as it was read.
fn unless_changed<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn bound(now: &WorkloadState, mut patch: Value) -> Patch<Value> {
    patch["metadata"]["uid"] = now.uid.as_str().into();
    patch["metadata"]["resourceVersion"] = now.resource_version.as_str().into();
    Patch::Merge(patch)
}

/// Merge-patches the object, bound to what was read. Returns it as it is then.
async fn write(client: &Client, now: &WorkloadState, patch: Value) -> Result<Option<WorkloadState>, Error> {
    let (api, request) = api(client, &now.namespace, now.kind, "patch", &now.name)?;
    match unless_changed(ask(request, api.patch(&now.name, &manager(), &bound(now, patch))).await)? {
        Some(object) => Ok(Some(state_of(&now.namespace, now.kind, &object)?)),
        None => Ok(None),
    }
}

/// Changes the setting, bound to what was read: through the scale subresource, so that the right to scale is enough, and so
/// that giving the field up later never means deleting it. False when the object is no longer as it was read.
async fn set(client: &Client, now: &WorkloadState, wanted: Setting) -> Result<bool, Error> {
    match wanted {
        Setting::Suspended(suspended) => {
            Ok(write(client, now, json!({"metadata": {}, "spec": {"suspend": suspended}})).await?.is_some())
        }
        Setting::Replicas(replicas) => {
            let (api, mut request) = api(client, &now.namespace, now.kind, "patch", &now.name)?;
            request.resource.push_str("/scale");
            let patch = bound(now, json!({"metadata": {}, "spec": {"replicas": replicas}}));
            Ok(unless_changed(ask(request, api.patch_scale(&now.name, &manager(), &patch)).await)?.is_some())
        }
    }
}
