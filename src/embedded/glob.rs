//! Patterns of `KEYS` and `SCAN`: `*`, `?`, `[a-z]`, `[^a-z]` and `\`, as Redis reads them.

/// Whether a pattern matches all of a text. Takes at most their lengths multiplied: only the last
/// `*` is ever tried again, for an earlier one can take nothing that a later one could not.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut at) = (pattern, 0);
    let mut retry: Option<(&[u8], usize)> = None;
    while at < text.len() {
        if let [b'*', after @ ..] = rest {
            if after.is_empty() {
                return true;
            }
            retry = Some((after, at));
            rest = after;
            continue;
        }
        match (one(rest, text[at]), retry) {
            (Some(after), _) => {
                rest = after;
                at += 1;
            }
            (None, Some((after_star, from))) => {
                retry = Some((after_star, from + 1));
                rest = after_star;
                at = from + 1;
            }
            (None, None) => return false,
        }
    }
    // Redis does not look at the pattern of an empty text: `**` does not match it.
    rest.is_empty() || (!text.is_empty() && rest.iter().all(|b| *b == b'*'))
}

/// What follows in the pattern if its first element, which is not `*`, matches the byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', after @ ..] => Some(after),
        [b'[', class @ ..] => {
            let (found, after) = class_has(class, byte);
            found.then_some(after)
        }
        [b'\\', literal, after @ ..] | [literal, after @ ..] => (*literal == byte).then_some(after),
    }
}

/// Whether the class that begins here has the byte, and what follows it. One that does not close
/// ends with the pattern.
fn class_has(class: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match class {
        [b'^', after @ ..] => (true, after),
        _ => (false, class),
    };
    let mut found = false;
    loop {
        match rest {
            [] => return (found != negated, rest),
            [b'\\', literal, after @ ..] => {
                found |= *literal == byte;
                rest = after;
            }
            [b']', after @ ..] => return (found != negated, after),
            [a, b'-', b, after @ ..] => {
                // Redis compares C's plain `char`, which is signed on x86.
                let (a, b, c) = (*a as i8, *b as i8, byte as i8);
                found |= (a.min(b)..=a.max(b)).contains(&c);
                rest = after;
            }
            [literal, after @ ..] => {
                found |= *literal == byte;
                rest = after;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    /// Each pattern matches what Redis says that it matches.
    #[test]
    fn a_table_of_patterns() {
        for (pattern, text, expected) in [
            ("*", "abc", true),
            ("", "", true),
            ("", "a", false),
            ("**", "", false),
            ("a*", "a", true),
            ("a**", "a", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbcd", false),
            ("*a*b*", "xxaxxbxx", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("[a-c]", "b", true),
            ("[c-a]", "b", true),
            ("[a-c]", "d", false),
            ("[a-]", "]", true),
            ("[\\]]", "]", true),
            ("[abc", "c", true),
            ("[", "a", false),
            ("[^", "a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("*[0-9]", "key:7", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} on {text}");
        }
    }

    /// A pattern made to be slow is not.
    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(1000) + "b";
        let text = "a".repeat(10_000);
        let begun = Instant::now();
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    /// The obvious matcher for stars, marks and letters, exponential as it is.
    fn obvious(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|i| obvious(rest, &text[i..])),
            ([b'?', rest @ ..], [_, text @ ..]) => obvious(rest, text),
            ([p, rest @ ..], [t, text @ ..]) => p == t && obvious(rest, text),
            _ => false,
        }
    }

    proptest! {
        /// Trying only the last star again loses no match.
        #[test]
        fn the_last_star_is_enough(pattern in "[ab?*]{0,8}", text in "[ab]{1,10}") {
            prop_assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                obvious(pattern.as_bytes(), text.as_bytes())
            );
        }

        /// No bytes make it panic.
        #[test]
        fn any_bytes(pattern in prop::collection::vec(any::<u8>(), 0..40), text in prop::collection::vec(any::<u8>(), 0..40)) {
            matches(&pattern, &text);
        }
    }
}
