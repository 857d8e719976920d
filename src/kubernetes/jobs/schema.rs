//! The Job that brings a schema up to date: a command in the image and the surroundings of one container of a live workload.
//!
//! What is taken over is a list, not a rest: labels (a Service or a budget could select them), other containers, init
//! containers, probes, ports and hooks of the workload stay behind.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Affinity, Container, PodSpec, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::labels::MigrationId;

/// What a schema Job is made from, besides the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaJob {
    /// The migration.
    pub migration: MigrationId,
    /// Namespace of the workload, and of the Job.
    pub namespace: String,
    /// Name of the Job; at most 63 bytes, because it is a label of its pods.
    pub name: String,
    /// Container of the template. Absent: the first.
    pub container: Option<String>,
    /// What to run instead of the container's command and arguments.
    pub command: Vec<String>,
    /// Longest time, in seconds.
    pub deadline_seconds: i64,
}

/// Why no Job can be made from a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaJobError {
    /// There is no such container.
    #[error("the template has no container {wanted:?}; it has: {present}")]
    ContainerAbsent {
        /// The one asked for; empty when any would have done.
        wanted: String,
        /// Those that it has.
        present: String,
    },
    /// The container mounts what only pods of its workload have.
    #[error(
        "container {container} mounts volume {volume}, which is made for each pod of its workload (a volume claim template): a job cannot have it"
    )]
    VolumeOfWorkload {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
}

impl SchemaJob {
    /// The Job as it is created. It has no owner: the migration may live in another cluster.
    ///
    /// Taken over from the container: image, pull policy, working directory, env, envFrom, volume mounts, security context,
    /// resources. From the pod: the mounted volumes, pull secrets, service account and whether its token is mounted, security
    /// context, node selector, node affinity, tolerations, runtime class, service links, host aliases and DNS.
    ///
    /// # Errors
    /// See [`SchemaJobError`].
    pub fn build(&self, template: &PodTemplateSpec) -> Result<Job, SchemaJobError> {
        let pod = template.spec.clone().unwrap_or_default();
        let source = self.source(&pod)?.clone();
        let mut mounted: Vec<&str> = source.volume_mounts.iter().flatten().map(|mount| mount.name.as_str()).collect();
        mounted.extend(source.volume_devices.iter().flatten().map(|device| device.name.as_str()));
        let mut volumes = pod.volumes.unwrap_or_default();
        if let Some(volume) = mounted.iter().find(|name| !volumes.iter().any(|volume| volume.name == **name)) {
            return Err(SchemaJobError::VolumeOfWorkload { container: source.name.clone(), volume: (*volume).to_owned() });
        }
        volumes.retain(|volume| mounted.contains(&volume.name.as_str()));

        let container = Container {
            name: source.name.clone(),
            image: source.image.clone(),
            image_pull_policy: source.image_pull_policy.clone(),
            working_dir: source.working_dir.clone(),
            command: Some(self.command.clone()),
            env: source.env.clone(),
            env_from: source.env_from.clone(),
            volume_mounts: source.volume_mounts.clone(),
            volume_devices: source.volume_devices.clone(),
            security_context: source.security_context.clone(),
            // Claims name devices of the pod that are not taken over.
            resources: source.resources.clone().map(|resources| ResourceRequirements { claims: None, ..resources }),
            // A failed command without a message of its own then leaves the end of its log.
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            ..Container::default()
        };
        let node_affinity = pod.affinity.and_then(|affinity| affinity.node_affinity);
        let spec = PodSpec {
            containers: vec![container],
            volumes: (!volumes.is_empty()).then_some(volumes),
            restart_policy: Some("Never".into()),
            image_pull_secrets: pod.image_pull_secrets,
            service_account_name: pod.service_account_name,
            automount_service_account_token: pod.automount_service_account_token,
            security_context: pod.security_context,
            node_selector: pod.node_selector,
            affinity: node_affinity.map(|node_affinity| Affinity { node_affinity: Some(node_affinity), ..Affinity::default() }),
            tolerations: pod.tolerations,
            runtime_class_name: pod.runtime_class_name,
            enable_service_links: pod.enable_service_links,
            host_aliases: pod.host_aliases,
            dns_policy: pod.dns_policy,
            dns_config: pod.dns_config,
            ..PodSpec::default()
        };
        let labels = Some(self.migration.labels());
        Ok(Job {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: labels.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(JobSpec {
                backoff_limit: Some(0),
                active_deadline_seconds: Some(self.deadline_seconds),
                template: PodTemplateSpec { metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }), spec: Some(spec) },
                ..JobSpec::default()
            }),
            status: None,
        })
    }

    fn source<'a>(&self, pod: &'a PodSpec) -> Result<&'a Container, SchemaJobError> {
        let found = match &self.container {
            Some(wanted) => pod.containers.iter().find(|container| container.name == *wanted),
            None => pod.containers.first(),
        };
        found.ok_or_else(|| SchemaJobError::ContainerAbsent {
            wanted: self.container.clone().unwrap_or_default(),
            present: pod.containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn template() -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": {"labels": {"app": "api"}, "annotations": {"a": "b"}},
            "spec": {
                "initContainers": [{"name": "wait", "image": "wait"}],
                "containers": [
                    {
                        "name": "api", "image": "app:2", "imagePullPolicy": "Always", "workingDir": "/app",
                        "command": ["serve"], "args": ["--port", "80"],
                        "ports": [{"containerPort": 80, "hostPort": 80}],
                        "env": [{"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                        "envFrom": [{"configMapRef": {"name": "onyx-config"}}],
                        "volumeMounts": [{"name": "config", "mountPath": "/config", "readOnly": true}],
                        "livenessProbe": {"httpGet": {"path": "/", "port": 80}}, "readinessProbe": {"tcpSocket": {"port": 80}},
                        "startupProbe": {"exec": {"command": ["x"]}}, "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
                        "securityContext": {"runAsUser": 10001, "readOnlyRootFilesystem": true},
                        "resources": {"limits": {"memory": "1Gi"}, "claims": [{"name": "gpu"}]},
                        "stdin": true, "tty": true, "restartPolicy": "Always",
                    },
                    {"name": "sidecar", "image": "proxy", "volumeMounts": [{"name": "socket", "mountPath": "/s"}]},
                ],
                "volumes": [
                    {"name": "config", "configMap": {"name": "files"}},
                    {"name": "socket", "hostPath": {"path": "/run"}},
                ],
                "imagePullSecrets": [{"name": "pull"}], "serviceAccountName": "app", "automountServiceAccountToken": false,
                "securityContext": {"fsGroup": 10001, "runAsNonRoot": true}, "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "db", "operator": "Exists"}], "runtimeClassName": "gvisor",
                "affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "Exists"}]}]}},
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "host"}]},
                },
                "hostNetwork": true, "hostPID": true, "shareProcessNamespace": true, "terminationGracePeriodSeconds": 3600,
                "restartPolicy": "Always", "nodeName": "node-1", "hostname": "api", "subdomain": "api",
            },
        }))
        .unwrap()
    }

    fn job(container: Option<&str>) -> SchemaJob {
        SchemaJob {
            migration: MigrationId { name: "onyx".into(), uid: "u".into() },
            namespace: "n".into(),
            name: "pgmig-u-alembic-1-1".into(),
            container: container.map(Into::into),
            command: vec!["alembic".into(), "upgrade".into(), "head".into()],
            deadline_seconds: 1800,
        }
    }

    /// The names of the members of the object at `pointer`, sorted.
    fn members(document: &Value, pointer: &str) -> Vec<String> {
        let mut names: Vec<String> = document.pointer(pointer).unwrap().as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    #[test]
    fn exactly_the_listed_things_are_taken_over() {
        let built = serde_json::to_value(job(Some("api")).build(&template()).unwrap()).unwrap();
        let pod = "/spec/template/spec";
        let container = "/spec/template/spec/containers/0";
        assert_eq!(built.pointer("/spec/template/spec/containers").unwrap().as_array().unwrap().len(), 1);
        assert_eq!(
            members(&built, container),
            [
                "command",
                "env",
                "envFrom",
                "image",
                "imagePullPolicy",
                "name",
                "resources",
                "securityContext",
                "terminationMessagePolicy",
                "volumeMounts",
                "workingDir"
            ]
        );
        assert_eq!(
            members(&built, pod),
            [
                "affinity",
                "automountServiceAccountToken",
                "containers",
                "imagePullSecrets",
                "nodeSelector",
                "restartPolicy",
                "runtimeClassName",
                "securityContext",
                "serviceAccountName",
                "tolerations",
                "volumes"
            ]
        );
        let original = serde_json::to_value(template()).unwrap();
        for member in ["imagePullSecrets", "serviceAccountName", "securityContext", "nodeSelector", "tolerations"] {
            assert_eq!(built.pointer(&format!("{pod}/{member}")), original.pointer(&format!("/spec/{member}")), "{member}");
        }
        for member in ["image", "env", "envFrom", "volumeMounts", "securityContext", "workingDir"] {
            assert_eq!(
                built.pointer(&format!("{container}/{member}")),
                original.pointer(&format!("/spec/containers/0/{member}")),
                "{member}"
            );
        }
        assert_eq!(built.pointer(&format!("{container}/resources")).unwrap(), &json!({"limits": {"memory": "1Gi"}}));
        assert_eq!(members(&built, &format!("{pod}/affinity")), ["nodeAffinity"]);
        assert_eq!(built.pointer(&format!("{pod}/restartPolicy")).unwrap(), "Never");
        let volumes = built.pointer(&format!("{pod}/volumes")).unwrap().as_array().unwrap();
        assert_eq!(volumes.len(), 1, "the sidecar's volume stays behind");
    }

    #[test]
    fn no_selector_of_the_application_matches_it() {
        let built = job(None).build(&template()).unwrap();
        let labels = built.spec.unwrap().template.metadata.unwrap().labels.unwrap();
        assert!(labels.keys().all(|key| key.starts_with("pgmigration.dev/")), "{labels:?}");
        assert!(built.metadata.owner_references.is_none());
    }

    #[test]
    fn it_runs_the_command_once_and_ends() {
        let spec = job(None).build(&template()).unwrap().spec.unwrap();
        assert_eq!((spec.backoff_limit, spec.active_deadline_seconds), (Some(0), Some(1800)));
        let container = spec.template.spec.unwrap().containers.remove(0);
        assert_eq!(container.command.unwrap(), ["alembic", "upgrade", "head"]);
        assert_eq!(container.args, None);
    }

    #[test]
    fn a_container_that_is_not_there_is_named() {
        let error = job(Some("web")).build(&template()).unwrap_err();
        assert_eq!(error.to_string(), "the template has no container \"web\"; it has: api, sidecar");
        assert!(matches!(job(None).build(&PodTemplateSpec::default()), Err(SchemaJobError::ContainerAbsent { .. })));
    }

    #[test]
    fn a_volume_of_the_workload_is_refused() {
        let mut template = template();
        template.spec.as_mut().unwrap().volumes = None;
        let error = job(Some("api")).build(&template).unwrap_err();
        assert_eq!(error, SchemaJobError::VolumeOfWorkload { container: "api".into(), volume: "config".into() });
    }
}
