//! Redis's glob patterns: `*`, `?`, `[a-z]`, `[^a]` and `\` before a byte that stands for itself.

/// Bytes of a pattern for names that ringway knows, the longest of which has 32.
pub(super) const BYTES_MAX: usize = 256;

/// What is said to a longer one.
pub(super) const TOO_LONG: &str = "ERR a pattern has at most 256 bytes here";

/// Whether the text matches the pattern. Commands for which `*` alone means everything, as `KEYS`,
/// look at that themselves. Takes at most pattern x text steps, whatever the pattern.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if text.is_empty() {
        // Redis does not look at the pattern of an empty text: not even stars match it.
        return pattern.is_empty();
    }
    let (mut p, mut t) = (pattern, text);
    // Where to go on after the last star: behind it, with one byte more of the text under it.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', mut after)) = p.split_first() {
            // Several are one.
            while let Some((b'*', further)) = after.split_first() {
                after = further;
            }
            retry = Some((after, t));
            p = after;
            continue;
        }
        let matched = match (p.is_empty(), t.split_first()) {
            (true, None) => return true,
            (false, Some((byte, rest))) => one(p, *byte, ignore_case).map(|after| (after, rest)),
            _ => None,
        };
        if let Some(next) = matched {
            (p, t) = next;
            continue;
        }
        match retry {
            Some((after, [_, rest @ ..])) => {
                (p, t) = (after, rest);
                retry = Some((after, rest));
            }
            _ => return false,
        }
    }
}

/// The pattern behind its first item, if that item matches the byte. The pattern is not empty and
/// does not begin with a star.
fn one(pattern: &[u8], byte: u8, ignore_case: bool) -> Option<&[u8]> {
    let same = |a: u8| a == byte || ignore_case && a.eq_ignore_ascii_case(&byte);
    match pattern {
        [b'?', after @ ..] => Some(after),
        [b'[', after @ ..] => class(after, byte, ignore_case),
        [b'\\', escaped, after @ ..] => same(*escaped).then_some(after),
        [plain, after @ ..] => same(*plain).then_some(after),
        [] => None,
    }
}

/// The pattern behind the `]` of a class whose `[` was read; a class without `]` goes to the end.
fn class(mut pattern: &[u8], byte: u8, ignore_case: bool) -> Option<&[u8]> {
    let fold = |b: u8| if ignore_case { b.to_ascii_lowercase() } else { b };
    let byte = fold(byte);
    let negated = pattern.first() == Some(&b'^');
    if negated {
        pattern = &pattern[1..];
    }
    let mut found = false;
    let after = loop {
        match pattern {
            [] => break pattern,
            [b']', after @ ..] => break after,
            [b'\\', escaped, after @ ..] => {
                found |= fold(*escaped) == byte;
                pattern = after;
            }
            [from, b'-', to, after @ ..] => {
                let (from, to) = (fold(*from), fold(*to));
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                pattern = after;
            }
            [plain, after @ ..] => {
                found |= fold(*plain) == byte;
                pattern = after;
            }
        }
    };
    (found != negated).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stars, classes, ranges, negations and escapes match what they match in Redis.
    #[test]
    fn a_table_of_patterns() {
        for (pattern, text, expected) in [
            ("*", "", false),
            ("*", "abc", true),
            ("", "", true),
            ("", "a", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[\\]]", "]", true),
            ("[ab", "b", true),
            ("max*", "MAXmemory", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes(), false), expected, "{pattern} {text}");
        }
        assert!(matches(b"max[M]*", b"MAXmemory", true));
    }

    /// A pattern made to be slow is not.
    #[test]
    fn many_stars_are_not_slow() {
        let (pattern, text) = (b"a*".repeat(2000), b"a".repeat(20_000));
        assert!(!matches(&[&pattern[..], b"b"].concat(), &text, false));
    }
}
