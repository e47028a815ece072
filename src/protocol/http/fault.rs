//! WHAT WENT WRONG on a connection to a node, as hyper tells it.

use std::{error::Error, io};

/// How a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node's bytes are not HTTP, or not the version of it that was asked for.
    Garbage(String),
    /// The connection broke.
    Broken(String),
}

impl Fault {
    /// What an error of hyper's client means.
    pub fn of(error: &hyper::Error) -> Fault {
        let mut text = error.to_string();
        let mut is_io = false;
        let mut source: Option<&(dyn Error + 'static)> = error.source();
        while let Some(cause) = source {
            // hyper reports bad chunks as errors of this kind.
            let is_broken =
                |e: &io::Error| !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
            is_io |= cause.downcast_ref().is_some_and(is_broken);
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        let is_closed = error.is_closed() || error.is_canceled() || error.is_incomplete_message();
        if error.is_parse() || error.is_user() || !(is_io || is_closed) {
            Fault::Garbage(text)
        } else {
            Fault::Broken(text)
        }
    }

    /// Whether the connection was reset, rather than closed. hyper keeps no more of it than the text.
    pub fn is_reset(&self) -> bool {
        matches!(self, Fault::Broken(text) if ["reset by peer", "Broken pipe"].iter().any(|how| text.contains(how)))
    }

    /// As a person would say it.
    pub fn text(&self) -> &str {
        let (Fault::Garbage(text) | Fault::Broken(text)) = self;
        text
    }
}
