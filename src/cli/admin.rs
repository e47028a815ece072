//! Asking a running ringway over its admin port.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use serde_json::Value;

use super::{EXIT_USAGE, Stop};

/// It answers in milliseconds, or there is something wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `GET path` is answered with.
///
/// # Errors
/// Nobody listens there, or what answers is not 200.
pub(super) fn get(address: &str, path: &str) -> Result<String, Stop> {
    let failed = |what: String| Stop::Failed(format!("error: the admin port {address}: {what}"), 1);
    let mut targets = address
        .to_socket_addrs()
        .map_err(|e| Stop::Failed(format!("error: --admin {address}: {e}; write ip:port"), EXIT_USAGE))?;
    let target = targets.next().ok_or_else(|| failed("the name has no address".to_owned()))?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(|e| failed(e.to_string()))?;
    let answer = ask(&mut stream, address, path).map_err(|e| failed(e.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some(status) => Err(failed(format!("GET {path}: {status}: {}", body.trim()))),
        None => Err(failed("it does not speak HTTP".to_owned())),
    }
}

/// The same, read as JSON.
pub(super) fn get_json(address: &str, path: &str) -> Result<Value, Stop> {
    let text = get(address, path)?;
    let message = |e| Stop::Failed(format!("error: the admin port {address}: GET {path}: {e}"), 1);
    serde_json::from_str(&text).map_err(message)
}

fn ask(stream: &mut TcpStream, address: &str, path: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
