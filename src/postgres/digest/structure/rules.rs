//! What of two databases' definitions is meant to differ after a copy. Pure.
//!
//! Everything that [`super::structure`] asks for counts, but for this:
//!
//! | rule | why |
//! |---|---|
//! | owners of the source are not asked for; in the target everything belongs to the owner of the database (`public` may belong to `pg_database_owner`) | `ownership: Single`: the restore runs as the owner, with `--no-owner` |
//! | grants of the source are not asked for; in the target each object has exactly the privileges that a new one has | `ownership: Single`: `--no-acl`, default privileges are not restored either |
//! | event triggers, publications, subscriptions, foreign data wrappers and servers, languages, access methods, operator classes, text search parsers and templates, transforms, security labels: of the source not asked for, in the target there are none but those of extensions | only an administrator can make them; `tools::toc` leaves them out, and the migration says so |
//! | what belongs to an extension is not asked for; an extension counts with its schema | the target may have another version of it |
//! | an extension of the target may be newer: a note, no difference | the checks refuse an older one, and warn of a newer |
//! | invalid indexes of the source are not asked for; those of the target count | a dump leaves them out |
//! | tablespaces are not asked for | `--no-tablespaces` |
//! | `NOT NULL` counts at its column, not as a constraint with a name | only 18 has such constraints |
//! | triggers of foreign keys that are switched off count in the target only | a dump does not carry that |
//! | columns count in their order, but for tables that inherit | the restore puts inherited columns first |
//! | settings of the database count in the target only, and only those that the source's database does not have | they are carried when the copy is published, as are its comment, connection limit and privileges |
//! | the locale of an ICU collation or database may be written otherwise by another major | 16 and later rewrite it as a language tag |
//! | the schema `public` may be in the target alone, empty | every new database has it |
//! | what is printed otherwise but means the same: [`super::normal`] | |

use super::normal::same;
use super::{Kind, Object, StructureDifference};

/// How two servers print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Majors {
    /// Both have the same major version.
    Same,
    /// The target has a newer one.
    Across,
}

/// What comes of judging one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Alike, or different as it is meant to be.
    Equal,
    /// Alike but for something that people should know.
    Note(String),
    /// Not equal.
    Different(StructureDifference),
}

/// Judges one object from its lines. No lines: that side does not have it.
pub fn judge(object: &Object, source: &[String], target: &[String], majors: Majors) -> Judgement {
    let across = majors == Majors::Across;
    let mut here: Vec<&String> = target.iter().collect();
    let mut there: Vec<&String> = source.iter().filter(|line| !take(&mut here, |other| other == *line)).collect();
    there.retain(|line| !take(&mut here, |other| same(line, other, across)));
    let class = object.class.as_str();
    let mut note = None;
    match class {
        "extension" => {
            let version = |lines: &[&String]| lines.iter().find_map(|line| line.strip_prefix("version ").map(str::to_owned));
            if let (Some(old), Some(new)) = (version(&there), version(&here))
                && !older(&new, &old)
            {
                note = Some(format!("extension {} is of version {old} in the source and {new} in the target", object.name));
                there.retain(|line| !line.starts_with("version "));
                here.retain(|line| !line.starts_with("version "));
            }
        }
        "database" => {
            there.retain(|line| !line.starts_with("setting "));
        }
        "schema" if object.name == "public" && source.is_empty() => {
            here.retain(|line| *line != "present" && !line.starts_with("comment "));
        }
        _ => {}
    }
    if across && matches!(class, "database" | "collation") {
        there.retain(|line| !take(&mut here, |other| same_locale(line, other)));
    }
    if there.is_empty() && here.is_empty() {
        return note.map_or(Judgement::Equal, Judgement::Note);
    }
    let kind = match (source.is_empty(), target.is_empty()) {
        (false, true) => Kind::Missing,
        (true, false) => Kind::Extra,
        (_, _) => Kind::Changed,
    };
    // What only one side has is named; all that it is would be too much.
    let lines = match kind {
        Kind::Missing | Kind::Extra => Vec::new(),
        Kind::Changed => {
            there.iter().map(|line| format!("- {line}")).chain(here.iter().map(|line| format!("+ {line}"))).collect()
        }
    };
    Judgement::Different(StructureDifference { object: object.clone(), kind, lines })
}

/// Takes the first line that fits out of the list.
fn take(lines: &mut Vec<&String>, fits: impl Fn(&String) -> bool) -> bool {
    let place = lines.iter().position(|line| fits(line));
    place.map(|place| lines.remove(place)).is_some()
}

/// `locale de_AT` and `locale de-AT`.
fn same_locale(source: &str, target: &str) -> bool {
    let plain = |line: &str| line.strip_prefix("locale ").map(|name| name.replace('_', "-").to_lowercase());
    matches!((plain(source), plain(target)), (Some(a), Some(b)) if a == b)
}

/// Whether one version is certainly older: numbers between dots, compared one by one.
fn older(one: &str, other: &str) -> bool {
    let numbers = |text: &str| text.split(['.', '-']).map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    matches!((numbers(one), numbers(other)), (Some(a), Some(b)) if a < b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(all: &[&str]) -> Vec<String> {
        all.iter().map(|&line| line.to_owned()).collect()
    }

    fn judged(class: &str, source: &[&str], target: &[&str], majors: Majors) -> String {
        let object = Object { class: class.into(), name: "x".into() };
        match judge(&object, &lines(source), &lines(target), majors) {
            Judgement::Equal => "equal".into(),
            Judgement::Note(note) => format!("note: {note}"),
            Judgement::Different(difference) => difference.to_string(),
        }
    }

    #[test]
    fn every_line_counts() {
        let same = Majors::Same;
        assert_eq!(judged("table", &["a", "b"], &["b", "a"], same), "equal");
        assert_eq!(judged("table", &["a", "b"], &["b", "c"], same), "table x differs: - a; + c");
        assert_eq!(judged("table", &["a", "a"], &["a"], same), "table x differs: - a");
        assert_eq!(judged("table", &["a"], &["a", "belongs to eve"], same), "table x differs: + belongs to eve");
        assert_eq!(judged("table", &["a"], &[], same), "table x is only in the source");
        assert_eq!(judged("event trigger", &[], &["present"], same), "event trigger x is only in the target");
    }

    #[test]
    fn a_newer_extension_is_a_note() {
        let of = |version: &str| format!("version {version}");
        let judged = |old: &str, new: &str, rest: &str| {
            let (old, new) = (of(old), of(new));
            judged("extension", &[&old, "in schema public"], &[&new, rest], Majors::Across)
        };
        assert_eq!(
            judged("1.9", "1.10", "in schema public"),
            "note: extension x is of version 1.9 in the source and 1.10 in the target"
        );
        assert!(judged("1.10", "1.9", "in schema public").starts_with("extension x differs: - version 1.10"));
        assert_eq!(judged("1.9", "1.10", "in schema x"), "extension x differs: - in schema public; + in schema x");
    }

    #[test]
    fn settings_count_where_the_source_has_none() {
        let judged = |source: &[&str], target: &[&str]| judged("database", source, target, Majors::Same);
        assert_eq!(judged(&["setting work_mem"], &[]), "equal");
        assert_eq!(judged(&["setting work_mem"], &["setting work_mem"]), "equal");
        assert_eq!(judged(&["l", "setting work_mem"], &["l", "setting role"]), "database x differs: + setting role");
        assert_eq!(
            judged(&["l", "setting a of role r"], &["l", "setting a of role r"]),
            "equal",
            "lines that are alike are no difference"
        );
        assert_eq!(judged(&["l"], &["l", "setting a of role r"]), "database x differs: + setting a of role r");
    }

    #[test]
    fn locales_are_written_otherwise_by_other_majors() {
        assert_eq!(judged("collation", &["locale de_AT"], &["locale de-AT"], Majors::Across), "equal");
        assert_ne!(judged("collation", &["locale de_AT"], &["locale de-AT"], Majors::Same), "equal");
        assert_ne!(judged("collation", &["locale de_AT"], &["locale de-CH"], Majors::Across), "equal");
    }

    #[test]
    fn a_new_database_has_a_schema_public() {
        let public = Object { class: "schema".into(), name: "public".into() };
        let judged = |target: &[&str]| judge(&public, &[], &lines(target), Majors::Same);
        assert_eq!(judged(&["present", "comment 'standard public schema'"]), Judgement::Equal);
        assert_ne!(judged(&["present", "belongs to eve"]), Judgement::Equal);
        let other = Object { class: "schema".into(), name: "other".into() };
        assert_ne!(judge(&other, &[], &lines(&["present"]), Majors::Same), Judgement::Equal);
    }
}
