//! The bytes of the commit log's files: a header that says which file it is, then blocks.
//!
//! A **block** is what one write and one fsync made last: the appends that were waiting together. It begins on a page
//! and its one checksum covers all of it, so that after a crash a block is there as a whole or not at all. It carries the number
//! of its file, which is new for each use of a recycled file: an old block is never taken for a new one. Nor is a text that looks like a
//! block: what posters wrote stands in a recycled file as well, and they cannot tell which number the file is going to get, since numbers
//! grow by random steps. A block also says how far the file was known to be on the disk when it was written: a bad block before that mark is
//! corruption, one after it is a torn tail.
//!
//! The **header** names the end of what is valid in the file before. So a new file, once on the disk, takes back whatever a
//! failed write or fsync may have left behind that end.

/// What blocks and headers are aligned to. A page that holds something synced is never written again, so that losing an unsynced
/// page takes nothing else along; and a recycled file is written without being read first.
pub(crate) const PAGE: u64 = 4096;
/// Where the first block of a file begins.
pub(crate) const FIRST_BLOCK: u64 = PAGE;
/// The format that is written, and the only one that is read.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a block before its payload.
pub(crate) const BLOCK_HEADER: usize = 40;

const FILE_MAGIC: &[u8; 8] = b"TERTULOG";
const BLOCK_MAGIC: &[u8; 4] = b"TBLK";
const HEADER_BYTES: usize = 64;

/// `length` rounded up to whole pages.
pub(crate) fn pages(length: u64) -> u64 {
    length.div_ceil(PAGE) * PAGE
}

/// How much the number of a file is larger than that of the one before; at least 1.
pub(crate) type Step = fn() -> u64;

/// A step that nobody can tell beforehand. Numbers last for hundreds of millions of files.
pub(crate) fn random_step() -> u64 {
    const RANGE: u64 = 1 << 36;
    1 + crate::random::number() % RANGE
}

/// The end of a block, which is the place where the next one begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The number of the file.
    pub(crate) file: u64,
    /// The offset in it.
    pub(crate) end: u64,
    /// The number of the block that ends there. Blocks are numbered 1, 2, 3 … over all files.
    pub(crate) block: u64,
}

/// What a file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// Which log the file belongs to.
    pub(crate) log: u64,
    /// The number of the file.
    pub(crate) file: u64,
    /// The end of all that is valid before this file. Files numbered between hold nothing valid.
    pub(crate) previous: Position,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Not what was written.
    Corrupt,
    /// Written in another format.
    Version(u32),
}

impl FileHeader {
    /// The header's page.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE as usize);
        page.extend_from_slice(FILE_MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&[0; 4]);
        for number in [self.log, self.file, self.previous.file, self.previous.end, self.previous.block] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        page.resize(HEADER_BYTES, 0);
        let checksum = crc32fast::hash(&page[16..]);
        page[12..16].copy_from_slice(&checksum.to_le_bytes());
        page.resize(PAGE as usize, 0);
        page
    }

    /// Reads a header's page.
    pub(crate) fn decode(page: &[u8]) -> Result<Self, BadHeader> {
        if page.len() < HEADER_BYTES || &page[..8] != FILE_MAGIC {
            return Err(BadHeader::Corrupt);
        }
        let version = u32_at(page, 8);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        if crc32fast::hash(&page[16..HEADER_BYTES]) != u32_at(page, 12) {
            return Err(BadHeader::Corrupt);
        }
        let previous = Position { file: u64_at(page, 32), end: u64_at(page, 40), block: u64_at(page, 48) };
        Ok(Self { log: u64_at(page, 16), file: u64_at(page, 24), previous })
    }
}

/// What a block says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// Bytes of header and payload, without the padding.
    pub(crate) length: u32,
    /// Operations in the payload.
    pub(crate) operations: u32,
    /// The number of its file.
    pub(crate) file: u64,
    /// Its own number.
    pub(crate) block: u64,
    /// How far its file was known to be on the disk when it was written.
    pub(crate) synced: u64,
}

impl BlockHeader {
    /// Reads a block's header if `bytes` begin with one; its checksum is not looked at.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < BLOCK_HEADER || &bytes[..4] != BLOCK_MAGIC {
            return None;
        }
        let header = Self {
            length: u32_at(bytes, 8),
            operations: u32_at(bytes, 12),
            file: u64_at(bytes, 16),
            block: u64_at(bytes, 24),
            synced: u64_at(bytes, 32),
        };
        (header.length as usize >= BLOCK_HEADER).then_some(header)
    }
}

/// Completes a block: `buffer` holds room for the header, then the payload. Pads it to whole pages.
pub(crate) fn seal(buffer: &mut Vec<u8>, header: BlockHeader) {
    buffer[..4].copy_from_slice(BLOCK_MAGIC);
    buffer[8..12].copy_from_slice(&header.length.to_le_bytes());
    buffer[12..16].copy_from_slice(&header.operations.to_le_bytes());
    buffer[16..24].copy_from_slice(&header.file.to_le_bytes());
    buffer[24..32].copy_from_slice(&header.block.to_le_bytes());
    buffer[32..40].copy_from_slice(&header.synced.to_le_bytes());
    let checksum = crc32fast::hash(&buffer[8..]);
    buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
    buffer.resize(pages(buffer.len() as u64) as usize, 0);
}

/// Whether the checksum of a whole block (without padding) is right.
pub(crate) fn is_whole(block: &[u8]) -> bool {
    block.len() >= BLOCK_HEADER && crc32fast::hash(&block[8..]) == u32_at(block, 4)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_and_a_flipped_bit_is_seen() {
        let header = FileHeader { log: 7, file: 3, previous: Position { file: 2, end: 8192, block: 9 } };
        let page = header.encode();
        assert_eq!(FileHeader::decode(&page), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = page.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_told_apart_from_corruption() {
        let mut page = FileHeader { log: 7, file: 3, previous: Position::default() }.encode();
        page[8] = 2;
        assert_eq!(FileHeader::decode(&page), Err(BadHeader::Version(2)));
    }

    #[test]
    fn a_block_fills_whole_pages_and_a_flipped_bit_is_seen() {
        let mut buffer = vec![0; BLOCK_HEADER];
        buffer.extend_from_slice(b"payload");
        let length = buffer.len();
        let header = BlockHeader { length: length as u32, operations: 1, file: 3, block: 4, synced: 4096 };
        seal(&mut buffer, header);
        assert_eq!(buffer.len() as u64, PAGE);
        assert_eq!(BlockHeader::decode(&buffer), Some(header));
        assert!(is_whole(&buffer[..length]));
        for bit in 32..length * 8 {
            let mut flipped = buffer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_whole(&flipped[..length]), "bit {bit}");
        }
    }
}
