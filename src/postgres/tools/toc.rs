//! The table of contents of an archive, as `pg_restore --list` prints it, and what of it an owner can restore.
//!
//! An entry is one line: `<id>; <catalog oid> <object oid> <KIND> <schema or -> <name> <owner>`. Names may hold blanks, so kinds
//! are told by the catalog's OID where there is one, and by text that no name can imitate where there is none.

use std::collections::BTreeSet;

/// Catalogs whose objects only a superuser (or a holder of predefined roles) can make: OID and what people call the object.
const ADMIN_ONLY: &[(u32, &str)] = &[
    (3466, "event trigger"),
    (2328, "foreign data wrapper"),
    (1417, "foreign server"),
    (6104, "publication"),
    (6106, "publication of a table"),
    (6237, "publication of a schema"),
    (6100, "subscription"),
    (2612, "procedural language"),
    (2601, "access method"),
    (2616, "operator class"),
    (2753, "operator family"),
    (3601, "text search parser"),
    (3764, "text search template"),
    (3576, "transform"),
];

/// Kinds without a catalog's OID, by how the line goes on after the two OIDs.
const ADMIN_ONLY_TEXT: &[&str] = &[
    "USER MAPPING - ",
    "COMMENT - EVENT TRIGGER ",
    "COMMENT - FOREIGN DATA WRAPPER ",
    "COMMENT - SERVER ",
    "COMMENT - PUBLICATION ",
    "COMMENT - SUBSCRIPTION ",
    "COMMENT - LANGUAGE ",
    "COMMENT - PROCEDURAL LANGUAGE ",
    "COMMENT - ACCESS METHOD ",
    "SECURITY LABEL ",
];

/// What takes the time after the rows: catalog and kind.
const INDEXES: [(u32, &str); 3] = [(1259, "INDEX "), (2606, "CONSTRAINT "), (2606, "FK CONSTRAINT ")];

/// What joins the indexes of partitions to those of their table; not counted, but made with them.
const ATTACH: &str = "INDEX ATTACH ";

/// Kinds that no index or constraint stands on, so that they may come after all of those.
const CAN_WAIT: [&str; 9] = [
    "CHECK CONSTRAINT ",
    "COMMENT ",
    "MATERIALIZED VIEW DATA ",
    "POLICY ",
    "ROW SECURITY ",
    "RULE ",
    "SECURITY LABEL ",
    "STATISTICS ",
    "TRIGGER ",
];

const EXTENSION: u32 = 3079;
const SCHEMA: u32 = 2615;

/// Why an entry is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It exists beforehand: made by the administrator or by `initdb`.
    Made,
    /// Nobody but an administrator can make it.
    AdminOnly,
    /// A grant, which single ownership drops.
    Grant,
}

/// What to restore, and what not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// The file for `--use-list`.
    pub list: String,
    /// Entries in that file.
    pub entries: u64,
    /// Tables whose data is restored.
    pub tables: u64,
    /// Indexes and constraints, which are made when the data is there.
    pub indexes: u64,
    /// Entries that nobody will restore, each with its reason, in the order of the archive.
    pub left_out: Vec<String>,
}

/// A list in three, to be restored one after the other; each may be empty but the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Up to the first index or constraint: all rows are in here, because `pg_dump` sorts what needs them behind them.
    pub rows: String,
    /// Indexes and constraints, to be made side by side.
    pub indexes: String,
    /// The rest, in the archive's order. Not beside those: with row security on, a foreign key cannot be checked. An index may
    /// stand on a relation or function that itself needs a primary key and comes after it (a materialized view that groups by
    /// it): from there on nothing is taken out of the order.
    pub rest: String,
}

impl Filtered {
    /// Everything in one part.
    pub fn whole(self) -> Parts {
        Parts { rows: self.list, indexes: String::new(), rest: String::new() }
    }

    /// Parts so that several sessions can make the indexes.
    pub fn in_parts(self) -> Parts {
        let mut parts = Parts { rows: String::new(), indexes: String::new(), rest: String::new() };
        let mut in_order = false;
        for line in self.list.lines() {
            let entry = Entry::read(line);

            in_order |= !parts.indexes.is_empty() && entry.as_ref().is_none_or(|entry| !entry.is_parallel() && !entry.can_wait());
            let part = if !in_order && entry.is_some_and(|entry| entry.is_parallel()) {
                &mut parts.indexes
            } else if parts.indexes.is_empty() {
                &mut parts.rows
            } else {
                &mut parts.rest
            };
            part.push_str(line);
            part.push('\n');
        }
        parts
    }
}

/// Reads a listing and chooses what the owner restores. `made_schemas` are the OIDs, in the source, of schemas that exist
/// already because extensions needed them.
///
/// # Errors
/// When a line is no entry, or the listing holds none of the header that a whole listing begins with.
pub fn filter(listing: &str, made_schemas: &BTreeSet<u32>) -> Result<Filtered, String> {
    if !listing.starts_with(";\n; Archive created at ") {
        return Err("pg_restore gave no table of contents".into());
    }
    let mut filtered = Filtered { list: String::new(), entries: 0, tables: 0, indexes: 0, left_out: Vec::new() };
    for line in listing.lines().filter(|l| !l.is_empty() && !l.starts_with(';')) {
        let entry = Entry::read(line).ok_or_else(|| format!("a line of the table of contents cannot be read: {line:?}"))?;
        match entry.left_out(made_schemas) {
            None => {
                filtered.list.push_str(line);
                filtered.list.push('\n');
                filtered.entries += 1;
                filtered.tables += u64::from(entry.catalog == 0 && entry.rest.starts_with("TABLE DATA "));
                filtered.indexes +=
                    u64::from(INDEXES.iter().any(|(catalog, kind)| *catalog == entry.catalog && entry.rest.starts_with(kind)));
            }
            Some(Left::Made) => {}
            Some(Left::AdminOnly) => filtered.left_out.push(format!("{} (only an administrator can make it)", entry.rest)),
            Some(Left::Grant) => filtered.left_out.push(format!("{} (grants are dropped under single ownership)", entry.rest)),
        }
    }
    Ok(filtered)
}

struct Entry<'a> {
    catalog: u32,
    object: u32,
    rest: &'a str,
}

impl<'a> Entry<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (id, after) = line.split_once("; ")?;
        id.parse::<u32>().ok()?;
        let (catalog, after) = after.split_once(' ')?;
        let (object, rest) = after.split_once(' ')?;
        Some(Self { catalog: catalog.parse().ok()?, object: object.parse().ok()?, rest })
    }

    fn is_index(&self) -> bool {
        INDEXES.iter().any(|(catalog, kind)| *catalog == self.catalog && self.rest.starts_with(kind))
            && !self.rest.starts_with(ATTACH)
    }

    fn can_wait(&self) -> bool {
        CAN_WAIT.iter().any(|kind| self.rest.starts_with(kind))
    }

    fn is_parallel(&self) -> bool {
        self.is_index() || self.rest.starts_with(ATTACH)
    }

    fn left_out(&self, made_schemas: &BTreeSet<u32>) -> Option<Left> {
        let text = |start: &str| self.catalog == 0 && self.rest.starts_with(start);
        if self.catalog == EXTENSION || text("COMMENT - EXTENSION ") {
            return Some(Left::Made);
        }
        // template0 has it, and the database's owner owns it there.
        let public = self.rest.starts_with("SCHEMA - public ");
        if self.catalog == SCHEMA && (public || made_schemas.contains(&self.object)) {
            return Some(Left::Made);
        }
        if ADMIN_ONLY.iter().any(|(catalog, _)| *catalog == self.catalog) || ADMIN_ONLY_TEXT.iter().any(|kind| text(kind)) {
            return Some(Left::AdminOnly);
        }
        if text("ACL ") || text("DEFAULT ACL ") || self.catalog == 826 {
            return Some(Left::Grant);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = ";\n; Archive created at 2026-11-23 06:00:00 UTC\n;     dbname: app\n;\n;\n; Selected TOC Entries:\n;\n\
        6; 2615 16386 SCHEMA - ext postgres\n\
        5; 2615 2200 SCHEMA - public pg_database_owner\n\
        7; 2615 16387 SCHEMA - sales postgres\n\
        2; 3079 16390 EXTENSION - pgcrypto \n\
        3400; 0 0 COMMENT - EXTENSION pgcrypto \n\
        220; 1259 16400 TABLE sales DATA postgres\n\
        221; 1259 16401 TABLE DATA odd postgres\n\
        3377; 0 16400 TABLE DATA sales DATA postgres\n\
        3401; 0 0 ACL sales TABLE DATA postgres\n\
        2100; 826 16500 DEFAULT ACL sales DEFAULT PRIVILEGES FOR TABLES postgres\n\
        3300; 3466 16600 EVENT TRIGGER - audit postgres\n\
        3402; 0 0 COMMENT - EVENT TRIGGER audit postgres\n\
        3301; 6104 16601 PUBLICATION - pub postgres\n\
        3200; 1417 16602 SERVER - far postgres\n\
        3201; 0 0 USER MAPPING - USER MAPPING app SERVER far postgres\n\
        3500; 0 0 COMMENT sales TABLE DATA postgres\n\
        3600; 1259 16700 INDEX sales i postgres\n\
        3601; 2606 16701 FK CONSTRAINT sales DATA f postgres\n";

    fn filtered() -> Filtered {
        filter(LISTING, &BTreeSet::from([16386])).unwrap()
    }

    #[test]
    fn what_exists_is_left_out_in_silence_and_what_is_lost_by_name() {
        let filtered = filtered();
        assert_eq!(
            filtered.list,
            "7; 2615 16387 SCHEMA - sales postgres\n220; 1259 16400 TABLE sales DATA postgres\n221; 1259 16401 TABLE DATA odd postgres\n\
             3377; 0 16400 TABLE DATA sales DATA postgres\n3500; 0 0 COMMENT sales TABLE DATA postgres\n\
             3600; 1259 16700 INDEX sales i postgres\n3601; 2606 16701 FK CONSTRAINT sales DATA f postgres\n"
        );
        assert_eq!((filtered.entries, filtered.tables, filtered.indexes), (7, 1, 2));
        assert_eq!(filtered.left_out.len(), 7, "{:?}", filtered.left_out);
        for name in ["audit", "PUBLICATION - pub", "SERVER - far", "USER MAPPING - ", "ACL sales TABLE", "DEFAULT PRIVILEGES"] {
            assert!(filtered.left_out.iter().any(|l| l.contains(name)), "{name} in {:?}", filtered.left_out);
        }
    }

    #[test]
    fn indexes_are_a_part_of_their_own_and_nothing_is_in_none() {
        let listing =
            LISTING.replace("3500; 0 0 COMMENT sales", "3499; 2618 16699 RULE sales r postgres\n3500; 0 0 COMMENT sales");
        let listing = format!("{listing}3602; 0 0 COMMENT sales INDEX i postgres\n3603; 0 0 INDEX ATTACH sales p postgres\n");
        let parts = filter(&listing, &BTreeSet::new()).unwrap().in_parts();
        let ids = |list: &str| list.lines().map(|l| l.split(';').next().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(ids(&parts.rows), ["6", "7", "220", "221", "3377", "3499", "3500"]);
        assert_eq!(ids(&parts.indexes), ["3600", "3601", "3603"]);
        assert_eq!(ids(&parts.rest), ["3602"]);

        let needs_a_key =
            "3604; 1259 16710 MATERIALIZED VIEW sales grouped postgres\n3605; 1259 16711 INDEX sales on_grouped postgres\n";
        let parts = filter(&format!("{listing}{needs_a_key}"), &BTreeSet::new()).unwrap().in_parts();
        assert_eq!(ids(&parts.indexes), ["3600", "3601", "3603"]);
        assert_eq!(ids(&parts.rest), ["3602", "3604", "3605"]);
    }

    #[test]
    fn a_cut_or_foreign_listing_is_an_error() {
        assert!(filter("", &BTreeSet::new()).is_err());
        assert!(filter(&format!("{LISTING}220; 12"), &BTreeSet::new()).is_err());
        assert!(filter("pg_restore: error: x", &BTreeSet::new()).is_err());
    }
}
