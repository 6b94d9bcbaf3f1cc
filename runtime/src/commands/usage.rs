//! A command line that cannot be understood, answered as runc answers it: on stderr, in `--log`, and with its exit codes.

use super::{Cli, LogFormat, log};
use clap::{CommandFactory, Error, error::ErrorKind};
use std::path::PathBuf;

/// Exit codes: 0 help or version was asked for, 3 no such command, 255 a value that `exec` cannot take, 1 anything else.
pub fn answer(err: &Error) -> u8 {
    match err.kind() {
        // Whoever does not read it does not want it.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => drop(err.print()),
        // Without a command runc prints what there is, and has not failed.
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            drop(Cli::command().print_help());
        }
        kind => return refuse(err, kind),
    }
    0
}

fn refuse(err: &Error, kind: ErrorKind) -> u8 {
    let text = err.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    eprintln!("wherry-runtime: {}", text.trim_end());
    // What could be understood, among it where errors go.
    let known = Cli::command().ignore_errors(true).try_get_matches().ok();
    let path = known.as_ref().and_then(|known| known.get_one::<PathBuf>("log"));
    if let Some(path) = path {
        let format = known.as_ref().and_then(|known| known.get_one::<LogFormat>("log_format"));
        let message: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        log(path, format.copied().unwrap_or(LogFormat::Text), "error", &message.join(" "));
    }
    let exec = known.as_ref().and_then(|known| known.subcommand_name()) == Some("exec");
    match kind {
        ErrorKind::InvalidSubcommand => 3,
        ErrorKind::ValueValidation if exec => 255,
        _ => 1,
    }
}
