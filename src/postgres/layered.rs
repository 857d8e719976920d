//! The layered fence: the fallback where a database may not be renamed.
//!
//! The application's roles may not log in, the database admits no ordinary session (connection limit 0, CONNECT revoked
//! from everybody), and sessions that exist are ended. It is weaker than the swap fence: it does not bind superusers, and
//! the owner may grant CONNECT back. So what proves the quiet is the witness of writes, and [`LayeredState::leaks`] is
//! asked again before every decision. Subscriptions are disabled as with the swap fence.
//!
//! Every layer is put up and taken down on its own, and taken down only while it is still as we put it up, so that what
//! somebody else set meanwhile stays. Here: the layers. Not here: when, and which fence (`plan`).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::admin::AdminSessions;
use super::carrier::{Session, SqlError, quote_identifier};
use super::catalog::{self, AclItem, ForeignSession};
use super::swap::{Patience, Rows, SwapError, expel, insist, look};

/// What was found before the first effect: recorded by the caller, needed to go on and to undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayeredOriginals {
    /// The database.
    pub database: String,
    /// Its OID.
    pub oid: u32,
    /// Its connection limit.
    pub connection_limit: i32,
    /// Who could connect, and whether they could pass that on.
    pub connect: Vec<AclItem>,
    /// The application's roles that could log in.
    pub logins: Vec<String>,
    /// The subscriptions that were enabled.
    pub subscriptions: Vec<String>,
    /// The administrator's role, which must still connect.
    pub admin: String,
    /// It is superuser, so neither limit nor privilege binds it.
    pub admin_is_superuser: bool,
}

/// Where the layers stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayeredState {
    /// Recorded roles that may log in.
    pub logins: Vec<String>,
    /// The connection limit is 0. Always true when the administrator is not superuser: it would lock itself out.
    pub limited: bool,
    /// Who may connect besides the administrator; an empty name is PUBLIC.
    pub connect: Vec<String>,
    /// Sessions in the database that are not ours. At most 100.
    pub sessions: Vec<ForeignSession>,
    /// Subscriptions of it that are enabled or have a worker.
    pub subscriptions: Vec<String>,
}

impl LayeredState {
    /// What is not closed, one sentence each. Empty: the fence is up.
    pub fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        for role in &self.logins {
            leaks.push(format!("role {role:?} may log in"));
        }
        if !self.limited {
            leaks.push("the database's connection limit is not 0".into());
        }
        for role in &self.connect {
            leaks.push(if role.is_empty() { "everybody may connect".into() } else { format!("role {role:?} may connect") });
        }
        for session in &self.sessions {
            leaks.push(format!("pid {} (role {:?}) is connected", session.pid, session.user.as_deref().unwrap_or_default()));
        }
        for name in &self.subscriptions {
            leaks.push(format!("subscription {name:?} is not at rest"));
        }
        leaks
    }

    /// Whether what is not closed may pass by itself: nothing but sessions, which end.
    pub fn may_pass(&self) -> bool {
        Self { sessions: Vec::new(), ..self.clone() }.leaks().is_empty()
    }
}

/// A layered fence around one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayeredFence {
    /// What was found before.
    pub originals: LayeredOriginals,
}

/// Reads what must be recorded before the first effect. `roles` are the application's; the administrator's own role
/// among them is left out. Refused (`Unexpected`): an absent database.
pub async fn originals(admins: &mut AdminSessions, database: &str, roles: &[String]) -> Result<LayeredOriginals, SwapError> {
    let session = admins.session().await?;
    let server = catalog::server(session).await?;
    let found = catalog::database(session, database).await?;
    let found = found.ok_or_else(|| SwapError::Unexpected(format!("database {database:?} does not exist")))?;
    let settings = catalog::database_settings(session, found.oid).await?;
    let roles = catalog::roles(session, roles).await?;
    let subscriptions = catalog::subscriptions(session, found.oid).await?;
    Ok(LayeredOriginals {
        database: found.name,
        oid: found.oid,
        connection_limit: found.connection_limit,
        connect: settings.acl.into_iter().filter(|item| item.privilege == "CONNECT").collect(),
        logins: roles.into_iter().filter(|role| role.login && role.name != server.user).map(|role| role.name).collect(),
        subscriptions: subscriptions.into_iter().filter(|one| one.enabled).map(|one| one.name).collect(),
        admin: server.user,
        admin_is_superuser: server.superuser,
    })
}

impl LayeredFence {
    /// Where the layers stand. Sessions whose application name begins with `ours` are not listed.
    pub async fn state(&self, admins: &mut AdminSessions, ours: &str) -> Result<LayeredState, SwapError> {
        let originals = &self.originals;
        let limit = self.connection_limit(admins).await?;
        let session = admins.session().await?;
        let roles = catalog::roles(session, &originals.logins).await?;
        let connect = self.present(session).await?.into_iter().filter(|role| *role != originals.admin).collect();
        let sessions = catalog::sessions(session, originals.oid, ours).await?.items;
        let subscriptions = catalog::subscriptions(session, originals.oid).await?;
        Ok(LayeredState {
            logins: roles.into_iter().filter(|role| role.login).map(|role| role.name).collect(),
            limited: limit == 0 || !originals.admin_is_superuser,
            connect,
            sessions,
            subscriptions: subscriptions
                .into_iter()
                .filter(|one| one.enabled || !one.workers.is_empty())
                .map(|one| one.name)
                .collect(),
        })
    }

    /// Puts all layers up, from whatever state it is in, and ends all sessions but those of `ours`. Subscriptions are to
    /// be disabled before.
    ///
    /// When sessions do not end within `deadline`, the layers stay, and the error (`Blocked`) names them: lift or repeat.
    pub async fn raise(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let LayeredOriginals { database, oid, admin, admin_is_superuser, .. } = &self.originals;
        let name = quote_identifier(database);
        let state = self.state(admins, "").await?;
        for role in &state.logins {
            self.patiently(admins, &format!("ALTER ROLE {} NOLOGIN", quote_identifier(role)), deadline).await?;
        }
        if !admin_is_superuser {
            let grant = format!("GRANT CONNECT ON DATABASE {name} TO {}", quote_identifier(admin));
            self.patiently(admins, &grant, deadline).await?;
        }
        if !state.limited {
            self.set_limit(admins, 0, deadline).await?;
        }
        for role in &state.connect {
            let revoke = format!("REVOKE CONNECT ON DATABASE {name} FROM {} CASCADE", grantee(role));
            self.patiently(admins, &revoke, deadline).await?;
        }
        let mut patience = Patience::new(deadline);
        if expel(admins, *oid, &mut patience).await? {
            Ok(())
        } else {
            Err(patience.blocked(admins, &format!("ending the sessions of database {database:?}"), &[*oid]).await)
        }
    }

    /// Takes all layers down that are still as we put them up. Idempotent. Subscriptions are to be enabled after.
    pub async fn lift(&self, admins: &mut AdminSessions, deadline: Duration) -> Result<(), SwapError> {
        let originals = &self.originals;
        let name = quote_identifier(&originals.database);
        let present = self.present(admins.session().await?).await?;
        for item in &originals.connect {
            let role = item.grantee.clone().unwrap_or_default();
            if !present.contains(&role) || (item.grantable && role == originals.admin) {
                let option = if item.grantable { " WITH GRANT OPTION" } else { "" };
                let grant = format!("GRANT CONNECT ON DATABASE {name} TO {}{option}", grantee(&role));
                self.patiently(admins, &grant, deadline).await?;
            }
        }
        let had = |role: &str| originals.connect.iter().any(|item| item.grantee.as_deref() == Some(role));
        if !originals.admin_is_superuser && !had(&originals.admin) {
            let revoke = format!("REVOKE CONNECT ON DATABASE {name} FROM {}", grantee(&originals.admin));
            self.patiently(admins, &revoke, deadline).await?;
        }
        if originals.connection_limit != 0 && self.connection_limit(admins).await? == 0 {
            self.set_limit(admins, originals.connection_limit, deadline).await?;
        }
        for role in catalog::roles(admins.session().await?, &originals.logins).await? {
            if !role.login {
                let login = format!("ALTER ROLE {} LOGIN", quote_identifier(&role.name));
                self.patiently(admins, &login, deadline).await?;
            }
        }
        Ok(())
    }

    /// The database's connection limit now. `Unexpected` when it was renamed, dropped or replaced.
    async fn connection_limit(&self, admins: &mut AdminSessions) -> Result<i32, SwapError> {
        let LayeredOriginals { database, oid, .. } = &self.originals;
        let rows = look(admins, &[*oid], &[]).await?;
        match rows.by_oid(*oid) {
            Some(row) if row.name == *database => Ok(row.connection_limit),
            Some(_) | None => Err(SwapError::Unexpected(format!("database {database:?} (OID {oid}) is gone or renamed"))),
        }
    }

    /// Who holds CONNECT now; an empty name is PUBLIC.
    async fn present(&self, session: &mut dyn Session) -> Result<BTreeSet<String>, SqlError> {
        let settings = catalog::database_settings(session, self.originals.oid).await?;
        let holders = settings.acl.into_iter().filter(|item| item.privilege == "CONNECT");
        Ok(holders.map(|item| item.grantee.unwrap_or_default()).collect())
    }

    async fn set_limit(&self, admins: &mut AdminSessions, limit: i32, deadline: Duration) -> Result<(), SwapError> {
        let LayeredOriginals { database, oid, .. } = &self.originals;
        let statement = format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", quote_identifier(database));
        let done = |rows: &Rows| rows.by_oid(*oid).is_none_or(|row| row.connection_limit == limit);
        insist(admins, &statement, &format!("limiting database {database:?}"), &[*oid], &[], deadline, done).await
    }

    /// Runs a statement that may be repeated, again while the reason for its failure may pass.
    async fn patiently(&self, admins: &mut AdminSessions, statement: &str, deadline: Duration) -> Result<(), SwapError> {
        let mut patience = Patience::new(deadline);
        while let Err(error) = admins.execute(statement).await {
            if admins.is_over() {
                return Err(error.into());
            }
            patience.absorb(error).await?;
            if patience.is_over() {
                return Err(patience.blocked(admins, statement, &[self.originals.oid]).await);
            }
        }
        Ok(())
    }
}

fn grantee(role: &str) -> String {
    if role.is_empty() { "PUBLIC".to_owned() } else { quote_identifier(role) }
}
