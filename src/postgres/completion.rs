//! The mark that a finished migration leaves on the database that it published: a setting of the database, which no session
//! cares about and no dump carries away.
//!
//! Here: writing and reading it. Not here: what it says, and what is concluded from it (`plan::completion`).

use super::admin::AdminSessions;
use super::carrier::{SqlError, quote_identifier, quote_literal};
use super::catalog::DatabaseSettings;

/// What names of our own settings begin with. They speak of one database and are never carried to another.
pub const PREFIX: &str = "pgmigration.";

const SETTING: &str = "pgmigration.completed";

/// Writes `text` as the mark of `database`. Safe to repeat. False when the role may not: before that, only superusers may
/// set parameters that the server does not know (PostgreSQL manual, `ALTER DATABASE`; 42501).
///
/// # Errors
/// What else the server says.
pub async fn mark(admins: &mut AdminSessions, database: &str, text: &str) -> Result<bool, SqlError> {
    let statement = format!("ALTER DATABASE {} SET {SETTING} = {}", quote_identifier(database), quote_literal(text));
    match admins.execute(&statement).await {
        Ok(()) => Ok(true),
        Err(error) if error.is("42501") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the mark of `database` off. Safe to repeat.
///
/// # Errors
/// What the server says.
pub async fn unmark(admins: &mut AdminSessions, database: &str) -> Result<(), SqlError> {
    admins.execute(&format!("ALTER DATABASE {} RESET {SETTING}", quote_identifier(database))).await
}

/// The mark of a database with these settings.
pub fn read(settings: &DatabaseSettings) -> Option<&str> {
    settings
        .settings
        .iter()
        .filter(|item| item.role.is_none())
        .find_map(|item| item.setting.strip_prefix(SETTING)?.strip_prefix('='))
}
