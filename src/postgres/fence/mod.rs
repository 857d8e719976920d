//! The swap fence: nobody writes to a database any more, superusers included, and it can be given back exactly.
//!
//! The database is renamed away and an empty one that refuses connections (the tombstone) takes its name, in one
//! transaction. Every state on the way is told from the catalogs by OID, so that whoever comes after a crash knows where
//! things stand: read [`Fence::state`], go on with [`Fence::raise_step`] or [`Fence::lift_step`], one effect a call.
//!
//! Here: raising, proving, lifting the fence. Not here: when (`plan`), and the fallback where renaming is not allowed
//! (`layered`).
//!
//! What gets past it, and what answers that: a subscription's worker connects by OID (disabled before); a standby that
//! is promoted without having replayed the swap ([`Fence::standbys_behind`]); a superuser who opens the tombstone, or
//! learns the fenced name ([`Fence::evidence`], and the witness of writes).

mod proof;

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use proof::FenceEvidence;

use crate::postgres::admin::AdminSessions;
use crate::postgres::carrier::{SqlError, quote_identifier, quote_literal};
use crate::postgres::catalog;
use crate::postgres::names::{DerivedRole, derived_name};
use crate::postgres::swap::{Patience, Row, Rows, SwapError, allow_connections, expel, insist, is_called, look, rename};

/// The three names that a fence needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceNames {
    /// What applications call the database.
    pub database: String,
    /// What it is called behind the fence.
    pub fenced: String,
    /// What the tombstone is called while it does not stand in the database's place.
    pub tombstone: String,
}

impl FenceNames {
    /// The names for `database` in the migration with this UID.
    pub fn derive(database: &str, uid: &str) -> Self {
        Self {
            database: database.to_owned(),
            fenced: derived_name(database, uid, DerivedRole::Fenced),
            tombstone: derived_name(database, uid, DerivedRole::Tombstone),
        }
    }

    fn all(&self) -> [&str; 3] {
        [&self.database, &self.fenced, &self.tombstone]
    }
}

/// What was found before the first effect: recorded by the caller, needed to go on and to undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceOriginals {
    /// The database's OID: its identity from now on.
    pub oid: u32,
    /// Its connection limit. Not touched by the swap fence.
    pub connection_limit: i32,
    /// Always true: a database that refuses connections already is not fenced.
    pub allow_connections: bool,
    /// Its access list, None for the built-in default. Not touched by the swap fence.
    pub acl: Option<Vec<String>>,
    /// Its comment. Not touched by the swap fence.
    pub comment: Option<String>,
    /// Its owner.
    pub owner: String,
    /// The subscriptions that were enabled.
    pub subscriptions: Vec<String>,
    /// The server cluster.
    pub system_identifier: String,
    /// Its timeline; another one later means that a standby was promoted.
    pub timeline: u32,
}

/// The tombstone as found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Its OID.
    pub oid: u32,
    /// It refuses connections.
    pub closed: bool,
    /// Client sessions that it has had since statistics were last reset (a server crash resets them).
    pub sessions: u64,
}

impl Tombstone {
    /// Nobody can have written into it, as far as the server remembers.
    pub const fn is_intact(&self) -> bool {
        self.closed && self.sessions == 0
    }
}

/// Where the fence stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceState {
    /// The database has its own name and takes connections: untouched, or undone. With a tombstone: shortly before, or
    /// undone but for dropping it.
    Open {
        /// The tombstone, when it exists.
        tombstone: Option<Tombstone>,
    },
    /// The database has its own name and refuses connections.
    Refusing {
        /// The tombstone; None only when somebody else refused connections, or dropped it.
        tombstone: Option<Tombstone>,
    },
    /// The tombstone stands in the database's place, and the database takes connections behind the fence.
    Fenced {
        /// The tombstone.
        tombstone: Tombstone,
    },
    /// The database has its fenced name, and nothing stands in its place: somebody dropped the tombstone. Whoever makes a
    /// database of the free name writes past the fence, so this is never tight; lifting gives the name back.
    Uncovered,
    /// As `Fenced`, but the database refuses connections: lifting has begun.
    Lifting {
        /// The tombstone.
        tombstone: Tombstone,
    },
    /// None of these: somebody renamed, dropped or created a database. Nothing may be done without a person.
    Foreign {
        /// What was found, for people.
        found: String,
    },
}

/// A fence around one database of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The names.
    pub names: FenceNames,
    /// What was found before.
    pub originals: FenceOriginals,
    /// The tombstone's comment: where the data went.
    pub comment: String,
}

/// Reads what must be recorded before the first effect.
///
/// Refused (`Unexpected`): a database that is absent, a template, closed already, or the one the admin sessions are in.
pub async fn originals(admins: &mut AdminSessions, database: &str) -> Result<FenceOriginals, SwapError> {
    let session = admins.session().await?;
    let server = catalog::server(session).await?;
    let found = catalog::database(session, database).await?;
    let found = found.ok_or_else(|| SwapError::Unexpected(format!("database {database:?} does not exist")))?;
    if found.oid == server.database_oid {
        return Err(SwapError::Unexpected(format!("database {database:?} is where admin sessions live: it cannot be renamed")));
    }
    if found.is_template || !found.allow_connections {
        return Err(SwapError::Unexpected(format!("database {database:?} is a template or refuses connections")));
    }
    let settings = catalog::database_settings(session, found.oid).await?;
    let subscriptions = catalog::subscriptions(session, found.oid).await?;
    Ok(FenceOriginals {
        oid: found.oid,
        connection_limit: found.connection_limit,
        allow_connections: found.allow_connections,
        acl: settings.acl_text,
        comment: found.comment,
        owner: found.owner,
        subscriptions: subscriptions.into_iter().filter(|one| one.enabled).map(|one| one.name).collect(),
        system_identifier: server.system_identifier,
        timeline: server.timeline,
    })
}

fn judge(names: &FenceNames, oid: u32, rows: &Rows) -> FenceState {
    let foreign = |found: String| FenceState::Foreign { found };
    let tombstone = |row: &Row| Tombstone { oid: row.oid, closed: !row.allow_connections, sessions: row.sessions };
    let Some(own) = rows.by_oid(oid) else {
        return foreign(format!("the database with OID {oid}, once {:?}, is gone", names.database));
    };
    let beside = rows.by_name(&names.tombstone);
    if own.name == names.database {
        if let Some(other) = rows.by_name(&names.fenced) {
            return foreign(format!("a database {:?} that is not ours exists (OID {})", other.name, other.oid));
        }
        let tombstone = beside.map(tombstone);
        return if own.allow_connections { FenceState::Open { tombstone } } else { FenceState::Refusing { tombstone } };
    }
    if own.name != names.fenced {
        return foreign(format!("database {:?} was renamed to {:?} by somebody else", names.database, own.name));
    }
    let Some(stands) = rows.by_name(&names.database) else {
        return FenceState::Uncovered;
    };
    if beside.is_some() || !stands.is_template {
        return foreign(format!("database {:?} (OID {}) is not the tombstone of ours", stands.name, stands.oid));
    }
    let tombstone = tombstone(stands);
    if own.allow_connections { FenceState::Fenced { tombstone } } else { FenceState::Lifting { tombstone } }
}

impl Fence {
    /// Where the fence stands, read from the catalogs.
    pub async fn state(&self, admins: &mut AdminSessions) -> Result<FenceState, SqlError> {
        let rows = look(admins, &[self.originals.oid], &self.names.all()).await?;
        Ok(judge(&self.names, self.originals.oid, &rows))
    }

    /// Does the next one thing towards `Fenced` and returns the state after it: creates the tombstone, refuses
    /// connections, or ends all sessions and swaps.
    ///
    /// When the swap does not come about within `deadline`, the database takes connections again, and the error
    /// (`Blocked`) names who was in the way. When the sessions are lost, it refuses them until the next call or the undo.
    pub async fn raise_step(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<FenceState, SwapError> {
        match self.state(admins).await? {
            FenceState::Open { tombstone: None } | FenceState::Refusing { tombstone: None } => {
                self.create_tombstone(admins, deadline).await?;
            }
            FenceState::Open { tombstone: Some(tombstone) } => {
                if !tombstone.is_intact() || self.is_being_dropped(admins).await? {
                    self.drop_tombstone(admins, deadline).await?;
                } else {
                    self.refuse(admins, deadline).await?;
                }
            }
            FenceState::Refusing { tombstone: Some(_) } => {
                if let Err(error) = self.swap(admins, deadline).await {
                    if let Err(second) = self.admit(admins, deadline).await {
                        tracing::warn!(database = self.names.database, %second, "still refusing connections");
                    }
                    return Err(error);
                }
            }
            FenceState::Lifting { .. } => self.set_fenced(admins, true, deadline).await?,
            FenceState::Fenced { .. } => {}
            FenceState::Uncovered => {
                let text = format!("the tombstone of database {:?} was dropped by somebody", self.names.database);
                return Err(SwapError::Unexpected(text));
            }
            FenceState::Foreign { found } => return Err(SwapError::Unexpected(found)),
        }
        Ok(self.state(admins).await?)
    }

    /// Raises the whole fence, from whatever state it is in. `deadline` is that of each step.
    pub async fn raise(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        while !matches!(self.raise_step(admins, deadline).await?, FenceState::Fenced { .. }) {}
        Ok(())
    }

    /// Does the next one thing towards `Open` without a tombstone and returns the state after it: refuses connections
    /// behind the fence, ends all sessions there and swaps back, or drops the tombstone.
    ///
    /// Dropping may take long while any session of the server hangs; the database is usable before that, and
    /// subscriptions are to be enabled as soon as the state is `Open`.
    pub async fn lift_step(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<FenceState, SwapError> {
        match self.state(admins).await? {
            FenceState::Fenced { .. } => self.set_fenced(admins, false, deadline).await?,
            FenceState::Lifting { .. } => self.swap_back(admins, deadline).await?,
            FenceState::Uncovered => self.give_back(admins, deadline).await?,
            FenceState::Refusing { .. } => self.admit(admins, deadline).await?,
            FenceState::Open { tombstone: Some(_) } => self.drop_tombstone(admins, deadline).await?,
            FenceState::Open { tombstone: None } => {}
            FenceState::Foreign { found } => return Err(SwapError::Unexpected(found)),
        }
        Ok(self.state(admins).await?)
    }

    /// Lifts the fence as far as the database's users notice: until the state is `Open`, with or without a tombstone. What
    /// is left, [`Fence::lift`] does. `deadline` is that of each step.
    pub async fn reopen(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        while !matches!(self.state(admins).await?, FenceState::Open { .. }) {
            self.lift_step(admins, deadline).await?;
        }
        Ok(())
    }

    /// Lifts the whole fence, from whatever state it is in, the tombstone included. `deadline` is that of each step.
    pub async fn lift(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        while self.lift_step(admins, deadline).await? != (FenceState::Open { tombstone: None }) {}
        Ok(())
    }

    async fn create_tombstone(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let name = &self.names.tombstone;
        let statement =
            format!("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false IS_TEMPLATE true", quote_identifier(name));
        let done = |rows: &Rows| rows.by_name(name).is_some();
        insist(admins, &statement, "creating the tombstone", &[], &[name], deadline, done).await
    }

    /// A drop was begun and interrupted: such a tombstone must not take the database's place.
    async fn is_being_dropped(&self, admins: &mut AdminSessions) -> Result<bool, SqlError> {
        let rows = look(admins, &[], &[&self.names.tombstone]).await?;
        Ok(rows.by_name(&self.names.tombstone).is_some_and(|row| row.connection_limit == -2 || !row.is_template))
    }

    async fn refuse(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        self.set_connections(admins, &self.names.database, false, deadline).await
    }

    /// Takes connections again under the own name: the undo of refusing.
    async fn admit(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        match self.state(admins).await? {
            FenceState::Refusing { .. } => self.set_connections(admins, &self.names.database, true, deadline).await,
            FenceState::Open { .. }
            | FenceState::Fenced { .. }
            | FenceState::Uncovered
            | FenceState::Lifting { .. }
            | FenceState::Foreign { .. } => Ok(()),
        }
    }

    async fn set_fenced(&self, admins: &mut AdminSessions, allow: bool, deadline: Duration) -> Result<(), SwapError> {
        self.set_connections(admins, &self.names.fenced, allow, deadline).await
    }

    async fn set_connections(
        &self,
        admins: &mut AdminSessions,
        name: &str,
        allow: bool,
        deadline: Duration,
    ) -> Result<(), SwapError> {
        let oid = self.originals.oid;
        let done = |rows: &Rows| rows.by_oid(oid).is_none_or(|row| row.name != name || row.allow_connections == allow);
        let what = format!("{} connections of database {name:?}", if allow { "accepting" } else { "refusing" });
        insist(admins, &allow_connections(name, allow), &what, &[oid], &[], deadline, done).await
    }

    async fn swap(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let FenceNames { database, fenced, tombstone } = &self.names;
        let statements = [
            rename(database, fenced),
            rename(tombstone, database),
            allow_connections(fenced, true),
            format!("COMMENT ON DATABASE {} IS {}", quote_identifier(database), quote_literal(&self.comment)),
        ];
        let from = |state: &FenceState| matches!(state, FenceState::Refusing { tombstone: Some(_) });
        self.exchange(admins, &statements, fenced, "fencing", from, deadline).await
    }

    async fn swap_back(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let FenceNames { database, fenced, tombstone } = &self.names;
        let statements = [rename(database, tombstone), rename(fenced, database), allow_connections(database, true)];
        let from = |state: &FenceState| matches!(state, FenceState::Lifting { .. });
        self.exchange(admins, &statements, database, "lifting the fence of", from, deadline).await
    }

    /// The swap back where no tombstone is left to swap with.
    async fn give_back(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let FenceNames { database, fenced, .. } = &self.names;
        let statements = [rename(fenced, database), allow_connections(database, true)];
        let from = |state: &FenceState| matches!(state, FenceState::Uncovered);
        self.exchange(admins, &statements, database, "lifting the fence of", from, deadline).await
    }

    /// Ends all sessions in the database and commits `statements`, again and again while the state is still `from`.
    async fn exchange(
        &self,
        admins: &mut AdminSessions,
        statements: &[String],
        name_after: &str,
        what: &str,
        from: impl Fn(&FenceState) -> bool,
        deadline: Duration,
    ) -> Result<(), SwapError> {
        let oid = self.originals.oid;
        let mut patience = Patience::new(deadline);
        loop {
            let state = self.state(admins).await?;
            if !from(&state) {
                return match state {
                    FenceState::Foreign { found } => Err(SwapError::Unexpected(found)),
                    FenceState::Open { .. }
                    | FenceState::Refusing { .. }
                    | FenceState::Fenced { .. }
                    | FenceState::Uncovered
                    | FenceState::Lifting { .. } => Ok(()),
                };
            }
            if patience.is_over() || !expel(admins, oid, &mut patience).await? {
                let mut what = format!("{what} database {:?}", self.names.database);
                let prepared = catalog::prepared_transactions(admins.session().await?, &self.names.database).await?;
                for one in prepared.items.iter().take(3) {
                    let _ = write!(what, " (prepared transaction {:?} of role {:?})", one.gid, one.owner);
                }
                return Err(patience.blocked(admins, &what, &[oid]).await);
            }
            if let Err(error) = admins.transaction(statements, &is_called(oid, name_after)).await {
                patience.absorb(error).await?;
            }
        }
    }

    /// Drops the tombstone while it stands beside the database. Refused (`Unexpected`) when somebody was in it.
    async fn drop_tombstone(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let name = &self.names.tombstone;
        let rows = look(admins, &[], &[name]).await?;
        let Some(row) = rows.by_name(name) else {
            return Ok(());
        };
        if row.connection_limit != -2 && (row.allow_connections || row.sessions > 0) {
            return Err(SwapError::Unexpected(format!(
                "the tombstone {name:?} was opened by somebody and may hold data: look into it and drop it by hand"
            )));
        }
        crate::postgres::staging::drop_database(admins, name, row.oid, deadline).await
    }
}

/// Whether this role may fence by renaming: as superuser, or with CREATEDB, the owner's rights, and the right to end
/// others' sessions. Otherwise only `layered` is left.
pub const fn may_rename(server: &catalog::Server, owner: &catalog::Role) -> bool {
    server.superuser || (server.createdb && owner.inherited && server.signal_backend && !owner.superuser)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 16_384;
    const TOMB: u32 = 16_500;

    fn names() -> FenceNames {
        FenceNames { database: "app".into(), fenced: "app_f".into(), tombstone: "app_t".into() }
    }

    fn row(oid: u32, name: &str, allow: bool) -> Row {
        Row { oid, name: name.into(), allow_connections: allow, is_template: oid == TOMB, connection_limit: -1, sessions: 0 }
    }

    fn state(rows: Vec<Row>) -> FenceState {
        judge(&names(), OWN, &Rows(rows))
    }

    const STANDS: Tombstone = Tombstone { oid: TOMB, closed: true, sessions: 0 };

    #[test]
    fn every_state_is_told_by_oid() {
        assert_eq!(state(vec![row(OWN, "app", true)]), FenceState::Open { tombstone: None });
        assert_eq!(state(vec![row(OWN, "app", true), row(TOMB, "app_t", false)]), FenceState::Open { tombstone: Some(STANDS) });
        assert_eq!(
            state(vec![row(OWN, "app", false), row(TOMB, "app_t", false)]),
            FenceState::Refusing { tombstone: Some(STANDS) }
        );
        assert_eq!(state(vec![row(OWN, "app_f", true), row(TOMB, "app", false)]), FenceState::Fenced { tombstone: STANDS });
        assert_eq!(state(vec![row(OWN, "app_f", false), row(TOMB, "app", false)]), FenceState::Lifting { tombstone: STANDS });
    }

    #[test]
    fn what_somebody_else_did_is_never_taken_for_ours() {
        let foreign = |rows| matches!(state(rows), FenceState::Foreign { .. });
        assert!(foreign(vec![]));
        assert!(foreign(vec![row(7, "app", true)]));
        assert!(foreign(vec![row(OWN, "elsewhere", true), row(TOMB, "app", false)]));
        assert_eq!(state(vec![row(OWN, "app_f", true)]), FenceState::Uncovered);
        assert!(foreign(vec![row(OWN, "app_f", true), row(7, "app", true)]));
        assert!(foreign(vec![row(OWN, "app", true), row(7, "app_f", true)]));
        assert!(foreign(vec![row(OWN, "app_f", true), row(TOMB, "app", false), row(8, "app_t", false)]));
    }

    #[test]
    fn an_opened_or_visited_tombstone_is_a_leak() {
        assert!(STANDS.is_intact());
        assert!(!Tombstone { closed: false, ..STANDS }.is_intact());
        assert!(!Tombstone { sessions: 1, ..STANDS }.is_intact());
    }
}
