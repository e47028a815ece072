//! Replies end where they end, whether they come in one piece or byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::protocol::resp::frame::{FrameError, Scanner};

/// Where the replies of a stream end, and the error that ended it.
fn ends(stream: &[u8], chunk: usize) -> (Vec<usize>, Option<FrameError>) {
    let (mut scanner, mut found, mut at) = (Scanner::default(), Vec::new(), 0);
    while at < stream.len() {
        let end = stream.len().min(at + chunk);
        match scanner.advance(&stream[at..end]) {
            Ok(scan) => {
                assert!(scan.used > 0, "it stands still");
                assert!(scan.done || scan.used == end - at, "it left bytes that belong to a reply");
                at += scan.used;
                if scan.done {
                    assert!(scanner.is_between());
                    found.push(at);
                }
            }
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((chunk, stream)) = data.split_first() else { return };
    let whole = ends(stream, stream.len().max(1));
    assert_eq!(ends(stream, 1), whole);
    assert_eq!(ends(stream, *chunk as usize + 1), whole);
});
