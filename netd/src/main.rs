//! `wherry-netd`: the network of one host's pods: bridge, addresses, service proxy, DNS.
//!
//! Stopping or losing it leaves the pods' links in place; only what passes through the proxy waits for the next one.
#![forbid(unsafe_code)]

mod clock;
mod dns;
mod ipam;
mod leaving;
mod links;
mod nftables;
mod proxy;
mod server;
mod service;
mod state;

use anyhow::Context;
use clap::Parser;
use std::{path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
#[command(
    name = "wherry-netd",
    version,
    about = "Wherry's netd: pod network, service proxy and DNS of this host"
)]
struct Args {
    /// Files that a reboot may forget
    #[arg(long, default_value = "/run/wherry", value_name = "DIR")]
    run_dir: PathBuf,
    /// Name of the bridge that pods are plugged into
    #[arg(long, default_value = "wherry0", value_name = "NAME")]
    bridge: String,
    /// Threads of the proxy
    #[arg(long, default_value_t = 2, value_name = "N")]
    threads: usize,
    /// What to log: error, warn, info, debug, or per module
    #[arg(long, default_value = "info", value_name = "FILTER")]
    log: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log);
    let Ok(filter) = filter.inspect_err(|err| eprintln!("wherry-netd: --log {:?}: {err}", args.log)) else {
        return ExitCode::from(2);
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("start tokio").and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("wherry-netd: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.run_dir).with_context(|| format!("create {}", args.run_dir.display()))?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        served = server::run(args.run_dir, args.bridge, args.threads) => served,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// An error and its causes in one line.
fn chain(err: &dyn std::error::Error) -> String {
    let mut line = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}
