//! What is made from something else equals what is committed, and has the shape that was promised for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod chart;
mod reasons;
mod rights;
mod rooms;
mod shape;

use std::path::Path;

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn generated_files_are_committed_as_they_are_made() {
    let files = pgmigration::generate::files(root()).unwrap();
    assert!(files.len() >= 5);
    for file in files {
        let committed = std::fs::read_to_string(root().join(&file.path)).unwrap_or_default();
        assert!(committed == file.text, "{} is not what `make generate` makes: run it and commit", file.path.display());
    }
}
