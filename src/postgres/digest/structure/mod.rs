//! What the rows live in: whether two databases have the same definitions of tables, constraints, functions and so on.
//!
//! Every object is a class, a name and some lines that describe it. The servers send one hash an object; the lines are
//! asked for only where the hashes differ, and judged by [`rules`], which hold everything that a copy is meant to leave
//! out or to change. What those do not excuse is a difference, and a database with one is not a copy.
//!
//! Compared: schemas; tables with their kind, options, partitions, columns (type, collation, storage, compression,
//! statistics target, identity, default, generated expression), constraints, indexes (also whether they are valid,
//! clustered, the replica identity), triggers (also whether they are switched on), rules, policies; views and
//! materialized views (also whether they are filled); sequences; functions, procedures and aggregates with their bodies;
//! types and domains; statistics; operators, casts, collations, conversions, text search; comments of all of them;
//! extensions; encoding and locale of the database; in the target owners and privileges.
//!
//! Here: asking and comparing. Not here: data ([`super`]). The questions are in the SQL files beside this one.

mod normal;
mod question;
pub mod rules;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::postgres::carrier::{Session, SqlError};
pub use question::{lines, structure};
use rules::{Judgement, Majors, judge};

/// Objects whose lines one statement asks for.
const OBJECTS_PER_STATEMENT: usize = 5000;

/// Lines of a difference that are told in one sentence, and characters of each.
const TOLD: (usize, usize) = (6, 160);

/// One object of a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Object {
    /// What it is, in words: `table`, `materialized view`, `function`, `event trigger`, ...
    pub class: String,
    /// Its name, qualified, quoted where it must be; functions with the types of their arguments.
    pub name: String,
}

/// How one object differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Only the source has it.
    Missing,
    /// Only the target has it.
    Extra,
    /// Both have it, not alike.
    Changed,
}

/// A difference of definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StructureDifference {
    /// The object.
    pub object: Object,
    /// How it differs.
    pub kind: Kind,
    /// For `Changed`: lines that only one side has, the source's with `-`, the target's with `+`.
    pub lines: Vec<String>,
}

impl fmt::Display for StructureDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Object { class, name } = &self.object;
        match self.kind {
            Kind::Missing => return write!(f, "{class} {name} is only in the source"),
            Kind::Extra => return write!(f, "{class} {name} is only in the target"),
            Kind::Changed => write!(f, "{class} {name} differs: ")?,
        }
        let (most, longest) = TOLD;
        for (number, line) in self.lines.iter().take(most).enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            let words: String = line.split_whitespace().collect::<Vec<_>>().join(" ");
            match words.char_indices().nth(longest) {
                Some((end, _)) => write!(f, "{separator}{}…", words.split_at(end).0)?,
                None => write!(f, "{separator}{words}")?,
            }
        }
        match self.lines.len().saturating_sub(most) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Which of the two databases is asked: some things are asked of the target only ([`rules`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The database that was dumped.
    Source,
    /// The copy.
    Target,
}

/// What stands for one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    /// Its name as its server quotes it: majors have different keywords.
    pub named: String,
    /// The hash of its lines.
    pub hash: String,
}

/// All objects of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Structure {
    /// The major version of its server.
    pub major: u32,
    /// The objects.
    pub objects: BTreeMap<Object, Hashed>,
}

/// What the comparison of definitions found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Objects of the source.
    pub objects: usize,
    /// Everything that makes the target no copy, by class and name.
    pub differences: Vec<StructureDifference>,
    /// What differs as it may, but should be known.
    pub notes: Vec<String>,
}

/// Compares the definitions of the sessions' databases.
pub async fn compare(source: &mut dyn Session, target: &mut dyn Session) -> Result<Findings, SqlError> {
    let (there, here) = tokio::try_join!(structure(source, Side::Source), structure(target, Side::Target))?;
    let majors = if there.major == here.major { Majors::Same } else { Majors::Across };
    let mut findings = Findings { objects: there.objects.len(), ..Findings::default() };
    for part in candidates(&there, &here).chunks(OBJECTS_PER_STATEMENT) {
        let (old, new) = tokio::try_join!(lines(source, Side::Source, &there, part), lines(target, Side::Target, &here, part))?;
        for object in part {
            let of = |side: &BTreeMap<Object, Vec<String>>| side.get(object).cloned().unwrap_or_default();
            match judge(object, &of(&old), &of(&new), majors) {
                Judgement::Equal => {}
                Judgement::Note(note) => findings.notes.push(note),
                Judgement::Different(difference) => findings.differences.push(difference),
            }
        }
    }
    Ok(findings)
}

/// Objects that one side lacks, or whose hashes differ, by class and name.
fn candidates(source: &Structure, target: &Structure) -> Vec<Object> {
    let hash = |side: &Structure, object: &Object| side.objects.get(object).map(|one| one.hash.clone());
    let mut found: Vec<Object> = source.objects.keys().chain(target.objects.keys()).cloned().collect();
    found.sort();
    found.dedup();
    found.retain(|object| hash(source, object) != hash(target, object));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_that_differ_are_the_candidates() {
        let object = |name: &str| Object { class: "table".into(), name: name.into() };
        let hashed = |hash: &str| Hashed { named: String::new(), hash: hash.into() };
        let side = |all: &[(&str, &str)]| Structure {
            major: 15,
            objects: all.iter().map(|(name, hash)| (object(name), hashed(hash))).collect(),
        };
        let source = side(&[("a", "1"), ("b", "2"), ("c", "3")]);
        assert_eq!(candidates(&source, &source), []);
        let target = side(&[("b", "9"), ("c", "3"), ("d", "4")]);
        assert_eq!(candidates(&source, &target), [object("a"), object("b"), object("d")]);
    }

    #[test]
    fn a_long_difference_is_cut_for_people() {
        let difference = StructureDifference {
            object: Object { class: "view".into(), name: "v".into() },
            kind: Kind::Changed,
            lines: (0..8).map(|number| format!("+ {number}\n{}", "é".repeat(200))).collect(),
        };
        let text = difference.to_string();
        assert!(text.starts_with("view v differs: + 0 éé") && text.ends_with("…; and 2 more"), "{text}");
        assert!(text.chars().count() < 1100);
    }
}
