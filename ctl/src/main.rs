//! `ctl`: Wherry's command line.
//!
//! One HTTP client of the Kubernetes API among others; on a host of the cluster it also starts and stops the daemons (`up`, `down`)
//! and asks the agent itself (`image`). Results go to stdout, everything else to stderr; an error is one line.
//! Exit codes: 0 done, 1 the operation failed, 2 usage or no connection; `exec` ends as the remote process did.
#![forbid(unsafe_code)]

mod apply;
mod cli;
mod client;
mod clock;
mod commands;
mod error;
mod host;
mod kubeconfig;
mod manifest;
mod output;
mod resource;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            if !matches!(err, error::CtlError::Exit(_)) {
                output::error(&chain(&err));
            }
            ExitCode::from(err.exit_code())
        }
    }
}

/// The error and its causes on one line.
fn chain(err: &dyn std::error::Error) -> String {
    let mut line = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line.replace('\n', "; ")
}
