//! Where the heads of requests begin and end in what an HTTP/2 client sends (RFC 9113, 4.1 and 6.2). hyper
//! reads the frames; this looks over its shoulder, as it does not tell of a head before it is whole.

const HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the frames of one connection, from behind the preface on.
#[derive(Clone, Debug, Default)]
pub struct HeadScan {
    header: [u8; HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the payload that are to come.
    payload: usize,
    /// This frame is the last of a head.
    is_last: bool,
    /// Beginnings and ends of heads so far.
    turns: u64,
}

impl HeadScan {
    /// Takes what was read, cut anywhere; gives how many heads have begun and ended until now, added up: it
    /// is odd within one.
    pub fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        while !bytes.is_empty() {
            if self.have < HEADER {
                let n = bytes.len().min(HEADER - self.have);
                self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                self.have += n;
                bytes = &bytes[n..];
                if self.have < HEADER {
                    break;
                }
                self.begin();
            }
            let n = bytes.len().min(self.payload);
            self.payload -= n;
            bytes = &bytes[n..];
            if self.payload == 0 {
                self.end();
            }
        }
        self.turns
    }

    fn is_within(&self) -> bool {
        self.turns % 2 == 1
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        let is_head = matches!(kind, HEADERS | CONTINUATION);
        self.is_last = is_head && flags & END_HEADERS != 0;
        if is_head && !self.is_within() {
            self.turns += 1;
        }
    }

    fn end(&mut self) {
        self.have = 0;
        if std::mem::take(&mut self.is_last) && self.is_within() {
            self.turns += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, len, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + usize::from(len), 0);
        frame
    }

    /// Heads are counted in whatever pieces their frames come, and nothing else is.
    #[test]
    fn heads_in_frames() {
        // What each frame leaves: settings, a head in one, data, a ping, a head in three, one without fields.
        let frames = [
            (frame(4, 0, 0), 0),
            (frame(4, 1, 0), 0),
            (frame(HEADERS, END_HEADERS, 20), 2),
            (frame(0, 4, 200), 2),
            (frame(6, 0, 8), 2),
            (frame(HEADERS, 1, 5), 3),
            (frame(CONTINUATION, 0, 0), 3),
            (frame(CONTINUATION, END_HEADERS, 7), 4),
            (frame(HEADERS, END_HEADERS, 0), 6),
        ];
        let mut scan = HeadScan::default();
        for (bytes, turns) in &frames {
            assert_eq!(scan.feed(bytes), *turns, "{bytes:?}");
        }
        let all: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        assert_eq!(HeadScan::default().feed(&all), 6);
        for size in 1..20 {
            let mut scan = HeadScan::default();
            let last = all.chunks(size).map(|piece| scan.feed(piece)).last();
            assert_eq!(last, Some(6), "in pieces of {size}");
        }
    }

    /// A head has begun once its frame's kind is known, and ends with its last byte.
    #[test]
    fn a_head_that_stops() {
        let whole = frame(HEADERS, END_HEADERS, 20);
        let mut scan = HeadScan::default();
        assert_eq!(scan.feed(&whole[..5]), 0);
        assert_eq!(scan.feed(&whole[5..12]), 1, "it has begun");
        assert_eq!(scan.feed(&whole[12..]), 2);
    }
}
