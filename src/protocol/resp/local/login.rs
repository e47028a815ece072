//! AUTH and HELLO: one user, `default`, with one password or none.

use super::{ClientState, Settings, client, wrong_arity};
use crate::protocol::resp::frame::{Request, number};
use crate::protocol::resp::{Version, info, write};
use crate::protocol::secret::same;

const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// Answers AUTH. A failed one leaves the client as it was, as in Redis.
pub(super) fn auth(request: &Request<'_>, client: &mut ClientState, settings: &Settings, out: &mut Vec<u8>) {
    let (user, password) = match request.len() {
        1 => return wrong_arity(out, "auth"),
        2 if settings.password.is_none() => {
            return write::error(
                out,
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            );
        }
        2 => (&b"default"[..], request.arg(1)),
        3 => (request.arg(1), request.arg(2)),
        _ => return write::error(out, "ERR syntax error"),
    };
    if admits(settings, user, password) {
        client.authenticated = true;
        write::simple(out, "OK");
    } else {
        write::error(out, WRONGPASS);
    }
}

fn admits(settings: &Settings, user: &[u8], password: &[u8]) -> bool {
    let right = settings.password.as_ref().is_none_or(|wanted| same(password, wanted));
    right && user == b"default"
}

/// Answers HELLO. Options act one by one, so those before a wrong one have acted, as in Redis; the
/// version changes last.
pub(super) fn hello(request: &Request<'_>, client: &mut ClientState, settings: &Settings, out: &mut Vec<u8>) {
    let version = match (request.len(), number(request.arg(1))) {
        (1, _) => client.version,
        (_, Some(2)) => Version::Resp2,
        (_, Some(3)) => Version::Resp3,
        (_, Some(_)) => return write::error(out, "NOPROTO unsupported protocol version"),
        (_, None) => return write::error(out, "ERR Protocol version is not an integer or out of range"),
    };
    let mut at = 2;
    while at < request.len() {
        let (option, more) = (request.arg(at), request.len() - 1 - at);
        if option.eq_ignore_ascii_case(b"AUTH") && more >= 2 {
            if !admits(settings, request.arg(at + 1), request.arg(at + 2)) {
                return write::error(out, WRONGPASS);
            }
            client.authenticated = true;
            at += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && more >= 1 {
            if let Err(text) = client::set_name(client, request.arg(at + 1)) {
                return write::error(out, text);
            }
            at += 2;
        } else {
            return write::error(out, [b"ERR Syntax error in HELLO option '", option, b"'"].concat());
        }
    }
    if !client.authenticated {
        return write::error(
            out,
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
             AUTH <user> <pass> option can be used to authenticate the client and select the RESP \
             protocol version at the same time",
        );
    }
    client.version = version;
    greet(client, out);
}

fn greet(client: &ClientState, out: &mut Vec<u8>) {
    write::map(out, client.version, 7);
    for (name, value) in [("server", "redis"), ("version", info::REDIS_VERSION)] {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"proto");
    write::integer(out, if client.version == Version::Resp2 { 2 } else { 3 });
    write::bulk(out, b"id");
    write::integer(out, client.id as i64);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"modules");
    write::array(out, 0);
}
