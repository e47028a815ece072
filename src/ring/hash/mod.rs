//! KEY -> NUMBER. One table of configuration word, enum and function; hash tags; the finaliser.
//!
//! Every hash here is somebody's: the numbers must be theirs, bit for bit, for ever.

mod twemproxy;

use xxhash_rust::{xxh3::xxh3_64, xxh64::xxh64};

use super::CharSign;

/// Declares the hashes: one row is the enum's variant, the word of the configuration, the
/// number of bits that vary and the function.
macro_rules! hashes {
    ($($(#[$doc:meta])* $kind:ident $word:literal $bits:literal $function:expr;)*) => {
        /// The hash of a key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum HashKind {
            $($(#[$doc])* $kind,)*
        }

        impl HashKind {
            /// All hashes, in the order of the table.
            pub const ALL: &'static [HashKind] = &[$(HashKind::$kind,)*];

            /// The word of the configuration.
            pub const fn word(self) -> &'static str {
                match self { $(HashKind::$kind => $word,)* }
            }

            /// The hash with this word, if there is one.
            pub fn from_word(word: &str) -> Option<HashKind> {
                match word { $($word => Some(HashKind::$kind),)* _ => None }
            }

            /// How many low bits of the number vary; the others are zero.
            pub const fn bits(self) -> u32 {
                match self { $(HashKind::$kind => $bits,)* }
            }

            /// The number, exactly as the program that it comes from computes it.
            #[inline]
            pub fn hash(self, key: &[u8], sign: CharSign) -> u64 {
                match self { $(HashKind::$kind => $function(key, sign),)* }
            }
        }
    };
}

hashes! {
    /// XXH3, 64 bits, seed 0.
    Xxh3_64 "xxh3_64" 64 |key, _| xxh3_64(key);
    /// XXH64, seed 0: Envoy's default for `ring_hash` and `maglev`.
    Xxh64 "xxh64" 64 |key, _| xxh64(key, 0);
    /// MurmurHash2 with 64 bits as in Envoy's Redis proxy.
    Murmur2_64 "murmur2_64" 64 |key, _| murmur2_64(key);
    /// Redis Cluster's CRC16 (XMODEM); its slot is this number modulo 16,384.
    Crc16Cluster "crc16_cluster" 16 |key, _| u64::from(crc16_cluster(key));
    /// twemproxy's `one_at_a_time`.
    OneAtATime "one_at_a_time" 32 |key, sign| u64::from(twemproxy::one_at_a_time(key, sign));
    /// twemproxy's `md5`: the first four bytes of the digest.
    Md5 "md5" 32 |key, _| u64::from(twemproxy::md5(key, 0));
    /// twemproxy's `crc16`, whose register was never cut to 16 bits.
    Crc16 "crc16" 32 |key, _| u64::from(twemproxy::crc16(key));
    /// twemproxy's `crc32`: 15 bits of a CRC-32.
    Crc32 "crc32" 15 |key, _| u64::from(twemproxy::crc32(key));
    /// twemproxy's `crc32a`: the true CRC-32.
    Crc32a "crc32a" 32 |key, _| u64::from(twemproxy::crc32a(key));
    /// twemproxy's `fnv1_64`: the low half of FNV-1 with 64 bits.
    Fnv1_64 "fnv1_64" 32 |key, sign| u64::from(twemproxy::fnv1_64(key, sign));
    /// twemproxy's `fnv1a_64`, its default: FNV-1a in 32 bits with constants of the 64-bit one.
    Fnv1a64 "fnv1a_64" 32 |key, sign| u64::from(twemproxy::fnv1a_64(key, sign));
    /// twemproxy's `fnv1_32`.
    Fnv1_32 "fnv1_32" 32 |key, sign| u64::from(twemproxy::fnv1_32(key, sign));
    /// twemproxy's `fnv1a_32`.
    Fnv1a32 "fnv1a_32" 32 |key, sign| u64::from(twemproxy::fnv1a_32(key, sign));
    /// twemproxy's `hsieh`.
    Hsieh "hsieh" 32 |key, sign| u64::from(twemproxy::hsieh(key, sign));
    /// twemproxy's `murmur`: MurmurHash2 with 32 bits, seeded by the length.
    Murmur "murmur" 32 |key, _| u64::from(twemproxy::murmur(key));
    /// twemproxy's `jenkins`: lookup3.
    Jenkins "jenkins" 32 |key, _| u64::from(twemproxy::jenkins(key));
}

pub(super) use twemproxy::md5 as ketama_point;

/// The part of the key that is hashed: what stands between the first opening byte and the first
/// closing byte after it, or the whole key when one is missing or nothing stands between them.
#[inline(always)]
pub fn tagged(key: &[u8], tag: Option<(u8, u8)>) -> &[u8] {
    let Some((open, close)) = tag else { return key };
    if !holds(key, open) {
        return key;
    }
    key.iter().position(|b| *b == open).map_or(key, |start| inside(key, start, close))
}

/// What stands between the opening byte at `start` and the next closing one.
fn inside(key: &[u8], start: usize, close: u8) -> &[u8] {
    let rest = &key[start + 1..];
    match rest.iter().position(|b| *b == close) {
        None | Some(0) => key,
        Some(end) => &rest[..end],
    }
}

/// Whether a byte is among these, sixteen at a time where there are so many. Most keys have no hash tag.
#[inline(always)]
fn holds(bytes: &[u8], byte: u8) -> bool {
    // Where pieces overlap they say the same.
    if let Some(last) = bytes.last_chunk::<16>() {
        let others = || bytes.as_chunks::<16>().0.iter().any(|sixteen| any(sixteen, byte));
        return any(last, byte) || bytes.len() > 16 && others();
    }
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => any(first, byte) || any(last, byte),
        _ => bytes.contains(&byte),
    }
}

/// The same of so few that they are compared at once.
#[inline(always)]
fn any<const N: usize>(bytes: &[u8; N], byte: u8) -> bool {
    bytes.iter().fold(false, |any, b| any | (*b == byte))
}

/// Spreads a hash of fewer than 64 bits over 64 before `vnode` and `maglev`: the output step of
/// SplitMix64 (Steele, Lea, Flood 2014), a bijection, so no two hashes fall together.
#[inline]
pub fn finalise(hash: u64) -> u64 {
    let mut z = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Austin Appleby's MurmurHash2 for 64 bits in libstdc++'s variant, with libstdc++'s seed.
fn murmur2_64(key: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |v: u64| v ^ (v >> 47);
    let mut hash = SEED ^ (key.len() as u64).wrapping_mul(M);
    let (words, tail) = key.as_chunks::<8>();
    for word in words {
        let data = mix(u64::from_le_bytes(*word).wrapping_mul(M)).wrapping_mul(M);
        hash = (hash ^ data).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let data = tail.iter().rev().fold(0, |data, &b| data << 8 | u64::from(b));
        hash = (hash ^ data).wrapping_mul(M);
    }
    mix(mix(hash).wrapping_mul(M))
}

/// CRC-16/XMODEM: polynomial 0x1021, start 0, no reflection.
fn crc16_cluster(key: &[u8]) -> u16 {
    key.iter().fold(0, |crc, &b| crc << 8 ^ CRC16[usize::from((crc >> 8) as u8 ^ b)])
}

/// The table of polynomial 0x1021, which Redis Cluster and twemproxy share.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = crc << 1 ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes give the numbers that other programs' own tests expect: twemproxy's for "apple",
    /// Envoy's for MurmurHash2 and XXH64, the CRC catalogue's check value, XXH3's of its authors.
    #[test]
    fn known_numbers() {
        let known: &[(&str, &str, u64)] = &[
            ("one_at_a_time", "apple", 2297466611),
            ("md5", "apple", 3195025439),
            ("crc16", "apple", 3662830516),
            ("crc32", "apple", 10542),
            ("crc32a", "apple", 2838417488),
            ("fnv1_32", "apple", 67176023),
            ("fnv1a_32", "apple", 280767167),
            ("fnv1_64", "apple", 473199127),
            ("fnv1a_64", "apple", 1488911807),
            ("hsieh", "apple", 3738850110),
            ("jenkins", "apple", 1442444624),
            ("murmur", "apple", 4142305122),
            ("murmur2_64", "", 6142509188972423790),
            ("murmur2_64", "foo", 9631199822919835226),
            ("murmur2_64", "foo\nbar", 16306510975912980159),
            ("murmur2_64", "lyft", 12847078931730529320),
            ("murmur2_64", "apple and pears", 6366395846167480619),
            ("xxh64", "foo", 3728699739546630719),
            ("xxh64", "", 17241709254077376921),
            ("xxh3_64", "", 0x2d06_8005_38d3_94c2),
            ("crc16_cluster", "123456789", 0x31c3),
            ("crc16_cluster", "", 0),
        ];
        for &(word, key, number) in known {
            let kind = HashKind::from_word(word).expect("the word is in the table");
            assert_eq!(kind.hash(key.as_bytes(), CharSign::X86), number, "{word} of {key:?}");
        }
    }

    /// Every hash has a word of its own that leads back to it, and stays within its bits.
    #[test]
    fn the_table_is_consistent() {
        assert_eq!(HashKind::ALL.len(), 16);
        for (i, &kind) in HashKind::ALL.iter().enumerate() {
            assert_eq!(HashKind::from_word(kind.word()), Some(kind));
            let seen = (0..10_000u32)
                .map(|n| kind.hash(format!("key {n} of {i}").as_bytes(), CharSign::X86))
                .fold(0, |seen, hash| seen | hash);
            assert_eq!(seen, u64::MAX >> (64 - kind.bits()), "{}", kind.word());
        }
        assert_eq!(HashKind::from_word("sha1"), None);
    }

    /// Only the hashes that twemproxy computes over C's `char` depend on its sign, and only for
    /// bytes above 127.
    #[test]
    fn char_sign_matters_where_it_did() {
        let signed = ["one_at_a_time", "fnv1_64", "fnv1a_64", "fnv1_32", "fnv1a_32", "hsieh"];
        for &kind in HashKind::ALL {
            let differs = |key: &[u8]| kind.hash(key, CharSign::X86) != kind.hash(key, CharSign::Arm);
            assert!(!differs(b"abc"), "{}", kind.word());
            assert_eq!(differs(b"ab\xe9"), signed.contains(&kind.word()), "{}", kind.word());
        }
    }

    /// What is hashed is what stands between the first opening and the next closing byte.
    #[test]
    fn tags() {
        let braces = Some((b'{', b'}'));
        let table: &[(&str, &str)] = &[
            ("plain", "plain"),
            ("a{b}c", "b"),
            ("{b}", "b"),
            ("a{b}{c}", "b"),
            ("a{}b{c}", "a{}b{c}"),
            ("a{bc", "a{bc"),
            ("a}b{c}", "c"),
            ("a{{b}}", "{b"),
            ("", ""),
        ];
        for &(key, hashed) in table {
            assert_eq!(tagged(key.as_bytes(), braces), hashed.as_bytes(), "{key}");
        }
        assert_eq!(tagged(b"a{b}c", None), b"a{b}c");
        assert_eq!(tagged(b"a$b$c", Some((b'$', b'$'))), b"b");
    }

    /// The finaliser maps SplitMix64's first state to its first published output.
    #[test]
    fn finaliser_is_splitmix64() {
        assert_eq!(finalise(0), 0xe220_a839_7b1d_cdaf);
    }
}
