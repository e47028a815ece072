//! What one pipeline owes and is owed: a pure FIFO of requests and their bytes. A request's bytes
//! stay until its reply came, so that after a lost connection each is known to be *unsent* (its
//! last byte was not written: the node can't have executed it) or *maybe applied*.

use std::collections::VecDeque;

/// Whether a node can have executed a request whose connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its last byte was never written.
    Unsent,
    /// All of it was written.
    MaybeApplied,
    /// It is streamed, and its end never came from the client: the node can't have executed it, and it can't
    /// be repeated.
    Broken,
}

/// One request and what it needs to be answered.
#[derive(Debug)]
struct Entry<T> {
    tag: T,
    len: usize,
}

/// The FIFO. `T` says whose request it is.
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    entries: VecDeque<Entry<T>>,
    /// The requests' bytes, one after the other, from `start` on.
    log: Vec<u8>,
    start: usize,
    written: usize,
    /// Written bytes of the head were forgotten.
    forgot: bool,
    /// Requests that were done, ever.
    done: u64,
}

/// A log buffer larger than this is given back when it is empty.
const KEEP_BYTES: usize = 64 * 1024;

impl<T> Default for InFlight<T> {
    fn default() -> InFlight<T> {
        InFlight { entries: VecDeque::new(), log: Vec::new(), start: 0, written: 0, forgot: false, done: 0 }
    }
}

impl<T> InFlight<T> {
    /// Appends a request.
    #[inline(always)]
    pub(crate) fn push(&mut self, tag: T, bytes: &[u8]) {
        self.entries.push_back(Entry { tag, len: bytes.len() });
        self.log.extend_from_slice(bytes);
    }

    /// Appends bytes to the last request.
    pub(crate) fn extend_last(&mut self, bytes: &[u8]) {
        if let Some(last) = self.entries.back_mut() {
            self.log.extend_from_slice(bytes);
            last.len += bytes.len();
        }
    }

    /// Forgets written bytes of a request that will not be repeated, so that a large one need not
    /// be held whole. Only for a pipeline with one request.
    pub(crate) fn forget_written(&mut self) {
        if let [entry] = self.entries.make_contiguous() {
            entry.len -= self.written - self.start;
            self.forgot |= self.written > self.start;
            self.log.drain(..self.written);
            self.start = 0;
            self.written = 0;
        }
    }

    /// What must still be written.
    #[inline]
    pub(crate) fn unwritten(&self) -> &[u8] {
        &self.log[self.written..]
    }

    /// Notes that `n` bytes were written.
    pub(crate) fn wrote(&mut self, n: usize) {
        self.written += n;
        debug_assert!(self.written <= self.log.len());
    }

    /// Whose reply comes next.
    #[inline]
    pub(crate) fn front(&self) -> Option<&T> {
        self.entries.front().map(|e| &e.tag)
    }

    /// The same, once it was written whole, so that a reply to it makes sense; with the bytes that it has.
    #[inline]
    pub(crate) fn written_front(&self) -> Option<(&T, usize)> {
        self.entries.front().filter(|e| self.start + e.len <= self.written).map(|e| (&e.tag, e.len))
    }

    /// The requests that were written whole, in order, with the bytes that each has.
    #[inline]
    pub(crate) fn written(&self) -> impl Iterator<Item = (&T, usize)> {
        let (mut end, written) = (self.start, self.written);
        self.entries.iter().map_while(move |entry| {
            end += entry.len;
            (end <= written).then_some((&entry.tag, entry.len))
        })
    }

    /// The bytes of that request; none when some of it was forgotten.
    pub(crate) fn front_bytes(&self) -> Option<&[u8]> {
        let entry = self.entries.front().filter(|_| !self.forgot)?;
        self.log.get(self.start..self.start + entry.len)
    }

    /// The request whose reply came is done.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        let entry = self.entries.pop_front()?;
        self.popped(1, entry.len);
        Some(entry.tag)
    }

    /// So many requests at the head, of so many bytes in all, whose replies came are done.
    #[inline]
    pub(crate) fn pop_many(&mut self, count: usize, bytes: usize) {
        match count {
            0 => return,
            1 => drop(self.entries.pop_front()),
            _ => drop(self.entries.drain(..count)),
        }
        self.popped(count, bytes);
    }

    #[inline(always)]
    fn popped(&mut self, count: usize, bytes: usize) {
        self.start += bytes;
        self.forgot = false;
        self.done += count as u64;
        if self.entries.is_empty() {
            self.log.clear();
            self.start = 0;
            self.written = 0;
            if self.log.capacity() > KEEP_BYTES {
                self.log = Vec::new();
            }
        } else if self.start > KEEP_BYTES && self.start > self.log.len() / 2 {
            self.log.drain(..self.start);
            self.written -= self.start;
            self.start = 0;
        }
    }

    /// Whether the head was written whole.
    pub(crate) fn head_is_written(&self) -> bool {
        self.written_front().is_some()
    }

    /// Whether some of the head was written.
    pub(crate) fn head_has_begun(&self) -> bool {
        !self.entries.is_empty() && (self.forgot || self.written > self.start)
    }

    /// Requests in the FIFO.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Requests that were done, ever.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Whether there is no request.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the requests in the FIFO.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.log.len() - self.start
    }

    /// Whose requests are in the FIFO, in order.
    pub(crate) fn tags(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|e| &e.tag)
    }

    /// The requests with their bytes, the last one first. Of one that is streamed the bytes that were not
    /// forgotten.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (&T, &[u8])> {
        let mut end = self.log.len();
        self.entries.iter().rev().map(move |entry| {
            end -= entry.len;
            (&entry.tag, &self.log[end..end + entry.len])
        })
    }

    /// The connection is gone: empties the FIFO, each request with its fate and its bytes, in
    /// order.
    pub(crate) fn take(&mut self) -> Vec<(T, Fate, Vec<u8>)> {
        let mut at = self.start;
        let entries = std::mem::take(&mut self.entries);
        let log = std::mem::take(&mut self.log);
        let written = std::mem::take(&mut self.written);
        self.start = 0;
        self.forgot = false;
        entries
            .into_iter()
            .map(|entry| {
                let bytes = log[at..at + entry.len].to_vec();
                at += entry.len;
                let fate = if at <= written { Fate::MaybeApplied } else { Fate::Unsent };
                (entry.tag, fate, bytes)
            })
            .collect()
    }

    /// Empties the part of the FIFO that was not written whole; what was stays and waits for its
    /// replies. A half-written request stays too: the stream would be broken without its rest.
    pub(crate) fn take_unwritten(&mut self) -> Vec<(T, Vec<u8>)> {
        let mut at = self.start;
        let mut keep = 0;
        // Of a head that has begun, what was written may be forgotten.
        let begun = usize::from(self.head_has_begun());
        for entry in &self.entries {
            if keep >= begun && at >= self.written {
                break;
            }
            at += entry.len;
            keep += 1;
        }
        let taken = self.entries.split_off(keep);
        let log = self.log.split_off(at);
        let mut at = 0;
        taken
            .into_iter()
            .map(|entry| {
                at += entry.len;
                (entry.tag, log[at - entry.len..at].to_vec())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A request is unsent until its last byte is written, and its bytes come back whole.
    #[test]
    fn fates_by_the_last_byte() {
        for written in 0..=9 {
            let mut fifo = InFlight::default();
            for (tag, bytes) in [(1, "aaa"), (2, "bbb"), (3, "ccc")] {
                fifo.push(tag, bytes.as_bytes());
            }
            fifo.wrote(written);
            let fate = |end| if written >= end { Fate::MaybeApplied } else { Fate::Unsent };
            let expected = vec![
                (1, fate(3), b"aaa".to_vec()),
                (2, fate(6), b"bbb".to_vec()),
                (3, fate(9), b"ccc".to_vec()),
            ];
            assert_eq!(fifo.take(), expected);
            assert!(fifo.is_empty() && fifo.unwritten().is_empty() && fifo.bytes() == 0);
        }
    }

    /// Only requests of which nothing was written can be taken back from a live connection.
    #[test]
    fn a_half_written_request_stays() {
        let mut fifo = InFlight::default();
        fifo.push('a', b"aaa");
        fifo.push('b', b"bbb");
        fifo.push('c', b"ccc");
        fifo.wrote(4);
        let newest = [(&'c', &b"ccc"[..]), (&'b', b"bbb"), (&'a', b"aaa")];
        assert_eq!(fifo.newest_first().collect::<Vec<_>>(), newest);
        assert_eq!(fifo.take_unwritten(), vec![('c', b"ccc".to_vec())]);
        assert_eq!(fifo.unwritten(), b"bb");
        assert_eq!(fifo.tags().collect::<Vec<_>>(), [&'a', &'b']);
    }

    /// A large request that is streamed holds only what is not yet written.
    #[test]
    fn a_streamed_request_is_not_held() {
        let mut fifo = InFlight::default();
        fifo.push('s', b"head");
        for _ in 0..1000 {
            fifo.extend_last(&[b'x'; 1000]);
            fifo.wrote(fifo.unwritten().len() - 1);
            fifo.forget_written();
            assert_eq!(fifo.bytes(), 1);
            assert!(fifo.head_has_begun() && !fifo.head_is_written());
        }
        assert!(fifo.take_unwritten().is_empty(), "it has begun, though nothing tells of it any more");
        fifo.wrote(1);
        assert!(fifo.head_is_written());
        assert_eq!(fifo.pop(), Some('s'));
        fifo.push('n', b"next");
        assert!(!fifo.head_has_begun());
    }

    proptest! {
        /// Whatever is pushed, written and popped: the bytes come out once, in order, and the FIFO
        /// gives back what it was given.
        #[test]
        fn bytes_in_order(steps in prop::collection::vec((0usize..3, 1usize..40_000), 1..200)) {
            let mut fifo = InFlight::default();
            let (mut pushed, mut popped, mut sent, mut all) = (0usize, 0usize, Vec::new(), Vec::new());
            for (kind, size) in steps {
                match kind {
                    0 => {
                        let bytes = vec![pushed as u8; size];
                        fifo.push(pushed, &bytes);
                        all.extend_from_slice(&bytes);
                        pushed += 1;
                    }
                    1 => {
                        let n = size.min(fifo.unwritten().len());
                        sent.extend_from_slice(&fifo.unwritten()[..n]);
                        fifo.wrote(n);
                    }
                    _ => {
                        if fifo.head_is_written() {
                            prop_assert_eq!(fifo.pop(), Some(popped));
                            popped += 1;
                        }
                    }
                }
                prop_assert_eq!(fifo.len(), pushed - popped);
                prop_assert_eq!(sent.len() + fifo.unwritten().len(), all.len());
                prop_assert!(all.starts_with(&sent));
            }
        }
    }
}
