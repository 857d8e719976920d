//! Publishing: a finished staging database takes its final name, and gives it back exactly.
//!
//! What had the name before, if anything, is renamed aside in the same transaction and never dropped. The states are told
//! by OID, as those of the fence, and reached one effect a call.
//!
//! Here: the swap on the target and its reverse. Not here: filling the staging database, and whether it may be published.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::admin::AdminSessions;
use super::carrier::SqlError;
use super::names::{DerivedRole, derived_name};
use super::swap::{Patience, Rows, SwapError, allow_connections, expel, insist, is_called, look, rename};

/// The three names that publishing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishNames {
    /// What applications will call the database.
    pub database: String,
    /// What it is called until then.
    pub staging: String,
    /// What the database that has the final name now is called afterwards.
    pub aside: String,
}

impl PublishNames {
    /// The names for `database` in the migration with this UID.
    pub fn derive(database: &str, uid: &str) -> Self {
        Self {
            database: database.to_owned(),
            staging: derived_name(database, uid, DerivedRole::Staging),
            aside: derived_name(database, uid, DerivedRole::Aside),
        }
    }

    fn all(&self) -> [&str; 3] {
        [&self.database, &self.staging, &self.aside]
    }
}

/// Where publishing stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishState {
    /// Nothing has a new name and everything takes connections.
    Unpublished,
    /// Nothing has a new name yet, or any more; at least one of the databases refuses connections.
    Closing,
    /// The staging database has the final name, the earlier one stands aside, and both take connections.
    Published,
    /// As `Published`, but at least one of them refuses connections: taking back has begun.
    Withdrawing,
    /// The staging database is gone, and what had the final name has it still: there is nothing to publish or to take back.
    Gone {
        /// What had the final name takes connections, or there was none.
        open: bool,
    },
    /// None of these: somebody renamed, dropped or created a database. Nothing may be done without a person.
    Foreign {
        /// What was found, for people.
        found: String,
    },
}

/// One publication on one server. The OIDs are recorded by the caller before the first effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// The names.
    pub names: PublishNames,
    /// OID of the staging database.
    pub staging_oid: u32,
    /// OID of the database that has the final name before; None: there is none.
    pub existing_oid: Option<u32>,
}

/// Finds the OIDs for a publication, before its first effect.
///
/// Refused (`Unexpected`): no staging database; an existing database that is a template or closed, or the one that the
/// admin sessions are in.
pub async fn plan(admins: &mut AdminSessions, names: PublishNames) -> Result<Publication, SwapError> {
    let here = super::catalog::server(admins.session().await?).await?.database_oid;
    let rows = look(admins, &[], &names.all()).await?;
    let staging = rows.by_name(&names.staging);
    let staging_oid = staging
        .map(|row| row.oid)
        .ok_or_else(|| SwapError::Unexpected(format!("staging database {:?} does not exist", names.staging)))?;
    if let Some(row) = rows.by_name(&names.aside) {
        return Err(SwapError::Unexpected(format!("a database {:?} exists already (OID {})", row.name, row.oid)));
    }
    let existing = rows.by_name(&names.database);
    if let Some(row) = existing.filter(|row| row.is_template || !row.allow_connections || row.oid == here) {
        return Err(SwapError::Unexpected(format!(
            "database {:?} is a template, refuses connections, or is where admin sessions live: it cannot be set aside",
            row.name
        )));
    }
    let existing_oid = existing.map(|row| row.oid);
    Ok(Publication { names, staging_oid, existing_oid })
}

fn judge(publication: &Publication, rows: &Rows) -> PublishState {
    let Publication { names, staging_oid, existing_oid } = publication;
    let foreign = |found: String| PublishState::Foreign { found };
    let existing = match existing_oid {
        None => None,
        Some(oid) => match rows.by_oid(*oid) {
            None => {
                return foreign(format!("the database that had the name {:?} before (OID {oid}) is gone", names.database));
            }
            found @ Some(_) => found,
        },
    };
    let Some(staging) = rows.by_oid(*staging_oid) else {
        return match existing {
            Some(row) if row.name != names.database => {
                foreign(format!("the staging database (OID {staging_oid}) is gone, and {:?} is not back yet", names.database))
            }
            found => PublishState::Gone { open: found.is_none_or(|row| row.allow_connections) },
        };
    };
    let ours = |name: &str| rows.by_name(name).is_none_or(|row| row.oid == *staging_oid || Some(row.oid) == *existing_oid);
    if let Some(name) = names.all().iter().find(|name| !ours(name)) {
        return foreign(format!("somebody else made a database {name:?}"));
    }
    let open = staging.allow_connections && existing.is_none_or(|row| row.allow_connections);
    let called = |staging_name: &str, existing_name: &str| {
        staging.name == staging_name && existing.is_none_or(|row| row.name == existing_name)
    };
    if called(&names.staging, &names.database) {
        if open { PublishState::Unpublished } else { PublishState::Closing }
    } else if called(&names.database, &names.aside) {
        if open { PublishState::Published } else { PublishState::Withdrawing }
    } else {
        foreign(format!("the databases have other names than ours ({:?})", staging.name))
    }
}

impl Publication {
    /// Where publishing stands, read from the catalogs.
    pub async fn state(&self, admins: &mut AdminSessions) -> Result<PublishState, SqlError> {
        Ok(judge(self, &self.rows(admins).await?))
    }

    /// Does the next one thing towards `Published` and returns the state after it: refuses connections to both, or ends
    /// all their sessions and renames them.
    ///
    /// When the renaming does not come about within `deadline`, both take connections again, and the error (`Blocked`)
    /// names who was in the way. When the sessions are lost, both refuse them until the next call or the undo.
    pub async fn publish_step(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<PublishState, SwapError> {
        match self.state(admins).await? {
            PublishState::Unpublished => self.set_connections(admins, false, deadline).await?,
            PublishState::Closing => {
                let PublishNames { database, staging, aside } = &self.names;
                let mut statements = Vec::new();
                if self.existing_oid.is_some() {
                    statements.extend([rename(database, aside), allow_connections(aside, true)]);
                }
                statements.extend([rename(staging, database), allow_connections(database, true)]);
                let outcome = self.exchange(admins, &statements, database, &PublishState::Closing, "publishing", deadline).await;
                self.reopen_on_failure(admins, outcome, &PublishState::Closing, deadline).await?;
            }
            PublishState::Withdrawing => self.set_connections(admins, true, deadline).await?,
            PublishState::Published => {}
            PublishState::Gone { .. } => {
                return Err(SwapError::Unexpected(format!("the staging database (OID {}) is gone", self.staging_oid)));
            }
            PublishState::Foreign { found } => return Err(SwapError::Unexpected(found)),
        }
        Ok(self.state(admins).await?)
    }

    /// Publishes from whatever state it is in. `deadline` is that of each step.
    pub async fn publish(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        while self.publish_step(admins, deadline).await? != PublishState::Published {}
        Ok(())
    }

    /// Does the next one thing towards `Unpublished` and returns the state after it: the exact reverse of publishing.
    pub async fn withdraw_step(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<PublishState, SwapError> {
        match self.state(admins).await? {
            PublishState::Published => self.set_connections(admins, false, deadline).await?,
            PublishState::Withdrawing => {
                let PublishNames { database, staging, aside } = &self.names;
                let mut statements = vec![rename(database, staging), allow_connections(staging, true)];
                if self.existing_oid.is_some() {
                    statements.extend([rename(aside, database), allow_connections(database, true)]);
                }
                let from = PublishState::Withdrawing;
                let outcome = self.exchange(admins, &statements, staging, &from, "withdrawing", deadline).await;
                self.reopen_on_failure(admins, outcome, &from, deadline).await?;
            }
            PublishState::Closing | PublishState::Gone { open: false } => self.set_connections(admins, true, deadline).await?,
            PublishState::Unpublished | PublishState::Gone { open: true } => {}
            PublishState::Foreign { found } => return Err(SwapError::Unexpected(found)),
        }
        Ok(self.state(admins).await?)
    }

    /// Takes the publication back from whatever state it is in. `deadline` is that of each step.
    pub async fn withdraw(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        loop {
            match self.withdraw_step(admins, deadline).await? {
                PublishState::Unpublished | PublishState::Gone { open: true } => return Ok(()),
                _ => {}
            }
        }
    }

    fn oids(&self) -> Vec<u32> {
        [Some(self.staging_oid), self.existing_oid].into_iter().flatten().collect()
    }

    async fn rows(&self, admins: &mut AdminSessions) -> Result<Rows, SqlError> {
        look(admins, &self.oids(), &self.names.all()).await
    }

    /// Opens or closes both databases, by the names that they have now.
    async fn set_connections(&self, admins: &mut AdminSessions, allow: bool, deadline: Duration) -> Result<(), SwapError> {
        for oid in self.oids() {
            let rows = self.rows(admins).await?;
            // Gone meanwhile: the state after this call tells.
            let Some(row) = rows.by_oid(oid) else { continue };
            let name = row.name.clone();
            let done = |rows: &Rows| rows.by_oid(oid).is_none_or(|row| row.name != name || row.allow_connections == allow);
            let what = format!("{} connections of database {name:?}", if allow { "accepting" } else { "refusing" });
            insist(admins, &allow_connections(&name, allow), &what, &[oid], &[], deadline, done).await?;
        }
        Ok(())
    }

    async fn exchange(
        &self,
        admins: &mut AdminSessions,
        statements: &[String],
        staging_after: &str,
        from: &PublishState,
        what: &str,
        deadline: Duration,
    ) -> Result<(), SwapError> {
        let mut patience = Patience::new(deadline);
        loop {
            let state = self.state(admins).await?;
            if state != *from {
                return match state {
                    PublishState::Foreign { found } => Err(SwapError::Unexpected(found)),
                    PublishState::Unpublished
                    | PublishState::Closing
                    | PublishState::Published
                    | PublishState::Withdrawing
                    | PublishState::Gone { .. } => Ok(()),
                };
            }
            let mut free = !patience.is_over();
            for oid in self.oids() {
                free = free && expel(admins, oid, &mut patience).await?;
            }
            if !free {
                let what = format!("{what} database {:?}", self.names.database);
                return Err(patience.blocked(admins, &what, &self.oids()).await);
            }
            if let Err(error) = admins.transaction(statements, &is_called(self.staging_oid, staging_after)).await {
                patience.absorb(error).await?;
            }
        }
    }

    /// Opens both databases again when the renaming failed, so that a failure leaves nothing refusing.
    async fn reopen_on_failure(
        &self,
        admins: &mut AdminSessions,
        outcome: Result<(), SwapError>,
        from: &PublishState,
        deadline: Duration,
    ) -> Result<(), SwapError> {
        if outcome.is_err() {
            let reopened = match self.state(admins).await {
                Ok(state) if state == *from => self.set_connections(admins, true, deadline).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let Err(second) = reopened {
                tracing::warn!(database = self.names.database, %second, "still refusing connections");
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::super::swap::Row;
    use super::*;

    const STAGING: u32 = 20_000;
    const EXISTING: u32 = 16_384;

    fn publication(existing: bool) -> Publication {
        Publication {
            names: PublishNames { database: "app".into(), staging: "app_s".into(), aside: "app_a".into() },
            staging_oid: STAGING,
            existing_oid: existing.then_some(EXISTING),
        }
    }

    fn row(oid: u32, name: &str, allow: bool) -> Row {
        Row { oid, name: name.into(), allow_connections: allow, is_template: false, connection_limit: -1, sessions: 0 }
    }

    #[test]
    fn states_without_an_existing_target() {
        let state = |name, allow| judge(&publication(false), &Rows(vec![row(STAGING, name, allow)]));
        assert_eq!(state("app_s", true), PublishState::Unpublished);
        assert_eq!(state("app_s", false), PublishState::Closing);
        assert_eq!(state("app", true), PublishState::Published);
        assert_eq!(state("app", false), PublishState::Withdrawing);
        assert!(matches!(state("other", true), PublishState::Foreign { .. }));
        let both = Rows(vec![row(STAGING, "app_s", true), row(9, "app", true)]);
        assert!(matches!(judge(&publication(false), &both), PublishState::Foreign { .. }));
    }

    #[test]
    fn states_with_an_existing_target() {
        let state = |staging: &str, existing: &str, open: bool| {
            judge(&publication(true), &Rows(vec![row(STAGING, staging, true), row(EXISTING, existing, open)]))
        };
        assert_eq!(state("app_s", "app", true), PublishState::Unpublished);
        assert_eq!(state("app_s", "app", false), PublishState::Closing);
        assert_eq!(state("app", "app_a", true), PublishState::Published);
        assert_eq!(state("app", "app_a", false), PublishState::Withdrawing);
        assert!(matches!(state("app", "elsewhere", true), PublishState::Foreign { .. }));
        let gone = Rows(vec![row(STAGING, "app", true)]);
        assert!(matches!(judge(&publication(true), &gone), PublishState::Foreign { .. }));
    }

    #[test]
    fn a_copy_that_is_gone_leaves_nothing_to_take_back() {
        let state = |name, open| judge(&publication(true), &Rows(vec![row(EXISTING, name, open)]));
        assert_eq!(state("app", true), PublishState::Gone { open: true });
        assert_eq!(state("app", false), PublishState::Gone { open: false });
        assert!(matches!(state("app_a", true), PublishState::Foreign { .. }), "the copy had the name when it was dropped");
        assert_eq!(judge(&publication(false), &Rows(vec![])), PublishState::Gone { open: true });
        let another = Rows(vec![row(EXISTING, "app", true), row(30_000, "app_s", true)]);
        assert_eq!(judge(&publication(true), &another), PublishState::Gone { open: true }, "by OID, whatever has the name");
    }
}
