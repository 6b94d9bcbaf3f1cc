//! `ctl down`: stop the pods and the daemons of this host and leave nothing behind but what is declared.

use super::up::{self, Host};
use crate::{
    error::{CtlError, failed},
    host::{self, Daemon, agent::Agent, process, systemd},
    kubeconfig::DEFAULT_PATH,
    output::note,
};
use agent_protocol::{LocalReply, LocalRequest};
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    host: Host,
    /// Give each pod this many seconds to stop
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    grace: u32,
    /// Also remove what lasts: the store with every object, images, volumes, logs and the kubeconfig
    #[arg(long)]
    purge: bool,
}

/// Pods stop gracefully; daemons, bridge, cgroups and files below the run directory go. The declared objects stay unless `--purge`.
pub fn run(args: &Args) -> Result<(), CtlError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(failed("ctl down needs root, as ctl up did"));
    }
    let host = &args.host;
    let kubeconfig = kubeconfig(host);
    // What drains the node is its agent, with netd: one that died is started once more, with the flags it had.
    stop_daemon("scheduler", host)?;
    let drainers: Vec<Daemon> = ["netd", "agent"]
        .into_iter()
        .filter_map(|name| Some(Daemon { name, args: last_args(name, host)? }))
        .collect();
    if !drainers.is_empty() {
        let binaries = host::binaries()?;
        for daemon in &drainers {
            if !running(daemon.name, host) {
                up::start(daemon, host, &binaries)?;
            }
        }
        drain(args)?;
    }
    for name in ["agent", "netd"] {
        stop_daemon(name, host)?;
    }
    if host.systemd() {
        systemd::stop()?;
    }
    clean(args, &kubeconfig)?;
    note(if args.purge {
        "Nothing is left."
    } else {
        "Stopped. `ctl up` brings the same cluster back; `ctl down --purge` forgets it."
    });
    Ok(())
}

fn drain(args: &Args) -> Result<(), CtlError> {
    let mut agent = Agent::ask(&args.host.run_dir, &LocalRequest::Drain { grace_s: args.grace })?;
    loop {
        match agent.reply()? {
            LocalReply::Progress(progress) => note(&format!("{} {}", progress.item, progress.state)),
            LocalReply::Failed(why) => return Err(failed(why)),
            _ => return Ok(()),
        }
    }
}

fn last_args(name: &str, host: &Host) -> Option<Vec<String>> {
    if host.systemd() { systemd::last_args(name) } else { process::last_args(name, &host.run_dir) }
}

fn running(name: &str, host: &Host) -> bool {
    if host.systemd() { systemd::active(name) } else { process::running(name, &host.run_dir).is_some() }
}

fn stop_daemon(name: &str, host: &Host) -> Result<(), CtlError> {
    if host.systemd() { systemd::stop_one(name) } else { process::stop(name, &host.run_dir) }
}

fn clean(args: &Args, kubeconfig: &Path) -> Result<(), CtlError> {
    host::remove(&args.host.run_dir)?;
    if args.purge {
        host::remove(&args.host.state_dir)?;
        host::remove(kubeconfig)?;
        if let Some(dir) = kubeconfig.parent().filter(|_| kubeconfig == Path::new(DEFAULT_PATH)) {
            // A registries.toml in it is the user's.
            let _ = fs::remove_dir(dir);
        }
        systemd::forget_flags()?;
        // Another kubelet may keep its logs there too: only what is empty goes.
        let _ = fs::remove_dir(&args.host.log_dir);
    }
    Ok(())
}

fn kubeconfig(host: &Host) -> PathBuf {
    last_args("scheduler", host)
        .and_then(|args| args.iter().find_map(|arg| arg.strip_prefix("--kubeconfig=").map(PathBuf::from)))
        .unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
}
