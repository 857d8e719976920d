//! A streaming reader: ranges of one pinned object, in order, a few of them under way.

use super::ObjectInfo;
use super::bucket::{Bucket, length};
use super::error::{ArchiveError, ErrorKind};
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt as _};
use std::time::Duration;

/// Bytes of one range.
const RANGE: u64 = 4 * 1024 * 1024;

/// Ranges under way at the same time.
const IN_FLIGHT: usize = 3;

/// Attempts of one range, beside those the client makes before an answer begins.
const ATTEMPTS: u32 = 6;

/// How long the body of one attempt of one range may take.
const RANGE_ATTEMPT: Duration = Duration::from_mins(5);

/// Reads one object once, from its first byte to its last. Holds at most four ranges of 4 MiB.
pub struct Reader {
    ranges: BoxStream<'static, Result<Bytes, ArchiveError>>,
}

impl Reader {
    pub(super) fn new(bucket: Bucket, key: &str, object: &ObjectInfo) -> Self {
        let (bytes, etag, key) = (object.bytes, object.etag.clone(), key.to_owned());
        let starts = (0..bytes.div_ceil(RANGE)).map(|n| n * RANGE);
        let ranges = futures::stream::iter(starts)
            .map(move |start| {
                let (bucket, key, etag) = (bucket.clone(), key.clone(), etag.clone());
                let end = (start + RANGE).min(bytes);
                async move { bucket.range(&key, &etag, start, end).await }
            })
            .buffered(IN_FLIGHT)
            .boxed();
        Self { ranges }
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// [`ErrorKind::PreconditionFailed`] when the object was replaced, and the kinds of the requests once retries are spent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        self.ranges.next().await.transpose()
    }
}

impl Bucket {
    async fn range(&self, key: &str, etag: &str, start: u64, end: u64) -> Result<Bytes, ArchiveError> {
        let mut attempt = 1;
        loop {
            match self.range_once(key, etag, start, end).await {
                Err(error) if error.outcome_unknown() && attempt < ATTEMPTS => {
                    tracing::debug!(%error, attempt, "reading a range again");
                    tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn range_once(&self, key: &str, etag: &str, start: u64, end: u64) -> Result<Bytes, ArchiveError> {
        let action = format!("read bytes {start} to {end} of {key:?}");
        let found = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(key)
            .if_match(etag)
            .range(format!("bytes={start}-{}", end - 1))
            .customize()
            .config_override(Self::attempts(2))
            .send()
            .await
            .map_err(|e| ArchiveError::from_sdk(&action, &self.place, &e))?;
        // A server that ignores the range would send the whole object: refuse before it fills the memory. The object is pinned,
        // so it is the answer that is wrong, and another one may be right.
        if length(found.content_length) != end - start {
            return Err(ArchiveError::new(
                ErrorKind::Transient,
                format!("cannot {action} in {}: the server offers {} bytes", self.place, length(found.content_length)),
            ));
        }
        // One buffer of the right size: collecting pieces would hold each range twice.
        let mut body = BytesMut::with_capacity(usize::try_from(end - start).unwrap_or(0));
        let mut pieces = found.body;
        let read = async {
            while let Some(piece) = pieces.try_next().await.map_err(|e| self.broken(&action, &e))? {
                body.extend_from_slice(&piece);
            }
            Ok::<(), ArchiveError>(())
        };
        tokio::time::timeout(RANGE_ATTEMPT, read).await.map_err(|e| self.broken(&action, &e))??;
        if body.len() as u64 == end - start {
            Ok(body.freeze())
        } else {
            Err(ArchiveError::new(ErrorKind::Transient, format!("cannot {action} in {}: {} bytes came", self.place, body.len())))
        }
    }
}
