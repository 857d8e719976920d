//! What a user declares. Shape rules: no data enums (the OpenShift form drops `oneOf`), every string and list bounded,
//! references to Secrets are local to the object's namespace, a union is a struct of optional members and a CEL rule.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::PostgresMigrationStatus;

/// CEL gives every place in the schema a type of its own, and compares only values of one type: so member by member.
/// `namespace` is a reserved word there and is written with underscores.
const DIFFERENT_DATABASES: &str = "!(((has(self.source.postgres.exec.workloadRef) && has(self.target.postgres.exec.workloadRef) \
    && self.source.postgres.exec.workloadRef.kind == self.target.postgres.exec.workloadRef.kind \
    && self.source.postgres.exec.workloadRef.name == self.target.postgres.exec.workloadRef.name) \
    || (has(self.source.postgres.exec.labelSelector) && has(self.target.postgres.exec.labelSelector) \
    && self.source.postgres.exec.labelSelector == self.target.postgres.exec.labelSelector)) \
    && has(self.source.cluster) == has(self.target.cluster) && (!has(self.source.cluster) || (\
    has(self.source.cluster.__namespace__) == has(self.target.cluster.__namespace__) \
    && (!has(self.source.cluster.__namespace__) || self.source.cluster.__namespace__ == self.target.cluster.__namespace__) \
    && has(self.source.cluster.kubeconfigSecretRef) == has(self.target.cluster.kubeconfigSecretRef) \
    && (!has(self.source.cluster.kubeconfigSecretRef) \
    || (self.source.cluster.kubeconfigSecretRef.name == self.target.cluster.kubeconfigSecretRef.name \
    && self.source.cluster.kubeconfigSecretRef.key == self.target.cluster.kubeconfigSecretRef.key)))) \
    && (!has(self.databases[0].targetName) || self.databases[0].targetName == self.databases[0].name))";

/// Moves one PostgreSQL database to another server: freezes the writers, fences the source, dumps it through S3, restores it
/// beside the target database, proves that both are equal, swaps it in, re-points the application and starts it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "pgmigration.dev",
    version = "v1alpha1",
    kind = "PostgresMigration",
    plural = "postgresmigrations",
    shortname = "pgmig",
    category = "all",
    namespaced,
    status = "PostgresMigrationStatus",
    doc = "Moves one PostgreSQL database to another server: frozen for certain, equal for certain, resumable, reversible.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.startTime) || (has(oldSelf.status.outcome) && oldSelf.status.outcome in ['Failed', 'Cancelled']) || (self.spec.mode == oldSelf.spec.mode && self.spec.serviceAccountName == oldSelf.spec.serviceAccountName && self.spec.source == oldSelf.spec.source && self.spec.archive.s3 == oldSelf.spec.archive.s3 && self.spec.databases == oldSelf.spec.databases && self.spec.target == oldSelf.spec.target)").message("spec must not change once the migration has started: only suspend, cancel, retry, rollback, unfence and archive.retentionDays may; set cancel: true, or after publication rollback: {}, to undo it first"),
    validation = Rule::new("!has(oldSelf.spec.retry) || (has(self.spec.retry) && self.spec.retry >= oldSelf.spec.retry)").message("spec.retry must only grow"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.undo) || has(oldSelf.status.outcome) || ((!oldSelf.spec.cancel || self.spec.cancel) && (!has(oldSelf.spec.rollback) || has(self.spec.rollback)))").message("spec.cancel and spec.rollback must not be taken back while everything is being undone: wait until status.outcome is set")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(DIFFERENT_DATABASES).message("source and target must not be the same database"))]
pub struct PostgresMigrationSpec {
    /// Plan only checks and touches nothing; Migrate does it.
    #[serde(default)]
    pub mode: Mode,
    /// ServiceAccount of this namespace whose rights are used for everything that this spec names.
    /// It must carry the annotation pgmigration.dev/allow: "true".
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: String,
    /// The database that moves, and everything that writes to it.
    pub source: Source,
    /// The bridge between both sides.
    pub archive: Archive,
    /// The databases to move. One for now.
    #[schemars(length(min = 1, max = 1))]
    pub databases: Vec<Database>,
    /// Where the database goes, and the application that will use it there.
    pub target: Target,
    /// Stops before the next step while true; what runs, runs to its end.
    #[serde(default)]
    pub suspend: bool,
    /// Undoes everything. Acts until the database is published. To begin anew afterwards, take it back and raise retry.
    #[serde(default)]
    pub cancel: bool,
    /// Goes back to the old database, also after the new one was published and after the migration has succeeded. Before
    /// publication it acts as cancel does. To begin anew afterwards, take it back and raise retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// Opens the old database of a migration that has succeeded. From then on nothing keeps both databases equal.
    /// It is not closed again when this is taken back.
    #[serde(default)]
    pub unfence: bool,
    /// Raise it to run a failed migration, or a failed schema job, again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub retry: Option<i64>,
}

/// How far to go back, and at what price.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollback {
    /// Where to.
    #[serde(default)]
    pub to: RollbackTo,
    /// What the author knows and accepts. Once the application was started on the new database, TargetWrites is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub acknowledge: Vec<RollbackAcknowledgement>,
}

/// Where a rollback leads to.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RollbackTo {
    /// The old database, as it was when it was closed.
    #[default]
    Source,
}

/// What a rollback costs.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollbackAcknowledgement {
    /// What was written to the new database is not in the old one. It is saved in the bucket before the new one is dropped.
    TargetWrites,
}

/// What the object is for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Only check: nothing is touched on either side.
    #[default]
    Plan,
    /// Move the database.
    Migrate,
}

/// The end that the database leaves.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Where it is. Absent: this cluster, this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// The PostgreSQL server.
    pub postgres: Postgres,
    /// Everything that writes to the database: stopped before it is fenced. Same namespace as the server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub writers: Vec<Writer>,
    /// How the database is closed to everyone while it is copied. Auto takes Swap wherever the admin may rename the database.
    #[serde(default)]
    pub fence: FenceMethod,
}

/// How the source database is closed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FenceMethod {
    /// Swap where allowed, Layered otherwise.
    #[default]
    Auto,
    /// Rename the database away and a refusing tombstone into its name. Binds superusers too.
    Swap,
    /// Lock the application's roles out. Does not bind superusers.
    Layered,
}

/// The end that the database goes to.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Where it is. Absent: this cluster, this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// The PostgreSQL server.
    pub postgres: Postgres,
    /// What applications dial. A login through it must reach the server above.
    pub endpoint: Endpoint,
    /// Indexes and constraints that the restore makes at the same time, each in a session of its own that may use
    /// maintenance_work_mem. More end the downtime sooner and take more of the server.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 64))]
    pub restore_jobs: u32,
    /// The application that will use the new database.
    #[serde(default)]
    pub application: Application,
}

fn two() -> u32 {
    2
}

/// A cluster and a namespace in it.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.__namespace__) || has(self.kubeconfigSecretRef)").message("cluster must name a namespace, a kubeconfigSecretRef, or both"))]
pub struct Cluster {
    /// Namespace there. Absent: the name of this object's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Secret with a kubeconfig: inline CA and token (or client certificate) and an https server only. Absent: this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_secret_ref: Option<SecretKeyRef>,
}

/// A key of a Secret in this object's namespace.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A Secret in this object's namespace.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How a PostgreSQL server is reached.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// Through exec into its pod, with the tools of its own container.
    pub exec: ExecPostgres,
}

/// A PostgreSQL pod.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.workloadRef) != has(self.labelSelector)").message("postgres.exec must have exactly one of workloadRef and labelSelector"))]
pub struct ExecPostgres {
    /// The workload that owns the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_ref: Option<WorkloadRef>,
    /// Labels of the pod, such as app=postgres. Exactly one running pod must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub label_selector: Option<String>,
    /// Container that holds the server and its tools. Absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Role that administers the server over its local socket. Absent: the container's POSTGRES_USER, else postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub admin_user: Option<String>,
}

/// A workload by name.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRef {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Name of the workload.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Kinds of workloads. All that will ever be frozen are listed; what is not supported yet is refused by the checks.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 StatefulSet.
    StatefulSet,
    /// apps/v1 ReplicaSet.
    ReplicaSet,
    /// batch/v1 CronJob.
    CronJob,
    /// apps/v1 DaemonSet (not supported yet).
    DaemonSet,
    /// batch/v1 Job (not supported yet).
    Job,
    /// v1 ReplicationController (not supported yet).
    ReplicationController,
    /// apps.openshift.io/v1 DeploymentConfig (not supported yet).
    DeploymentConfig,
    /// argoproj.io/v1alpha1 Rollout (not supported yet).
    Rollout,
}

/// Something that writes to the source database.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) != has(self.labelSelector)").message("a writer must have exactly one of name and labelSelector"))]
pub struct Writer {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Labels of the workloads themselves, such as app=celery-worker. At least one must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub label_selector: Option<String>,
}

/// Where the dump is kept.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// An S3 bucket that both sides' operator can reach.
    pub s3: S3,
    /// How long the dump is promised to stay, in days. Nothing is deleted before.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 3650))]
    pub retention_days: i32,
}

fn thirty() -> i32 {
    30
}

/// An S3 bucket.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('https://')").message("archive.s3.endpoint must begin with https://"))]
pub struct S3 {
    /// Name of the bucket. It must exist.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// Folder in the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub prefix: String,
    /// Address of a server other than AWS, such as https://minio.example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 512))]
    pub endpoint: Option<String>,
    /// Region.
    #[serde(default = "us_east_1")]
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// Bucket in the path, not in the host name: most servers other than AWS want it.
    #[serde(default)]
    pub force_path_style: bool,
    /// Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    pub credentials_secret_ref: SecretRef,
    /// CA bundle (PEM) of the endpoint. Absent: the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

fn us_east_1() -> String {
    "us-east-1".into()
}

/// One database to move.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.name in ['postgres', 'template0', 'template1']) && !(has(self.targetName) && self.targetName in ['postgres', 'template0', 'template1'])").message("databases postgres, template0 and template1 must not be moved or replaced"))]
pub struct Database {
    /// Its name on the source.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its name on the target. Absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub target_name: Option<String>,
    /// Single: everything in the new database belongs to the owner; grants are dropped.
    #[serde(default)]
    pub ownership: Ownership,
    /// Role that owns the new database. It must exist on the target.
    pub owner: Owner,
    /// What to do when the target already has a database of that name with tables in it.
    #[serde(default)]
    pub existing_target: ExistingTarget,
}

impl Database {
    /// The name that applications will use on the target.
    pub fn target_name(&self) -> &str {
        self.target_name.as_deref().unwrap_or(&self.name)
    }
}

/// Who owns what in the new database.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// One role owns everything; grants are not carried over.
    #[default]
    Single,
}

/// The owner of the new database.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Name of the role.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its password. The restore logs in with it, and so must the application.
    pub password_secret_ref: SecretKeyRef,
}

/// What happens to a target database that holds tables.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingTarget {
    /// Refuse to start.
    #[default]
    Refuse,
    /// Rename it away when the new one is published. It is never dropped.
    SetAside,
}

/// Address of the new server as applications dial it.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Host name, as pods of the application see it.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Port.
    #[serde(default = "pg_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

fn pg_port() -> i32 {
    5432
}

/// The application that will use the new database. All of it lives in the target's namespace.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Application {
    /// Settings that lead the application to the new database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub repoint: Vec<Repoint>,
    /// Jobs that bring the schema up to date before the application starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub schema_jobs: Vec<SchemaJob>,
    /// Workloads held at 0 from the freeze on, then started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub workloads: Vec<Workload>,
}

/// One setting to change: a key of a ConfigMap or Secret, or a literal environment variable of a workload.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.workloadRef) ? (has(self.container) && has(self.env) && !has(self.kind) && !has(self.name) && !has(self.key)) : (has(self.kind) && has(self.name) && has(self.key) && !has(self.container) && !has(self.env))").message("repoint must have exactly one of kind+name+key and workloadRef+container+env"))]
#[x_kube(validation = Rule::new("!self.template.contains('$(password)') || (has(self.kind) && self.kind == 'Secret')").message("$(password) must only be used for a key of a Secret"))]
pub struct Repoint {
    /// Kind of the object that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RepointKind>,
    /// Name of that object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Key in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
    /// Workload that holds the variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_ref: Option<WorkloadRef>,
    /// Its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// Name of the variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub env: Option<String>,
    /// The new value. $(host), $(port), $(database), $(user) and, in Secrets only, $(password) are filled in.
    #[schemars(length(max = 2048))]
    pub template: String,
}

/// Objects whose keys can be re-pointed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepointKind {
    /// v1 ConfigMap.
    ConfigMap,
    /// v1 Secret.
    Secret,
}

/// A job with the image and the environment of one container of a workload.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SchemaJob {
    /// A name for it, unique here.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The workload whose template is taken.
    pub workload_ref: WorkloadRef,
    /// The container in it. Absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,
    /// What to run, such as [alembic, upgrade, head].
    #[schemars(length(min = 1, max = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,
    /// How long it may take, in seconds.
    #[serde(default = "half_an_hour")]
    #[schemars(range(min = 10, max = 86400))]
    pub deadline_seconds: i64,
}

fn half_an_hour() -> i64 {
    1800
}

/// A workload of the application on the new side.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// How many to start. Absent: as many as there were; must be given when it stands at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
}
