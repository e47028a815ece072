//! Names of commands as they are compared: in any case, eight letters at a time.

/// A name as it is compared: in lower case, with its length (a NUL is no padding) and container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    words: [u64; 4],
    len: u8,
    /// Index of the container + 1, or 0.
    container: u16,
}

impl Name {
    #[inline]
    pub(super) fn new(container: Option<u16>, name: &[u8]) -> Option<Name> {
        let mut words = [0; 4];
        match name.len() {
            1..=8 => words[0] = lower(load(name)),
            9..=32 => {
                words.iter_mut().zip(name.chunks(8)).for_each(|(word, bytes)| *word = lower(load(bytes)))
            }
            _ => return None,
        }
        Some(Name { words, len: name.len() as u8, container: container.map_or(0, |at| at + 1) })
    }

    #[inline]
    pub(super) fn hash(&self) -> usize {
        let [a, b, c, d] = self.words;
        let all = a ^ b.rotate_left(21) ^ c.rotate_left(42) ^ d.rotate_left(11) ^ u64::from(self.container);
        spread(all)
    }
}

/// Names of up to eight bytes, which nearly all are, by one word each: open addressing, at most
/// half full.
#[derive(Clone, Debug)]
pub(super) struct Shorts<T>(Vec<Short<T>>);

/// A short name in lower case, its length (0 when the place is free) and what it stands for.
#[derive(Clone, Copy, Debug, Default)]
struct Short<T> {
    word: u64,
    /// Bits in which a name may not differ: all but the one that makes a letter a capital.
    fixed: u64,
    len: u32,
    what: T,
}

impl<T> Default for Shorts<T> {
    fn default() -> Shorts<T> {
        Shorts(Vec::new())
    }
}

impl<T: Copy + Default> Shorts<T> {
    /// The short ones of these names in lower case, each with what it stands for.
    pub(super) fn new<'a>(names: impl ExactSizeIterator<Item = (T, &'a [u8])>) -> Shorts<T> {
        let mut places = vec![Short::default(); (names.len() * 2).next_power_of_two()];
        for (what, name) in names.filter(|(_, name)| (1..=8).contains(&name.len())) {
            let word = load(name);
            let capitals = word ^ load(&name.to_ascii_uppercase());
            let mut place = spread(word | CASE) & (places.len() - 1);
            while places[place].len != 0 {
                place = (place + 1) & (places.len() - 1);
            }
            places[place] = Short { word, fixed: !capitals, len: name.len() as u32, what };
        }
        Shorts(places)
    }

    /// What a name in any case stands for: its bytes as one word, the first one lowest, and how many
    /// they are.
    #[inline(always)]
    pub(super) fn find(&self, (word, len): (u64, u32)) -> Option<T> {
        let mut place = spread(word | CASE);
        loop {
            let short = self.0.get(place & self.0.len().wrapping_sub(1))?;
            if (short.word ^ word) & short.fixed == 0 && short.len == len {
                return Some(short.what);
            }
            if short.len == 0 {
                return None;
            }
            place += 1;
        }
    }
}

/// The bit that makes a letter small, in each byte.
const CASE: u64 = 0x2020_2020_2020_2020;

/// Fibonacci hashing (Knuth, TAOCP 3, 6.4): the high bits of a product with the golden ratio.
#[inline]
fn spread(word: u64) -> usize {
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

/// One to eight bytes as one word, the first one lowest.
#[inline]
fn load(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    // Where the pieces overlap they say the same.
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (low, high) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
        return u64::from(low) | u64::from(high) << (8 * (len - 4));
    }
    let byte = |at: usize| u64::from(bytes[at]) << (8 * at);
    byte(0) | byte(len / 2) | byte(len - 1)
}

/// Eight bytes in lower case. A byte without its top bit passes 127 when enough is added to it,
/// which tells those from `A` on and those behind `Z`.
#[inline]
fn lower(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (EACH * 0x7f);
    let from_a = low + EACH * (0x80 - b'A' as u64);
    let behind_z = low + EACH * (0x80 - b'Z' as u64 - 1);
    let capitals = (from_a ^ behind_z) & !word & (EACH * 0x80);
    word | capitals >> 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Eight bytes at once become what one byte after the other becomes.
        #[test]
        fn lower_case_a_word_at_a_time(bytes in prop::collection::vec(any::<u8>(), 1..=8)) {
            let small: Vec<u8> = bytes.iter().map(u8::to_ascii_lowercase).collect();
            prop_assert_eq!(lower(load(&bytes)), load(&small));
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(&bytes);
            prop_assert_eq!(load(&bytes), u64::from_le_bytes(padded));
        }

        /// Each name is found in any case, and nothing else is: not its beginning, nor the name with
        /// a NUL behind it.
        #[test]
        fn names_are_found(names in prop::collection::hash_set("[a-z.]{1,10}", 0..60), other in "[a-z.]{1,10}") {
            let names: Vec<String> = names.into_iter().collect();
            let shorts = Shorts::new(names.iter().map(String::as_bytes).enumerate());
            let find = |name: &[u8]| {
                let is_short = (1..=8).contains(&name.len());
                is_short.then(|| shorts.find((load(name), name.len() as u32))).flatten()
            };
            for (at, name) in names.iter().enumerate() {
                let expected = (name.len() <= 8).then_some(at);
                prop_assert_eq!(find(name.to_ascii_uppercase().as_bytes()), expected);
                prop_assert_eq!(find([name.as_bytes(), b"\0"].concat().as_slice()), None);
            }
            let known = names.iter().position(|name| *name == other && name.len() <= 8);
            prop_assert_eq!(find(other.as_bytes()), known);
            prop_assert_eq!(find(b""), None);
        }
    }
}
