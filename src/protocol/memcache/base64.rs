//! Base64 as memcached reads keys: bytes outside of the alphabet are passed over, reading ends at
//! the first padding, and what is not a multiple of four characters is nothing.

use crate::protocol::base64::ALPHABET;

const SKIPPED: u8 = 0x80;

const fn table() -> [u8; 256] {
    let mut table = [SKIPPED; 256];
    let mut i = 0;
    while i < ALPHABET.len() {
        table[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    table[b'=' as usize] = 0;
    table
}

const TABLE: [u8; 256] = table();

/// The bytes that are meant, or `None` for what memcached refuses.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let count = text.iter().filter(|b| TABLE[**b as usize] != SKIPPED).count();
    if count == 0 || !count.is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(count / 4 * 3);
    let (mut block, mut filled, mut padding) = (0u32, 0, 0);
    for byte in text {
        let value = TABLE[*byte as usize];
        if value == SKIPPED {
            continue;
        }
        padding += usize::from(*byte == b'=');
        block = block << 6 | u32::from(value);
        filled += 1;
        if filled == 4 {
            out.extend_from_slice(&block.to_be_bytes()[1..]);
            (block, filled) = (0, 0);
            match padding {
                0 => {}
                1 | 2 => {
                    out.truncate(out.len() - padding);
                    break;
                }
                _ => return None,
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::base64::encode;

    /// What memcached decodes and what it refuses.
    #[test]
    fn a_table_of_keys() {
        for (text, expected) in [
            ("Zm9v", Some(&b"foo"[..])),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("AAEC", Some(&[0, 1, 2])),
            ("Zm9v!!", Some(b"foo")),
            ("Zg==Zg==", Some(b"f")),
            ("+/+/", Some(&[0xfb, 0xff, 0xbf])),
            ("Zm9v=", None),
            ("Zm9", None),
            ("Z===", None),
            ("!!!!", None),
            ("", None),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    /// What is encoded is decoded to what it was.
    #[test]
    fn there_and_back() {
        for len in 0..20u8 {
            let key: Vec<u8> = (0..len).map(|i| i.wrapping_mul(89).wrapping_add(len)).collect();
            let mut text = Vec::new();
            encode(&key, &mut text);
            assert_eq!(decode(&text).unwrap_or_default(), key);
        }
    }
}
