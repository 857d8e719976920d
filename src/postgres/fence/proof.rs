//! What the fence cannot hold by itself, and what proves that it is tight.
//!
//! Here: subscriptions, standbys, the evidence. Not here: raising and lifting.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{Fence, FenceOriginals, FenceState};
use crate::postgres::admin::AdminSessions;
use crate::postgres::carrier::{Session, SqlError, quote_identifier};
use crate::postgres::catalog::{self, ForeignSession};
use crate::postgres::swap::{Patience, SwapError};

/// What proves that the fence is tight, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceEvidence {
    /// Where the fence stands.
    pub state: FenceState,
    /// Sessions in the fenced database that are not ours. At most 100.
    pub foreign_sessions: Vec<ForeignSession>,
    /// Subscriptions of it that are enabled or have a worker.
    pub live_subscriptions: Vec<String>,
    /// Prepared transactions in it.
    pub prepared_transactions: u64,
    /// The server cluster.
    pub system_identifier: String,
    /// Its timeline.
    pub timeline: u32,
    /// The server replays another one's writes.
    pub in_recovery: bool,
}

impl FenceEvidence {
    /// What is wrong, one sentence each. Empty: the fence is tight.
    pub fn leaks(&self, originals: &FenceOriginals) -> Vec<String> {
        let mut leaks = Vec::new();
        match &self.state {
            FenceState::Fenced { tombstone } if tombstone.is_intact() => {}
            FenceState::Fenced { tombstone } if tombstone.closed => {
                leaks.push(format!("the tombstone has had {} sessions", tombstone.sessions));
            }
            FenceState::Fenced { .. } => leaks.push("the tombstone accepts connections".into()),
            FenceState::Uncovered => leaks.push("the tombstone was dropped: the database's name is free".into()),
            FenceState::Open { .. } | FenceState::Refusing { .. } | FenceState::Lifting { .. } => {
                leaks.push("the fence is not up".into());
            }
            FenceState::Foreign { found } => leaks.push(found.clone()),
        }
        for session in &self.foreign_sessions {
            leaks.push(format!(
                "pid {} (role {:?}, application {:?}) is connected to the fenced database",
                session.pid,
                session.user.as_deref().unwrap_or_default(),
                session.application_name.as_deref().unwrap_or_default()
            ));
        }
        for name in &self.live_subscriptions {
            leaks.push(format!("subscription {name:?} is not at rest"));
        }
        if self.prepared_transactions > 0 {
            leaks.push(format!("{} prepared transactions are in the fenced database", self.prepared_transactions));
        }
        if self.system_identifier != originals.system_identifier {
            leaks.push("this is another server cluster than the one that was fenced".into());
        }
        if self.timeline != originals.timeline || self.in_recovery {
            leaks.push("the server's timeline changed: a standby was promoted".into());
        }
        leaks
    }

    /// Whether what is wrong may pass by itself: nothing but sessions, which end. Everything else was done by somebody, and
    /// counts even when it is taken back.
    pub fn may_pass(&self, originals: &FenceOriginals) -> bool {
        Self { foreign_sessions: Vec::new(), ..self.clone() }.leaks(originals).is_empty()
    }
}

impl Fence {
    /// Disables the recorded subscriptions that are enabled still, through a session in the database itself, and waits
    /// until their workers are gone. Before [`Fence::raise_step`]; idempotent.
    pub async fn disable_subscriptions(&self, inside: &mut dyn Session, deadline: Duration) -> Result<(), SwapError> {
        let patience = Patience::new(deadline);
        loop {
            let mut restless = Vec::new();
            for one in catalog::subscriptions(inside, self.originals.oid).await? {
                if one.enabled {
                    let statement = format!("ALTER SUBSCRIPTION {} DISABLE", quote_identifier(&one.name));
                    inside.execute(&statement, deadline).await?;
                }
                if one.enabled || !one.workers.is_empty() {
                    restless.push(one.name);
                }
            }
            if restless.is_empty() {
                return Ok(());
            }
            if patience.is_over() {
                return Err(SwapError::Blocked {
                    what: format!("stopping the workers of subscriptions {restless:?}"),
                    blockers: Vec::new(),
                    cause: None,
                });
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Enables the recorded subscriptions again, through a session in the database itself, after the fence is open.
    /// Idempotent; one that is gone meanwhile is left alone.
    pub async fn enable_subscriptions(&self, inside: &mut dyn Session, deadline: Duration) -> Result<(), SqlError> {
        for one in catalog::subscriptions(inside, self.originals.oid).await? {
            if !one.enabled && self.originals.subscriptions.contains(&one.name) {
                inside.execute(&format!("ALTER SUBSCRIPTION {} ENABLE", quote_identifier(&one.name)), deadline).await?;
            }
        }
        Ok(())
    }
    /// Standbys that have not replayed the swap yet, judged against the end of the WAL at `lsn` (from
    /// [`catalog::standbys`], taken after the swap). All of them must have: one that is promoted without it accepts
    /// writes under the old name.
    pub async fn standbys_behind(&self, admins: &mut AdminSessions, lsn: &str) -> Result<Vec<String>, SqlError> {
        let standbys = catalog::standbys(admins.session().await?, Some(lsn)).await?;
        Ok(standbys
            .behind()
            .map(|one| format!("{} (pid {}, {})", one.application_name, one.pid, one.client.as_deref().unwrap_or("local")))
            .collect())
    }

    /// Waits until no standby is behind the present end of the WAL.
    pub async fn wait_for_standbys(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let lsn = catalog::standbys(admins.session().await?, None).await?.current_lsn;
        let patience = Patience::new(deadline);
        loop {
            let behind = self.standbys_behind(admins, &lsn).await?;
            if behind.is_empty() {
                return Ok(());
            }
            if patience.is_over() {
                return Err(SwapError::Blocked {
                    what: format!("replaying the fence on standby {}", behind.join(", ")),
                    blockers: Vec::new(),
                    cause: None,
                });
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What proves that the fence is tight now. Sessions whose application name begins with `ours` are not foreign.
    pub async fn evidence(&self, admins: &mut AdminSessions, ours: &str) -> Result<FenceEvidence, SqlError> {
        let state = self.state(admins).await?;
        let session = admins.session().await?;
        let server = catalog::server(session).await?;
        let foreign = catalog::sessions(session, self.originals.oid, ours).await?;
        let subscriptions = catalog::subscriptions(session, self.originals.oid).await?;
        let prepared = catalog::prepared_transactions(session, &self.names.fenced).await?;
        Ok(FenceEvidence {
            state,
            foreign_sessions: foreign.items,
            live_subscriptions: subscriptions
                .into_iter()
                .filter(|one| one.enabled || !one.workers.is_empty())
                .map(|one| one.name)
                .collect(),
            prepared_transactions: prepared.total,
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            in_recovery: server.in_recovery,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::fence::Tombstone;

    const STANDS: Tombstone = Tombstone { oid: 16_500, closed: true, sessions: 0 };

    fn originals() -> FenceOriginals {
        FenceOriginals {
            oid: 16_384,
            connection_limit: -1,
            allow_connections: true,
            acl: None,
            comment: None,
            owner: "owner".into(),
            subscriptions: vec!["s".into()],
            system_identifier: "7".into(),
            timeline: 1,
        }
    }

    /// What leaks, and whether it may pass.
    fn seen(change: impl FnOnce(&mut FenceEvidence)) -> (Vec<String>, bool) {
        let mut evidence = FenceEvidence {
            state: FenceState::Fenced { tombstone: STANDS },
            foreign_sessions: vec![],
            live_subscriptions: vec![],
            prepared_transactions: 0,
            system_identifier: "7".into(),
            timeline: 1,
            in_recovery: false,
        };
        change(&mut evidence);
        (evidence.leaks(&originals()), evidence.may_pass(&originals()))
    }

    fn visitor(evidence: &mut FenceEvidence) {
        evidence.foreign_sessions = vec![ForeignSession {
            pid: 42,
            user: Some("app".into()),
            application_name: Some("psql".into()),
            client: None,
            state: None,
            backend_type: None,
            age: None,
            transaction_age: None,
        }];
    }

    #[test]
    fn every_leak_is_named_and_only_sessions_pass() {
        assert_eq!(seen(|_| ()), (vec![], true));
        let session = "pid 42 (role \"app\", application \"psql\") is connected to the fenced database";
        assert_eq!(seen(visitor), (vec![session.into()], true));
        type Change = fn(&mut FenceEvidence);
        let lasting: [(Change, &str); 10] = [
            (|e| e.state = FenceState::Fenced { tombstone: Tombstone { sessions: 3, ..STANDS } }, "has had 3 sessions"),
            (|e| e.state = FenceState::Fenced { tombstone: Tombstone { closed: false, ..STANDS } }, "accepts connections"),
            (|e| e.state = FenceState::Uncovered, "was dropped"),
            (|e| e.state = FenceState::Lifting { tombstone: STANDS }, "the fence is not up"),
            (|e| e.state = FenceState::Foreign { found: "another database".into() }, "another database"),
            (|e| e.live_subscriptions = vec!["s".into()], "subscription \"s\" is not at rest"),
            (|e| e.prepared_transactions = 1, "1 prepared transactions"),
            (|e| e.system_identifier = "8".into(), "another server cluster"),
            (|e| e.timeline = 2, "a standby was promoted"),
            (|e| e.in_recovery = true, "a standby was promoted"),
        ];
        for (change, words) in lasting {
            let (leaks, may_pass) = seen(change);
            assert!(leaks.len() == 1 && leaks[0].contains(words) && !may_pass, "{words}: {leaks:?} {may_pass}");
            let (leaks, may_pass) = seen(|evidence| {
                change(evidence);
                visitor(evidence);
            });
            assert!(leaks.len() == 2 && !may_pass, "{words}: {leaks:?} {may_pass}");
        }
    }
}
