//! Names of objects in the bucket. Pure: the same inputs always give the same key.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Characters of a database name that stand as they are; S3 calls these safe in keys.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Prefix of everything that one migration object writes: `<prefix>/<namespace>/<migration>/<first 8 of uid>`,
/// without a slash at either end. An empty prefix is left out.
pub fn run_prefix(prefix: &str, namespace: &str, migration: &str, uid: &str) -> String {
    let short: String = uid.chars().take(8).collect();
    let prefix = prefix.trim_matches('/');
    let tail = format!("{namespace}/{migration}/{short}");
    if prefix.is_empty() { tail } else { format!("{prefix}/{tail}") }
}

/// Key of a database's archive. `stamp` is the run's time as `YYYYMMDD_HHMMSS` in UTC, fixed before the first attempt.
pub fn archive(run_prefix: &str, database: &str, stamp: &str) -> String {
    format!("{run_prefix}/{}_{stamp}.dump", utf8_percent_encode(database, KEPT))
}

/// Key of the manifest beside an archive.
pub fn manifest(archive_key: &str) -> String {
    format!("{archive_key}.manifest.json")
}

/// Key of a report document beside an archive. `number` tells several of one kind apart.
pub fn document(archive_key: &str, what: &str, number: u32) -> String {
    format!("{archive_key}.{what}.{number}.json")
}

/// Folder below a run's prefix for what was saved when the run was rolled back.
const SAVED: &str = "saved";

/// Key of the dump of the new database that is made when a run is rolled back, from that of the run's own archive. It does not
/// begin with that one: what begins so goes when a run is undone. `take` tells attempts apart that must not meet.
pub fn saved(archive_key: &str, take: i64) -> String {
    let (folder, name) = archive_key.rsplit_once('/').unwrap_or(("", archive_key));
    let stem = name.strip_suffix(".dump").unwrap_or(name);
    let number = if take > 1 { format!(".{take}") } else { String::new() };
    let slash = if folder.is_empty() { "" } else { "/" };
    format!("{folder}{slash}{SAVED}/{stem}{number}.dump")
}

/// Key of the document that says that a saved dump was read back.
pub fn saved_seal(saved_key: &str) -> String {
    format!("{saved_key}.run.manifest.json")
}

/// Where the manifest of a run goes that was rolled back: its archive stays, and the next run has one of its own to write.
pub fn past_run_manifest(archive_key: &str) -> String {
    format!("{archive_key}.run.manifest.json")
}

/// Key of the manifest that seals a run.
pub fn run_manifest(run_prefix: &str) -> String {
    format!("{run_prefix}/run.manifest.json")
}

/// What everything begins with that objects of this name write, whatever their UID.
pub fn migration_prefix(prefix: &str, namespace: &str, migration: &str) -> String {
    run_prefix(prefix, namespace, migration, "")
}

/// Last part of the key of a marker of completion.
pub const COMPLETED: &str = "completed.json";

/// Key of the document that says that a migration came to its end.
pub fn completion(run_prefix: &str) -> String {
    format!("{run_prefix}/{COMPLETED}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_documented_shape() {
        let run = run_prefix("/onyx/", "shop", "move", "0d9b2b9e-6f5e-4f43-9d5c-3a0c9d1f4b11");
        assert_eq!(run, "onyx/shop/move/0d9b2b9e");
        assert_eq!(run_prefix("", "shop", "move", "0d9b2b9e-6f5e"), "shop/move/0d9b2b9e");
        assert_eq!(migration_prefix("/onyx/", "shop", "move"), "onyx/shop/move/");
        assert_eq!(completion(&run), "onyx/shop/move/0d9b2b9e/completed.json");
        let key = archive(&run, "a/b ü_1", "20261123_060000");
        assert_eq!(key, "onyx/shop/move/0d9b2b9e/a%2Fb%20%C3%BC_1_20261123_060000.dump");
        assert_eq!(manifest(&key), format!("{key}.manifest.json"));
        assert_eq!(run_manifest(&run), "onyx/shop/move/0d9b2b9e/run.manifest.json");
    }

    #[test]
    fn what_is_saved_stands_apart_from_what_an_undo_deletes() {
        let archive = "onyx/shop/move/0d9b2b9e/saved_20261123_060000.dump";
        let saved = [saved(archive, 1), saved(archive, 2)];
        assert_eq!(saved[0], "onyx/shop/move/0d9b2b9e/saved/saved_20261123_060000.dump");
        assert_eq!(saved[1], "onyx/shop/move/0d9b2b9e/saved/saved_20261123_060000.2.dump");
        assert!(saved.iter().all(|key| !key.starts_with(archive.trim_end_matches(".dump"))));
        assert_eq!(saved_seal("a.dump"), "a.dump.run.manifest.json");
    }

    #[test]
    fn a_name_cannot_leave_its_folder() {
        assert!(!archive("p", "../../x", "t").contains("/../"));
    }
}
