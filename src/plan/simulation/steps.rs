//! The steps forward: for each what its file in `src/steps` does to the world, what it looks at before, what it records, in that
//! order. A step that changes there is changed here.

use super::call::{Call, MOVERS, Stop, terminal, wait};
use super::invariants;
use super::world::{Content, Database, EXISTING, Job, JobState, Name, SOURCE, Setting, Task, Workload, World};
use crate::api::conditions::reasons;
use crate::api::{
    ArchiveStatus, Completion, Fence, FenceKind, Pinned, PinnedEnd, Publication, Quiesced, Repointed, SchemaJobStatus, Side,
    Staging, StepName, Verification, WorkloadKind,
};
use crate::plan::Failure;
use crate::plan::record::{self, Advance};

type Answer = Result<Advance, Stop>;

/// `steps::run`.
pub fn run(step: StepName, cx: &mut Call<'_>) -> Answer {
    let answer = match step {
        StepName::Pin => {
            pin(cx);
            Ok(Advance::Done)
        }
        StepName::Preflight => Ok(Advance::Done),
        StepName::Quiesce => quiesce(cx),
        StepName::Fence => fence(cx),
        StepName::Dump => dump(cx),
        StepName::VerifyArchive => verify(cx),
        StepName::Restore => restore(cx),
        StepName::Compare => compare(cx),
        StepName::Analyze => analyze(cx),
        StepName::Witness => witness(cx),
        StepName::Publish => publish(cx),
        StepName::Repoint => repoint(cx),
        StepName::SchemaJob => schema_job(cx),
        StepName::Resume => resume(cx),
        StepName::Keep => keep(cx),
    }?;
    // All that was to be done is done, and nothing is recorded yet.
    cx.survive()?;
    Ok(answer)
}

fn pin(cx: &mut Call<'_>) {
    let end = PinnedEnd::default;
    cx.status.pinned =
        Some(Pinned { stamp: String::new(), source: end(), target: end(), database_bytes: 0, database_oid: i64::from(SOURCE) });
}

/// The workload that a line of the status speaks of.
pub fn workload<'a>(world: &'a mut World, q: &Quiesced) -> &'a mut Workload {
    if q.side == Side::Target { &mut world.application } else { &mut world.writer }
}

fn quiesce(cx: &mut Call<'_>) -> Answer {
    if cx.status.quiesced.is_empty() {
        let line = |side, w: Workload| Quiesced {
            side,
            kind: WorkloadKind::Deployment,
            namespace: String::new(),
            name: String::new(),
            uid: String::new(),
            replicas: Some(i32::from(w.up)),
            suspended: None,
            requested: false,
            stopped: false,
            restored: false,
        };
        cx.status.quiesced = vec![line(Side::Target, cx.world.application), line(Side::Source, cx.world.writer)];
        return Ok(Advance::Again);
    }
    if let Some(at) = cx.status.quiesced.iter().position(|q| !q.requested) {
        let q = cx.status.quiesced[at].clone();
        let recorded = cx.seen.quiesced.len() > at;
        let now = *workload(cx.world, &q);
        if now.original.is_none() {
            cx.effect(recorded, "a workload is marked")?;
            workload(cx.world, &q).original = Some(now.up);
        }
        if now.up {
            cx.effect(recorded, "a workload is stopped")?;
            workload(cx.world, &q).up = false;
        }
        cx.status.quiesced[at].replicas = workload(cx.world, &q).original.map(i32::from);
        cx.status.quiesced[at].requested = true;
        return Ok(Advance::Again);
    }
    let mut left = false;
    for at in 0..cx.status.quiesced.len() {
        let q = cx.status.quiesced[at].clone();
        let now = *workload(cx.world, &q);
        if now.up {
            return Err(Failure::needs_human(reasons::CHANGED_BY_OTHERS, "x").into());
        }
        if now.pods {
            cx.status.quiesced[at].stopped = false;
            left = true;
        }
    }
    if left {
        return Ok(wait());
    }
    if cx.status.quiesced.iter().any(|q| !q.stopped) {
        cx.status.quiesced.iter_mut().for_each(|q| q.stopped = true);
        return Ok(wait());
    }
    Ok(Advance::Done)
}

fn fence(cx: &mut Call<'_>) -> Answer {
    let Some(known) = cx.status.fence.clone() else {
        if !cx.world.source_accepts() {
            return Err(terminal(reasons::FENCE_FAILED));
        }
        // What was found enabled is part of the originals.
        let originals = if cx.world.subscription { "subscription" } else { "" }.to_owned();
        cx.status.fence = Some(Fence { method: FenceKind::Swap, originals, closed: false, witness: None });
        return Ok(Advance::Again);
    };
    let intent = cx.seen.fence.is_some();
    if !known.originals.is_empty() && cx.world.source_accepts() && cx.world.subscription {
        cx.effect(intent, "the subscription is disabled")?;
        cx.world.subscription = false;
    }
    while !cx.world.fenced() {
        raise(cx, intent)?;
        cx.world.unfenced = false;
    }
    tight(cx)?;
    cx.status.fence.iter_mut().for_each(|f| f.closed = true);
    let witness = cx.world.transaction.to_string();
    cx.status.fence.iter_mut().for_each(|f| f.witness = Some(witness.clone()));
    Ok(Advance::Done)
}

/// `Fence::raise_step`.
fn raise(cx: &mut Call<'_>, intent: bool) -> Result<(), Stop> {
    let own = cx.world.source.oid(SOURCE).filter(|d| matches!(d.name, Name::Application | Name::Fenced));
    let Some(own) = own else { return Err(terminal(reasons::FENCE_FAILED)) };
    if own.name == Name::Fenced {
        cx.effect(intent, "the fenced source takes connections")?;
        cx.world.source.allow(Name::Fenced, true);
    } else if cx.world.source.named(Name::Tombstone).is_none() {
        cx.effect(intent, "the tombstone is made")?;
        let oid = cx.world.oid();
        cx.world.source.create(Database { oid, name: Name::Tombstone, open: false, content: Content::Empty });
    } else if own.open {
        cx.effect(intent, "the source refuses connections")?;
        cx.world.source.allow(Name::Application, false);
    } else {
        cx.effect(intent, "the source is renamed away")?;
        cx.world.source.rename(Name::Application, Name::Fenced);
        cx.world.source.rename(Name::Tombstone, Name::Application);
        cx.world.source.allow(Name::Fenced, true);
    }
    Ok(())
}

/// `s04_fence::tight`.
fn tight(cx: &Call<'_>) -> Result<(), Stop> {
    if cx.world.fenced() && !cx.world.subscription {
        return Ok(());
    }
    Err(Failure::transient(reasons::FENCE_FAILED, "x").into())
}

fn dump(cx: &mut Call<'_>) -> Answer {
    let Some(planned) = cx.status.archive.clone() else {
        cx.status.archive = Some(ArchiveStatus::default());
        return Ok(Advance::Again);
    };
    if let Some(advance) = cx.drive(Task::Dump)? {
        return Ok(advance);
    }
    cx.status.archive = Some(ArchiveStatus { bytes: Some(1), sha256: Some(String::new()), ..planned });
    Ok(Advance::Done)
}

fn verify(cx: &mut Call<'_>) -> Answer {
    if cx.status.archive.is_none() || cx.status.pinned.is_none() {
        return Err(terminal(reasons::ARCHIVE_DAMAGED));
    }
    if let Some(advance) = cx.drive(Task::Verify)? {
        return Ok(advance);
    }
    cx.status.archive.iter_mut().for_each(|a| a.sealed = true);
    Ok(Advance::Done)
}

fn restore(cx: &mut Call<'_>) -> Answer {
    let attempt = record::attempt(cx.status, StepName::Restore);
    if !cx.status.archive.as_ref().is_some_and(|a| a.sealed) {
        return Err(terminal(reasons::ARCHIVE_DAMAGED));
    }
    match cx.status.staging.as_ref().filter(|s| s.attempt == attempt) {
        None => {
            cx.status.staging = Some(Staging { attempt, ..Staging::default() });
            Ok(Advance::Again)
        }
        Some(s) if s.oid.is_none() => {
            let intent = cx.seen.staging.as_ref().is_some_and(|s| s.attempt == attempt);
            if let Some(wait) = drop_staging(cx, intent)? {
                return Ok(wait);
            }
            if cx.world.source.named(Name::Fenced).is_none() {
                return Err(terminal(reasons::SOURCE_CHANGED));
            }
            cx.effect(intent, "the staging database is made")?;
            let oid = cx.world.oid();
            cx.world.target.create(Database { oid, name: Name::Staging, open: true, content: Content::Empty });
            cx.status.staging.iter_mut().for_each(|s| s.oid = Some(i64::from(oid)));
            Ok(Advance::Again)
        }
        Some(_) => Ok(cx.drive(Task::Restore)?.unwrap_or(Advance::Done)),
    }
}

/// `s07_restore::drop_staging`: by name, after the sessions of earlier attempts have ended.
pub fn drop_staging(cx: &mut Call<'_>, intent: bool) -> Result<Option<Advance>, Stop> {
    if cx.world.orphan {
        cx.effect(intent, "sessions of an earlier attempt are ended")?;
        cx.world.orphan = false;
        return Ok(Some(wait()));
    }
    if cx.world.target.named(Name::Staging).is_some() {
        cx.effect(intent, "the staging database is dropped")?;
        cx.world.drop_copy(Name::Staging);
    }
    Ok(None)
}

fn compare(cx: &mut Call<'_>) -> Answer {
    if cx.status.archive.is_none() || cx.status.staging.is_none() {
        return Err(terminal(reasons::NOT_EQUAL));
    }
    if let Some(advance) = cx.drive(Task::Compare)? {
        return Ok(advance);
    }
    cx.status.verification = Some(Verification { equal: true, tables: 1, rows: 1, ..Verification::default() });
    Ok(Advance::Done)
}

fn analyze(cx: &mut Call<'_>) -> Answer {
    if cx.status.staging.is_none() {
        return Err(terminal(reasons::RESTORE_FAILED));
    }
    Ok(cx.drive(Task::Analyze)?.unwrap_or(Advance::Done))
}

fn witness(cx: &mut Call<'_>) -> Answer {
    let Some(known) = cx.status.fence.clone() else { return Err(terminal(reasons::SOURCE_CHANGED)) };
    tight(cx)?;
    let moved = cx.status.verification.as_ref().is_some_and(|v| v.moved);
    if !moved && known.witness != Some(cx.world.transaction.to_string()) {
        cx.status.verification.iter_mut().for_each(|v| v.moved = true);
        return Ok(Advance::Again);
    }
    if moved
        && !cx.status.verification.as_ref().is_some_and(|v| v.witnessed)
        && let Some(advance) = cx.drive(Task::CompareAgain)?
    {
        return Ok(advance);
    }
    cx.status.verification.iter_mut().for_each(|v| v.witnessed = true);
    Ok(Advance::Done)
}

/// The database that a publication speaks of, while nobody took it away. `staging`: what it is called while it is not published.
pub fn published_one(cx: &Call<'_>, known: &Publication, staging: Name) -> Result<Database, Stop> {
    let oid = known.originals.parse().unwrap_or(0);
    let foreign = [Name::Application, staging, Name::Aside]
        .into_iter()
        .any(|name| cx.world.target.named(name).is_some_and(|d| d.oid != oid && d.oid != EXISTING));
    let copy = cx.world.target.oid(oid).filter(|d| !foreign && (d.name == staging || d.name == Name::Application));
    copy.ok_or_else(|| terminal(reasons::PUBLISH_FAILED))
}

fn publish(cx: &mut Call<'_>) -> Answer {
    if !cx.status.verification.as_ref().is_some_and(|v| v.equal && v.witnessed) {
        return Err(terminal(reasons::NOT_EQUAL));
    }
    let Some(known) = cx.status.publication.clone() else {
        let staging = cx.world.target.named(Name::Staging);
        let (Some(staging), Some(_)) = (staging, cx.world.source.named(Name::Fenced)) else {
            return Err(terminal(reasons::PUBLISH_FAILED));
        };
        cx.effect(true, "the copy gets its settings")?;
        if cx.status.staging.as_ref().and_then(|s| s.oid) != Some(i64::from(staging.oid)) {
            return Err(terminal(reasons::PUBLISH_FAILED));
        }
        let originals = staging.oid.to_string();
        let known = Publication { originals, set_aside: Some(String::new()), row_changes: None, published: false };
        cx.status.publication = Some(known);
        return Ok(Advance::Again);
    };
    tight(cx)?;
    let intent = cx.seen.publication.is_some();
    loop {
        let copy = published_one(cx, &known, Name::Staging)?;
        let target = &mut cx.world.target;
        let open = copy.open && target.oid(EXISTING).is_none_or(|d| d.open);
        match (copy.name, open) {
            (Name::Staging, true) => {
                cx.effect(intent, "the copy refuses connections")?;
                cx.world.target.allow(Name::Staging, false);
                cx.world.target.allow(Name::Application, false);
            }
            (Name::Staging, false) => {
                cx.effect(intent, "the copy gets its final name")?;
                invariants::i2_the_pointer_moves_only_with_proof(cx.world, copy);
                if cx.world.target.oid(EXISTING).is_some() {
                    cx.world.target.rename(Name::Application, Name::Aside);
                }
                cx.world.target.rename(Name::Staging, Name::Application);
                cx.world.target.allow(Name::Aside, true);
                cx.world.target.allow(Name::Application, true);
            }
            (_, false) => {
                cx.effect(intent, "the published copy takes connections")?;
                cx.world.target.allow(Name::Aside, true);
                cx.world.target.allow(Name::Application, true);
            }
            (_, true) => break,
        }
    }
    cx.status.publication.iter_mut().for_each(|p| p.published = true);
    Ok(Advance::Done)
}

fn repoint(cx: &mut Call<'_>) -> Answer {
    let Some(known) = cx.status.repointed.clone() else {
        if cx.world.previous.is_none() {
            cx.effect(true, "the previous value is kept")?;
            cx.world.previous = Some(cx.world.setting);
        }
        cx.status.repointed = Some(Repointed::default());
        return Ok(Advance::Again);
    };
    if known.begun == known.written {
        if known.begun >= 1 {
            return Ok(Advance::Done);
        }
        cx.status.repointed.iter_mut().for_each(|r| r.begun += 1);
        return Ok(Advance::Again);
    }
    let Some(before) = cx.world.previous else { return Err(terminal(reasons::REPOINT_FAILED)) };
    let intent = cx.seen.repointed.as_ref().is_some_and(|r| r.begun > r.written);
    replace(cx, before, Setting::New, intent)?;
    if cx.world.setting != Setting::New {
        return Err(Failure::needs_human(reasons::CHANGED_BY_OTHERS, "x").into());
    }
    cx.status.repointed.iter_mut().for_each(|r| r.written = r.begun);
    Ok(Advance::Again)
}

/// `config::replace`: compare-and-set.
pub fn replace(cx: &mut Call<'_>, expected: Setting, new: Setting, intent: bool) -> Result<(), Stop> {
    if cx.world.setting == expected && expected != new {
        cx.effect(intent, "the setting is changed")?;
        invariants::i2_the_setting_leads_to_a_published_copy(cx.world, new);
        cx.world.setting = new;
    }
    Ok(())
}

fn schema_job(cx: &mut Call<'_>) -> Answer {
    let attempt = record::attempt(cx.status, StepName::SchemaJob);
    let job = attempt.to_string();
    let attempt = u16::try_from(attempt).unwrap_or(u16::MAX);
    if cx.status.schema_jobs.first().is_some_and(|s| s.succeeded) {
        return Ok(Advance::Done);
    }
    if cx.status.schema_jobs.first().is_none_or(|s| s.job != job) {
        cx.status.schema_jobs = vec![SchemaJobStatus { name: String::new(), job, created: false, succeeded: false }];
        return Ok(Advance::Again);
    }
    let created = cx.status.schema_jobs[0].created;
    let known = *cx.world.job(Task::Schema);
    let failed = || Err(Failure::needs_human(reasons::SCHEMA_JOB_FAILED, "x").into());
    match if known.attempt == attempt { known.state } else { JobState::Absent } {
        JobState::Absent if created => failed(),
        JobState::Absent => {
            match known.state {
                JobState::Running => {
                    cx.effect(true, "the schema job of an earlier attempt is deleted")?;
                    cx.world.job(Task::Schema).state = JobState::Deleting;
                    return Ok(wait());
                }
                JobState::Deleting => return Ok(wait()),
                _ => {}
            }
            cx.effect(cx.seen.schema_jobs.first().is_some_and(|s| s.job == job), "a schema job is started")?;
            assert!(known.state != JobState::Running || !cx.alone, "effect twice: two schema jobs at work");
            assert!(known.state != JobState::Done || !cx.alone, "effect twice: the schema job had done its work");
            *cx.world.job(Task::Schema) = Job { attempt, state: JobState::Running };
            cx.status.schema_jobs[0].created = true;
            Ok(wait())
        }
        JobState::Deleting | JobState::Running => Ok(wait()),
        JobState::Done => {
            cx.status.schema_jobs[0].succeeded = true;
            Ok(Advance::Again)
        }
        JobState::Trouble | JobState::Lost | JobState::Refused | JobState::Final => failed(),
    }
}

fn resume(cx: &mut Call<'_>) -> Answer {
    if !cx.status.resumed {
        cx.status.resumed = true;
        return Ok(Advance::Again);
    }
    let Some(at) = cx.status.quiesced.iter().position(|q| q.side == Side::Target) else {
        return Err(Failure::needs_human(reasons::CHANGED_BY_OTHERS, "x").into());
    };
    if !cx.status.quiesced[at].restored {
        start(cx, at, true, cx.seen.resumed)?;
        cx.status.quiesced[at].restored = true;
        return Ok(Advance::Again);
    }
    let now = cx.world.application;
    Ok(if now.up == now.pods { Advance::Done } else { wait() })
}

fn keep(cx: &mut Call<'_>) -> Answer {
    if !cx.end_jobs(&MOVERS)? {
        return Ok(wait());
    }
    if cx.status.completion.is_none() {
        cx.status.completion = Some(Completion::default());
        return Ok(Advance::Again);
    }
    let intent = cx.seen.completion.is_some();
    if !cx.world.marked && cx.world.target_accepts() {
        cx.effect(intent, "the end is marked on the target database")?;
        cx.world.marked = true;
    }
    if !cx.world.bucket.marked {
        cx.effect(intent, "the end is marked in the bucket")?;
        cx.world.bucket.marked = true;
    }
    Ok(Advance::Done)
}

/// `workloads::restore` and `scale_to`: if it still is as we left it, the record on the object last.
pub fn start(cx: &mut Call<'_>, at: usize, up: bool, intent: bool) -> Result<(), Stop> {
    let q = cx.status.quiesced[at].clone();
    if up && !workload(cx.world, &q).up {
        cx.effect(intent, "a workload is started")?;
        workload(cx.world, &q).up = true;
    }
    if workload(cx.world, &q).original.is_some() {
        cx.effect(intent, "a workload's mark is taken off")?;
        workload(cx.world, &q).original = None;
    }
    Ok(())
}
