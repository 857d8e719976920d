//! Checks of what the source database holds: what a dump does not carry, what breaks or changes in the copy.

use super::{Findings, Place, listed, size};
use crate::api::conditions::reasons;
use crate::archive::limits;
use crate::postgres::catalog::{
    AvailableExtension, Capped, Database, DatabaseNameUse, DatabaseSettings, EventTrigger, InstalledExtension, Inventory,
    PublicRights, RelationName, RoleUse, SearchPathUse, Server,
};

/// Where findings about the database point to.
const PATH: &str = "spec.databases[0]";

/// What the source database holds.
#[derive(Clone, Debug)]
pub struct Content {
    /// The database.
    pub database: Database,
    /// Its server.
    pub server: Server,
    /// Numbers and names.
    pub inventory: Inventory,
    /// Its event triggers.
    pub event_triggers: Vec<EventTrigger>,
    /// Expressions that ask for the database's name.
    pub name_uses: Capped<DatabaseNameUse>,
    /// Functions that rely on the search path.
    pub path_uses: Capped<SearchPathUse>,
    /// Roles that own or are granted something in it.
    pub role_uses: Vec<RoleUse>,
    /// Where PUBLIC may do less or more in it than with new objects.
    pub public_rights: PublicRights,
    /// Access list and settings of the database itself.
    pub settings: DatabaseSettings,
}

/// Judges the content. `renamed`: the target's database gets another name.
pub fn content(out: &mut Findings, place: &Place, it: &Content, owner: &str, renamed: bool) {
    let (name, at) = (&it.database.name, place.server());
    let archive = it.inventory.table_bytes.saturating_add(it.inventory.counts.large_object_bytes);
    archive_size(out, place, name, archive, limits::max_archive_bytes());
    triggers(out, place, it);
    name_uses(out, place, it, renamed);
    if !it.path_uses.is_empty() {
        let named = it.path_uses.items.iter().map(|one| format!("{} (called by {} {})", one.function, one.kind, one.object));
        out.warn(
            reasons::SEARCH_PATH_DEPENDENCE,
            PATH,
            format!(
                "functions of database {name:?} of {at} may rely on the search path, which is empty during a restore, so that it fails: {}. If so, on the source: ALTER FUNCTION ... SET search_path = ...",
                listed(named, total(it.path_uses.total))
            ),
        );
    }
    let relations = |out: &mut Findings, all: &Capped<RelationName>, what: &str| {
        if !all.is_empty() {
            let named = all.items.iter().map(|one| format!("{}.{}", one.schema, one.name));
            out.warn(
                reasons::NOT_CARRIED_OVER,
                PATH,
                format!("database {name:?} of {at} has {what}: {}", listed(named, total(all.total))),
            );
        }
    };
    relations(out, &it.inventory.invalid_indexes, "invalid indexes, which a dump leaves out (REINDEX or drop them)");
    relations(
        out,
        &it.inventory.foreign_tables,
        "foreign tables: their rows are elsewhere and stay there; the target must be able to reach them",
    );
    relations(
        out,
        &it.inventory.tablespace_tables,
        "tables in tablespaces of their own; on the target they go into the default one, which must have the room",
    );
    if it.database.encoding == "SQL_ASCII" {
        out.warn(
            reasons::ENCODING_MISMATCH,
            PATH,
            format!(
                "database {name:?} of {at} has encoding SQL_ASCII: its text may be of any encoding, and is copied byte by byte. The copy is SQL_ASCII too"
            ),
        );
    }
    if let (Some(made), Some(now)) = (&it.database.collation_version, &it.database.actual_collation_version)
        && made != now
    {
        out.warn(
            reasons::COLLATION_CHANGED,
            PATH,
            format!("database {name:?} of {at} was made with collation version {made}, and runs with {now}: its indexes on text may be corrupt, and rows that break a unique constraint may show up in the restore. Before the migration: REINDEX DATABASE, then ALTER DATABASE ... REFRESH COLLATION VERSION"),
        );
    }
    grants(out, place, it, owner);
    locks(out, place, it);
}

/// `pg_dump` locks all tables at once, and holds the locks until it ends.
fn locks(out: &mut Findings, place: &Place, it: &Content) {
    let (name, at) = (&it.database.name, place.server());
    let (tables, least, most) = (it.inventory.counts.tables, it.server.lock_slots, it.server.lock_limit);
    let remedy = "Raise max_locks_per_transaction on it, which wants a restart";
    if tables > most {
        out.block(
            reasons::LOCK_TABLE_SMALL,
            PATH,
            format!("database {name:?} of {at} has {tables} tables, and pg_dump locks all of them at once, but the server has room for fewer than {most} locks. {remedy}"),
        );
    } else if tables > least {
        out.warn(
            reasons::LOCK_TABLE_SMALL,
            PATH,
            format!("database {name:?} of {at} has {tables} tables, and pg_dump locks all of them at once, but the server has room for {least} locks for certain, all sessions together. {remedy}, if the dump or other sessions fail with \"out of shared memory\""),
        );
    }
}

fn total(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Judges whether a dump of `bytes` uncompressed fits into one object of `limit` bytes.
fn archive_size(out: &mut Findings, place: &Place, name: &str, bytes: u64, limit: u64) {
    if bytes > limit {
        out.block(
            reasons::ARCHIVE_TOO_LARGE,
            PATH,
            format!(
                "the tables and large objects of database {name:?} of {} take {}; an archive holds {} at most, and it is not certain that compression makes up for that. Make it smaller, or move it by other means",
                place.server(),
                size(bytes),
                size(limit)
            ),
        );
    }
}

fn triggers(out: &mut Findings, place: &Place, it: &Content) {
    let (name, at) = (&it.database.name, place.server());
    let own: Vec<&EventTrigger> = it.event_triggers.iter().filter(|trigger| !trigger.extension).collect();
    let login: Vec<&str> =
        it.event_triggers.iter().filter(|t| t.event == "login" && t.enabled).map(|t| t.name.as_str()).collect();
    if !login.is_empty() && !it.server.superuser {
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            PATH,
            format!(
                "login triggers of database {name:?} of {at} ({}) fire for the dump as well, and may write under the fence; only a superuser can switch them off for its sessions. Use a superuser as admin, or disable them",
                listed(&login, login.len())
            ),
        );
    }
    if !own.is_empty() {
        out.warn(
            reasons::NOT_CARRIED_OVER,
            PATH,
            format!(
                "database {name:?} of {at} has event triggers, which only a superuser may create and which are not carried over: {}. Create them again on the target",
                listed(own.iter().map(|t| &t.name), own.len())
            ),
        );
    }
}

fn name_uses(out: &mut Findings, place: &Place, it: &Content, renamed: bool) {
    // Row security does not bind the restore; it is right again once the copy has the same name.
    let (policies, evaluated): (Vec<_>, Vec<_>) = it.name_uses.items.iter().partition(|one| one.kind == "policy");
    let named = |all: &[&DatabaseNameUse]| {
        let each = all.iter().map(|one| format!("{} {}: {}", one.kind, one.object, one.expression));
        listed(each, all.len())
    };
    let (name, at) = (&it.database.name, place.server());
    if !evaluated.is_empty() {
        out.block(
            reasons::DATABASE_NAME_IN_EXPRESSION,
            PATH,
            format!(
                "expressions of database {name:?} of {at} ask for the name of the database and are evaluated while it is restored under another name, so that rows would be refused or changed: {}. Rewrite them without current_database()",
                named(&evaluated)
            ),
        );
    }
    if renamed && !policies.is_empty() {
        out.warn(
            reasons::DATABASE_NAME_IN_EXPRESSION,
            PATH,
            format!(
                "policies of database {name:?} of {at} ask for the name of the database, which is another one on the target: {}. Rewrite them, or keep the name: no targetName",
                named(&policies)
            ),
        );
    }
}

/// Everything will belong to one owner: what others own or may do is said before it is dropped.
fn grants(out: &mut Findings, place: &Place, it: &Content, owner: &str) {
    let (name, at) = (&it.database.name, place.server());
    let owners: Vec<&str> = it.role_uses.iter().filter(|r| r.owns > 0 && r.name != owner).map(|r| r.name.as_str()).collect();
    if !owners.is_empty() {
        out.warn(
            reasons::OWNERSHIP_CHANGES,
            "spec.databases[0].ownership",
            format!(
                "objects of database {name:?} of {at} belong to {}; in the copy all of them belong to {owner:?} (ownership: Single)",
                listed(&owners, owners.len())
            ),
        );
    }
    let mut granted: Vec<&str> =
        it.role_uses.iter().filter(|r| r.granted > 0 && r.name != owner).map(|r| r.name.as_str()).collect();
    let on_database = it.settings.acl.iter().filter_map(|item| item.grantee.as_deref());
    granted.extend(on_database.filter(|grantee| *grantee != it.database.owner && *grantee != owner));
    granted.sort_unstable();
    granted.dedup();
    if !granted.is_empty() {
        out.warn(
            reasons::OWNERSHIP_CHANGES,
            "spec.databases[0].ownership",
            format!(
                "roles are granted rights in database {name:?} of {at}: {}. Grants are not carried over (ownership: Single): give them again on the target after the migration",
                listed(&granted, granted.len())
            ),
        );
    }
    let public = [
        (
            &it.public_rights.revoked,
            "is denied",
            "which it has in the copy as with all that is new (ownership: Single): revoke them again on the target",
        ),
        (
            &it.public_rights.granted,
            "is granted",
            "which are not carried over (ownership: Single): give them again on the target after the migration",
        ),
    ];
    for (rights, verb, then) in public {
        if !rights.is_empty() {
            out.warn(
                reasons::OWNERSHIP_CHANGES,
                "spec.databases[0].ownership",
                format!(
                    "PUBLIC, that is every role, {verb} rights in database {name:?} of {at}, {then}. They are {}",
                    listed(&rights.items, total(rights.total))
                ),
            );
        }
    }
    let settings: Vec<&str> = it
        .settings
        .settings
        .iter()
        .filter(|s| s.role.as_ref().is_some_and(|r| *r != it.database.owner))
        .map(|s| s.setting.as_str())
        .collect();
    if !settings.is_empty() {
        out.warn(
            reasons::NOT_CARRIED_OVER,
            PATH,
            format!(
                "settings of single roles for database {name:?} of {at} are not carried over: {}. Give them again on the target: ALTER ROLE ... IN DATABASE ... SET",
                listed(&settings, settings.len())
            ),
        );
    }
}

/// Judges the extensions that the source uses against those that the target, with `server`, has on offer.
pub fn extensions(
    out: &mut Findings,
    target: &Place,
    server: &Server,
    used: &[InstalledExtension],
    offered: &[AvailableExtension],
) {
    // Every database has it from its template.
    for extension in used.iter().filter(|extension| extension.name != "plpgsql") {
        let (name, version) = (&extension.name, &extension.version);
        let Some(offer) = offered.iter().find(|offer| offer.name == *name) else {
            out.block(
                reasons::EXTENSION_UNAVAILABLE,
                "spec.target.postgres",
                format!(
                    "the source uses extension {name:?} {version}, which {} does not have on offer: use an image that holds it, or drop it on the source",
                    target.server()
                ),
            );
            continue;
        };
        let exact = offer.versions.iter().find(|one| one.version == *version);
        if exact.is_none() && older(&offer.default_version, version) {
            let offers: Vec<&str> = offer.versions.iter().map(|one| one.version.as_str()).collect();
            out.block(
                reasons::EXTENSION_UNAVAILABLE,
                "spec.target.postgres",
                format!(
                    "the source uses extension {name:?} {version}; {} offers only older versions: {}. Use an image with that version or a newer one",
                    target.server(),
                    listed(&offers, offers.len())
                ),
            );
            continue;
        }
        if exact.is_none() || offer.default_version != *version {
            out.warn(
                reasons::EXTENSION_CHANGES,
                "spec.target.postgres",
                format!(
                    "extension {name:?} is of version {version} on the source and {} by default on {}: read its notes on upgrades",
                    offer.default_version,
                    target.server()
                ),
            );
        }
        let chosen = exact.or_else(|| offer.versions.iter().find(|one| one.version == offer.default_version));
        if !server.superuser && chosen.is_some_and(|one| one.superuser && !one.trusted) {
            out.block(
                reasons::EXTENSION_UNAVAILABLE,
                "spec.target.postgres.exec.adminUser",
                format!("extension {name:?} can be created by superusers only, and the admin role {:?} of {} is none: use a superuser as admin", server.user, target.server()),
            );
        }
        if extension.configuration_tables > 0 {
            out.warn(
                reasons::EXTENSION_CHANGES,
                PATH,
                format!("extension {name:?} keeps rows of users in tables of its own; rows that the extension itself puts there as well would make the restore fail. If it fails, delete those rows on the source"),
            );
        }
    }
}

/// Whether `one` is certainly older than `other`: numbers between dots, compared one by one.
fn older(one: &str, other: &str) -> bool {
    let numbers = |text: &str| text.split(['.', '-']).map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    matches!((numbers(one), numbers(other)), (Some(a), Some(b)) if a < b)
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
