//! Everything in the repository that is made from something else: the resource definition from `api`, the chart from `config/`.
//!
//! Here belongs text in, text out. A test compares what is made here with what is committed. Nothing of the operator or its
//! movers uses this room; it uses `api` alone.

mod chart;
mod crd;

use std::io;
use std::path::{Path, PathBuf};

use kube::CustomResourceExt;

use crate::api::PostgresMigration;

/// First line of every generated file.
const HEADER: &str = "# Made by `make generate`. Change what it is made from: src/api and config/.\n";

/// One generated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Where it belongs, below the root of the repository.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// Why nothing could be generated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] io::Error),
    /// The resource definition cannot be written as YAML.
    #[error("the resource definition: {0}")]
    Definition(String),
    /// A text that a template replaces is not in its file (any more).
    #[error("{file} does not hold {text:?}, which the chart replaces")]
    NotFound {
        /// File below the root.
        file: String,
        /// What was looked for.
        text: String,
    },
}

/// All generated files, made from the sources below `root`, in a fixed order. Writes nothing.
///
/// # Errors
/// See [`Error`].
pub fn files(root: &Path) -> Result<Vec<Generated>, Error> {
    let definition = crd::definition(&PostgresMigration::crd())?;
    let mut files = chart::files(root, &definition)?;
    files.insert(0, Generated { path: "crds/postgresmigrations.yaml".into(), text: definition });
    Ok(files)
}

/// Writes all generated files below `root` and returns their paths.
///
/// # Errors
/// See [`Error`].
pub fn write(root: &Path) -> Result<Vec<PathBuf>, Error> {
    files(root)?
        .into_iter()
        .map(|Generated { path, text }| {
            let whole = root.join(&path);
            let folder = whole.parent().unwrap_or(root);
            std::fs::create_dir_all(folder).map_err(|error| Error::File(folder.into(), error))?;
            std::fs::write(&whole, text).map_err(|error| Error::File(whole, error))?;
            Ok(path)
        })
        .collect()
}
