//! Replies as nodes send them, and what clients get.

use super::Gets::{self, BadGateway, BreaksOff, Reply};

/// A name, the bytes, whether the node closes then, and what the client gets.
pub(super) const REPLIES: &[(&str, &[u8], bool, Gets)] = &[
    ("plain", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("CL and TE", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", false, Reply("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")),
    ("CL twice the same", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("CL twice different", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", false, BadGateway("http_protocol_error", "invalid content-length parsed")),
    ("CL minus", b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi", false, BadGateway("http_protocol_error", "invalid content-length parsed")),
    ("CL plus", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", false, BadGateway("http_protocol_error", "invalid content-length parsed")),
    ("TE gzip, chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", false, BadGateway("http_response_transfer_coding", "an unknown transfer coding")),
    ("TE identity", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhi", true, BadGateway("http_response_transfer_coding", "an unknown transfer coding")),
    ("TE on 1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", true, BadGateway("http_protocol_error", "unexpected transfer-encoding parsed")),
    ("until close", b"HTTP/1.1 200 OK\r\n\r\nhi", true, Reply("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")),
    ("HTTP/1.0 until close", b"HTTP/1.0 200 OK\r\n\r\nhi", true, Reply("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")),
    ("bad chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n", false, BreaksOff("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")),
    ("truncated chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhi", true, BreaksOff("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")),
    ("truncated body", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", true, BreaksOff("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi")),
    ("stalled body", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", false, BreaksOff("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi")),
    ("extra bytes", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("extra junk", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi\r\n\r\n", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("100 first", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("103 first", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("a storm of 1xx", STORM, false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("101 unasked", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false, BadGateway("http_protocol_error", "it switches protocols unasked")),
    ("204 with a body", b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi", false, Reply("HTTP/1.1 204 No Content\r\n\r\n")),
    ("304 with a length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", false, Reply("HTTP/1.1 304 Not Modified\r\n\r\n")),
    ("HEAD with a length", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")),
    ("HEAD with a body", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")),
    ("no status", b"HTTP/1.1\r\n\r\n", false, BadGateway("http_protocol_error", "invalid HTTP version parsed")),
    ("status 99", b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n", false, BadGateway("http_protocol_error", "invalid HTTP status-code parsed")),
    ("status 999", b"HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n", false, Reply("HTTP/1.1 999 High\r\ncontent-length: 0\r\n\r\n")),
    ("status text", b"HTTP/1.1 abc OK\r\n\r\n", false, BadGateway("http_protocol_error", "invalid HTTP status-code parsed")),
    ("HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, BadGateway("http_protocol_error", "invalid HTTP version parsed")),
    ("garbage first", b"garbage\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, BadGateway("http_protocol_error", "invalid HTTP version parsed")),
    ("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("bare CR", b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nhi", false, BadGateway("http_protocol_error", "invalid HTTP header parsed")),
    ("obs-fold", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi", false, BadGateway("http_protocol_error", "invalid HTTP header parsed")),
    ("space before colon", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi", false, BadGateway("http_protocol_error", "invalid HTTP header parsed")),
    ("NUL", b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nhi", false, BadGateway("http_protocol_error", "invalid HTTP header parsed")),
    ("hop-by-hop", b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nhi", false, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("closes", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", true, Reply("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")),
    ("nothing", b"", true, BadGateway("connection_terminated", "connection closed before message completed")),
    ("half a head", b"HTTP/1.1 200 OK\r\nContent-Le", true, BadGateway("connection_terminated", "connection closed before message completed")),
    ("RESP", b"-ERR unknown command\r\n", false, BadGateway("http_protocol_error", "invalid HTTP version parsed")),
    ("TLS alert", b"\x15\x03\x01\x00\x02\x02\x46", true, BadGateway("http_protocol_error", "invalid HTTP version parsed")),
];

/// Forty interim replies, and one at last.
const STORM: &[u8] = b"\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
