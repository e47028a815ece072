//! Base64 (RFC 4648, 4). How memcached reads it is a matter of [`super::memcache::base64`].

/// What stands for each six bits.
pub const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the bytes as base64.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for three in bytes.chunks(3) {
        let block = three.iter().chain(&[0, 0]).take(3).fold(0, |block, b| block << 8 | usize::from(*b));
        for i in 0..4 {
            let digit = ALPHABET[block >> (18 - 6 * i) & 63];
            out.push(if i <= three.len() { digit } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648, 10, and the alphabet's last letters.
    #[test]
    fn vectors() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"fooba", "Zm9vYmE="),
            (b"foobar", "Zm9vYmFy"),
            (&[0xfb, 0xff, 0xbf], "+/+/"),
        ] {
            let mut out = Vec::new();
            encode(bytes, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }
}
