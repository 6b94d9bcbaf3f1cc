//! `create` and `run`.

use super::{attended, hand_over, io_error, refused, write_pid};
use clap::Args;
use runtime::container::{self, ContainerError, CreateOptions, Created, Stdio};
use runtime_spec::ContainerId;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct CreateArgs {
    id: ContainerId,
    /// Directory with config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// Write the first process's pid to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Socket that is sent the terminal's master
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Pass this many descriptors on, from 3
    #[arg(long, default_value_t = 0, value_name = "N")]
    preserve_fds: u32,
    /// Keep the caller's session keyring
    #[arg(long)]
    no_new_keyring: bool,
    /// Refused: without pivot_root the host's root stays in reach
    #[arg(long)]
    no_pivot: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    create: CreateArgs,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// Leave the container, stopped, when its program has ended
    #[arg(long)]
    keep: bool,
}

/// `at_once`: run the program, too.
pub fn create(
    root: &Path,
    args: &CreateArgs,
    systemd_cgroup: bool,
    at_once: bool,
) -> Result<Created, ContainerError> {
    if args.no_pivot {
        return Err(refused("--no-pivot is not supported: the host's root would stay in reach"));
    }
    let bundle = args.bundle.canonicalize().map_err(io_error("find the bundle", &args.bundle))?;
    let options = CreateOptions {
        id: &args.id,
        bundle: &bundle,
        state_root: root,
        overlay: None,
        stdio: Stdio::Inherit,
        preserve_fds: args.preserve_fds,
        new_keyring: !args.no_new_keyring,
        systemd_cgroup,
        find_program: true,
        at_once,
    };
    let mut created = container::create(options)?;
    let handed = write_pid(args.pid_file.as_deref(), created.pid)
        .and_then(|()| hand_over(args.console_socket.as_deref(), created.terminal.take()));
    if let Err(err) = handed {
        container::delete(root, &args.id, true)?;
        return Err(err);
    }
    Ok(created)
}

/// The exit code is that of the program, unless detached.
pub fn run(root: &Path, args: &RunArgs, systemd_cgroup: bool) -> Result<u8, ContainerError> {
    // Before the program can run, its terminal must be in someone's hands.
    let at_once = args.create.console_socket.is_none();
    let created = create(root, &args.create, systemd_cgroup, at_once)?;
    let started = if at_once { Ok(()) } else { container::start(root, &args.create.id) };
    let ended = match started {
        Ok(()) if args.detach => return Ok(0),
        started => started.and_then(|()| attended(&created)),
    };
    if ended.is_err() || !args.keep {
        container::delete(root, &args.create.id, true)?;
    }
    ended
}
