//! Two objects must not move one database, nor publish at one name, at the same time.
//!
//! Both look at all objects after each has written down in its status what it aims at. So of two, at least the later one to
//! look sees the other; the older one waits until the younger has decided.

use jiff::Timestamp;

use super::Findings;
use crate::api::conditions::reasons;
use crate::api::{Mode, PostgresMigration};
use kube::ResourceExt;

/// A database on a server, by what it is and not by the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// System identifier of the server.
    pub system_identifier: String,
    /// Name of the database.
    pub database: String,
}

/// An object that aims at databases and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its namespace and name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It has passed its checks and begun.
    pub started: bool,
    /// What it moves.
    pub source: Claim,
    /// What it will be called at the target.
    pub target: Claim,
}

impl Rival {
    /// What `object` aims at; nothing unless it is to migrate, knows both ends and has not ended.
    pub fn of(object: &PostgresMigration) -> Option<Self> {
        let (status, pinned) = (object.status.as_ref()?, object.status.as_ref()?.pinned.as_ref()?);
        let database = object.spec.databases.first()?;
        if object.spec.mode != Mode::Migrate || status.outcome.is_some() {
            return None;
        }
        let claim = |system_identifier: &str, database: &str| Claim {
            system_identifier: system_identifier.into(),
            database: database.into(),
        };
        Some(Self {
            name: format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()),
            uid: object.uid().unwrap_or_default(),
            created: object.creation_timestamp().map(|time| time.0),
            started: status.start_time.is_some(),
            source: claim(&pinned.source.system_identifier, &database.name),
            target: claim(&pinned.target.system_identifier, database.target_name()),
        })
    }

    fn older_than(&self, other: &Self) -> bool {
        (self.created, &self.uid) < (other.created, &other.uid)
    }
}

/// Blocks when one of `others` has a claim on what `own` aims at. Gives the name of one that has to decide first.
pub fn rivals(out: &mut Findings, own: &Rival, others: &[Rival]) -> Option<String> {
    let mut undecided = None;
    for other in others.iter().filter(|other| other.uid != own.uid) {
        let shared = [
            (&own.source, &other.source, "spec.databases[0].name", "moves this database"),
            (&own.source, &other.target, "spec.databases[0].name", "is to publish its copy under the name of this database"),
            (&own.target, &other.target, "spec.databases[0].targetName", "is to publish its copy under this name on this server"),
            (&own.target, &other.source, "spec.databases[0].targetName", "moves the database that has this name on this server"),
        ];
        let Some((claim, _, path, does)) = shared.into_iter().find(|(mine, theirs, _, _)| mine == theirs) else { continue };
        if !other.started && own.older_than(other) {
            undecided = Some(other.name.clone());
            continue;
        }
        out.block(
            reasons::CLAIMED_BY_ANOTHER,
            path,
            format!(
                "PostgresMigration {} {does} ({:?}) and has not ended: wait for its end or cancel it, then raise spec.retry here",
                other.name, claim.database
            ),
        );
    }
    undecided.filter(|_| out.blockers.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::spec;
    use super::*;
    use crate::api::{Outcome, Pinned, PinnedEnd, PostgresMigrationSpec, PostgresMigrationStatus};

    fn rival(name: &str, second: i64, source: &str, target: &str) -> Rival {
        let claim = |text: &str| Claim { system_identifier: "7".into(), database: text.into() };
        Rival {
            name: format!("ns/{name}"),
            uid: name.into(),
            created: Timestamp::from_second(second).ok(),
            started: false,
            source: claim(source),
            target: claim(target),
        }
    }

    #[test]
    fn only_what_is_to_migrate_and_knows_both_ends_has_a_claim() {
        let end = |id: &str| PinnedEnd { system_identifier: id.into(), ..PinnedEnd::default() };
        let (stamp, database_bytes, database_oid) = (String::new(), 1, 1);
        let pinned = Pinned { stamp, source: end("7"), target: end("8"), database_bytes, database_oid };
        let mut object = PostgresMigration::new("onyx", spec());
        assert!(Rival::of(&object).is_none());
        object.status = Some(PostgresMigrationStatus::default());
        assert!(Rival::of(&object).is_none());
        object.status.as_mut().unwrap().pinned = Some(pinned);
        let found = Rival::of(&object).unwrap();
        assert_eq!((found.source.system_identifier.as_str(), found.source.database.as_str(), found.started), ("7", "app", false));
        assert_eq!((found.target.system_identifier.as_str(), found.target.database.as_str()), ("8", "app"));
        let planned = PostgresMigration { spec: PostgresMigrationSpec { mode: Mode::Plan, ..spec() }, ..object.clone() };
        assert!(Rival::of(&planned).is_none());
        object.status.as_mut().unwrap().outcome = Some(Outcome::Failed);
        assert!(Rival::of(&object).is_none());
    }

    fn seen(own: &Rival, other: Rival) -> (Vec<(&'static str, String)>, Option<String>) {
        let mut out = Findings::default();
        let wait = rivals(&mut out, own, &[own.clone(), other]);
        (out.blockers.into_iter().map(|b| (b.reason, b.path)).collect(), wait)
    }

    #[test]
    fn of_two_that_share_a_database_exactly_one_goes_on() {
        let (older, younger) = (rival("a", 1, "d", "x"), rival("b", 2, "d", "y"));
        let path = "spec.databases[0].name".to_owned();
        assert_eq!(seen(&older, younger.clone()), (vec![], Some("ns/b".into())));
        assert_eq!(seen(&younger, older.clone()), (vec![(reasons::CLAIMED_BY_ANOTHER, path.clone())], None));
        // The younger one looked before the older one had written down what it aims at, and began.
        let begun = Rival { started: true, ..younger };
        assert_eq!(seen(&older, begun), (vec![(reasons::CLAIMED_BY_ANOTHER, path)], None));
    }

    #[test]
    fn every_way_to_share_is_seen_and_no_other() {
        let own = rival("b", 2, "d", "e");
        for (source, target, path) in [
            ("d", "z", Some("spec.databases[0].name")),
            ("y", "d", Some("spec.databases[0].name")),
            ("y", "e", Some("spec.databases[0].targetName")),
            ("e", "z", Some("spec.databases[0].targetName")),
            ("y", "z", None),
        ] {
            let found: Vec<String> = seen(&own, rival("a", 1, source, target)).0.into_iter().map(|(_, path)| path).collect();
            assert_eq!(found, path.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{source} {target}");
        }
        let elsewhere =
            Rival { source: Claim { system_identifier: "8".into(), database: "d".into() }, ..rival("a", 1, "d", "z") };
        assert_eq!(seen(&own, elsewhere), (vec![], None));
    }
}
