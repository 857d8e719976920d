//! Bring the schema up to date: one Job per entry, in order, with the image and the environment of the live, re-pointed
//! template of one container.
//!
//! Effect: the Job, created once per attempt, after what an earlier one left at work has ended. Its outcome is read before
//! anything is scaled up; that of a failed one only once its sessions in the server have ended. Undo: the Jobs of all attempts
//! are deleted; what they did to the copy goes with the copy.

use kube::Client;

use super::context::{Context, kubernetes, sql};
use super::ending::{all_ending, ending, session_ending, strays_ending};
use super::s04_fence::admins;
use crate::api::conditions::reasons;
use crate::api::names::session_tag_prefix;
use crate::api::{SchemaJobStatus, Side, StepName};
use crate::kubernetes::jobs::schema::SchemaJob;
use crate::kubernetes::jobs::{self, JobState, Owned};
use crate::kubernetes::workloads;
use crate::plan::Failure;
use crate::plan::record::Advance;
use crate::postgres::catalog;

/// Seconds that the pod of a Job may take to start, and the control plane to end one that is over its deadline.
const GRACE: i64 = 300;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let attempt = cx.attempt(StepName::SchemaJob);
    let namespace = cx.namespace(Side::Target);
    for entry in &cx.spec().target.application.schema_jobs {
        let known = cx.status.schema_jobs.iter().position(|s| s.name == entry.name);
        if known.is_some_and(|at| cx.status.schema_jobs[at].succeeded) {
            continue;
        }
        let job = cx.names.schema_job(&entry.name, attempt);
        let Some(at) = known.filter(|at| cx.status.schema_jobs[*at].job == job) else {
            // The intent. A failed attempt's entry is taken over; its Job stays for people to read until the end.
            cx.status.schema_jobs.retain(|s| s.name != entry.name);
            cx.status.schema_jobs.push(SchemaJobStatus { name: entry.name.clone(), job, created: false, succeeded: false });
            return Ok(Advance::Again);
        };
        let client = cx.cluster(Side::Target).await?;
        let path = format!("spec.target.application.schemaJobs[{}]", entry.name);
        let cluster = cx.cluster_words(Side::Target);
        let named = |f: Failure| Failure { message: format!("{path}: in {cluster}: {}", f.message), ..f };
        let created = cx.status.schema_jobs[at].created;
        let state = jobs::job_state(&client, &namespace, &job).await.map_err(|e| named(kubernetes(&e)))?;
        let failed = |message: String| Err(named(Failure::needs_human(reasons::SCHEMA_JOB_FAILED, message)));
        let over = match &state {
            JobState::Failed { .. } => true,
            JobState::Absent => created,
            JobState::Deleting { .. } | JobState::Running { .. } | JobState::Succeeded { .. } => false,
        };
        if over && let Some(wait) = end_sessions(cx).await? {
            return Ok(wait);
        }
        return match state {
            JobState::Absent if created => failed(format!("Job {namespace}/{job} was deleted before its outcome was read")),
            JobState::Absent => {
                if let Some(wait) = end_earlier(cx, &client, &job).await.map_err(named)? {
                    return Ok(wait);
                }
                let template = workloads::pod_template(&client, &namespace, entry.workload_ref.kind, &entry.workload_ref.name)
                    .await
                    .map_err(|e| named(kubernetes(&e)))?;
                let Some(template) = template else {
                    return failed(format!("{:?} {namespace}/{} is gone", entry.workload_ref.kind, entry.workload_ref.name));
                };
                let built = SchemaJob {
                    migration: cx.migration(),
                    namespace: namespace.clone(),
                    name: job.clone(),
                    container: entry.container.clone(),
                    command: entry.command.clone(),
                    deadline_seconds: entry.deadline_seconds,
                }
                .build(&template)
                .map_err(|e| named(Failure::needs_human(reasons::SCHEMA_JOB_FAILED, e.to_string())))?;
                cx.unsurpassed().await?;
                jobs::create(&client, &cx.migration(), &built).await.map_err(|e| named(kubernetes(&e)))?;
                cx.status.schema_jobs[at].created = true;
                Ok(Advance::Wait { seconds: 1, message: format!("Job {namespace}/{job} is starting") })
            }
            JobState::Deleting { since } => {
                ending(cx.now, since, format!("Job {namespace}/{job} was deleted and is ending")).map_err(named)
            }
            JobState::Running { waiting: Some(waiting), .. } => {
                let since = waiting.since.map_or(0, |t| cx.now.as_second() - t.as_second());
                let words = format!("{} {}", waiting.reason, waiting.message);
                if since > GRACE {
                    return failed(format!("the pod of Job {namespace}/{job} has not started for {since} s: {words}"));
                }
                Ok(Advance::Wait { seconds: 2, message: format!("Job {namespace}/{job} is starting: {words}") })
            }
            JobState::Running { leaving, .. } => {
                ending(cx.now, leaving, format!("Job {namespace}/{job} runs {}", entry.command.join(" "))).map_err(named)
            }
            JobState::Succeeded { .. } => {
                cx.status.schema_jobs[at].succeeded = true;
                Ok(Advance::Again)
            }
            JobState::Failed { message, end, .. } => {
                let tail = match &end {
                    Some(end) => jobs::log_tail(&client, &namespace, &end.pod, 10).await.unwrap_or_default(),
                    None => String::new(),
                };
                let code = end.map_or_else(String::new, |e| format!(", exit code {}", e.exit_code));
                failed(format!("Job {namespace}/{job} failed ({message}{code}). The end of its log: {}", last(&tail)))
            }
        };
    }
    Ok(Advance::Done)
}

/// Ends what earlier attempts left at work: two schema jobs must never work on one database. Those that have ended stay, for
/// people to read. `None` when none is at work.
async fn end_earlier(cx: &Context<'_>, client: &Client, job: &str) -> Result<Option<Advance>, Failure> {
    let namespace = cx.namespace(Side::Target);
    let mut left = Vec::new();
    let all = jobs::of_migration(client, &namespace, &cx.migration()).await.map_err(|e| kubernetes(&e))?;
    for other in &all {
        // Those of other entries have succeeded, or come later.
        if other.name == job || !cx.names.is_schema_job(&other.name) {
            continue;
        }
        match jobs::job_state(client, &namespace, &other.name).await.map_err(|e| kubernetes(&e))? {
            // Gone since the list was made, its pod perhaps not: the next list tells.
            JobState::Absent => {
                return Ok(Some(Advance::Wait { seconds: 1, message: format!("Job {namespace}/{} is going", other.name) }));
            }
            JobState::Succeeded { .. } | JobState::Failed { .. } => {}
            JobState::Deleting { .. } => left.push(other.clone()),
            JobState::Running { .. } => {
                cx.unsurpassed().await?;
                jobs::delete(client, &namespace, &other.name, &other.uid).await.map_err(|e| kubernetes(&e))?;
                left.push(other.clone());
            }
        }
    }
    if let Some(wait) = all_ending(cx.now, &left, &format!("schema jobs of earlier attempts in {namespace}"))? {
        return Ok(Some(wait));
    }
    let strays = jobs::strays(client, &namespace, &cx.migration(), &all).await.map_err(|e| kubernetes(&e))?;
    strays_ending(cx.now, &namespace, strays.iter().filter(|stray| cx.names.is_schema_job(&stray.job)))
}

/// Ends what a failed attempt left in the server: a statement that waits for a lock does not notice that its client is gone,
/// and would take effect whenever the lock is free. The application stands still, so nobody else works there as the owner.
async fn end_sessions(cx: &mut Context<'_>) -> Result<Option<Advance>, Failure> {
    let (database, role) = (cx.database().target_name().to_owned(), cx.database().owner.name.clone());
    let ours = session_tag_prefix(cx.names.uid());
    let mut target = admins(cx, Side::Target).await?;
    let left = async { catalog::end_sessions_of(target.session().await?, &database, &role, &ours).await }.await;
    target.close().await;
    let left = left.map_err(|e| sql(Side::Target, &e))?;
    let what = format!(
        "a session in {database:?} of role {role:?}, which may be of the schema job that failed (its log is read afterwards)"
    );
    left.map(|oldest| session_ending(cx, StepName::SchemaJob, oldest, &what)).transpose()
}

/// The last 600 characters: the cause of a failure stands at the end of a log.
fn last(text: &str) -> String {
    let text = text.trim();
    let skip = text.chars().count().saturating_sub(600);
    text.chars().skip(skip).collect()
}

pub async fn undo(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let client = cx.cluster(Side::Target).await?;
    let namespace = cx.namespace(Side::Target);
    let all = jobs::of_migration(&client, &namespace, &cx.migration()).await.map_err(|e| cx.api(Side::Target, &e))?;
    let left: Vec<Owned> = all.iter().filter(|job| cx.names.is_schema_job(&job.name)).cloned().collect();
    if !left.is_empty() {
        cx.unsurpassed().await?;
    }
    for job in &left {
        jobs::delete(&client, &namespace, &job.name, &job.uid).await.map_err(|e| cx.api(Side::Target, &e))?;
    }
    if let Some(wait) = all_ending(cx.now, &left, &format!("schema jobs in {namespace}"))? {
        return Ok(wait);
    }
    // One that works on would find the database that comes back under the name.
    let strays = jobs::strays(&client, &namespace, &cx.migration(), &all).await.map_err(|e| cx.api(Side::Target, &e))?;
    if let Some(wait) = strays_ending(cx.now, &namespace, strays.iter().filter(|stray| cx.names.is_schema_job(&stray.job)))? {
        return Ok(wait);
    }
    cx.status.schema_jobs.clear();
    Ok(Advance::Done)
}
