//! Numbers as memcached 1.6.18 reads them, with C's `strtol`; and the plain ones that every version
//! reads alike.

/// A number from 0 to `max` in decimal digits. Leading zeros are allowed in ten digits, and in 20 for 64
/// bits: newer servers read no more.
#[inline]
pub(super) fn plain(text: &[u8], max: u64) -> Option<u64> {
    let digits_max = if max > u64::from(u32::MAX) { 20 } else { 10 };
    if text.is_empty() || text.len() > digits_max {
        return None;
    }
    let (head, tail) = text.split_at(text.len().min(19));
    let mut n = 0u64;
    for byte in head {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Nineteen digits always fit.
        n = n * 10 + u64::from(digit);
    }
    if let [byte] = tail {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        n = n.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    (n <= max).then_some(n)
}

/// The same with a minus sign allowed, for 32 bits.
#[inline]
pub(super) fn plain_signed(text: &[u8]) -> bool {
    plain(text.strip_prefix(b"-").unwrap_or(text), i32::MAX as u64).is_some()
}

/// As `safe_strtol`: 64 bits with a sign, white space in front, anything behind white space.
pub fn signed(text: &[u8]) -> Option<i64> {
    let (negative, magnitude) = magnitude(text)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// As `safe_strtoul` and `safe_strtoull`: a minus sign wraps, and is refused when what comes out
/// would be negative as a signed number.
pub fn unsigned(text: &[u8]) -> Option<u64> {
    let (negative, magnitude) = magnitude(text)?;
    let n = u64::try_from(magnitude).ok()?;
    let n = if negative { n.wrapping_neg() } else { n };
    (n <= i64::MAX as u64 || !text.contains(&b'-')).then_some(n)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

fn magnitude(text: &[u8]) -> Option<(bool, i128)> {
    let start = text.iter().position(|b| !is_space(*b))?;
    let (negative, digits) = match &text[start..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let end = digits.iter().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 || digits.get(end).is_some_and(|b| !is_space(*b)) {
        return None;
    }
    // What saturates is out of every range.
    let n =
        digits[..end].iter().fold(0i128, |n, d| n.saturating_mul(10).saturating_add(i128::from(d - b'0')));
    Some((negative, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signs, blanks and overflow are read as C reads them; what is plain is read alike by both.
    #[test]
    fn a_table_of_numbers() {
        for (text, expected_signed, expected_unsigned, expected_plain) in [
            ("0", Some(0), Some(0), Some(0)),
            ("007", Some(7), Some(7), Some(7)),
            ("-1", Some(-1), None, None),
            ("+5", Some(5), Some(5), None),
            ("\t5", Some(5), Some(5), None),
            ("5\t6", Some(5), Some(5), None),
            ("5x", None, None, None),
            ("", None, None, None),
            ("-", None, None, None),
            ("--1", None, None, None),
            ("4294967296", Some(4294967296), Some(4294967296), Some(4294967296)),
            ("9223372036854775808", None, Some(1 << 63), Some(1 << 63)),
            ("18446744073709551615", None, Some(u64::MAX), Some(u64::MAX)),
            ("18446744073709551616", None, None, None),
            ("-18446744073709551615", None, Some(1), None),
            ("99999999999999999999999999999999999999999999999", None, None, None),
        ] {
            assert_eq!(signed(text.as_bytes()), expected_signed, "{text:?}");
            assert_eq!(unsigned(text.as_bytes()), expected_unsigned, "{text:?}");
            assert_eq!(plain(text.as_bytes(), u64::MAX), expected_plain, "{text:?}");
        }
        assert!(plain_signed(b"-1") && plain_signed(b"2147483647") && !plain_signed(b"2147483648"));
        assert_eq!(plain(b"6", 5), None);
    }
}
