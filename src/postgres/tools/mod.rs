//! Command lines of the client tools that run inside a Postgres pod, and what their outputs mean. Pure.
//!
//! Here: argument lists of `pg_dump` and `pg_restore`, the shell scripts that surround them ([`scripts`]), the reading and
//! filtering of an archive's table of contents ([`toc`]). Not here: running any of it (`kubernetes::exec`), the bytes (`mover`).
//!
//! No secret is ever an argument.

pub mod scripts;
pub mod toc;

use super::versions::Version;

/// Gzip level where zstd is not to be had: on rows of text and jsonb, level 1 gives archives a tenth larger than the tool's
/// own default 6 for half of the CPU time, and the dump is as slow as its compression.
pub const GZIP_LEVEL: u8 = 1;

/// Zstd level: higher ones cost more time than the bytes they save.
pub const ZSTD_LEVEL: u8 = 1;

/// How long `pg_dump` waits for a lock before it gives up, milliseconds. Under the fence nobody should hold one.
const LOCK_WAIT: &str = "60000";

/// How the data of an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// zlib, which every build of the tools knows.
    Gzip,
    /// Zstandard, from 16 on, where both tools were built with it.
    Zstd,
}

impl Compression {
    /// The value for `--compress` of this `pg_dump`.
    pub fn argument(self, pg_dump: Version) -> String {
        match self {
            Self::Gzip if pg_dump.major() < 16 => GZIP_LEVEL.to_string(),
            Self::Gzip | Self::Zstd => self.to_string(),
        }
    }
}

impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gzip => write!(f, "gzip:{GZIP_LEVEL}"),
            Self::Zstd => write!(f, "zstd:{ZSTD_LEVEL}"),
        }
    }
}

/// Whom a tool connects as, and where; host and port are the container's own (its local socket).
#[derive(Clone, Debug)]
pub struct Login<'a> {
    /// Database name, as it is.
    pub database: &'a str,
    /// Role name.
    pub user: &'a str,
    /// `application_name` of the session.
    pub tag: &'a str,
    /// Settings of the session, `name=value`. Neither may hold a space or backslash.
    pub settings: &'a [&'a str],
}

impl Login<'_> {
    /// The connection string. It is given as one argument and read by libpq alone.
    fn conninfo(&self) -> String {
        let quote = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
        let mut text = format!("dbname={} user={} application_name={}", quote(self.database), quote(self.user), quote(self.tag));
        if !self.settings.is_empty() {
            let options: Vec<String> = self.settings.iter().map(|s| format!("-c {s}")).collect();
            text.push_str(" options=");
            text.push_str(&quote(&options.join(" ")));
        }
        text
    }
}

fn arguments(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|&p| p.to_owned()).collect()
}

/// `pg_dump` of a whole database in the custom format, to its standard output. `--verbose` names each table as it begins
/// (and keeps bytes moving while the server works).
pub fn dump(login: &Login<'_>, compression: Compression, pg_dump: Version) -> Vec<String> {
    let mut argv = arguments(&["pg_dump", "--format=custom", "--verbose", "--no-password"]);
    argv.push(format!("--lock-wait-timeout={LOCK_WAIT}"));
    argv.push(format!("--compress={}", compression.argument(pg_dump)));
    argv.push(format!("--dbname={}", login.conninfo()));
    argv
}

/// `pg_dump` of the definitions of a maintenance database: a small archive whose only use is to see whether a reader
/// understands its compression.
pub fn dump_sample(login: &Login<'_>, compression: Compression, pg_dump: Version) -> Vec<String> {
    let mut argv = arguments(&["pg_dump", "--format=custom", "--schema-only", "--no-password"]);
    argv.push(format!("--compress={}", compression.argument(pg_dump)));
    argv.push(format!("--dbname={}", login.conninfo()));
    argv
}

/// `pg_restore` that lists the table of contents of an archive, which is to be the last argument.
pub fn list() -> Vec<String> {
    arguments(&["pg_restore", "--list"])
}

/// `pg_restore` of the archive on its standard input: only the entries in the file `list`, in its order, everything owned by
/// the login, the first error ends it. Owners, grants and tablespaces of the source are not restored.
pub fn restore(login: &Login<'_>, list: &str) -> Vec<String> {
    let mut argv =
        arguments(&["pg_restore", "--no-owner", "--no-acl", "--no-tablespaces", "--exit-on-error", "--verbose", "--no-password"]);
    argv.push(format!("--use-list={list}"));
    argv.push(format!("--dbname={}", login.conninfo()));
    argv
}

/// The same of entries without rows, up to `jobs` at the same time, each after those it needs. It reads definitions only, so the
/// head of the archive will do; a file, because workers open it again.
pub fn restore_definitions(login: &Login<'_>, list: &str, head: &str, jobs: u32) -> Vec<String> {
    let mut argv = restore(login, list);
    argv.extend([format!("--jobs={jobs}"), head.to_owned()]);
    argv
}

/// `psql` that analyzes the whole database; names each table as it begins.
pub fn analyze(login: &Login<'_>) -> Vec<String> {
    let mut argv = arguments(&["psql", "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"]);
    argv.push("--command=ANALYZE (VERBOSE)".to_owned());
    argv.push(format!("--dbname={}", login.conninfo()));
    argv
}

/// What a line of `--verbose` output says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The data of one more table begins.
    Table,
    /// One more index or constraint begins.
    Index,
    /// The tool reports an error. It may go on, but what it makes is not to be trusted.
    Error,
    /// Anything else.
    Other,
}

/// Reads a line of a tool's error output. The tools must run with messages in the C locale.
pub fn said(line: &str) -> Said {
    let tool = line.strip_prefix("pg_dump: ").or_else(|| line.strip_prefix("pg_restore: "));
    if let Some(rest) = tool {
        if rest.starts_with("dumping contents of table ") || rest.starts_with("processing data for table ") {
            return Said::Table;
        }
        if ["INDEX", "CONSTRAINT", "FK CONSTRAINT"].iter().any(|kind| created(rest, kind)) {
            return Said::Index;
        }
        if rest.starts_with("error: ") || rest.starts_with("warning: errors ignored") {
            return Said::Error;
        }
        return Said::Other;
    }
    if line.starts_with("INFO:  analyzing ") { Said::Table } else { Said::Other }
}

fn created(said: &str, kind: &str) -> bool {
    said.strip_prefix("creating ").and_then(|rest| rest.strip_prefix(kind)).is_some_and(|rest| rest.starts_with(" \""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: Login<'_> = Login { database: r"a'b\ c=d", user: "postgres", tag: "pgm/u/dump/1", settings: &[] };

    #[test]
    fn a_database_name_is_never_read_as_a_connection_string() {
        let argv = dump(&LOGIN, Compression::Gzip, Version(150_018));
        assert!(
            argv.contains(&r"--dbname=dbname='a\'b\\ c=d' user='postgres' application_name='pgm/u/dump/1'".to_owned()),
            "{argv:?}"
        );
    }

    #[test]
    fn only_16_and_later_are_told_a_method() {
        assert!(dump(&LOGIN, Compression::Gzip, Version(150_018)).contains(&"--compress=1".to_owned()));
        assert!(dump(&LOGIN, Compression::Gzip, Version(170_000)).contains(&"--compress=gzip:1".to_owned()));
        assert!(dump(&LOGIN, Compression::Zstd, Version(170_000)).contains(&"--compress=zstd:1".to_owned()));
    }

    #[test]
    fn settings_go_into_the_connection() {
        let login = Login { settings: &["event_triggers=off", "a=b"], ..LOGIN };
        assert!(restore(&login, "/l").iter().any(|a| a.ends_with(" options='-c event_triggers=off -c a=b'")));
    }

    #[test]
    fn progress_and_errors_are_told_apart() {
        assert_eq!(said("pg_dump: dumping contents of table \"public.a\""), Said::Table);
        assert_eq!(said("pg_restore: processing data for table \"public.a\""), Said::Table);
        assert_eq!(said("INFO:  analyzing \"public.a\""), Said::Table);
        assert_eq!(said("pg_restore: creating INDEX \"public.a_b\""), Said::Index);
        assert_eq!(said("pg_restore: creating FK CONSTRAINT \"public.a a_b\""), Said::Index);
        assert_eq!(said("pg_restore: creating INDEX ATTACH \"public.a_b\""), Said::Other);
        assert_eq!(said("pg_restore: creating TABLE \"public.INDEX\""), Said::Other);
        assert_eq!(said("pg_restore: error: could not execute query"), Said::Error);
        assert_eq!(said("pg_restore: warning: errors ignored on restore: 3"), Said::Error);
        assert_eq!(said("pg_dump: reading user-defined tables"), Said::Other);
    }
}
