//! Broken connections and busy servers, at the moments where they hurt.

use crate::proxy::{Fault, Proxy};
use crate::server::{noise, server};
use crate::transfer::{await_no_uploads, read, write};
use bytes::Bytes;
use pgmigration::archive::{Bucket, BucketConfig, Put};

async fn behind_proxy(name: &str) -> (Proxy, Bucket) {
    let config = server().bucket(name);
    let proxy = Proxy::before(server().plain_port).await;
    let config = BucketConfig { endpoint: Some(proxy.endpoint.clone()), ca_pem: None, ..config };
    (proxy, Bucket::connect(&config).unwrap())
}

#[tokio::test]
async fn a_lost_answer_to_the_completion_is_read_back_as_success() {
    let (proxy, bucket) = behind_proxy("lost-complete").await;
    let data = noise(20_000_000, 1);
    proxy.next("POST", "uploadId", Fault::LoseAnswer);
    let written = write(&bucket, "k", &data).await.unwrap();
    assert_eq!(proxy.struck(), 1);
    assert_eq!(written.bytes, 20_000_000);
    assert!(read(&bucket, "k").await == data);
}

#[tokio::test]
async fn a_completion_whose_answers_are_all_lost_is_still_success() {
    let (proxy, bucket) = behind_proxy("all-lost").await;
    for _ in 0..5 {
        proxy.next("POST", "uploadId", Fault::LoseAnswer);
    }
    write(&bucket, "k", &noise(9_000_000, 1)).await.unwrap();
    assert_eq!(proxy.struck(), 5, "the client gave up by itself");
}

#[tokio::test]
async fn a_completion_that_never_arrives_is_no_success_and_leaves_nothing() {
    let (proxy, bucket) = behind_proxy("never").await;
    for _ in 0..5 {
        proxy.next("POST", "uploadId", Fault::CutRequest(10));
    }
    let error = write(&bucket, "k", &noise(9_000_000, 1)).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert_eq!(proxy.struck(), 5);
    assert_eq!(bucket.head("k").await.unwrap(), None);
    await_no_uploads(&bucket).await;
}

#[tokio::test]
async fn parts_are_sent_again_after_lost_answers_and_a_busy_server() {
    let (proxy, bucket) = behind_proxy("parts").await;
    let data = noise(41_000_000, 5);
    proxy.next("PUT", "partNumber=2", Fault::LoseAnswer);
    proxy.next("PUT", "partNumber=3", Fault::SlowDown);
    proxy.next("PUT", "partNumber=4", Fault::CutRequest(300));
    write(&bucket, "k", &data).await.unwrap();
    assert_eq!(proxy.struck(), 3);
    assert!(read(&bucket, "k").await == data);
}

#[tokio::test]
async fn a_range_that_breaks_in_its_middle_is_read_again() {
    let (proxy, bucket) = behind_proxy("ranges").await;
    let data = noise(30_000_000, 9);
    write(&bucket, "k", &data).await.unwrap();
    proxy.next("GET", "bytes=0-", Fault::CutAnswer(1_000_000));
    proxy.next("GET", "bytes=8388608-", Fault::CutAnswer(2_000_000));
    proxy.next("GET", "bytes=8388608-", Fault::SlowDown);
    proxy.next("GET", "bytes=16777216-", Fault::LoseAnswer);
    assert!(read(&bucket, "k").await == data);
    assert_eq!(proxy.struck(), 4);
}

#[tokio::test]
async fn a_lost_answer_to_a_manifest_is_read_back() {
    let (proxy, bucket) = behind_proxy("lost-manifest").await;
    proxy.next("PUT", "/m", Fault::LoseAnswer);
    let put = bucket.put_create_only("m", Bytes::from_static(b"{}"), "application/json").await.unwrap();
    assert_eq!(proxy.struck(), 1);
    assert_eq!(put, Put::Present, "the second attempt finds the first one's object");
}
