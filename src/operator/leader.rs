//! Leadership: one operator works at a time, held by a Lease in the operator's namespace.
//!
//! The holder renews the lease and counts it as lost, by its own monotonic clock, before anybody else may take it. Others
//! take it when they have not seen it change for its whole duration, also by their own clock: clocks of nodes are never
//! compared. Every write carries the resource version that was read, so of two takers one is refused.
//!
//! A lease does not reach into pods: what an earlier holder started there is found and ended by the steps.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Name of the Lease. The operator's Role names it.
pub const LEASE: &str = "postgres-migration-operator";

/// How long others leave an unrenewed lease alone.
const DURATION: Duration = Duration::from_secs(15);
/// After so long without a renewal the holder has lost it: early enough to end before [`DURATION`] is over.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two looks, or two renewals.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long giving it back may take at most. Others then wait for its expiry.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The lease could not be renewed in time, or somebody else holds it: this process must end.
#[derive(Debug, thiserror::Error)]
#[error("leadership lost: {reason}")]
pub struct Lost {
    reason: String,
}

/// The held lease.
pub struct Leader {
    api: Api<Lease>,
    identity: String,
    lease: Lease,
    renewed: Instant,
}

/// What one look at the lease led to.
enum Look {
    /// It is ours since the moment given.
    Ours(Box<Lease>, Instant),
    /// Somebody holds it: this version of it was seen.
    Theirs(Option<String>, Duration),
}

impl Leader {
    /// Waits until the lease in `namespace` is free and takes it as `identity`, which must be unique among live processes:
    /// a process that finds its own name in it (a container that was restarted in its pod) goes on with it.
    pub async fn acquire(client: Client, namespace: &str, identity: &str) -> Self {
        let api = Api::<Lease>::namespaced(client, namespace);
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match timeout(DEADLINE, look(&api, identity, seen.as_ref())).await {
                Ok(Ok(Look::Ours(lease, renewed))) => {
                    tracing::info!(identity, "holding the lease");
                    return Self { api, identity: identity.into(), lease: *lease, renewed };
                }
                Ok(Ok(Look::Theirs(version, _))) if seen.as_ref().is_some_and(|(last, _)| *last == version) => {}
                Ok(Ok(Look::Theirs(version, wait))) => {
                    if seen.is_none() {
                        tracing::info!(identity, expires_in_seconds = wait.as_secs(), "waiting for the lease");
                    }
                    seen = Some((version, Instant::now()));
                }
                // Somebody was quicker: look again.
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {}
                Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot take the lease yet"),
                Err(_) => tracing::warn!("cannot take the lease yet: the API server does not answer"),
            }
            sleep(INTERVAL).await;
        }
    }

    /// Renews the lease for ever; returns when it is lost. Whoever drops this future before must not go on working.
    pub async fn keep(&mut self) -> Lost {
        let mut last_error = String::from("the API server does not answer");
        loop {
            sleep(INTERVAL).await;
            let begun = Instant::now();
            match timeout_at(self.renewed + DEADLINE, self.renew()).await {
                Ok(Ok(lease)) => {
                    self.lease = lease;
                    self.renewed = begun;
                }
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {
                    // Our own write may have arrived although its answer did not: only the lease itself knows the holder.
                    match timeout_at(self.renewed + DEADLINE, self.api.get_opt(LEASE)).await {
                        Ok(Ok(Some(lease))) if holder(&lease) == Some(&self.identity) => self.lease = lease,
                        Ok(Ok(_)) => return Lost { reason: "somebody else holds the lease, or it was deleted".into() },
                        Ok(Err(error)) => last_error = error.to_string(),
                        Err(_) => {}
                    }
                }
                Ok(Err(error)) => last_error = error.to_string(),
                Err(_) => {}
            }
            if self.renewed.elapsed() + INTERVAL >= DEADLINE {
                return Lost { reason: format!("no renewal for {} s: {last_error}", self.renewed.elapsed().as_secs()) };
            }
        }
    }

    async fn renew(&self) -> kube::Result<Lease> {
        let mut lease = self.lease.clone();
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        self.api.replace(LEASE, &PostParams::default(), &lease).await
    }

    /// Gives the lease back, so that the next holder need not wait. When that fails, it expires by itself.
    pub async fn release(self) {
        let mut lease = self.lease;
        lease.spec.get_or_insert_default().holder_identity = None;
        match timeout(RELEASE_TIMEOUT, self.api.replace(LEASE, &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => tracing::info!("lease given back"),
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "lease left to expire"),
            Err(_) => tracing::warn!("lease left to expire: the API server does not answer"),
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

/// Takes the lease when it is absent, free, ours, or unchanged since `seen` for its whole duration.
async fn look(api: &Api<Lease>, identity: &str, seen: Option<&(Option<String>, Instant)>) -> kube::Result<Look> {
    let now = Instant::now();
    let Some(found) = api.get_opt(LEASE).await? else {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(LEASE.into()), ..ObjectMeta::default() },
            spec: Some(taken(None, identity)),
        };
        return Ok(Look::Ours(Box::new(api.create(&PostParams::default(), &lease).await?), now));
    };
    let duration = found.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    let duration = duration.map_or(DURATION, Duration::from_secs);
    let version = found.metadata.resource_version.clone();
    let expired = seen.is_some_and(|(last, since)| *last == version && since.elapsed() >= duration);
    if expired || holder(&found).is_none_or(|holder| holder == identity) {
        let lease = Lease { spec: Some(taken(found.spec.as_ref(), identity)), ..found };
        Ok(Look::Ours(Box::new(api.replace(LEASE, &PostParams::default(), &lease).await?), now))
    } else {
        Ok(Look::Theirs(version, duration))
    }
}

/// The lease as `identity` holds it from now on.
fn taken(before: Option<&LeaseSpec>, identity: &str) -> LeaseSpec {
    let now = Timestamp::now();
    LeaseSpec {
        holder_identity: Some(identity.into()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(before.and_then(|spec| spec.lease_transitions).unwrap_or(0).saturating_add(1)),
        ..LeaseSpec::default()
    }
}
