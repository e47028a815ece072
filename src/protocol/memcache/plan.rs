//! What becomes of a request, in the order of memcached's own checks.

use std::borrow::Cow;

use super::{
    Awaits, KEY_BYTES_MAX, Limits, Request, base64, number,
    request::{Fault, META_WORDS_MAX, Span},
    sent::Sent,
    verb::{STATS, Verb, why_not},
    write::{
        BAD_DELETE, BAD_DELTA, BAD_EXPTIME, BAD_FORMAT, DUPLICATE_FLAG, END, ERROR, FLAGS_ARE_TOO_LONG,
        FLAGS_TOO_LONG, INVALID_FLAG, INVALID_OR_DUPLICATE_FLAG,
    },
};
use crate::protocol::base64::encode;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Plan<'a> {
    /// One key, one node.
    One(One<'a>),
    /// A retrieval of keys that may live on several nodes.
    Keys(Keys<'a>),
    /// Asked of every node.
    All(All<'a>),
    /// Answered by ringway.
    Local(Local),
    /// Answered by ringway with an error.
    Refuse {
        /// The whole line.
        line: Cow<'static, [u8]>,
        /// Whether the session is closed behind it.
        close: bool,
    },
    /// Wrong, but the client asked for silence.
    Nothing,
    /// The session is closed without an answer.
    Quit,
}

/// A request for one key.
#[derive(Clone, Debug)]
pub struct One<'a> {
    /// What is hashed: the key, decoded where it is spelled in base64.
    pub key: Cow<'a, [u8]>,
    /// Whether asking twice does no harm.
    pub read_only: bool,
    /// What the reply may be, and what of it is swallowed.
    pub awaits: Awaits,
    /// What goes to the node.
    pub sent: Sent<'a>,
}

impl<'a> One<'a> {
    /// What memcached says when nothing is there, as bytes for the client: empty when it asked for
    /// silence, `None` for what is no retrieval.
    pub fn miss(&self) -> Option<Cow<'static, [u8]>> {
        miss(self.sent.request())
    }
}

/// A retrieval of several keys, or of one in a line that is long all the same.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Whether asking twice does no harm.
    pub read_only: bool,
    request: Request<'a>,
    /// Words in front of the keys.
    head: usize,
}

impl<'a> Keys<'a> {
    /// What the reply to each part may be.
    pub const AWAITS: Awaits = Awaits::GET;

    /// How many keys there are, doubled ones included; at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.request.len() - self.head
    }

    /// The key at this position; empty when there is none.
    #[inline]
    pub fn key(&self, i: usize) -> &'a [u8] {
        self.request.word(self.head + i)
    }

    /// Appends the request for the keys at these positions: with the same command, and the same
    /// expiration time.
    pub fn write(&self, positions: &[u32], out: &mut Vec<u8>) {
        for i in 0..self.head {
            out.extend_from_slice(&self.request.spelled(i));
            out.push(b' ');
        }
        for i in positions {
            out.extend_from_slice(self.key(*i as usize));
            out.push(b' ');
        }
        out.pop();
        out.extend_from_slice(b"\r\n");
    }

    /// How long the line is that [`Keys::write`] writes for these positions.
    pub fn line_bytes(&self, positions: &[u32]) -> usize {
        let head: usize = (0..self.head).map(|i| self.request.spelled(i).len() + 1).sum();
        let keys: usize = positions.iter().map(|at| self.key(*at as usize).len() + 1).sum();
        head + keys + 1
    }

    /// How many of these positions, from the first on, a line of so many bytes has room for; at least one.
    pub fn fitting(&self, positions: &[u32], bytes_max: usize) -> usize {
        let mut bytes = self.line_bytes(&[]);
        let fits = |at: &&u32| {
            bytes += self.key(**at as usize).len() + 1;
            bytes <= bytes_max
        };
        positions.iter().take_while(fits).count().max(1)
    }
}

/// A request to every node.
#[derive(Clone, Copy, Debug)]
pub struct All<'a> {
    /// How the replies become one.
    pub gather: Gather,
    /// What the reply of each node may be; whether the client wants the merged one.
    pub awaits: Awaits,
    /// What goes to each node.
    pub sent: Sent<'a>,
}

/// How the replies of all nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// `flush_all`: `OK` when all say so, else the first error.
    Flush,
    /// `stats nodes`: counters added up.
    Stats,
}

/// What ringway answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// `version`
    Version,
    /// `verbosity`
    Verbosity,
    /// `stats`
    Stats,
    /// `mn`
    Fence,
    /// `gat` without a key.
    End,
}

/// The meta flags that memcached 1.6.18 knows. They matter only beside a doubled `q`, which is refused here
/// in its words: newer servers know `E` and `x` too, and would name the `q`.
const FLAGS: &[u8] = b"bNTRlOPLkstcfvhuqFCMJDI";

fn refuse(line: &'static [u8]) -> Plan<'static> {
    Plan::Refuse { line: Cow::Borrowed(line), close: false }
}

fn not_offered(name: &[&[u8]], why: &str) -> Plan<'static> {
    let mut line = b"CLIENT_ERROR ringway does not offer ".to_vec();
    line.extend(name.join(&b' ').iter().map(|b| if b.is_ascii_graphic() || *b == b' ' { *b } else { b'?' }));
    line.extend_from_slice(b": ");
    line.extend_from_slice(why.as_bytes());
    line.extend_from_slice(b"\r\n");
    Plan::Refuse { line: Cow::Owned(line), close: false }
}

impl<'a> Request<'a> {
    /// What becomes of it.
    #[inline]
    pub fn plan(&self) -> Plan<'a> {
        if self.decoder.small > 0 {
            let sent = Sent::as_it_came(*self);
            return Plan::One(One {
                key: Cow::Borrowed(self.word(1)),
                read_only: true,
                awaits: Awaits::GET,
                sent,
            });
        }
        self.other()
    }

    /// Whether ringway offers it: `slabs`, `stats items` and their like concern the inside of one server.
    pub fn is_offered(&self) -> bool {
        let inside = self.decoder.verb == Verb::Stats && self.decoder.words.len() > 1;
        self.decoder.verb != Verb::NotOffered && !inside
    }

    /// The key whose item memcached drops when it refuses this request's value as too large.
    pub fn replaced_by_large(&self) -> Option<Cow<'a, [u8]>> {
        let is_large = self.decoder.fault == Fault::Large;
        match self.word(0) {
            b"set" if is_large => Some(Cow::Borrowed(self.word(1))),
            b"ms" if is_large => {
                let is_binary = (3..self.len()).any(|i| self.word(i)[0] == b'b');
                Some(self.meta_key(is_binary))
            }
            _ => None,
        }
    }

    fn other(&self) -> Plan<'a> {
        match self.decoder.verb {
            Verb::Get => self.get(1),
            Verb::Mg => self.meta(Awaits::MG),
            Verb::Set | Verb::Cas => self.text(Awaits::STORE),
            Verb::Ms => self.meta(Awaits::MS),
            Verb::Gat => self.gat(),
            Verb::Delete => self.delete(),
            Verb::Count => self.count(),
            Verb::Touch => self.touch(),
            Verb::Md => self.meta(Awaits::MD),
            Verb::Ma => self.meta(Awaits::MA),
            Verb::Me => self.me(),
            Verb::Mn => Plan::Local(Local::Fence),
            Verb::Flush => self.flush(),
            Verb::Version => Plan::Local(Local::Version),
            Verb::Verbosity => self.verbosity(),
            Verb::Stats => self.stats(),
            Verb::Quit => Plan::Quit,
            Verb::NotOffered => not_offered(&[self.word(0)], why_not(self.word(0)).unwrap_or_default()),
            Verb::Unknown => self.unknown(),
        }
    }

    /// Whether its last word asks for silence.
    fn noreply(&self) -> bool {
        self.decoder.words.last().is_some_and(|span| span.of(self.frame) == b"noreply")
    }

    /// An error that `noreply` silences.
    fn hushed(&self, line: &'static [u8]) -> Plan<'a> {
        if self.noreply() { Plan::Nothing } else { refuse(line) }
    }

    #[inline]
    fn one(&self, key: Cow<'a, [u8]>, read_only: bool, awaits: Awaits, cut: Option<Span>) -> Plan<'a> {
        Plan::One(One { key, read_only, awaits, sent: self.sent(cut) })
    }

    /// A request of one key that is always written anew.
    fn rewritten(&self, key: Cow<'a, [u8]>, read_only: bool, awaits: Awaits, cut: Option<Span>) -> Plan<'a> {
        Plan::One(One { key, read_only, awaits, sent: Sent::anew(*self, cut) })
    }

    /// A text command with its key checked and its `noreply` cut out.
    fn text(&self, awaits: Awaits) -> Plan<'a> {
        match self.decoder.fault {
            Fault::None => {}
            Fault::Words => return refuse(ERROR),
            fault => return self.hushed(fault.line()),
        }
        let cut = if self.noreply() { self.decoder.words.last().copied() } else { None };
        self.one(Cow::Borrowed(self.word(1)), false, awaits.quiet(cut.is_some()), cut)
    }

    fn get(&self, head: usize) -> Plan<'a> {
        let read_only = self.decoder.verb == Verb::Get;
        match self.decoder.words.get(head..).unwrap_or(&[]) {
            [] => refuse(ERROR),
            _ if self.decoder.fault != Fault::None => refuse(self.decoder.fault.line()),
            keys if keys.iter().any(|key| key.len as usize > KEY_BYTES_MAX) => refuse(BAD_FORMAT),
            // What stands between its words or behind a NUL is not for a node to read when it is long.
            [key] if self.frame.len() <= Limits::LINE_BYTES => {
                self.one(Cow::Borrowed(key.of(self.frame)), read_only, Awaits::GET, None)
            }
            _ => Plan::Keys(Keys { read_only, request: *self, head }),
        }
    }

    fn gat(&self) -> Plan<'a> {
        match self.decoder.words.len() {
            0 | 1 => refuse(ERROR),
            // Of the words of a long line it is the one that goes to each node.
            _ if self.word(1).len() > KEY_BYTES_MAX => refuse(BAD_EXPTIME),
            _ if number::signed(self.word(1)).is_none() => refuse(BAD_EXPTIME),
            2 => Plan::Local(Local::End),
            _ => self.get(2),
        }
    }

    fn delete(&self) -> Plan<'a> {
        let held = self.word(2) == b"0";
        let noreply = self.noreply();
        match self.decoder.words.len() {
            2 if self.word(1).len() > KEY_BYTES_MAX => refuse(BAD_FORMAT),
            // Its key may be spelled like the word for silence.
            2 if noreply => self.rewritten(Cow::Borrowed(self.word(1)), false, Awaits::DELETE, None),
            2 => self.one(Cow::Borrowed(self.word(1)), false, Awaits::DELETE, None),
            3 if !held && !noreply => refuse(BAD_DELETE),
            4 if !(held && noreply) => self.hushed(BAD_DELETE),
            3 | 4 if self.word(1).len() > KEY_BYTES_MAX => self.hushed(BAD_FORMAT),
            3 if noreply && self.word(1) == b"noreply" => {
                let (key, cut) = (Cow::Borrowed(self.word(1)), self.decoder.words.last().copied());
                self.rewritten(key, false, Awaits::DELETE.quiet(true), cut)
            }
            3 | 4 => self.text(Awaits::DELETE),
            _ => refuse(ERROR),
        }
    }

    fn count(&self) -> Plan<'a> {
        match self.decoder.words.len() {
            3 | 4 if self.word(1).len() > KEY_BYTES_MAX => self.hushed(BAD_FORMAT),
            3 | 4 if number::unsigned(self.word(2)).is_none() => self.hushed(BAD_DELTA),
            3 | 4 => self.text(Awaits::COUNT),
            _ => refuse(ERROR),
        }
    }

    fn touch(&self) -> Plan<'a> {
        match self.decoder.words.len() {
            3 | 4 if self.word(1).len() > KEY_BYTES_MAX => self.hushed(BAD_FORMAT),
            3 | 4 if number::signed(self.word(2)).is_none() => self.hushed(BAD_EXPTIME),
            3 | 4 => self.text(Awaits::TOUCH),
            _ => refuse(ERROR),
        }
    }

    fn flush(&self) -> Plan<'a> {
        let quiet = self.noreply();
        match self.decoder.words.len() {
            1..=3 => {}
            _ => return refuse(ERROR),
        }
        if self.decoder.words.len() != 1 + usize::from(quiet) && number::signed(self.word(1)).is_none() {
            return self.hushed(BAD_EXPTIME);
        }
        let cut = if quiet { self.decoder.words.last().copied() } else { None };
        let sent = Sent::anew(*self, cut);
        Plan::All(All { gather: Gather::Flush, awaits: Awaits::OK.quiet(quiet), sent })
    }

    fn verbosity(&self) -> Plan<'a> {
        match self.decoder.words.len() {
            2 | 3 if number::unsigned(self.word(1)).is_none() => self.hushed(BAD_FORMAT),
            2 | 3 if self.noreply() => Plan::Nothing,
            2 | 3 => Plan::Local(Local::Verbosity),
            _ => refuse(ERROR),
        }
    }

    fn stats(&self) -> Plan<'a> {
        if self.decoder.words.len() == 1 {
            return Plan::Local(Local::Stats);
        }
        let of = self.word(1);
        if of == b"nodes" {
            let sent = Sent::anew(*self, None);
            Plan::All(All { gather: Gather::Stats, awaits: Awaits::STATS, sent })
        } else if STATS.iter().any(|known| known.as_bytes() == of) {
            not_offered(&[b"stats", of], "it concerns one server, ask the node itself")
        } else {
            refuse(ERROR)
        }
    }

    fn unknown(&self) -> Plan<'a> {
        let http = self.word(0).len() >= 2
            && Verb::may_be_http(self.word(0))
            && self.word(self.decoder.words.len() - 1).starts_with(b"HTTP/");
        if http { Plan::Quit } else { refuse(ERROR) }
    }

    /// `mg`, `ms`, `md`, `ma`. Flags are the node's to judge, but for what changes whether it answers, and
    /// for what begins as no flag does: newer servers give up a line with one, and read its value as
    /// commands.
    fn meta(&self, awaits: Awaits) -> Plan<'a> {
        let words = self.decoder.words.len();
        let first_flag = if awaits == Awaits::MS { 3 } else { 2 };
        match words {
            0 | 1 => return refuse(ERROR),
            _ if self.decoder.words[1].len as usize > KEY_BYTES_MAX => return refuse(BAD_FORMAT),
            n if n > META_WORDS_MAX => {
                return refuse(if awaits == Awaits::MG { FLAGS_ARE_TOO_LONG } else { FLAGS_TOO_LONG });
            }
            // What is wrong with the value itself comes behind what is wrong with the flags.
            _ if !matches!(self.decoder.fault, Fault::None | Fault::Chunk) => {
                return refuse(self.decoder.fault.line());
            }
            _ => {}
        }
        let (mut cut, mut binary, mut read_only) = (None, false, awaits == Awaits::MG);
        for span in self.decoder.words.get(first_flag..).unwrap_or(&[]) {
            match self.frame[span.start as usize] {
                b'q' if cut.is_some() => return self.wrong_flags(awaits, first_flag),
                b'q' => cut = Some(*span),
                b'b' => binary = true,
                // These change the item, or who is told to fill it again.
                b'N' | b'T' | b'R' | b'E' => read_only = false,
                b'0'..=b'9' | b'A'..=b'z' => {}
                _ => return self.wrong_flags(awaits, first_flag),
            }
        }
        if self.decoder.fault == Fault::Chunk {
            return refuse(Fault::Chunk.line());
        }
        self.one(self.meta_key(binary), read_only, awaits.quiet(cut.is_some()), cut)
    }

    /// A doubled `q`, of which what was cut out once would silence the node the second time, or what is no
    /// flag. memcached stops at the first flag that it does not know.
    #[cold]
    fn wrong_flags(&self, awaits: Awaits, first_flag: usize) -> Plan<'a> {
        if matches!(awaits, Awaits::MD | Awaits::MA) {
            return refuse(INVALID_OR_DUPLICATE_FLAG);
        }
        let mut seen: Vec<u8> = Vec::new();
        for span in &self.decoder.words[first_flag..] {
            let flag = self.frame[span.start as usize];
            if seen.contains(&flag) || flag >= 127 {
                break;
            }
            if !FLAGS.contains(&flag) {
                return refuse(INVALID_FLAG);
            }
            seen.push(flag);
        }
        refuse(DUPLICATE_FLAG)
    }

    /// What is no base64 goes to the node that its spelling points to, which refuses it.
    #[inline]
    fn meta_key(&self, binary: bool) -> Cow<'a, [u8]> {
        let spelled = self.word(1);
        if !binary {
            return Cow::Borrowed(spelled);
        }
        base64::decode(spelled).map_or(Cow::Borrowed(spelled), Cow::Owned)
    }

    fn me(&self) -> Plan<'a> {
        if self.decoder.words.len() < 2 || self.word(1).len() > KEY_BYTES_MAX {
            return refuse(BAD_FORMAT);
        }
        let key = self.meta_key(self.word(2) == b"b");
        if self.decoder.words.len() == 2 {
            return self.one(key, true, Awaits::ME, None);
        }
        self.rewritten(key, true, Awaits::ME, None)
    }
}

/// What memcached says to this request when nothing is there; empty when the client asked for
/// silence, `None` for what is no retrieval. A miss of `mg` has its opaque and, where asked for,
/// its key.
pub fn miss(request: &Request<'_>) -> Option<Cow<'static, [u8]>> {
    match request.decoder.verb {
        Verb::Get | Verb::Gat => return Some(Cow::Borrowed(END)),
        Verb::Me => return Some(Cow::Borrowed(b"EN\r\n")),
        Verb::Mg => {}
        _ => return None,
    }
    let flags = || request.decoder.words.get(2..).unwrap_or(&[]).iter().map(|span| span.of(request.frame));
    let has = |name: u8| flags().any(|flag| flag.first() == Some(&name));
    if has(b'q') {
        return Some(Cow::Borrowed(b""));
    }
    let mut line = b"EN".to_vec();
    for flag in flags() {
        match flag.first() {
            Some(b'O') => line.extend_from_slice(&[b" ", flag].concat()),
            Some(b'k') if has(b'b') => {
                line.extend_from_slice(b" k");
                encode(&request.meta_key(true), &mut line);
                line.extend_from_slice(b" b");
            }
            Some(b'k') => line.extend_from_slice(&[b" k", request.word(1)].concat()),
            _ => {}
        }
    }
    line.extend_from_slice(b"\r\n");
    Some(Cow::Owned(line))
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, RequestDecoder, Step};
    use super::*;

    const LIMITS: Limits =
        Limits { value_bytes: 1000, line_bytes: 2048, request_bytes: 10_000, args_max: 40 };

    fn written(sent: &Sent<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        sent.write(&mut out);
        assert!(sent.as_it_is().is_none_or(|same| same == out));
        out
    }

    /// What a plan comes to, as one line.
    fn shown(bytes: &str) -> String {
        let mut decoder = RequestDecoder::default();
        let step = decoder.decode(bytes.as_bytes(), &LIMITS);
        assert_eq!(step, Ok(Step::Request(bytes.len())), "{bytes:?}");
        let request = decoder.request(bytes.as_bytes());
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        match request.plan() {
            Plan::One(one) => format!(
                "{}{}{} {} [{}]",
                text(&one.key),
                if one.read_only { " read" } else { "" },
                if one.awaits.is_quiet() { " quiet" } else { "" },
                text(&written(&one.sent)),
                one.miss().map_or("-".to_owned(), |miss| text(&miss)),
            ),
            Plan::Keys(keys) => {
                let mut out = Vec::new();
                let last: Vec<u32> = (1..keys.len() as u32).rev().collect();
                keys.write(&last, &mut out);
                format!("{}{} {}", keys.len(), if keys.read_only { " read" } else { "" }, text(&out))
            }
            Plan::All(all) => {
                format!("{:?} {} {}", all.gather, all.awaits.is_quiet(), text(&written(&all.sent)))
            }
            Plan::Local(local) => format!("{local:?}"),
            Plan::Refuse { line, close } => format!("{}{}", text(&line), if close { " close" } else { "" }),
            Plan::Nothing => "nothing".to_owned(),
            Plan::Quit => "quit".to_owned(),
        }
    }

    /// Flags that newer servers have go to the node as they are, `q` is cut out beside them all the same, and
    /// what nobody knows is the node's to refuse.
    #[test]
    fn newer_flags() {
        for (request, expected) in [
            ("ms a 1 E5 q S1\r\nx\r\n", "a quiet ms a 1 E5 S1\r\nx\r\n [-]"),
            ("ms Zm9v 1 E5 b C3\r\nx\r\n", "foo ms Zm9v 1 E5 b C3\r\nx\r\n [-]"),
            ("md a q x E9\r\n", "a quiet md a x E9\r\n [-]"),
            ("md a x\r\n", "a md a x\r\n [-]"),
            ("ma a E7 N0 q v\r\n", "a quiet ma a E7 N0 v\r\n [-]"),
            ("mg a E5 v k\r\n", "a mg a E5 v k\r\n [EN ka\r\n]"),
            ("mg a C5 q v\r\n", "a read quiet mg a C5 v\r\n []"),
            ("mg a Z q\r\n", "a read quiet mg a Z\r\n []"),
            ("mg a E5 q q\r\n", "CLIENT_ERROR invalid flag\r\n"),
            ("ms a 1 x q q\r\nx\r\n", "CLIENT_ERROR invalid flag\r\n"),
            ("mg a q q E5\r\n", "CLIENT_ERROR duplicate flag\r\n"),
            ("md a x q q\r\n", "CLIENT_ERROR invalid or duplicate flag\r\n"),
        ] {
            assert_eq!(shown(request), expected.replace("\r\n", "\\r\\n"), "{request:?}");
        }
    }

    /// A line is as long as it is said to be, and has as many keys as there is room for, but one at least.
    #[test]
    fn lines_have_a_length() {
        let keys: Vec<String> = (0..30).map(|i| "k".repeat(1 + i * 7)).collect();
        for head in ["get", "gats  100"] {
            let line = format!("{head} {}\r\n", keys.join("  "));
            let mut decoder = RequestDecoder::default();
            let limits = Limits { line_bytes: 10_000, ..LIMITS };
            assert_eq!(decoder.decode(line.as_bytes(), &limits), Ok(Step::Request(line.len())));
            let request = decoder.request(line.as_bytes());
            let Plan::Keys(keys) = request.plan() else { panic!("it has many keys") };
            let positions: Vec<u32> = (0..30).collect();
            for bytes_max in [0, 1, 20, 100, 1000, 10_000] {
                let n = keys.fitting(&positions, bytes_max);
                let mut out = Vec::new();
                keys.write(&positions[..n], &mut out);
                assert_eq!(keys.line_bytes(&positions[..n]), out.len());
                assert!(n == 1 || out.len() <= bytes_max);
                assert!(n == 30 || keys.line_bytes(&positions[..=n]) > bytes_max);
            }
        }
    }

    /// A line that is long for one key is not passed on as it is; nor is a time that takes up all of it.
    #[test]
    fn long_lines_of_one_key() {
        let blanks = " ".repeat(3000);
        for (line, sent) in [
            (format!("get a{blanks}\r\n"), "get a\r\n"),
            (format!("gat {blanks} 7 a\r\n"), "gat 7 a\r\n"),
            (format!("gets a\0{blanks}\n"), "gets a\r\n"),
        ] {
            let mut decoder = RequestDecoder::default();
            assert_eq!(decoder.decode(line.as_bytes(), &LIMITS), Ok(Step::Request(line.len())));
            let request = decoder.request(line.as_bytes());
            let Plan::Keys(keys) = request.plan() else { panic!("it is long: {line}") };
            let mut out = Vec::new();
            keys.write(&[0], &mut out);
            assert_eq!((keys.len(), out.escape_ascii().to_string()), (1, sent.escape_default().to_string()));
        }
        let digits = "0".repeat(251);
        assert_eq!(shown(&format!("gat {digits} a\r\n")), "CLIENT_ERROR invalid exptime argument\\r\\n");
    }

    /// What goes to which node, without what would silence it, and what a miss would be.
    #[test]
    fn a_table_of_plans() {
        for (request, expected) in [
            ("get a\r\n", "a read get a\\r\\n [END\\r\\n]"),
            ("  gets   a \n", "a read gets a\\n [END\\r\\n]"),
            ("gat 5 a\r\n", "a gat 5 a\\r\\n [END\\r\\n]"),
            ("get a b c\r\n", "3 read get c b\\r\\n"),
            ("gats  7  a b c\r\n", "3 gats 7 c b\\r\\n"),
            ("get a\0b c\r\n", "a read get a\\r\\n [END\\r\\n]"),
            ("set a 0 0 1\r\nx\r\n", "a set a 0 0 1\\r\\nx\\r\\n [-]"),
            ("set a 0 0 1 noreply\r\nx\r\n", "a quiet set a 0 0 1\\r\\nx\\r\\n [-]"),
            ("set a 0 0 1 noreply \0z\nx\r\n", "a quiet set a 0 0 1\\nx\\r\\n [-]"),
            ("set a 0 0 1 other\r\nx\r\n", "a set a 0 0 1 other\\r\\nx\\r\\n [-]"),
            ("cas a 0 0 1 5 noreply\r\nx\r\n", "a quiet cas a 0 0 1 5\\r\\nx\\r\\n [-]"),
            ("delete a noreply\r\n", "a quiet delete a\\r\\n [-]"),
            ("delete noreply\r\n", "noreply delete noreply 0\\r\\n [-]"),
            ("delete a 0 noreply\r\n", "a quiet delete a 0\\r\\n [-]"),
            ("incr a 1 noreply\r\n", "a quiet incr a 1\\r\\n [-]"),
            ("touch a 1 noreply\r\n", "a quiet touch a 1\\r\\n [-]"),
            ("mg a\r\n", "a read mg a\\r\\n [EN\\r\\n]"),
            ("mg a v q k\r\n", "a read quiet mg a v k\\r\\n []"),
            ("mg a q\r\n", "a read quiet mg a\\r\\n []"),
            ("mg a  qq v\r\n", "a read quiet mg a v\\r\\n []"),
            ("md a\r q\n", "a\\r quiet md a\\r\\r\\n [-]"),
            ("mg a N5 v\r\n", "a mg a N5 v\\r\\n [EN\\r\\n]"),
            ("mg Zm9v k O1 b v\r\n", "foo read mg Zm9v k O1 b v\\r\\n [EN kZm9v b O1\\r\\n]"),
            ("mg !!!! b\r\n", "!!!! read mg !!!! b\\r\\n [EN\\r\\n]"),
            ("ms a 1 q\r\nx\r\n", "a quiet ms a 1\\r\\nx\\r\\n [-]"),
            ("ms Zm9v 1 b\r\nx\r\n", "foo ms Zm9v 1 b\\r\\nx\\r\\n [-]"),
            ("ms a 1 q q\r\nx\r\n", "CLIENT_ERROR duplicate flag\\r\\n"),
            ("ms a x q q\r\n", "CLIENT_ERROR bad command line format\\r\\n"),
            ("ms a 1 q q\r\nxyz", "CLIENT_ERROR duplicate flag\\r\\n"),
            ("md a q\r\n", "a quiet md a\\r\\n [-]"),
            ("ma a q q\r\n", "CLIENT_ERROR invalid or duplicate flag\\r\\n"),
            ("me Zm9v b\r\n", "foo read me Zm9v b b\\r\\n [EN\\r\\n]"),
            ("mn\r\n", "Fence"),
            ("gat 0\r\n", "End"),
            ("flush_all\r\n", "Flush false flush_all\\r\\n"),
            ("flush_all 10 noreply\r\n", "Flush true flush_all 10\\r\\n"),
            ("stats nodes\r\n", "Stats false stats\\r\\n"),
            ("stats\r\n", "Stats"),
            ("set a 0 0 +1\r\nx\r\n", "CLIENT_ERROR bad command line format\\r\\n"),
            ("set a 0 0 +1 noreply\r\nx\r\n", "nothing"),
            ("quit\r\n", "quit"),
            (
                "lru_crawler metadump all\r\n",
                "CLIENT_ERROR ringway does not offer lru_crawler: it concerns the memory of one server, ask the node itself\\r\\n",
            ),
            (
                "stats cachedump 1 1\r\n",
                "CLIENT_ERROR ringway does not offer stats cachedump: it concerns one server, ask the node itself\\r\\n",
            ),
        ] {
            assert_eq!(shown(request), expected, "{request:?}");
        }
    }
}
