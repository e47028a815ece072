//! Asking a running ringway over its admin port.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::Value;

use super::{EXIT_USAGE, Stop};

/// It answers in milliseconds, or there is something wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `GET path` is answered with.
///
/// # Errors
/// Nobody listens there, or what answers is not 200.
pub(super) fn get(address: &str, path: &str) -> Result<String, Stop> {
    call(address, "GET", path)
}

/// What `POST path` is answered with, read as JSON.
pub(super) fn post_json(address: &str, path: &str) -> Result<Value, Stop> {
    json(address, path, &call(address, "POST", path)?)
}

fn call(address: &str, method: &str, path: &str) -> Result<String, Stop> {
    let failed = |what: String| Stop::Failed(format!("error: the admin port {address}: {what}"), 1);
    if let Some(rest) = address.split_once("://").map(|(_, rest)| rest.trim_end_matches('/')) {
        let message = format!("error: --admin {address}: write {rest}, an address without `http://`");
        return Err(Stop::Failed(message, EXIT_USAGE));
    }
    let targets = address
        .to_socket_addrs()
        .map_err(|e| Stop::Failed(format!("error: --admin {address}: {e}; write ip:port"), EXIT_USAGE))?;
    // A name may have addresses at which nobody listens, such as localhost's ::1.
    let mut last = None;
    let connected =
        targets.into_iter().find_map(|target| match TcpStream::connect_timeout(&target, PATIENCE) {
            Ok(stream) => Some((stream, target)),
            Err(error) => {
                last = Some(format!("{error}; --admin says where a ringway has it"));
                None
            }
        });
    let Some((mut stream, target)) = connected else {
        return Err(failed(last.unwrap_or_else(|| "the name has no address".to_owned())));
    };
    // Orders are not taken by name: that is how pages in a browser would come.
    let answer = ask(&mut stream, &target.to_string(), method, path).map_err(|e| failed(e.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let mut words = head.split(' ');
    let status = words.next().filter(|version| version.starts_with("HTTP/")).and_then(|_| words.next());
    match status {
        Some("200") => Ok(body.to_owned()),
        Some(status) => {
            // Refusals are JSON with one field.
            let refusal: Option<Value> = serde_json::from_str(body).ok();
            match refusal.as_ref().and_then(|r| r["error"].as_str()) {
                Some(why) => Err(Stop::Failed(format!("error: {why}"), 1)),
                // No word of ringway's: what was asked says what it is about.
                None => Err(failed(format!("{} ({status} for {method} {path})", body.trim()))),
            }
        }
        None => {
            Err(failed("it does not speak HTTP; --admin says where a ringway has its admin port".to_owned()))
        }
    }
}

/// The same, read as JSON.
pub(super) fn get_json(address: &str, path: &str) -> Result<Value, Stop> {
    json(address, path, &get(address, path)?)
}

fn json(address: &str, path: &str, text: &str) -> Result<Value, Stop> {
    let message = |e| Stop::Failed(format!("error: the admin port {address}: {path}: {e}"), 1);
    serde_json::from_str(text).map_err(message)
}

fn ask(stream: &mut TcpStream, host: &str, method: &str, path: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The name of the only pool of a ringway.
pub(super) fn only_pool(address: &str) -> Result<String, Stop> {
    let topology = get_json(address, "/v1/topology")?;
    let pools = topology["pools"].as_array().into_iter().flatten();
    let names: Vec<&str> = pools.filter_map(|p| p["name"].as_str()).collect();
    match names[..] {
        [only] => Ok(only.to_owned()),
        _ => {
            let message = format!("error: write --pool; {address} has {}", names.join(", "));
            Err(Stop::Failed(message, EXIT_USAGE))
        }
    }
}

/// A name or a key as a part of a path.
pub(super) fn escaped(bytes: &[u8]) -> String {
    percent_encode(bytes, NON_ALPHANUMERIC).to_string()
}
