//! The form in which a request goes to a node.
//!
//! Servers from 1.6.40 on read lines with another tokenizer: a blank in front, a NUL or a number with many
//! zeros is nothing to them that has a value behind it, and they read that value as commands, of whoever sent
//! it. So no client's spelling is passed on that two servers could read in two ways.

use std::borrow::Cow;

use super::{Request, number, request::Span, search, verb::Verb};

/// What goes to a node: a request without what would silence the reply, in a form that every memcached
/// reads alike. That is its words with one blank between them, and the client's own bytes where they are
/// just this.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    request: Request<'a>,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    AsItIs,
    /// Without this word and the blank in front of it.
    Without(Span),
    /// Written from the words, but for this one.
    Anew(Option<Span>),
}

impl<'a> Sent<'a> {
    #[inline]
    pub(super) fn as_it_came(request: Request<'a>) -> Sent<'a> {
        Sent { request, form: Form::AsItIs }
    }

    /// Always written anew, without this word.
    pub(super) fn anew(request: Request<'a>, cut: Option<Span>) -> Sent<'a> {
        Sent { request, form: Form::Anew(cut) }
    }

    pub(super) fn request(&self) -> &Request<'a> {
        &self.request
    }

    /// The client's own bytes, if these are sent.
    #[inline]
    pub fn as_it_is(&self) -> Option<&'a [u8]> {
        matches!(self.form, Form::AsItIs).then_some(self.request.frame)
    }

    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let frame = self.request.frame;
        match self.form {
            Form::AsItIs => out.extend_from_slice(frame),
            Form::Without(Span { start, len }) => {
                out.extend_from_slice(&frame[..start as usize - 1]);
                out.extend_from_slice(&frame[(start + len) as usize..]);
            }
            Form::Anew(cut) => self.write_anew(cut, out),
        }
    }

    #[cold]
    fn write_anew(&self, cut: Option<Span>, out: &mut Vec<u8>) {
        let (frame, decoder) = (self.request.frame, self.request.decoder);
        let (words_max, behind): (usize, &[u8]) = match decoder.verb {
            // The word for silence is none where another word stands behind it, which is of no meaning.
            Verb::Delete if self.request.word(1) == b"noreply" => (2, b" 0"),
            // Newer servers see a flag of `me` only when there is one more.
            Verb::Me if self.request.word(2) == b"b" => (2, b" b b"),
            Verb::Me | Verb::Flush => (2, b""),
            Verb::Stats => (1, b""),
            _ => (usize::MAX, b""),
        };
        for i in (0..decoder.words.len()).filter(|i| Some(decoder.words[*i]) != cut).take(words_max) {
            if i > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(&self.request.spelled(i));
        }
        out.extend_from_slice(behind);
        let line_feed = search::line_feed(frame, 0).unwrap_or(frame.len() - 1);
        // A word may end with a carriage return, which must not be read as part of the line's end. Else the
        // line ends as it did, so that it never gets longer than a line may be.
        if frame[..line_feed].ends_with(b"\r") || out.ends_with(b"\r") {
            out.push(b'\r');
        }
        out.extend_from_slice(&frame[line_feed..]);
    }
}

impl<'a> Request<'a> {
    #[inline]
    pub(super) fn sent(&self, cut: Option<Span>) -> Sent<'a> {
        let form = match cut {
            _ if !self.decoder.plain || self.number_is_odd() => Form::Anew(cut),
            None => Form::AsItIs,
            // What comes to stand at the end of the line must not be read as part of that.
            Some(span) if self.frame[..span.start as usize].ends_with(b"\r ") => Form::Anew(cut),
            Some(span) => Form::Without(span),
        };
        Sent { request: *self, form }
    }

    /// The number in a line without a value, if the command has one.
    #[inline]
    fn number_at(&self) -> Option<usize> {
        match self.decoder.verb {
            Verb::Count | Verb::Touch => Some(2),
            Verb::Gat | Verb::Flush => Some(1),
            _ => None,
        }
    }

    /// Whether its number is one that newer servers read in another way.
    #[inline]
    fn number_is_odd(&self) -> bool {
        self.number_at().is_some_and(|at| match self.decoder.verb {
            Verb::Count => number::plain(self.word(at), u64::MAX).is_none(),
            _ => !number::plain_signed(self.word(at)),
        })
    }

    /// The word at this position in the form that each memcached reads as 1.6.18 reads its own.
    pub(super) fn spelled(&self, i: usize) -> Cow<'a, [u8]> {
        let word = self.word(i);
        if i == 0 {
            // An old name.
            return Cow::Borrowed(if word == b"bget" { b"get" } else { word });
        }
        if self.number_at() != Some(i) || !self.number_is_odd() {
            return Cow::Borrowed(word);
        }
        let number = match self.decoder.verb {
            Verb::Count => number::unsigned(word).map(|n| n.to_string()),
            // It is kept in 32 bits.
            _ => number::signed(word).map(|n| (n as i32).to_string()),
        };
        number.map_or(Cow::Borrowed(word), |number| Cow::Owned(number.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::super::{Limits, Plan, RequestDecoder, Step};

    const LIMITS: Limits =
        Limits { value_bytes: 1000, line_bytes: 2048, request_bytes: 10_000, args_max: 40 };

    /// How a memcached of 1.6.40 or later reads the request at the start of these bytes: how long it is, and
    /// whether it keeps silent. `None` when it gives the line up and reads what is behind it as the next one.
    fn newer(bytes: &[u8]) -> Option<(usize, bool)> {
        let line_feed = bytes.iter().position(|b| *b == b'\n')?;
        let line = bytes[..line_feed].strip_suffix(b"\r").unwrap_or(&bytes[..line_feed]);
        // The name ends at the first blank, also where that stands in front of it.
        let name = line.split(|b| *b == b' ').next()?;
        let words: Vec<&[u8]> = line.split(|b| *b == b' ').filter(|word| !word.is_empty()).take(23).collect();
        let number = |at: usize| {
            let word = words.get(at)?;
            let digits = word.len() <= 11 && word.iter().all(u8::is_ascii_digit);
            std::str::from_utf8(word).ok().filter(|_| digits)?.parse::<i32>().ok()
        };
        let first_flag = match name {
            b"mg" | b"md" | b"ma" | b"me" => 2,
            b"ms" => 3,
            _ => usize::MAX,
        };
        let flags = words.get(first_flag.min(words.len())..).unwrap_or_default();
        if !flags.iter().all(|flag| flag[0].is_ascii_digit() || (65..123).contains(&flag[0])) {
            return None;
        }
        let (least, value): (usize, Option<usize>) = match name {
            b"ms" => (3, Some(2)),
            b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => (5, Some(4)),
            b"gat" | b"gats" | b"incr" | b"decr" | b"touch" => (3, None),
            b"flush_all" | b"stats" => (1, None),
            b"get" | b"gets" | b"delete" | b"mg" | b"md" | b"ma" | b"me" => (2, None),
            _ => return None,
        };
        if words.len() < least {
            return None;
        }
        let behind = match value {
            Some(at) => usize::try_from(number(at)?).ok()? + 2,
            None => 0,
        };
        let silent = match name {
            _ if first_flag < usize::MAX => flags.iter().any(|flag| flag[0] == b'q'),
            b"get" | b"gets" | b"gat" | b"gats" => false,
            _ => words.last() == Some(&&b"noreply"[..]),
        };
        Some((line_feed + 1 + behind, silent))
    }

    /// What goes to nodes of the requests in a stream.
    fn sent(stream: &[u8]) -> Vec<Vec<u8>> {
        let (mut decoder, mut at, mut found) = (RequestDecoder::default(), 0, Vec::new());
        while let Ok(step) = decoder.decode(&stream[at..], &LIMITS) {
            let (n, passed) = match step {
                Step::Request(n) => (n, 0),
                Step::Large { line, value } => (line, value as usize),
                Step::Partial(_) => break,
            };
            let mut out = Vec::new();
            match decoder.request(&stream[at..at + n]).plan() {
                Plan::One(one) => one.sent.write(&mut out),
                Plan::All(all) => all.sent.write(&mut out),
                Plan::Keys(keys) => keys.write(&(0..keys.len() as u32).collect::<Vec<_>>(), &mut out),
                Plan::Local(_) | Plan::Refuse { .. } | Plan::Nothing | Plan::Quit => {}
            }
            if !out.is_empty() {
                found.push(out);
            }
            at = (at + n + passed).min(stream.len());
        }
        found
    }

    /// Whether it is words with one blank between them, and then what stands behind the line.
    fn is_canonical(bytes: &[u8]) -> bool {
        let Some(line_feed) = bytes.iter().position(|b| *b == b'\n') else { return false };
        let line = bytes[..line_feed].strip_suffix(b"\r").unwrap_or(&bytes[..line_feed]);
        line.split(|b| *b == b' ').all(|word| !word.is_empty() && !word.contains(&0))
    }

    fn assert_read_alike(sent: &[u8]) {
        assert!(is_canonical(sent), "{}", sent.escape_ascii());
        assert_eq!(newer(sent), Some((sent.len(), false)), "{}", sent.escape_ascii());
    }

    /// Odd lines, and what goes to a node of them and of what stands behind: nothing, when it is refused.
    const ODD: &[(&str, &[&str])] = &[
        // Flags that are none.
        ("ms k 9 -\r\nflush_all\r\n", &[]),
        ("ms k 9 k -x O1\r\nflush_all\r\n", &[]),
        ("ms k 9 {\r\nflush_all\r\n", &[]),
        ("ms k 9 ~ q\r\nflush_all\r\n", &[]),
        ("ms k 9 @\r\nflush_all\r\n", &[]),
        ("ms k 9 \x7f\r\nflush_all\r\n", &[]),
        ("ms k 9 \u{e9}\r\nflush_all\r\n", &[]),
        ("ms k 9 \t\r\nflush_all\r\n", &[]),
        ("ms k 9 \r\r\nflush_all\r\n", &[]),
        ("mg k !\r\n", &[]),
        ("md k k /\r\n", &[]),
        ("ma k q :\r\n", &[]),
        ("ms k 9 [\r\nflush_all\r\n", &["ms k 9 [\r\nflush_all\r\n"]),
        ("ms k 9 5\r\nflush_all\r\n", &["ms k 9 5\r\nflush_all\r\n"]),
        // Blanks.
        (" set k 0 0 9\r\nflush_all\r\n", &["set k 0 0 9\r\nflush_all\r\n"]),
        ("  ms  k  9  q  \r\nflush_all\r\n", &["ms k 9\r\nflush_all\r\n"]),
        ("set k 0 0 9 noreply \r\nflush_all\r\n", &["set k 0 0 9\r\nflush_all\r\n"]),
        (" get  k \n", &["get k\n"]),
        (" mg k v\r\n", &["mg k v\r\n"]),
        (" flush_all  0\r\n", &["flush_all 0\r\n"]),
        // What stands behind a NUL.
        ("ms k 9\0 q\r\nflush_all\r\n", &["ms k 9\r\nflush_all\r\n"]),
        ("set k 0 0 9\0 noreply\r\nflush_all\r\n", &["set k 0 0 9\r\nflush_all\r\n"]),
        ("touch k 0\0 noreply\r\n", &["touch k 0\r\n"]),
        ("incr k 1\0 noreply\r\n", &["incr k 1\r\n"]),
        ("flush_all\0 noreply\r\n", &["flush_all\r\n"]),
        ("stats nodes\0 noreply\r\n", &["stats\r\n"]),
        ("get a\0b\r\n", &["get a\r\n"]),
        // The word for silence where it is none.
        ("delete noreply\r\n", &["delete noreply 0\r\n"]),
        ("delete noreply noreply\r\n", &["delete noreply 0\r\n"]),
        ("delete noreply 0\r\n", &["delete noreply 0\r\n"]),
        ("delete noreply 0 noreply\r\n", &["delete noreply 0\r\n"]),
        ("delete  noreply\n", &["delete noreply 0\n"]),
        ("set noreply 0 0 1\r\nx\r\n", &["set noreply 0 0 1\r\nx\r\n"]),
        ("touch noreply 0 noreply\r\n", &["touch noreply 0\r\n"]),
        ("bget noreply\r\n", &["get noreply\r\n"]),
        ("bget a noreply\r\n", &["get a noreply\r\n"]),
        ("incr k noreply\r\n", &[]),
        ("flush_all noreply\r\n", &["flush_all\r\n"]),
        ("flush_all 1 x\r\n", &["flush_all 1\r\n"]),
        // Numbers.
        ("set k 0 0 00000000009\r\nflush_all\r\n", &[]),
        ("ms k 00000000000000000009\r\nflush_all\r\n", &[]),
        ("set k 0 0 +9\r\nflush_all\r\n", &[]),
        ("set k 0 0 9\r\r\nflush_all\r\n", &[]),
        ("set k 0 0 9\t\r\nflush_all\r\n", &[]),
        ("set k 00000000000 0 9\r\nflush_all\r\n", &[]),
        ("set k 0 0 0000000009\r\nflush_all\r\n", &["set k 0 0 0000000009\r\nflush_all\r\n"]),
        ("touch k +5\r\n", &["touch k 5\r\n"]),
        ("touch k 5\t6 noreply\r\n", &["touch k 5\r\n"]),
        ("touch k 4294967295\r\n", &["touch k -1\r\n"]),
        ("gat \t7 a\r\n", &["gat 7 a\r\n"]),
        ("gats +7 a b\r\n", &["gats 7 a b\r\n"]),
        ("incr k +1\r\n", &["incr k 1\r\n"]),
        ("decr k -18446744073709551615 noreply\r\n", &["decr k 1\r\n"]),
        ("flush_all +5\r\n", &["flush_all 5\r\n"]),
        // Flags of `me`.
        ("me k -\r\n", &["me k\r\n"]),
        ("me Zm9v b\r\n", &["me Zm9v b b\r\n"]),
        ("me k q b\r\n", &["me k\r\n"]),
        // Carriage returns are part of words, but for the last.
        ("get a\r\r\n", &["get a\r\r\n"]),
        ("md a\r q\n", &["md a\r\r\n"]),
        ("mg a O\r q\r\n", &["mg a O\r\r\n"]),
        ("delete a\r noreply\n", &["delete a\r\r\n"]),
        ("\tset k 0 0 9\r\nflush_all 1\r\n", &["flush_all 1\r\n"]),
    ];

    /// What would be the value of an odd line is never a request.
    #[test]
    fn a_table_of_odd_lines() {
        for (stream, expected) in ODD {
            let found = sent(stream.as_bytes());
            let shown: Vec<String> = found.iter().map(|s| s.escape_ascii().to_string()).collect();
            let expected: Vec<String> =
                expected.iter().map(|s| s.as_bytes().escape_ascii().to_string()).collect();
            assert_eq!(shown, expected, "{stream:?}");
            found.iter().for_each(|sent| assert_read_alike(sent));
        }
    }

    /// Any line of any words, with what clients may write between them.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let name = select(
            "get gets bget gat gats set add replace append prepend cas delete incr decr touch mg ms md ma me flush_all \
             stats"
                .split(' ')
                .collect::<Vec<_>>(),
        );
        let word = prop_oneof![
            4 => select("k noreply a 0 1 9 9 9 5 +9 -1 009 00000000009 4294967295 q v b k O1 T0 N5 I C5 nodes - ! { ~ @ [ 9x a\r"
                .split(' ').map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>()),
            1 => vec(any::<u8>(), 1..4),
        ];
        let gap = select(vec![" ", " ", " ", " ", " ", " ", "  ", "\0", " \0 ", "\r", "\t", " \r"]);
        let front = select(vec!["", "", "", " ", "\0", "\r"]);
        let end = select(vec!["\r\n", "\r\n", "\n", " \r\n", "\r\r\n", "\0noreply\r\n", " noreply\r\n"]);
        let line = (front, name, vec((gap, word), 0..8), end).prop_map(|(front, name, words, end)| {
            let mut line = [front.as_bytes(), name.as_bytes()].concat();
            for (gap, word) in words {
                line.extend_from_slice(gap.as_bytes());
                line.extend_from_slice(&word);
            }
            [&line[..], end.as_bytes(), b"flush_all\r\n"].concat()
        });
        vec(line, 1..4).prop_map(|lines| lines.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// What is sent is canonical, and one whole request, that is answered, for newer servers too; or it
        /// is not sent.
        #[test]
        fn what_is_sent_is_read_alike(stream in stream()) {
            sent(&stream).iter().for_each(|sent| assert_read_alike(sent));
        }
    }
}
