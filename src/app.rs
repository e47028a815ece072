//! Builds all rooms and hands each its end of each channel.

use std::process::ExitCode;

use crate::cli::Serve;

/// Serves until told to end.
pub fn serve(serve: Serve) -> ExitCode {
    eprintln!("{} cannot be served yet", serve.source);
    ExitCode::FAILURE
}
