//! Where and with what was measured: the lines above the tables.

use std::{fmt::Write, fs, path::Path, process::Command};

use crate::fleet::Fleet;

/// A program's name, its path and the option that makes it say its version.
pub(crate) type Program<'a> = (&'a str, &'a Path, &'a str);

/// Date, machine and versions, and where what is measured runs.
pub(crate) fn header(fleet: &Fleet, programs: &[Program<'_>], absent: &[String]) -> String {
    let mut text = versions(fleet, programs, absent);
    let _ = match fleet.cores.measured {
        Some(core) => {
            writeln!(text, "\nWhat is measured runs on core {core}, all else on the others.")
        }
        None => writeln!(text, "\nAll run on the only core."),
    };
    text
}

/// Date, machine and versions.
pub(crate) fn versions(fleet: &Fleet, programs: &[Program<'_>], absent: &[String]) -> String {
    let mut text = String::new();
    let cores = fleet.cores.others.len() + usize::from(fleet.cores.measured.is_some());
    let (date, kernel) = (first_line("date", "+%Y-%m-%d"), first_line("uname", "-sr"));
    let _ = writeln!(text, "{date}, {cores} cores, {:.0} GiB, {kernel}.", memory_gib());
    for (name, path, option) in programs {
        let path = path.display().to_string();
        let version = first_line(&path, option);
        let _ = writeln!(text, "- {name}: {}", version.trim_start_matches(&path).trim());
    }
    for line in absent {
        let _ = writeln!(text, "- absent: {line}");
    }
    text
}

fn memory_gib() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / f64::from(1 << 20)
}

/// What a program says first.
fn first_line(program: &str, option: &str) -> String {
    let Ok(output) = Command::new(program).arg(option).output() else { return "?".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().find(|line| !line.trim().is_empty()).unwrap_or("?").trim().to_owned()
}
