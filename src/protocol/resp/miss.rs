//! What a command that only reads answers when its key is not there, for a pool whose reads find
//! nothing while a node is away. Commands that are not here are refused then: an error is better
//! than a guess.

use super::{Version, frame::Request, write};

/// The shapes of such an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nothing {
    Nil,
    /// A nil for each key of the request.
    Nils,
    /// A nil for each argument behind the key.
    Fields,
    Zero,
    /// As TTL says it.
    NoKey,
    NoType,
    EmptyString,
    EmptyArray,
    EmptySet,
    EmptyMap,
}

/// By command, with the number of arguments for which it holds, the name included; 0 for any.
const TABLE: &[(&str, usize, Nothing)] = &[
    ("GET", 2, Nothing::Nil),
    ("HGET", 3, Nothing::Nil),
    ("LINDEX", 3, Nothing::Nil),
    ("ZSCORE", 3, Nothing::Nil),
    ("ZRANK", 3, Nothing::Nil),
    ("ZREVRANK", 3, Nothing::Nil),
    ("MGET", 0, Nothing::Nils),
    ("HMGET", 0, Nothing::Fields),
    ("EXISTS", 0, Nothing::Zero),
    ("STRLEN", 2, Nothing::Zero),
    ("LLEN", 2, Nothing::Zero),
    ("SCARD", 2, Nothing::Zero),
    ("SISMEMBER", 3, Nothing::Zero),
    ("HLEN", 2, Nothing::Zero),
    ("HEXISTS", 3, Nothing::Zero),
    ("HSTRLEN", 3, Nothing::Zero),
    ("ZCARD", 2, Nothing::Zero),
    ("ZCOUNT", 4, Nothing::Zero),
    ("XLEN", 2, Nothing::Zero),
    ("GETBIT", 3, Nothing::Zero),
    ("BITCOUNT", 2, Nothing::Zero),
    ("TTL", 2, Nothing::NoKey),
    ("PTTL", 2, Nothing::NoKey),
    ("EXPIRETIME", 2, Nothing::NoKey),
    ("PEXPIRETIME", 2, Nothing::NoKey),
    ("TYPE", 2, Nothing::NoType),
    ("GETRANGE", 4, Nothing::EmptyString),
    ("LRANGE", 4, Nothing::EmptyArray),
    ("ZRANGE", 4, Nothing::EmptyArray),
    ("ZREVRANGE", 4, Nothing::EmptyArray),
    ("ZRANGEBYSCORE", 4, Nothing::EmptyArray),
    ("HKEYS", 2, Nothing::EmptyArray),
    ("HVALS", 2, Nothing::EmptyArray),
    ("SMEMBERS", 2, Nothing::EmptySet),
    ("HGETALL", 2, Nothing::EmptyMap),
];

/// The answer of this command as if its `keys` keys were not there.
pub fn nothing(name: &str, request: &Request<'_>, keys: usize, version: Version) -> Option<Vec<u8>> {
    let (_, args, nothing) = TABLE.iter().find(|row| row.0.eq_ignore_ascii_case(name))?;
    if *args != 0 && *args != request.len() {
        return None;
    }
    let mut out = Vec::new();
    let nil = |out: &mut Vec<u8>| match version {
        Version::Resp2 => out.extend_from_slice(b"$-1\r\n"),
        Version::Resp3 => out.extend_from_slice(b"_\r\n"),
    };
    let nils = |out: &mut Vec<u8>, n: usize| {
        write::array(out, n);
        (0..n).for_each(|_| nil(out));
    };
    let empty = |out: &mut Vec<u8>, resp3: u8| {
        write::header(out, if version == Version::Resp3 { resp3 } else { b'*' }, 0);
    };
    match nothing {
        Nothing::Nil => nil(&mut out),
        Nothing::Nils => nils(&mut out, keys),
        Nothing::Fields => nils(&mut out, request.len().saturating_sub(2)),
        Nothing::Zero => write::integer(&mut out, 0),
        Nothing::NoKey => write::integer(&mut out, -2),
        Nothing::NoType => write::simple(&mut out, "none"),
        Nothing::EmptyString => write::bulk(&mut out, b""),
        Nothing::EmptyArray => write::array(&mut out, 0),
        Nothing::EmptySet => empty(&mut out, b'~'),
        Nothing::EmptyMap => empty(&mut out, b'%'),
    }
    Some(out)
}
