//! How a connection to a node ended.

use std::io;

/// How.
#[derive(Debug)]
pub(super) enum End {
    /// The node closed it, or nothing came through any more.
    Lost,
    /// The node reset it, or the network did.
    Reset,
    /// The node sent something that is not a reply.
    Protocol(String),
    /// The node sent this error in the middle of the head: it reads no further, and closes.
    Refused(Vec<u8>),
    /// It was retired and has nothing left to do.
    Retired,
    /// It was reset by an eviction.
    Evicted,
}

impl End {
    /// What an error of its socket means.
    pub(super) fn of(error: &io::Error) -> End {
        match error.kind() {
            // Who writes to a connection that was reset is told so in other words.
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => End::Reset,
            _ => End::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that was reset is told from one of which nothing more came.
    #[test]
    fn resets_are_told_apart() {
        for (kind, is_reset) in [
            (io::ErrorKind::ConnectionReset, true),
            (io::ErrorKind::BrokenPipe, true),
            (io::ErrorKind::TimedOut, false),
            (io::ErrorKind::UnexpectedEof, false),
        ] {
            assert_eq!(matches!(End::of(&kind.into()), End::Reset), is_reset, "{kind:?}");
        }
    }
}
