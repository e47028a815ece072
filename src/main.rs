//! The program: command line -> settings -> app -> exit code. No decisions are made here.

use std::process::ExitCode;

use ringway::{
    app,
    cli::{self, Next},
};

/// Buffers come and go with every burst of requests; this allocator makes that cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run() {
        Next::Serve(serve) => app::serve(*serve),
        Next::Exit(code) => code,
    }
}
