//! Whole objects through writer and reader.

use crate::server::{bucket, noise};
use bytes::Bytes;
use pgmigration::archive::{Bucket, ErrorKind, Sha256};
use std::time::{Duration, Instant};

const MIB: usize = 1024 * 1024;

pub async fn write(
    bucket: &Bucket,
    key: &str,
    data: &[u8],
) -> Result<pgmigration::archive::Written, pgmigration::archive::ArchiveError> {
    let mut writer = bucket.writer(key).await?;
    for piece in data.chunks(777_777) {
        writer.write(piece).await?;
    }
    writer.complete().await
}

pub async fn read(bucket: &Bucket, key: &str) -> Vec<u8> {
    let object = bucket.head(key).await.unwrap().expect("the object exists");
    let mut reader = bucket.reader(key, &object);
    let mut all = Vec::new();
    while let Some(piece) = reader.next().await.unwrap() {
        all.extend_from_slice(&piece);
    }
    all
}

pub async fn await_no_uploads(bucket: &Bucket) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !bucket.unfinished("").await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "an unfinished upload remains");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_written_is_what_is_read_at_every_edge_of_parts_and_ranges() {
    let bucket = bucket("edges");
    for bytes in [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 24 * MIB, 41 * MIB + 7] {
        let data = noise(bytes, bytes as u64);
        let key = format!("p/{bytes}");
        let written = write(&bucket, &key, &data).await.unwrap();
        assert_eq!(written.bytes, bytes as u64);
        assert_eq!(written.sha256, Sha256::hex_of(&data));
        let head = bucket.head(&key).await.unwrap().unwrap();
        assert_eq!((head.bytes, &head.etag), (bytes as u64, &written.etag));
        assert!(head.checksum.is_some(), "the server keeps the checksum of the parts");
        assert!(read(&bucket, &key).await == data, "{bytes} bytes came back different");
    }
    assert_eq!(bucket.unfinished("").await.unwrap(), vec![]);
}

#[tokio::test]
async fn completing_never_replaces_an_object() {
    let bucket = bucket("once");
    let first = noise(9_000_000, 1);
    write(&bucket, "k", &first).await.unwrap();
    let refused = write(&bucket, "k", &noise(9_000_001, 2)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PreconditionFailed, "{refused}");
    assert!(read(&bucket, "k").await == first);
    assert_eq!(bucket.unfinished("").await.unwrap(), vec![], "the refused upload is aborted");
    // Of equal length, so that only the checksum tells it from ours.
    let refused = write(&bucket, "k", &noise(9_000_000, 3)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::PreconditionFailed, "{refused}");
}

#[tokio::test]
async fn an_aborted_or_dropped_writer_leaves_nothing() {
    let bucket = bucket("aborts");
    let mut writer = bucket.writer("k").await.unwrap();
    writer.write(&noise(20_000_000, 1)).await.unwrap();
    assert_eq!(bucket.unfinished("").await.unwrap().len(), 1);
    writer.abort().await;
    assert_eq!(bucket.unfinished("").await.unwrap(), vec![]);

    let mut writer = bucket.writer("k").await.unwrap();
    writer.write(&noise(20_000_000, 1)).await.unwrap();
    drop(writer);
    await_no_uploads(&bucket).await;
    assert_eq!(bucket.list("").await.unwrap(), vec![]);
}

#[tokio::test]
async fn orphans_are_aborted_below_their_prefix_only() {
    let bucket = bucket("orphans");
    for key in ["a/1", "a/2", "b/1"] {
        let mut writer = bucket.writer(key).await.unwrap();
        writer.write(b"x").await.unwrap();
        std::mem::forget(writer);
    }
    assert_eq!(bucket.abort_orphans("a/").await.unwrap(), 2);
    let left: Vec<_> = bucket.unfinished("").await.unwrap().into_iter().map(|u| u.key).collect();
    assert_eq!(left, ["b/1"]);
}

#[tokio::test]
async fn a_replaced_object_is_never_read_as_a_mixture() {
    let bucket = bucket("pinned");
    write(&bucket, "k", &noise(60_000_000, 1)).await.unwrap();
    let object = bucket.head("k").await.unwrap().unwrap();
    let mut reader = bucket.reader("k", &object);
    assert!(reader.next().await.unwrap().is_some());
    bucket.delete("k").await.unwrap();
    write(&bucket, "k", &noise(60_000_000, 2)).await.unwrap();
    let error = loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the replaced object was read to its end"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}");
}

#[tokio::test]
async fn a_small_read_refuses_a_large_object() {
    let bucket = bucket("small");
    bucket.put_create_only("k", Bytes::from(vec![0; 101]), "text/plain").await.unwrap();
    assert_eq!(bucket.get_small("k", 100).await.unwrap_err().kind, ErrorKind::TooLarge);
    assert_eq!(bucket.get_small("k", 101).await.unwrap().unwrap().len(), 101);
}
