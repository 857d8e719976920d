//! Copies by the real tools are found equal; every single change is found and named.

use pgmigration::postgres::carrier::Session;
use pgmigration::postgres::catalog::{self, alembic_versions};
use pgmigration::postgres::digest::{
    Contents, Hash, LargeObjectMethod, Method, Recipe, compare, digest_table, large_objects, prepare, schemas, self_test,
    sequences, tables,
};

use crate::cluster::{Cluster, SOON, servers};

const CONTENTS: &str = include_str!("contents.sql");

async fn contents(session: &mut dyn Session, recipe: Recipe, lobs: LargeObjectMethod) -> Contents {
    prepare(session).await.unwrap();
    let (list, unpopulated) = tables(session).await.unwrap();
    let mut digests = Vec::new();
    for table in &list {
        digests.push(digest_table(session, table, recipe, None, SOON).await.unwrap());
    }
    Contents {
        recipe,
        tables: digests,
        unpopulated,
        sequences: sequences(session).await.unwrap(),
        large_objects: large_objects(session, recipe, lobs, SOON).await.unwrap(),
        schemas: schemas(session).await.unwrap(),
        alembic: alembic_versions(session).await.unwrap(),
    }
}

async fn agreed(source: &mut dyn Session, target: &mut dyn Session) -> Recipe {
    Recipe::agree(&self_test(source).await.unwrap(), &self_test(target).await.unwrap()).unwrap()
}

/// Dumps with the source's tool, restores with the target's.
fn copy(source: &Cluster, from: &str, target: &Cluster, to: &str) {
    let file = source.scratch("copy.dump");
    source.must("pg_dump", &["-h", &source.socket(), "-U", "postgres", "-Fc", "-f", &file, from]);
    target.sql("postgres", &format!("CREATE DATABASE {to} TEMPLATE template0"));
    target.must("pg_restore", &["-h", &target.socket(), "-U", "postgres", "--exit-on-error", "-d", to, &file]);
    std::fs::remove_file(file).expect("the dump is gone");
}

#[tokio::test]
async fn a_copy_is_equal_on_every_pair_of_versions() {
    let clusters: Vec<Cluster> = servers().iter().map(|bin| Cluster::start(bin, &[])).collect();
    for (number, source) in clusters.iter().enumerate() {
        source.sql("postgres", "CREATE DATABASE app");
        source.sql("app", CONTENTS);
        for (other, target) in clusters.iter().enumerate().filter(|(_, target)| target.major() >= source.major()) {
            let name = format!("copy_{number}_{other}");
            copy(source, "app", target, &name);
            let mut there = source.session("app").await;
            let mut here = target.session(&name).await;
            let agreed = agreed(&mut *there, &mut *here).await;
            assert_eq!(agreed, Recipe { hash: Hash::Seeded, to_utf8: false });
            for hash in [Hash::Seeded, Hash::Sha256] {
                for to_utf8 in [false, true] {
                    for lobs in [LargeObjectMethod::Pages, LargeObjectMethod::Contents] {
                        let recipe = Recipe { hash, to_utf8 };
                        let before = contents(&mut *there, recipe, lobs).await;
                        let after = contents(&mut *here, recipe, lobs).await;
                        assert_eq!((before.tables.len(), before.sequences.len()), (15, 5));
                        assert_eq!(compare(&before, &after), [], "{recipe:?}");
                        assert_eq!(before.fingerprint(), after.fingerprint());
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn every_change_of_data_is_found_and_named() {
    let mutations = [
        ("UPDATE public.hidden SET payload = 'A' WHERE id = 1", "table public.hidden has other rows in the target"),
        ("UPDATE public.kinds SET f8 = 1.0000000000000002e-300 WHERE f8 < 1", "table public.kinds has other rows in the target"),
        ("UPDATE public.kinds SET t = NULL WHERE t = ''", "table public.kinds has other rows in the target"),
        ("UPDATE public.kinds SET jb = NULL WHERE jb = 'null'", "table public.kinds has other rows in the target"),
        (
            "UPDATE public.parts_1 SET v = CASE k WHEN 1 THEN 'v2' ELSE 'v1' END WHERE k IN (1, 2)",
            "table public.parts_1 has other rows in the target",
        ),
        ("DELETE FROM ONLY public.parent", "table public.parent has 1 rows in the source and 0 in the target"),
        ("INSERT INTO public.child VALUES (2, 'c', 'l')", "table public.child has 1 rows in the source and 2 in the target"),
        ("UPDATE public.child SET own = late, late = own", "table public.child has other rows in the target"),
        ("UPDATE public.guarded SET i = 6 WHERE i = 5", "table public.guarded has other rows in the target"),
        ("INSERT INTO public.empty DEFAULT VALUES", "table public.empty has 1 rows in the source and 2 in the target"),
        (
            "SELECT nextval('public.never_called')",
            "sequence public.never_called stands at 7, not handed out in the source and at 7, handed out in the target",
        ),
        (
            "SELECT setval('public.set_back', 5, true)",
            "sequence public.set_back stands at 5, not handed out in the source and at 5, handed out in the target",
        ),
        ("SELECT lo_put(4711, 0, 'L')", "the 4 large objects have other contents in the target"),
        ("SELECT lo_put(4712, 4095, '\\x00')", "the 4 large objects have other contents in the target"),
        ("SELECT lo_create(1)", "there are 4 large objects in the source and 5 in the target"),
        ("REFRESH MATERIALIZED VIEW public.unkept", "table public.unkept is only in the target"),
        ("REFRESH MATERIALIZED VIEW public.kept WITH NO DATA", "table public.kept is only in the source"),
        ("CREATE SCHEMA more", "schema more is only in the target"),
        ("DROP TABLE public.light", "table public.light is only in the source"),
    ];
    for bin in servers() {
        let cluster = Cluster::start(&bin, &[]);
        cluster.sql("postgres", "CREATE DATABASE app");
        cluster.sql("app", CONTENTS);
        copy(&cluster, "app", &cluster, "pristine");
        let mut source = cluster.session("app").await;
        for (hash, lobs) in [(Hash::Seeded, LargeObjectMethod::Pages), (Hash::Sha256, LargeObjectMethod::Contents)] {
            let recipe = Recipe { hash, to_utf8: false };
            let before = contents(&mut *source, recipe, lobs).await;
            for (mutation, expected) in mutations {
                cluster.sql("postgres", "CREATE DATABASE mutant TEMPLATE pristine");
                cluster.sql("mutant", mutation);
                let mut target = cluster.session("mutant").await;
                let found = compare(&before, &contents(&mut *target, recipe, lobs).await);
                target.close().await;
                cluster.sql("postgres", "DROP DATABASE mutant WITH (FORCE)");
                let words: Vec<String> = found.iter().map(ToString::to_string).collect();
                assert!(words.iter().any(|word| word == expected), "{mutation}: {words:?}");
                // A view that is emptied or filled changes sides: two entries. Everything else is one difference.
                assert!(words.len() == 1 || mutation.starts_with("REFRESH"), "{mutation}: {words:?}");
            }
        }
    }
}

#[tokio::test]
async fn encodings_may_differ_and_huge_rows_fall_back() {
    // One server is enough: the huge row takes its time.
    for bin in servers().into_iter().take(1) {
        let cluster = Cluster::start(&bin, &[]);
        cluster.sql("postgres", "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
        cluster.sql(
            "latin",
            "CREATE TABLE public.words (w text, n int4); INSERT INTO public.words VALUES ('é', 1), (NULL, 2), ('', 3)",
        );
        copy(&cluster, "latin", &cluster, "wide");
        let mut source = cluster.session("latin").await;
        let mut target = cluster.session("wide").await;
        let recipe = agreed(&mut *source, &mut *target).await;
        assert!(recipe.to_utf8);
        let (list, _) = tables(&mut *source).await.unwrap();
        for method in [Method::Row, Method::Columns] {
            let there = digest_table(&mut *source, &list[0], recipe, Some(method), SOON).await.unwrap();
            let here = digest_table(&mut *target, &list[0], recipe, Some(method), SOON).await.unwrap();
            assert_eq!(there, here);
            assert_eq!(there.rows, 3);
        }
        // A text that a dump can carry, but whose quotes, doubled, exceed what the server can hold.
        cluster.sql("wide", "CREATE TABLE public.huge AS SELECT repeat('\"', 560000000) AS q");
        let (list, _) = tables(&mut *target).await.unwrap();
        let huge = list.iter().find(|one| one.name.name == "huge").unwrap();
        let native = Recipe { hash: Hash::Seeded, to_utf8: false };
        let digest = digest_table(&mut *target, huge, native, None, SOON).await.unwrap();
        assert_eq!((digest.method, digest.rows), (Method::Columns, 1));
    }
}

#[tokio::test]
async fn the_witness_moves_with_every_write() {
    for bin in servers() {
        let cluster = Cluster::start(&bin, &["autovacuum=off"]);
        cluster.sql("postgres", "CREATE DATABASE app");
        cluster.sql("app", CONTENTS);
        cluster.sql("app", "SELECT nextval('public.set_back'), nextval('public.set_back')");
        let mut session = cluster.session("app").await;
        let mut before = catalog::witness(&mut *session).await.unwrap();
        // Reading moves nothing.
        cluster.must("pg_dump", &["-h", &cluster.socket(), "-U", "postgres", "-Fc", "-f", &cluster.scratch("dump"), "app"]);
        let after = catalog::witness(&mut *session).await.unwrap();
        assert!(before.proves_quiet(&after), "{before:?} {after:?}");
        for write in [
            "INSERT INTO public.empty DEFAULT VALUES",
            "BEGIN; INSERT INTO public.empty DEFAULT VALUES; ROLLBACK",
            "TRUNCATE public.light",
            "SELECT lo_put(4711, 0, 'L')",
            "SELECT nextval('public.set_back')",
            "SELECT setval('public.never_called', 9, false)",
        ] {
            cluster.sql("app", write);
            let after = catalog::witness(&mut *session).await.unwrap();
            assert!(!before.proves_quiet(&after), "{write}");
            before = after;
        }
    }
}
