//! Pages of lists.
//!
//! A page token says after which entry the next page begins. It carries a hash of that, of the list and of the filters, so that
//! one that was made for another list, with other filters or by hand is told. It is no secret, and the same on every node:
//! a caller may take each page from another one.

use xxhash_rust::xxh3::Xxh3;

use super::status::Error;

/// The entries of a page when none are asked for, and at most.
const SIZE: (i32, i32) = (100, 1_000);
const HEX: &[u8; 16] = b"0123456789abcdef";

/// One list with its filters.
#[derive(Debug, Clone, Copy)]
pub(super) struct List<'a> {
    /// Which.
    pub(super) name: &'static str,
    /// The filters, in a fixed order.
    pub(super) filters: &'a [&'a str],
}

/// How many entries a page may have.
pub(super) fn size(asked: i32) -> Result<usize, Error> {
    let (default, max) = SIZE;
    let size = match asked {
        0 => default,
        asked => asked.min(max),
    };
    usize::try_from(size).map_err(|_| Error::argument(format!("page_size must not be negative, this one is {asked}")))
}

/// What is said of a token that the server did not make for this list.
pub(super) fn foreign() -> Error {
    Error::argument("page_token is none of this list with these filters")
}

impl List<'_> {
    /// The token of a page that begins after the entry that `last` names.
    pub(super) fn token(&self, last: &[&str]) -> String {
        let mut bytes = Vec::new();
        for part in last {
            // Names have at most 255 bytes, and numbers fewer.
            bytes.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(part.as_bytes());
        }
        let hash = self.hash(&bytes);
        bytes.extend_from_slice(&hash.to_be_bytes());
        let digit = |value: u8| char::from(HEX[usize::from(value)]);
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// The entry after which a page begins, as `N` texts; `None` for the first page.
    pub(super) fn after<const N: usize>(&self, token: &str) -> Result<Option<[String; N]>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let parts = bytes(token).and_then(|bytes| self.parts(&bytes));
        let parts = parts.and_then(|parts| parts.try_into().ok());
        parts.map(Some).ok_or_else(foreign)
    }

    fn parts(&self, bytes: &[u8]) -> Option<Vec<String>> {
        let (mut bytes, hash) = bytes.split_last_chunk::<8>()?;
        if self.hash(bytes).to_be_bytes() != *hash {
            return None;
        }
        let mut parts = Vec::new();
        while let Some((length, rest)) = bytes.split_first() {
            let (part, rest) = rest.split_at_checked(usize::from(*length))?;
            parts.push(String::from_utf8(part.to_vec()).ok()?);
            bytes = rest;
        }
        Some(parts)
    }

    fn hash(&self, last: &[u8]) -> u64 {
        let mut hash = Xxh3::new();
        for part in std::iter::once(self.name).chain(self.filters.iter().copied()) {
            hash.update(&part.len().to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(last);
        hash.digest()
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(digit(*high)? * 16 + digit(*low)?) } else { None }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: List<'_> = List { name: "groups", filters: &["Do"] };

    #[test]
    fn sizes_follow_the_conventions() {
        let sizes: Vec<usize> =
            [0, 1, 100, 1_000, 1_001, i32::MAX].into_iter().map(|asked| size(asked).unwrap()).collect();
        assert_eq!(sizes, [100, 1, 100, 1_000, 1_000, 1_000]);
        assert_eq!(size(-1).unwrap_err().to_string(), "page_size must not be negative, this one is -1");
        assert!(size(i32::MIN).is_err());
    }

    #[test]
    fn a_token_leads_back_to_its_entry_in_its_list_alone() {
        let token = LIST.token(&["Dogs", "两只狗"]);
        assert_eq!(LIST.after(&token).unwrap(), Some(["Dogs".to_owned(), "两只狗".to_owned()]));
        assert_eq!(LIST.after::<1>("").unwrap(), None);
        for other in [
            List { name: "groups", filters: &["D", "o"] },
            List { name: "groups", filters: &[""] },
            List { name: "members", filters: &["Do"] },
        ] {
            assert!(other.after::<2>(&token).is_err(), "{other:?}");
        }
        assert!(LIST.after::<1>(&token).is_err());
        let mut longest = "x".repeat(255);
        assert_eq!(LIST.after(&LIST.token(&[&longest])).unwrap(), Some([longest.clone()]));
        longest.push('x');
        assert!(LIST.after::<1>(&LIST.token(&[&longest])).is_err());
    }

    proptest! {
        #[test]
        fn what_the_server_did_not_make_is_told(text in "\\PC{1,40}", hex in "[0-9a-fA-F]{1,80}") {
            prop_assert!(LIST.after::<1>(&text).is_err());
            prop_assert!(LIST.after::<1>(&hex).is_err());
        }
    }
}
