//! What docs/runbook.md tells a person to do by hand. Shared by the tests that do it.

/// The UID of the runbook's examples.
const UID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

/// The commands or the SQL that follow `heading`, for a migration of `database` with this UID.
pub fn by_hand(heading: &str, database: &str, uid: &str) -> String {
    let text = include_str!("../docs/runbook.md");
    let rest = text.split_once(heading).unwrap_or_else(|| panic!("no {heading:?} in the runbook")).1;
    let block = rest.split_once("```").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let (_, script) = block.split_once('\n').unwrap();
    assert!(script.contains(&digits(UID)) || script.contains(UID), "{script}");
    script.replace(UID, uid).replace(&digits(UID), &digits(uid)).replace("shop", database)
}

/// Those of a UID that derived names have.
pub fn digits(uid: &str) -> String {
    uid.replace('-', "")[..12].to_owned()
}

pub const NAME: &str = "**The database's name on the target.**";
pub const COPY: &str = "**Copy on the target.**";
pub const FENCE: &str = "**Fence of the source database.**";
pub const TOMBSTONE: &str = "What is left of the tombstone";
