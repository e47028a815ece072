//! Inline requests: a line of words, as a person types it.

/// Splits an inline request as Redis's `sdssplitargs` does: white space, "..." with escapes,
/// '...' with `\'`. `None` for quotes that do not close or are followed by text.
pub(super) fn split_inline(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut args = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(args);
        }
        let mut arg = Vec::new();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'"' => rest = quoted(rest, &mut arg)?,
                b'\'' => rest = single_quoted(rest, &mut arg)?,
                0 | b' ' | b'\n' | b'\r' | b'\t' => break,
                _ => arg.push(byte),
            }
        }
        args.push(arg);
    }
}

/// After a closing quote only white space or the end may stand.
fn after_quote(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

fn quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'x', h, l, after @ ..] if h.is_ascii_hexdigit() && l.is_ascii_hexdigit() => {
                let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
                arg.push(digit(*h) << 4 | digit(*l));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                arg.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return after_quote(after),
            [byte, after @ ..] => {
                arg.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'\'', after @ ..] => {
                arg.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return after_quote(after),
            [byte, after @ ..] => {
                arg.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}
