//! The checks that come before anything is touched: facts in, findings out.
//!
//! Belongs here: what stops a migration (a blocker), what its author should know (a warning), and the words for both. A
//! message says what is so, why it matters and what to do, and names the object, its namespace and its cluster.
//! Does not belong here: how facts are gathered (`steps`), and what becomes of a blocked migration (`decide`, `record`).

pub mod content;
pub mod rights;
pub mod rivals;
pub mod servers;
pub mod target;
pub mod workloads;

use super::record::bounded;
use crate::api::{Finding, Side};

/// Most findings of either sort that the status takes.
pub const LIMIT: usize = 20;

/// One finding before it goes into the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Reason constant.
    pub reason: &'static str,
    /// Where in the spec.
    pub path: String,
    /// What is so, why it matters, what to do.
    pub message: String,
}

/// What the checks found, in the order of finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What stops the migration.
    pub blockers: Vec<Found>,
    /// What does not.
    pub warnings: Vec<Found>,
}

impl Findings {
    /// Adds what stops the migration.
    pub fn block(&mut self, reason: &'static str, path: impl Into<String>, message: impl Into<String>) {
        add(&mut self.blockers, Found { reason, path: path.into(), message: message.into() });
    }

    /// Adds what its author should know.
    pub fn warn(&mut self, reason: &'static str, path: impl Into<String>, message: impl Into<String>) {
        add(&mut self.warnings, Found { reason, path: path.into(), message: message.into() });
    }

    /// Whether a blocker has this reason.
    pub fn blocked_by(&self, reason: &str) -> bool {
        self.blockers.iter().any(|found| found.reason == reason)
    }

    /// Blockers as the status takes them: at most [`LIMIT`], at most 1,024 characters each.
    pub fn blockers(&self) -> Vec<Finding> {
        fitting(&self.blockers)
    }

    /// Warnings as the status takes them, bounded like the blockers.
    pub fn warnings(&self) -> Vec<Finding> {
        fitting(&self.warnings)
    }
}

/// The same thing seen twice is one finding.
fn add(to: &mut Vec<Found>, found: Found) {
    if !to.contains(&found) {
        to.push(found);
    }
}

fn fitting(all: &[Found]) -> Vec<Finding> {
    let finding = |found: &Found, message: &str| Finding {
        reason: found.reason.into(),
        path: found.path.clone(),
        message: bounded(message),
    };
    match all.get(LIMIT - 1) {
        Some(last) if all.len() > LIMIT => {
            let more = format!("and {} more; the first of them: {}", all.len() - LIMIT + 1, last.message);
            all[..LIMIT - 1].iter().map(|f| finding(f, &f.message)).chain([finding(last, &more)]).collect()
        }
        Some(_) | None => all.iter().map(|f| finding(f, &f.message)).collect(),
    }
}

/// Where an end is: the words that messages name it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which end.
    pub side: Side,
    /// Its cluster in words, such as `this cluster`.
    pub cluster: String,
    /// Its namespace there.
    pub namespace: String,
    /// The pod of its server.
    pub pod: String,
}

impl Place {
    /// `spec.source` or `spec.target`.
    pub fn path(&self) -> &'static str {
        match self.side {
            Side::Source => "spec.source",
            Side::Target => "spec.target",
        }
    }

    /// A place below [`Place::path`].
    pub fn below(&self, rest: &str) -> String {
        format!("{}.{rest}", self.path())
    }

    /// `the source server (pod onyx/postgres-0 of this cluster)`.
    pub fn server(&self) -> String {
        let side = match self.side {
            Side::Source => "source",
            Side::Target => "target",
        };
        format!("the {side} server (pod {}/{} of {})", self.namespace, self.pod, self.cluster)
    }

    /// `Deployment onyx/api of this cluster`.
    pub fn object(&self, kind: &str, name: &str) -> String {
        format!("{kind} {}/{name} of {}", self.namespace, self.cluster)
    }
}

/// Names in quotes, at most eight, with the number of all when there are more.
pub(crate) fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>, total: usize) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = names.into_iter().take(SHOWN).map(|name| format!("{:?}", name.as_ref())).collect();
    let more = total.saturating_sub(shown.len());
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    crate::plan::summary::bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
}

#[cfg(test)]
pub(crate) mod fixtures;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_said_once_and_bounded() {
        let mut out = Findings::default();
        for n in 0..30 {
            out.block("R", format!("spec.{n}"), "x".repeat(5000));
            out.block("R", format!("spec.{n}"), "x".repeat(5000));
        }
        out.warn("W", "spec", "w");
        let all = out.blockers();
        assert_eq!(all.len(), LIMIT);
        assert!(all.iter().all(|f| f.message.chars().count() <= 1024));
        assert!(all[LIMIT - 1].message.starts_with("and 11 more; the first of them: "), "{}", all[LIMIT - 1].message);
        assert_eq!(out.warnings().len(), 1);
    }

    #[test]
    fn exactly_the_limit_is_shown_whole() {
        let mut out = Findings::default();
        (0..LIMIT).for_each(|n| out.warn("W", format!("spec.{n}"), "w"));
        assert!(out.warnings().iter().all(|f| f.message == "w"));
        out.warn("W", "spec", "w");
        assert_eq!(out.warnings().len(), LIMIT);
        assert_eq!(out.warnings()[LIMIT - 1].message, "and 2 more; the first of them: w");
    }

    #[test]
    fn lists_are_cut() {
        assert_eq!(listed(["a", "b"], 2), "\"a\", \"b\"");
        assert_eq!(listed(["a"], 5), "\"a\" and 4 more");
    }
}
