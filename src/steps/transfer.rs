//! Work that movers do: one Job per attempt, created behind a recorded intent, watched, and read for its verdict.
//!
//! The name of a Job is fixed by object, task and attempt, so a crash between the intent and the record finds it again. Only
//! a verdict counts: a Job without one has failed, whatever Kubernetes says of it. It is taken from the mover's output while
//! Kubernetes has not noticed yet that the process ended, else from the termination message.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::context::{Context, kubernetes, sql};
use super::ending::{all_ending, ending, session_ending, strays_ending, wait};
use super::s01_pin::follow;
use crate::api::conditions::reasons;
use crate::api::{Heard, Side, StepName, Transfer};
use crate::kubernetes::errors::Error as KubernetesError;
use crate::kubernetes::jobs::mover::MoverJob;
use crate::kubernetes::jobs::{self, JobState, Owned, Termination};
use crate::plan::Failure;
use crate::plan::operation::{
    MigrationRef, OPERATION_VERSION, Operation, Outcome, Phase, Progress, Pulse, Reason, Task, Verdict, mover_tag_prefix, pulse,
};
use crate::plan::record::Advance;
use crate::plan::summary::second;
use crate::postgres::admin::AdminSessions;
use crate::postgres::catalog;

/// Seconds between two looks at a mover at work: of a step that is young, and of one that takes hours.
const OFTEN: i64 = 1;
const SELDOM: i64 = 5;
/// Seconds that a mover's pod may take to start.
const START_DEADLINE: i64 = 300;

/// What one look at a mover came to.
pub enum Moved {
    /// It ended well.
    Done(Box<Verdict>),
    /// Not yet, or the next attempt is due.
    Not(Advance),
}

/// What is added to the number of an attempt of a second kind, so that its Jobs never meet those of the first: the witness, which
/// compares as `Compare` does, and the dump of the new database in a rollback.
const SECOND: i64 = 500;

/// Goes on with the mover of `step`.
pub async fn drive(cx: &mut Context<'_>, step: StepName, task: Task) -> Result<Moved, Failure> {
    // The witness compares under numbers of its own, so that it never takes the comparison's verdict for its own.
    let attempt = cx.attempt(step) + if step == StepName::Witness { SECOND } else { 0 };
    let about = about(cx, step);
    let sides: &[Side] = match step {
        StepName::VerifyArchive => &[],
        StepName::Analyze => &[Side::Target],
        _ => &[Side::Source, Side::Target],
    };
    work(cx, sides, attempt, about, task).await
}

/// Goes on with a mover that an undo needs at the target. `number` counts its attempts in this run from 1, at most 499.
pub async fn drive_back(cx: &mut Context<'_>, number: i64, about: String, task: Task) -> Result<Moved, Failure> {
    let attempt = (cx.status.run - 1).max(0) * 1000 + SECOND + number;
    work(cx, &[Side::Target], attempt, about, task).await
}

/// Goes on with one attempt at a task, which works on the servers of `sides`: each attempt looks for those anew.
async fn work(cx: &mut Context<'_>, sides: &[Side], attempt: i64, about: String, task: Task) -> Result<Moved, Failure> {
    let operation = Operation {
        version: OPERATION_VERSION,
        migration: MigrationRef {
            namespace: cx.home(),
            name: cx.object.metadata.name.clone().unwrap_or_default(),
            uid: cx.names.uid().into(),
        },
        attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
        task,
    };
    let job = operation.job_name();
    let current = cx.status.transfer.as_ref().is_some_and(|t| t.job == job);
    if !current {
        // A pod may have been replaced since the last attempt.
        for side in sides {
            follow(cx, *side).await?;
        }
        cx.status.transfer = Some(Transfer { operation: operation.task.kind().word().into(), job, ..Transfer::default() });
        return Ok(Moved::Not(Advance::Again));
    }
    // The author must still be allowed: the mover's pod runs as that account.
    cx.author().await?;
    let client = cx.installation.client.clone();
    let home = cx.home();
    let state = jobs::job_state(&client, &home, &job).await.map_err(|e| here(&e))?;
    let started = cx.status.transfer.as_ref().is_some_and(|t| t.started);
    match state {
        JobState::Absent if started => Ok(lost(gone(cx, &format!("Job {home}/{job} of this cluster")))),
        JobState::Absent => {
            create(cx, &job, &operation).await?;
            if let Some(t) = &mut cx.status.transfer {
                (t.started, t.heard) = (true, None);
            }
            Ok(Moved::Not(wait(format!("Job {job} is starting"))))
        }
        JobState::Deleting { since } => {
            ending(cx.now, since, format!("Job {home}/{job} of this cluster was deleted and is ending")).map(Moved::Not)
        }
        JobState::Running { end: Some(end), .. } if !end.message.is_empty() => verdict(&about, &job, &end.message),
        JobState::Running { waiting: Some(waiting), .. } => {
            let since = waiting.since.map_or(0, |t| cx.now.as_second() - t.as_second());
            let words = format!("{} {}", waiting.reason, waiting.message);
            if since > START_DEADLINE {
                return Err(Failure::needs_human(
                    reasons::DEADLINE_EXCEEDED,
                    format!("the pod of Job {home}/{job} of this cluster has not started for {since} s: {words}"),
                ));
            }
            Ok(Moved::Not(wait(format!("Job {job} is starting: {words}"))))
        }
        JobState::Running { uid, pod, leaving, waiting: None, .. } => {
            let message = match pod {
                None => format!("Job {job} is starting"),
                Some(pod) => match jobs::log_tail(&client, &home, &pod, 20).await {
                    Ok(text) => match (Verdict::at_the_end_of(&text, &operation), last_line(&text)) {
                        (Some(verdict), _) => return judge(&about, &job, verdict),
                        (None, None) => "at work".into(),
                        (None, Some(line)) => match heard(cx, &line) {
                            Pulse::Beats | Pulse::Noted => progress(cx, &line),
                            Pulse::Silent(since) => {
                                let since = second(since);
                                format!("{}; pod {} has printed nothing since {since}", progress(cx, &line), pod.name)
                            }
                            Pulse::Lost(since) => {
                                // Its Job is gone when its pod is: only then does the next attempt begin.
                                cx.unsurpassed().await?;
                                jobs::delete(&client, &home, &job, &uid).await.map_err(|e| here(&e))?;
                                format!("pod {} has printed nothing since {} and is ended", pod.name, second(since))
                            }
                        },
                    },
                    // Progress is a courtesy: the verdict does not depend on it.
                    Err(e) => format!("at work in pod {} (its log cannot be read: {e})", pod.name),
                },
            };
            // It waits as long as its node does not say that the pod has ended.
            if leaving.is_some() {
                return ending(cx.now, leaving, message).map(Moved::Not);
            }
            Ok(Moved::Not(Advance::Wait { seconds: (elapsed(cx) / 60).clamp(OFTEN, SELDOM), message }))
        }
        JobState::Succeeded { end, .. } => ended(&about, &home, &job, "it is complete, but its pod is gone", end),
        JobState::Failed { end, message, .. } => ended(&about, &home, &job, &message, end),
    }
}

async fn create(cx: &Context<'_>, job: &str, operation: &Operation) -> Result<(), Failure> {
    let migration = cx.migration();
    let built = MoverJob {
        migration: migration.clone(),
        namespace: cx.home(),
        name: job.into(),
        service_account: cx.spec().service_account_name.clone(),
        image: cx.installation.image.clone(),
        image_pull_secrets: Vec::new(),
        operation: serde_json::to_string(operation).map_err(|e| Failure::terminal(reasons::MOVER_LOST, e.to_string()))?,
        deadline_seconds: None,
        crash_at: crate::crash::for_mover(),
    }
    .build()
    .map_err(|e| here(&e))?;
    // Under a name that another operator may have used, and taken away, meanwhile.
    cx.unsurpassed().await?;
    jobs::create(&cx.installation.client, &migration, &built).await.map_err(|e| here(&e))?;
    Ok(())
}

/// What a mover of `step` works on, in words: its own messages name pods, but not their clusters.
fn about(cx: &Context<'_>, step: StepName) -> String {
    let server = |side| cx.place(side).map_or_else(String::new, |place| place.server());
    let database = &cx.database().name;
    match step {
        StepName::Dump => format!("dumping database {database:?} of {}", server(Side::Source)),
        StepName::VerifyArchive => "reading the archive back".into(),
        StepName::Restore => format!("restoring into {}", server(Side::Target)),
        StepName::Analyze => format!("analyzing the copy in {}", server(Side::Target)),
        _ => format!("comparing database {database:?} of {} with its copy in {}", server(Side::Source), server(Side::Target)),
    }
}

/// A failure of the API of this cluster, where movers live.
fn here(e: &KubernetesError) -> Failure {
    let failure = kubernetes(e);
    Failure { message: format!("{} (this cluster)", failure.message), ..failure }
}

fn ended(about: &str, home: &str, job: &str, what: &str, end: Option<Termination>) -> Result<Moved, Failure> {
    match end {
        Some(end) if !end.message.is_empty() => verdict(about, job, &end.message),
        Some(end) => {
            Ok(lost(format!("Job {home}/{job} ended without a verdict: {} with exit code {}", end.reason, end.exit_code)))
        }
        None => Ok(lost(format!("Job {home}/{job} ended without a verdict: {what}"))),
    }
}

fn lost(message: String) -> Moved {
    Moved::Not(Advance::NextAttempt(Failure::transient(reasons::MOVER_LOST, message)))
}

fn verdict(about: &str, job: &str, text: &str) -> Result<Moved, Failure> {
    match Verdict::parse(text) {
        Ok(verdict) => judge(about, job, verdict),
        Err(why) => Ok(lost(format!("Job {job} left no verdict that can be read: {why}"))),
    }
}

fn judge(about: &str, job: &str, verdict: Verdict) -> Result<Moved, Failure> {
    match (verdict.outcome, verdict.reason.class()) {
        (Outcome::Succeeded, None) => Ok(Moved::Done(Box::new(verdict))),
        (_, Some(class)) => {
            use crate::plan::operation::FailureClass;
            let reason = reason_of(verdict.reason);
            // The document with all differences goes with the archive when the run is undone: the first few must be said here.
            let more: String = verdict.differences.iter().skip(1).take(5).flat_map(|one| ["; ", one]).collect();
            let message = format!("{about}: {}{more}", verdict.message);
            match class {
                FailureClass::Transient => Ok(Moved::Not(Advance::NextAttempt(Failure::transient(reason, message)))),
                FailureClass::NeedsHuman => Err(Failure::needs_human(reason, message)),
                FailureClass::Terminal => Err(Failure::terminal(reason, message)),
            }
        }
        (Outcome::Failed, None) => {
            Err(Failure::terminal(reasons::MOVER_LOST, format!("Job {job}: its mover contradicts itself: failed, for no reason")))
        }
    }
}

/// The reason that users read for a mover's reason.
fn reason_of(reason: Reason) -> &'static str {
    match reason {
        Reason::Done | Reason::Adopted => reasons::DONE,
        Reason::InvalidOperation => reasons::MOVER_LOST,
        Reason::SecretMissing => reasons::SECRET_NOT_FOUND,
        Reason::ClusterForbidden => reasons::MISSING_PERMISSION,
        Reason::ClusterUnauthorized => reasons::CLUSTER_UNAUTHORIZED,
        Reason::ClusterUnreachable => reasons::CLUSTER_UNREACHABLE,
        Reason::PodUnavailable => reasons::POD_CHANGED,
        Reason::ServerReplaced => reasons::SERVER_CHANGED,
        Reason::ToolMissing => reasons::TOOL_NOT_FOUND,
        Reason::LoginRefused => reasons::ADMIN_LOGIN_FAILED,
        Reason::DatabaseUnavailable => reasons::SERVER_UNAVAILABLE,
        Reason::QueryFailed | Reason::AnalyzeFailed => reasons::QUERY_FAILED,
        Reason::StreamBroken | Reason::Interrupted | Reason::OrphansRemain => reasons::TRANSIENT,
        Reason::DumpFailed => reasons::DUMP_FAILED,
        Reason::RestoreFailed | Reason::ExtensionFailed | Reason::TargetNotEmpty => reasons::RESTORE_FAILED,
        Reason::ArchiveMismatch | Reason::ArchiveDamaged | Reason::ArchiveAbsent | Reason::ArchiveOccupied => {
            reasons::ARCHIVE_DAMAGED
        }
        Reason::ArchiveTooLarge => reasons::ARCHIVE_TOO_LARGE,
        Reason::BucketAbsent => reasons::BUCKET_NOT_FOUND,
        Reason::BucketForbidden => reasons::BUCKET_FORBIDDEN,
        Reason::BucketUnreachable | Reason::BucketFailed => reasons::BUCKET_UNREACHABLE,
        Reason::NotEqual => reasons::NOT_EQUAL,
    }
}

/// Seconds since the present step began.
fn elapsed(cx: &Context<'_>) -> i64 {
    let started = cx.status.steps.iter().find(|s| Some(s.name) == cx.status.step).and_then(|s| s.start_time.as_ref());
    started.map_or(0, |t| cx.now.as_second() - t.0.as_second())
}

/// Why a mover's Job is there no more.
fn gone(cx: &Context<'_>, job: &str) -> String {
    let heard = cx.status.transfer.as_ref().and_then(|t| t.heard.as_ref());
    match heard.map(|heard| pulse(Some(heard), heard.line, cx.now)) {
        Some(Pulse::Lost(since)) => format!("{job} had printed nothing since {} and was ended", second(since)),
        Some(_) | None => format!("{job} was deleted before its verdict was read"),
    }
}

/// The last progress line of a mover's log.
fn last_line(log: &str) -> Option<Progress> {
    log.lines().rev().find_map(|l| serde_json::from_str::<Progress>(l).ok())
}

fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Takes the pulse of the mover that printed this line, and notes it when it is time to.
fn heard(cx: &mut Context<'_>, line: &Progress) -> Pulse {
    let Some(t) = cx.status.transfer.as_mut() else { return Pulse::Beats };
    // Whoever made it, it is there: when it is gone, it was deleted.
    t.started = true;
    let pulse = pulse(t.heard.as_ref(), int(line.line), cx.now);
    if pulse == Pulse::Noted {
        t.heard = Some(Heard { line: int(line.line), time: Time(cx.now) });
    }
    pulse
}

/// Takes a progress line into the status; returns it in words.
fn progress(cx: &mut Context<'_>, p: &Progress) -> String {
    let passed = elapsed(cx);
    let Some(t) = cx.status.transfer.as_mut() else { return p.words() };
    t.bytes_done = int(p.bytes_done);
    t.bytes_total = p.bytes_total.map(int);
    t.items_done = int(p.tables_done);
    t.items_total = p.tables_total.map(int);
    t.percent = match (t.bytes_total, t.items_total) {
        (Some(total), _) if total > 0 => Some((i128::from(t.bytes_done) * 100 / i128::from(total)).clamp(0, 99)),
        (_, Some(total)) if total > 0 => Some((i128::from(t.items_done) * 100 / i128::from(total)).clamp(0, 99)),
        _ => None,
    }
    .and_then(|p| i64::try_from(p).ok());
    if p.phase == Phase::Indexing {
        // How long an index takes is written nowhere.
        t.seconds_left = None;
        (t.items_done, t.items_total) = (int(p.indexes_done), p.indexes_total.map(int));
    } else {
        // What an undo moves began long after its step did.
        let foreseeable = cx.status.undo.is_none() && p.quiet.is_none();
        t.seconds_left = t.percent.filter(|p| foreseeable && *p >= 5).map(|p| passed * (100 - p) / p);
    }
    p.words()
}

/// Ends the movers of this object: their Jobs are deleted, and the call is repeated until no pod of them is left.
/// `None` when none is left.
pub async fn end_movers(cx: &Context<'_>) -> Result<Option<Advance>, Failure> {
    let (client, home) = (&cx.installation.client, cx.home());
    // A schema job may live in this namespace too: it is not a mover's.
    let movers = |job: &str| !cx.names.is_schema_job(job);
    let all = jobs::of_migration(client, &home, &cx.migration()).await.map_err(|e| here(&e))?;
    let left: Vec<Owned> = all.iter().filter(|job| movers(&job.name)).cloned().collect();
    if !left.is_empty() {
        // They may be another operator's by now.
        cx.unsurpassed().await?;
    }
    for job in &left {
        jobs::delete(client, &home, &job.name, &job.uid).await.map_err(|e| here(&e))?;
    }
    if let Some(wait) = all_ending(cx.now, &left, &format!("movers in {home} of this cluster"))? {
        return Ok(Some(wait));
    }
    let strays = jobs::strays(client, &home, &cx.migration(), &all).await.map_err(|e| here(&e))?;
    strays_ending(cx.now, &home, strays.iter().filter(|stray| movers(&stray.job)))
}

/// Ends the sessions that movers have left at the server of `side`. `None` when none is left.
pub async fn end_mover_sessions(
    cx: &Context<'_>,
    admins: &mut AdminSessions,
    side: Side,
    step: StepName,
) -> Result<Option<Advance>, Failure> {
    let tag = mover_tag_prefix(cx.names.uid());
    let left = async { catalog::end_tagged_sessions(admins.session().await?, &tag).await }.await;
    let Some(oldest) = left.map_err(|e| sql(side, &e))? else { return Ok(None) };
    let server = cx.place(side).map_or_else(|| "its server".into(), |place| place.server());
    session_ending(cx, step, oldest, &format!("a mover's session at {server}")).map(Some)
}
