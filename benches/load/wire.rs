//! How requests and replies look in each protocol. Those of Redis and memcached are known byte by byte
//! before they come; of HTTP's replies the bodies are, while each server has heads of its own.

use super::{
    Failure,
    work::{COPIED_MAX, Reply, Request, Verb, Work, header},
};

/// What goes over the connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wire {
    Redis,
    Memcached,
    /// GET of a path each, answered with the path and filling up to the length of a value.
    Http,
}

impl Work {
    /// Appends a request as it goes over the wire.
    pub(super) fn encode(&self, request: Request, out: &mut Vec<u8>) {
        match self.wire {
            Wire::Redis => self.encode_redis(request, out),
            Wire::Memcached => self.encode_memcached(request, out),
            Wire::Http => {
                out.extend_from_slice(b"GET /");
                out.extend_from_slice(&self.key_text(request.key));
                out.extend_from_slice(b" HTTP/1.1\r\nHost: bench.test\r\n\r\n");
            }
        }
    }

    fn encode_redis(&self, request: Request, out: &mut Vec<u8>) {
        match request.verb {
            Verb::Get => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
                self.key(request.key, out);
            }
            Verb::Set => {
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                self.key(request.key, out);
                self.value(request.key, out);
            }
            Verb::Mget(count) => {
                header(b'*', count as usize + 1, out);
                out.extend_from_slice(b"$4\r\nMGET\r\n");
                (0..count).for_each(|i| self.key(self.nth(request.key, i), out));
            }
            Verb::Mset(count) => {
                header(b'*', 2 * count as usize + 1, out);
                out.extend_from_slice(b"$4\r\nMSET\r\n");
                for key in (0..count).map(|i| self.nth(request.key, i)) {
                    self.key(key, out);
                    self.value(key, out);
                }
            }
        }
    }

    /// Several keys at once are for Redis only: proxies answer a `get` of many in orders of their own.
    fn encode_memcached(&self, request: Request, out: &mut Vec<u8>) {
        let key = self.key_text(request.key);
        match request.verb {
            Verb::Get | Verb::Mget(_) => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(&key);
                out.extend_from_slice(b"\r\n");
            }
            Verb::Set | Verb::Mset(_) => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(&key);
                out.extend_from_slice(format!(" 0 0 {}\r\n", self.value_bytes).as_bytes());
                let rest = self.begin_value(request.key, out);
                out.extend_from_slice(rest);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// What a request's reply must be, or its body where there are heads; `scratch` holds the pieces that
    /// are made for it.
    pub(super) fn reply<'a>(&'a self, request: Request, scratch: &'a mut Vec<u8>) -> Reply<'a> {
        scratch.clear();
        match (self.wire, request.verb) {
            (Wire::Http, _) => {
                scratch.push(b'/');
                scratch.extend_from_slice(&self.key_text(request.key));
                [scratch, &self.filling, b""]
            }
            (Wire::Memcached, Verb::Set | Verb::Mset(_)) => [b"STORED\r\n", b"", b""],
            (Wire::Memcached, Verb::Get | Verb::Mget(_)) => {
                scratch.extend_from_slice(b"VALUE ");
                scratch.extend_from_slice(&self.key_text(request.key));
                scratch.extend_from_slice(format!(" 0 {}\r\n", self.value_bytes).as_bytes());
                let rest = self.begin_value(request.key, scratch);
                [scratch, rest, b"\r\nEND\r\n"]
            }
            (Wire::Redis, Verb::Set | Verb::Mset(_)) => [b"+OK\r\n", b"", b""],
            (Wire::Redis, Verb::Get) if self.value_bytes > COPIED_MAX => {
                header(b'$', self.value_bytes, scratch);
                let rest = self.begin_value(request.key, scratch);
                [scratch, rest, b"\r\n"]
            }
            (Wire::Redis, Verb::Get) => {
                self.value(request.key, scratch);
                [scratch, b"", b""]
            }
            (Wire::Redis, Verb::Mget(count)) => {
                header(b'*', count as usize, scratch);
                (0..count).for_each(|i| self.value(self.nth(request.key, i), scratch));
                [scratch, b"", b""]
            }
        }
    }

    /// Whether replies have heads in front of what is known of them.
    pub(super) fn has_heads(&self) -> bool {
        self.wire == Wire::Http
    }

    /// Holds a head against what must stand in it.
    pub(super) fn check_head(&self, head: &[u8]) -> Result<(), Failure> {
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let is_right = text.starts_with("http/1.1 200 ")
            && length.and_then(|n| n.trim().parse::<usize>().ok()) == Some(self.value_bytes);
        if is_right { Ok(()) } else { Err(format!("a reply with this head: {text}").into()) }
    }
}
