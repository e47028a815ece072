//! Looking for the ends of lines and words, eight bytes at a time.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The place of the first byte that is a blank or a control character (0 to 0x20), from `at` on;
/// the end of the bytes when there is none.
#[inline]
pub(super) fn word_end(bytes: &[u8], mut at: usize) -> usize {
    let ends = |word: u64| word.wrapping_sub(ONES * 0x21) & !word & HIGHS;
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        // The lowest mark is right: a borrow spoils only the bytes above it.
        let marks = ends(u64::from_le_bytes(*word));
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let left = bytes.len().saturating_sub(at);
    match bytes.last_chunk() {
        // The last eight bytes without those in front; the zeros that come in end a word at the end.
        Some(word) if left > 0 => {
            let marks = ends(u64::from_le_bytes(*word) >> (8 * (8 - left)));
            at + (marks.trailing_zeros() / 8) as usize
        }
        _ => at + bytes[bytes.len() - left..].iter().take_while(|b| **b > b' ').count(),
    }
}

/// The place of the first line feed from `at` on.
#[inline]
pub(super) fn line_feed(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(word) = bytes.get(at..)?.first_chunk() {
        let word = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64);
        let zeros = word.wrapping_sub(ONES) & !word & HIGHS;
        if zeros != 0 {
            return Some(at + (zeros.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes[at..].iter().position(|b| *b == b'\n').map(|i| at + i)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both searches find what a plain loop finds, at every place.
    #[test]
    fn as_a_plain_loop_finds_it() {
        let mut bytes = vec![b'x'; 40];
        for (i, special) in
            [0, b' ', b'\n', b'\r', b'!', 0x1f, 0x80, 0xff, b'\t', 0xa0].iter().cycle().enumerate().take(390)
        {
            bytes[i % 40] = *special;
            for at in 0..=bytes.len() {
                let word = bytes[at..].iter().position(|b| *b <= b' ').map_or(bytes.len(), |n| at + n);
                assert_eq!(word_end(&bytes, at), word, "{bytes:?} {at}");
                let line = bytes[at..].iter().position(|b| *b == b'\n').map(|n| at + n);
                assert_eq!(line_feed(&bytes, at), line, "{bytes:?} {at}");
            }
            bytes[(i * 7 + 3) % 40] = b'k';
        }
    }
}
