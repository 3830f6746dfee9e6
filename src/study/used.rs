//! What a study has used so far of each request, in a few bytes a request: there may be millions.

use std::collections::HashMap;

use crate::store::Fingerprint;

/// Samples used by fingerprint. In parts, so that a part which grows is never half of it all.
#[derive(Debug, Default)]
pub(super) struct Used([HashMap<Key, u32>; PARTS]);

const PARTS: usize = 16;

/// The first 96 bits of a fingerprint: of a cryptographic hash that is plenty to tell requests apart.
type Key = [u32; 3];

fn key(print: &Fingerprint) -> Key {
    let part = |at: usize| u32::from_le_bytes([print.0[at], print.0[at + 1], print.0[at + 2], print.0[at + 3]]);
    [part(0), part(4), part(8)]
}

fn part(print: &Fingerprint) -> usize {
    usize::from(print.0[12]) % PARTS
}

impl Used {
    /// How many samples were used.
    pub fn of(&self, print: &Fingerprint) -> usize {
        self.0[part(print)].get(&key(print)).map_or(0, |used| *used as usize)
    }

    /// The first `n` samples are used now; gives how many were before.
    pub fn add(&mut self, print: &Fingerprint, n: u32) -> usize {
        let used = self.0[part(print)].entry(key(print)).or_insert(0);
        let before = *used;
        *used = before.max(n);
        before as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_was_used_counts() {
        let print = |number: u8| Fingerprint([number; 32]);
        let mut used = Used::default();
        assert_eq!(used.of(&print(1)), 0);
        assert_eq!((used.add(&print(1), 3), used.add(&print(1), 1), used.add(&print(2), 5)), (0, 3, 0));
        assert_eq!((used.of(&print(1)), used.of(&print(2)), used.of(&print(3))), (3, 5, 0));
    }
}
