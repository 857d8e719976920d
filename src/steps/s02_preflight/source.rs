//! Gathers what the source server and its database are and hold.

use super::workloads::at;
use super::{End, Report};
use crate::api::PostgresMigrationSpec;
use crate::api::names::session_tag_prefix;
use crate::kubernetes::inspect;
use crate::plan::Failure;
use crate::plan::checks::content::{self, Content};
use crate::plan::checks::servers::{self, Surroundings};
use crate::postgres::carrier::{Session, SqlError};
use crate::postgres::catalog::{self, Database, InstalledExtension, Server};
use crate::postgres::fence::FenceNames;

/// What other parts need to know of the source.
pub(super) struct Facts {
    pub server: Server,
    /// The database; absent when it vanished.
    pub database: Option<Database>,
    /// Its extensions; absent when it cannot be entered.
    pub extensions: Option<Vec<InstalledExtension>>,
}

pub(super) async fn look(end: &End, spec: &PostgresMigrationSpec, uid: &str) -> (Report, Option<Facts>) {
    let mut report = Report::default();
    let name = &spec.databases[0].name;
    let names = FenceNames::derive(name, uid);
    let (around, inside) = tokio::join!(around(end, &names, uid), inside(end, name));
    let Some((mut around, taken)) = report.take(around) else { return (report, None) };
    let probes = inspect::exec_probes(&end.client, &end.place.namespace, &end.place.pod, &end.pinned.container).await;
    let probes = report.take(probes.map_err(|e| at(&end.place, "spec.source.postgres.exec", &e))).unwrap_or_default();
    around.probes = probes.iter().filter(|command| servers::logs_in(command, name)).map(|command| command.join(" ")).collect();
    if around.server.in_recovery {
        // Nothing else can be judged on a standby: it is a blocker by itself.
        return (report, Some(Facts { server: around.server, database: Some(around.database), extensions: None }));
    }
    servers::fence(&mut report.findings, &end.place, spec.source.fence, &names.fenced, &around);
    servers::names(&mut report.findings, &end.place, &taken.iter().map(String::as_str).collect::<Vec<_>>());
    let inside = if around.database.allow_connections { report.take(inside) } else { None };
    let Surroundings { server, database, .. } = around;
    let extensions = inside.map(|inside| {
        let Inside { inventory, event_triggers, name_uses, path_uses, role_uses, public_rights, settings, extensions } = inside;
        let (server, database) = (server.clone(), database.clone());
        let content =
            Content { database, server, inventory, event_triggers, name_uses, path_uses, role_uses, public_rights, settings };
        let renamed = spec.databases[0].target_name() != name;
        content::content(&mut report.findings, &end.place, &content, &spec.databases[0].owner.name, renamed);
        extensions
    });
    (report, Some(Facts { server, database: Some(database), extensions }))
}

/// What stands around the database, seen from the maintenance database, and names of ours that are taken.
async fn around(end: &End, names: &FenceNames, uid: &str) -> Result<(Surroundings, Vec<String>), Failure> {
    let mut session = end.session("postgres", false).await?;
    let asked = ask_around(session.as_mut(), names, uid).await.map_err(|e| end.sql(&e));
    session.close().await;
    let (surroundings, taken) = asked?;
    let mut surroundings = surroundings.ok_or_else(|| {
        let name = &names.database;
        Failure::needs_human(
            crate::api::conditions::reasons::DATABASE_NOT_FOUND,
            format!("spec.databases[0].name: database {name:?} does not exist any more on {}", end.place.server()),
        )
    })?;
    surroundings.no_entry = end.entry(end.login(), &names.fenced).await?.err();
    Ok((surroundings, taken))
}

async fn ask_around(
    session: &mut dyn Session,
    names: &FenceNames,
    uid: &str,
) -> Result<(Option<Surroundings>, Vec<String>), SqlError> {
    let name = names.database.as_str();
    let server = catalog::server(session).await?;
    let all = catalog::databases(session).await?;
    let ours = [&names.fenced, &names.tombstone];
    let taken = all.items.iter().map(|one| one.name.clone()).filter(|one| ours.contains(&one)).collect();
    let Some(database) = catalog::database(session, name).await? else { return Ok((None, taken)) };
    let sessions = catalog::sessions(session, database.oid, &session_tag_prefix(uid)).await?;
    let mut users: Vec<String> =
        sessions.items.iter().filter_map(|one| one.user.clone()).filter(|user| *user != server.user).collect();
    users.push(database.owner.clone());
    users.sort();
    users.dedup();
    let roles = catalog::roles(session, &users).await?;
    let connected = |role: &catalog::Role| sessions.items.iter().any(|one| one.user.as_ref() == Some(&role.name));
    let surroundings = Surroundings {
        owner: roles.iter().find(|role| role.name == database.owner).cloned(),
        superusers: roles.iter().filter(|role| role.superuser && connected(role)).map(|role| role.name.clone()).collect(),
        admin_is_shared: sessions.items.iter().any(|one| one.user.as_ref() == Some(&server.user)),
        prepared: catalog::prepared_transactions(session, name).await?,
        index_builds: catalog::index_builds(session, database.oid).await?,
        subscriptions: catalog::subscriptions(session, database.oid).await?,
        slots: catalog::replication_slots(session, name).await?,
        standbys: if server.in_recovery { None } else { Some(catalog::standbys(session, None).await?) },
        hba: catalog::hba_lines(session, name).await?,
        no_entry: None,
        probes: Vec::new(),
        server,
        database,
    };
    Ok((Some(surroundings), taken))
}

/// What is in the database.
struct Inside {
    inventory: catalog::Inventory,
    event_triggers: Vec<catalog::EventTrigger>,
    name_uses: catalog::Capped<catalog::DatabaseNameUse>,
    path_uses: catalog::Capped<catalog::SearchPathUse>,
    role_uses: Vec<catalog::RoleUse>,
    public_rights: catalog::PublicRights,
    settings: catalog::DatabaseSettings,
    extensions: Vec<InstalledExtension>,
}

async fn inside(end: &End, name: &str) -> Result<Inside, Failure> {
    // Login triggers (17 and newer) must not fire for a look; keeping them from it is a right of superusers only.
    let mut silent = false;
    if end.version().major() >= 17 {
        let mut maintenance = end.session("postgres", false).await?;
        let server = catalog::server(maintenance.as_mut()).await.map_err(|e| end.sql(&e));
        maintenance.close().await;
        silent = server?.superuser;
    }
    let mut session = end.session(name, silent).await?;
    let found = ask_inside(session.as_mut()).await.map_err(|e| end.sql(&e));
    session.close().await;
    found
}

async fn ask_inside(session: &mut dyn Session) -> Result<Inside, SqlError> {
    let oid = catalog::server(session).await?.database_oid;
    Ok(Inside {
        inventory: catalog::inventory(session).await?,
        event_triggers: catalog::event_triggers(session).await?,
        name_uses: catalog::database_name_uses(session).await?,
        path_uses: catalog::search_path_uses(session).await?,
        role_uses: catalog::role_uses(session).await?,
        public_rights: catalog::public_rights(session).await?,
        settings: catalog::database_settings(session, oid).await?,
        extensions: catalog::extensions(session).await?,
    })
}
