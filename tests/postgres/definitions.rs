//! A copy made as the mover makes it has the source's definitions; every single change of them is found and named.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use pgmigration::postgres::carrier::Session;
use pgmigration::postgres::digest::structure::{self, Findings, Side};
use pgmigration::postgres::tools::{self, Login, toc};

use crate::cluster::{Cluster, SOON, servers};
use crate::mutations::{CODE, COLUMNS, MARKS, Mutation, OTHERS, TABLES};

const CONTENTS: &str = include_str!("contents.sql");
const DEFINITIONS: &str = include_str!("definitions.sql");
const EXPRESSIONS: &str = include_str!("expressions.sql");
const TORTURE: &str = include_str!("torture.sql");

/// All pairs of servers between which a migration may go.
fn pairs() -> Vec<(PathBuf, PathBuf)> {
    let all = servers();
    all.iter().enumerate().flat_map(|(at, one)| all.iter().skip(at).map(|other| (one.clone(), other.clone()))).collect()
}

/// The servers of a pair, with the roles that the scripts need; one server when both are the same.
struct Ends {
    source: Cluster,
    target: Option<Cluster>,
}

impl Ends {
    fn start((source, target): &(PathBuf, PathBuf), roles: &str) -> Self {
        let start = |bin: &PathBuf| {
            let cluster = Cluster::start(bin, &[]);
            cluster.sql("postgres", roles);
            cluster
        };
        Self { source: start(source), target: (source != target).then(|| start(target)) }
    }

    fn target(&self) -> &Cluster {
        self.target.as_ref().unwrap_or(&self.source)
    }

    fn name(&self) -> String {
        format!("{} -> {}", self.source.major(), self.target().major())
    }

    /// Copies as restore does: the extensions beforehand, then as `owner` what the list leaves, without owners and grants.
    fn copy(&self, from: &str, to: &str) {
        let (source, target) = (&self.source, self.target());
        let archive = source.scratch("copy.dump");
        source.must("pg_dump", &["-h", &source.socket(), "-U", "postgres", "-Fc", "-f", &archive, from]);
        target.sql("postgres", &format!("CREATE DATABASE \"{to}\" OWNER owner TEMPLATE template0"));
        let extensions = source.sql(
            from,
            "SELECT format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION owner;', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE n.nspname NOT IN ('public', 'pg_catalog')
             UNION ALL SELECT format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I;', extname, n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE n.nspname <> 'pg_catalog'",
        );
        target.sql(to, &extensions);
        let made = source.sql(from, "SELECT extnamespace FROM pg_extension");
        let made: BTreeSet<u32> = made.lines().map(|oid| oid.parse().unwrap()).collect();
        let filtered = toc::filter(&target.must("pg_restore", &["--list", &archive]), &made).unwrap();
        let login = Login { database: to, user: "owner", tag: "pgmigration/test/restore", settings: &[] };
        let (list, socket) = (target.scratch("list"), target.socket());
        let restore = |entries: &str, argv: Vec<String>, file: &[&str]| {
            std::fs::write(&list, entries).unwrap();
            let given = argv.iter().skip(1).map(String::as_str);
            let arguments: Vec<&str> = given.chain(["-h", &socket]).chain(file.iter().copied()).collect();
            target.must("pg_restore", &arguments);
        };
        let (parts, head) = (filtered.in_parts(), head_of(target, &archive));
        // Of a database that is not empty there are all three.
        assert_eq!(parts.indexes.is_empty(), parts.rest.is_empty());
        restore(&parts.rows, tools::restore(&login, &list), &[&archive]);
        for (part, jobs) in [(&parts.indexes, 2), (&parts.rest, 1)] {
            if !part.is_empty() {
                restore(part, tools::restore_definitions(&login, &list, &head, jobs), &[]);
            }
        }
        std::fs::remove_file(archive).unwrap();
    }

    async fn sessions(&self, from: &str, to: &str) -> (Box<dyn Session>, Box<dyn Session>) {
        (self.source.session(from).await, self.target().session(to).await)
    }

    /// A source of both scripts and a copy of it, called `copy`.
    fn copied(pair: &(PathBuf, PathBuf)) -> Self {
        let ends = Self::start(pair, "CREATE ROLE owner LOGIN; CREATE ROLE reader");
        ends.source.sql("postgres", "CREATE DATABASE app");
        ends.source.sql("app", CONTENTS);
        ends.source.sql("app", DEFINITIONS);
        ends.copy("app", "copy");
        ends
    }
}

/// A file that ends soon after the archive's table of contents, with none of its rows as a rule.
fn head_of(server: &Cluster, archive: &str) -> String {
    let whole = std::fs::read(archive).unwrap();
    let head = server.scratch("head");
    let mut bytes = 512;
    loop {
        std::fs::write(&head, &whole[..bytes.min(whole.len())]).unwrap();
        let listed = server.run("pg_restore", &["--list", &head]);
        if listed.status.success() {
            return head;
        }
        // The product gives more when it meets this; anything else would be another trouble.
        let said = String::from_utf8_lossy(&listed.stderr);
        assert!(bytes < whole.len() && said.contains("could not read from input file: end of file"), "{said}");
        bytes += 512;
    }
}

fn words(findings: &Findings) -> Vec<String> {
    findings.differences.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_copy_has_no_difference_on_every_pair_of_versions() {
    for pair in pairs() {
        let ends = Ends::copied(&pair);
        let (mut source, mut target) = ends.sessions("app", "copy").await;
        let found = structure::compare(&mut *source, &mut *target).await.unwrap();
        assert_eq!(words(&found), Vec::<String>::new(), "{}", ends.name());
        assert!(found.objects > 70, "{}", found.objects);
        // What was copied can be copied again, and what was printed otherwise is printed so from then on.
        if ends.target.is_none() {
            ends.copy("copy", "again");
            let mut again = ends.source.session("again").await;
            let found = structure::compare(&mut *target, &mut *again).await.unwrap();
            assert_eq!((words(&found), found.notes), (Vec::new(), Vec::new()));
        } else {
            assert!(found.notes.iter().any(|note| note.starts_with("extension hstore")) || found.notes.is_empty());
        }
    }
}

#[tokio::test]
async fn expressions_mean_the_same_however_they_are_printed() {
    for pair in pairs() {
        let ends = Ends::start(&pair, "CREATE ROLE owner LOGIN");
        ends.source.sql("postgres", "CREATE DATABASE app");
        ends.source.sql("app", EXPRESSIONS);
        ends.copy("app", "copy");
        let (mut source, mut target) = ends.sessions("app", "copy").await;
        let there = structure::structure(&mut *source, Side::Source).await.unwrap();
        let here = structure::structure(&mut *target, Side::Target).await.unwrap();
        assert_ne!(there.objects, here.objects, "something is printed otherwise, or this test tests nothing");
        let found = structure::compare(&mut *source, &mut *target).await.unwrap();
        assert_eq!(words(&found), Vec::<String>::new(), "{}", ends.name());
    }
}

#[tokio::test]
async fn a_copy_of_everything_that_the_catalog_is_asked_for_has_no_difference() {
    for pair in pairs() {
        let ends = Ends::start(&pair, "SELECT 1");
        ends.source.sql("postgres", "CREATE DATABASE app");
        ends.source.sql("app", TORTURE);
        // Without its server a foreign table cannot be restored at all.
        ends.source.sql("app", "DROP FOREIGN TABLE public.elsewhere");
        if let Some(target) = &ends.target {
            target.sql("postgres", "CREATE ROLE owner LOGIN; CREATE ROLE reader");
        }
        ends.copy("app", "copy");
        let (mut source, mut target) = ends.sessions("app", "copy").await;
        let found = structure::compare(&mut *source, &mut *target).await.unwrap();
        assert_eq!(words(&found), Vec::<String>::new(), "{}", ends.name());
    }
}

#[tokio::test]
async fn an_empty_source_without_a_schema_public_can_be_copied() {
    for pair in pairs() {
        let ends = Ends::start(&pair, "CREATE ROLE owner LOGIN");
        ends.source.sql("postgres", "CREATE DATABASE app");
        ends.source.sql("app", "DROP SCHEMA public; CREATE SCHEMA app; CREATE TABLE app.t (i int4)");
        ends.copy("app", "copy");
        let (mut source, mut target) = ends.sessions("app", "copy").await;
        let found = structure::compare(&mut *source, &mut *target).await.unwrap();
        assert_eq!(words(&found), Vec::<String>::new(), "{}", ends.name());
    }
}

/// Makes each change in a transaction of the copy, compares in it, and undoes it.
async fn every_one_is_named(pair: Option<(PathBuf, PathBuf)>, mutations: &[Mutation]) {
    let Some(pair) = pair else { return };
    let ends = Ends::copied(&pair);
    let (mut source, mut target) = ends.sessions("app", "copy").await;
    let (begin, mut missed) = (Instant::now(), Vec::new());
    for (change, object, expected) in mutations {
        target.execute("BEGIN", SOON).await.unwrap();
        let script = format!("DO $outer$ BEGIN EXECUTE $inner${change}$inner$; END $outer$");
        target.execute(&script, SOON).await.unwrap_or_else(|error| panic!("{change}: {error}"));
        let found = structure::compare(&mut *source, &mut *target).await.unwrap();
        target.execute("ROLLBACK", SOON).await.unwrap();
        let named = found.differences.iter().filter(|one| format!("{} {}", one.object.class, one.object.name) == *object);
        let told: Vec<String> = named.map(|one| format!("{one}\n{}", one.lines.join("\n"))).collect();
        if !told.iter().any(|text| text.contains(expected)) {
            missed.push(format!("{change}: no {expected:?} of {object} in {:?}", words(&found)));
        }
    }
    assert_eq!(missed, Vec::<String>::new(), "{}", ends.name());
    let found = structure::compare(&mut *source, &mut *target).await.unwrap();
    assert_eq!(words(&found), Vec::<String>::new(), "all is undone");
    eprintln!("{}: {} changes named in {:.1} s", ends.name(), mutations.len(), begin.elapsed().as_secs_f64());
}

/// The changes on one kind of pair, a test for each list; nothing to do where there is no such pair.
macro_rules! on {
    ($name:ident, $pair:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn every_change_of_columns_is_named() {
                every_one_is_named($pair, COLUMNS).await;
            }

            #[tokio::test]
            async fn every_change_of_tables_is_named() {
                every_one_is_named($pair, TABLES).await;
            }

            #[tokio::test]
            async fn every_change_of_views_triggers_and_functions_is_named() {
                every_one_is_named($pair, CODE).await;
            }

            #[tokio::test]
            async fn every_change_of_types_and_the_rest_is_named() {
                every_one_is_named($pair, OTHERS).await;
            }

            #[tokio::test]
            async fn every_change_of_comments_owners_and_privileges_is_named() {
                every_one_is_named($pair, MARKS).await;
            }
        }
    };
}

on!(on_the_oldest, pairs().into_iter().next());
on!(on_the_newest, pairs().into_iter().next_back().filter(|_| servers().len() > 1));
on!(across_majors, pairs().into_iter().find(|(source, target)| source != target));
