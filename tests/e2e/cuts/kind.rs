//! The kinds of damage, and what a seed makes of them.

use serde::{Deserialize, Serialize};

use super::case::Op;

/// What is wrong with the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// One bit of the file is another one; length and tag are as they were.
    Bit,
    /// The same in the table of contents, which is not compressed.
    BitInContents,
    /// Eight bytes are others.
    Bytes,
    /// The file ends early.
    Cut,
    /// Its last byte is missing.
    LastByte,
    /// It has one byte more.
    Longer,
    /// It is empty.
    Empty,
    /// An older archive of the same database stands in the same file.
    OlderInPlace,
    /// An older archive of the same database was uploaded to the key.
    OlderUploaded,
    /// The older archive and a manifest that describes it, with our UID, run and key.
    OlderWithManifest,
    /// The manifest is that of another migration.
    ManifestUid,
    /// The manifest is that of another run.
    ManifestRun,
    /// The manifest tells another SHA-256.
    ManifestSha,
    /// The manifest tells another length.
    ManifestBytes,
    /// The manifest tells another schema for an extension.
    ManifestExtension,
    /// The manifest is no JSON.
    ManifestGarbage,
    /// One letter of the manifest's file is another one: still a manifest, but not the one that was written.
    ManifestRot,
    /// The manifest is of a version to come.
    ManifestVersion,
    /// There is no object.
    NoObject,
    /// There is no manifest.
    NoManifest,
    /// The run was not sealed.
    NoSeal,
    /// The run was sealed with another archive.
    OtherSeal,
}

const KINDS: [Kind; 22] = [
    Kind::Bit,
    Kind::BitInContents,
    Kind::Bytes,
    Kind::Cut,
    Kind::LastByte,
    Kind::Longer,
    Kind::Empty,
    Kind::OlderInPlace,
    Kind::OlderUploaded,
    Kind::OlderWithManifest,
    Kind::ManifestUid,
    Kind::ManifestRun,
    Kind::ManifestSha,
    Kind::ManifestBytes,
    Kind::ManifestExtension,
    Kind::ManifestGarbage,
    Kind::ManifestRot,
    Kind::ManifestVersion,
    Kind::NoObject,
    Kind::NoManifest,
    Kind::NoSeal,
    Kind::OtherSeal,
];

/// What verify, which is what seals, can find out.
const BEFORE_SEAL: [Kind; 17] = [
    Kind::Bit,
    Kind::BitInContents,
    Kind::Bytes,
    Kind::Cut,
    Kind::LastByte,
    Kind::Longer,
    Kind::Empty,
    Kind::OlderInPlace,
    Kind::OlderUploaded,
    Kind::ManifestUid,
    Kind::ManifestRun,
    Kind::ManifestSha,
    Kind::ManifestBytes,
    Kind::ManifestGarbage,
    Kind::ManifestRot,
    Kind::NoObject,
    Kind::NoManifest,
];

/// One damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Damage {
    pub seed: u64,
    pub number: u64,
    /// Which operation meets it: verify or restore.
    pub op: Op,
    pub kind: Kind,
}

/// The damages of a seed: each kind for restore, then each for verify, then the same at other places.
pub fn damages(seed: u64, count: u64) -> Vec<Damage> {
    let all: Vec<(Op, Kind)> =
        KINDS.iter().map(|k| (Op::Restore, *k)).chain(BEFORE_SEAL.iter().map(|k| (Op::Verify, *k))).collect();
    (0..count)
        .map(|number| (number, all[usize::try_from(number).unwrap() % all.len()]))
        .map(|(number, (op, kind))| Damage { seed, number, op, kind })
        .collect()
}
