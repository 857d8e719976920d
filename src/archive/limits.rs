//! How large an archive may become, and how its parts grow.
//!
//! A multipart upload has at most 10,000 parts, and the length of a dump is unknown when it begins. So parts start
//! small, which keeps small dumps cheap in memory, and grow until the last ones are as large as the mover's memory allows.

const MIB: u64 = 1024 * 1024;

/// Parts that S3 allows in one upload.
pub const MAX_PARTS: u32 = 10_000;

/// Parts of one size before the next size begins.
const PARTS_PER_STEP: u32 = 100;

/// Growth of the part size from step to step, in bytes; also the size of the first part.
const STEP: u64 = 8 * MIB;

/// Largest part in bytes.
const LARGEST: u64 = 48 * MIB;

/// Size in bytes of part `number`, which counts from 1. Every part but the last has exactly this size.
pub fn part_size(number: u32) -> usize {
    let step = u64::from(number.saturating_sub(1) / PARTS_PER_STEP) + 1;
    usize::try_from((step * STEP).min(LARGEST)).unwrap_or(usize::MAX)
}

/// Bytes that fit into one archive: about 457 GiB.
pub fn max_archive_bytes() -> u64 {
    (1..=MAX_PARTS).map(|number| part_size(number) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_from_8_to_48_mib_and_hold_450_gib() {
        assert_eq!(part_size(1) as u64, 8 * MIB);
        assert_eq!(part_size(100) as u64, 8 * MIB);
        assert_eq!(part_size(101) as u64, 16 * MIB);
        assert_eq!(part_size(501) as u64, 48 * MIB);
        assert_eq!(part_size(MAX_PARTS) as u64, 48 * MIB);
        assert!((450..470).contains(&(max_archive_bytes() / MIB / 1024)), "{}", max_archive_bytes());
    }
}
