//! THE RING KEY OF A REQUEST: what of it decides which node it goes to. Two requests with one key
//! go to one node, so the key should be what a node caches or stores things by.

use std::{borrow::Cow, net::IpAddr};

use ::http::{HeaderMap, HeaderName, header};
use regex::Regex;

/// Where the ring key of a request comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRule {
    /// What is looked at.
    pub from: KeySource,
    /// What happens to a request that does not have it.
    pub missing: Missing,
}

/// The part of a request that is its ring key.
#[derive(Clone, Debug, PartialEq)]
pub enum KeySource {
    /// The path, without the query.
    Path,
    /// The path and the query, as they are written.
    PathAndQuery,
    /// The value of this header field, of the first one if there are several.
    Header(HeaderName),
    /// The value of the cookie with this name, of the first one if there are several.
    Cookie(String),
    /// The host in lower case, without the port, and the path: for nodes that hold several sites.
    HostAndPath,
    /// The client's IP address, as text. A client on a unix socket has none.
    ClientAddress,
    /// What the one group of a pattern captures in path and query.
    Capture(Pattern),
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeySource::Path => f.write_str("path"),
            KeySource::PathAndQuery => f.write_str("path_and_query"),
            KeySource::HostAndPath => f.write_str("host_and_path"),
            KeySource::ClientAddress => f.write_str("client_address"),
            KeySource::Header(name) => write!(f, "header {name}"),
            KeySource::Cookie(name) => write!(f, "cookie {name}"),
            KeySource::Capture(pattern) => write!(f, "pattern {}", pattern.as_str()),
        }
    }
}

/// What happens to a request that lacks what its ring key comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Its path and query are the key.
    #[default]
    PathAndQuery,
    /// It is refused with 400.
    Refuse,
}

/// A request without a ring key, under a rule that refuses those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request has nothing that its ring key could come from")]
pub struct NoKey;

/// A regular expression with exactly one capture group. Searching takes time that is linear in the
/// length of what is searched, whatever the pattern.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// Why a text is no [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is not a regular expression, or one that compiles to more than 10 MiB.
    #[error("`{0}` is not a regular expression")]
    Syntax(String),
    /// It has no group, or more than one.
    #[error("`{0}` has {1} groups; the ring key is what one group captures: write (?:...) for the others")]
    Groups(String, usize),
}

impl Default for KeyRule {
    fn default() -> KeyRule {
        KeyRule { from: KeySource::PathAndQuery, missing: Missing::default() }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// It is none, or has another number of groups than one.
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        let regex = Regex::new(text).map_err(|_| PatternError::Syntax(text.to_owned()))?;
        match regex.captures_len() - 1 {
            1 => Ok(Pattern(regex)),
            groups => Err(PatternError::Groups(text.to_owned(), groups)),
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    fn capture<'a>(&self, text: &'a str) -> Option<&'a str> {
        Some(self.0.captures(text)?.get(1)?.as_str())
    }
}

/// The ring key of a request: its `host` (with or without a port), its path and query as written,
/// its header fields, and the client's address if it has one. What is there and empty counts as
/// missing.
///
/// # Errors
/// The request lacks what the rule looks at, and the rule refuses those.
pub fn ring_key<'a>(
    rule: &KeyRule,
    host: Option<&str>,
    path_and_query: &'a str,
    headers: &'a HeaderMap,
    client: Option<IpAddr>,
) -> Result<Cow<'a, [u8]>, NoKey> {
    let path = path_and_query.split('?').next().unwrap_or_default();
    let found: Option<Cow<'a, [u8]>> = match &rule.from {
        KeySource::PathAndQuery => Some(path_and_query.as_bytes().into()),
        KeySource::Path => Some(path.as_bytes().into()),
        KeySource::Header(name) => headers.get(name).map(|value| value.as_bytes().into()),
        KeySource::Cookie(name) => cookie(headers, name.as_bytes()).map(Cow::Borrowed),
        KeySource::HostAndPath => host.map(bare_host).filter(|host| !host.is_empty()).map(|host| {
            let mut key = host.to_ascii_lowercase();
            key.push_str(path);
            key.into_bytes().into()
        }),
        // A client of a dual-stack listener is the same one as on a listener for IPv4.
        KeySource::ClientAddress => client.map(|ip| ip.to_canonical().to_string().into_bytes().into()),
        KeySource::Capture(pattern) => pattern.capture(path_and_query).map(|text| text.as_bytes().into()),
    };
    match (found.filter(|key| !key.is_empty()), rule.missing) {
        (Some(key), _) => Ok(key),
        (None, Missing::PathAndQuery) => Ok(path_and_query.as_bytes().into()),
        (None, Missing::Refuse) => Err(NoKey),
    }
}

/// A host without its port. The colons of an IPv6 address stand in brackets (RFC 3986, 3.2.2).
fn bare_host(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|b| b.is_ascii_digit()) => bare,
        _ => host,
    }
}

/// The value of a cookie (RFC 6265, 4.2). HTTP/2 may send a field for each (RFC 9113, 8.2.3).
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).into_iter().flat_map(|v| v.as_bytes().split(|b| *b == b';'));
    pairs
        .filter_map(|pair| {
            let at = pair.iter().position(|b| *b == b'=')?;
            Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
        })
        .find(|(named, _)| *named == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().expect("a header's value"))
        };
        fields.iter().map(field).fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
    }

    fn rules() -> Vec<KeySource> {
        vec![
            KeySource::Path,
            KeySource::PathAndQuery,
            KeySource::Header(HeaderName::from_static("x-user")),
            KeySource::Cookie("sid".into()),
            KeySource::HostAndPath,
            KeySource::ClientAddress,
            KeySource::Capture(Pattern::new("^/([^/?]+)/").expect("a pattern")),
        ]
    }

    /// Each rule takes its part of the request, and no other.
    #[test]
    fn each_rule_takes_its_part() {
        let fields = headers(&[("x-user", "u1"), ("x-user", "u2"), ("cookie", "a=b; sid=s=1 ;sid=2")]);
        let client: IpAddr = "::ffff:10.0.0.9".parse().expect("an address");
        let wanted = ["/b/k", "/b/k?v=1?2", "u1", "s=1", "example.org/b/k", "10.0.0.9", "b"];
        for (from, wanted) in rules().into_iter().zip(wanted) {
            let rule = KeyRule { from, missing: Missing::Refuse };
            let key = ring_key(&rule, Some("Example.ORG:8080"), "/b/k?v=1?2", &fields, Some(client));
            assert_eq!(key.as_deref(), Ok(wanted.as_bytes()), "{rule:?}");
        }
    }

    /// A request without the part goes by path and query, or is refused; an empty part is none.
    #[test]
    fn without_the_part() {
        for fields in [headers(&[]), headers(&[("x-user", ""), ("cookie", "sid=; sidd=1; Sid=2; =3; x")])] {
            for from in rules().into_iter().skip(2) {
                let mut rule = KeyRule { from, missing: Missing::PathAndQuery };
                let key = ring_key(&rule, None, "/?q", &fields, None);
                assert_eq!(key.as_deref(), Ok(&b"/?q"[..]), "{rule:?}");
                rule.missing = Missing::Refuse;
                assert_eq!(ring_key(&rule, None, "/?q", &fields, None), Err(NoKey), "{rule:?}");
            }
        }
    }

    /// Cookies are found in each of several header fields, as HTTP/2 sends them.
    #[test]
    fn cookies_of_several_fields() {
        let fields = headers(&[("cookie", "a=1"), ("cookie", "sid=2"), ("cookie", "sid=3")]);
        assert_eq!(cookie(&fields, b"sid"), Some(&b"2"[..]));
    }

    /// A port is left out, of names and of addresses, and nothing else is.
    #[test]
    fn hosts_lose_their_port() {
        for (host, bare) in
            [("a", "a"), ("a:80", "a"), ("a:", "a"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), (":80", "")]
        {
            assert_eq!(bare_host(host), bare, "{host}");
        }
    }

    /// A pattern has one group, and says what is wrong with another.
    #[test]
    fn patterns() {
        for (text, wrong) in
            [("/(", "`/(` is not a regular"), ("/", "has 0 groups"), ("(a)(b)", "has 2 groups")]
        {
            let error = Pattern::new(text).expect_err(text).to_string();
            assert!(error.contains(wrong), "{error}");
        }
        let optional = Pattern::new("^/(x)?").expect("a pattern");
        assert_eq!((optional.capture("/y"), optional.capture("/x")), (None, Some("x")));
    }

    proptest! {
        /// Any request has a key under each rule that refuses none, and none makes it panic.
        #[test]
        fn any_request_has_a_key(
            path in "\\PC{0,40}",
            host in proptest::option::of("\\PC{0,20}"),
            value in prop::collection::vec(0x20u8..0x7f, 0..40),
        ) {
            let mut fields = HeaderMap::new();
            fields.insert(header::COOKIE, value[..].try_into().expect("it is printable"));
            for from in rules() {
                let rule = KeyRule { from, missing: Missing::PathAndQuery };
                prop_assert!(ring_key(&rule, host.as_deref(), &path, &fields, None).is_ok());
            }
        }
    }
}
