//! The steps backward: for each what the `undo` of its file in `src/steps` does.

use super::call::{Call, MOVERS, Stop, terminal, wait};
use super::steps::{drop_staging, published_one, replace, start};
use super::world::{EXISTING, Name, SOURCE, Setting, Task};
use crate::api::conditions::reasons;
use crate::api::{Saved, Side, StepName};
use crate::plan::record::Advance;
use crate::plan::{Class, Failure};

type Answer = Result<Advance, Stop>;

/// `steps::undo`.
pub fn undo(step: StepName, cx: &mut Call<'_>) -> Answer {
    let answer = match step {
        StepName::Pin | StepName::Preflight | StepName::Witness => Ok(Advance::Done),
        StepName::Resume => resume(cx),
        StepName::Keep => keep(cx),
        StepName::Quiesce => quiesce(cx),
        StepName::Fence => fence(cx),
        StepName::Dump => dump(cx),
        StepName::VerifyArchive | StepName::Compare | StepName::Analyze => movers(cx),
        StepName::Restore => restore(cx),
        StepName::Publish => publish(cx),
        StepName::Repoint => repoint(cx),
        StepName::SchemaJob => {
            let none = cx.end_jobs(&[Task::Schema])?;
            if none {
                cx.status.schema_jobs.clear();
            }
            Ok(if none { Advance::Done } else { wait() })
        }
    }?;
    cx.survive()?;
    Ok(answer)
}

fn quiesce(cx: &mut Call<'_>) -> Answer {
    let Some(at) = cx.status.quiesced.iter().position(|q| !q.restored) else { return Ok(Advance::Done) };
    let up = cx.status.quiesced[at].replicas == Some(1);
    start(cx, at, up, true)?;
    cx.status.quiesced[at].restored = true;
    Ok(Advance::Again)
}

fn fence(cx: &mut Call<'_>) -> Answer {
    let Some(known) = cx.status.fence.clone() else { return Ok(Advance::Done) };
    while !cx.world.source_accepts() {
        lift(cx)?;
    }
    if !known.originals.is_empty() && !cx.world.subscription {
        cx.effect(true, "the subscription is enabled")?;
        cx.world.subscription = true;
    }
    if cx.world.source.named(Name::Tombstone).is_some() {
        cx.effect(true, "the tombstone is dropped")?;
        cx.world.source.drop(Name::Tombstone, false);
    }
    cx.status.fence = None;
    Ok(Advance::Done)
}

/// `Fence::lift_step`, until the database takes connections under its own name.
fn lift(cx: &mut Call<'_>) -> Result<(), Stop> {
    let Some(own) = cx.world.source.oid(SOURCE) else { return Err(terminal(reasons::FENCE_FAILED)) };
    match (own.name, own.open) {
        (Name::Fenced, true) => {
            cx.effect(true, "the fenced source refuses connections")?;
            cx.world.proof = false;
            cx.world.source.allow(Name::Fenced, false);
        }
        (Name::Fenced, false) => {
            cx.effect(true, "the source gets its name back")?;
            cx.world.source.rename(Name::Application, Name::Tombstone);
            cx.world.source.rename(Name::Fenced, Name::Application);
            cx.world.source.allow(Name::Application, true);
        }
        (_, _) => {
            cx.effect(true, "the source takes connections")?;
            cx.world.source.allow(Name::Application, true);
        }
    }
    Ok(())
}

fn movers(cx: &mut Call<'_>) -> Answer {
    Ok(if cx.end_jobs(&MOVERS)? { Advance::Done } else { wait() })
}

fn dump(cx: &mut Call<'_>) -> Answer {
    if !cx.end_jobs(&MOVERS)? {
        return Ok(wait());
    }
    if cx.world.orphan {
        cx.effect(true, "sessions of movers are ended")?;
        cx.world.orphan = false;
        return Ok(wait());
    }
    if cx.status.archive.is_none() {
        return Ok(Advance::Done);
    }
    if cx.status.resumed {
        if cx.world.bucket.sealed {
            cx.effect(true, "the run's manifest is put by")?;
            cx.world.bucket.sealed = false;
        }
        // The next run has a key of its own.
        cx.world.bucket.past |= cx.world.bucket.archive.take().is_some();
        return Ok(Advance::Done);
    }
    if cx.world.bucket.sealed {
        cx.effect(true, "the run's manifest is deleted")?;
        cx.world.bucket.sealed = false;
    }
    if cx.world.bucket.archive.is_some() {
        cx.effect(true, "the archive is deleted")?;
        cx.world.bucket.archive = None;
    }
    cx.status.archive = None;
    Ok(Advance::Done)
}

fn restore(cx: &mut Call<'_>) -> Answer {
    let mut oid = cx.status.staging.as_ref().and_then(|s| s.oid).and_then(|oid| u8::try_from(oid).ok());
    let mut name = Name::Staging;
    if let Some(written) = oid.filter(|_| cx.status.resumed || cx.status.saved.is_some()) {
        match save(cx, written)? {
            Saving::Over => {}
            Saving::Kept => oid = None,
            Saving::Not(advance) => return Ok(advance),
        }
        if cx.status.saved.is_some() {
            name = Name::Kept;
        }
    }
    if !cx.end_jobs(&MOVERS)? {
        return Ok(wait());
    }
    if cx.status.staging.is_none() {
        return Ok(Advance::Done);
    }
    if let Some(wait) = drop_staging(cx, true)? {
        return Ok(wait);
    }
    if let Some(oid) = oid
        && let Some(found) = cx.world.target.oid(oid)
    {
        if found.name != name {
            return Err(terminal(reasons::RESTORE_FAILED));
        }
        cx.effect(true, "the withdrawn database is dropped")?;
        cx.world.drop_copy(name);
    }
    cx.status.staging = None;
    if !cx.status.resumed && cx.status.saved.as_ref().is_some_and(|saved| saved.kept_as.is_none()) {
        cx.status.saved = None;
    }
    Ok(Advance::Done)
}

/// `steps::saving::Saving`.
enum Saving {
    Over,
    Kept,
    Not(Advance),
}

/// `steps::saving::ATTEMPTS`.
const ATTEMPTS: i64 = 4;

/// `steps::saving::save`.
fn save(cx: &mut Call<'_>, oid: u8) -> Result<Saving, Stop> {
    let Some(known) = cx.status.saved.clone() else {
        return if cx.world.target.oid(oid).is_none() { Ok(Saving::Over) } else { Err(terminal(reasons::STATUS_LOST)) };
    };
    if known.kept_as.is_some() {
        cx.world.keep();
        return Ok(Saving::Kept);
    }
    if known.verified {
        return Ok(Saving::Over);
    }
    if !cx.status.resumed {
        // `steps::saving::unlooked_for`.
        if cx.world.target.oid(oid).is_none() || !cx.world.written {
            return Ok(Saving::Over);
        }
        cx.status.saved = Some(Saved { kept_as: Some(String::new()), ..known });
        return Ok(Saving::Not(Advance::Again));
    }
    let moved = cx.drive(if known.sha256.is_none() { Task::Save } else { Task::SaveRead });
    Ok(Saving::Not(match moved {
        Ok(None) => {
            cx.status.saved = Some(Saved { verified: known.sha256.is_some(), sha256: Some(String::new()), ..known });
            Advance::Again
        }
        Ok(Some(Advance::NextAttempt(_))) => saving_failed(cx, known.attempt < ATTEMPTS, false),
        Ok(Some(advance)) => advance,
        Err(Stop::Failed(f)) if f.class == Class::Transient => return Err(Stop::Failed(f)),
        Err(Stop::Failed(f)) => {
            let damaged = f.reason == reasons::NOT_EQUAL;
            saving_failed(cx, damaged && known.attempt < ATTEMPTS, damaged)
        }
        Err(Stop::Crash) => return Err(Stop::Crash),
    }))
}

/// `steps::saving::failed`.
fn saving_failed(cx: &mut Call<'_>, again: bool, damaged: bool) -> Advance {
    let Some(saved) = &mut cx.status.saved else { return Advance::Again };
    if !again {
        saved.kept_as = Some(String::new());
        return Advance::Again;
    }
    saved.attempt += 1;
    if damaged {
        saved.sha256 = None;
    }
    Advance::NextAttempt(Failure::transient(reasons::TRANSIENT, "x"))
}

fn keep(cx: &mut Call<'_>) -> Answer {
    if cx.status.completion.is_some() {
        if cx.world.marked {
            cx.effect(true, "the mark is taken off the target database")?;
            cx.world.marked = false;
        }
        if cx.world.bucket.marked {
            cx.effect(true, "the mark in the bucket is deleted")?;
            cx.world.bucket.marked = false;
        }
    }
    cx.status.completion = None;
    Ok(Advance::Done)
}

fn resume(cx: &mut Call<'_>) -> Answer {
    if !cx.status.resumed {
        return Ok(Advance::Done);
    }
    let Some(at) = cx.status.quiesced.iter().position(|q| q.side == Side::Target) else { return Ok(Advance::Done) };
    let q = &mut cx.status.quiesced[at];
    if q.restored || q.stopped {
        (q.requested, q.stopped, q.restored) = (false, false, false);
        return Ok(Advance::Again);
    }
    let (requested, before) = (q.requested, q.replicas == Some(1));
    if !requested {
        let intent = cx.seen.quiesced.get(at).is_some_and(|q| !q.restored);
        if cx.world.application.original.is_none() {
            cx.effect(intent, "the application is marked as it was before the migration")?;
            cx.world.application.original = Some(before);
        }
        if cx.world.application.up {
            cx.effect(intent, "the application is stopped again")?;
            cx.world.application.up = false;
        }
        cx.status.quiesced[at].requested = true;
        return Ok(Advance::Again);
    }
    Ok(application_at_rest(cx)?.unwrap_or(Advance::Done))
}

fn publish(cx: &mut Call<'_>) -> Answer {
    let Some(known) = cx.status.publication.clone() else { return Ok(Advance::Done) };
    let in_sight =
        known.originals.parse().ok().and_then(|oid| cx.world.target.oid(oid)).is_some_and(|d| d.name == Name::Application);
    if cx.status.saved.is_none() && (cx.status.resumed || in_sight) {
        cx.status.saved = Some(Saved { attempt: 1, ..Saved::default() });
        return Ok(Advance::Again);
    }
    let staging = if cx.status.saved.is_some() { Name::Kept } else { Name::Staging };
    loop {
        let oid = known.originals.parse().unwrap_or(0);
        let existing = cx.world.target.oid(EXISTING);
        if cx.world.target.oid(oid).is_none() && existing.is_none_or(|d| d.name == Name::Application) {
            // `PublishState::Gone`.
            if existing.is_none_or(|d| d.open) {
                cx.status.saved = None;
                break;
            }
            cx.effect(true, "what had the final name takes connections")?;
            cx.world.target.allow(Name::Application, true);
            continue;
        }
        let copy = published_one(cx, &known, staging)?;
        if copy.name == Name::Application
            && let Some(wait) = application_at_rest(cx)?
        {
            return Ok(wait);
        }
        let open = copy.open && existing.is_none_or(|d| d.open);
        match (copy.name, open) {
            (_, true) if copy.name == staging => break,
            (_, false) if copy.name == staging => {
                cx.effect(true, "the copy takes connections")?;
                cx.world.target.allow(staging, true);
                cx.world.target.allow(Name::Application, true);
            }
            (_, true) => {
                cx.effect(true, "the published copy refuses connections")?;
                cx.world.target.allow(Name::Application, false);
                cx.world.target.allow(Name::Aside, false);
            }
            (_, false) => {
                cx.effect(true, "the copy loses its final name")?;
                cx.world.target.rename(Name::Application, staging);
                if existing.is_some() {
                    cx.world.target.rename(Name::Aside, Name::Application);
                }
                cx.world.target.allow(staging, true);
                cx.world.target.allow(Name::Application, true);
            }
        }
    }
    cx.status.publication = None;
    Ok(Advance::Done)
}

/// `s03_quiesce::application_at_rest`.
fn application_at_rest(cx: &Call<'_>) -> Result<Option<Advance>, Stop> {
    if cx.world.application.up {
        return Err(Failure::needs_human(reasons::CHANGED_BY_OTHERS, "x").into());
    }
    Ok(cx.world.application.pods.then(wait))
}

fn repoint(cx: &mut Call<'_>) -> Answer {
    let Some(known) = cx.status.repointed.clone().filter(|k| k.begun > 0) else {
        if cx.world.previous.is_some() {
            cx.effect(true, "the previous value is forgotten")?;
            cx.world.previous = None;
        }
        cx.status.repointed = None;
        return Ok(Advance::Done);
    };
    if let Some(wait) = application_at_rest(cx)? {
        return Ok(wait);
    }
    let Some(before) = cx.world.previous else { return Err(terminal(reasons::REPOINT_FAILED)) };
    replace(cx, Setting::New, before, true)?;
    let begun = known.begun - 1;
    cx.status.repointed.iter_mut().for_each(|r| {
        r.begun = begun;
        r.written = r.written.min(begun);
    });
    Ok(Advance::Again)
}
