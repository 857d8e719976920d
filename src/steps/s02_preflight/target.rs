//! Gathers what the target server is and has, and where the endpoint leads.

use std::sync::Arc;

use async_trait::async_trait;

use super::{End, LOGIN, Report, container};
use crate::api::conditions::reasons;
use crate::api::{Endpoint, PostgresMigrationSpec, Side};
use crate::kubernetes::exec::ExecError;
use crate::kubernetes::psql::{InContainer, Launch, Pipe, PsqlCarrier, PsqlLogin};
use crate::plan::Failure;
use crate::plan::checks::target::{self as checks, Existing, Locales, Login};
use crate::plan::checks::{Findings, servers};
use crate::postgres::carrier::{Carrier, Session, SqlError, SqlErrorKind};
use crate::postgres::catalog::{self, AvailableExtension, Database, Role, Server, System};
use crate::postgres::publish::PublishNames;
use crate::steps::context::Context;

/// What other parts need to know of the target.
pub(super) struct Facts {
    pub server: Server,
    pub existing: Option<Existing>,
    /// Name that an existing database is kept under.
    pub aside: String,
    pub locales: Locales,
    /// Bytes free on the data volume.
    pub free: Option<u64>,
    /// Every extension on offer.
    pub offered: Option<Vec<AvailableExtension>>,
}

/// What the maintenance database tells.
struct Asked {
    server: Server,
    databases: Vec<Database>,
    owner: Option<Role>,
    system: System,
    offered: Vec<AvailableExtension>,
}

pub(super) async fn look(
    end: &End,
    spec: &PostgresMigrationSpec,
    password: Option<String>,
    uid: &str,
) -> (Report, Option<Facts>) {
    let mut report = Report::default();
    let owner = &spec.databases[0].owner.name;
    let name = spec.databases[0].target_name();
    let PublishNames { staging, aside, .. } = PublishNames::derive(name, uid);
    let (asked, reached) = tokio::join!(ask(end, owner), entries(end, spec, password, &staging));
    let Some(asked) = report.take(asked) else { return (report, None) };
    checks::owner(&mut report.findings, &end.place, &asked.server, owner, asked.owner.as_ref());
    // A role that is not there cannot log in either: one finding is enough.
    if asked.owner.as_ref().is_some_and(|role| role.login)
        && let Some(reached) = report.take(reached)
    {
        judge_entries(&mut report, end, spec, &staging, &reached);
    }
    let ours = [staging.as_str(), aside.as_str()];
    let taken: Vec<&str> = asked.databases.iter().map(|one| one.name.as_str()).filter(|one| ours.contains(one)).collect();
    servers::names(&mut report.findings, &end.place, &taken);

    let existing = existing(end, &asked, name).await;
    let existing = report.take(existing).flatten();
    let data = asked.system.data_directory.as_deref().unwrap_or_default();
    let system = container::system(&end.client, Side::Target, &end.pinned, data).await;
    let system = report.take(system).unwrap_or_default();
    let libc = system.locales.map(|all| all.into_iter().chain(asked.system.locales.iter().cloned()).collect());
    let facts = Facts {
        existing,
        aside,
        locales: Locales { libc, databases: asked.databases },
        free: system.free,
        offered: Some(asked.offered),
        server: asked.server,
    };
    (report, Some(facts))
}

async fn ask(end: &End, owner: &str) -> Result<Asked, Failure> {
    let mut session = end.session("postgres", false).await?;
    let asked = ask_server(session.as_mut(), owner).await.map_err(|e| end.sql(&e));
    session.close().await;
    asked
}

async fn ask_server(session: &mut dyn Session, owner: &str) -> Result<Asked, SqlError> {
    Ok(Asked {
        server: catalog::server(session).await?,
        databases: catalog::databases(session).await?.items,
        owner: catalog::roles(session, &[owner.to_owned()]).await?.into_iter().next(),
        system: catalog::system(session).await?,
        offered: catalog::extensions_on_offer(session).await?,
    })
}

async fn existing(end: &End, asked: &Asked, name: &str) -> Result<Option<Existing>, Failure> {
    let Some(database) = asked.databases.iter().find(|one| one.name == name).cloned() else { return Ok(None) };
    if !database.allow_connections {
        return Ok(Some(Existing { database, inventory: None }));
    }
    let mut session = end.session(name, asked.server.superuser).await?;
    let inventory = catalog::inventory(session.as_mut()).await.map_err(|e| end.sql(&e));
    session.close().await;
    Ok(Some(Existing { database, inventory: Some(inventory?) }))
}

/// What logins as the owner and the admin came to.
struct Reached {
    /// The owner's, inside the container; absent without a password to try.
    inside: Option<Result<(), String>>,
    /// The admin's, into a database called as the copy will be.
    admin: Result<(), String>,
    /// The owner's, through the endpoint.
    endpoint: Option<Login>,
}

async fn entries(end: &End, spec: &PostgresMigrationSpec, password: Option<String>, staging: &str) -> Result<Reached, Failure> {
    let admin = end.entry(end.login(), staging);
    let Some(password) = password else {
        return Ok(Reached { inside: None, admin: admin.await?, endpoint: None });
    };
    let login = PsqlLogin { password: Some(password), ..PsqlLogin::new(&spec.databases[0].owner.name, &end.application) };
    let databases = [spec.databases[0].target_name(), "postgres", "template1"];
    let (admin, inside, endpoint) =
        tokio::join!(admin, end.entry(login.clone(), staging), through(end, &spec.target.endpoint, login.clone(), &databases));
    Ok(Reached { inside: Some(inside?), admin: admin?, endpoint: Some(endpoint) })
}

fn judge_entries(report: &mut Report, end: &End, spec: &PostgresMigrationSpec, staging: &str, reached: &Reached) {
    let (owner, endpoint) = (&spec.databases[0].owner.name, &spec.target.endpoint);
    checks::admin_entry(&mut report.findings, &end.place, &end.pinned.admin_user, staging, &reached.admin);
    if let Some(inside) = &reached.inside {
        checks::local_login(&mut report.findings, &end.place, owner, inside);
    }
    let Some(login) = &reached.endpoint else { return };
    let inside = reached.inside.as_ref().is_some_and(Result::is_ok);
    let mut found = Findings::default();
    checks::endpoint(&mut found, &end.place, endpoint, owner, &end.pinned.system_identifier, login, inside);
    for one in found.blockers {
        if matches!(login, Login::Unreachable(_)) {
            // A name or a listener may be a moment late.
            report.fail(Failure::transient(reasons::ENDPOINT_MISMATCH, format!("{}: {}", one.path, one.message)));
        } else {
            report.findings.block(one.reason, one.path, one.message);
        }
    }
}

/// psql in the server's container, sent to a host and port as an application would dial them.
struct ToHost {
    inner: InContainer,
    host: String,
    port: i32,
}

#[async_trait]
impl Launch for ToHost {
    async fn launch(&self, argv: &[String]) -> Result<Box<dyn Pipe>, ExecError> {
        // A password in the container's environment would win over the one that is to be tried.
        let prefix = ["env", "-u", "PGPASSWORD", "-u", "PGHOSTADDR", "-u", "PGSSLMODE"].map(str::to_owned);
        let place = [format!("PGHOST={}", self.host), format!("PGPORT={}", self.port)];
        let argv: Vec<String> = prefix.into_iter().chain(place).chain(argv.iter().cloned()).collect();
        self.inner.launch(&argv).await
    }
}

/// Logs in through the endpoint, into the first of `databases` that takes the login.
async fn through(end: &End, endpoint: &Endpoint, login: PsqlLogin, databases: &[&str]) -> Login {
    let inner = InContainer { client: end.client.clone(), target: Context::exec_target(&end.pinned) };
    let carrier = PsqlCarrier::over(Arc::new(ToHost { inner, host: endpoint.host.clone(), port: endpoint.port }), login);
    let mut last = Login::Unreachable("no answer".into());
    for database in databases {
        match carrier.connect(database, LOGIN).await {
            Ok(mut session) => {
                let server = catalog::server(session.as_mut()).await;
                session.close().await;
                return match server {
                    Ok(server) => Login::Reached { system_identifier: server.system_identifier, in_recovery: server.in_recovery },
                    Err(e) => Login::Unreachable(e.to_string()),
                };
            }
            Err(e) if e.kind == SqlErrorKind::Connect && e.message.contains("FATAL") => {
                // Only what is wrong with this database is worth trying with another one.
                let other = e.message.contains(&format!("database \"{database}\""));
                last = if e.is_unavailable() { Login::Unreachable(e.message) } else { Login::Refused(e.message) };
                if !other {
                    return last;
                }
            }
            Err(e) => return Login::Unreachable(e.message),
        }
    }
    last
}
