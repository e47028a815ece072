//! Glob patterns as `KEYS`, `SCAN MATCH`, `CONFIG GET` and `COMMAND LIST` have them: `*`, `?`,
//! `[abc]`, `[a-z]`, `[^x]`, and `\` before a character that stands for itself.

/// Whether all of `text` matches, bytes compared as they are.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    search(pattern, text, |byte| byte)
}

/// Whether all of `text` matches, ASCII letters compared without case.
pub fn matches_any_case(pattern: &[u8], text: &[u8]) -> bool {
    search(pattern, text, |byte| byte.to_ascii_lowercase())
}

/// Only the last `*` is ever tried again, so the work is at most the product of both lengths.
fn search(pattern: &[u8], text: &[u8], fold: fn(u8) -> u8) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
        } else if let Some(used) = one(&pattern[p..], text[t], fold) {
            p += used;
            t += 1;
        } else if let Some((after, from)) = star {
            (p, t) = (after, from + 1);
            star = Some((after, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// How much of the pattern this byte matches.
fn one(pattern: &[u8], byte: u8, fold: fn(u8) -> u8) -> Option<usize> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ..] => class(pattern, fold(byte), fold),
        [b'\\', escaped, ..] => (fold(escaped) == fold(byte)).then_some(2),
        [literal, ..] => (fold(literal) == fold(byte)).then_some(1),
    }
}

/// `[...]`; one that is not closed ends with the pattern, as in Redis.
fn class(pattern: &[u8], byte: u8, fold: fn(u8) -> u8) -> Option<usize> {
    let negated = pattern.get(1) == Some(&b'^');
    let mut at = 1 + usize::from(negated);
    let mut found = false;
    loop {
        match pattern[at.min(pattern.len())..] {
            [] => break,
            [b'\\', escaped, ..] => {
                found |= fold(escaped) == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [a, b'-', z, ..] => {
                let (a, z) = (fold(a.min(z)), fold(a.max(z)));
                found |= (a..=z).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= fold(literal) == byte;
                at += 1;
            }
        }
    }
    (found != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Patterns match what they match in Redis.
    #[test]
    fn a_table_of_patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("a?c", "abc", true),
            ("a?", "a", false),
            ("[ab]x", "bx", true),
            ("[^ab]x", "bx", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("\\*a", "*a", true),
            ("\\*a", "ba", false),
            ("[\\]]", "]", true),
            ("[ab", "b", true),
            ("a\\", "a\\", true),
            ("ABC", "abc", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(matches_any_case(b"XR[E-F]*", b"xread"));
    }

    /// Many stars cost no more than the product of the lengths; if each tried each place, this
    /// would not end.
    #[test]
    fn hostile_patterns_are_cheap() {
        let (pattern, text) = ("*a".repeat(2000) + "b", "a".repeat(20_000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }

    proptest! {
        /// No pattern panics, and an escaped text matches itself.
        #[test]
        fn any_pattern(pattern in prop::collection::vec(any::<u8>(), 0..20), text in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = matches(&pattern, &text);
            let escaped: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&escaped, &text));
        }
    }
}
