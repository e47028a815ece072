//! twemproxy's hash functions, bit for bit, with the habits that its users' keys depend on.
//!
//! Five of them (and one case of `hsieh`) widen C's `char` to 32 bits: on x86 a byte above 127
//! becomes negative, on ARM it does not. All read words in little-endian order.

use md5::{Digest, Md5};

use super::CRC16;
use crate::ring::CharSign;

/// A `char` of C widened to 32 bits.
#[inline]
fn widen(byte: u8, sign: CharSign) -> u32 {
    match sign {
        CharSign::X86 => byte as i8 as u32,
        CharSign::Arm => u32::from(byte),
    }
}

/// The 32-bit word number `word` (0 to 3) of the MD5 digest: the hash `md5` with word 0, and
/// ketama's points with each of them.
pub(in crate::ring) fn md5(key: &[u8], word: usize) -> u32 {
    let digest: [u8; 16] = Md5::digest(key).into();
    u32::from_le_bytes(digest.as_chunks::<4>().0[word])
}

/// Bob Jenkins's one-at-a-time.
pub(super) fn one_at_a_time(key: &[u8], sign: CharSign) -> u32 {
    let mut hash = 0u32;
    for &byte in key {
        hash = hash.wrapping_add(widen(byte, sign));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// CRC-16/XMODEM in a register of 32 bits that is never masked.
pub(super) fn crc16(key: &[u8]) -> u32 {
    key.iter().fold(0, |crc: u32, &b| crc << 8 ^ u32::from(CRC16[usize::from((crc >> 8) as u8 ^ b)]))
}

/// Bits 16 to 30 of the CRC-32, as libmemcached returns them.
pub(super) fn crc32(key: &[u8]) -> u32 {
    crc32a(key) >> 16 & 0x7fff
}

/// The CRC-32 of zlib and Ethernet.
pub(super) fn crc32a(key: &[u8]) -> u32 {
    !key.iter().fold(!0, |crc: u32, &b| crc >> 8 ^ CRC32[usize::from(crc as u8 ^ b)])
}

const FNV_64_START: u32 = 0xcbf2_9ce4_8422_2325_u64 as u32;
const FNV_64_PRIME: u32 = 0x0000_0100_0000_01b3_u64 as u32;
const FNV_32_START: u32 = 0x811c_9dc5;
const FNV_32_PRIME: u32 = 0x0100_0193;

/// Only the low half of the 64 bits is returned, and the high half never reaches it.
pub(super) fn fnv1_64(key: &[u8], sign: CharSign) -> u32 {
    fnv1(FNV_64_START, FNV_64_PRIME, key, sign)
}

pub(super) fn fnv1a_64(key: &[u8], sign: CharSign) -> u32 {
    fnv1a(FNV_64_START, FNV_64_PRIME, key, sign)
}

pub(super) fn fnv1_32(key: &[u8], sign: CharSign) -> u32 {
    fnv1(FNV_32_START, FNV_32_PRIME, key, sign)
}

pub(super) fn fnv1a_32(key: &[u8], sign: CharSign) -> u32 {
    fnv1a(FNV_32_START, FNV_32_PRIME, key, sign)
}

fn fnv1(start: u32, prime: u32, key: &[u8], sign: CharSign) -> u32 {
    key.iter().fold(start, |hash, &b| hash.wrapping_mul(prime) ^ widen(b, sign))
}

fn fnv1a(start: u32, prime: u32, key: &[u8], sign: CharSign) -> u32 {
    key.iter().fold(start, |hash, &b| (hash ^ widen(b, sign)).wrapping_mul(prime))
}

/// Paul Hsieh's SuperFastHash, started at 0 instead of the length.
pub(super) fn hsieh(key: &[u8], sign: CharSign) -> u32 {
    let half = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]));
    let (words, tail) = key.as_chunks::<4>();
    let mut hash = 0u32;
    for &[a, b, c, d] in words {
        hash = hash.wrapping_add(half(a, b));
        hash = hash << 16 ^ half(c, d) << 11 ^ hash;
        hash = hash.wrapping_add(hash >> 11);
    }
    match *tail {
        [a, b, c] => {
            hash = hash.wrapping_add(half(a, b));
            hash ^= hash << 16;
            hash ^= widen(c, sign) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [a, b] => {
            hash = hash.wrapping_add(half(a, b));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [a] => {
            hash = hash.wrapping_add(u32::from(a));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

/// Austin Appleby's MurmurHash2, seeded with the length times 0xdeadbeef.
pub(super) fn murmur(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = key.len() as u32;
    let mut hash = length.wrapping_mul(0xdead_beef) ^ length;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let k = u32::from_le_bytes(*word).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (k ^ k >> 24).wrapping_mul(M);
    }
    if !tail.is_empty() {
        hash = (hash ^ little_endian(tail)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

/// Bob Jenkins's lookup3 (`hashlittle`) with the initial value 13.
pub(super) fn jenkins(key: &[u8]) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(key.len() as u32).wrapping_add(13);
    let [mut a, mut b, mut c] = [start; 3];
    let mut rest = key;
    while rest.len() > 12 {
        (a, b, c) = jenkins_add((a, b, c), &rest[..12]);
        (a, b, c) = jenkins_mix(a, b, c);
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return c;
    }
    (a, b, c) = jenkins_add((a, b, c), rest);
    jenkins_final(a, b, c)
}

/// Adds up to 12 bytes, as three little-endian words padded with zeros.
fn jenkins_add((a, b, c): (u32, u32, u32), bytes: &[u8]) -> (u32, u32, u32) {
    let word = |i: usize| little_endian(bytes.get(i..bytes.len().min(i + 4)).unwrap_or_default());
    (a.wrapping_add(word(0)), b.wrapping_add(word(4)), c.wrapping_add(word(8)))
}

fn jenkins_mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(first);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(second);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(third);
        b = b.wrapping_add(a);
    }
    (a, b, c)
}

fn jenkins_final(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// Up to four bytes as a little-endian word padded with zeros.
fn little_endian(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, &b| word << 8 | u32::from(b))
}

/// The table of the reflected polynomial 0xedb88320.
const CRC32: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};
