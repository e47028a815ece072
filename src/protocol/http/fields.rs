//! HEADER FIELDS ON THEIR WAY: what concerns one connection alone stays there (RFC 9110, 7.6.1),
//! and nodes are told who asks.

use std::net::{IpAddr, SocketAddr};

use ::http::{HeaderMap, HeaderName, HeaderValue, Version, header};

/// Connection, and fields of one connection that need not be named there. Transfer-Encoding is among them:
/// who sends the message on frames it anew.
const OF_CONNECTION: [HeaderName; OF_CONNECTIONS] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const OF_CONNECTIONS: usize = 7;

/// Fields that a message can't lose by being named in Connection: it would be another one then.
const KEPT: [HeaderName; 5] =
    [header::HOST, header::CONTENT_LENGTH, header::COOKIE, header::AUTHORIZATION, header::CACHE_CONTROL];

/// Whether a field's comma-separated values have a token, in any case. Parameters are left aside.
pub fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let tokens = headers.get_all(name).into_iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    let bare = |t: &[u8]| -> bool {
        let t = t.split(|b| *b == b';').next().unwrap_or_default();
        t.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    };
    tokens.into_iter().any(bare)
}

/// Whether Connection has this token.
pub fn says(headers: &HeaderMap, token: &str) -> bool {
    lists(headers, &header::CONNECTION, token)
}

/// Whether a message has no transfer coding, or `chunked`, once: no other is undone here.
pub fn is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Takes out what concerns one connection alone.
pub fn strip(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for token in
        headers.get_all(header::CONNECTION).into_iter().flat_map(|v| v.as_bytes().split(|b| *b == b','))
    {
        let token = token.trim_ascii();
        let is_word =
            [&b"keep-alive"[..], b"close", b"upgrade", b"te"].iter().any(|w| token.eq_ignore_ascii_case(w));
        if !is_word
            && let Ok(name) = HeaderName::from_bytes(token)
            && !KEPT.contains(&name)
        {
            named.push(name);
        }
    }
    for name in named {
        headers.remove(name);
    }
    // Nearly all messages have none of these, or one: looking at what is there, once, is cheaper than asking
    // for each.
    let mut there = [false; OF_CONNECTIONS];
    for name in headers.keys() {
        if let Some(place) = OF_CONNECTION.iter().position(|of| of == name) {
            there[place] = true;
        }
    }
    for (name, _) in OF_CONNECTION.iter().zip(there).filter(|(_, there)| *there) {
        headers.remove(name);
    }
}

/// Makes one Cookie field of several, as HTTP/1.1 has it: HTTP/2 clients send one for each cookie (RFC 9113,
/// 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(header::COOKIE).into_iter();
    let (Some(_), Some(_)) = (all.next(), all.next()) else { return };
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
    // All of it was in fields.
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Leaves one statement about the length of a body: `length`, if it is known and was stated.
pub fn frame(headers: &mut HeaderMap, length: Option<u64>) {
    if let header::Entry::Occupied(mut stated) = headers.entry(header::CONTENT_LENGTH) {
        match length {
            Some(length) => {
                stated.insert(length.into());
            }
            None => {
                stated.remove();
            }
        }
    }
}

/// Whether a field may come behind the body: not if it says how to read the message, or whether to take it
/// (RFC 9110, 6.5.1).
pub fn may_trail(name: &HeaderName) -> bool {
    let first = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::HOST,
        header::MAX_FORWARDS,
        header::PROXY_AUTHORIZATION,
        header::RANGE,
        header::SET_COOKIE,
        header::TRAILER,
    ];
    !first.contains(name) && !OF_CONNECTION.contains(name)
}

/// Names in Trailer what may come behind the body, beside what is named there.
pub fn announce(headers: &mut HeaderMap, trailers: &[HeaderName]) {
    for name in trailers {
        if !lists(headers, &header::TRAILER, name.as_str()) {
            headers.append(header::TRAILER, name.clone().into());
        }
    }
}

/// Adds us to Via (RFC 9110, 7.6.3), by the version in which the request came.
pub fn add_via(headers: &mut HeaderMap, version: Version) {
    let us = match version {
        Version::HTTP_09 | Version::HTTP_10 => "1.0 ringway",
        Version::HTTP_2 => "2 ringway",
        _ => "1.1 ringway",
    };
    headers.append(header::VIA, HeaderValue::from_static(us));
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Appends the client's address to X-Forwarded-For, and says by which scheme and for which host it
/// came, unless one before us did. A client on a unix socket has no address.
pub fn add_x_forwarded(headers: &mut HeaderMap, client: Option<SocketAddr>) {
    if let Some(client) = client {
        append(headers, X_FORWARDED_FOR, &client.ip().to_canonical().to_string());
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
}

/// Appends an element to Forwarded (RFC 7239). What clients claim goes when it is no list: an open quote
/// would take in what is appended.
pub fn add_forwarded(headers: &mut HeaderMap, client: Option<SocketAddr>) {
    let node = match client.map(|c| c.ip().to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("\"[{ip}]\""),
    };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).filter(|h| !h.is_empty());
    // A host has no quotes, so that it can stand in them.
    let host = host.map_or(String::new(), |host| format!(";host=\"{host}\""));
    if !headers.get_all(header::FORWARDED).iter().all(|value| is_forwarded(value.as_bytes())) {
        headers.remove(header::FORWARDED);
    }
    append(headers, header::FORWARDED, &format!("for={node};proto=http{host}"));
}

/// Whether it is a list of elements (RFC 7239, 4). A value without quotes may have what many write there all
/// the same, such as a colon.
fn is_forwarded(mut rest: &[u8]) -> bool {
    let ends = |b: &u8| matches!(b, b' ' | b'\t' | b',' | b';' | b'"' | b'\\');
    while let Some(first) = rest.first() {
        if matches!(first, b' ' | b'\t' | b',' | b';') {
            rest = &rest[1..];
            continue;
        }
        let name = rest.iter().position(|b| ends(b) || *b == b'=').unwrap_or(rest.len());
        let Some((b'=', value)) = rest[name..].split_first() else { return false };
        let len = match value.strip_prefix(b"\"") {
            None => value.iter().position(ends).unwrap_or(value.len()),
            Some(quoted) => match quoted_len(quoted) {
                Some(len) => len + 1,
                None => return false,
            },
        };
        rest = &value[len..];
        if len == 0 || name == 0 || !rest.first().is_none_or(|b| matches!(b, b' ' | b'\t' | b',' | b';')) {
            return false;
        }
    }
    true
}

/// How long a quoted string is behind its first quote, the last one included; `None` without one.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Adds an element to a list, in the field that is there: some servers look at the first field only.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    // All of it was in fields, or is printable.
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in list {
            all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        all
    }

    /// What may come behind a body is announced once, beside what the sender announced; what a message needs
    /// before its body is no trailer.
    #[test]
    fn trailers() {
        let names = ["x-sum", "server-timing"].map(HeaderName::from_static);
        let mut headers = HeaderMap::new();
        headers.insert(header::TRAILER, HeaderValue::from_static("X-Own, X-Sum"));
        announce(&mut headers, &names);
        announce(&mut headers, &names);
        let named: Vec<_> = headers.get_all(header::TRAILER).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(named, [&b"X-Own, X-Sum"[..], b"server-timing"]);
        assert!(names.iter().all(may_trail));
        assert!(![header::TE, header::HOST, header::CONTENT_LENGTH, header::TRAILER].iter().any(may_trail));
    }

    /// Fields of the connection go, named or not, and those that a message lives by stay.
    #[test]
    fn what_stays_behind() {
        let mut all = fields(&[
            ("connection", "Keep-Alive, X-Mine,, bad name"),
            ("connection", "host, content-length, close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("http2-settings", "AAMAAABk"),
            ("x-mine", "1"),
            ("x-mine", "2"),
            ("host", "h"),
            ("content-length", "0"),
            ("trailer", "x-sum"),
            ("x-yours", "3"),
        ]);
        strip(&mut all);
        let mut left: Vec<&str> = all.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "trailer", "x-yours"]);
    }

    /// Tokens are found in any field, in any case, whatever stands around them.
    #[test]
    fn tokens() {
        let all = fields(&[("connection", "close ,\tFoo"), ("connection", "upgrade;q=1")]);
        assert!(["CLOSE", "foo", "Upgrade"].iter().all(|token| says(&all, token)));
        assert!(!["clos", "foo upgrade", ""].iter().any(|token| says(&all, token)));
    }

    /// The client is appended to what those before us said, as each form writes it.
    #[test]
    fn who_asks() {
        let v4: SocketAddr = "[::ffff:10.0.0.9]:1".parse().expect("an address");
        let v6: SocketAddr = "[2001:db8::1]:1".parse().expect("an address");
        let mut all = fields(&[("x-forwarded-for", "a"), ("x-forwarded-for", "b"), ("host", "h:1")]);
        add_x_forwarded(&mut all, Some(v4));
        let text = |all: &HeaderMap, name: &str| {
            let values: Vec<_> =
                all.get_all(name).iter().map(|v| v.to_str().expect("text").to_owned()).collect();
            values.join("|")
        };
        assert_eq!(text(&all, "x-forwarded-for"), "a, b, 10.0.0.9");
        assert_eq!(
            (text(&all, "x-forwarded-proto"), text(&all, "x-forwarded-host")),
            ("http".into(), "h:1".into())
        );
        let mut all = fields(&[("forwarded", "for=a"), ("x-forwarded-proto", "https")]);
        add_forwarded(&mut all, Some(v6));
        assert_eq!(text(&all, "forwarded"), "for=a, for=\"[2001:db8::1]\";proto=http");
        add_x_forwarded(&mut all, None);
        assert_eq!(
            (text(&all, "x-forwarded-for"), text(&all, "x-forwarded-proto")),
            (String::new(), "https".into())
        );
        for (claimed, is_kept) in [
            ("for=\"x", false),
            ("for=\"x\\\"", false),
            ("for", false),
            ("for=a b", false),
            ("for=a\"", false),
            ("=a", false),
            ("for=", false),
            ("for=\"_x\\\",\";proto=http , for=1.2.3.4:80,, for=\"[::1]:1\"", true),
            ("for=a;;by=b;", true),
            ("", true),
        ] {
            let mut all = fields(&[("forwarded", claimed), ("forwarded", "for=b")]);
            add_forwarded(&mut all, None);
            let kept = if is_kept { format!("{claimed}, for=b, ") } else { String::new() };
            assert_eq!(text(&all, "forwarded"), format!("{kept}for=unknown;proto=http"));
        }
        let mut all = fields(&[("host", "h")]);
        add_forwarded(&mut all, None);
        assert_eq!(text(&all, "forwarded"), "for=unknown;proto=http;host=\"h\"");
    }

    /// A length that was stated is stated once, as it was understood; none is added.
    #[test]
    fn one_length() {
        let mut all = fields(&[("content-length", "007"), ("content-length", "7")]);
        frame(&mut all, Some(7));
        assert_eq!(all.get_all("content-length").iter().collect::<Vec<_>>(), ["7"]);
        frame(&mut all, None);
        frame(&mut all, Some(7));
        assert!(all.is_empty());
    }
}
