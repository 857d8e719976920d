//! The rooms of the house: a module uses only modules below it, and each library of a far side stays in its room.

use std::fs;
use std::path::{Path, PathBuf};

use crate::root;

/// From the top to the ground.
pub(crate) const ROOMS: [&str; 8] = ["operator", "mover", "steps", "plan", "kubernetes", "postgres", "archive", "api"];

/// Libraries and the rooms that may name them.
const LIBRARIES: [(&str, &[&str]); 3] =
    [("aws_sdk_s3", &["archive"]), ("tokio_postgres", &["postgres"]), ("tokio_tungstenite", &["kubernetes"])];

/// A file may be longer only for a reason that somebody would defend.
const LONGEST: usize = 600;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

pub(crate) fn room_files(room: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&root().join("src").join(room), &mut found);
    assert!(!found.is_empty(), "room {room} is empty");
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    for (floor, room) in ROOMS.iter().enumerate() {
        for (path, text) in room_files(room) {
            for above in &ROOMS[..floor] {
                let line =
                    text.lines().find(|line| !line.trim_start().starts_with("//") && line.contains(&format!("crate::{above}")));
                assert!(line.is_none(), "{} uses the room above it: {}", path.display(), line.unwrap_or_default());
            }
        }
    }
    for (path, text) in room_files("generate") {
        assert!(!text.contains("crate::") || text.contains("crate::api"), "{} uses more than api", path.display());
    }
}

/// What every room may use must itself use none.
#[test]
fn crash_stands_below_all_rooms() {
    let text = fs::read_to_string(root().join("src/crash.rs")).unwrap();
    assert!(!text.contains("crate::") && !text.contains("super::super"), "src/crash.rs uses a room");
}

/// A process that may be ended by objects is for tests: no file that anybody installs makes one.
#[test]
fn nothing_that_is_shipped_lets_objects_end_the_operator() {
    for folder in ["config", "charts", "crds"] {
        let mut files = vec![root().join(folder)];
        let mut seen = 0;
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                seen += 1;
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("PGMIGRATION_CRASH") && !text.contains("crash-at"), "{}", path.display());
            }
        }
        assert!(seen > 0, "{folder} is empty");
    }
}

#[test]
fn libraries_stay_in_their_rooms() {
    for room in ROOMS {
        for (path, text) in room_files(room) {
            for (library, homes) in LIBRARIES {
                let named =
                    text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(&format!("{library}::")));
                assert!(!named || homes.contains(&room), "{} names {library}, which lives in {homes:?}", path.display());
            }
        }
    }
}

#[test]
fn judgement_has_no_client_no_clock_and_does_not_wait() {
    for (path, text) in room_files("plan") {
        for word in ["async fn", ".await", "Timestamp::now", "Instant::now", "SystemTime", "kube::Client", "kube::Api"] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    sources(&root().join("tests"), &mut found);
    for path in found {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines", path.display());
    }
}
