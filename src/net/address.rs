//! Where a node is and where a pool listens, as text and resolved.

use std::{fmt, io, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

/// Where a node is, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`; the host may be a name.
    Tcp {
        /// Name, IPv4 address, or IPv6 address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `unix:/path`.
    Unix(PathBuf),
    /// `embedded`: a node that ringway runs in its own process.
    Embedded,
}

/// Where a pool or the admin server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `ip:port`. Port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// An address that can be dialled as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A socket address.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseError {
    text: String,
    expected: &'static str,
}

fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|h| h.contains(':'))?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    (!host.is_empty() && host.chars().all(plain)).then_some(())?;
    Some((host, port.parse().ok()?))
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Address, ParseError> {
        if text == "embedded" {
            return Ok(Address::Embedded);
        }
        if let Some(path) = text.strip_prefix("unix:").filter(|p| !p.is_empty()) {
            return Ok(Address::Unix(path.into()));
        }
        host_port(text)
            .filter(|(_, port)| *port != 0)
            .map(|(host, port)| Address::Tcp { host: host.to_owned(), port })
            .ok_or_else(|| ParseError {
                text: text.to_owned(),
                expected: "an address: host:port, [ipv6]:port, unix:/path or embedded",
            })
    }
}

impl FromStr for ListenAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<ListenAddress, ParseError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|p| !p.is_empty()) {
            return Ok(ListenAddress::Unix(path.into()));
        }
        text.parse().map(ListenAddress::Tcp).map_err(|_| ParseError {
            text: text.to_owned(),
            expected: "an address to listen on: ip:port, [ipv6]:port or unix:/path",
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Embedded => f.write_str("embedded"),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Tcp(address) => write!(f, "{address}"),
            Target::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ListenAddress {
    /// Whether only this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }
}

impl Address {
    /// The target that needs no resolving, if this is one.
    pub fn literal(&self) -> Option<Target> {
        match self {
            Address::Tcp { host, port } => {
                host.parse().ok().map(|ip| Target::Tcp(SocketAddr::new(ip, *port)))
            }
            Address::Unix(path) => Some(Target::Unix(path.clone())),
            Address::Embedded => None,
        }
    }
}

/// Resolves an address to what can be dialled, sorted, so that the same answer in another order
/// is the same answer.
///
/// # Errors
/// The resolver's; [`io::ErrorKind::TimedOut`] after `timeout`.
pub async fn resolve(address: &Address, timeout: Duration) -> io::Result<Arc<[Target]>> {
    if let Some(target) = address.literal() {
        return Ok(Arc::new([target]));
    }
    let Address::Tcp { host, port } = address else {
        return Err(io::Error::other("an embedded node has no address of its own"));
    };
    let lookup = tokio::net::lookup_host((host.as_str(), *port));
    let found = tokio::time::timeout(timeout, lookup)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the resolver did not answer"))??;
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses.into_iter().map(Target::Tcp).collect())
}

/// Whether a resolver that gave this error knows that there is no such name. Any other error says nothing of
/// the name: the resolver was not there, or had no answer either. The standard library gives the reason as
/// text only, the C library's: glibc's, musl's or that of the BSDs.
pub fn is_denied(error: &io::Error) -> bool {
    let text = error.to_string();
    ["not known", "does not resolve", "No address associated", "has no usable address"]
        .iter()
        .any(|reason| text.contains(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every address form reads and prints as itself; what is not one is refused by name.
    #[test]
    fn addresses_round_trip() {
        for text in
            ["127.0.0.1:7001", "[::1]:7001", "redis.example.internal:6379", "unix:/run/x.sock", "embedded"]
        {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:99999",
            "::1:6379",
            "[::1]",
            "[h]:1",
            "unix:",
            "a b:1",
            "redis://h:1",
        ] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains(&format!("`{text}`")));
        }
    }

    /// A name that does not exist is told from a resolver that does not answer.
    #[test]
    fn denials() {
        for (text, expected) in [
            ("failed to lookup address information: Name or service not known", true),
            ("failed to lookup address information: Name does not resolve", true),
            ("failed to lookup address information: No address associated with hostname", true),
            ("failed to lookup address information: nodename nor servname provided, or not known", true),
            ("failed to lookup address information: Temporary failure in name resolution", false),
            ("failed to lookup address information: Try again", false),
            ("the resolver did not answer", false),
        ] {
            assert_eq!(is_denied(&io::Error::other(text)), expected, "{text}");
        }
    }

    /// A listener on loopback or a socket file is local, any other is not.
    #[test]
    fn local_listeners() {
        for (text, local) in [
            ("127.0.0.1:0", true),
            ("[::1]:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(text.parse::<ListenAddress>().map(|a| a.is_local()), Ok(local), "{text}");
        }
        assert!("localhost:1".parse::<ListenAddress>().is_err());
    }
}
