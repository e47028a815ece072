//! A session as CLIENT sees it, and CLIENT's subcommands.

use std::collections::HashSet;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::{Facts, wrong_arity};
use crate::protocol::resp::frame::{Request, number};
use crate::protocol::resp::{Version, write};

/// A name that a client gives itself or its library, in bytes. Redis has no bound; here all names
/// are kept beside every session.
const NAME_MAX: usize = 1024;

/// What a session knows of its client.
#[derive(Clone, Debug)]
pub struct ClientState {
    /// The session's number, unique in the process.
    pub id: u64,
    peer: End,
    local: End,
    /// When it came, in seconds since the Unix epoch.
    pub created_s: u64,
    /// What it speaks.
    pub version: Version,
    /// Whether it may ask for anything.
    pub authenticated: bool,
    /// `CLIENT NO-EVICT`
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH`
    pub no_touch: bool,
    /// Most clients name nothing, and there are many clients.
    names: Option<Arc<Names>>,
}

/// One end of a connection, in less than the standard library's 32 bytes: most are of IPv4, and there are
/// many clients.
#[derive(Clone, Debug)]
enum End {
    Unix,
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl From<Option<SocketAddr>> for End {
    fn from(address: Option<SocketAddr>) -> End {
        match address {
            None => End::Unix,
            Some(SocketAddr::V4(address)) => End::V4(address),
            Some(SocketAddr::V6(address)) => End::V6(Box::new(address)),
        }
    }
}

impl From<&End> for Option<SocketAddr> {
    fn from(end: &End) -> Option<SocketAddr> {
        match end {
            End::Unix => None,
            End::V4(address) => Some((*address).into()),
            End::V6(address) => Some((**address).into()),
        }
    }
}

/// What a client calls itself and its library; empty for nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// `CLIENT SETNAME`
    pub(super) client: String,
    /// `CLIENT SETINFO LIB-NAME`
    pub(super) library: String,
    /// `CLIENT SETINFO LIB-VER`
    pub(super) version: String,
}

static NO_NAMES: LazyLock<Names> = LazyLock::new(Names::default);

impl ClientState {
    /// A client that has just come. It must authenticate if the pool wants a password.
    pub fn new(
        id: u64,
        peer: Option<SocketAddr>,
        local: Option<SocketAddr>,
        created_s: u64,
        password_wanted: bool,
    ) -> ClientState {
        ClientState {
            id,
            peer: peer.into(),
            local: local.into(),
            created_s,
            version: Version::default(),
            authenticated: !password_wanted,
            no_evict: false,
            no_touch: false,
            names: None,
        }
    }

    /// The client's address; none behind a unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        (&self.peer).into()
    }

    /// The address that it reached; none for a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        (&self.local).into()
    }

    pub(super) fn names(&self) -> &Names {
        self.names.as_deref().unwrap_or(&NO_NAMES)
    }

    pub(super) fn names_mut(&mut self) -> &mut Names {
        Arc::make_mut(self.names.get_or_insert_default())
    }

    /// As it came, but for what its library said of itself.
    pub(super) fn reset(&mut self, password_wanted: bool) {
        self.version = Version::default();
        self.authenticated = !password_wanted;
        if self.names.is_some() {
            self.names_mut().client.clear();
        }
        self.no_evict = false;
        self.no_touch = false;
    }

    /// Its line in CLIENT LIST, without a line break. `now` is the time since the Unix epoch.
    pub fn line(&self, now: Duration) -> String {
        let flags = match (self.no_evict, self.no_touch) {
            (false, false) => "N",
            (true, false) => "e",
            (false, true) => "T",
            (true, true) => "eT",
        };
        let address = |address: Option<SocketAddr>| address.map_or("unix".to_owned(), |a| a.to_string());
        let names = self.names();
        format!(
            "id={} addr={} laddr={} name={} age={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi=-1 \
             user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            address(self.peer()),
            address(self.local()),
            names.client,
            now.as_secs().saturating_sub(self.created_s),
            if self.version == Version::Resp2 { 2 } else { 3 },
            names.library,
            names.version,
        )
    }
}

/// Names the client, as SETNAME and HELLO do. An empty name takes it away.
///
/// # Errors
/// The text for a name that can't stand in CLIENT LIST.
pub(super) fn set_name(client: &mut ClientState, name: &[u8]) -> Result<(), String> {
    client.names_mut().client = checked("Client names", name)?;
    Ok(())
}

fn checked(what: &str, text: &[u8]) -> Result<String, String> {
    if text.len() > NAME_MAX {
        return Err(format!("ERR {what} cannot be longer than {NAME_MAX} bytes here."));
    }
    match std::str::from_utf8(text) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text.to_owned()),
        _ => Err(format!("ERR {what} cannot contain spaces, newlines or special characters.")),
    }
}

/// A subcommand's name, the fewest and the most arguments of its request, and its answer.
type Subcommand = (&'static str, usize, usize, fn(&mut Asked<'_>));

const MANY: usize = usize::MAX;

const SUBCOMMANDS: &[Subcommand] = &[
    ("capa", 3, MANY, |a| write::simple(a.out, "OK")),
    ("getname", 2, 2, |a| match a.client.names().client.as_str() {
        "" => write::null(a.out, a.client.version),
        name => write::bulk(a.out, name.as_bytes()),
    }),
    ("getredir", 2, 2, |a| write::integer(a.out, -1)),
    ("help", 2, 2, |a| {
        write::array(a.out, HELP.len());
        HELP.iter().for_each(|line| write::simple(a.out, line));
    }),
    ("id", 2, 2, |a| write::integer(a.out, a.client.id as i64)),
    ("info", 2, 2, |a| {
        let line = a.client.line(a.facts.now()) + "\n";
        write::verbatim(a.out, a.client.version, &line);
    }),
    ("list", 2, MANY, list),
    ("no-evict", 3, 3, |a| {
        let on = a.on_or_off();
        a.client.no_evict = on.unwrap_or(a.client.no_evict);
    }),
    ("no-touch", 3, 3, |a| {
        let on = a.on_or_off();
        a.client.no_touch = on.unwrap_or(a.client.no_touch);
    }),
    ("reply", 3, 3, |a| a.only("on", REPLY_REFUSED)),
    ("setinfo", 4, 4, set_info),
    ("setname", 3, 3, |a| {
        let set = set_name(a.client, a.request.arg(2));
        a.ok_or(set);
    }),
    ("tracking", 3, MANY, |a| a.only("off", TRACKING_REFUSED)),
];

const REPLY_REFUSED: &str = "ERR CLIENT REPLY is not offered by ringway, but for ON: \
                    every request gets its reply";

const TRACKING_REFUSED: &str = "ERR CLIENT TRACKING is not offered by ringway, but for OFF: \
                    connections to nodes are shared, and invalidations would reach other clients";

/// Known to Redis, and not offered: they reach beyond the session that asks, or belong to tracking.
const NOT_OFFERED: &[&str] =
    &["caching", "import-source", "kill", "pause", "trackinginfo", "unblock", "unpause"];

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands that ringway answers are:",
    "GETNAME",
    "    This session's name.",
    "ID",
    "    This session's number.",
    "INFO",
    "    This session's line of LIST.",
    "LIST [TYPE <type> | ID <id> [<id> ...]]",
    "    The pool's sessions, one line each.",
    "NO-EVICT (ON|OFF), NO-TOUCH (ON|OFF)",
    "    Noted; nodes are not told.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    What LIST says of the client's library.",
    "SETNAME <name>",
    "    Names this session.",
    "HELP",
    "    This text.",
];

/// One request and all that its answer may use.
struct Asked<'a> {
    request: &'a Request<'a>,
    client: &'a mut ClientState,
    facts: &'a dyn Facts,
    out: &'a mut Vec<u8>,
}

impl Asked<'_> {
    fn ok_or(&mut self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => write::simple(self.out, "OK"),
            Err(text) => write::error(self.out, text),
        }
    }

    fn on_or_off(&mut self) -> Option<bool> {
        let word = self.request.arg(2);
        let on = match (word.eq_ignore_ascii_case(b"on"), word.eq_ignore_ascii_case(b"off")) {
            (false, false) => None,
            (on, _) => Some(on),
        };
        self.ok_or(on.map(|_| ()).ok_or_else(|| "ERR syntax error".to_owned()));
        on
    }

    /// OK for the one word that changes nothing.
    fn only(&mut self, word: &str, refusal: &str) {
        let right = self.request.arg(2).eq_ignore_ascii_case(word.as_bytes());
        self.ok_or(if right { Ok(()) } else { Err(refusal.to_owned()) });
    }
}

/// Answers CLIENT.
pub(super) fn answer(request: &Request<'_>, client: &mut ClientState, facts: &dyn Facts, out: &mut Vec<u8>) {
    if request.len() < 2 {
        return wrong_arity(out, "client");
    }
    let asked = request.arg(1);
    let is = |name: &str| asked.eq_ignore_ascii_case(name.as_bytes());
    match SUBCOMMANDS.iter().find(|s| is(s.0)) {
        Some((_, least, most, answer)) if (*least..=*most).contains(&request.len()) => {
            answer(&mut Asked { request, client, facts, out });
        }
        Some((name, ..)) => wrong_arity(out, &format!("client|{name}")),
        None => match NOT_OFFERED.iter().find(|name| is(name)) {
            Some(name) => write::error(
                out,
                format!("ERR CLIENT {} is not offered by ringway", name.to_ascii_uppercase()),
            ),
            None => {
                let shown = &asked[..asked.len().min(128)];
                write::error(out, [b"ERR unknown subcommand '", shown, b"'. Try CLIENT HELP."].concat());
            }
        },
    }
}

fn set_info(a: &mut Asked<'_>) {
    let (option, value) = (a.request.arg(2), a.request.arg(3));
    if option.eq_ignore_ascii_case(b"lib-name") {
        let set = checked("lib-name", value).map(|text| a.client.names_mut().library = text);
        a.ok_or(set);
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        let set = checked("lib-ver", value).map(|text| a.client.names_mut().version = text);
        a.ok_or(set);
    } else {
        write::error(a.out, [b"ERR Unrecognized option '", option, b"'"].concat());
    }
}

/// LIST, all sessions or some by id; all are of type `normal`.
fn list(a: &mut Asked<'_>) {
    let mut wanted: Option<HashSet<u64>> = None;
    let (filter, arguments) = (a.request.arg(2), a.request.len());
    if arguments == 4 && filter.eq_ignore_ascii_case(b"type") {
        let kind = a.request.arg(3);
        let is = |name: &&str| kind.eq_ignore_ascii_case(name.as_bytes());
        if ["master", "slave", "replica", "pubsub"].iter().any(is) {
            wanted = Some(HashSet::new());
        } else if !is(&"normal") {
            return write::error(a.out, [b"ERR Unknown client type '", kind, b"'"].concat());
        }
    } else if arguments > 3 && filter.eq_ignore_ascii_case(b"id") {
        let ids: Option<Vec<i64>> = a.request.args().skip(3).map(number).collect();
        let Some(ids) = ids else { return write::error(a.out, "ERR Invalid client ID") };
        wanted = Some(ids.into_iter().filter_map(|id| u64::try_from(id).ok()).collect());
    } else if arguments != 2 {
        return write::error(a.out, "ERR syntax error");
    }
    let own = (a.client.id, a.client.line(a.facts.now()));
    let mut lines = a.facts.sessions();
    // What others know of this session may be older than what it knows itself.
    lines.retain(|(id, _)| *id != own.0);
    lines.push(own);
    lines.sort_unstable_by_key(|(id, _)| *id);
    let chosen = |id: &u64| wanted.as_ref().is_none_or(|ids| ids.contains(id));
    let chosen = lines.iter().filter(|(id, _)| chosen(id));
    let text: String = chosen.flat_map(|(_, line)| [line.as_str(), "\n"]).collect();
    write::verbatim(a.out, a.client.version, &text);
}
