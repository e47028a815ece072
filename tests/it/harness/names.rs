//! A resolver that answers when it is told to, for a ringway whose `/etc/resolv.conf` leads to it and to
//! nowhere else.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use tempfile::NamedTempFile;

use super::{ringway::program, server::loopback};

/// What it knows; none while it does not answer.
type Known = Arc<Mutex<Option<HashMap<String, Ipv4Addr>>>>;

/// The resolver. Its thread ends with the process of the tests.
pub(crate) struct Names {
    known: Known,
    conf: NamedTempFile,
}

impl Names {
    /// One that does not answer; none where this may not be done, and then it is said why.
    pub(crate) fn start() -> Option<Names> {
        let ip: Ipv4Addr = loopback().parse().expect("an address");
        let socket = UdpSocket::bind((ip, 53)).map_err(|e| format!("port 53 can't be had: {e}"));
        let unshared =
            Command::new("unshare").args(["-m", "mount", "--bind", "/etc/hosts", "/etc/hosts"]).output();
        let may_mount = match unshared {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("unshare: {error}")),
        };
        let socket = match (socket, may_mount) {
            (Ok(socket), Ok(())) => socket,
            (Err(why), _) | (_, Err(why)) => {
                super::skipped(&format!("no resolver of its own can be had: {why}"));
                return None;
            }
        };
        let mut conf = NamedTempFile::new().expect("a file");
        let text = format!("nameserver {ip}\noptions timeout:1 attempts:1\n");
        std::io::Write::write_all(&mut conf, text.as_bytes()).expect("it takes a line");
        let known = Known::default();
        let knows = known.clone();
        thread::spawn(move || serve(&socket, &knows));
        Some(Names { known, conf })
    }

    /// From now on it answers: these names are there, and no other.
    pub(crate) fn know(&self, names: &[(&str, &str)]) {
        let ip = |address: &str| match address.parse() {
            Ok(SocketAddr::V4(address)) => *address.ip(),
            other => panic!("{other:?} is no address of a node"),
        };
        let known = names.iter().map(|(name, address)| ((*name).to_owned(), ip(address))).collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// What runs a ringway that asks it.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", self.conf.path().display());
        ["unshare", "-m", "sh", "-c", &script, "sh", program()].map(str::to_owned).to_vec()
    }
}

fn serve(socket: &UdpSocket, known: &Known) {
    let mut query = [0; 512];
    while let Ok((len, from)) = socket.recv_from(&mut query) {
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reply) = known.as_ref().and_then(|known| reply(&query[..len], known)) else { continue };
        // Whoever asked may have given up.
        let _ = socket.send_to(&reply, from);
    }
}

/// RFC 1035, section 4: the header of 12 bytes, the question, and at most one answer.
fn reply(query: &[u8], known: &HashMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    const A: [u8; 2] = [0, 1];
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + len)?).into_owned());
        at += len;
    }
    let question = query.get(12..at + 4)?;
    let found = known.get(&labels.join("."));
    let answer = found.filter(|_| query[at..at + 2] == A);
    let mut reply = query[..2].to_vec();
    // A response, recursion available; 3 is "no such name".
    reply.extend([
        0x81,
        if found.is_some() { 0x80 } else { 0x83 },
        0,
        1,
        0,
        u8::from(answer.is_some()),
        0,
        0,
        0,
        0,
    ]);
    reply.extend_from_slice(question);
    if let Some(ip) = answer {
        // The name of the question, class IN, for a second.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(ip.octets());
    }
    Some(reply)
}
