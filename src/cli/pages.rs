//! `completions` and `man`: what shells and manuals want to know of the command line.

use std::io::Write;

use clap::{Args, CommandFactory};

use super::{Arguments as Root, EXIT_USAGE, Stop};

/// Arguments of `completions`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  ringway completions bash > /etc/bash_completion.d/ringway")]
pub(super) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ringway man | man -l -\n  ringway man check > ringway-check.1")]
pub(super) struct Man {
    /// The command whose page is wanted [default: ringway's own page]
    command: Option<String>,
}

/// Prints a completion script.
pub(super) fn completions(arguments: &Completions, out: &mut impl Write) -> Result<(), Stop> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Root::command(), "ringway", &mut script);
    Ok(out.write_all(&script)?)
}

/// Prints a manual page.
pub(super) fn man(arguments: &Man, out: &mut impl Write) -> Result<(), Stop> {
    let mut root = Root::command();
    root.build();
    let page = match &arguments.command {
        None => root,
        Some(name) => {
            let command = root.find_subcommand(name).cloned();
            command.ok_or_else(|| Stop::Failed(format!("error: there is no command `{name}`"), EXIT_USAGE))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(out.write_all(&text)?)
}
