//! `wherry-runtime`: an OCI runtime on the command line, and the monitor of pods.
//!
//! Flags and messages are runc's where runc has them. Exit codes: 0 done, 1 failed, 2 usage; `run` and `exec` end as their process did, 126 and 127
//! when it could not be run.
#![forbid(unsafe_code)]

mod commands;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let protected = commands::protect();
    let cli = commands::Cli::parse();
    match protected.and_then(|()| commands::run(&cli)) {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            let message = runtime::container::chain(&err);
            commands::report(&cli, &message);
            ExitCode::from(commands::exit_code(&cli, &err))
        }
    }
}
