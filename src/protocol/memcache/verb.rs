//! The words that begin a request.

/// A command, by what is done with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Verb {
    /// `get`, `gets`, `bget`
    Get,
    /// `gat`, `gats`
    Gat,
    /// `set`, `add`, `replace`, `append`, `prepend`
    Set,
    /// `cas`
    Cas,
    /// `delete`
    Delete,
    /// `incr`, `decr`
    Count,
    /// `touch`
    Touch,
    /// `mg`
    Mg,
    /// `ms`
    Ms,
    /// `md`
    Md,
    /// `ma`
    Ma,
    /// `me`
    Me,
    /// `mn`
    Mn,
    /// `flush_all`
    Flush,
    /// `version`
    Version,
    /// `verbosity`
    Verbosity,
    /// `stats`
    Stats,
    /// `quit`
    Quit,
    /// A command of memcached's that ringway does not offer; [`why_not`] says why.
    NotOffered,
    /// Nothing that memcached knows.
    #[default]
    Unknown,
}

impl Verb {
    #[inline]
    pub(super) fn of(word: &[u8]) -> Verb {
        match word {
            b"get" | b"gets" | b"bget" => Verb::Get,
            b"mg" => Verb::Mg,
            b"set" | b"add" | b"replace" | b"append" | b"prepend" => Verb::Set,
            b"ms" => Verb::Ms,
            b"gat" | b"gats" => Verb::Gat,
            b"cas" => Verb::Cas,
            b"delete" => Verb::Delete,
            b"incr" | b"decr" => Verb::Count,
            b"touch" => Verb::Touch,
            b"md" => Verb::Md,
            b"ma" => Verb::Ma,
            b"me" => Verb::Me,
            b"mn" => Verb::Mn,
            b"flush_all" => Verb::Flush,
            b"version" => Verb::Version,
            b"verbosity" => Verb::Verbosity,
            b"stats" => Verb::Stats,
            b"quit" => Verb::Quit,
            _ if why_not(word).is_some() => Verb::NotOffered,
            _ => Verb::Unknown,
        }
    }

    /// Whether the request goes on behind its line, with a value.
    pub(super) fn has_value(self) -> bool {
        matches!(self, Verb::Set | Verb::Cas | Verb::Ms)
    }

    /// Whether memcached reads the rest of a line without a word it knows for `HTTP/`: not behind
    /// the first letters of its most frequent commands.
    pub(super) fn may_be_http(word: &[u8]) -> bool {
        let frequent = matches!(word.first(), Some(b'g' | b's' | b'a' | b'c' | b'i' | b'd' | b't'));
        let meta = word.len() == 2 && word[0] == b'm';
        !frequent && !meta
    }
}

/// Why ringway does not offer a command.
#[cold]
pub(super) fn why_not(word: &[u8]) -> Option<&'static str> {
    Some(match word {
        b"slabs" | b"lru" | b"lru_crawler" | b"cache_memlimit" => {
            "it concerns the memory of one server, ask the node itself"
        }
        b"extstore" => "it concerns the disks of one server, ask the node itself",
        b"refresh_certs" => "it concerns the certificates of one server",
        b"watch" => "it would turn a shared connection into a log, watch the node itself",
        b"shutdown" => "a client of a proxy stops nothing",
        b"debugtime" | b"misbehave" => "it is for tests of memcached itself",
        _ => return None,
    })
}

/// What `stats` knows behind its name, but for `nodes`, which is ringway's own.
pub(super) const STATS: &[&str] = &[
    "reset",
    "detail",
    "settings",
    "cachedump",
    "conns",
    "extstore",
    "proxy",
    "items",
    "slabs",
    "sizes",
    "sizes_enable",
    "sizes_disable",
    "threads",
];
