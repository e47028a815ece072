//! THE COMMAND LINE. One file per command; what is printed goes to stdout, what is wrong to
//! stderr. It reads configurations, builds rings, and asks a running ringway over its admin port; it
//! never starts a thing: `serve` is handed to whoever called.
//!
//! Exit codes: 0 fine, 1 failed while running, 2 wrong usage or a wrong configuration, 3 more would
//! move than may or than a reload moves, 4 something is not as it should be.

mod admin;
mod check;
mod import;
mod incident;
mod keys;
mod locate;
mod order;
mod pages;
mod plan;
mod running;
mod status;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::config::{Loaded, Source};

/// Wrong usage, or a wrong configuration.
const EXIT_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  ringway                                  serve the shipped configuration: nodes within this
                                           process, Redis on 127.0.0.1:6380, memcached on 11311
  redis-cli -p 6380 set greeting hello     talk to it as to any Redis
  ringway check --config ringway.yaml      every error of a configuration, with line and key
  ringway serve --config ringway.yaml      serve it; SIGHUP reloads it, SIGTERM drains and ends
  ringway locate --config ringway.yaml k1  which node owns the key k1, and who comes next
  ringway plan ringway.yaml                what a changed file would move of what runs
  ringway drain n3 --pool cache --yes      take a node out for maintenance, gracefully
  ringway status                           how pools and nodes are, and what waits for what
  ringway incident 3                       the third time that a node failed, from doubt to return
  ringway keys --pool cache                which keys and clients its nodes are busy with

Without --config, `serve`, `check` and `locate` take the configuration that ringway ships with. The file \
config.yaml beside the sources is that configuration, with every key explained.";

const SERVE_EXAMPLES: &str = "\
Examples:
  ringway serve                                    the shipped configuration
  ringway serve --config ringway.yaml --log json
  ringway serve --log-level ringway=debug

Signals: SIGHUP reads the configuration again; SIGTERM and SIGINT finish what is in flight, a second one ends drain_delay; \
SIGUSR1 and SIGUSR2 do nothing: the log goes to stderr, and there is no file to open anew.";

/// A consistent-hashing sharding proxy for caches and stores
///
/// Clients talk to ringway as if it were one big Redis. It maps every key onto a hash ring, asks
/// the node that owns the key, ejects nodes that fail and gives them their share back.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a configuration; what ringway does without a command, too
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArguments),
    /// Say everything that is wrong with a configuration, or what it amounts to
    Check(check::Arguments),
    /// Print a twemproxy configuration as ringway would have it
    Import(import::Arguments),
    /// Say which node owns a key, and who comes next; offline
    Locate(locate::Arguments),
    /// Say what a new configuration would move, before it is in force
    Plan(plan::Arguments),
    /// Tell how the pools and nodes of a running ringway are
    Status(status::Arguments),
    /// Tell what happened to nodes of a running ringway
    Incident(incident::Arguments),
    /// Tell which keys and clients the nodes of a running ringway are busy with
    Keys(keys::Arguments),
    /// Give up a node's keys and finish what is in flight
    Drain(order::Arguments),
    /// Take back a drain
    Undrain(order::Arguments),
    /// Give up a node's keys at once
    Eject(order::Arguments),
    /// Take back an eject; a cold node need not wait for the warmth budget
    Restore(order::Arguments),
    /// Keep a node in the ring, whatever is thought of it
    Pin(order::Arguments),
    /// Take back a pin
    Unpin(order::Arguments),
    /// Print a completion script for a shell
    Completions(pages::Completions),
    /// Print a manual page, in roff
    Man(pages::Man),
}

#[derive(Args, Debug)]
struct ServeArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    log: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or per part, as in info,ringway::proxy=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_level)]
    log_level: String,
}

#[derive(Args, Debug)]
struct ConfigArgument {
    /// The configuration [default: the one that ringway ships with]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// What `serve` needs.
#[derive(Debug)]
pub struct Serve {
    /// The configuration, resolved.
    pub loaded: Loaded,
    /// Where it came from, for reloads.
    pub source: Source,
    /// How log lines look.
    pub log: LogFormat,
    /// What is logged, as `tracing_subscriber::EnvFilter` reads it; it was checked.
    pub log_level: String,
}

/// What is left to do after the command line was read and, but for `serve`, obeyed.
#[derive(Debug)]
pub enum Next {
    /// Serve.
    Serve(Box<Serve>),
    /// Nothing: end with this.
    Exit(ExitCode),
}

/// Why a command ended early.
enum Stop {
    /// Whoever read our output has gone: nothing is wrong.
    Closed,
    /// What to say on stderr, and the exit code.
    Failed(String, u8),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Closed,
            _ => Stop::Failed(format!("cannot write: {error}"), 1),
        }
    }
}

/// Reads the process's arguments and obeys them.
pub fn run() -> Next {
    let Arguments { command, serve } = Arguments::try_parse().unwrap_or_else(|error| told(error).exit());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = match command.unwrap_or(Command::Serve(serve)) {
        Command::Serve(arguments) => {
            let log = arguments.log;
            match self::serve(arguments) {
                Ok(serve) => return Next::Serve(Box::new(serve)),
                Err(Stop::Failed(message, code)) if log == LogFormat::Json => {
                    log_json(&message);
                    return Next::Exit(ExitCode::from(code));
                }
                Err(stop) => Err(stop),
            }
        }
        Command::Check(arguments) => check::run(&arguments, &mut out),
        Command::Import(arguments) => import::run(&arguments, &mut out),
        Command::Locate(arguments) => locate::run(&arguments, &mut out),
        Command::Plan(arguments) => plan::run(&arguments, &mut out),
        Command::Status(arguments) => status::run(&arguments, &mut out),
        Command::Incident(arguments) => incident::run(&arguments, &mut out),
        Command::Keys(arguments) => keys::run(&arguments, &mut out),
        Command::Drain(arguments) => order::run("drain", &arguments, &mut out),
        Command::Undrain(arguments) => order::run("undrain", &arguments, &mut out),
        Command::Eject(arguments) => order::run("eject", &arguments, &mut out),
        Command::Restore(arguments) => order::run("restore", &arguments, &mut out),
        Command::Pin(arguments) => order::run("pin", &arguments, &mut out),
        Command::Unpin(arguments) => order::run("unpin", &arguments, &mut out),
        Command::Completions(arguments) => pages::completions(&arguments, &mut out),
        Command::Man(arguments) => pages::man(&arguments, &mut out),
    };
    Next::Exit(match done.and_then(|()| Ok(out.flush()?)) {
        Ok(()) | Err(Stop::Closed) => ExitCode::SUCCESS,
        Err(Stop::Failed(message, code)) => {
            say(&message);
            ExitCode::from(code)
        }
    })
}

/// What is wrong with a command line, with the way out where `clap` knows none: an option of `serve` is not
/// one of all.
fn told(mut error: clap::Error) -> clap::Error {
    if error.kind() == ErrorKind::ArgumentConflict
        && matches!(error.get(ContextKind::InvalidSubcommand), Some(ContextValue::String(_)))
    {
        let tip = "write it behind the command, as in `ringway serve --config FILE`".to_owned().into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

fn serve(arguments: ServeArguments) -> Result<Serve, Stop> {
    let ServeArguments { config, log, log_level } = arguments;
    let source = config.source();
    let loaded = load(&source)?;
    Ok(Serve { loaded, source, log, log_level })
}

impl ConfigArgument {
    fn source(&self) -> Source {
        self.config.clone().map_or(Source::Shipped, Source::File)
    }
}

/// Loads a configuration, or stops with all that is wrong with it.
fn load(source: &Source) -> Result<Loaded, Stop> {
    source.load().map_err(|errors| Stop::Failed(errors.to_string(), EXIT_USAGE))
}

/// Writes a message to stderr. If nobody listens there, there is nobody to tell.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{message}");
}

/// Writes a message to stderr as the log has it that is asked for: a line of it is an event.
fn log_json(message: &str) {
    let log = tracing_subscriber::fmt().json().flatten_event(true).with_current_span(false);
    tracing::subscriber::with_default(log.with_writer(io::stderr).finish(), || {
        message.lines().for_each(|line| tracing::error!("{line}"));
    });
}

fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A word alone that is no level would be taken for a part of the program, and silence all others.
    let is_level = |word: &&str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    if let Some(word) = text.split(',').map(str::trim).find(|word| !word.contains('=') && !is_level(word)) {
        return Err(format!("`{word}` is none of {}; write info, debug or ringway=debug", LEVELS.join(", ")));
    }
    let read = tracing_subscriber::EnvFilter::builder().parse(text);
    read.map(|_| text.to_owned()).map_err(|e| format!("{e}; write info, debug or ringway=debug"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The definition of the command line is sound.
    #[test]
    fn definition() {
        Arguments::command().debug_assert();
    }

    /// No command means serve, with serve's own arguments.
    #[test]
    fn serve_is_the_default() {
        let bare = Arguments::try_parse_from(["ringway", "--log", "json"]).expect("fine");
        assert!(bare.command.is_none());
        assert_eq!((bare.serve.log, bare.serve.config.source()), (LogFormat::Json, Source::Shipped));
        assert!(Arguments::try_parse_from(["ringway", "--log", "json", "check"]).is_err());
    }

    /// An option that stands before its command is told where it belongs.
    #[test]
    fn options_stand_behind_their_command() {
        let error = Arguments::try_parse_from(["ringway", "--config", "x", "serve"]).expect_err("it is none");
        let text = told(error).to_string();
        assert!(text.contains("tip: write it behind the command"), "{text}");
    }

    /// Sentences in what `--help` says are broken to the width of the terminal alone: a line of one is not
    /// followed by another.
    #[test]
    fn help_is_wrapped_once() {
        let is_prose = |line: &str| !line.is_empty() && !line.contains("  ") && !line.ends_with(':');
        for command in Arguments::command().get_subcommands().chain([&Arguments::command()]) {
            let Some(text) = command.get_after_help().map(ToString::to_string) else { continue };
            let lines: Vec<&str> = text.lines().collect();
            let broken = lines.windows(2).find(|pair| pair.iter().all(|line| is_prose(line)));
            assert_eq!(broken, None, "{}", command.get_name());
        }
    }

    /// A level that nobody could obey is refused.
    #[test]
    fn levels() {
        assert!(log_level("info,ringway::proxy=debug").is_ok());
        assert!(log_level("ringway=loud").is_err());
    }
}
