//! The bridge between the two databases: objects in an S3 bucket.
//!
//! Here belong the S3 client, the streaming writer and reader, the names of objects, and the manifests. What has no
//! manifest does not exist: a manifest is written last and create-only, so an object beside one is whole and proven.
//! Not here: what the bytes mean, where they come from or go to (`mover`), and when they may be removed (`plan`).
//!
//! No SDK type leaves this room. Messages name bucket and endpoint, never a credential.

mod bucket;
mod error;
pub mod keys;
pub mod limits;
pub mod manifest;
mod reader;
mod writer;

pub use bucket::{Bucket, BucketConfig, Listed, ObjectInfo, Put, Unfinished};
pub use error::{ArchiveError, ErrorKind};
pub use reader::Reader;
pub use writer::{Writer, Written};

use aws_lc_rs::digest;

/// Lower-case hex of bytes.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A running SHA-256 with the count of its bytes.
#[derive(Clone)]
pub struct Sha256 {
    context: digest::Context,
    bytes: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self { context: digest::Context::new(&digest::SHA256), bytes: 0 }
    }
}

impl Sha256 {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Bytes taken in so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of all bytes, 32 bytes.
    pub fn finish(self) -> Vec<u8> {
        self.context.finish().as_ref().to_vec()
    }

    /// The digest of all bytes, lower-case hex.
    pub fn finish_hex(self) -> String {
        hex(&self.finish())
    }

    /// The digest of one piece, lower-case hex.
    pub fn hex_of(bytes: &[u8]) -> String {
        hex(digest::digest(&digest::SHA256, bytes).as_ref())
    }
}
