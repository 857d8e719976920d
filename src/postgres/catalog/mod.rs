//! Questions to the catalogs of a server, each one SQL text with one JSON answer.
//!
//! Here: the texts, the shapes of their answers, one function each. A question only reads. Its names are qualified with
//! `pg_catalog`, its lists are bounded (a `total` beside a capped list says how much there is), and one text serves all
//! supported major versions: columns that not every version has are read through `to_jsonb(row)`. It runs as any role;
//! what needs rights beyond that says so at its answer. Not here: judging an answer (`plan`), changing anything.

mod activity;
mod alembic;
mod databases;
mod extensions;
mod hazards;
mod inventory;
mod replication;
mod roles;
mod server;

use std::time::Duration;

use serde::de::DeserializeOwned;

pub use activity::{
    ForeignSession, IndexBuild, PreparedTransaction, Sessions, end_sessions_of, end_tagged_sessions, index_builds,
    prepared_transactions, sessions,
};
pub use alembic::{AlembicVersions, alembic_versions};
pub use databases::{AclItem, Database, DatabaseSettings, RoleSetting, database, database_settings, databases};
pub use extensions::{
    AvailableExtension, ExtensionVersion, InstalledExtension, available_extensions, extensions, extensions_on_offer,
};
pub use hazards::{
    DatabaseNameUse, EventTrigger, HbaLine, SearchPathUse, database_name_uses, event_triggers, hba_lines, search_path_uses,
};
pub use inventory::{Counts, Inventory, RelationName, TableSize, inventory};
pub use replication::{ReplicationSlot, Standby, Standbys, Subscription, replication_slots, standbys, subscriptions};
pub use roles::{PublicRights, Role, RoleUse, public_rights, role_uses, roles};
pub use server::{Server, System, Witness, row_changes, server, system, witness};

use super::carrier::{Question, Session, SqlError, SqlErrorKind};

/// How long a catalog question may take. The slow ones read sizes from disk.
pub const QUESTION_DEADLINE: Duration = Duration::from_secs(30);

/// A list that is cut at a bound, with the number of all that there are.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Capped<T> {
    /// How many there are, those that are cut off included.
    pub total: u64,
    /// The first of them, in a fixed order.
    pub items: Vec<T>,
}

impl<T> Capped<T> {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// Puts a question and reads its answer. A document of another shape is a `Protocol` error.
pub(crate) async fn ask<T: DeserializeOwned>(session: &mut dyn Session, question: &Question) -> Result<T, SqlError> {
    ask_within(session, question, QUESTION_DEADLINE).await
}

/// [`ask`] with a deadline of its own.
pub(crate) async fn ask_within<T: DeserializeOwned>(
    session: &mut dyn Session,
    question: &Question,
    deadline: Duration,
) -> Result<T, SqlError> {
    let answer = session.ask(question, deadline).await?;
    serde_json::from_value(answer).map_err(|error| SqlError::new(SqlErrorKind::Protocol, format!("{}: {error}", question.name)))
}
