//! The Job that carries bytes: our own image with the `mover` subcommand, as the migration's service account, under the
//! strictest pod security. It mounts no Secret: what it needs it reads with its own rights.

use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use super::super::errors::{Error, Kind, Request};
use super::super::labels::MigrationId;
use crate::api::names::OPERATION_ENV;
use crate::crash::MOVER_ENV;

/// Name of the container.
pub const CONTAINER: &str = "mover";

/// What a mover Job is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoverJob {
    /// The migration, which owns the Job.
    pub migration: MigrationId,
    /// Namespace of the migration.
    pub namespace: String,
    /// Name of the Job; at most 63 bytes, because it is a label of its pods.
    pub name: String,
    /// Whose rights the mover has.
    pub service_account: String,
    /// Our own image.
    pub image: String,
    /// Names of Secrets with registry credentials.
    pub image_pull_secrets: Vec<String>,
    /// The operation document (JSON). It holds no secret: anyone who may read pods can read it.
    pub operation: String,
    /// Longest time in seconds; absent: no limit, because nobody knows how long a database takes.
    pub deadline_seconds: Option<i64>,
    /// Tests only: where the mover ends. See [`crate::crash`].
    pub crash_at: Option<String>,
}

impl MoverJob {
    /// The Job as it is created.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when the fixed template cannot be built from these values.
    pub fn build(&self) -> Result<Job, Error> {
        let labels = self.migration.labels();
        let pull_secrets: Vec<_> = self.image_pull_secrets.iter().map(|name| json!({"name": name})).collect();
        let mut env = vec![json!({"name": OPERATION_ENV, "value": literal(&self.operation)})];
        env.extend(ALLOCATOR.map(|(name, value)| json!({"name": name, "value": value})));
        env.extend(self.crash_at.iter().map(|at| json!({"name": MOVER_ENV, "value": literal(at)})));
        let job = json!({
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "pgmigration.dev/v1alpha1",
                    "kind": "PostgresMigration",
                    "name": self.migration.name,
                    "uid": self.migration.uid,
                    "controller": true,
                    "blockOwnerDeletion": false,
                }],
            },
            "spec": {
                // A next attempt is the operator's decision: it first ends what this one left in the database and the bucket.
                "backoffLimit": 0,
                "activeDeadlineSeconds": self.deadline_seconds,
                "template": {
                    "metadata": {
                        "labels": labels,
                        "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
                    },
                    "spec": {
                        "restartPolicy": "Never",
                        "serviceAccountName": self.service_account,
                        "imagePullSecrets": pull_secrets,
                        "enableServiceLinks": false,
                        // No runAsUser: the image has a numeric one, and OpenShift gives each namespace its own.
                        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                        "containers": [{
                            "name": CONTAINER,
                            "image": self.image,
                            "imagePullPolicy": "IfNotPresent",
                            "args": ["mover"],
                            "env": env,
                            "securityContext": {
                                "allowPrivilegeEscalation": false,
                                "readOnlyRootFilesystem": true,
                                "capabilities": {"drop": ["ALL"]},
                            },
                            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
                            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                        }],
                        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
                    },
                },
            },
        });
        serde_json::from_value(job).map_err(|error| {
            Error::new(Kind::Invalid, Request::new("create", "jobs.batch", &self.namespace, &self.name), error.to_string())
        })
    }
}

/// Settings of glibc's allocator (mallopt(3)). Left alone, it keeps the memory of each part that was sent, in one pool per
/// thread, so that a mover grows with the size of what it moves; so parts are given back as soon as they are sent.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "1048576")];

/// A value of a variable that arrives as it is: the kubelet would expand `$(NAME)`, and turn `$$` into `$`.
fn literal(value: &str) -> String {
    value.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_is_restricted_owned_and_runs_once() {
        let mover = MoverJob {
            migration: MigrationId { name: "onyx".into(), uid: "u".into() },
            namespace: "n".into(),
            name: "pgm-u-dump-1".into(),
            service_account: "onyx-migration".into(),
            image: "registry/image@sha256:0".into(),
            image_pull_secrets: vec!["pull".into()],
            operation: r#"{"version":1,"$(HOME)":"x$$"}"#.into(),
            deadline_seconds: None,
            crash_at: None,
        };
        let job = serde_json::to_value(mover.build().unwrap()).unwrap();
        let at = |pointer: &str| job.pointer(pointer).cloned().unwrap_or_default();
        let pod = "/spec/template/spec";
        assert_eq!(at("/spec/backoffLimit"), 0);
        assert_eq!(at("/spec/activeDeadlineSeconds"), serde_json::Value::Null);
        assert_eq!(at("/spec/ttlSecondsAfterFinished"), serde_json::Value::Null);
        assert_eq!(at("/metadata/ownerReferences/0/controller"), true);
        assert_eq!(at("/metadata/ownerReferences/0/blockOwnerDeletion"), false);
        assert_eq!(at("/metadata/labels/pgmigration.dev~1migration-uid"), "u");
        assert_eq!(at(&format!("{pod}/serviceAccountName")), "onyx-migration");
        assert_eq!(at(&format!("{pod}/restartPolicy")), "Never");
        assert_eq!(at(&format!("{pod}/securityContext/runAsNonRoot")), true);
        assert_eq!(at(&format!("{pod}/securityContext/seccompProfile/type")), "RuntimeDefault");
        assert_eq!(at(&format!("{pod}/containers/0/args")), json!(["mover"]));
        assert_eq!(at(&format!("{pod}/containers/0/securityContext/capabilities/drop")), json!(["ALL"]));
        assert_eq!(at(&format!("{pod}/containers/0/securityContext/readOnlyRootFilesystem")), true);
        assert_eq!(at(&format!("{pod}/containers/0/securityContext/allowPrivilegeEscalation")), false);
        assert_eq!(at(&format!("{pod}/containers/0/resources/limits/memory")), "256Mi");
        assert_eq!(at(&format!("{pod}/containers/0/env/0/value")), r#"{"version":1,"$$(HOME)":"x$$$$"}"#);
        let names: Vec<_> =
            at(&format!("{pod}/containers/0/env")).as_array().unwrap().iter().map(|e| e["name"].clone()).collect();
        assert_eq!(names, [OPERATION_ENV, "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_"], "nothing else, no secret above all");
        assert_eq!(at(&format!("{pod}/imagePullSecrets/0/name")), "pull");
        let limited = MoverJob { deadline_seconds: Some(60), ..mover }.build().unwrap();
        assert_eq!(limited.spec.unwrap().active_deadline_seconds, Some(60));
    }
}
