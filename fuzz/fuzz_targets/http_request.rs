//! HTTP: whatever a request's head has in it, preparing it does not panic, and what is forwarded leaves
//! nothing to read in two ways: one Host at most, no transfer coding, nothing of the client's connection.
//!
//! Lines: the method, the target, then `name: value` for each field.
#![no_main]

use http::{HeaderName, HeaderValue, Method, Request, Version, header};
use libfuzzer_sys::fuzz_target;
use ringway::protocol::http::{KeyRule, KeySource, prepare, ring_key};

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|b| *b == b'\n');
    let (Some(method), Some(target)) = (lines.next(), lines.next()) else { return };
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][data.len() % 3];
    let Ok(method) = Method::from_bytes(method) else { return };
    let Ok(request) = Request::builder().method(method).uri(target).version(version).body(()) else { return };
    let (mut head, ()) = request.into_parts();
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            head.headers.append(name, value);
        }
    }
    if let Err(refused) = prepare(&mut head) {
        assert!(refused.status().is_client_error() || refused.status().is_server_error());
        return;
    }
    assert!(head.headers.get_all(header::HOST).iter().count() <= 1);
    assert!(head.uri.authority().is_none() && head.uri.scheme().is_none());
    for name in [header::TRANSFER_ENCODING, header::CONNECTION, header::TE, header::UPGRADE, header::EXPECT] {
        assert!(!head.headers.contains_key(&name), "{name}");
    }
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
    for from in [KeySource::PathAndQuery, KeySource::Path, KeySource::HostAndPath] {
        let rule = KeyRule { from, ..KeyRule::default() };
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        // Without a host there may be no key.
        let _ = ring_key(&rule, host, path, &head.headers, None);
    }
});
