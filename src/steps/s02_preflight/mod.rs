//! Check everything that can be checked without touching anything, on both sides and at the bucket.
//!
//! No effect but one multipart upload that is begun and aborted, to prove the right to write. Findings that stop the
//! migration go to `status.blockers`, the others to `status.warnings`; all of them in one go. This folder gathers facts; the
//! judgement is `plan::checks`. [`rights`] and [`container`] serve the step before as well: without rights and tools
//! nothing can be found.

pub mod container;
pub mod rights;
mod source;
mod target;
mod workloads;

use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client};

use super::context::{Context, at, kubernetes, sql};
use crate::api::{Mode, PinnedEnd, PostgresMigration, PostgresMigrationSpec, Side};
use crate::kubernetes::errors::{Error as KubernetesError, Request};
use crate::kubernetes::psql::{PsqlCarrier, PsqlLogin};
use crate::plan::checks::rivals::Rival;
use crate::plan::checks::servers;
use crate::plan::checks::{Findings, Found, Place};
use crate::plan::record::{self, Advance, bounded};
use crate::plan::{Class, Failure};
use crate::postgres::carrier::{Carrier, Session, SqlError};
use crate::postgres::versions::{Version, Versions};

/// Deadline of one login that may lead nowhere.
const LOGIN: Duration = Duration::from_secs(20);

/// What a part of the checks came to: findings, and questions that got no answer.
#[derive(Default)]
pub(super) struct Report {
    findings: Findings,
    trouble: Vec<Failure>,
}

impl Report {
    /// Takes a fact that could not be had. What usually passes is asked for again; the rest is a finding.
    fn fail(&mut self, failure: Failure) {
        if failure.class == Class::Transient {
            self.trouble.push(failure);
        } else {
            let finding = record::finding(&failure);
            self.findings.block(failure.reason, finding.path, finding.message);
        }
    }

    /// Gives the fact, or takes its failure.
    fn take<T>(&mut self, fact: Result<T, Failure>) -> Option<T> {
        fact.map_err(|failure| self.fail(failure)).ok()
    }

    fn join(&mut self, other: Self) {
        self.findings.blockers.extend(other.findings.blockers);
        self.findings.warnings.extend(other.findings.warnings);
        self.trouble.extend(other.trouble);
    }
}

/// One end with the means to ask it.
pub(super) struct End {
    place: Place,
    pinned: PinnedEnd,
    client: Client,
    application: String,
}

impl End {
    async fn of(cx: &mut Context<'_>, side: Side) -> Result<Self, Failure> {
        let (pinned, client) = (cx.pinned(side)?, cx.cluster(side).await?);
        let place = Place { side, cluster: cx.cluster_words(side), namespace: pinned.namespace.clone(), pod: pinned.pod.clone() };
        Ok(Self { place, pinned, client, application: cx.names.application("preflight") })
    }

    fn login(&self) -> PsqlLogin {
        PsqlLogin::new(&self.pinned.admin_user, &self.application)
    }

    fn carrier(&self, login: PsqlLogin) -> PsqlCarrier {
        PsqlCarrier::new(self.client.clone(), Context::exec_target(&self.pinned), login)
    }

    /// A session of the admin in `database`. With `silent`, event triggers do not fire for it (superusers on 17 and newer).
    async fn session(&self, database: &str, silent: bool) -> Result<Box<dyn Session>, Failure> {
        let mut login = self.login();
        if silent && self.version().major() >= 17 {
            login.options = Some("-c event_triggers=off".into());
        }
        self.carrier(login).connect(database, super::context::SHORT).await.map_err(|e| self.sql(&e))
    }

    /// Whether the server lets this login into a database called `database`, which does not exist yet.
    async fn entry(&self, login: PsqlLogin, database: &str) -> Result<Result<(), String>, Failure> {
        match self.carrier(login).connect(database, LOGIN).await {
            Ok(session) => {
                session.close().await;
                Ok(Ok(()))
            }
            // In whatever language: it speaks of the database, or of the login.
            Err(e)
                if !e.is_unavailable()
                    && (e.message.contains(database) || e.message.contains("FATAL") || e.is_login_refused()) =>
            {
                Ok(crate::plan::checks::target::entry(database, &e.message))
            }
            Err(e) => Err(self.sql(&e)),
        }
    }

    /// A failure of SQL in words, with the server named.
    fn sql(&self, e: &SqlError) -> Failure {
        at(&self.place, sql(self.place.side, e))
    }

    fn version(&self) -> Version {
        Version(u32::try_from(self.pinned.version_num).unwrap_or(0))
    }
}

/// Looks at everything; the first of the blockers is the failure.
pub async fn run(cx: &mut Context<'_>) -> Result<Advance, Failure> {
    let (source, target) = (End::of(cx, Side::Source).await?, End::of(cx, Side::Target).await?);
    let spec = cx.spec();
    let uid = cx.names.uid().to_owned();
    let mut report = Report::default();
    let password_ref = &cx.database().owner.password_secret_ref;
    let password = cx.secret(&password_ref.name, &password_ref.key, "spec.databases[0].owner.passwordSecretRef").await;
    let password = report.take(password);
    let bucket = bucket(cx).await;

    let (from, to, objects) = tokio::join!(
        source::look(&source, spec, &uid),
        target::look(&target, spec, password, &uid),
        workloads::look(&source, &target, spec, &uid),
    );
    let mut tools = fitting_tools(&source, &target).await;
    let (from, source_facts) = from;
    let (to, target_facts) = to;
    if let (Some(from), Some(to)) = (&source_facts, &target_facts) {
        both(&mut tools.findings, spec, &source, &target, from, to);
    }
    for part in [tools, from, to, objects, bucket] {
        report.join(part);
    }
    if report.findings.blockers.is_empty()
        && report.trouble.is_empty()
        && let Some(other) = rivals(cx, &mut report.findings).await?
    {
        let message = format!("PostgresMigration {other} aims at the same database and is making its checks");
        return Ok(Advance::Wait { seconds: 2, message });
    }
    conclude(cx, report)
}

/// Blocks when another object has a claim on what this one aims at; gives the name of one that has to decide first. Asked last
/// of all: an object that something else is wrong with must neither keep others waiting nor be told of them. A plan meets only
/// those that have begun.
async fn rivals(cx: &Context<'_>, out: &mut Findings) -> Result<Option<String>, Failure> {
    // The object as it was read may not show yet what Pin wrote down, and a plan claims nothing for itself.
    let mut own = cx.object.clone();
    own.status = Some(cx.status.clone());
    own.spec.mode = Mode::Migrate;
    let Some(own) = Rival::of(&own) else { return Ok(None) };
    let all = Api::<PostgresMigration>::all(cx.installation.client.clone())
        .list(&ListParams::default())
        .await
        .map_err(|e| kubernetes(&KubernetesError::from_kube(&e, Request::new("list", "postgresmigrations", "", ""))))?;
    let migrates = cx.spec().mode == Mode::Migrate;
    let others: Vec<Rival> = all.items.iter().filter_map(Rival::of).filter(|other| migrates || other.started).collect();
    Ok(crate::plan::checks::rivals::rivals(out, &own, &others))
}

/// What needs facts of both servers.
fn both(out: &mut Findings, spec: &PostgresMigrationSpec, source: &End, target: &End, from: &source::Facts, to: &target::Facts) {
    use crate::plan::checks::{content, target as there};
    let database = &spec.databases[0];
    servers::identity(out, (&source.place, &from.server), (&target.place, &to.server), &database.name, database.target_name());
    if let Some(known) = &from.database {
        there::locale(out, &target.place, known, &to.locales);
        if let Some(existing) = &to.existing {
            there::existing(out, &target.place, database.existing_target, existing, &to.aside, known);
        }
        if let (Some(needed), Some(free)) = (known.size, to.free) {
            there::room(out, &target.place, needed, free);
        }
    }
    if let (Some(used), Some(offered)) = (&from.extensions, &to.offered) {
        content::extensions(out, &target.place, &to.server, used, offered);
    }
}

async fn fitting_tools(source: &End, target: &End) -> Report {
    let mut report = Report::default();
    let (from, to) = tokio::join!(
        container::tools(&source.client, Side::Source, &source.pinned),
        container::tools(&target.client, Side::Target, &target.pinned)
    );
    let (Some(from), Some(to)) = (report.take(from), report.take(to)) else { return report };
    servers::tools(&mut report.findings, &source.place, &source.pinned.container, &from);
    servers::tools(&mut report.findings, &target.place, &target.pinned.container, &to);
    if let (Some(dump), Some(restore)) = (from.dump, to.restore) {
        let versions = Versions { source: source.version(), dump, restore, target: target.version() };
        servers::versions(&mut report.findings, &source.place, &target.place, versions);
    }
    report
}

async fn bucket(cx: &mut Context<'_>) -> Report {
    let mut report = Report::default();
    let probed = async {
        let bucket = cx.bucket().await?;
        bucket.probe_write(&cx.run_prefix()).await.map_err(|e| {
            let secret = &cx.spec().archive.s3.credentials_secret_ref.name;
            let mut failure = super::context::archive(&e);
            failure.message = format!("{} (credentials: Secret {}/{secret} of this cluster)", failure.message, cx.home());
            failure
        })
    };
    let probed = probed.await;
    report.take(probed);
    report
}

/// Writes the findings into the status.
fn conclude(cx: &mut Context<'_>, mut report: Report) -> Result<Advance, Failure> {
    cx.status.warnings = report.findings.warnings();
    if report.findings.blockers.is_empty() {
        let Some(first) = report.trouble.into_iter().next() else { return Ok(Advance::Done) };
        return Err(first);
    }
    // What got no answer is not known to be well: it is said beside what is known to be wrong.
    for failure in std::mem::take(&mut report.trouble) {
        let finding = record::finding(&failure);
        report.findings.block(failure.reason, finding.path, finding.message);
    }
    Err(refuse(cx, &report.findings))
}

/// Writes blockers into the status; the failure speaks of the first.
pub(super) fn refuse(cx: &mut Context<'_>, findings: &Findings) -> Failure {
    cx.status.blockers = findings.blockers();
    let (reason, message) = match findings.blockers.as_slice() {
        [] => (crate::api::conditions::reasons::BLOCKED, String::new()),
        [Found { reason, path, message }, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more, see status.blockers)", rest.len()) };
            (*reason, format!("{path}: {message}{more}"))
        }
    };
    Failure::needs_human(reason, bounded(&message))
}
