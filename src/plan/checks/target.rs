//! Checks of the target: its admin and owner, what has the database's name there, room, locales, and the endpoint.

use super::{Findings, Place, size};
use crate::api::conditions::reasons;
use crate::api::{Endpoint, ExistingTarget};
use crate::postgres::catalog::{Database, Inventory, Role, Server};

/// Judges whether the admin gets into the copy while it is called `staging`.
pub fn admin_entry(out: &mut Findings, place: &Place, admin: &str, staging: &str, entry: &Result<(), String>) {
    let Err(why) = entry else { return };
    out.block(
        reasons::ADMIN_LOGIN_FAILED,
        "spec.target.postgres.exec.adminUser",
        format!("pg_hba.conf of {} does not let the admin role {admin:?} into a database called {staging:?}, as the copy is until it is published: {why}. Add a line `local` that does, or name another admin", place.server()),
    );
}

/// Judges admin and owner of the target.
pub fn owner(out: &mut Findings, place: &Place, server: &Server, name: &str, role: Option<&Role>) {
    let (path, at) = ("spec.databases[0].owner.name", place.server());
    if !server.createdb {
        out.block(
            reasons::ADMIN_LOGIN_FAILED,
            "spec.target.postgres.exec.adminUser",
            format!("the admin role {:?} of {at} may not create databases: grant it CREATEDB", server.user),
        );
    }
    let Some(role) = role else {
        out.block(
            reasons::OWNER_NOT_READY,
            path,
            format!("role {name:?} does not exist on {at}: create it, with LOGIN and the password of spec.databases[0].owner.passwordSecretRef"),
        );
        return;
    };
    if !role.login {
        out.block(
            reasons::OWNER_NOT_READY,
            path,
            format!("role {name:?} of {at} may not log in, and the restore and the application do: ALTER ROLE ... LOGIN"),
        );
    }
    if role.superuser {
        out.warn(
            reasons::OWNER_NOT_READY,
            path,
            format!("role {name:?} of {at} is a superuser: code in the source database runs with its rights during the restore. Let a plain role own the copy"),
        );
    }
    if !server.superuser && !role.reachable {
        out.block(
            reasons::OWNER_NOT_READY,
            path,
            format!(
                "the admin role {:?} of {at} may not make {name:?} the owner of a database: GRANT {name:?} TO {:?}",
                server.user, server.user
            ),
        );
    }
}

/// What has the database's final name on the target now.
#[derive(Clone, Debug)]
pub struct Existing {
    /// The database.
    pub database: Database,
    /// What it holds; absent when it refuses connections.
    pub inventory: Option<Inventory>,
}

/// Judges a database that has the final name. `aside`: the name that it will be kept under.
pub fn existing(out: &mut Findings, place: &Place, policy: ExistingTarget, existing: &Existing, aside: &str, source: &Database) {
    let database = &existing.database;
    let (name, at) = (&database.name, place.server());
    if database.is_template || !database.allow_connections || ["postgres", "template0", "template1"].contains(&name.as_str()) {
        out.block(
            reasons::NAME_TAKEN,
            "spec.databases[0].targetName",
            format!("database {name:?} of {at} is a maintenance database, a template, or refuses connections: it cannot be set aside. Choose another targetName"),
        );
        return;
    }
    let Some(inventory) = &existing.inventory else { return };
    let tables = inventory.counts.tables + inventory.counts.partitioned_tables + inventory.counts.foreign_tables;
    match policy {
        ExistingTarget::Refuse if inventory.holds_tables() => out.block(
            reasons::TARGET_NOT_EMPTY,
            "spec.databases[0].existingTarget",
            format!("database {name:?} of {at} holds {tables} tables: choose another targetName, or existingTarget: SetAside, which keeps it under another name"),
        ),
        ExistingTarget::Refuse | ExistingTarget::SetAside => out.warn(
            reasons::TARGET_NOT_EMPTY,
            "spec.databases[0].existingTarget",
            format!("database {name:?} of {at} ({tables} tables) makes room for the copy and is kept as {aside:?}; nothing of it is carried over"),
        ),
    }
    if database.encoding != source.encoding {
        out.warn(
            reasons::ENCODING_MISMATCH,
            "spec.databases[0]",
            format!(
                "database {name:?} of {at} has encoding {}; the copy that takes its place has the source's, {}: drivers must expect that",
                database.encoding, source.encoding
            ),
        );
    }
}

/// Locales of a server, and what is known of their versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locales {
    /// Names of libc's, as `locale -a` and the server's catalogs give them. Absent: the system cannot tell, and takes any.
    pub libc: Option<Vec<String>>,
    /// Databases of the server: a version of collation data is known for their locales.
    pub databases: Vec<Database>,
}

/// Judges whether the target has the source's locale. The copy is made with the source's encoding and locale.
pub fn locale(out: &mut Findings, place: &Place, source: &Database, target: &Locales) {
    let (path, at) = ("spec.target.postgres", place.server());
    if let Some(known) = &target.libc {
        let mut missing: Vec<&str> = [source.collate.as_str(), source.ctype.as_str()]
            .into_iter()
            .filter(|wanted| !builtin(wanted) && !known.iter().any(|one| normal(one) == normal(wanted)))
            .collect();
        missing.dedup();
        if !missing.is_empty() {
            out.block(
                reasons::LOCALE_MISMATCH,
                path,
                format!(
                    "database {:?} of the source has locale {}, which the system of {at} does not have: use an image with that locale",
                    source.name,
                    missing.join(" and ")
                ),
            );
        }
    }
    let same = |one: &&Database| {
        one.locale_provider == source.locale_provider
            && normal(&one.collate) == normal(&source.collate)
            && one.locale == source.locale
    };
    let there = target.databases.iter().filter(same).find_map(|one| one.actual_collation_version.as_ref());
    if let (Some(here), Some(there)) = (&source.actual_collation_version, there)
        && here != there
    {
        out.warn(
            reasons::COLLATION_CHANGED,
            path,
            format!(
                "locale {} is of version {here} on the source and {there} on {at}: text may sort in another order, and ranges of partitions by text may no longer fit. Indexes are built anew and are right",
                source.locale.as_deref().unwrap_or(&source.collate)
            ),
        );
    }
}

fn builtin(locale: &str) -> bool {
    ["c", "posix", ""].contains(&normal(locale).as_str())
}

/// `en_US.UTF-8`, `en_US.utf8`: one locale.
fn normal(locale: &str) -> String {
    let (language, encoding) = locale.split_once('.').unwrap_or((locale, ""));
    let encoding: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    format!("{language}{}{encoding}", if encoding.is_empty() { "" } else { "." }).to_ascii_lowercase()
}

/// Judges the room on the target's volume, in bytes: what the source database takes there, and what is free.
pub fn room(out: &mut Findings, place: &Place, needed: u64, free: u64) {
    let path = "spec.target.postgres";
    let message =
        format!("the source database takes {}, and the data volume of {} has {} free", size(needed), place.server(), size(free));
    if free < needed {
        out.block(reasons::DISK_TOO_SMALL, path, format!("{message}: make room, or enlarge the volume"));
    } else if free < needed.saturating_add(needed.saturating_mul(3) / 10) {
        out.warn(
            reasons::DISK_TOO_SMALL,
            path,
            format!("{message}: with the WAL of the restore it may run full. 1.3 times the size is a sensible margin"),
        );
    }
}

/// What a login as the owner came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// It reached a server.
    Reached {
        /// Its system identifier.
        system_identifier: String,
        /// It is a standby.
        in_recovery: bool,
    },
    /// A server answered and refused the login, in its words.
    Refused(String),
    /// No server answered.
    Unreachable(String),
}

/// Reads the answer to a login into `database`, a name that no database has yet: the server proves who it is talking to, and
/// looks into its access rules, before it looks for the database. `Ok`: it let the login pass.
pub fn entry(database: &str, answer: &str) -> Result<(), String> {
    if answer.contains(database) && !answer.contains("pg_hba.conf") { Ok(()) } else { Err(answer.to_owned()) }
}

/// Judges the login that the restore will use: as the owner, inside the container.
pub fn local_login(out: &mut Findings, place: &Place, owner: &str, entry: &Result<(), String>) {
    let Err(why) = entry else { return };
    out.block(
        reasons::OWNER_NOT_READY,
        "spec.databases[0].owner.passwordSecretRef",
        format!(
            "role {owner:?} cannot log in to {} from inside its container with the password of the Secret, and the restore does so: {why}. Correct the password, or the lines `local` of pg_hba.conf",
            place.server()
        ),
    );
}

/// Judges the endpoint: a login through it must reach the server `expected` (its system identifier). `inside`: the same
/// login works inside the container.
pub fn endpoint(
    out: &mut Findings,
    place: &Place,
    endpoint: &Endpoint,
    owner: &str,
    expected: &str,
    login: &Login,
    inside: bool,
) {
    let path = "spec.target.endpoint";
    let address = format!("{}:{}", endpoint.host, endpoint.port);
    let from = format!("from pod {}/{} of {}", place.namespace, place.pod, place.cluster);
    match login {
        Login::Reached { system_identifier, .. } if system_identifier != expected => out.block(
            reasons::ENDPOINT_MISMATCH,
            path,
            format!(
                "{address} leads {from} to another server (system identifier {system_identifier}) than {} ({expected}): applications would not find the new database there. Correct the host, or the Service behind it",
                place.server()
            ),
        ),
        Login::Reached { in_recovery: true, .. } => out.block(
            reasons::ENDPOINT_MISMATCH,
            path,
            format!("{address} leads {from} to a standby of {}, which takes no writes: name the primary", place.server()),
        ),
        Login::Reached { .. } => {}
        Login::Refused(why) if inside => out.block(
            reasons::ENDPOINT_MISMATCH,
            path,
            format!(
                "{address} refuses {from} the login of role {owner:?} with the password of the Secret, which {} accepts inside its container: it leads to another server, or the password is wrong and only the local socket does not ask for it: {why}",
                place.server()
            ),
        ),
        Login::Refused(why) => out.block(
            reasons::OWNER_NOT_READY,
            "spec.databases[0].owner.passwordSecretRef",
            format!("role {owner:?} cannot log in through {address} {from} with the password of the Secret, and the application does so: {why}. Correct the Secret, the role's password or pg_hba.conf"),
        ),
        Login::Unreachable(why) => {
            out.block(reasons::ENDPOINT_MISMATCH, path, format!("{address} does not answer {from}: {why}"));
        }
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
