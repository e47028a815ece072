//! A stream of requests, cut where the fuzzer likes, gives what it gives in one piece.
//!
//! The first byte says how many cuts follow, each cut being one byte of position; the rest is the
//! stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::protocol::resp::frame::{FrameError, FrameLimits, Request, RequestDecoder, Step};

const LIMITS: FrameLimits = FrameLimits { bulk_bytes: 1 << 20, request_bytes: 1 << 22, args_max: 1024 };

/// All requests of a stream, and the error that ended it.
fn requests<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<Vec<u8>>>, Option<FrameError>) {
    let mut decoder = RequestDecoder::default();
    let (mut buffer, mut found) = (Vec::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            let (frame, used) = match decoder.decode(&buffer, &LIMITS) {
                Ok(Step::Partial(needs)) => {
                    assert!(needs > buffer.len(), "it has what it asks for");
                    break;
                }
                Ok(Step::Skip(n)) => (None, n),
                Ok(Step::Request(n)) => (Some(&buffer[..n]), n),
                Ok(Step::Inline(n)) => (Some(decoder.inline()), n),
                Err(error) => return (found, Some(error)),
            };
            assert!(used > 0, "it stands still");
            if let Some(frame) = frame {
                let request = Request::new(frame, decoder.spans());
                assert!(request.len() > 0, "a request has a name");
                found.push(request.args().map(<[u8]>::to_vec).collect());
            }
            buffer.drain(..used);
        }
    }
    (found, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((count, rest)) = data.split_first() else { return };
    let (cuts, stream) = rest.split_at(rest.len().min(*count as usize % 8));
    let mut at: Vec<usize> = cuts.iter().map(|c| *c as usize % (stream.len() + 1)).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    let whole = requests(std::iter::once(stream));
    assert_eq!(requests(at.windows(2).map(|w| &stream[w[0]..w[1]])), whole);
    assert_eq!(requests(stream.chunks(1)), whole);
});
