//! What a request has for a reply: which words may begin it, how it ends, and which of them
//! memcached would have kept to itself.

/// The words that may answer a request, and how they go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Grammar {
    /// Any one line.
    #[default]
    Line,
    /// `VALUE` blocks and `END`.
    Get,
    /// `STORED`, `NOT_STORED`, `EXISTS`, `NOT_FOUND`
    Store,
    /// `DELETED`, `NOT_FOUND`
    Delete,
    /// A number, or `NOT_FOUND`
    Count,
    /// `TOUCHED`, `NOT_FOUND`
    Touch,
    /// `OK`
    Ok,
    /// `STAT` lines and `END`
    Stats,
    /// `VERSION`
    Version,
    Mg,
    Ms,
    Md,
    Ma,
    Me,
    Mn,
}

/// What a reply may be, and whether the client asked for silence. Two bytes, for a FIFO of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Awaits {
    pub(super) grammar: Grammar,
    quiet: bool,
}

/// What the first word of a reply says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Code {
    /// Nothing yet.
    #[default]
    Unread,
    /// `ERROR`, `CLIENT_ERROR`, `SERVER_ERROR`
    Error,
    /// `END` at once, `EN`: nothing is there.
    Miss,
    /// `VALUE`, `VA`: a value follows.
    Value,
    /// `HD`
    Done,
    /// Anything else.
    Other,
}

impl Code {
    /// What the first word of these bytes says, which begin a reply.
    pub fn of(reply: &[u8]) -> Code {
        let end = reply.iter().position(|b| matches!(b, b' ' | b'\r' | b'\n')).unwrap_or(reply.len());
        match &reply[..end] {
            b"" => Code::Unread,
            b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR" => Code::Error,
            b"END" | b"EN" => Code::Miss,
            b"VALUE" | b"VA" => Code::Value,
            b"HD" => Code::Done,
            _ => Code::Other,
        }
    }
}

const fn of(grammar: Grammar) -> Awaits {
    Awaits { grammar, quiet: false }
}

impl Awaits {
    /// Any one line.
    pub const LINE: Awaits = of(Grammar::Line);
    /// For `get`, `gets`, `gat`, `gats`.
    pub const GET: Awaits = of(Grammar::Get);
    /// For `set` and its kin; for a login too.
    pub const STORE: Awaits = of(Grammar::Store);
    /// For `delete`.
    pub const DELETE: Awaits = of(Grammar::Delete);
    /// For `incr` and `decr`.
    pub const COUNT: Awaits = of(Grammar::Count);
    /// For `touch`.
    pub const TOUCH: Awaits = of(Grammar::Touch);
    /// For `flush_all`, `verbosity`.
    pub const OK: Awaits = of(Grammar::Ok);
    /// For `stats`.
    pub const STATS: Awaits = of(Grammar::Stats);
    /// For `version`.
    pub const VERSION: Awaits = of(Grammar::Version);
    /// For `mg`.
    pub const MG: Awaits = of(Grammar::Mg);
    /// For `ms`.
    pub const MS: Awaits = of(Grammar::Ms);
    /// For `md`.
    pub const MD: Awaits = of(Grammar::Md);
    /// For `ma`.
    pub const MA: Awaits = of(Grammar::Ma);
    /// For `me`.
    pub const ME: Awaits = of(Grammar::Me);
    /// For `mn`.
    pub const MN: Awaits = of(Grammar::Mn);

    /// The same for a request with `noreply` or `q`, if it is one.
    #[inline]
    pub const fn quiet(self, quiet: bool) -> Awaits {
        Awaits { grammar: self.grammar, quiet }
    }

    /// Whether the client asked for silence.
    #[inline]
    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Whether memcached would not have sent a reply that begins like this: of a text command with
    /// `noreply` nothing at all, errors included; of a meta command with `q` only what is nominal
    /// for it, never an error.
    #[inline]
    pub fn swallows(self, code: Code) -> bool {
        self.quiet
            && match self.grammar {
                Grammar::Mg => code == Code::Miss,
                Grammar::Ms | Grammar::Md => code == Code::Done,
                Grammar::Ma => matches!(code, Code::Done | Code::Value),
                Grammar::Me | Grammar::Mn => false,
                _ => true,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It fits into two bytes, and each quiet command hides what memcached hides for it.
    #[test]
    fn what_is_hidden() {
        assert_eq!(size_of::<Awaits>(), 2);
        for (awaits, hidden) in [
            (Awaits::STORE, "STORED NOT_STORED ERROR CLIENT_ERROR SERVER_ERROR"),
            (Awaits::DELETE, "DELETED NOT_FOUND SERVER_ERROR"),
            (Awaits::COUNT, "5 NOT_FOUND CLIENT_ERROR"),
            (Awaits::MG, "EN"),
            (Awaits::MS, "HD"),
            (Awaits::MD, "HD"),
            (Awaits::MA, "HD VA"),
        ] {
            for word in hidden.split(' ') {
                let reply = format!("{word} 1\r\n");
                assert!(awaits.quiet(true).swallows(Code::of(reply.as_bytes())), "{awaits:?} {word}");
                assert!(!awaits.swallows(Code::of(reply.as_bytes())), "{awaits:?} {word}");
            }
        }
        for (awaits, shown) in [
            (Awaits::MG, "VA HD CLIENT_ERROR SERVER_ERROR"),
            (Awaits::MS, "EX NF NS CLIENT_ERROR"),
            (Awaits::MD, "NF EX CLIENT_ERROR"),
            (Awaits::MA, "NF EX NS SERVER_ERROR"),
            (Awaits::ME, "EN ME"),
        ] {
            for word in shown.split(' ') {
                assert!(!awaits.quiet(true).swallows(Code::of(word.as_bytes())), "{awaits:?} {word}");
            }
        }
    }
}
