//! WORDS -> VALUES. How a duration, a size, a share, a number and a switch are written. Each
//! reader's error is the end of a sentence that begins with the key.

use std::{ops::RangeInclusive, time::Duration};

const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZES: [(&str, u64); 5] =
    [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Digits followed by one of the units; the number times the unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(word, _)| *word == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// The largest unit that needs no fraction.
fn unscaled(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, scale): &&(&str, u64)| value >= *scale && value.is_multiple_of(*scale);
    let (word, scale) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    format!("{}{word}", value / scale)
}

/// `250ms`, `1s`, `5m`, `1h`, within `bounds`, which are milliseconds.
pub(super) fn duration(bounds: RangeInclusive<u64>) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| {
        let Some(ms) = scaled(text, &DURATIONS) else {
            let unit = if text.parse::<f64>().is_ok() { ": its unit is missing" } else { "" };
            return Err(format!("`{text}` is not a duration{unit}; write 400ms, 2s or 5m"));
        };
        within(ms, &bounds, text, |ms| unscaled(ms, &DURATIONS)).map(Duration::from_millis)
    }
}

/// A duration as [`duration`] reads it, whole milliseconds.
pub(super) fn duration_text(value: Duration) -> String {
    unscaled(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// `4096`, `64KiB`, `512MiB`, `1GiB`, within `bounds`.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl FnOnce(&str) -> Result<usize, String> {
    move |text| {
        let Some(bytes) = scaled(text, &SIZES) else {
            return Err(format!("`{text}` is not a size; write 65536, 64KiB, 512MiB or 1GiB"));
        };
        let bytes = within(bytes, &bounds, text, |b| unscaled(b, &SIZES))?;
        usize::try_from(bytes).map_err(|_| format!("`{text}` is more than this machine can address"))
    }
}

/// A size as [`size`] reads it.
pub(super) fn size_text(bytes: usize) -> String {
    unscaled(bytes as u64, &SIZES)
}

/// `50%` or `12.5%`, as a share of 1.
pub fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').map(str::trim_end);
    // `f64` also reads `inf`, `NaN` and `1e2`: only digits and one point are a percentage.
    let plain = |n: &&str| n.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match number.filter(plain).and_then(|n| n.parse::<f64>().ok()) {
        Some(percent) if percent <= 100.0 => Ok(percent / 100.0),
        Some(_) => Err(format!("`{text}` is more than 100%")),
        None => Err(format!("`{text}` is not a percentage; write 50%")),
    }
}

/// A factor: 0, which switches off what it is for, or 1 to 1000.
pub(super) fn times(text: &str) -> Result<f64, String> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>().ok().filter(|_| plain) {
        Some(factor) if factor == 0.0 || (1.0..=1000.0).contains(&factor) => Ok(factor),
        Some(_) => Err(format!("`{text}` is outside 1 to 1000, and not 0")),
        None => Err(format!("`{text}` is not a factor; write 5")),
    }
}

/// A share as [`share`] reads it.
pub(super) fn share_text(share: f64) -> String {
    // Twelve digits hide the last bit of the multiplication and keep whatever a person wrote.
    let text = format!("{:.12}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A whole number within `bounds`.
pub(super) fn number<T>(bounds: RangeInclusive<T>) -> impl FnOnce(&str) -> Result<T, String>
where
    T: Copy + PartialOrd + std::str::FromStr + std::fmt::Display,
{
    move |text| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("`{text}` is not a whole number"));
        }
        let (low, high) = (bounds.start(), bounds.end());
        let outside = || format!("`{text}` is outside {low} to {high}");
        text.parse().ok().filter(|n| bounds.contains(n)).ok_or_else(outside)
    }
}

/// The mode of a file, in octal digits as `chmod` takes it.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777 && digits.len() >= 3);
    mode.ok_or_else(|| format!("`{text}` is no mode; write its octal digits, as in 0660"))
}

/// The same as it is written.
pub(super) fn mode_text(mode: u32) -> String {
    format!("{mode:04o}")
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither true nor false"))
}

/// One of a table's words.
pub(super) fn word<T: Clone>(table: &[(&'static str, T)], text: &str) -> Result<T, String> {
    choice(table.iter().cloned(), text)
}

/// The one of these values that has this word.
pub(super) fn word_of<T: Clone, const N: usize>(
    all: [T; N],
    word: impl Fn(T) -> &'static str,
    text: &str,
) -> Result<T, String> {
    choice(all.into_iter().map(|value| (word(value.clone()), value)), text)
}

fn choice<T>(table: impl Iterator<Item = (&'static str, T)> + Clone, text: &str) -> Result<T, String> {
    table.clone().find(|(word, _)| *word == text).map(|(_, value)| value).ok_or_else(|| {
        let words: Vec<&str> = table.map(|(word, _)| word).collect();
        format!("`{text}` is not one of {}", words.join(", "))
    })
}

/// A name that stands in log lines, metrics and tab-separated output: no spaces, not too long.
pub(super) fn name(text: &str) -> Result<std::sync::Arc<str>, String> {
    const NAME_MAX: usize = 200;
    match text {
        "" => Err("is empty".to_owned()),
        _ if text.len() > NAME_MAX => Err(format!("is longer than {NAME_MAX} bytes")),
        _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err(format!("`{}` has spaces or control characters in it", text.escape_debug()))
        }
        _ => Ok(text.into()),
    }
}

fn within(
    value: u64,
    bounds: &RangeInclusive<u64>,
    text: &str,
    show: impl Fn(u64) -> String,
) -> Result<u64, String> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(format!("`{text}` is outside {} to {}", show(*bounds.start()), show(*bounds.end())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Durations have a unit, sizes may have a binary one, and both say what they are not.
    #[test]
    fn durations_and_sizes() {
        for (text, ms) in [("250ms", 250), ("1s", 1000), ("5m", 300_000), ("2 s", 2000), ("1h", 3_600_000)] {
            assert_eq!(duration(0..=u64::MAX)(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64KiB", 65536), ("512 MiB", 512 << 20)] {
            assert_eq!(size(0..=u64::MAX)(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "ms", "-1s", "1.5s", "4 parsecs", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            let error = duration(0..=u64::MAX)(text).expect_err(text);
            assert_eq!(error, format!("`{text}` is not a duration; write 400ms, 2s or 5m"));
        }
        let missing = duration(0..=9)("400").expect_err("no unit");
        assert_eq!(missing, "`400` is not a duration: its unit is missing; write 400ms, 2s or 5m");
        for text in ["", "KiB", "1kb", "1MB", "-5", "1e9", "99999999TiB"] {
            assert!(size(0..=u64::MAX)(text).expect_err(text).contains("is not a size"), "{text}");
        }
        let low = duration(1..=3_600_000)("0s").expect_err("out of bounds");
        assert_eq!(low, "`0s` is outside 1ms to 1h");
        let high = size(1024..=1 << 30)("1TiB").expect_err("out of bounds");
        assert_eq!(high, "`1TiB` is outside 1KiB to 1GiB");
    }

    /// Shares are percentages from 0 to 100, with the sign.
    #[test]
    fn shares() {
        assert_eq!((share("50%"), share("12.5 %"), share("0%")), (Ok(0.5), Ok(0.125), Ok(0.0)));
        for text in ["0.5", "", "%", "-1%", "101%", "inf%", "nan%", "1e1%", "1.2.3%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    /// Numbers are digits within their bounds; switches, words and names are what they say.
    #[test]
    fn numbers_switches_words_names() {
        assert_eq!(number(1..=9u32)("7"), Ok(7));
        assert_eq!(number(-9..=9i32)("-7"), Ok(-7));
        assert_eq!(number(1..=9u32)("0"), Err("`0` is outside 1 to 9".to_owned()));
        assert_eq!(number(0..=9u32)("-1"), Err("`-1` is outside 0 to 9".to_owned()));
        assert_eq!(number(0..=9u8)("300"), Err("`300` is outside 0 to 9".to_owned()));
        for text in ["", "-", "1.0", "0x1", "+1", "one"] {
            assert_eq!(number(0..=9u32)(text), Err(format!("`{text}` is not a whole number")));
        }
        assert_eq!((switch("true"), switch("false")), (Ok(true), Ok(false)));
        assert!(switch("yes").is_err());
        assert_eq!(word(&[("a", 1), ("b", 2)], "b"), Ok(2));
        assert_eq!(word(&[("a", 1), ("b", 2)], "c"), Err("`c` is not one of a, b".to_owned()));
        assert!(name("cache-1.example:6379").is_ok());
        for text in ["", "a b", "a\tb", "a\u{7f}", &"x".repeat(300)] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// What is printed is read back as the same value.
        #[test]
        fn printed_is_read_back(ms in 0u64..1 << 40, bytes in 0usize..1 << 50, percent in 0u32..=100_000) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(duration(0..=u64::MAX)(&duration_text(time)), Ok(time));
            prop_assert_eq!(size(0..=u64::MAX)(&size_text(bytes)), Ok(bytes));
            let written = share(&format!("{}.{:03}%", percent / 1000, percent % 1000));
            prop_assert_eq!(share(&share_text(written.clone().expect("is a share"))), written);
        }

        /// No text makes a reader panic.
        #[test]
        fn any_text_is_judged(text in "\\PC{0,20}") {
            let _ = (duration(0..=9)(&text), size(0..=9)(&text), share(&text), number(0..=9u32)(&text), name(&text));
        }
    }
}
