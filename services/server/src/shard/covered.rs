//! Of which shards a list of groups tells all.

use serde::{Deserialize, Serialize};

/// A set of shards, a bit for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Covered(Vec<u64>);

impl Covered {
    /// Whether the shard is one of them.
    #[must_use]
    pub fn has(&self, shard: u16) -> bool {
        let (word, bit) = place(shard);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Puts those of the other one to these.
    pub fn unite(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(bits, more)| *bits |= more);
    }

    /// Keeps those that are in the other one too.
    pub fn intersect(&mut self, other: &Self) {
        self.0.truncate(other.0.len());
        self.0.iter_mut().zip(&other.0).for_each(|(bits, too)| *bits &= too);
    }

    /// How many of a deployment's shards are not among them.
    #[must_use]
    pub fn missing(&self, shards: u16) -> usize {
        (0..shards).filter(|shard| !self.has(*shard)).count()
    }
}

impl FromIterator<u16> for Covered {
    fn from_iter<T: IntoIterator<Item = u16>>(shards: T) -> Self {
        let mut covered = Self::default();
        for shard in shards {
            let (word, bit) = place(shard);
            if covered.0.len() <= word {
                covered.0.resize(word + 1, 0);
            }
            covered.0[word] |= bit;
        }
        covered
    }
}

fn place(shard: u16) -> (usize, u64) {
    (usize::from(shard / 64), 1 << (shard % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shards: &[u16]) -> Covered {
        shards.iter().copied().collect()
    }

    #[test]
    fn what_several_tell_of_is_what_one_of_them_tells_of() {
        let mut all = of(&[0, 63]);
        assert_eq!((all.missing(64), all.missing(65), all.has(64)), (62, 63, false));
        all.unite(&of(&[64, 1023]));
        assert_eq!(all, of(&[0, 63, 64, 1023]));
        all.unite(&of(&[1]));
        assert_eq!(all.missing(1024), 1024 - 5);
        all.unite(&(0..1024).collect());
        assert_eq!(all.missing(1024), 0);
    }

    #[test]
    fn what_was_told_in_parts_is_what_each_part_tells_of() {
        let mut both = of(&[0, 5, 700]);
        both.intersect(&of(&[5, 6]));
        assert!(both.has(5) && both.missing(1024) == 1023, "{both:?}");
        both.intersect(&Covered::default());
        assert_eq!(both.missing(8), 8);
    }
}
