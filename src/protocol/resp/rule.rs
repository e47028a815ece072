//! The few rules of our own that stand beside a command's key specification: what a proxy does
//! with the command.

/// What happens to a request, decided by its command alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Forwarded as it is to the one node that owns all its keys; refused when there are several.
    Keyed,
    /// Its keys may live on several nodes: split by key, merged in the client's order.
    Split(Split),
    /// Asked of every node, replies merged.
    All(Gather),
    /// A walk over all nodes, one after the other.
    Scan,
    /// Answered by ringway.
    Local(Local),
    /// Not offered by a proxy; the text says why and what to do instead.
    Refuse(&'static str),
}

/// How a request with several keys is split and its replies merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// `MGET`: one key each, one array of values in key order.
    Values,
    /// `MSET`: key and value each, one `+OK`.
    Pairs,
    /// `DEL`, `UNLINK`, `EXISTS`, `TOUCH`: one key each, the sum.
    Count,
}

/// How the replies of all nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// `DBSIZE`: the sum.
    Sum,
    /// `FLUSHALL`, `SCRIPT FLUSH`, ...: `+OK` when all say so, else the first error.
    Ok,
    /// `KEYS`: one array of all, without keys that the answering node does not own.
    Keys,
    /// `RANDOMKEY`: one of the keys, never one that the answering node does not own.
    Random,
    /// `SCRIPT LOAD`, `FUNCTION LOAD`: all must agree, one reply of them.
    Same,
    /// `SCRIPT EXISTS`: 1 where every node says 1.
    Every,
    /// `SCRIPT KILL`, `FUNCTION KILL`: `+OK` when one says so, else the first error.
    Any,
}

impl Gather {
    /// Whether an answer without the nodes that are away would be a silent wrong answer. Such a
    /// request is refused while a node is away.
    pub fn needs_all(self) -> bool {
        matches!(self, Gather::Sum | Gather::Ok | Gather::Keys)
    }
}

/// What ringway answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// `PING [message]`
    Ping,
    /// `ECHO message`
    Echo,
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `TIME`
    Time,
    /// `SELECT 0`; any other database is refused.
    Select,
    /// `AUTH [user] password`
    Auth,
    /// `HELLO [2|3] [AUTH user password] [SETNAME name]`
    Hello,
    /// `CLIENT ID|GETNAME|SETNAME|SETINFO|INFO|LIST|NO-EVICT|...`
    Client,
    /// `COMMAND` and its subcommands.
    Command,
    /// `INFO [section ...]`
    Info,
    /// `CONFIG GET pattern ...`
    ConfigGet,
    /// `ACL WHOAMI`
    AclWhoami,
}
