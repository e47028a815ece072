//! A reply is read as a value only when the scanner finds that it is whole, and merging replies
//! of any bytes gives one whole reply.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::protocol::resp::{
    Version,
    frame::Scanner,
    merge::{self, Part},
    rule::{Gather, Split},
    value::Value,
};

fn assert_whole(out: &[u8]) {
    let scan = Scanner::default().advance(out).expect("a merged reply is a reply");
    assert!(scan.done && scan.used == out.len(), "one whole reply");
}

fuzz_target!(|bytes: &[u8]| {
    let scan = Scanner::default().advance(bytes).ok().filter(|s| s.done);
    let Some(used) = scan.map(|s| s.used) else {
        assert_eq!(Value::parse(bytes), None);
        return;
    };
    // The scanner does not look into lines: `:x` ends where it ends, and is no value.
    if let Some((_, parsed)) = Value::parse(bytes) {
        assert_eq!(parsed, used);
    }
    let part = |positions| Part { node: "n", reply: &bytes[..used], positions };
    for kind in [Split::Values, Split::Pairs, Split::Count] {
        for per_key_errors in [false, true] {
            let mut out = Vec::new();
            merge::split(kind, 2, &[part(&[1]), part(&[0])], per_key_errors, &mut out);
            assert_whole(&out);
        }
    }
    for kind in [Gather::Sum, Gather::Ok, Gather::Keys, Gather::Random, Gather::Same, Gather::Every, Gather::Any] {
        let mut out = Vec::new();
        merge::gather(kind, &[part(&[]), part(&[])], Version::Resp3, &|_, _| true, 1, &mut out);
        assert_whole(&out);
    }
});
