//! Checks of what Kubernetes holds: writers, the application of the target, its schema jobs and the settings to re-point.

use std::collections::BTreeSet;

use super::{Findings, Place, listed};
use crate::api::conditions::reasons;
use crate::api::{PostgresMigrationSpec, Repoint, WorkloadKind, Writer};
use crate::kubernetes::workloads::{self, Autoscaler, AutoscalerKind, Setting, WorkloadState};

/// So many writers are stopped, and recorded in the status with what they were: that has to fit into an object beside everything
/// else. The spec names at most as many workloads of the application.
pub const MOST_WRITERS: usize = 64;

/// What a template of a repoint may hold.
const WORDS: [&str; 5] = ["host", "port", "database", "user", "password"];

/// A workload that will be stopped or started, as it is now.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The workload.
    pub state: WorkloadState,
    /// What scales it.
    pub autoscalers: Vec<Autoscaler>,
    /// Names of its pods, terminating ones included.
    pub pods: Vec<String>,
    /// Tools that put its replicas or suspension back by themselves.
    pub kept_by: Vec<String>,
}

/// What a workload named in the spec turned out to be.
#[derive(Clone, Debug)]
pub enum Match {
    /// Of a kind that is not supported: not looked for.
    Unsupported,
    /// It could not be looked for, which is a finding by itself.
    Unknown,
    /// All that match; none when there is none.
    Found(Vec<Seen>),
}

/// Whose run this is, and what belongs to both servers.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// UID of the object.
    pub uid: &'a str,
    /// The end that the workloads live at.
    pub place: &'a Place,
}

/// Judges `spec.source.writers`; `matches` in their order.
pub fn writers(out: &mut Findings, own: Own<'_>, declared: &[Writer], matches: &[Match]) {
    let place = own.place;
    if declared.is_empty() {
        out.warn(
            reasons::WRITER_NOT_FOUND,
            "spec.source.writers",
            format!(
                "no writers are named: nothing in namespace {} of {} is stopped, and the fence alone cuts off whatever writes to {}",
                place.namespace,
                place.cluster,
                place.server()
            ),
        );
    }
    for (n, (writer, found)) in declared.iter().zip(matches).enumerate() {
        let path = format!("spec.source.writers[{n}]");
        match found {
            Match::Unsupported => unsupported(out, format!("{path}.kind"), writer.kind),
            Match::Unknown => {}
            Match::Found(all) if all.is_empty() => match (&writer.name, &writer.label_selector) {
                (Some(name), _) => out.block(
                    reasons::WRITER_NOT_FOUND,
                    format!("{path}.name"),
                    format!("{} does not exist: correct the name, or take it out", place.object(&format!("{:?}", writer.kind), name)),
                ),
                (None, selector) => out.block(
                    reasons::WRITER_NOT_FOUND,
                    format!("{path}.labelSelector"),
                    format!(
                        "no {:?} in namespace {} of {} has the labels {:?}: a writer would go on writing. The labels are those of the workload itself, not of its pods",
                        writer.kind,
                        place.namespace,
                        place.cluster,
                        selector.as_deref().unwrap_or_default()
                    ),
                ),
            },
            Match::Found(all) => all.iter().for_each(|seen| stoppable(out, own, &path, seen)),
        }
    }
    let all = matches.iter().filter_map(|found| if let Match::Found(all) = found { Some(all) } else { None }).flatten();
    let found = all.map(|seen| &seen.state.uid).collect::<BTreeSet<_>>().len();
    if found > MOST_WRITERS {
        out.block(reasons::SPEC_INVALID, "spec.source.writers", too_many(found));
    }
}

/// What to say about so many writers.
pub fn too_many(found: usize) -> String {
    format!(
        "{found} workloads match, and at most {MOST_WRITERS} are stopped and started again: narrow the labels, and stop the others yourself"
    )
}

/// Judges `spec.target.application.workloads`; `matches` in their order.
pub fn application(out: &mut Findings, own: Own<'_>, spec: &PostgresMigrationSpec, matches: &[Match]) {
    for (n, (workload, found)) in spec.target.application.workloads.iter().zip(matches).enumerate() {
        let path = format!("spec.target.application.workloads[{n}]");
        let object = own.place.object(&format!("{:?}", workload.kind), &workload.name);
        let seen = match found {
            Match::Unsupported => {
                unsupported(out, format!("{path}.kind"), workload.kind);
                continue;
            }
            Match::Unknown => continue,
            Match::Found(all) => match all.first() {
                Some(seen) => seen,
                None => {
                    out.block(
                        reasons::OBJECT_NOT_FOUND,
                        format!("{path}.name"),
                        format!("{object} does not exist: create it, or take it out"),
                    );
                    continue;
                }
            },
        };
        stoppable(out, own, &path, seen);
        // A workload that we hold at 0 ourselves remembers how it was.
        let held = seen.state.original.as_ref().filter(|original| original.migration == own.uid);
        let setting = held.map_or_else(|| seen.state.setting(), |original| original.setting);
        if workload.replicas.is_none() && setting == Setting::Replicas(0) {
            out.block(
                reasons::REPLICAS_NOT_KNOWN,
                format!("{path}.replicas"),
                format!("{object} stands at 0, so how many to start afterwards is not known: give replicas"),
            );
        }
    }
}

fn unsupported(out: &mut Findings, path: String, kind: WorkloadKind) {
    out.block(
        reasons::KIND_NOT_SUPPORTED,
        path,
        format!("workloads of kind {kind:?} cannot be stopped and started yet: Deployment, StatefulSet, ReplicaSet and CronJob can. Stop it yourself and take it out of the list"),
    );
}

/// What keeps a workload from being stopped, or from staying so.
fn stoppable(out: &mut Findings, own: Own<'_>, path: &str, seen: &Seen) {
    let state = &seen.state;
    let object = own.place.object(&format!("{:?}", state.kind), &state.name);
    if seen.pods.contains(&own.place.pod) {
        out.block(
            reasons::SERVER_AMONG_WORKLOADS,
            path,
            format!(
                "{object} runs {}: stopping it would stop the database itself. Narrow the selector, or take it out",
                own.place.server()
            ),
        );
    }
    if let Some(original) = state.original.as_ref().filter(|original| original.migration != own.uid) {
        out.block(
            reasons::CHANGED_BY_OTHERS,
            path,
            format!(
                "{object} is held by another migration (UID {}): wait until that one has ended, or call it off",
                original.migration
            ),
        );
    }
    if let Some(controller) = &state.controller {
        let message = format!("{object} is controlled by {controller}, which sets it as it likes");
        let kind = controller.split('/').next().unwrap_or_default();
        if ["Deployment", "StatefulSet", "CronJob", "Rollout", "DeploymentConfig"].contains(&kind) {
            out.block(
                reasons::CONTROLLED_BY_OTHERS,
                path,
                format!("{message} and would start it again: name {controller} instead"),
            );
        } else {
            out.warn(
                reasons::CONTROLLED_BY_OTHERS,
                path,
                format!("{message}: pause that controller, or it may start it again while the database is frozen"),
            );
        }
    }
    for scaler in seen.autoscalers.iter().filter(|scaler| scaler.wakes_from_zero) {
        let (kind, remedy) = match scaler.kind {
            AutoscalerKind::HorizontalPodAutoscaler => {
                ("HorizontalPodAutoscaler", "set its minReplicas to 1 or more, which leaves a workload at 0 alone")
            }
            AutoscalerKind::ScaledObject => ("ScaledObject", "set its annotation autoscaling.keda.sh/paused-replicas to \"0\""),
        };
        out.warn(
            reasons::AUTOSCALED,
            path,
            format!("{object} is scaled by {kind} {}, which may raise it from 0 while the database is frozen: {remedy} until the migration is over", scaler.name),
        );
    }
    if let Some(manager) = seen.kept_by.first() {
        out.warn(
            reasons::MANAGED_BY_GITOPS,
            path,
            format!("the size of {object} is kept by {manager}, which may put it back while the database is frozen: suspend it for this object until the migration is over"),
        );
    }
}

/// The template that a schema job takes its container from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// Of a kind that has none, or is not supported.
    Unsupported,
    /// It could not be looked at, which is a finding by itself.
    Unknown,
    /// There is no such workload.
    Absent,
    /// Its containers, init containers left out.
    Containers(Vec<String>),
}

/// Judges `spec.target.application.schemaJobs`; `templates` in their order.
pub fn schema_jobs(out: &mut Findings, place: &Place, spec: &PostgresMigrationSpec, templates: &[Template]) {
    let jobs = &spec.target.application.schema_jobs;
    for (n, (job, template)) in jobs.iter().zip(templates).enumerate() {
        let path = format!("spec.target.application.schemaJobs[{n}]");
        let object = place.object(&format!("{:?}", job.workload_ref.kind), &job.workload_ref.name);
        if jobs[..n].iter().any(|other| other.name == job.name) {
            out.block(
                reasons::SPEC_INVALID,
                format!("{path}.name"),
                format!("two schema jobs are called {:?}: the second would never run", job.name),
            );
        }
        match template {
            Template::Unsupported => unsupported(out, format!("{path}.workloadRef.kind"), job.workload_ref.kind),
            Template::Unknown => {}
            Template::Absent => out.block(
                reasons::OBJECT_NOT_FOUND,
                format!("{path}.workloadRef"),
                format!("{object} does not exist: the schema job takes its image and environment from there"),
            ),
            Template::Containers(names) => {
                if let Some(wanted) = job.container.as_ref().filter(|wanted| !names.contains(wanted)) {
                    out.block(
                        reasons::OBJECT_NOT_FOUND,
                        format!("{path}.container"),
                        format!("{object} has no container {wanted:?}; it has {}", listed(names, names.len())),
                    );
                }
            }
        }
    }
}

/// A setting to re-point, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingSeen {
    /// The setting in words, with its namespace.
    pub what: String,
    /// Why it cannot be written; absent when it can.
    pub obstacle: Option<String>,
    /// Tools that put it back by themselves.
    pub kept_by: Vec<String>,
}

/// Judges `spec.target.application.repoint`; `seen` in its order.
pub fn repoint(out: &mut Findings, place: &Place, declared: &[Repoint], seen: &[SettingSeen]) {
    for (n, (entry, seen)) in declared.iter().zip(seen).enumerate() {
        let path = format!("spec.target.application.repoint[{n}]");
        if let Some(obstacle) = &seen.obstacle {
            out.block(
                reasons::REPOINT_NOT_FOUND,
                &path,
                format!("{} of {} cannot be re-pointed: {obstacle}", seen.what, place.cluster),
            );
        }
        if let Some(manager) = seen.kept_by.first() {
            out.warn(
                reasons::MANAGED_BY_GITOPS,
                &path,
                format!(
                    "{} of {} is kept by {manager}, which may lead the application back to the old database: change it in Git as well, or suspend {manager} for it",
                    seen.what, place.cluster
                ),
            );
        }
        if let Some(word) = unknown_word(&entry.template) {
            out.block(
                reasons::SPEC_INVALID,
                format!("{path}.template"),
                format!("$({word}) is not known: $(host), $(port), $(database), $(user) and, in Secrets, $(password) are"),
            );
        }
    }
}

/// The first `$(word)` of a template that nothing is put in the place of.
fn unknown_word(template: &str) -> Option<&str> {
    template.split("$(").skip(1).filter_map(|rest| rest.split_once(')')).map(|(word, _)| word).find(|word| !WORDS.contains(word))
}

/// Whether a schema job can take its container from a workload of this kind.
pub fn has_template(kind: WorkloadKind) -> bool {
    workloads::supported(kind)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{blocked, place, spec};
    use super::*;
    use crate::api::{RepointKind, Side, WorkloadRef};
    use crate::kubernetes::workloads::Original;

    fn seen(name: &str, replicas: i32) -> Seen {
        Seen {
            state: WorkloadState {
                kind: WorkloadKind::Deployment,
                namespace: "new".into(),
                name: name.into(),
                uid: name.into(),
                resource_version: "1".into(),
                replicas: Some(replicas),
                suspended: None,
                selector: format!("app={name}"),
                ready: replicas,
                available: replicas,
                updated: replicas,
                generation: 1,
                observed_generation: 1,
                current: replicas,
                controller: None,
                original: None,
            },
            autoscalers: vec![],
            pods: vec![format!("{name}-0")],
            kept_by: vec![],
        }
    }

    fn one_writer(change: impl FnOnce(&mut Seen)) -> Findings {
        let mut found = seen("api", 2);
        change(&mut found);
        let mut out = Findings::default();
        let place = place(Side::Source);
        let writer = Writer { kind: WorkloadKind::Deployment, name: Some("api".into()), label_selector: None };
        writers(&mut out, Own { uid: "u", place: &place }, &[writer], &[Match::Found(vec![found])]);
        out
    }

    #[test]
    fn schema_jobs_take_their_container_from_what_can_be_stopped_and_started() {
        use WorkloadKind::{
            CronJob, DaemonSet, Deployment, DeploymentConfig, Job, ReplicaSet, ReplicationController, Rollout, StatefulSet,
        };
        assert!([Deployment, StatefulSet, ReplicaSet, CronJob].into_iter().all(has_template));
        assert!(![DaemonSet, Job, ReplicationController, DeploymentConfig, Rollout].into_iter().any(has_template));
    }

    #[test]
    fn an_ordinary_writer_is_fine() {
        assert_eq!(one_writer(|_| ()), Findings::default());
    }

    #[test]
    fn more_writers_than_can_be_recorded_are_refused() {
        let place = place(Side::Source);
        let by_label = Writer { kind: WorkloadKind::Deployment, name: None, label_selector: Some("app=w".into()) };
        let judged = |many: usize| {
            let all = (0..many).map(|n| seen(&format!("w{n}"), 1)).collect();
            let (one, others) = (Match::Found(vec![seen("w0", 1)]), Match::Found(all));
            let mut out = Findings::default();
            writers(&mut out, Own { uid: "u", place: &place }, &[by_label.clone(), by_label.clone()], &[one, others]);
            out
        };
        assert_eq!(judged(64), Findings::default());
        blocked(&judged(65), reasons::SPEC_INVALID, "spec.source.writers", &["65 workloads match", "at most 64"]);
    }

    #[test]
    fn writers_that_do_not_stay_stopped_are_named() {
        let cases: [(fn(&mut Seen), &str, bool); 6] = [
            (|s| s.pods.push("postgres-0".into()), reasons::SERVER_AMONG_WORKLOADS, true),
            (
                |s| s.state.original = Some(Original { migration: "other".into(), setting: Setting::Replicas(1) }),
                reasons::CHANGED_BY_OTHERS,
                true,
            ),
            (|s| s.state.controller = Some("Deployment/api".into()), reasons::CONTROLLED_BY_OTHERS, true),
            (|s| s.state.controller = Some("Kafka/x".into()), reasons::CONTROLLED_BY_OTHERS, false),
            (|s| s.kept_by.push("argocd-controller".into()), reasons::MANAGED_BY_GITOPS, false),
            (
                |s| {
                    s.autoscalers.push(Autoscaler {
                        kind: AutoscalerKind::ScaledObject,
                        name: "k".into(),
                        min_replicas: 0,
                        max_replicas: None,
                        wakes_from_zero: true,
                    });
                },
                reasons::AUTOSCALED,
                false,
            ),
        ];
        for (change, reason, blocks) in cases {
            let out = one_writer(change);
            let (some, none) = if blocks { (&out.blockers, &out.warnings) } else { (&out.warnings, &out.blockers) };
            assert_eq!((some.len(), none.len()), (1, 0), "{out:?}");
            assert_eq!((some[0].reason, some[0].path.as_str()), (reason, "spec.source.writers[0]"));
            for word in ["Deployment", "old/api", "the old cluster"] {
                assert!(some[0].message.contains(word), "{}", some[0].message);
            }
        }
    }

    #[test]
    fn an_autoscaler_that_leaves_zero_alone_is_no_finding() {
        let out = one_writer(|s| {
            s.autoscalers.push(Autoscaler {
                kind: AutoscalerKind::HorizontalPodAutoscaler,
                name: "h".into(),
                min_replicas: 1,
                max_replicas: Some(5),
                wakes_from_zero: false,
            });
        });
        assert_eq!(out, Findings::default());
    }

    #[test]
    fn writers_that_are_not_there_or_not_supported_are_refused() {
        let place = place(Side::Source);
        let own = Own { uid: "u", place: &place };
        let named = Writer { kind: WorkloadKind::Deployment, name: Some("gone".into()), label_selector: None };
        let selected = Writer { kind: WorkloadKind::StatefulSet, name: None, label_selector: Some("app=x".into()) };
        let daemons = Writer { kind: WorkloadKind::DaemonSet, name: Some("d".into()), label_selector: None };
        let mut out = Findings::default();
        writers(&mut out, own, &[named], &[Match::Found(vec![])]);
        blocked(&out, reasons::WRITER_NOT_FOUND, "spec.source.writers[0].name", &["Deployment old/gone of the old cluster"]);
        let mut out = Findings::default();
        writers(&mut out, own, &[selected, daemons], &[Match::Found(vec![]), Match::Unsupported]);
        blocked(
            &out,
            reasons::WRITER_NOT_FOUND,
            "spec.source.writers[0].labelSelector",
            &["StatefulSet", "namespace old of the old cluster", "app=x"],
        );
        blocked(&out, reasons::KIND_NOT_SUPPORTED, "spec.source.writers[1].kind", &["DaemonSet"]);
        let mut out = Findings::default();
        writers(&mut out, own, &[], &[]);
        assert_eq!((out.blockers.len(), out.warnings.len()), (0, 1));
    }

    #[test]
    fn workloads_of_the_application_must_exist_and_say_how_many() {
        let place = place(Side::Target);
        let own = Own { uid: "u", place: &place };
        let mut spec = spec();
        spec.target.application.workloads[0].replicas = None;
        let judged = |spec: &PostgresMigrationSpec, found: Match| {
            let mut out = Findings::default();
            application(&mut out, own, spec, &[found]);
            out
        };
        let path = "spec.target.application.workloads[0]";
        let absent = judged(&spec, Match::Found(vec![]));
        blocked(&absent, reasons::OBJECT_NOT_FOUND, &format!("{path}.name"), &["Deployment new/api of this cluster"]);
        let at_zero = judged(&spec, Match::Found(vec![seen("api", 0)]));
        blocked(
            &at_zero,
            reasons::REPLICAS_NOT_KNOWN,
            &format!("{path}.replicas"),
            &["Deployment new/api of this cluster", "replicas"],
        );
        assert_eq!(judged(&spec, Match::Found(vec![seen("api", 1)])), Findings::default());
        let mut held = seen("api", 0);
        held.state.original = Some(Original { migration: "u".into(), setting: Setting::Replicas(2) });
        assert_eq!(judged(&spec, Match::Found(vec![held])), Findings::default());
        blocked(&judged(&spec, Match::Unsupported), reasons::KIND_NOT_SUPPORTED, &format!("{path}.kind"), &[]);
        spec.target.application.workloads[0].replicas = Some(2);
        assert_eq!(judged(&spec, Match::Found(vec![seen("api", 0)])), Findings::default());
    }

    #[test]
    fn schema_jobs_need_their_container() {
        let place = place(Side::Target);
        let mut spec = spec();
        let judged = |spec: &PostgresMigrationSpec, templates: &[Template]| {
            let mut out = Findings::default();
            schema_jobs(&mut out, &place, spec, templates);
            out
        };
        let containers = |name: &str| Template::Containers(vec![name.into(), "sidecar".into()]);
        assert_eq!(judged(&spec, &[containers("api")]), Findings::default());
        let path = "spec.target.application.schemaJobs[0]";
        blocked(
            &judged(&spec, &[containers("web")]),
            reasons::OBJECT_NOT_FOUND,
            &format!("{path}.container"),
            &["\"web\"", "new/api of this cluster"],
        );
        blocked(&judged(&spec, &[Template::Absent]), reasons::OBJECT_NOT_FOUND, &format!("{path}.workloadRef"), &["new/api"]);
        blocked(&judged(&spec, &[Template::Unsupported]), reasons::KIND_NOT_SUPPORTED, &format!("{path}.workloadRef.kind"), &[]);
        let again = spec.target.application.schema_jobs[0].clone();
        spec.target.application.schema_jobs.push(again);
        let out = judged(&spec, &[containers("api"), containers("api")]);
        blocked(&out, reasons::SPEC_INVALID, "spec.target.application.schemaJobs[1].name", &[]);
    }

    #[test]
    fn settings_that_cannot_be_written_are_refused() {
        let place = place(Side::Target);
        let entry = |template: &str| Repoint {
            kind: Some(RepointKind::ConfigMap),
            name: Some("app".into()),
            key: Some("HOST".into()),
            workload_ref: None::<WorkloadRef>,
            container: None,
            env: None,
            template: template.into(),
        };
        let setting = |obstacle: Option<&str>, kept_by: &[&str]| SettingSeen {
            what: "key HOST of ConfigMap new/app".into(),
            obstacle: obstacle.map(Into::into),
            kept_by: kept_by.iter().map(|&tool| tool.into()).collect(),
        };
        let mut out = Findings::default();
        repoint(&mut out, &place, &[entry("postgres://$(user):$(password)@$(host):$(port)/$(database)")], &[setting(None, &[])]);
        assert_eq!(out, Findings::default());
        repoint(
            &mut out,
            &place,
            &[entry("$(host)"), entry("$(hostname)")],
            &[setting(Some("there is no such key"), &["kustomize-controller"]), setting(None, &[])],
        );
        blocked(
            &out,
            reasons::REPOINT_NOT_FOUND,
            "spec.target.application.repoint[0]",
            &["key HOST of ConfigMap new/app of this cluster", "no such key"],
        );
        blocked(&out, reasons::SPEC_INVALID, "spec.target.application.repoint[1].template", &["$(hostname)"]);
        assert_eq!(out.warnings.len(), 1);
        assert_eq!(out.warnings[0].reason, reasons::MANAGED_BY_GITOPS);
    }
}
