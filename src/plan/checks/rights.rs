//! The rights that a migration needs, from its spec: what the shipped Roles grant, and no more.

use super::Findings;
use crate::api::conditions::reasons;
use crate::api::{ExecPostgres, PostgresMigrationSpec, WorkloadKind};
use crate::kubernetes::access::Right;
use crate::kubernetes::config::{Place, previous};
use crate::kubernetes::{jobs, workloads};

/// Whose rights, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Where in the spec the account, or the kubeconfig that holds it, is named.
    pub path: String,
    /// The account in words: `ServiceAccount onyx/mover`, `the account of the kubeconfig in Secret onyx/old-cluster`.
    pub words: String,
    /// Namespace that the rights are for.
    pub namespace: String,
    /// Its cluster in words.
    pub cluster: String,
}

fn right(verb: &str, group: &str, resource: &str) -> Right {
    Right::new(verb, group, resource)
}

fn server(exec: &ExecPostgres) -> Vec<Right> {
    let mut rights = vec![
        right("get", "", "pods"),
        right("list", "", "pods"),
        // A WebSocket is a GET; from Kubernetes 1.35 on `create` is asked for as well.
        right("get", "", "pods/exec"),
        right("create", "", "pods/exec"),
    ];
    if let Some(workload) = &exec.workload_ref {
        rights.extend(reading(workload.kind, &workload.name));
    }
    rights
}

fn reading(kind: WorkloadKind, name: &str) -> Vec<Right> {
    workloads::rights(kind, Some(name)).into_iter().filter(|right| right.verb == "get" || right.verb == "list").collect()
}

/// Rights in the object's own namespace.
pub fn home(spec: &PostgresMigrationSpec) -> Vec<Right> {
    let s3 = &spec.archive.s3;
    let clusters = [&spec.source.cluster, &spec.target.cluster];
    let kubeconfigs = clusters.into_iter().flatten().filter_map(|c| c.kubeconfig_secret_ref.as_ref()).map(|r| r.name.as_str());
    let others = [s3.credentials_secret_ref.name.as_str()].into_iter().chain(s3.ca_secret_ref.as_ref().map(|r| r.name.as_str()));
    let owners = spec.databases.iter().map(|database| database.owner.password_secret_ref.name.as_str());
    kubeconfigs.chain(others).chain(owners).map(|name| right("get", "", "secrets").to(name)).collect()
}

/// Rights in the source's namespace.
pub fn source(spec: &PostgresMigrationSpec) -> Vec<Right> {
    let mut rights = server(&spec.source.postgres.exec);
    for writer in &spec.source.writers {
        rights.extend(workloads::rights(writer.kind, writer.name.as_deref()));
    }
    rights
}

/// Rights in the target's namespace. `previous_values`: the Secret that previous values of re-pointed settings are kept in.
pub fn target(spec: &PostgresMigrationSpec, previous_values: &str) -> Vec<Right> {
    let application = &spec.target.application;
    let mut rights = server(&spec.target.postgres.exec);
    for workload in &application.workloads {
        rights.extend(workloads::rights(workload.kind, Some(&workload.name)));
    }
    rights.extend(application.repoint.iter().filter_map(Place::of).flat_map(|place| place.rights()));
    if !application.repoint.is_empty() {
        rights.extend(previous::rights(previous_values));
    }
    for job in &application.schema_jobs {
        rights.extend(reading(job.workload_ref.kind, &job.workload_ref.name));
    }
    if !application.schema_jobs.is_empty() {
        rights.extend(jobs::rights());
    }
    rights
}

/// One finding that names every right that is missing.
pub fn judge(out: &mut Findings, account: &Account, missing: &[Right]) {
    if missing.is_empty() {
        return;
    }
    let all: Vec<String> = missing.iter().map(ToString::to_string).collect();
    out.block(
        reasons::MISSING_PERMISSION,
        &account.path,
        format!(
            "{} lacks rights in namespace {} of {}: {}. Grant them with the Roles of config/migration, or with narrower ones.",
            account.words,
            account.namespace,
            account.cluster,
            all.join(", ")
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::spec;
    use super::*;

    fn texts(rights: &[Right]) -> Vec<String> {
        rights.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_that_a_spec_names_is_asked_for() {
        let spec = spec();
        let home = texts(&home(&spec));
        for secret in ["old-cluster", "bucket", "onyx-db"] {
            assert!(home.contains(&format!("get secrets \"{secret}\"")), "{home:?}");
        }
        let source = texts(&source(&spec));
        for right in
            ["get pods/exec", "create pods/exec", "list pods", "patch deployments.apps/scale \"api\"", "list deployments.apps"]
        {
            assert!(source.contains(&right.to_owned()), "{right} in {source:?}");
        }
        assert!(!source.iter().any(|right| right.contains("secrets")), "{source:?}");
        let target = texts(&target(&spec, "previous"));
        for right in [
            "create pods/exec",
            "patch configmaps \"app\"",
            "patch secrets \"app\"",
            "create secrets",
            "create jobs.batch",
            "get pods/log",
            "patch deployments.apps \"worker\"",
            "patch deployments.apps/scale \"api\"",
        ] {
            assert!(target.contains(&right.to_owned()), "{right} in {target:?}");
        }
        assert!(
            !target.contains(&"patch deployments.apps/scale \"worker\"".to_owned()),
            "re-pointing does not scale: {target:?}"
        );
    }

    #[test]
    fn what_a_spec_does_not_name_is_not_asked_for() {
        let mut spec = spec();
        spec.source.writers.clear();
        spec.target.application = crate::api::Application::default();
        for rights in [texts(&source(&spec)), texts(&target(&spec, "previous"))] {
            assert!(rights.iter().all(|r| !r.contains("patch") && !r.contains("secrets") && !r.contains("jobs")), "{rights:?}");
        }
    }

    #[test]
    fn each_missing_verb_is_named() {
        let account = Account {
            path: "spec.serviceAccountName".into(),
            words: "ServiceAccount onyx/mover".into(),
            namespace: "db".into(),
            cluster: "this cluster".into(),
        };
        let mut out = Findings::default();
        judge(&mut out, &account, &[]);
        assert_eq!(out, Findings::default());
        judge(&mut out, &account, &[right("create", "", "pods/exec"), right("patch", "apps", "deployments/scale").to("api")]);
        let found = &out.blockers[0];
        assert_eq!((found.reason, found.path.as_str()), (reasons::MISSING_PERMISSION, "spec.serviceAccountName"));
        for word in [
            "ServiceAccount onyx/mover",
            "namespace db of this cluster",
            "create pods/exec",
            "patch deployments.apps/scale \"api\"",
        ] {
            assert!(found.message.contains(word), "{}", found.message);
        }
    }
}
