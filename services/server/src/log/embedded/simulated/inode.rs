//! What a file holds, in two layers, and what a power cut leaves of it.

use std::collections::BTreeSet;

use super::Random;

pub(super) const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Debug, Default, Clone)]
pub(super) struct Inode {
    pub(super) current: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<Change>,
    /// Which pages take space; the others are holes.
    pub(super) taken: BTreeSet<usize>,
}

impl Inode {
    pub(super) fn durable(content: Vec<u8>) -> Self {
        let taken = (0..content.len().div_ceil(PAGE)).collect();
        Self { current: content.clone(), durable: content, pending: Vec::new(), taken }
    }

    /// Makes what is pending last; or forgets it, as a system does whose sync has failed: it is in memory, and no later
    /// sync writes it.
    pub(super) fn settle(&mut self, kept: bool) {
        for change in self.pending.drain(..).filter(|_| kept) {
            match change {
                Change::Write { offset, bytes } => overwrite(&mut self.durable, offset, &bytes),
                Change::SetLen(len) => self.durable.resize(len, 0),
            }
        }
    }

    /// The content after a power cut.
    pub(super) fn after_power_cut(&self, random: &mut Random) -> Vec<u8> {
        let mut content = self.durable.clone();
        for change in &self.pending {
            match change {
                Change::SetLen(len) if random.below(2) == 0 => content.resize(*len, 0),
                Change::SetLen(_) => {}
                Change::Write { offset, bytes } => {
                    let mut at = *offset;
                    let end = offset + bytes.len();
                    while at < end {
                        // A page that is covered as a whole goes as a whole; the parts of others by sectors.
                        let whole = at.is_multiple_of(PAGE) && at + PAGE <= end;
                        let step = if whole { PAGE } else { SECTOR - at % SECTOR };
                        let piece = &bytes[at - offset..(at + step).min(end) - offset];
                        match random.below(if whole { 3 } else { 2 }) {
                            0 => overwrite(&mut content, at, piece),
                            1 => {}
                            _ => overwrite(&mut content, at, &[0; PAGE]),
                        }
                        at += piece.len();
                    }
                }
            }
        }
        content
    }
}

pub(super) fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
