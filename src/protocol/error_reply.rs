//! Error replies that say something of their node and not of the request. Where they come from
//! matters: what a script returns looks the same and says nothing.

use super::Protocol;

/// What a node says of itself in an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorReply {
    /// Redis `-LOADING`: it reads its data from disk.
    Loading,
    /// Redis `-BUSY`: a script has run for long.
    Busy,
    /// Redis `-MASTERDOWN`: a replica without its primary.
    MasterDown,
    /// Redis `-READONLY`: a replica.
    ReadOnly,
    /// Redis `-OOM`, memcached `SERVER_ERROR out of memory`: it is full and evicts nothing.
    OutOfMemory,
    /// Redis `-NOAUTH` and `-WRONGPASS`, memcached `CLIENT_ERROR unauthenticated`: it does not take our
    /// credentials.
    NoAuth,
    /// Redis `-CLUSTERDOWN`: it is a member of a cluster that does not serve.
    ClusterDown,
}

/// Redis's codes.
const CODES: [(&[u8], ErrorReply); 8] = [
    (b"LOADING", ErrorReply::Loading),
    (b"BUSY", ErrorReply::Busy),
    (b"MASTERDOWN", ErrorReply::MasterDown),
    (b"READONLY", ErrorReply::ReadOnly),
    (b"OOM", ErrorReply::OutOfMemory),
    (b"NOAUTH", ErrorReply::NoAuth),
    (b"WRONGPASS", ErrorReply::NoAuth),
    (b"CLUSTERDOWN", ErrorReply::ClusterDown),
];

/// memcached's beginnings.
const LINES: [(&[u8], ErrorReply); 2] = [
    (b"SERVER_ERROR out of memory", ErrorReply::OutOfMemory),
    (b"CLIENT_ERROR unauthenticated", ErrorReply::NoAuth),
];

impl ErrorReply {
    /// All, in the order of their discriminants.
    pub const ALL: [ErrorReply; 7] = [
        ErrorReply::Loading,
        ErrorReply::Busy,
        ErrorReply::MasterDown,
        ErrorReply::ReadOnly,
        ErrorReply::OutOfMemory,
        ErrorReply::NoAuth,
        ErrorReply::ClusterDown,
    ];

    /// The word for metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            ErrorReply::Loading => "loading",
            ErrorReply::Busy => "busy",
            ErrorReply::MasterDown => "masterdown",
            ErrorReply::ReadOnly => "readonly",
            ErrorReply::OutOfMemory => "oom",
            ErrorReply::NoAuth => "noauth",
            ErrorReply::ClusterDown => "clusterdown",
        }
    }

    /// Whether the node should be asked at once what it is about. The others are for its operator:
    /// with its keys elsewhere nothing would be better.
    pub fn is_doubtful(self) -> bool {
        match self {
            ErrorReply::Loading | ErrorReply::MasterDown | ErrorReply::NoAuth | ErrorReply::ClusterDown => {
                true
            }
            ErrorReply::Busy | ErrorReply::ReadOnly | ErrorReply::OutOfMemory => false,
        }
    }

    /// What this error reply, or the beginning of one, says of its node, if anything.
    pub fn read(protocol: Protocol, reply: &[u8]) -> Option<ErrorReply> {
        match protocol {
            Protocol::Redis => {
                let code = reply.strip_prefix(b"-")?.split(|b| b" \r\n".contains(b)).next()?;
                CODES.iter().find(|(known, _)| *known == code).map(|(_, kind)| *kind)
            }
            Protocol::Memcached => {
                LINES.iter().find(|(known, _)| reply.starts_with(known)).map(|(_, kind)| *kind)
            }
            Protocol::Http => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each word that a server says of itself is told apart, and no error of a request is taken for one.
    #[test]
    fn a_table_of_error_replies() {
        use ErrorReply::*;
        for (protocol, reply, kind) in [
            (Protocol::Redis, "-LOADING Redis is loading the dataset in memory\r\n", Some(Loading)),
            (Protocol::Redis, "-BUSY Redis is busy running a script.\r\n", Some(Busy)),
            (Protocol::Redis, "-MASTERDOWN Link with MASTER is down\r\n", Some(MasterDown)),
            (Protocol::Redis, "-READONLY You can't write against a read only replica.\r\n", Some(ReadOnly)),
            (
                Protocol::Redis,
                "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
                Some(OutOfMemory),
            ),
            (Protocol::Redis, "-NOAUTH Authentication required.\r\n", Some(NoAuth)),
            (Protocol::Redis, "-WRONGPASS invalid username-password pair\r\n", Some(NoAuth)),
            (Protocol::Redis, "-CLUSTERDOWN Hash slot not served\r\n", Some(ClusterDown)),
            (Protocol::Redis, "-OOM\r\n", Some(OutOfMemory)),
            (Protocol::Redis, "-ERR LOADING\r\n", None),
            (Protocol::Redis, "-BUSYGROUP Consumer Group name already exists\r\n", None),
            (Protocol::Redis, "-BUSYKEY Target key name already exists.\r\n", None),
            (Protocol::Redis, "+LOADING\r\n", None),
            (Protocol::Redis, "", None),
            (Protocol::Memcached, "SERVER_ERROR out of memory storing object\r\n", Some(OutOfMemory)),
            (Protocol::Memcached, "SERVER_ERROR object too large for cache\r\n", None),
            (Protocol::Memcached, "CLIENT_ERROR unauthenticated\r\n", Some(NoAuth)),
            (Protocol::Memcached, "CLIENT_ERROR bad data chunk\r\n", None),
            (Protocol::Http, "-LOADING\r\n", None),
        ] {
            assert_eq!(ErrorReply::read(protocol, reply.as_bytes()), kind, "{reply:?}");
        }
        for (at, kind) in ErrorReply::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }
}
