//! The two kinds of ends of a transfer, opened: Postgres pods and buckets. Secrets are read here and nowhere else.

use super::error::MoverError;
use super::progress::Counters;
use crate::archive::{Bucket, BucketConfig};
use crate::kubernetes::clients;
use crate::kubernetes::exec::{self, Completed, Target};
use crate::kubernetes::pods::{PodIdentity, Presence, still_there};
use crate::kubernetes::psql::{PsqlCarrier, PsqlLogin};
use crate::kubernetes::secrets::{read_secret_key, read_secret_text};
use crate::plan::operation::{ArchiveEnd, BUCKET_ACCESS_KEY, BUCKET_SECRET_KEY, DatabaseEnd, OwnerLogin, Reason};
use crate::postgres::carrier::{Carrier as _, Session};
use crate::postgres::catalog;
use crate::postgres::tools::Login;
use crate::postgres::versions::Version;
use std::time::Duration;
use tokio::time::Instant;

/// How long a session may take to come up.
const CONNECT: Duration = Duration::from_secs(30);

/// How long a pod that is not ready, a cluster that does not answer or a server that takes no session is waited for: less
/// than a person's patience, more than a restart of any of them.
const PATIENCE: Duration = Duration::from_mins(2);

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// How long a tool may take to say its version.
const VERSION: Duration = Duration::from_mins(1);

/// Opens ends with the identity of the mover's pod, Secrets from one namespace.
#[derive(Clone)]
pub struct Opener {
    client: kube::Client,
    namespace: String,
    tag: String,
    counters: Counters,
}

impl Opener {
    /// Uses `client` for this cluster and for Secrets in `namespace`. `tag` marks the sessions that are ended as orphans when
    /// this mover is lost. What is waited for is told by `counters`.
    pub fn new(client: kube::Client, namespace: &str, tag: &str, counters: &Counters) -> Self {
        Self { client, namespace: namespace.to_owned(), tag: tag.to_owned(), counters: counters.clone() }
    }

    /// Opens a Postgres pod: reaches its cluster, and sees that it is the pod that was pinned.
    ///
    /// # Errors
    /// [`Reason::PodUnavailable`] for another or no pod, and the reasons of Secrets and clusters.
    pub async fn pod(&self, end: &DatabaseEnd) -> Result<PodEnd, MoverError> {
        let what = match self.await_presence(end).await? {
            (pod, Presence::Ready) => return Ok(pod),
            (_, Presence::NotReady(state)) => format!("is not ready: {state}"),
            (_, Presence::Gone) => "is gone".into(),
            (_, Presence::Replaced(uid)) => format!("is another one now (UID {uid}, expected {})", end.pod_uid),
        };
        Err(MoverError::new(Reason::PodUnavailable, format!("pod {}/{} {what}", end.namespace, end.pod)))
    }

    /// Looks until the pod is ready, gone or another one, or until patience is over.
    async fn await_presence(&self, end: &DatabaseEnd) -> Result<(PodEnd, Presence), MoverError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.look(end).await;
            let waits_for = match &seen {
                Ok((_, Presence::NotReady(state))) => format!("pod {}/{} is not ready: {state}", end.namespace, end.pod),
                Err(error) if error.reason == Reason::ClusterUnreachable => error.message.clone(),
                Ok(_) => {
                    self.counters.moved();
                    return seen;
                }
                Err(_) => return seen,
            };
            if Instant::now() > until {
                return seen;
            }
            self.counters.quiet(&waits_for, Some(until - Instant::now()));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Opens a Postgres pod; `None` when the pod that was pinned is no more, and with it all that ran there.
    ///
    /// # Errors
    /// As [`Opener::pod`], for a pod that is there but not ready.
    pub async fn pod_if_there(&self, end: &DatabaseEnd) -> Result<Option<PodEnd>, MoverError> {
        let (pod, presence) = self.await_presence(end).await?;
        match presence {
            Presence::Ready => Ok(Some(pod)),
            Presence::Gone | Presence::Replaced(_) => Ok(None),
            Presence::NotReady(state) => {
                Err(MoverError::new(Reason::PodUnavailable, format!("pod {}/{} is not ready: {state}", end.namespace, end.pod)))
            }
        }
    }

    async fn look(&self, end: &DatabaseEnd) -> Result<(PodEnd, Presence), MoverError> {
        let client = match &end.kubeconfig_secret {
            None => self.client.clone(),
            Some(secret) => {
                let text = read_secret_text(&self.client, &self.namespace, &secret.name, &secret.key).await?;
                clients::remote(&text)?.0
            }
        };
        let identity = PodIdentity {
            namespace: end.namespace.clone(),
            name: end.pod.clone(),
            uid: end.pod_uid.clone(),
            container: end.container.clone(),
            node: None,
        };
        let presence = still_there(&client, &identity).await?;
        let target = Target { namespace: end.namespace.clone(), pod: end.pod.clone(), container: end.container.clone() };
        Ok((PodEnd { client, target, end: end.clone(), tag: self.tag.clone(), counters: self.counters.clone() }, presence))
    }

    /// Opens a bucket.
    ///
    /// # Errors
    /// The reasons of Secrets; nothing is sent to the S3 server yet.
    pub async fn bucket(&self, end: &ArchiveEnd) -> Result<Bucket, MoverError> {
        let text = |key| read_secret_text(&self.client, &self.namespace, &end.credentials_secret, key);
        let ca_pem = match &end.ca_secret {
            None => None,
            Some(secret) => Some(read_secret_key(&self.client, &self.namespace, &secret.name, &secret.key).await?),
        };
        let config = BucketConfig {
            bucket: end.bucket.clone(),
            endpoint: end.endpoint.clone(),
            region: end.region.clone(),
            force_path_style: end.force_path_style,
            access_key: text(BUCKET_ACCESS_KEY).await?,
            secret_key: text(BUCKET_SECRET_KEY).await?,
            ca_pem,
        };
        Ok(Bucket::connect(&config)?)
    }

    /// The owner's password, as the line that scripts take; `None` where the socket asks for none.
    ///
    /// # Errors
    /// The reasons of Secrets; [`Reason::SecretMissing`] for a password that no password file can hold.
    pub async fn password_line(&self, owner: &OwnerLogin) -> Result<Option<bytes::Bytes>, MoverError> {
        let Some(secret) = &owner.password_secret else { return Ok(None) };
        let bytes = read_secret_key(&self.client, &self.namespace, &secret.name, &secret.key).await?;
        let place = format!("Secret {}/{} key {}", self.namespace, secret.name, secret.key);
        let unusable = |what: String| MoverError::new(Reason::SecretMissing, format!("{place}: {what}"));
        let text = String::from_utf8(bytes).map_err(|_| unusable("it is not text".into()))?;
        // Files turned into Secrets end in a line feed; other blanks may belong to the password.
        let password = text.trim_end_matches(['\n', '\r']);
        exec::passfile::line(password).map(Some).map_err(|e| unusable(e.message))
    }
}

/// A Postgres pod to work in.
#[derive(Clone)]
pub struct PodEnd {
    /// Client of its cluster.
    pub client: kube::Client,
    /// Its container.
    pub target: Target,
    /// What the document says about it.
    pub end: DatabaseEnd,
    tag: String,
    counters: Counters,
}

impl PodEnd {
    /// Opens a session of the administrator in `database`, marked to be ended with this mover.
    ///
    /// # Errors
    /// [`Reason::LoginRefused`], [`Reason::DatabaseUnavailable`], [`Reason::QueryFailed`].
    pub async fn session(&self, database: &str) -> Result<Box<dyn Session>, MoverError> {
        self.session_tagged(database, &self.tag).await
    }

    /// Opens a session under another `application_name`.
    ///
    /// # Errors
    /// [`Reason::LoginRefused`], [`Reason::DatabaseUnavailable`], [`Reason::QueryFailed`].
    pub async fn session_tagged(&self, database: &str, tag: &str) -> Result<Box<dyn Session>, MoverError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.session_now(database, tag, CONNECT).await {
                Err(error) if Instant::now() < until => self.counters.quiet(&error.message, Some(until - Instant::now())),
                Err(error) => return Err(error),
                Ok(session) => {
                    self.counters.moved();
                    return Ok(session);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Opens a session at the first try, within `deadline`.
    ///
    /// # Errors
    /// As [`Self::session`].
    pub async fn session_now(&self, database: &str, tag: &str, deadline: Duration) -> Result<Box<dyn Session>, MoverError> {
        let carrier = PsqlCarrier::new(self.client.clone(), self.target.clone(), PsqlLogin::new(&self.end.admin_user, tag));
        let of = |error| MoverError::from(error).of(&format!("database {database:?} in {}", self.target));
        carrier.connect(database, deadline).await.map_err(of)
    }

    /// Opens a session in the end's database and sees that the server is the one that was pinned.
    ///
    /// # Errors
    /// [`Reason::ServerReplaced`], and the reasons of sessions.
    pub async fn checked_session(&self) -> Result<(Box<dyn Session>, catalog::Server), MoverError> {
        let mut session = self.session(&self.end.database).await?;
        let server = catalog::server(session.as_mut()).await?;
        if server.system_identifier == self.end.system_identifier {
            return Ok((session, server));
        }
        Err(MoverError::new(
            Reason::ServerReplaced,
            format!(
                "the server in {} has system identifier {}, expected {}",
                self.target, server.system_identifier, self.end.system_identifier
            ),
        ))
    }

    /// How a tool logs in as the administrator.
    pub fn admin_login<'a>(&'a self, database: &'a str, settings: &'a [&'a str]) -> Login<'a> {
        Login { database, user: &self.end.admin_user, tag: &self.tag, settings }
    }

    /// Runs a short command; a status other than 0 is an error with `reason`.
    ///
    /// # Errors
    /// `reason`, [`Reason::ToolMissing`], and the reasons of exec.
    pub async fn run(&self, argv: &[String], stdin: &[u8], deadline: Duration, reason: Reason) -> Result<Completed, MoverError> {
        let what = format!("{} in {}", argv.first().map_or("", String::as_str), self.target);
        let done = exec::run(&self.client, &self.target, argv, stdin, deadline, 1 << 20).await;
        let done = done.map_err(|e| MoverError::from(e).of(&what))?;
        match done.exit_code {
            0 => Ok(done),
            code => {
                let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                let reason = if matches!(code, 126 | 127) { Reason::ToolMissing } else { reason };
                Err(MoverError::new(reason, format!("{what} ended with status {code}: {said}")))
            }
        }
    }

    /// The version of a client tool, and the line that it printed.
    ///
    /// # Errors
    /// [`Reason::ToolMissing`], and the reasons of exec.
    pub async fn tool_version(&self, tool: &str) -> Result<(Version, String), MoverError> {
        let argv = [tool.to_owned(), "--version".to_owned()];
        let done = self.run(&argv, &[], VERSION, Reason::ToolMissing).await?;
        let line = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        let missing = || MoverError::new(Reason::ToolMissing, format!("{tool} in {} says no version: {line:?}", self.target));
        Version::from_tool(&line).ok_or_else(missing).map(|v| (v, line.clone()))
    }
}
