//! The S3 client and its small requests.

use super::error::{ArchiveError, ErrorKind};
use super::{Reader, Writer};
use crate::crash;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::time::Duration;

/// How long one attempt of a small request may take.
const SMALL_REQUEST: Duration = Duration::from_secs(30);

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a body may stand still in either direction before the request is given up and tried again.
const STALL: Duration = Duration::from_mins(1);

/// Where a bucket is and who asks.
#[derive(Clone)]
pub struct BucketConfig {
    /// Bucket name.
    pub bucket: String,
    /// URL of the server; absent = the region's own.
    pub endpoint: Option<String>,
    /// Region, part of every signature.
    pub region: String,
    /// Address the bucket by path, not by host name.
    pub force_path_style: bool,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// PEM bundle to trust instead of the system's roots.
    pub ca_pem: Option<Vec<u8>>,
}

impl fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketConfig")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

/// A bucket to talk to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub(super) client: Client,
    pub(super) name: String,
    /// Bucket and endpoint as messages name them.
    pub(super) place: String,
}

/// What the server tells about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Length in bytes.
    pub bytes: u64,
    /// Entity tag as sent, quotes included.
    pub etag: String,
    /// Stored SHA-256 checksum, base64; composite ones end in `-<parts>`. Absent where the server keeps none.
    pub checksum: Option<String>,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Full key.
    pub key: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// An upload that was begun and neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Key it would be completed at.
    pub key: String,
    /// The server's name for it.
    pub upload: String,
}

/// How a create-only write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// This call, or an attempt of it whose answer was lost, wrote the object.
    Created,
    /// An equal object was there already.
    Present,
}

impl Bucket {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`] when the CA bundle holds no usable certificate or a credential is empty.
    pub fn connect(config: &BucketConfig) -> Result<Self, ArchiveError> {
        let place = format!("bucket {:?} at {}", config.bucket, config.endpoint.as_deref().unwrap_or("the region's endpoint"));
        let misconfigured = |what: String| ArchiveError::new(ErrorKind::Misconfigured, format!("{place}: {what}"));
        if config.access_key.is_empty() || config.secret_key.is_empty() {
            return Err(misconfigured("access key id and secret access key must not be empty".into()));
        }
        let trust = match &config.ca_pem {
            None => TrustStore::default(),
            Some(pem) => {
                check_pem(pem).map_err(|e| misconfigured(format!("the CA bundle cannot be used: {e}")))?;
                TrustStore::empty().with_pem_certificate(pem.clone())
            }
        };
        let tls = TlsContext::builder().with_trust_store(trust).build().map_err(|e| misconfigured(e.to_string()))?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(tls)
            .build_https();
        let mut builder = aws_sdk_s3::Config::builder()
            // Pinned: a newer default must be chosen, not received.
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .region(Region::new(config.region.clone()))
            .credentials_provider(Credentials::new(&config.access_key, &config.secret_key, None, None, "secret"))
            .force_path_style(config.force_path_style)
            // Trailing checksums that nobody asked for are refused by some servers, and a server that answers a conditional
            // write early breaks the chunked body they need. We send our own checksum headers instead.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard().with_max_attempts(5).with_max_backoff(Duration::from_secs(10)))
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALL).build());
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Ok(Self { client: Client::from_conf(builder.build()), name: config.bucket.clone(), place })
    }

    /// Settings of a request that carries no large body. Few attempts, so that an unreachable server is known soon.
    pub(super) fn small() -> aws_sdk_s3::config::Builder {
        Self::attempts(3)
    }

    /// Settings of a small request that ends hours of work.
    pub(super) fn patient() -> aws_sdk_s3::config::Builder {
        Self::attempts(8)
    }

    /// Settings of a request whose answer must begin soon.
    pub(super) fn attempts(attempts: u32) -> aws_sdk_s3::config::Builder {
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(SMALL_REQUEST).build();
        let retries = RetryConfig::standard().with_max_attempts(attempts).with_max_backoff(Duration::from_secs(10));
        aws_sdk_s3::Config::builder().timeout_config(timeouts).retry_config(retries)
    }

    /// Asks about an object; `None` when it does not exist.
    ///
    /// # Errors
    /// Every kind but [`ErrorKind::NotFound`]. A server that answers an absent bucket with a bare 404 looks like an absent object.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, ArchiveError> {
        let sent = self
            .client
            .head_object()
            .bucket(&self.name)
            .key(key)
            .checksum_mode(ChecksumMode::Enabled)
            .customize()
            .config_override(Self::small())
            .send()
            .await;
        match sent {
            Ok(found) => Ok(Some(ObjectInfo {
                bytes: length(found.content_length),
                etag: found.e_tag.unwrap_or_default(),
                checksum: found.checksum_sha256,
            })),
            Err(error) => none_when_absent(ArchiveError::from_sdk(&format!("read the head of {key:?}"), &self.place, &error)),
        }
    }

    /// Reads an object of at most `limit` bytes; `None` when it does not exist. Its bytes are those that were written, as far as
    /// the server keeps the checksum that came with them.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] when they are others, [`ErrorKind::TooLarge`] when it is larger than `limit`, and the kinds of the request.
    pub async fn get_small(&self, key: &str, limit: u64) -> Result<Option<Bytes>, ArchiveError> {
        let action = format!("read {key:?}");
        let request = self.client.get_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled);
        let found = match request.customize().config_override(Self::small()).send().await {
            Ok(found) => found,
            Err(error) => return none_when_absent(ArchiveError::from_sdk(&action, &self.place, &error)),
        };
        let bytes = length(found.content_length);
        if bytes > limit {
            return Err(ArchiveError::new(
                ErrorKind::TooLarge,
                format!("cannot {action} in {}: it has {bytes} bytes, expected at most {limit}", self.place),
            ));
        }
        let body = match found.body.collect().await {
            Ok(body) => body.into_bytes(),
            Err(error) => {
                let error = self.broken(&action, &error);
                let changed = error.message.contains("checksum mismatch");
                return Err(if changed { ArchiveError { kind: ErrorKind::Mismatch, ..error } } else { error });
            }
        };
        if body.len() as u64 == bytes {
            Ok(Some(body))
        } else {
            Err(ArchiveError::new(
                ErrorKind::Transient,
                format!("cannot {action} in {}: {} of {bytes} bytes came", self.place, body.len()),
            ))
        }
    }

    /// Writes a small object unless the key is taken. When the answer is a conflict or is lost, the object is read back and
    /// compared: equal bytes are success.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`] when other bytes are at the key, and the kinds of the request.
    pub async fn put_create_only(&self, key: &str, body: Bytes, content_type: &str) -> Result<Put, ArchiveError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .if_none_match("*")
            .content_type(content_type)
            .checksum_sha256(super::writer::sha256_base64(&body))
            .body(ByteStream::from(body.clone()))
            .customize()
            .config_override(Self::patient());
        let sent = crash::around(|| effect("write", key), request.send()).await;
        let Err(error) = sent else { return Ok(Put::Created) };
        let error = ArchiveError::from_sdk(&format!("create {key:?}"), &self.place, &error);
        if error.kind != ErrorKind::PreconditionFailed && !error.outcome_unknown() {
            return Err(error);
        }
        match self.get_small(key, body.len() as u64).await {
            Ok(Some(there)) if there == body => Ok(Put::Present),
            Ok(Some(_)) => Err(self.occupied(key)),
            Err(read) if read.kind == ErrorKind::TooLarge => Err(self.occupied(key)),
            Ok(None) | Err(_) => Err(error),
        }
    }

    /// Deletes an object; an absent one is success.
    ///
    /// # Errors
    /// The kinds of the request.
    pub async fn delete(&self, key: &str) -> Result<(), ArchiveError> {
        let request = self.client.delete_object().bucket(&self.name).key(key).customize().config_override(Self::small());
        let sent = crash::around(|| effect("delete", key), request.send()).await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) => {
                none_when_absent(ArchiveError::from_sdk(&format!("delete {key:?}"), &self.place, &error)).map(|_: Option<()>| ())
            }
        }
    }

    /// Lists all objects whose keys begin with `prefix`, in the order of their keys.
    ///
    /// # Errors
    /// The kinds of the request.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ArchiveError> {
        let mut found = Vec::new();
        let mut next = None;
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.name)
                .prefix(prefix)
                .set_continuation_token(next)
                .customize()
                .config_override(Self::small())
                .send()
                .await
                .map_err(|e| ArchiveError::from_sdk(&format!("list {prefix:?}"), &self.place, &e))?;
            found.extend(
                page.contents.unwrap_or_default().into_iter().filter_map(|o| Some(Listed { key: o.key?, bytes: length(o.size) })),
            );
            next = page.next_continuation_token;
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Proves the right to write below `prefix` without leaving anything: an upload is begun and aborted, and with it those of
    /// probes that died in between.
    ///
    /// # Errors
    /// The kinds of the two requests; an upload that could not be aborted is an error too.
    pub async fn probe_write(&self, prefix: &str) -> Result<(), ArchiveError> {
        let key = format!("{}/.probe", prefix.trim_end_matches('/'));
        let upload = self.create_upload(&key).await?;
        self.abort_upload(&key, &upload).await?;
        self.abort_orphans(&key).await.map(|_| ())
    }

    /// Lists the unfinished uploads whose keys begin with `prefix`.
    ///
    /// # Errors
    /// The kinds of the request.
    pub async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, ArchiveError> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.name)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker)
                .customize()
                .config_override(Self::small())
                .send()
                .await
                .map_err(|e| ArchiveError::from_sdk(&format!("list unfinished uploads below {prefix:?}"), &self.place, &e))?;
            let uploads = page.uploads.unwrap_or_default().into_iter();
            let uploads = uploads.filter_map(|u| Some(Unfinished { key: u.key?, upload: u.upload_id? }));
            // Some servers read the prefix loosely.
            found.extend(uploads.filter(|u| u.key.starts_with(prefix)));
            if page.is_truncated != Some(true) {
                return Ok(found);
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    /// Aborts every unfinished upload whose key begins with `prefix`; gives their number.
    ///
    /// # Errors
    /// The kinds of the requests.
    pub async fn abort_orphans(&self, prefix: &str) -> Result<usize, ArchiveError> {
        let orphans = self.unfinished(prefix).await?;
        for orphan in &orphans {
            self.abort_upload(&orphan.key, &orphan.upload).await?;
        }
        Ok(orphans.len())
    }

    /// Begins a streaming write of a new object.
    ///
    /// # Errors
    /// The kinds of the request.
    pub async fn writer(&self, key: &str) -> Result<Writer, ArchiveError> {
        Writer::begin(self.clone(), key).await
    }

    /// Reads an object from its beginning, pinned to `etag`: a replaced object is an error, never a mixture.
    pub fn reader(&self, key: &str, object: &ObjectInfo) -> Reader {
        Reader::new(self.clone(), key, object)
    }

    pub(super) fn broken(&self, action: &str, error: &dyn std::error::Error) -> ArchiveError {
        let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
        ArchiveError::new(ErrorKind::Transient, format!("cannot {action} in {}: the transfer broke ({error}{cause})", self.place))
    }

    fn occupied(&self, key: &str) -> ArchiveError {
        ArchiveError::new(
            ErrorKind::PreconditionFailed,
            format!("cannot create {key:?} in {}: another object is there", self.place),
        )
    }
}

/// An effect in the words of [`crash`]: times and OIDs in the names of files are different in every run.
pub(super) fn effect(what: &str, key: &str) -> String {
    let file = key.rsplit('/').next().unwrap_or(key);
    format!("{what} {}", file.replace(|c: char| c.is_ascii_digit(), ""))
}

pub(super) fn length(bytes: Option<i64>) -> u64 {
    bytes.and_then(|b| u64::try_from(b).ok()).unwrap_or(0)
}

fn none_when_absent<T>(error: ArchiveError) -> Result<Option<T>, ArchiveError> {
    if error.kind == ErrorKind::NotFound { Ok(None) } else { Err(error) }
}

/// The HTTP client would panic on a malformed bundle, so it is read here first.
fn check_pem(pem: &[u8]) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("it holds no certificate".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ca: Option<&str>) -> BucketConfig {
        BucketConfig {
            bucket: "b".into(),
            endpoint: Some("https://s3.example".into()),
            region: "us-east-1".into(),
            force_path_style: true,
            access_key: "AKIA".into(),
            secret_key: "hunter2".into(),
            ca_pem: ca.map(|c| c.as_bytes().to_vec()),
        }
    }

    #[test]
    fn a_malformed_bundle_is_an_error_and_no_panic() {
        for ca in
            ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n"]
        {
            let error = Bucket::connect(&config(Some(ca))).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Misconfigured, "{ca:?}");
            assert!(error.message.contains("https://s3.example"), "{error}");
        }
    }

    #[test]
    fn debug_never_shows_the_secret() {
        let bucket = Bucket::connect(&config(None)).unwrap();
        assert!(!format!("{:?}", config(None)).contains("hunter2"));
        assert!(!format!("{bucket:?}").contains("hunter2"));
    }
}
