//! What an archive holds, asked of the target's own `pg_restore`; and the files in the pod that a restore works from.

use super::Context;
use super::ends::PodEnd;
use super::error::MoverError;
use super::stream;
use crate::archive::{Bucket, ObjectInfo, Reader, Sha256};
use crate::kubernetes::exec::Stdin;
use crate::plan::operation::Reason;
use crate::postgres::tools::{self, scripts};
use bytes::Bytes;

/// Attempts to put a file into the pod: an input that is cut short on the way is seen and sent again.
const KEEP_ATTEMPTS: u32 = 3;

/// Bytes of the archive's head at the first attempt; enough for some thousand tables.
const HEAD: u64 = 1 << 20;

/// The head grows by this factor until the table of contents is whole.
const HEAD_GROWTH: u64 = 4;

/// What `pg_restore` says of a head that ends too early.
const TOO_SHORT: &str = "could not read from input file: end of file";

/// Largest head, bytes: as much is written into the pod.
const LARGEST_HEAD: u64 = 512 << 20;

/// Largest listing, bytes.
const LARGEST_LISTING: usize = 64 << 20;

/// The first bytes of an archive, the table of contents among them. Definitions need no more of it.
pub struct Head {
    /// Path in the pod. It stays until [`super::orphans::sweep`].
    pub path: String,
    bytes: u64,
    sha256: String,
}

/// What an archive holds.
pub struct Contents {
    /// Its head.
    pub head: Head,
    /// The table of contents, as `pg_restore --list` prints it.
    pub listing: String,
}

/// Hashes an archive as it passes, and its first bytes by themselves: they were read from the bucket once before.
pub struct Passing {
    all: Sha256,
    first: Sha256,
    left: u64,
}

impl Passing {
    /// For an archive of this head; without one there are no first bytes.
    pub fn new(head: Option<&Head>) -> Self {
        Self { all: Sha256::default(), first: Sha256::default(), left: head.map_or(0, |head| head.bytes) }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let first = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.first.update(&bytes[..first]);
        self.left -= first as u64;
        self.all.update(bytes);
    }

    /// Bytes and SHA-256 of all that passed, and whether it began as the head does.
    pub fn counted(self, head: Option<&Head>) -> (u64, String, bool) {
        let (bytes, sha256) = stream::counted(self.all);
        let same = head.is_none_or(|head| self.left == 0 && self.first.finish_hex() == head.sha256);
        (bytes, sha256, same)
    }
}

/// Puts the head of the archive into the pod and lists what the archive holds.
///
/// A head that ends within the table of contents is no archive to `pg_restore`, which reads as many entries as the head's
/// beginning announces: so it is given more until it has seen all.
///
/// # Errors
/// What `pg_restore` says of the whole archive, or of the largest head.
pub async fn list(
    context: &Context,
    target: &PodEnd,
    bucket: &Bucket,
    key: &str,
    object: &ObjectInfo,
) -> Result<Contents, MoverError> {
    let mut bytes = HEAD.min(object.bytes);
    let mut attempt = 1;
    loop {
        let head = ObjectInfo { bytes, ..object.clone() };
        let more = (bytes * HEAD_GROWTH).min(object.bytes).min(LARGEST_HEAD);
        match list_head(context, target, bucket.reader(key, &head)).await {
            Err(error) if error.message.contains(TOO_SHORT) && more > bytes => bytes = more,
            Err(error) if cut_short(&error) && attempt < KEEP_ATTEMPTS => {
                tracing::warn!(%error, "sending the head of the archive again");
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn cut_short(error: &MoverError) -> bool {
    matches!(error.reason, Reason::ArchiveMismatch | Reason::StreamBroken)
}

async fn list_head(context: &Context, target: &PodEnd, mut reader: Reader) -> Result<Contents, MoverError> {
    let nonce = stream::nonce()?;
    let tag = context.operation.session_tag();
    let argv = scripts::keep_and_run(&nonce, &tag, &context.operation.migration.uid, &tools::list());
    let what = format!("pg_restore --list in {}", target.target);
    let (stdin, mut running) = stream::start(&target.client, &target.target, &what, &argv, &nonce).await?;
    let mut sent = Sha256::default();
    let feed = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        while let Some(bytes) = context.counters.at_bucket(reader.next()).await? {
            sent.update(&bytes);
            if stdin.write(bytes).await.is_err() {
                return Ok(());
            }
            context.counters.moved();
        }
        // The pod's verdict tells whether all of it came.
        let _ = stdin.close().await;
        Ok::<(), MoverError>(())
    };
    let mut said = Vec::new();
    let drain = async {
        while let Some(bytes) = running.next(|_| {}).await? {
            if said.len() + bytes.len() > LARGEST_LISTING {
                return Err(MoverError::new(
                    Reason::RestoreFailed,
                    format!("{what}: the table of contents is longer than {LARGEST_LISTING} bytes"),
                ));
            }
            said.extend_from_slice(&bytes);
        }
        Ok(())
    };
    tokio::try_join!(feed, drain)?;
    let mut hash = Sha256::default();
    hash.update(&said);
    let (bytes, sha256) = stream::counted(hash);
    // Only the numbers before each entry's first semicolon are read again by pg_restore; names may be in any encoding.
    let said = String::from_utf8_lossy(&said);
    let mut lines = said.splitn(3, '\n');
    let (path, kept, listing) = (lines.next(), lines.next(), lines.next());
    // First: a head that was cut short on its way is not one that is too short.
    let (bytes_sent, sent) = stream::counted(sent);
    if kept.is_some_and(|kept| kept != sent) {
        return Err(MoverError::new(Reason::StreamBroken, format!("{what}: the pod received other bytes than were sent")));
    }
    running.ended()?.proven(Reason::RestoreFailed, bytes, &sha256)?;
    match (path, listing) {
        (Some(path), Some(listing)) => {
            Ok(Contents { head: Head { path: path.to_owned(), bytes: bytes_sent, sha256: sent }, listing: listing.to_owned() })
        }
        _ => Err(MoverError::new(Reason::StreamBroken, format!("{what}: it gave no table of contents"))),
    }
}

/// Puts a list of entries into a private file in the pod; gives its path.
///
/// # Errors
/// When it does not arrive whole.
pub async fn keep(context: &Context, target: &PodEnd, list: &str) -> Result<String, MoverError> {
    let mut attempt = 1;
    loop {
        match keep_once(context, target, list).await {
            Err(error) if cut_short(&error) && attempt < KEEP_ATTEMPTS => {
                tracing::warn!(%error, "sending a list of entries again");
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn keep_once(context: &Context, target: &PodEnd, list: &str) -> Result<String, MoverError> {
    let nonce = stream::nonce()?;
    let argv = scripts::keep(&nonce, &context.operation.session_tag(), &context.operation.migration.uid);
    let what = format!("a list of entries in {}", target.target);
    let (stdin, mut running) = stream::start(&target.client, &target.target, &what, &argv, &nonce).await?;
    let input = Bytes::copy_from_slice(list.as_bytes());
    let mut path = Vec::new();
    let drain = async {
        while let Some(bytes) = running.next(|_| {}).await? {
            path.extend_from_slice(&bytes);
        }
        Ok::<(), MoverError>(())
    };
    let ((), drained) = tokio::join!(hand_over(stdin, input), drain);
    drained?;
    running.ended()?.proven(Reason::RestoreFailed, list.len() as u64, &Sha256::hex_of(list.as_bytes()))?;
    Ok(String::from_utf8_lossy(&path).trim().to_owned())
}

/// Hands a process its whole input. Its verdict tells whether all of it came.
async fn hand_over(stdin: Option<Stdin>, input: Bytes) {
    if let Some(mut stdin) = stdin
        && stdin.write(input).await.is_ok()
    {
        let _ = stdin.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(head: &[u8], pieces: &[&[u8]]) -> (u64, String, bool) {
        let head = Head { path: String::new(), bytes: head.len() as u64, sha256: Sha256::hex_of(head) };
        let mut passing = Passing::new(Some(&head));
        pieces.iter().for_each(|piece| passing.update(piece));
        passing.counted(Some(&head))
    }

    #[test]
    fn a_head_that_the_archive_does_not_begin_with_is_noticed() {
        let all = Sha256::hex_of(b"abcdef");
        for pieces in [&[&b"abcdef"[..]][..], &[b"ab", b"c", b"def"], &[b"abcd", b"ef"]] {
            assert_eq!(passed(b"abc", pieces), (6, all.clone(), true));
            assert_eq!(passed(b"abd", pieces), (6, all.clone(), false));
            assert_eq!(passed(b"abcdef", pieces), (6, all.clone(), true));
            assert_eq!(passed(b"abcdefg", pieces), (6, all.clone(), false));
        }
    }
}
