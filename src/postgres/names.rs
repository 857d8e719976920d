//! Names of databases that we make beside one of the user's. Pure.

/// The longest name that PostgreSQL keeps, in bytes.
pub const NAME_BYTES: usize = 63;

/// How many bytes of the original name a derived one keeps, so that people recognise it.
const KEPT_BYTES: usize = 40;

/// What a derived database is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DerivedRole {
    /// The source under its fenced name.
    Fenced,
    /// The empty database that refuses connections in the source's place.
    Tombstone,
    /// The target before it is published.
    Staging,
    /// What stood in the target's place before.
    Aside,
    /// A new database that was rolled back and could not be saved.
    Kept,
}

impl DerivedRole {
    const fn letter(self) -> char {
        match self {
            Self::Fenced => 'f',
            Self::Tombstone => 't',
            Self::Staging => 's',
            Self::Aside => 'a',
            Self::Kept => 'k',
        }
    }
}

/// The name of the database that serves `role` beside `database` in the migration with this UID: the first 40 bytes of
/// the name (whole characters), `_`, the first 12 hexadecimal digits of the UID, a letter. At most 54 bytes.
pub fn derived_name(database: &str, uid: &str, role: DerivedRole) -> String {
    let mut end = database.len().min(KEPT_BYTES);
    while !database.is_char_boundary(end) {
        end -= 1;
    }
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).take(12).collect::<String>().to_lowercase();
    format!("{}_{digits}{}", database.get(..end).unwrap_or_default(), role.letter())
}

/// The name of a new database of run `run` that is kept after a rollback: of each run another one, since none may take the place
/// of what an earlier one kept. At most 63 bytes for every number of runs that there can be.
pub fn kept_name(database: &str, uid: &str, run: i64) -> String {
    format!("{}{run}", derived_name(database, uid, DerivedRole::Kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0B1C2D3E-4f5a-6789-abcd-ef0123456789";

    #[test]
    fn derived_names_are_short_and_told_apart() {
        assert_eq!(derived_name("onyx", UID, DerivedRole::Fenced), "onyx_0b1c2d3e4f5af");
        assert_eq!(derived_name("onyx", UID, DerivedRole::Tombstone), "onyx_0b1c2d3e4f5at");
        assert_eq!(derived_name("onyx", UID, DerivedRole::Staging), "onyx_0b1c2d3e4f5as");
        assert_eq!(derived_name("onyx", UID, DerivedRole::Aside), "onyx_0b1c2d3e4f5aa");
        assert_eq!(kept_name("onyx", UID, 12), "onyx_0b1c2d3e4f5ak12");
        assert!(kept_name(&"z".repeat(63), UID, 1_000_000).len() <= NAME_BYTES);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let name = format!("{}é{}", "x".repeat(39), "y".repeat(20));
        let derived = derived_name(&name, UID, DerivedRole::Staging);
        assert_eq!(derived, format!("{}_0b1c2d3e4f5as", "x".repeat(39)));
        assert!(derived_name(&"z".repeat(63), UID, DerivedRole::Staging).len() <= NAME_BYTES);
    }
}
