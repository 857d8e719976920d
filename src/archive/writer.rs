//! A streaming multipart writer: constant memory, every part checksummed, complete create-only or nothing.

use super::bucket::{Bucket, effect};
use super::error::{ArchiveError, ErrorKind};
use super::limits::{MAX_PARTS, part_size};
use super::{ObjectInfo, Sha256};
use crate::crash;
use aws_lc_rs::digest;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::task::JoinSet;

/// Parts under way at the same time, beside the one that fills.
const IN_FLIGHT: usize = 2;

/// How long one attempt of one part may take: so long, and as long as its bytes take at [`SLOWEST`].
const PART_ATTEMPT: Duration = Duration::from_secs(30);

/// Bytes a second that a server takes at least.
const SLOWEST: u64 = 100_000;

/// How long parts under way may take to end before an abort.
const PARTS_END: Duration = Duration::from_secs(8);

/// Attempts to abort an upload.
const ABORTS: u32 = 6;

/// How long the server may take to join parts: so long, and so long for each.
const COMPLETE_ATTEMPT: Duration = Duration::from_mins(1);
const COMPLETE_PART: Duration = Duration::from_millis(50);

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of all bytes, lower-case hex.
    pub sha256: String,
    /// Entity tag as the server gives it, quotes included.
    pub etag: String,
}

/// An upload under way. Dropped before [`Writer::complete`], it aborts itself in the background as far as the runtime lives;
/// [`Writer::abort`] waits for that. Nothing is visible at the key until `complete` has succeeded.
pub struct Writer {
    bucket: Bucket,
    key: String,
    /// Taken by `complete` and `abort`: what is left at drop is aborted.
    upload: Option<String>,
    filling: BytesMut,
    /// Buffers of parts that have arrived, taken up again in turn: so a short upload needs as much memory as a long one, and no part
    /// waits for fresh pages.
    spare: VecDeque<BytesMut>,
    uploads: Uploads,
    parts: Vec<Part>,
    next: u32,
    hash: Sha256,
}

/// What each gives back is the part and its buffer.
type Uploads = JoinSet<Result<(Part, BytesMut), ArchiveError>>;

struct Part {
    number: u32,
    etag: String,
    sha256: [u8; 32],
}

pub(super) fn sha256_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

impl Writer {
    pub(super) async fn begin(bucket: Bucket, key: &str) -> Result<Self, ArchiveError> {
        let upload = bucket.create_upload(key).await?;
        Ok(Self {
            bucket,
            key: key.to_owned(),
            upload: Some(upload),
            filling: BytesMut::new(),
            spare: std::iter::repeat_n(BytesMut::new(), IN_FLIGHT + 1).collect(),
            uploads: JoinSet::new(),
            parts: Vec::new(),
            next: 1,
            hash: Sha256::default(),
        })
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> u64 {
        self.hash.bytes()
    }

    /// SHA-256 of the bytes taken so far, lower-case hex.
    pub fn sha256(&self) -> String {
        self.hash.clone().finish_hex()
    }

    /// Takes the next bytes. Waits while two parts are under way: that is the back-pressure to the producer.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] beyond [`super::limits::max_archive_bytes`], and the kinds of the uploads. The writer is of no
    /// use afterwards but for [`Writer::abort`].
    pub async fn write(&mut self, mut data: &[u8]) -> Result<(), ArchiveError> {
        self.hash.update(data);
        while !data.is_empty() {
            let size = part_size(self.next);
            if self.filling.capacity() < size {
                let spare = self.spare.pop_front().filter(|spare| spare.capacity() >= size);
                self.filling = spare.unwrap_or_else(|| BytesMut::with_capacity(size));
            }
            let take = data.len().min(size - self.filling.len());
            self.filling.extend_from_slice(&data[..take]);
            data = &data[take..];
            if self.filling.len() == size {
                self.send_part().await?;
            }
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<(), ArchiveError> {
        if self.next > MAX_PARTS {
            return Err(ArchiveError::new(
                ErrorKind::TooLarge,
                format!("{:?} in {} outgrew {MAX_PARTS} parts at {} bytes", self.key, self.bucket.place, self.bytes()),
            ));
        }
        while self.uploads.len() >= IN_FLIGHT {
            self.reap().await?;
        }
        let number = self.next;
        self.next += 1;
        let body = std::mem::take(&mut self.filling).freeze();
        let (bucket, key, upload) = (self.bucket.clone(), self.key.clone(), self.upload.clone().unwrap_or_default());
        self.uploads.spawn(async move {
            let part = bucket.upload_part(&key, &upload, number, body.clone()).await?;
            let mut buffer = body.try_into_mut().unwrap_or_default();
            buffer.clear();
            Ok((part, buffer))
        });
        Ok(())
    }

    async fn reap(&mut self) -> Result<(), ArchiveError> {
        match self.uploads.join_next().await {
            None => Ok(()),
            Some(Ok(sent)) => {
                let (part, buffer) = sent?;
                self.parts.push(part);
                self.spare.push_back(buffer);
                Ok(())
            }
            Some(Err(lost)) => {
                Err(ArchiveError::new(ErrorKind::Other, format!("a part of {:?} was lost on this side: {lost}", self.key)))
            }
        }
    }

    /// Sends what is left and joins the parts, unless the key is taken. When the answer is lost or denied, the object is read
    /// back: the right length and checksum are success.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`] when another object is at the key, [`ErrorKind::Mismatch`] when the server's object is not
    /// what was sent, and the kinds of the requests. The upload is aborted then.
    pub async fn complete(mut self) -> Result<Written, ArchiveError> {
        match self.finish().await {
            Ok(written) => {
                self.upload = None;
                Ok(written)
            }
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    async fn finish(&mut self) -> Result<Written, ArchiveError> {
        // An upload needs one part, an empty one too.
        if !self.filling.is_empty() || self.next == 1 {
            self.send_part().await?;
        }
        while !self.uploads.is_empty() {
            self.reap().await?;
        }
        self.parts.sort_by_key(|p| p.number);
        let sent = self.bucket.complete_upload(&self.key, self.upload.as_deref().unwrap_or_default(), &self.parts).await;
        let there = match sent {
            Ok(()) => self.bucket.head(&self.key).await?.ok_or_else(|| self.mismatch("it is not there"))?,
            Err(error) => match error.kind {
                ErrorKind::PreconditionFailed | ErrorKind::NotFound | ErrorKind::Transient | ErrorKind::Unreachable => {
                    match self.bucket.head(&self.key).await {
                        Ok(Some(there)) if self.is_ours(&there) => there,
                        Ok(_) | Err(_) => return Err(error),
                    }
                }
                _ => return Err(error),
            },
        };
        if !self.is_ours(&there) {
            return Err(self.mismatch(&format!("{} bytes are there, {} were sent", there.bytes, self.bytes())));
        }
        Ok(Written { bytes: self.bytes(), sha256: self.sha256(), etag: there.etag })
    }

    fn is_ours(&self, there: &ObjectInfo) -> bool {
        there.bytes == self.bytes() && there.checksum.as_ref().is_none_or(|stored| *stored == self.composite())
    }

    /// The checksum that S3 keeps for an upload in parts: SHA-256 over the parts' SHA-256.
    fn composite(&self) -> String {
        let mut all = digest::Context::new(&digest::SHA256);
        for part in &self.parts {
            all.update(&part.sha256);
        }
        format!("{}-{}", BASE64_STANDARD.encode(all.finish().as_ref()), self.parts.len())
    }

    fn mismatch(&self, what: &str) -> ArchiveError {
        ArchiveError::new(ErrorKind::Mismatch, format!("{:?} in {} is not what was written: {what}", self.key, self.bucket.place))
    }

    /// Gives the upload up and frees its parts. A failure is logged only: [`Bucket::abort_orphans`] finds what is left.
    pub async fn abort(mut self) {
        if let Some(upload) = self.upload.take() {
            let parts = std::mem::take(&mut self.uploads);
            self.bucket.abandon(&self.key, &upload, parts).await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (bucket, key, parts) = (self.bucket.clone(), std::mem::take(&mut self.key), std::mem::take(&mut self.uploads));
            runtime.spawn(async move { bucket.abandon(&key, &upload, parts).await });
        }
    }
}

impl Bucket {
    pub(super) async fn create_upload(&self, key: &str) -> Result<String, ArchiveError> {
        let action = format!("begin an upload of {key:?}");
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .customize()
            .config_override(Self::small());
        let begun = crash::around(|| effect("begin", key), begun.send())
            .await
            .map_err(|e| ArchiveError::from_sdk(&action, &self.place, &e))?;
        begun
            .upload_id
            .ok_or_else(|| ArchiveError::new(ErrorKind::Other, format!("cannot {action} in {}: no upload id came", self.place)))
    }

    pub(super) async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), ArchiveError> {
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(upload);
        match crash::around(|| effect("abort", key), request.customize().config_override(Self::small()).send()).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = ArchiveError::from_sdk(&format!("abort an upload of {key:?}"), &self.place, &error);
                if error.kind == ErrorKind::NotFound { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Aborts until the upload is gone and stays gone: a part that is under way brings it back, as S3 documents. So parts
    /// get a moment to end first.
    async fn abandon(&self, key: &str, upload: &str, mut parts: Uploads) {
        let ended = tokio::time::timeout(PARTS_END, async { while parts.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            parts.shutdown().await;
        }
        let (mut last, mut seen_gone) = (None, 0);
        for attempt in 0..ABORTS {
            last = self.abort_upload(key, upload).await.err();
            match self.unfinished(key).await {
                Ok(left) if left.iter().all(|u| u.upload != upload) => {
                    seen_gone += 1;
                    if ended.is_ok() || seen_gone > 1 {
                        return;
                    }
                }
                Ok(_) => seen_gone = 0,
                Err(error) => last = last.or(Some(error)),
            }
            tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
        }
        tracing::warn!(%key, error = last.map(|e| e.to_string()), "an unfinished upload may remain");
    }

    async fn upload_part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Result<Part, ArchiveError> {
        let digest = digest::digest(&digest::SHA256, &body);
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest.as_ref());
        let attempt = PART_ATTEMPT + Duration::from_secs(body.len() as u64 / SLOWEST);
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(attempt).build();
        let part = self
            .client
            .upload_part()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload)
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .checksum_sha256(BASE64_STANDARD.encode(sha256))
            .body(ByteStream::from(body))
            .customize()
            .config_override(aws_sdk_s3::Config::builder().timeout_config(timeouts));
        let sent = crash::around(|| effect(&format!("part {number} of"), key), part.send())
            .await
            .map_err(|e| ArchiveError::from_sdk(&format!("upload part {number} of {key:?}"), &self.place, &e))?;
        Ok(Part { number, etag: sent.e_tag.unwrap_or_default(), sha256 })
    }

    async fn complete_upload(&self, key: &str, upload: &str, parts: &[Part]) -> Result<(), ArchiveError> {
        let list = parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(i32::try_from(part.number).unwrap_or(i32::MAX))
                .e_tag(&part.etag)
                .checksum_sha256(BASE64_STANDARD.encode(part.sha256))
                .build()
        });
        let attempt = COMPLETE_ATTEMPT + COMPLETE_PART * u32::try_from(parts.len()).unwrap_or(MAX_PARTS);
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(attempt).build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .upload_id(upload)
            .if_none_match("*")
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(list.collect())).build())
            .customize()
            .config_override(aws_sdk_s3::Config::builder().timeout_config(timeouts));
        crash::around(|| effect("complete", key), request.send())
            .await
            .map(|_| ())
            .map_err(|e| ArchiveError::from_sdk(&format!("complete the upload of {key:?}"), &self.place, &e))
    }
}
