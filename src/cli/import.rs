//! `import`: a twemproxy configuration, as ringway would have it.

use std::{io::Write, path::PathBuf};

use clap::Args;

use super::{EXIT_USAGE, Stop};
use crate::config::from_twemproxy;

const EXAMPLES: &str = "\
The result goes to stdout; look through its comments, then `ringway check` it. Every key has the node that it has \
in twemproxy, but where that is none (distribution: random).

Examples:
  ringway import /etc/nutcracker/nutcracker.yml > ringway.yaml
  ringway check --config ringway.yaml
  ringway locate --config ringway.yaml --pool alpha user:1";

/// Arguments of `import`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// twemproxy's configuration
    #[arg(value_name = "NUTCRACKER_YML")]
    file: PathBuf,
}

/// Prints the configuration.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let name = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file)
        .map_err(|e| Stop::Failed(format!("error: {name}: {e}"), EXIT_USAGE))?;
    let yaml = from_twemproxy(&text, &name.to_string())
        .map_err(|errors| Stop::Failed(errors.to_string(), EXIT_USAGE))?;
    Ok(out.write_all(yaml.as_bytes())?)
}
