//! Comparing secrets.

/// Compares in a time that depends on what was given, not on where it goes wrong.
pub(super) fn same(given: &[u8], wanted: &[u8]) -> bool {
    let mut differ = given.len() ^ wanted.len();
    for (i, byte) in given.iter().enumerate() {
        let expected = wanted.get(i % wanted.len().max(1)).copied().unwrap_or(0);
        differ |= usize::from(byte ^ expected);
    }
    std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the very password is the password.
    #[test]
    fn passwords_are_compared_whole() {
        for (given, wanted, expected) in [
            ("secret", "secret", true),
            ("secre", "secret", false),
            ("secrets", "secret", false),
            ("secretsecret", "secret", false),
            ("", "secret", false),
            ("Secret", "secret", false),
            ("", "", true),
            ("x", "", false),
        ] {
            assert_eq!(same(given.as_bytes(), wanted.as_bytes()), expected, "{given:?} {wanted:?}");
        }
    }
}
