//! Numbers with a 64-bit mantissa, x86's extended precision: what `INCRBYFLOAT` counts in. Redis
//! uses C's `long double` there, and with `f64` the replies would differ from the third sum on.

/// The digits of an argument that count; more are cut off.
const DIGITS_MAX: u32 = 37;

/// Decimals of a result, before trailing zeros are cut.
const DECIMALS: usize = 17;

/// A number: mantissa x 2^exponent. The mantissa has its top bit set, or is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

/// Why a text is no number here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFinite {
    /// It is not a number at all.
    Malformed,
    /// Infinite, or 2^127 and more.
    TooLarge,
}

impl Extended {
    /// Reads a decimal number: sign, digits, decimals, exponent.
    ///
    /// # Errors
    /// [`NotFinite`].
    pub(super) fn parse(text: &[u8]) -> Result<Extended, NotFinite> {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
            return Err(NotFinite::TooLarge);
        }
        let (digits, decimals) = decimal(text).ok_or(NotFinite::Malformed)?;
        from_decimal(negative, digits, decimals)
    }

    /// The sum, rounded to nearest, ties to even.
    ///
    /// # Errors
    /// [`NotFinite::TooLarge`].
    pub(super) fn plus(self, other: Extended) -> Result<Extended, NotFinite> {
        let (big, small) = if (self.mantissa == 0, other.exponent) > (other.mantissa == 0, self.exponent) {
            (other, self)
        } else {
            (self, other)
        };
        // 62 bits below the larger mantissa, and what falls below these as one sticky bit.
        let apart = big.exponent.saturating_sub(small.exponent) as u32;
        let wide = u128::from(small.mantissa) << 62;
        let shifted = wide.checked_shr(apart).unwrap_or(0);
        let lost = small.mantissa != 0 && (apart > 127 || shifted << apart != wide);
        let small_sum = (shifted | u128::from(lost)) as i128;
        let big_sum = (u128::from(big.mantissa) << 62) as i128;
        let sign = |negative, n: i128| if negative { -n } else { n };
        let sum = sign(big.negative, big_sum) + sign(small.negative, small_sum);
        round(sum < 0, sum.unsigned_abs(), big.exponent - 62)
    }

    /// The number as Redis writes it: 17 decimals, trailing zeros cut, never `-0`.
    pub(super) fn text(self) -> String {
        let sign = if self.negative { "-" } else { "" };
        if self.exponent >= 0 {
            let n = u128::from(self.mantissa) << self.exponent;
            return if n == 0 { "0".to_owned() } else { format!("{sign}{n}") };
        }
        // 2^64 x 10^17 is below 2^121.
        let one = 10u128.pow(DECIMALS as u32);
        let scaled = u128::from(self.mantissa) * one;
        let shift = self.exponent.unsigned_abs();
        let floor = scaled.checked_shr(shift).unwrap_or(0);
        let rest = scaled - floor.checked_shl(shift).unwrap_or(0);
        let half = 1u128.checked_shl(shift - 1).unwrap_or(u128::MAX);
        let n = floor + u128::from(rest > half || (rest == half && floor % 2 == 1));
        let digits = format!("{}.{:0width$}", n / one, n % one, width = DECIMALS);
        let trimmed = digits.trim_end_matches('0').trim_end_matches('.');
        if n == 0 { "0".to_owned() } else { format!("{sign}{trimmed}") }
    }
}

/// Reads digits, decimals and exponent: the value is the first x 10^-second.
fn decimal(text: &[u8]) -> Option<(u128, i64)> {
    let (number, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&text[..at], exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (whole, part) = match number.iter().position(|b| *b == b'.') {
        Some(at) => (&number[..at], &number[at + 1..]),
        None => (number, &[][..]),
    };
    if whole.len() + part.len() == 0 {
        return None;
    }
    let mut digits = 0u128;
    let mut decimals = part.len() as i64;
    for byte in whole.iter().chain(part) {
        if !byte.is_ascii_digit() {
            return None;
        }
        if digits < 10u128.pow(DIGITS_MAX - 1) {
            digits = digits * 10 + u128::from(byte - b'0');
        } else {
            decimals -= 1;
        }
    }
    Some((digits, decimals - exponent))
}

fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let mut n = 0i64;
    for byte in digits {
        n = n.saturating_mul(10).saturating_add(i64::from(byte.is_ascii_digit().then(|| byte - b'0')?));
    }
    // C's reader calls it out of range from 4933 on.
    (!digits.is_empty() && n < 4933).then_some(if negative { -n } else { n })
}

/// digits x 10^-decimals, rounded once.
fn from_decimal(negative: bool, mut digits: u128, mut decimals: i64) -> Result<Extended, NotFinite> {
    while decimals < 0 && digits != 0 {
        digits = digits.checked_mul(10).ok_or(NotFinite::TooLarge)?;
        decimals += 1;
    }
    // What has more decimals than this is nothing beside the 17 that are written.
    while digits != 0 && (decimals > i64::from(DIGITS_MAX) || (decimals > 0 && digits.is_multiple_of(10))) {
        digits /= 10;
        decimals -= 1;
    }
    if digits == 0 {
        return round(negative, 0, 0);
    }
    let divisor = 10u128.pow(decimals as u32);
    let (mut bits, mut rest, mut exponent) = (digits / divisor, digits % divisor, 0);
    // Long division, a bit at a time, until there are more bits than the mantissa has.
    while rest != 0 && bits < 1 << 66 {
        rest *= 2;
        bits = bits << 1 | u128::from(rest >= divisor);
        rest -= if rest >= divisor { divisor } else { 0 };
        exponent -= 1;
    }
    round(negative, bits | u128::from(rest != 0), exponent)
}

/// bits x 2^exponent as the nearest number; the lowest bit may stand for all below it.
fn round(negative: bool, bits: u128, exponent: i32) -> Result<Extended, NotFinite> {
    if bits == 0 {
        return Ok(Extended { negative, mantissa: 0, exponent: 0 });
    }
    let excess = 64 - bits.leading_zeros() as i32;
    let (mut mantissa, mut exponent) = (bits, exponent + excess);
    if excess <= 0 {
        mantissa <<= -excess;
    } else {
        let (floor, rest, half) = (bits >> excess, bits & ((1 << excess) - 1), 1 << (excess - 1));
        mantissa = floor + u128::from(rest > half || (rest == half && floor % 2 == 1));
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            exponent += 1;
        }
    }
    if exponent >= 64 {
        return Err(NotFinite::TooLarge);
    }
    Ok(Extended { negative, mantissa: mantissa as u64, exponent })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(a: &str, b: &str) -> Result<String, NotFinite> {
        Ok(Extended::parse(a.as_bytes())?.plus(Extended::parse(b.as_bytes())?)?.text())
    }

    /// Sums are those that Redis 7.0 on x86 gives, noise in the last digits included.
    #[test]
    fn a_table_of_sums() {
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.1", "0.1", "10.2"),
            ("3001.1", "0", "3001.10000000000000009"),
            ("5.0e3", "2.0e2", "5200"),
            ("-1.5", "1.5", "0"),
            ("1", "-1e-30", "1"),
            ("0", "-1e-30", "0"),
            ("1e18", "0.5", "1000000000000000000.5"),
            (".5", "+1.", "1.5"),
        ] {
            assert_eq!(sum(a, b).as_deref(), Ok(expected), "{a} + {b}");
        }
    }

    /// What is no finite number is told apart.
    #[test]
    fn a_table_of_refusals() {
        for bad in
            ["", "-", ".", "1e", "e1", "1.2.3", "--1", "1 ", " 1", "nan", "1e4933", "1e99999999999999999999"]
        {
            assert_eq!(Extended::parse(bad.as_bytes()), Err(NotFinite::Malformed), "{bad}");
        }
        for large in ["inf", "-Infinity", "1e40"] {
            assert_eq!(Extended::parse(large.as_bytes()), Err(NotFinite::TooLarge), "{large}");
        }
        assert_eq!(sum("1.7e38", "1e37"), Err(NotFinite::TooLarge));
    }

    proptest! {
        /// Whole numbers below 2^63 are exact.
        #[test]
        fn whole_numbers_are_exact(a in any::<i64>(), b in any::<i64>()) {
            let exact = i128::from(a / 2) + i128::from(b / 2);
            prop_assert_eq!(sum(&(a / 2).to_string(), &(b / 2).to_string()), Ok(exact.to_string()));
        }

        /// A sum is as near to the true one as f64's, and it does not matter which comes first.
        #[test]
        fn near_the_truth(a in -1e15..1e15f64, b in -1e3..1e3f64) {
            let ours = sum(&a.to_string(), &b.to_string()).expect("finite");
            prop_assert_eq!(&ours, &sum(&b.to_string(), &a.to_string()).expect("finite"));
            let ours: f64 = ours.parse().expect("a number");
            prop_assert!((ours - (a + b)).abs() <= (a + b).abs() * f64::EPSILON, "{ours} {}", a + b);
        }

        /// No text makes it panic.
        #[test]
        fn any_text(a in "[-+0-9.eE]{0,60}", b in "[-+]?[0-9]{0,40}[.]?[0-9]{0,40}(e-?[0-9]{1,5})?") {
            let _ = sum(&a, &b);
        }
    }
}
