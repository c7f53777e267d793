//! What a message of ours says: who posted it, as which, and when it was meant to be sent.
//!
//! Fixed width and plain ASCII, so that it needs no escaping in any protocol and is read at known places.

use std::fmt;

/// The shortest message that holds what it must say: one letter, and digits of five bits.
pub const SHORTEST: usize = 40;
/// A post that occupies no slot of a window.
pub const NO_SLOT: u32 = 0x00ff_ffff;

const LETTERS: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";
const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const NO_DIGIT: u8 = 0xff;

/// What one message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Whether it counts, or only finds out who has joined.
    pub probe: bool,
    /// The group it was posted to; below 2^24.
    pub group: u32,
    /// Which poster of the group.
    pub poster: u16,
    /// The poster's how-manieth post, from 1.
    pub number: u64,
    /// The place in the window that it occupies, or [`NO_SLOT`].
    pub slot: u32,
    /// When it was meant to be sent, in nanoseconds of the run's clock; below 2^60.
    pub at: u64,
}

/// A message that does not say what ours say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOurs;

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message that was not posted by this run, or was changed on its way")
    }
}

impl std::error::Error for NotOurs {}

/// Writes and reads messages of one size.
#[derive(Debug, Clone)]
pub struct Format {
    filler: Vec<u8>,
}

impl Format {
    /// Messages of `size` bytes, which is at least [`SHORTEST`].
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { filler: LETTERS.iter().copied().cycle().take(size.saturating_sub(SHORTEST)).collect() }
    }

    /// Bytes of a message.
    #[must_use]
    pub fn size(&self) -> usize {
        SHORTEST + self.filler.len()
    }

    /// Appends the message.
    pub fn write(&self, stamp: &Stamp, out: &mut Vec<u8>) {
        let mut head = [0; SHORTEST];
        head[0] = if stamp.probe { b'P' } else { b'M' };
        put(&mut head[1..6], u64::from(stamp.group));
        put(&mut head[6..10], u64::from(stamp.poster));
        put(&mut head[10..23], stamp.number);
        put(&mut head[23..28], u64::from(stamp.slot));
        put(&mut head[28..40], stamp.at);
        out.extend_from_slice(&head);
        out.extend_from_slice(&self.filler);
    }

    /// Reads a message.
    ///
    /// # Errors
    /// If any byte of it is not as [`Format::write`] writes it.
    pub fn read(&self, message: &[u8]) -> Result<Stamp, NotOurs> {
        let (head, filler) = message.split_at_checked(SHORTEST).ok_or(NotOurs)?;
        if filler != self.filler {
            return Err(NotOurs);
        }
        let probe = match head[0] {
            b'M' => false,
            b'P' => true,
            _ => return Err(NotOurs),
        };
        Ok(Stamp {
            probe,
            group: u32::try_from(take(&head[1..6])?).map_err(|_| NotOurs)?,
            poster: u16::try_from(take(&head[6..10])?).map_err(|_| NotOurs)?,
            number: take(&head[10..23])?,
            slot: u32::try_from(take(&head[23..28])?).map_err(|_| NotOurs)?,
            at: take(&head[28..40])?,
        })
    }
}

fn put(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(value & 31) as usize];
        value >>= 5;
    }
}

fn take(digits: &[u8]) -> Result<u64, NotOurs> {
    let (mut value, mut all) = (0, 0);
    for digit in digits {
        let digit = VALUES[usize::from(*digit)];
        all |= digit;
        value = value << 5 | u64::from(digit);
    }
    if all == NO_DIGIT { Err(NotOurs) } else { Ok(value) }
}

static VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp =
        Stamp { probe: false, group: 0xabcdef, poster: 0xffed, number: u64::MAX - 7, slot: NO_SLOT, at: (1 << 60) - 1 };

    #[test]
    fn what_is_written_is_read() {
        for size in [40, 41, 128, 1000] {
            let format = Format::new(size);
            let mut message = Vec::new();
            format.write(&STAMP, &mut message);
            assert_eq!(message.len(), size);
            assert_eq!(format.read(&message), Ok(STAMP));
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let format = Format::new(128);
        let mut message = Vec::new();
        format.write(&STAMP, &mut message);
        for at in [0, 5, 39, 40, 127] {
            let mut changed = message.clone();
            changed[at] = b'?';
            assert_eq!(format.read(&changed), Err(NotOurs), "byte {at}");
        }
        assert_eq!(format.read(&message[..127]), Err(NotOurs));
        assert_eq!(format.read(b""), Err(NotOurs));
    }
}
