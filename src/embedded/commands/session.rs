//! What concerns the connection and the node itself: `PING`, `HELLO`, `CLIENT`, `INFO` ...

use std::fmt::Write;

use crate::protocol::resp::{Version, frame, write};

use super::{super::session::Fate, COMMANDS, Call, Outcome, Refusal};

/// The Redis whose replies these are; clients look at it to know what they may send.
const REDIS_VERSION: &str = "7.0.15";

const WRONG_PASSWORD: Refusal =
    Refusal::text("WRONGPASS invalid username-password pair or user is disabled.");

pub(super) fn ping(call: &mut Call<'_>) -> Outcome {
    match call.len() {
        1 => write::simple(call.out, "PONG"),
        2 => write::bulk(call.out, call.request.arg(1)),
        _ => return Err(Refusal::arity(call.name)),
    }
    Ok(())
}

pub(super) fn echo(call: &mut Call<'_>) -> Outcome {
    write::bulk(call.out, call.request.arg(1));
    Ok(())
}

pub(super) fn quit(call: &mut Call<'_>) -> Outcome {
    call.client.fate = Fate::Closing;
    call.reply_ok()
}

pub(super) fn reset(call: &mut Call<'_>) -> Outcome {
    call.client.version = Version::Resp2;
    call.client.name.clear();
    write::simple(call.out, "RESET");
    Ok(())
}

pub(super) fn select(call: &mut Call<'_>) -> Outcome {
    match call.integer(1)? {
        0 => call.reply_ok(),
        n if i32::try_from(n).is_err() => Err(Refusal::from(format!(
            "ERR value is out of range, value must between {} and {}",
            i32::MIN,
            i32::MAX
        ))),
        _ => Err(Refusal::text("ERR DB index is out of range")),
    }
}

/// There is no password, so that only the user `default` is let in, with any.
fn check_user(user: &[u8]) -> Outcome {
    if user == b"default" { Ok(()) } else { Err(WRONG_PASSWORD) }
}

pub(super) fn auth(call: &mut Call<'_>) -> Outcome {
    match call.len() {
        2 => Err(Refusal::text(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        3 => check_user(call.arg(1)).and_then(|()| call.reply_ok()),
        _ => Err(Refusal::SYNTAX),
    }
}

/// The name of a client, checked.
fn checked_name(name: &[u8]) -> Result<Vec<u8>, Refusal> {
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(name.to_vec());
    }
    Err(Refusal::text("ERR Client names cannot contain spaces, newlines or special characters."))
}

pub(super) fn hello(call: &mut Call<'_>) -> Outcome {
    let mut version = call.version();
    if call.len() > 1 {
        version = match frame::number(call.arg(1)) {
            Some(2) => Version::Resp2,
            Some(3) => Version::Resp3,
            Some(_) => return Err(Refusal::text("NOPROTO unsupported protocol version")),
            None => return Err(Refusal::text("ERR Protocol version is not an integer or out of range")),
        };
    }
    // Redis acts on each option as it reads it, and keeps the name even if the next is refused.
    let mut i = 2;
    while i < call.len() {
        let more = call.len() - 1 - i;
        match call.word(i).as_slice() {
            b"AUTH" if more >= 2 => {
                check_user(call.arg(i + 1))?;
                i += 3;
            }
            b"SETNAME" if more >= 1 => {
                call.client.name = checked_name(call.arg(i + 1))?;
                i += 2;
            }
            _ => {
                let word = super::c_text(call.arg(i));
                return Err(Refusal([b"ERR Syntax error in HELLO option '", word, b"'"].concat().into()));
            }
        }
    }
    call.client.version = version;
    let out = &mut *call.out;
    write::map(out, version, 7);
    for (key, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        write::bulk(out, key.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"proto");
    write::integer(out, if version == Version::Resp3 { 3 } else { 2 });
    write::bulk(out, b"id");
    write::integer(out, call.client.id as i64);
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        write::bulk(out, key.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"modules");
    write::array(out, 0);
    Ok(())
}

pub(super) fn client_id(call: &mut Call<'_>) -> Outcome {
    let id = call.client.id;
    call.reply_integer(id as i64)
}

pub(super) fn client_getname(call: &mut Call<'_>) -> Outcome {
    if call.client.name.is_empty() {
        write::null(call.out, call.client.version);
    } else {
        write::bulk(call.out, &call.client.name);
    }
    Ok(())
}

pub(super) fn client_setname(call: &mut Call<'_>) -> Outcome {
    call.client.name = checked_name(call.arg(2))?;
    call.reply_ok()
}

pub(super) fn client_setinfo(call: &mut Call<'_>) -> Outcome {
    call.reply_ok()
}

/// A container without a subcommand: `COMMAND` lists what it knows to tell about commands, which
/// is nothing here; `CLIENT` never gets this far, its number of arguments forbids it.
pub(super) fn container(call: &mut Call<'_>) -> Outcome {
    write::array(call.out, 0);
    Ok(())
}

pub(super) fn command_count(call: &mut Call<'_>) -> Outcome {
    let count = COMMANDS.iter().filter(|c| !c.name.contains('|')).count();
    call.reply_integer(count as i64)
}

pub(super) fn command_docs(call: &mut Call<'_>) -> Outcome {
    write::map(call.out, call.client.version, 0);
    Ok(())
}

pub(super) fn role(call: &mut Call<'_>) -> Outcome {
    write::array(call.out, 3);
    write::bulk(call.out, b"master");
    write::integer(call.out, 0);
    write::array(call.out, 0);
    Ok(())
}

pub(super) fn info(call: &mut Call<'_>) -> Outcome {
    let asked: Vec<Vec<u8>> = (1..call.len()).map(|i| call.word(i)).collect();
    let all =
        asked.is_empty() || asked.iter().any(|a| matches!(a.as_slice(), b"DEFAULT" | b"ALL" | b"EVERYTHING"));
    let mut text = String::new();
    for (name, lines) in sections(call) {
        if all || asked.iter().any(|a| a.eq_ignore_ascii_case(name.as_bytes())) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            // Writing to a string can't fail.
            let _ = write!(text, "{gap}# {name}\r\n");
            for (key, value) in lines {
                let _ = write!(text, "{key}:{value}\r\n");
            }
        }
    }
    write::verbatim(call.out, call.client.version, &text);
    Ok(())
}

/// A section of `INFO`: its name and its lines.
type Section = (&'static str, Vec<(&'static str, String)>);

fn sections(call: &Call<'_>) -> Vec<Section> {
    let node = &*call.node;
    let (store, counts) = (&node.store, node.store.counts());
    let mut keyspace = Vec::new();
    if store.len() > 0 {
        keyspace.push(("db0", format!("keys={},expires={},avg_ttl=0", store.len(), counts.expires)));
    }
    vec![
        (
            "Server",
            vec![
                ("redis_version", REDIS_VERSION.to_owned()),
                ("redis_mode", "standalone".to_owned()),
                ("ringway_embedded", "1".to_owned()),
                ("ringway_node", node.settings.name.clone()),
                ("run_id", node.run_id.clone()),
                ("tcp_port", node.settings.port.to_string()),
                ("uptime_in_seconds", ((call.now_ms - node.started_ms).max(0) / 1000).to_string()),
            ],
        ),
        (
            "Clients",
            vec![
                ("connected_clients", node.sessions.to_string()),
                ("maxclients", node.settings.clients_max.to_string()),
            ],
        ),
        (
            "Memory",
            vec![
                ("used_memory", store.bytes().to_string()),
                ("maxmemory", store.bytes_max().to_string()),
                ("maxmemory_policy", "allkeys-lru".to_owned()),
            ],
        ),
        ("Persistence", vec![("loading", "0".to_owned())]),
        (
            "Stats",
            vec![
                ("total_connections_received", node.sessions_ever.to_string()),
                ("total_commands_processed", node.requests.to_string()),
                ("expired_keys", counts.expired.to_string()),
                ("evicted_keys", counts.evicted.to_string()),
            ],
        ),
        ("Replication", vec![("role", "master".to_owned()), ("connected_slaves", "0".to_owned())]),
        ("Keyspace", keyspace),
    ]
}
