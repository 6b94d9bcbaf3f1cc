//! `wherry-runtime`: an OCI runtime on the command line, and the monitor of pods.
//!
//! Flags, messages and exit codes are runc's where runc has them: 0 done, 1 failed or not understood, 3 no such command; `run` and `exec` end as their
//! process did, an `exec` that never ran its program with 255.
#![forbid(unsafe_code)]

mod commands;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let protected = commands::protect();
    let cli = match commands::Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => return ExitCode::from(commands::usage::answer(&err)),
    };
    match protected.and_then(|()| commands::run(&cli)) {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            let message = runtime::container::chain(&err);
            commands::report(&cli, &message);
            ExitCode::from(commands::exit_code(&cli))
        }
    }
}
