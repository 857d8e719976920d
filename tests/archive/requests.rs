//! Small requests, and what their failures are called.

use crate::server::{bucket, server};
use bytes::Bytes;
use pgmigration::archive::manifest::{DatabaseManifest, Extension, MANIFEST_VERSION, RunManifest};
use pgmigration::archive::{Bucket, BucketConfig, ErrorKind, Put, keys};

fn manifest(key: &str) -> DatabaseManifest {
    DatabaseManifest {
        version: MANIFEST_VERSION,
        migration_uid: "u".into(),
        run: "r".into(),
        database: "app".into(),
        key: key.into(),
        bytes: 1,
        sha256: "00".into(),
        etag: "\"e\"".into(),
        format: "custom".into(),
        compression: "gzip:1".into(),
        system_identifier: "7".into(),
        server_version_num: 150_018,
        tool: "pg_dump (PostgreSQL) 15.18".into(),
        started: "2026-11-23T06:00:00Z".into(),
        database_bytes: 8,
        extensions: vec![Extension {
            name: "pgcrypto".into(),
            schema: "public".into(),
            schema_oid: 2200,
            own_schema: false,
            version: "1.3".into(),
            requires: vec![],
        }],
    }
}

#[tokio::test]
async fn a_write_probe_leaves_nothing() {
    let bucket = bucket("probe");
    bucket.probe_write("some/where").await.unwrap();
    assert_eq!(bucket.unfinished("").await.unwrap(), vec![]);
    assert_eq!(bucket.list("").await.unwrap(), vec![]);

    // What a probe that died between its two requests left is gone after the next; other uploads are not touched.
    std::mem::forget(bucket.writer("some/where/.probe").await.unwrap());
    std::mem::forget(bucket.writer("some/where/other").await.unwrap());
    bucket.probe_write("some/where").await.unwrap();
    let left: Vec<String> = bucket.unfinished("").await.unwrap().into_iter().map(|upload| upload.key).collect();
    assert_eq!(left, ["some/where/other"]);
}

#[tokio::test]
async fn failures_have_kinds_and_name_the_bucket_but_no_credential() {
    let good = server().bucket("kinds");
    let other_ca = std::fs::read(std::env::temp_dir().join(format!("pgm-archive-{}/tls/other.crt", std::process::id()))).unwrap();
    let cases: Vec<(&str, ErrorKind, BucketConfig)> = vec![
        ("absent bucket", ErrorKind::BucketAbsent, BucketConfig { bucket: "nowhere".into(), ..good.clone() }),
        ("wrong secret", ErrorKind::Forbidden, BucketConfig { secret_key: "wrongwrongwrong".into(), ..good.clone() }),
        ("unknown key", ErrorKind::Forbidden, BucketConfig { access_key: "nobody".into(), ..good.clone() }),
        ("closed port", ErrorKind::Unreachable, BucketConfig { endpoint: Some("https://127.0.0.1:1".into()), ..good.clone() }),
        ("no such host", ErrorKind::Unreachable, BucketConfig { endpoint: Some("https://s3.invalid".into()), ..good.clone() }),
        ("foreign CA", ErrorKind::Unreachable, BucketConfig { ca_pem: Some(other_ca), ..good.clone() }),
        ("no CA", ErrorKind::Unreachable, BucketConfig { ca_pem: None, ..good.clone() }),
    ];
    for (what, kind, config) in cases {
        let error = Bucket::connect(&config).unwrap().probe_write("p").await.unwrap_err();
        assert_eq!(error.kind, kind, "{what}: {error}");
        assert!(error.message.contains(&config.bucket), "{what}: {error}");
        assert!(error.message.contains(config.endpoint.as_deref().unwrap()), "{what}: {error}");
        assert!(!error.message.contains(&config.secret_key), "{what}: {error}");
        eprintln!("{what}: {error}");
    }
    Bucket::connect(&good).unwrap().probe_write("p").await.unwrap();
}

#[tokio::test]
async fn of_many_writers_of_one_key_exactly_one_creates() {
    let bucket = bucket("race");
    for round in 0..10 {
        let key = format!("lock-{round}");
        let writers = (0..8).map(|n| {
            let (bucket, key) = (bucket.clone(), key.clone());
            tokio::spawn(async move { bucket.put_create_only(&key, Bytes::from(format!("writer {n}")), "text/plain").await })
        });
        let results: Vec<_> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
        let created = results.iter().filter(|r| matches!(r, Ok(Put::Created))).count();
        let refused = results.iter().filter(|r| matches!(r, Err(e) if e.kind == ErrorKind::PreconditionFailed)).count();
        assert_eq!((created, refused), (1, 7), "{results:?}");
    }
}

#[tokio::test]
async fn a_manifest_is_written_once_and_only_an_equal_one_is_taken_again() {
    let bucket = bucket("manifests");
    let key = "p/app.dump";
    assert_eq!(bucket.database_manifest(key).await.unwrap(), None);
    let first = manifest(key);
    assert_eq!(bucket.write_document(&keys::manifest(key), &first).await.unwrap(), Put::Created);
    assert_eq!(bucket.write_document(&keys::manifest(key), &first).await.unwrap(), Put::Present);
    assert_eq!(bucket.database_manifest(key).await.unwrap(), Some(first.clone()));
    for other in [DatabaseManifest { bytes: 2, ..first.clone() }, DatabaseManifest { tool: "longer".repeat(90), ..first.clone() }]
    {
        let refused = bucket.write_document(&keys::manifest(key), &other).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::PreconditionFailed, "{refused}");
    }
    let run = RunManifest { version: MANIFEST_VERSION, migration_uid: "u".into(), run: "r".into(), databases: vec![first] };
    assert_eq!(bucket.run_manifest("p/run.manifest.json").await.unwrap(), None);
    bucket.write_document("p/run.manifest.json", &run).await.unwrap();
    assert_eq!(bucket.run_manifest("p/run.manifest.json").await.unwrap(), Some(run));
}

#[tokio::test]
async fn a_manifest_of_another_key_or_shape_is_refused() {
    let bucket = bucket("foreign");
    bucket.write_document(&keys::manifest("a"), &manifest("b")).await.unwrap();
    assert_eq!(bucket.database_manifest("a").await.unwrap_err().kind, ErrorKind::Mismatch);
    bucket.put_create_only(&keys::manifest("c"), Bytes::from_static(b"{}"), "application/json").await.unwrap();
    assert_eq!(bucket.database_manifest("c").await.unwrap_err().kind, ErrorKind::Mismatch);
}

#[tokio::test]
async fn deleting_twice_is_success_and_a_listing_has_pages() {
    let bucket = bucket("listing");
    for n in 0..12 {
        bucket.put_create_only(&format!("p/{n:02}"), Bytes::from_static(b"x"), "text/plain").await.unwrap();
    }
    bucket.put_create_only("q", Bytes::from_static(b"x"), "text/plain").await.unwrap();
    let keys: Vec<_> = bucket.list("p/").await.unwrap().into_iter().map(|o| o.key).collect();
    assert_eq!(keys, (0..12).map(|n| format!("p/{n:02}")).collect::<Vec<_>>());
    bucket.delete("p/00").await.unwrap();
    bucket.delete("p/00").await.unwrap();
    assert_eq!(bucket.list("p/").await.unwrap().len(), 11);
    assert_eq!(bucket.get_small("p/00", 10).await.unwrap(), None);
    assert_eq!(bucket.head("p/00").await.unwrap(), None);
}
