//! What is asked, and what must come back: requests are drawn at random, and everything about one,
//! its values included, follows from its verb and its key's number. So every reply is known byte by
//! byte before it comes.

use super::wire::Wire;

/// Bytes of a key.
const KEY_BYTES: usize = 16;
/// Bytes at a value's beginning that no other key has.
const MARK_BYTES: usize = 16;
/// Values begin in the noise at one of so many places.
const NOISE_STARTS: usize = 4096;
/// Longer values are compared where they stand instead of being copied together first.
pub(super) const COPIED_MAX: usize = 4096;
/// From one key of an MGET or MSET to its next.
const STRIDE: u64 = 7919;

/// The kinds of requests in a load.
#[derive(Clone, Copy)]
pub(crate) enum Ask {
    /// SET of each key in turn, so that the others find it.
    Fill,
    /// GET, and SET for this share of the requests.
    Mixed { sets_percent: u64 },
    /// MGET of so many keys.
    Mget(u64),
    /// MSET of so many keys.
    Mset(u64),
}

/// A space of keys with their values, and what is asked of them.
pub(crate) struct Work {
    ask: Ask,
    pub(super) wire: Wire,
    keys: u64,
    pub(super) value_bytes: usize,
    /// What stands behind a path in the body of an HTTP reply.
    pub(super) filling: Vec<u8>,
    /// What all keys begin with; another one is another space of keys.
    prefix: [u8; 3],
    noise: Vec<u8>,
}

/// One request.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(super) verb: Verb,
    /// The number of its (first) key.
    pub(super) key: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Verb {
    Get,
    Set,
    Mget(u64),
    Mset(u64),
}

/// What must come back, in pieces that follow one another.
pub(crate) type Reply<'a> = [&'a [u8]; 3];

impl Work {
    /// Values are at least as long as the mark that tells them apart.
    pub(crate) fn new(prefix: [u8; 3], keys: u64, value_bytes: usize) -> Work {
        assert!(value_bytes >= MARK_BYTES, "a value of {value_bytes} bytes has no room for its mark");
        let mut random = Random::new(1);
        let words = (value_bytes + NOISE_STARTS).div_ceil(8);
        let noise = (0..words).flat_map(|_| random.next().to_le_bytes()).collect();
        let filling = vec![b'x'; value_bytes - MARK_BYTES - 1];
        Work { ask: Ask::Fill, wire: Wire::Redis, keys, value_bytes, filling, prefix, noise }
    }

    /// The same keys and values in another protocol.
    pub(crate) fn over(self, wire: Wire) -> Work {
        Work { wire, ..self }
    }

    /// The same keys and values, asked otherwise.
    pub(crate) fn ask(self, ask: Ask) -> Work {
        Work { ask, ..self }
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// The `number`th request of a load.
    pub(super) fn draw(&self, number: u64, random: &mut Random) -> Request {
        let (verb, key) = match self.ask {
            Ask::Fill => (Verb::Set, number),
            Ask::Mixed { sets_percent } if (random.next() >> 32) % 100 < sets_percent => {
                (Verb::Set, random.next())
            }
            Ask::Mixed { .. } => (Verb::Get, random.next()),
            Ask::Mget(count) => (Verb::Mget(count), random.next()),
            Ask::Mset(count) => (Verb::Mset(count), random.next()),
        };
        Request { verb, key: key % self.keys }
    }

    /// A request in words, for messages.
    pub(super) fn describe(&self, request: Request) -> String {
        let key = String::from_utf8_lossy(&self.key_text(request.key)).into_owned();
        match request.verb {
            Verb::Get => format!("GET {key}"),
            Verb::Set => format!("SET {key}"),
            Verb::Mget(count) => format!("MGET of {count} keys from {key} on"),
            Verb::Mset(count) => format!("MSET of {count} keys from {key} on"),
        }
    }

    pub(super) fn nth(&self, first: u64, i: u64) -> u64 {
        (first + i * STRIDE) % self.keys
    }

    /// A key, its number in decimal digits.
    pub(super) fn key_text(&self, mut number: u64) -> [u8; KEY_BYTES] {
        let mut text = [b'0'; KEY_BYTES];
        text[..self.prefix.len()].copy_from_slice(&self.prefix);
        for digit in text[self.prefix.len()..].iter_mut().rev() {
            if number == 0 {
                break;
            }
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        text
    }

    /// A key as an argument of Redis.
    pub(super) fn key(&self, number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b"$16\r\n");
        out.extend_from_slice(&self.key_text(number));
        out.extend_from_slice(b"\r\n");
    }

    /// A key's value as an argument, or as a reply: both are written alike.
    pub(super) fn value(&self, key: u64, out: &mut Vec<u8>) {
        header(b'$', self.value_bytes, out);
        let rest = self.begin_value(key, out);
        out.extend_from_slice(rest);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends a value's mark and gives what follows it.
    pub(super) fn begin_value(&self, key: u64, out: &mut Vec<u8>) -> &[u8] {
        let prefix = self.prefix.iter().fold(0, |all, &byte| all << 8 | u64::from(byte));
        let hash = mix(key ^ prefix << 40);
        let mark: [u8; MARK_BYTES] =
            std::array::from_fn(|i| b"0123456789abcdef"[(hash >> (4 * i) & 15) as usize]);
        out.extend_from_slice(&mark);
        let start = hash as usize % NOISE_STARTS;
        &self.noise[start..start + self.value_bytes - MARK_BYTES]
    }
}

/// xorshift64: which keys are asked for.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(mix(seed) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// splitmix64's finaliser.
fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// `$64` or `*10`, with its line end.
pub(super) fn header(kind: u8, mut number: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}
