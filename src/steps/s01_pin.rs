//! Find both ends and write down what they are: pods by UID, servers by system identifier, the database by OID.
//!
//! No effect. Every later step must find the same; what an author changes meanwhile in names and labels changes nothing.

use super::completion;
use super::context::{Context, SHORT, at, exec, kubernetes, path, sql};
use super::s02_preflight as preflight;
use crate::api::conditions::reasons;
use crate::api::{ExecPostgres, Pinned, PinnedEnd, Side};
use crate::kubernetes::exec as process;
use crate::kubernetes::pods::{self, PodError};
use crate::kubernetes::psql::{PsqlCarrier, PsqlLogin};
use crate::plan::Failure;
use crate::plan::checks::{Findings, Place, servers};
use crate::plan::record::Advance;
use crate::postgres::carrier::Carrier;
use crate::postgres::catalog;

/// Prints the role that the official images administer their server with.
const ADMIN_USER: &str = r#"printf %s "${POSTGRES_USER:-postgres}""#;

pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    if let Some(earlier) = completion::find(cx).await? {
        cx.status.completion = Some(earlier);
        return Ok(Advance::Done);
    }
    preflight::rights::check(cx).await?;
    let source = end(cx, Side::Source, true).await?;
    let target = end(cx, Side::Target, true).await?;
    let name = cx.database().name.clone();
    cx.status.pinned =
        Some(Pinned { stamp: cx.now.strftime("%Y%m%d_%H%M%S").to_string(), source, target, database_bytes: 0, database_oid: 0 });
    let found = find_database(cx, &name).await;
    match found {
        Ok((oid, bytes)) => {
            if let Some(p) = &mut cx.status.pinned {
                p.database_oid = oid;
                p.database_bytes = bytes;
            }
            Ok(Advance::Done)
        }
        Err(failure) => {
            cx.status.pinned = None;
            Err(failure)
        }
    }
}

async fn find_database(cx: &mut Context<'_>, name: &str) -> Result<(i64, i64), Failure> {
    let mut session = cx.session(Side::Source, "postgres", "pin").await?;
    let found = catalog::database(session.as_mut(), name).await.map_err(|e| sql(Side::Source, &e));
    session.close().await;
    let found = found?.ok_or_else(|| {
        let namespace = cx.namespace(Side::Source);
        Failure::needs_human(
            reasons::DATABASE_NOT_FOUND,
            format!(
                "spec.databases[0].name: database {name:?} does not exist on the server in pod {namespace}/{} of {}",
                cx.status.pinned.as_ref().map_or("", |p| p.source.pod.as_str()),
                cx.cluster_words(Side::Source)
            ),
        )
    })?;
    Ok((i64::from(found.oid), found.size.and_then(|n| i64::try_from(n).ok()).unwrap_or(0)))
}

/// How the server of `side` is declared.
fn declared<'a>(cx: &Context<'a>, side: Side) -> &'a ExecPostgres {
    match side {
        Side::Source => &cx.spec().source.postgres.exec,
        Side::Target => &cx.spec().target.postgres.exec,
    }
}

/// Finds the server of `side` as it is now. With `tools`, a container that lacks one of those that a migration needs is refused.
pub(super) async fn end(cx: &mut Context<'_>, side: Side, tools: bool) -> Result<PinnedEnd, Failure> {
    let client = cx.cluster(side).await?;
    let namespace = cx.namespace(side);
    let declared = declared(cx, side).clone();
    let cluster = cx.cluster_words(side);
    let words = |reason, e: &dyn std::fmt::Display| {
        Failure::needs_human(reason, format!("{}.postgres.exec: {e} (in {cluster})", path(side)))
    };
    let pod = pods::resolve(&client, &namespace, &declared).await.map_err(|e| match &e {
        PodError::NotFound(_) | PodError::NotReady(_) | PodError::Ambiguous(_) => words(reasons::POD_NOT_READY, &e),
        PodError::ContainerAbsent(_) => words(reasons::OBJECT_NOT_FOUND, &e),
        PodError::Unusable(_) => words(reasons::SPEC_INVALID, &e),
        PodError::Api(api) => {
            let f = kubernetes(api);
            Failure { message: format!("{}.postgres.exec: {} (in {cluster})", path(side), f.message), ..f }
        }
    })?;
    let mut end = PinnedEnd {
        namespace,
        pod: pod.name,
        pod_uid: pod.uid,
        container: pod.container,
        admin_user: declared.admin_user.clone().unwrap_or_default(),
        ..PinnedEnd::default()
    };
    let place = Place { side, cluster, namespace: end.namespace.clone(), pod: end.pod.clone() };
    if tools {
        let found = preflight::container::tools(&client, side, &end).await?;
        let mut out = Findings::default();
        servers::tools(&mut out, &place, &end.container, &found);
        if !out.blockers.is_empty() {
            return Err(preflight::refuse(cx, &out));
        }
    }
    if end.admin_user.is_empty() {
        let argv: Vec<String> = ["sh", "-c", ADMIN_USER].map(String::from).into();
        let done = process::run(&client, &Context::exec_target(&end), &argv, b"", SHORT, 256)
            .await
            .map_err(|e| at(&place, exec(side, &e)))?;
        String::from_utf8_lossy(&done.stdout).trim().clone_into(&mut end.admin_user);
    }
    let login = PsqlLogin::new(&end.admin_user, &cx.names.application("pin"));
    let carrier = PsqlCarrier::new(client, Context::exec_target(&end), login);
    let mut session = carrier.connect("postgres", SHORT).await.map_err(|e| {
        let f = sql(side, &e);
        let message =
            format!("{}.postgres.exec.adminUser: role {:?} cannot log in to {}: {e}", path(side), end.admin_user, place.server());
        // Whatever else the server itself says to the first login is about that login.
        if e.message.contains("FATAL") && !e.is_unavailable() {
            Failure { reason: reasons::ADMIN_LOGIN_FAILED, message, ..f }
        } else {
            Failure { message, ..f }
        }
    })?;
    let server = catalog::server(session.as_mut()).await.map_err(|e| at(&place, sql(side, &e)));
    session.close().await;
    let server = server?;
    end.system_identifier = server.system_identifier;
    end.version_num = i32::try_from(server.version.0).unwrap_or(0);
    Ok(end)
}

/// Follows a server whose pod was replaced: the new pod must hold the same server. Before each mover.
pub async fn follow(cx: &mut Context<'_>, side: Side) -> Result<(), Failure> {
    let known = cx.pinned(side)?;
    let now = end(cx, side, false).await.map_err(|f| Failure { class: crate::plan::Class::Transient, ..f })?;
    if now.system_identifier != known.system_identifier {
        return Err(Failure::terminal(
            reasons::SERVER_CHANGED,
            format!(
                "{}: pod {}/{} of {} holds another server (system identifier {}) than the run began with ({})",
                path(side),
                now.namespace,
                now.pod,
                cx.cluster_words(side),
                now.system_identifier,
                known.system_identifier
            ),
        ));
    }
    if let Some(pinned) = &mut cx.status.pinned {
        match side {
            Side::Source => pinned.source = now,
            Side::Target => pinned.target = now,
        }
    }
    Ok(())
}
