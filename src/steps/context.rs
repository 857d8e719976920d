//! What a step works with: the object, its status, and clients that act as the object's service account.
//!
//! Nothing that a spec names is ever reached with the operator's own rights: this room hands out impersonated clients and
//! clients of the author's kubeconfig only. The operator's own client serves mover Jobs, and reads the object and its service
//! account.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, Client, ResourceExt};

use crate::api::conditions::reasons;
use crate::api::names::{ALLOW_ANNOTATION, Names};
use crate::api::{
    Database, Finding, PinnedEnd, PostgresMigration, PostgresMigrationSpec, PostgresMigrationStatus, Side, StepName,
};
use crate::archive::{ArchiveError, Bucket, BucketConfig, ErrorKind};
use crate::kubernetes::clients::{self, ClientError};
use crate::kubernetes::errors::{self, Error as KubernetesError, Kind, Request};
use crate::kubernetes::exec::{self as process, ExecError, ExecErrorKind, Target};
use crate::kubernetes::labels::MigrationId;
use crate::kubernetes::psql::{PsqlCarrier, PsqlLogin};
use crate::kubernetes::secrets::{self, SecretError};
use crate::plan::Failure;
use crate::plan::checks::{LIMIT, Place};
use crate::plan::operation::{ArchiveEnd, DatabaseEnd, SecretKey};
use crate::plan::record;
use crate::postgres::carrier::{Carrier, Session, SqlError, SqlErrorKind};
use crate::postgres::tools::scripts;

/// Deadline of one short question to a server or one short exec.
pub const SHORT: Duration = Duration::from_secs(20);

/// What the steps need of the installation.
#[derive(Clone)]
pub struct Installation {
    /// Client with the operator's own rights: for mover Jobs, the object and its service account.
    pub client: Client,
    /// Base of impersonating clients.
    pub config: kube::Config,
    /// Image of mover Jobs.
    pub image: String,
    /// The operator's own namespace: its service accounts are refused.
    pub namespace: String,
}

/// One visit's view of one object.
pub struct Context<'a> {
    /// The installation.
    pub installation: &'a Installation,
    /// The object as it was read.
    pub object: &'a PostgresMigration,
    /// Its status: steps write facts into it, the operator persists them after the call.
    pub status: &'a mut PostgresMigrationStatus,
    /// The time of this visit.
    pub now: Timestamp,
    /// Names derived from the object.
    pub names: Names,
    author: Option<Client>,
    source: Option<Client>,
    target: Option<Client>,
}

impl<'a> Context<'a> {
    /// A fresh view; no client is made before it is needed.
    pub fn new(
        installation: &'a Installation,
        object: &'a PostgresMigration,
        status: &'a mut PostgresMigrationStatus,
        now: Timestamp,
    ) -> Self {
        Self { installation, object, status, now, names: Names::of(object), author: None, source: None, target: None }
    }

    /// The spec.
    pub fn spec(&self) -> &'a PostgresMigrationSpec {
        &self.object.spec
    }

    /// Namespace of the object.
    pub fn home(&self) -> String {
        self.object.namespace().unwrap_or_default()
    }

    /// The database that moves. The schema promises one.
    pub fn database(&self) -> &'a Database {
        &self.object.spec.databases[0]
    }

    /// Number of the attempt at `step`, unique over all runs.
    pub fn attempt(&self, step: StepName) -> i64 {
        record::attempt(self.status, step)
    }

    /// Failures in a row of what is being done about `step`.
    pub fn failures(&self, step: StepName) -> i64 {
        self.status.steps.iter().find(|s| s.name == step).map_or(0, |s| s.failures)
    }

    /// Seconds since the undo began; 0 when there is none.
    pub fn undoing_for(&self) -> i64 {
        let begun = self.status.undo.as_ref().and_then(|u| u.start_time.as_ref());
        begun.map_or(0, |t| self.now.as_second() - t.0.as_second())
    }

    /// The object, as labels of what belongs to it name it.
    pub fn migration(&self) -> MigrationId {
        MigrationId { name: self.object.name_any(), uid: self.names.uid().into() }
    }

    /// Makes sure that nobody has recorded anything since this visit read the object: then what it is about to do is still what
    /// is due, whoever leads. Asked right before an effect; in databases, once nobody else can act there (decision 0017).
    pub async fn unsurpassed(&self) -> Result<(), Failure> {
        let (home, name) = (self.home(), self.object.name_any());
        let objects = Api::<PostgresMigration>::namespaced(self.installation.client.clone(), &home);
        let request = Request::new("get", "postgresmigrations.pgmigration.dev", &home, &name);
        // Whatever the answer is, the next visit begins with the same question.
        let unread = |e: KubernetesError| Failure::transient(kubernetes(&e).reason, format!("{e} (this cluster)"));
        let live = errors::ask(request, objects.get(&name)).await.map_err(unread)?;
        if live.uid() == self.object.uid() && live.status == self.object.status {
            return Ok(());
        }
        let why = "the status was changed while this operator was at work: another one has taken over, and this one stops here";
        Err(Failure::transient(reasons::TRANSIENT, why))
    }

    /// Client of this cluster that acts as the object's service account.
    pub async fn author(&mut self) -> Result<Client, Failure> {
        if let Some(client) = &self.author {
            return Ok(client.clone());
        }
        let (home, name) = (self.home(), &self.object.spec.service_account_name);
        let refused = |why: &str| {
            Failure::needs_human(
                reasons::SERVICE_ACCOUNT_NOT_ALLOWED,
                format!("spec.serviceAccountName: ServiceAccount {home}/{name} of this cluster {why}"),
            )
        };
        if home.starts_with("kube-") || home.starts_with("openshift-") || home == self.installation.namespace {
            return Err(refused("is in a namespace of the system or of the operator, which migrations may not use"));
        }
        let account = Api::<ServiceAccount>::namespaced(self.installation.client.clone(), &home)
            .get_opt(name)
            .await
            .map_err(|e| {
                let e = KubernetesError::from_kube(&e, Request::new("get", "serviceaccounts", &home, name));
                match e.kind() {
                    Kind::Forbidden => {
                        refused("is not one that the operator may act as: grant it with config/migration/account.yaml")
                    }
                    _ => kubernetes(&e),
                }
            })?
            .ok_or_else(|| refused("does not exist: create it, with the annotation pgmigration.dev/allow: \"true\""))?;
        if account.annotations().get(ALLOW_ANNOTATION).map(String::as_str) != Some("true") {
            return Err(refused("lacks the annotation pgmigration.dev/allow: \"true\", which allows migrations to act as it"));
        }
        let client = clients::impersonated(&self.installation.config, &home, name).map_err(|e| client_failure(&e))?;
        Ok(self.author.insert(client).clone())
    }

    /// Client of the cluster of `side`.
    pub async fn cluster(&mut self, side: Side) -> Result<Client, Failure> {
        let cached = match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        };
        if let Some(client) = cached {
            return Ok(client.clone());
        }
        let author = self.author().await?;
        let client = match self.kubeconfig(side) {
            None => author,
            Some(secret) => {
                let path = format!("{}.cluster.kubeconfigSecretRef", path(side));
                let text = self.secret(&secret.name, &secret.key, &path).await?;
                clients::remote(&text)
                    .map_err(|e| {
                        let mut f = client_failure(&e);
                        f.message = format!(
                            "{path}: the kubeconfig in Secret {}/{} key {}: {}",
                            self.home(),
                            secret.name,
                            secret.key,
                            f.message
                        );
                        f
                    })?
                    .0
            }
        };
        match side {
            Side::Source => self.source = Some(client.clone()),
            Side::Target => self.target = Some(client.clone()),
        }
        Ok(client)
    }

    /// A value of a Secret in the object's namespace, read as the object's service account. `path` names it in the spec.
    pub async fn secret(&mut self, name: &str, key: &str, path: &str) -> Result<String, Failure> {
        let author = self.author().await?;
        secrets::read_secret_text(&author, &self.home(), name, key).await.map_err(|e| {
            let message = format!("{path}: {e} (this cluster)");
            match e {
                SecretError::SecretAbsent { .. } | SecretError::KeyAbsent { .. } | SecretError::NotText { .. } => {
                    Failure::needs_human(reasons::SECRET_NOT_FOUND, message)
                }
                SecretError::Forbidden { .. } => Failure::needs_human(reasons::MISSING_PERMISSION, message),
                SecretError::Api(e) => Failure { message, ..kubernetes(&e) },
            }
        })
    }

    fn kubeconfig(&self, side: Side) -> Option<SecretKey> {
        let cluster = match side {
            Side::Source => &self.object.spec.source.cluster,
            Side::Target => &self.object.spec.target.cluster,
        };
        let r = cluster.as_ref()?.kubeconfig_secret_ref.as_ref()?;
        Some(SecretKey { name: r.name.clone(), key: r.key.clone() })
    }

    /// Namespace of `side` in its cluster.
    pub fn namespace(&self, side: Side) -> String {
        let cluster = match side {
            Side::Source => &self.object.spec.source.cluster,
            Side::Target => &self.object.spec.target.cluster,
        };
        cluster.as_ref().and_then(|c| c.namespace.clone()).unwrap_or_else(|| self.home())
    }

    /// The cluster of `side` in words.
    pub fn cluster_words(&self, side: Side) -> String {
        self.kubeconfig(side).map_or_else(|| "this cluster".into(), |s| format!("the cluster of Secret {}", s.name))
    }

    /// Whether both sides are in one cluster and namespace, so that workloads may be the same.
    pub fn one_place(&self) -> bool {
        self.kubeconfig(Side::Source) == self.kubeconfig(Side::Target)
            && self.namespace(Side::Source) == self.namespace(Side::Target)
    }

    /// What `side` was when the run began.
    pub fn pinned(&self, side: Side) -> Result<PinnedEnd, Failure> {
        let pinned = self.status.pinned.as_ref().ok_or_else(|| lost("what both ends were"))?;
        Ok(match side {
            Side::Source => pinned.source.clone(),
            Side::Target => pinned.target.clone(),
        })
    }

    /// Where `side` is, once that was written down.
    pub fn place(&self, side: Side) -> Option<Place> {
        let end = self.pinned(side).ok()?;
        Some(Place { side, cluster: self.cluster_words(side), namespace: end.namespace, pod: end.pod })
    }

    /// An object in the namespace of `side`, in words: `Deployment onyx/api of this cluster`.
    pub fn object_words(&self, side: Side, kind: &str, name: &str) -> String {
        format!("{kind} {}/{name} of {}", self.namespace(side), self.cluster_words(side))
    }

    /// A failure of the Kubernetes API of `side` in words.
    pub fn api(&self, side: Side, e: &KubernetesError) -> Failure {
        let failure = kubernetes(e);
        Failure { message: format!("{}: {} ({})", path(side), failure.message, self.cluster_words(side)), ..failure }
    }

    /// A failure of a step, with its server named.
    pub fn placed(&self, failure: Failure) -> Failure {
        [Side::Source, Side::Target].into_iter().filter_map(|side| self.place(side)).fold(failure, |f, place| at(&place, f))
    }

    /// Tells the author something that stops nothing.
    pub fn warn(&mut self, reason: &str, path: &str, message: &str) {
        let warnings = &mut self.status.warnings;
        if warnings.len() < LIMIT {
            warnings.push(Finding { reason: reason.into(), path: path.into(), message: record::bounded(message) });
        }
    }

    /// The container of `side`'s server.
    pub fn exec_target(end: &PinnedEnd) -> Target {
        Target { namespace: end.namespace.clone(), pod: end.pod.clone(), container: end.container.clone() }
    }

    /// SQL to the server of `side`, through psql in its own container.
    pub async fn carrier(&mut self, side: Side, what: &str) -> Result<PsqlCarrier, Failure> {
        let end = self.pinned(side)?;
        let client = self.cluster(side).await?;
        Ok(PsqlCarrier::new(client, Self::exec_target(&end), PsqlLogin::new(&end.admin_user, &self.names.application(what))))
    }

    /// Ends processes of movers in the container of `side` and removes their files, as far as that can be: their sessions have
    /// ended before, so what is left can do no harm, and nothing waits for it.
    pub async fn sweep(&mut self, side: Side) -> Result<(), Failure> {
        let target = Self::exec_target(&self.pinned(side)?);
        let client = self.cluster(side).await?;
        let swept = process::run(&client, &target, &scripts::sweep(self.names.uid()), &[], SHORT, 4096).await;
        match swept {
            Ok(done) if done.stdout.trim_ascii() == b"0" => {}
            Ok(done) => tracing::warn!(%target, ?done, "something that movers left may still be there"),
            Err(error) => tracing::warn!(%target, %error, "what movers left is not swept"),
        }
        Ok(())
    }

    /// A session in `database` of the server of `side`, which is the one that the run began with.
    pub async fn session(&mut self, side: Side, database: &str, what: &str) -> Result<Box<dyn Session>, Failure> {
        let carrier = self.carrier(side, what).await?;
        carrier.connect(database, SHORT).await.map_err(|e| sql(side, &e))
    }

    /// A database of `side`, as movers are told.
    pub fn database_end(&self, side: Side, database: &str) -> Result<DatabaseEnd, Failure> {
        let end = self.pinned(side)?;
        Ok(DatabaseEnd {
            kubeconfig_secret: self.kubeconfig(side),
            namespace: end.namespace,
            pod: end.pod,
            pod_uid: end.pod_uid,
            container: end.container,
            admin_user: end.admin_user,
            system_identifier: end.system_identifier,
            database: database.into(),
        })
    }

    /// The archive, as movers are told.
    pub fn archive_end(&self, key: &str) -> ArchiveEnd {
        let s3 = &self.object.spec.archive.s3;
        ArchiveEnd {
            bucket: s3.bucket.clone(),
            endpoint: s3.endpoint.clone(),
            region: s3.region.clone(),
            force_path_style: s3.force_path_style,
            credentials_secret: s3.credentials_secret_ref.name.clone(),
            ca_secret: s3.ca_secret_ref.as_ref().map(|r| SecretKey { name: r.name.clone(), key: r.key.clone() }),
            prefix: self.run_prefix(),
            key: key.into(),
        }
    }

    /// Folder of this object in the bucket.
    pub fn run_prefix(&self) -> String {
        crate::archive::keys::run_prefix(
            &self.object.spec.archive.s3.prefix,
            &self.home(),
            &self.object.name_any(),
            self.names.uid(),
        )
    }

    /// The bucket, with the author's credentials.
    pub async fn bucket(&mut self) -> Result<Bucket, Failure> {
        let s3 = &self.object.spec.archive.s3;
        let path = "spec.archive.s3.credentialsSecretRef";
        let name = &s3.credentials_secret_ref.name;
        let access_key = self.secret(name, crate::api::names::ACCESS_KEY, path).await?;
        let secret_key = self.secret(name, crate::api::names::SECRET_KEY, path).await?;
        let ca = match &s3.ca_secret_ref {
            Some(r) => Some(self.secret(&r.name, &r.key, "spec.archive.s3.caSecretRef").await?),
            None => None,
        };
        Bucket::connect(&BucketConfig {
            bucket: s3.bucket.clone(),
            endpoint: s3.endpoint.clone(),
            region: s3.region.clone(),
            force_path_style: s3.force_path_style,
            access_key,
            secret_key,
            ca_pem: ca.map(String::into_bytes),
        })
        .map_err(|e| archive(&e))
    }
}

/// `spec.source` or `spec.target`.
pub fn path(side: Side) -> &'static str {
    match side {
        Side::Source => "spec.source",
        Side::Target => "spec.target",
    }
}

/// The status lacks what an earlier step wrote into it: nothing can be concluded, and nothing must be guessed.
pub fn lost(what: &str) -> Failure {
    Failure::terminal(reasons::STATUS_LOST, format!("the status does not tell {what}: it was changed or restored by somebody"))
}

/// The failure, with its server named where it speaks of one only by its place in the spec.
pub fn at(place: &Place, failure: Failure) -> Failure {
    let (path, rest) = failure.message.split_once(": ").unwrap_or_default();
    let speaks = path == place.path() || path == place.below("postgres.exec");
    if !speaks || rest.contains(&place.cluster) {
        return failure;
    }
    let message = format!("{path}: {}: {rest}", place.server());
    Failure { message, ..failure }
}

/// A failure of the Kubernetes API in words.
pub fn kubernetes(e: &KubernetesError) -> Failure {
    let message = e.to_string();
    match e.kind() {
        Kind::NotFound => Failure::needs_human(reasons::OBJECT_NOT_FOUND, message),
        Kind::Forbidden => Failure::needs_human(reasons::MISSING_PERMISSION, message),
        Kind::Unauthorized => Failure::needs_human(reasons::CLUSTER_UNAUTHORIZED, message),
        Kind::Unreachable => Failure::transient(reasons::CLUSTER_UNREACHABLE, message),
        Kind::Conflict | Kind::AlreadyExists | Kind::Transient => Failure::transient(reasons::TRANSIENT, message),
        Kind::Invalid | Kind::Other => Failure::needs_human(reasons::REQUEST_REFUSED, message),
    }
}

/// A failure to make a client in words.
pub fn client_failure(e: &ClientError) -> Failure {
    let message = e.to_string();
    match e {
        ClientError::Refused(_) => Failure::needs_human(reasons::KUBECONFIG_REFUSED, message),
        ClientError::Expired(_) | ClientError::Unauthorized { .. } => {
            Failure::needs_human(reasons::CLUSTER_UNAUTHORIZED, message)
        }
        ClientError::Unreachable { .. } => Failure::transient(reasons::CLUSTER_UNREACHABLE, message),
    }
}

/// A failure of SQL in words.
pub fn sql(side: Side, e: &SqlError) -> Failure {
    // The server's own words name a file and some bytes (disk_full, PostgreSQL's manual, appendix A).
    let full = e.is("53100");
    let why = if full { ": the volume of its data is full, make room" } else { "" };
    let message = format!("{}: {e}{why}", path(side));
    match e.kind {
        // It worked before, so it may again: rules that are being rewritten, a directory of passwords that is away.
        SqlErrorKind::Connect if e.is_login_refused() => Failure::transient(reasons::ADMIN_LOGIN_FAILED, message),
        SqlErrorKind::Connect if e.is_unavailable() => Failure::transient(reasons::SERVER_UNAVAILABLE, message),
        SqlErrorKind::Connect if e.is("3D000") => Failure::needs_human(reasons::DATABASE_NOT_FOUND, message),
        SqlErrorKind::Connect | SqlErrorKind::Deadline | SqlErrorKind::Protocol => {
            Failure::transient(reasons::QUERY_FAILED, message)
        }
        SqlErrorKind::Statement if e.may_pass() => Failure::transient(reasons::QUERY_FAILED, message),
        SqlErrorKind::Statement => Failure::needs_human(reasons::QUERY_FAILED, message),
    }
}

/// A failure of the bucket in words.
pub fn archive(e: &ArchiveError) -> Failure {
    let message = format!("spec.archive.s3: {e}");
    match e.kind {
        ErrorKind::BucketAbsent => Failure::needs_human(reasons::BUCKET_NOT_FOUND, message),
        ErrorKind::Forbidden => Failure::needs_human(reasons::BUCKET_FORBIDDEN, message),
        ErrorKind::Unreachable => Failure::transient(reasons::BUCKET_UNREACHABLE, message),
        ErrorKind::Transient => Failure::transient(reasons::TRANSIENT, message),
        ErrorKind::Misconfigured => Failure::needs_human(reasons::SPEC_INVALID, message),
        ErrorKind::TooLarge => Failure::terminal(reasons::ARCHIVE_TOO_LARGE, message),
        ErrorKind::PreconditionFailed | ErrorKind::NotFound | ErrorKind::Mismatch => {
            Failure::needs_human(reasons::ARCHIVE_DAMAGED, message)
        }
        ErrorKind::Other => Failure::needs_human(reasons::REQUEST_REFUSED, message),
    }
}

/// A failure of exec in words.
pub fn exec(side: Side, e: &ExecError) -> Failure {
    let message = format!("{}.postgres.exec: {e}", path(side));
    match e.kind {
        ExecErrorKind::Unauthorized => Failure::needs_human(reasons::CLUSTER_UNAUTHORIZED, message),
        ExecErrorKind::Forbidden => Failure::needs_human(reasons::MISSING_PERMISSION, message),
        ExecErrorKind::NotFound => Failure::needs_human(reasons::POD_NOT_READY, message),
        ExecErrorKind::Connect => Failure::transient(reasons::CLUSTER_UNREACHABLE, message),
        ExecErrorKind::Refused
        | ExecErrorKind::Protocol
        | ExecErrorKind::Runtime
        | ExecErrorKind::Cut
        | ExecErrorKind::Deadline => Failure::transient(reasons::TRANSIENT, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::failure::Class;

    #[test]
    fn a_server_whose_volume_is_full_says_so() {
        let failure = |code: &str| {
            let words = "could not extend file \"base/1/2\": wrote only 4096 of 8192 bytes at block 13";
            let sqlstate = Some(code.to_owned());
            sql(Side::Target, &SqlError { sqlstate, ..SqlError::new(SqlErrorKind::Statement, words) })
        };
        let full = failure("53100");
        assert!(full.message.contains("at block 13") && full.message.ends_with("is full, make room"), "{}", full.message);
        assert_eq!(full.class, Class::NeedsHuman);
        // Out of memory.
        assert!(failure("53200").class == Class::Transient && !failure("53200").message.contains("full"));
    }

    #[test]
    fn without_a_session_it_is_tried_again_whatever_the_reason() {
        let of = |sqlstate: Option<&str>, words: &str| {
            let sqlstate = sqlstate.map(str::to_owned);
            let failure = sql(Side::Source, &SqlError { sqlstate, ..SqlError::new(SqlErrorKind::Connect, words) });
            (failure.reason, failure.class)
        };
        let passes = |reason| (reason, Class::Transient);
        assert_eq!(of(None, "FATAL:  Peer authentication failed for user \"a\""), passes(reasons::ADMIN_LOGIN_FAILED));
        assert_eq!(of(Some("28P01"), "no"), passes(reasons::ADMIN_LOGIN_FAILED));
        assert_eq!(of(None, "FATAL:  the database system is starting up"), passes(reasons::SERVER_UNAVAILABLE));
        assert_eq!(of(Some("57P01"), "no"), passes(reasons::SERVER_UNAVAILABLE));
        assert_eq!(of(None, "psql: exec in pod a/b was cut"), passes(reasons::QUERY_FAILED));
        assert_eq!(of(Some("3D000"), "no"), (reasons::DATABASE_NOT_FOUND, Class::NeedsHuman));
    }

    #[test]
    fn a_failure_of_a_server_names_it_once() {
        let place = Place { side: Side::Source, cluster: "the old cluster".into(), namespace: "old".into(), pod: "pg-0".into() };
        let said = |message: &str| at(&place, Failure::transient(reasons::QUERY_FAILED, message)).message;
        let once = said("spec.source: no answer");
        assert_eq!(once, "spec.source: the source server (pod old/pg-0 of the old cluster): no answer");
        assert_eq!(said(&once), once);
        assert_eq!(said("spec.source.postgres.exec: cut").matches("pod old/pg-0 of the old cluster").count(), 1);
        for other in ["spec.target: no answer", "spec.source.fence: no", "Job a/b failed: no", "no colon"] {
            assert_eq!(said(other), other);
        }
    }
}
