//! Gathers what Kubernetes holds: writers, the application, its schema jobs and settings.

use kube::Client;

use super::{End, Report};
use crate::api::conditions::reasons;
use crate::api::{PostgresMigrationSpec, Repoint, SchemaJob, Writer};
use crate::kubernetes::config::{self, ConfigError};
use crate::kubernetes::errors::{Error, Kind};
use crate::kubernetes::inspect;
use crate::kubernetes::workloads::{self as kubernetes, WorkloadState};
use crate::plan::Failure;
use crate::plan::checks::Place;
use crate::plan::checks::workloads::{self as checks, Match, Own, Seen, SettingSeen, Template};
use crate::steps::context;

pub(super) async fn look(source: &End, target: &End, spec: &PostgresMigrationSpec, uid: &str) -> Report {
    let mut report = Report::default();
    let application = &spec.target.application;
    let writers = matches(&mut report, source, &spec.source.writers, "spec.source.writers").await;
    checks::writers(&mut report.findings, Own { uid, place: &source.place }, &spec.source.writers, &writers);

    let named: Vec<Writer> =
        application.workloads.iter().map(|w| Writer { kind: w.kind, name: Some(w.name.clone()), label_selector: None }).collect();
    let found = matches(&mut report, target, &named, "spec.target.application.workloads").await;
    checks::application(&mut report.findings, Own { uid, place: &target.place }, spec, &found);

    let mut templates = Vec::new();
    for (n, job) in application.schema_jobs.iter().enumerate() {
        let path = format!("spec.target.application.schemaJobs[{n}].workloadRef");
        templates.push(template(&mut report, &target.client, &target.place, &path, job).await);
    }
    checks::schema_jobs(&mut report.findings, &target.place, spec, &templates);

    let mut settings = Vec::new();
    for (n, entry) in application.repoint.iter().enumerate() {
        let path = format!("spec.target.application.repoint[{n}]");
        settings.push(setting(&mut report, target, &path, entry).await);
    }
    checks::repoint(&mut report.findings, &target.place, &application.repoint, &settings);
    report
}

/// A failure about something at `path` of an end.
pub(super) fn at(place: &Place, path: &str, e: &Error) -> Failure {
    let failure = context::kubernetes(e);
    Failure { message: format!("{path}: {} ({})", failure.message, place.cluster), ..failure }
}

/// What could not be looked at is reported, and not judged as absent: it stands as something unsupported would, unsaid.
async fn matches(report: &mut Report, end: &End, declared: &[Writer], path: &str) -> Vec<Match> {
    let mut all = Vec::new();
    for (n, writer) in declared.iter().enumerate() {
        if !kubernetes::supported(writer.kind) {
            all.push(Match::Unsupported);
            continue;
        }
        let path = format!("{path}[{n}]");
        let found = kubernetes::find(&end.client, &end.place.namespace, writer).await.map_err(|e| at(&end.place, &path, &e));
        let Some(found) = report.take(found) else {
            all.push(Match::Unknown);
            continue;
        };
        let mut seen = Vec::new();
        for state in found {
            seen.extend(self::seen(report, end, &path, state).await);
        }
        all.push(Match::Found(seen));
    }
    all
}

async fn seen(report: &mut Report, end: &End, path: &str, state: WorkloadState) -> Option<Seen> {
    let id = state.id();
    let (autoscalers, pods, kept_by) = tokio::join!(
        kubernetes::autoscalers(&end.client, &state),
        kubernetes::pods_left(&end.client, &id),
        inspect::size_kept_by(&end.client, &state),
    );
    let autoscalers = match autoscalers {
        Ok(all) => all,
        Err(e) if e.kind() == Kind::Forbidden => {
            report.findings.warn(
                reasons::MISSING_PERMISSION,
                path,
                format!(
                    "whether an autoscaler may start stopped workloads in namespace {} of {} cannot be seen: {e}",
                    end.place.namespace, end.place.cluster
                ),
            );
            Vec::new()
        }
        Err(e) => {
            report.fail(at(&end.place, path, &e));
            return None;
        }
    };
    let pods = report.take(pods.map_err(|e| at(&end.place, path, &e)))?;
    let kept_by = report.take(kept_by.map_err(|e| at(&end.place, path, &e)))?;
    Some(Seen { state, autoscalers, pods: pods.names, kept_by })
}

async fn template(report: &mut Report, client: &Client, place: &Place, path: &str, job: &SchemaJob) -> Template {
    let workload = &job.workload_ref;
    if !checks::has_template(workload.kind) {
        return Template::Unsupported;
    }
    match kubernetes::pod_template(client, &place.namespace, workload.kind, &workload.name).await {
        Ok(None) => Template::Absent,
        Ok(Some(template)) => {
            let containers = template.spec.map(|spec| spec.containers).unwrap_or_default();
            Template::Containers(containers.into_iter().map(|container| container.name).collect())
        }
        Err(e) => {
            report.fail(at(place, path, &e));
            Template::Unknown
        }
    }
}

async fn setting(report: &mut Report, end: &End, path: &str, entry: &Repoint) -> SettingSeen {
    let namespace = &end.place.namespace;
    let Some(place) = config::Place::of(entry) else {
        return SettingSeen { what: "nothing".into(), obstacle: Some("it names no setting".into()), kept_by: vec![] };
    };
    let what = format!("{place} in namespace {namespace}");
    match config::read(&end.client, namespace, &place).await {
        Ok(reading) => SettingSeen {
            what,
            obstacle: reading.value.is_none().then(|| "it is not there: give it the value that the application uses now".into()),
            kept_by: inspect::reverting(&reading.managers, &reading.tracked_by),
        },
        Err(ConfigError::Absent(why) | ConfigError::Refused(why)) => SettingSeen { what, obstacle: Some(why), kept_by: vec![] },
        Err(ConfigError::Api(e)) => {
            report.fail(at(&end.place, path, &e));
            SettingSeen { what, obstacle: None, kept_by: vec![] }
        }
    }
}
