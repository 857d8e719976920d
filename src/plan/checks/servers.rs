//! Checks of both servers: tools and versions, which database it is, and whether it can be fenced.

use super::{Findings, Place, listed};
use crate::api::conditions::reasons;
use crate::api::{FenceKind, FenceMethod, Side};
use crate::postgres::catalog::{
    Capped, Database, HbaLine, IndexBuild, PreparedTransaction, ReplicationSlot, Role, Server, Standbys, Subscription,
};
use crate::postgres::versions::{Mismatch, Version, Versions};

/// What the container of a server holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tools {
    /// `psql`; absent when it is missing or does not say its version.
    pub psql: Option<Version>,
    /// `pg_dump`.
    pub dump: Option<Version>,
    /// `pg_restore`.
    pub restore: Option<Version>,
    /// Utilities that the transfer needs and the container lacks.
    pub lacking: Vec<String>,
}

/// Judges the tools of one container.
pub fn tools(out: &mut Findings, place: &Place, container: &str, tools: &Tools) {
    let needed = match place.side {
        Side::Source => [("psql", tools.psql), ("pg_dump", tools.dump)],
        Side::Target => [("psql", tools.psql), ("pg_restore", tools.restore)],
    };
    let missing: Vec<&str> = needed.iter().filter(|(_, version)| version.is_none()).map(|(name, _)| *name).collect();
    let missing: Vec<&str> = missing.into_iter().chain(tools.lacking.iter().map(String::as_str)).collect();
    if !missing.is_empty() {
        out.block(
            reasons::TOOL_NOT_FOUND,
            place.below("postgres.exec.container"),
            format!(
                "container {container:?} of pod {}/{} of {} lacks {}: the database is moved with the tools of the server's own container. Name the container that holds them, or use an image that does",
                place.namespace,
                place.pod,
                place.cluster,
                missing.join(", ")
            ),
        );
    }
}

/// Judges whether servers and tools fit together.
pub fn versions(out: &mut Findings, source: &Place, target: &Place, versions: Versions) {
    for wrong in versions.judge() {
        let (reason, path, remedy) = match wrong {
            Mismatch::TooOld(_) => (reasons::SERVER_TOO_OLD, "spec.source.postgres", "upgrade it first"),
            Mismatch::Downgrade { .. } => (
                reasons::TARGET_OLDER,
                "spec.target.postgres",
                "loading into an older version may fail, or change meaning in silence: use a target of the source's version or newer",
            ),
            Mismatch::DumpOlderThanSource { .. } => (
                reasons::TOOL_VERSION_MISMATCH,
                "spec.source.postgres.exec.container",
                "use an image whose tools are of the server's version",
            ),
            Mismatch::DumpNewerThanTarget { .. } => (
                reasons::TOOL_VERSION_MISMATCH,
                "spec.source.postgres.exec.container",
                "use a container with the tools of the source server's version",
            ),
            Mismatch::RestoreNotOfTarget { .. } => (
                reasons::TOOL_VERSION_MISMATCH,
                "spec.target.postgres.exec.container",
                "use an image whose tools are of the server's version",
            ),
        };
        out.block(reason, path, format!("{wrong} ({} and {}): {remedy}", source.server(), target.server()));
    }
}

/// Judges what both servers are: primaries, and not one database.
pub fn identity(out: &mut Findings, source: (&Place, &Server), target: (&Place, &Server), name: &str, target_name: &str) {
    for (place, server) in [source, target] {
        if server.in_recovery {
            out.block(
                reasons::SERVER_IS_STANDBY,
                place.below("postgres.exec"),
                format!("{} is a standby, which cannot be written: name the pod of the primary", place.server()),
            );
        }
    }
    if source.1.system_identifier == target.1.system_identifier && name == target_name {
        out.block(
            reasons::SAME_DATABASE,
            "spec.target",
            format!(
                "database {name:?} of {} and of {} are one and the same: name another server, or a targetName",
                source.0.server(),
                target.0.server()
            ),
        );
    }
}

const CREATEDB: &str = "CREATEDB";

/// What the admin lacks for the swap fence; empty when it may swap.
///
/// `owner` is the role that owns the database; absent when it is gone.
pub fn lacking_for_swap(server: &Server, owner: Option<&Role>) -> Vec<&'static str> {
    if server.superuser {
        return Vec::new();
    }
    let mut lacking = Vec::new();
    if !server.createdb {
        lacking.push(CREATEDB);
    }
    if !owner.is_some_and(|owner| owner.inherited) {
        lacking.push("inherited membership in the role that owns the database");
    }
    if !server.signal_backend {
        lacking.push("membership in pg_signal_backend");
    }
    lacking
}

/// What the admin lacks for the layered fence: to take CONNECT away, to keep the database's owner from logging in, to end
/// sessions. Empty when it may.
pub fn lacking_for_layers(server: &Server, owner: Option<&Role>) -> Vec<&'static str> {
    if server.superuser {
        return Vec::new();
    }
    let mut lacking: Vec<_> = lacking_for_swap(server, owner).into_iter().filter(|one| *one != CREATEDB).collect();
    if owner.is_some_and(|owner| owner.login && owner.name != server.user) && !server.createrole {
        lacking.push("CREATEROLE");
    }
    lacking
}

/// How the source is fenced: by renaming wherever the admin may, unless the author asks otherwise.
pub fn fence_kind(asked: FenceMethod, server: &Server, owner: Option<&Role>) -> FenceKind {
    match asked {
        FenceMethod::Swap => FenceKind::Swap,
        FenceMethod::Layered => FenceKind::Layered,
        FenceMethod::Auto if lacking_for_swap(server, owner).is_empty() => FenceKind::Swap,
        FenceMethod::Auto => FenceKind::Layered,
    }
}

/// Everything around the source database that a fence has to do with.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The server, and what the admin may do there.
    pub server: Server,
    /// The database.
    pub database: Database,
    /// The role that owns it.
    pub owner: Option<Role>,
    /// Superusers, other than the admin, with a session in it.
    pub superusers: Vec<String>,
    /// Somebody else is connected to it as the admin's own role.
    pub admin_is_shared: bool,
    /// Its prepared transactions.
    pub prepared: Capped<PreparedTransaction>,
    /// Concurrent index builds in it.
    pub index_builds: Vec<IndexBuild>,
    /// Its subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Its logical slots.
    pub slots: Vec<ReplicationSlot>,
    /// Followers of the server.
    pub standbys: Option<Standbys>,
    /// Access rules that name it; absent when they may not be read.
    pub hba: Option<Vec<HbaLine>>,
    /// Why the admin cannot log in to a database called as this one will be behind the fence; absent when it can.
    pub no_entry: Option<String>,
    /// Commands of the pod's probes that log in to the database.
    pub probes: Vec<String>,
}

/// Judges whether the source can be fenced as asked.
pub fn fence(out: &mut Findings, place: &Place, asked: FenceMethod, fenced: &str, it: &Surroundings) {
    let (server, database) = (&it.server, &it.database);
    let (name, at) = (&database.name, place.server());
    let path = "spec.databases[0].name";
    if ["postgres", "template0", "template1"].contains(&name.as_str()) || database.is_template || !database.allow_connections {
        let comment = database.comment.as_deref().map_or_else(String::new, |text| format!(" Its comment says: {text}"));
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            path,
            format!(
                "database {name:?} of {at} is one that cannot be moved: a maintenance database, a template, or one that refuses connections because it was moved before. Name another database.{comment}"
            ),
        );
    }
    let kind = fence_kind(asked, server, it.owner.as_ref());
    let lacking = lacking_for_swap(server, it.owner.as_ref());
    let admin_path = "spec.source.postgres.exec.adminUser";
    let missing =
        format!("the admin role {:?} of {at} may not rename database {name:?}: it lacks {}", server.user, lacking.join(" and "));
    match (asked, kind) {
        (FenceMethod::Swap, _) if !lacking.is_empty() => {
            out.block(reasons::FENCE_NOT_POSSIBLE, admin_path, format!("{missing}. Grant it, use another role as admin, or ask for fence: Auto"));
        }
        (FenceMethod::Auto, FenceKind::Layered) => out.warn(
            reasons::FENCE_NOT_POSSIBLE,
            admin_path,
            format!("{missing}. The layered fence takes the place of the swap: it keeps the owner and everybody's CONNECT out, and does not bind superusers. Grant that for the swap"),
        ),
        (FenceMethod::Auto | FenceMethod::Swap | FenceMethod::Layered, FenceKind::Swap | FenceKind::Layered) => {}
    }
    if kind == FenceKind::Layered {
        layers(out, place, it);
    }
    if !it.superusers.is_empty() && (kind == FenceKind::Layered || !server.superuser) {
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            admin_path,
            format!(
                "superusers are connected to database {name:?} of {at} ({}), and a {kind:?} fence raised by role {:?} cannot keep them out: use a superuser as admin with fence: Swap, or let the application log in as another role",
                listed(&it.superusers, it.superusers.len()),
                server.user
            ),
        );
    }
    if !it.prepared.is_empty() {
        out.block(
            reasons::PREPARED_TRANSACTIONS,
            path,
            format!(
                "database {name:?} of {at} has prepared transactions ({}), which no dump holds and which could still be committed afterwards: COMMIT PREPARED or ROLLBACK PREPARED them",
                listed(it.prepared.items.iter().map(|one| &one.gid), usize::try_from(it.prepared.total).unwrap_or(usize::MAX))
            ),
        );
    }
    if let Some(build) = it.index_builds.first() {
        out.block(
            reasons::INDEX_BUILD_RUNNING,
            path,
            format!(
                "{} is at work in database {name:?} of {at} (pid {}, {}): ending it would leave an invalid index, which no dump holds. Wait until it is done",
                build.command, build.pid, build.phase
            ),
        );
    }
    if kind == FenceKind::Swap
        && let Some(why) = &it.no_entry
    {
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            path,
            format!(
                "while it is fenced, database {name:?} of {at} is called {fenced:?}, and pg_hba.conf does not let the admin role {:?} into a database of that name: {why}",
                server.user
            ),
        );
    }
    if !server.synchronous_standby_names.is_empty()
        && it.standbys.as_ref().is_some_and(|all| !all.standbys.iter().any(is_synchronous))
    {
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            "spec.source.postgres",
            format!(
                "{at} waits for synchronous standbys ({:?}) and none is connected, so every commit, the fence's included, would hang: bring the standby back or empty synchronous_standby_names",
                server.synchronous_standby_names
            ),
        );
    }
    followers(out, place, it);
}

/// What the layered fence cannot do.
fn layers(out: &mut Findings, place: &Place, it: &Surroundings) {
    let (name, at, path) = (&it.database.name, place.server(), "spec.source.fence");
    let lacking = lacking_for_layers(&it.server, it.owner.as_ref());
    if !lacking.is_empty() {
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            path,
            format!(
                "the admin role {:?} of {at} may not raise the layered fence around database {name:?} either: it lacks {}. Grant it, or use another role as admin",
                it.server.user,
                lacking.join(" and ")
            ),
        );
    }
    if it.admin_is_shared {
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            path,
            format!("somebody is connected to database {name:?} of {at} as the admin role {:?} itself, which the layered fence cannot keep out: let the application log in as another role, or grant the admin what the swap fence needs", it.server.user),
        );
    }
    let enabled: Vec<&str> = it.subscriptions.iter().filter(|s| s.enabled).map(|s| s.name.as_str()).collect();
    if !enabled.is_empty() {
        out.block(
            reasons::FENCE_NOT_POSSIBLE,
            path,
            format!("subscriptions write to database {name:?} of {at} ({}), and the layered fence cannot stop them: disable them first", listed(&enabled, enabled.len())),
        );
    }
}

fn is_synchronous(standby: &crate::postgres::catalog::Standby) -> bool {
    matches!(standby.sync_state.as_deref(), Some("sync" | "quorum"))
}

/// What does not stop the fence, but ought to be known before it.
fn followers(out: &mut Findings, place: &Place, it: &Surroundings) {
    let (name, at, path) = (&it.database.name, place.server(), "spec.databases[0].name");
    let enabled: Vec<&str> = it.subscriptions.iter().filter(|s| s.enabled).map(|s| s.name.as_str()).collect();
    if !enabled.is_empty() {
        out.warn(
            reasons::NOT_CARRIED_OVER,
            path,
            format!(
                "subscriptions write to database {name:?} of {at}: {}. They are disabled while it is fenced, and are not carried over: create them again on the target",
                listed(&enabled, enabled.len())
            ),
        );
    }
    if !it.slots.is_empty() {
        out.warn(
            reasons::NOT_CARRIED_OVER,
            path,
            format!(
                "database {name:?} of {at} has logical replication slots: {}. They are not carried over: their readers must start anew on the target, and until they are dropped the source keeps WAL for them",
                listed(it.slots.iter().map(|slot| &slot.name), it.slots.len())
            ),
        );
    }
    if let Some(detached) = it.standbys.as_ref().map(|all| &all.detached_slots).filter(|slots| !slots.is_empty()) {
        out.warn(
            reasons::STANDBY_AWAY,
            "spec.source.postgres",
            format!(
                "{at} keeps WAL for standbys that are not connected ({}): one of them, promoted later, would not know of the fence and accept writes. Bring them back first, or drop the slots of those that are gone for good",
                listed(detached, detached.len())
            ),
        );
    }
    if let Some(lines) = it.hba.as_ref().filter(|lines| !lines.is_empty()) {
        let numbers: Vec<String> = lines.iter().take(8).map(|line| line.line.to_string()).collect();
        out.warn(
            reasons::ACCESS_RULES_BY_NAME,
            path,
            format!(
                "pg_hba.conf of {at} names database {name:?} (line {}): while the database is fenced it has another name, to which other lines apply, and the target has lines of its own. Look at both",
                numbers.join(", ")
            ),
        );
    }
    for command in &it.probes {
        out.warn(
            reasons::PROBE_LOGS_IN,
            "spec.source.postgres.exec",
            format!(
                "a probe of pod {}/{} of {} seems to log in to database {name:?} ({command}): it fails while the database is fenced, and a failing liveness probe restarts the server. Let it log in to another database, or use pg_isready",
                place.namespace, place.pod, place.cluster
            ),
        );
    }
}

/// Whether the command of a probe seems to log in to this database. `pg_isready` does not.
pub fn logs_in(command: &[String], database: &str) -> bool {
    let text = command.join(" ");
    text.contains("psql") && [database, "POSTGRES_DB", "POSTGRESQL_DATABASE", "PGDATABASE"].iter().any(|word| text.contains(word))
}

/// Judges names that the migration will give to databases: `taken` are those that exist already.
pub fn names(out: &mut Findings, place: &Place, taken: &[&str]) {
    for name in taken {
        out.block(
            reasons::NAME_TAKEN,
            "spec.databases[0]",
            format!(
                "a database {name:?} exists already on {}: the migration needs that name. It may be left from an earlier run of this object: look into it, then rename or drop it",
                place.server()
            ),
        );
    }
}

#[cfg(test)]
#[path = "servers_tests.rs"]
mod tests;
