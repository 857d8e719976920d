//! Which PostgreSQL versions go together. Pure.
//!
//! Here: major versions, and whether a dump and a restore tool fit a source and a target. Not here: asking for versions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The oldest major that catalog questions are written for.
pub const OLDEST_MAJOR: u32 = 15;

/// A version as `server_version_num` gives it: 150_018 is 15.18. For majors from 10 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u32);

impl Version {
    /// The major version, which decides formats and compatibility.
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The minor version.
    pub const fn minor(self) -> u32 {
        self.0 % 10_000
    }

    /// Reads what `pg_dump --version` and its like print: `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    ///
    /// None when there is no version after the product's name. A development version (`18devel`, `18beta1`) counts as
    /// minor 0.
    pub fn from_tool(output: &str) -> Option<Self> {
        let (_, after) = output.split_once("(PostgreSQL)")?;
        let word = after.split_whitespace().next()?;
        let digits = |text: &str| -> Option<u32> {
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text.get(..end)?.parse().ok()
        };
        let major = digits(word)?;
        let minor = word.split_once('.').and_then(|(_, minor)| digits(minor)).unwrap_or(0);
        if !(10..1000).contains(&major) || minor >= 10_000 {
            return None;
        }
        Some(Self(major * 10_000 + minor))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// The four versions that a dump and a restore bring together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The server that is dumped.
    pub source: Version,
    /// `pg_dump`.
    pub dump: Version,
    /// `pg_restore`.
    pub restore: Version,
    /// The server that is restored into.
    pub target: Version,
}

/// Why four versions do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A server older than the questions and proofs are made for.
    #[error("the server is PostgreSQL {0}; {OLDEST_MAJOR} is the oldest supported major version")]
    TooOld(Version),
    /// Loading into an older major is not guaranteed to work, and sometimes loses meaning in silence.
    #[error("the target is PostgreSQL {target}, older than the source, {origin}")]
    Downgrade {
        /// The source's version.
        origin: Version,
        /// The target's version.
        target: Version,
    },
    /// `pg_dump` refuses servers newer than itself.
    #[error("pg_dump {dump} cannot dump the newer server {origin}")]
    DumpOlderThanSource {
        /// The tool's version.
        dump: Version,
        /// The source's version.
        origin: Version,
    },
    /// A newer `pg_dump` may write what the older target does not understand.
    #[error("pg_dump {dump} is newer than the target {target}")]
    DumpNewerThanTarget {
        /// The tool's version.
        dump: Version,
        /// The target's version.
        target: Version,
    },
    /// `pg_restore` sets parameters of its own major version, which an older server refuses; an older `pg_restore` may
    /// not know the archive's format.
    #[error("pg_restore {restore} is not of the target's major version, {target}")]
    RestoreNotOfTarget {
        /// The tool's version.
        restore: Version,
        /// The target's version.
        target: Version,
    },
}

impl Versions {
    /// Judges the four together; all that is wrong, in a fixed order. Empty = they fit.
    ///
    /// The rule: source major <= dump major <= target major, restore major = target major.
    pub fn judge(&self) -> Vec<Mismatch> {
        let mut wrong = Vec::new();
        for server in [self.source, self.target] {
            if server.major() < OLDEST_MAJOR {
                wrong.push(Mismatch::TooOld(server));
            }
        }
        if self.target.major() < self.source.major() {
            wrong.push(Mismatch::Downgrade { origin: self.source, target: self.target });
        }
        if self.dump.major() < self.source.major() {
            wrong.push(Mismatch::DumpOlderThanSource { dump: self.dump, origin: self.source });
        } else if self.dump.major() > self.target.major() {
            wrong.push(Mismatch::DumpNewerThanTarget { dump: self.dump, target: self.target });
        }
        if self.restore.major() != self.target.major() {
            wrong.push(Mismatch::RestoreNotOfTarget { restore: self.restore, target: self.target });
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V15: Version = Version(150_018);
    const V17: Version = Version(170_011);
    const V18: Version = Version(180_004);

    #[test]
    fn tools_say_their_version() {
        assert_eq!(Version::from_tool("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(V15));
        assert_eq!(Version::from_tool("pg_restore (PostgreSQL) 17.11"), Some(V17));
        assert_eq!(Version::from_tool("pg_dump (PostgreSQL) 18beta1"), Some(Version(180_000)));
        assert_eq!(Version::from_tool("pg_dump: command not found"), None);
        assert_eq!(Version::from_tool("x (PostgreSQL) 9.6.1"), None);
        assert_eq!(V17.to_string(), "17.11");
    }

    #[test]
    fn the_usual_case_fits() {
        assert_eq!(Versions { source: V15, dump: V15, restore: V17, target: V17 }.judge(), []);
        assert_eq!(Versions { source: V15, dump: V17, restore: V17, target: V17 }.judge(), []);
        assert_eq!(Versions { source: V17, dump: V17, restore: V17, target: V17 }.judge(), []);
    }

    #[test]
    fn each_mismatch_is_named() {
        assert_eq!(
            Versions { source: V17, dump: V17, restore: V15, target: V15 }.judge(),
            [Mismatch::Downgrade { origin: V17, target: V15 }, Mismatch::DumpNewerThanTarget { dump: V17, target: V15 }]
        );
        assert_eq!(
            Versions { source: V17, dump: V15, restore: V18, target: V18 }.judge(),
            [Mismatch::DumpOlderThanSource { dump: V15, origin: V17 }]
        );
        assert_eq!(
            Versions { source: V15, dump: V15, restore: V18, target: V17 }.judge(),
            [Mismatch::RestoreNotOfTarget { restore: V18, target: V17 }]
        );
        assert_eq!(
            Versions { source: Version(140_000), dump: V15, restore: V15, target: V15 }.judge(),
            [Mismatch::TooOld(Version(140_000))]
        );
    }
}
