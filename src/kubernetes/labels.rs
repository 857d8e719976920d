//! Labels on everything that the operator creates.

use std::collections::BTreeMap;

use crate::api::names::{NAME_LABEL, UID_LABEL};

/// The migration that something is created for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationId {
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
}

impl MigrationId {
    /// The labels of what belongs to this migration: its UID, and its name as far as a label can hold it.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let name: String = self.name.chars().take(63).collect();
        let name = name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        BTreeMap::from([(UID_LABEL.to_owned(), self.uid.clone()), (NAME_LABEL.to_owned(), name.to_owned())])
    }

    /// Whether an object with these labels was created for this migration.
    pub fn owns(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        labels.and_then(|labels| labels.get(UID_LABEL)) == Some(&self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_longer_than_a_label_is_cut() {
        let id = MigrationId { name: format!("{}.{}", "a".repeat(62), "b".repeat(100)), uid: "u".into() };
        assert_eq!(id.labels()[NAME_LABEL], "a".repeat(62));
        assert!(id.owns(Some(&id.labels())));
        assert!(!MigrationId { uid: "v".into(), ..id.clone() }.owns(Some(&id.labels())));
        assert!(!id.owns(None));
    }
}
