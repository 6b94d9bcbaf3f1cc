//! `create` and `run`.

use super::{
    attend::{Held, attend, hold},
    handover::{HandoverArgs, listeners},
    io_error, refused,
};
use clap::Args;
use runtime::container::{self, ContainerError, CreateOptions, Created, Stdio, TerminalTo};
use runtime_spec::ContainerId;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct CreateArgs {
    id: ContainerId,
    /// Directory with config.json
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    #[command(flatten)]
    handover: HandoverArgs,
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
    /// Taken for the sake of callers of runc; its processes have their parent by other means
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

/// How far a container is brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Its program waits for `start`.
    Created,
    /// Its program runs, and nobody waits for it.
    Detached,
    /// Its program runs, and this command waits for it.
    Attended,
}

pub fn create(root: &Path, args: &CreateArgs, systemd_cgroup: bool) -> Result<(), ContainerError> {
    make(root, args, systemd_cgroup, Until::Created).map(drop)
}

fn make(
    root: &Path,
    args: &CreateArgs,
    systemd_cgroup: bool,
    until: Until,
) -> Result<(Created, Option<Held>), ContainerError> {
    if args.no_pivot {
        return Err(refused("--no-pivot is not supported: the host's root would stay in reach"));
    }
    let listeners = listeners();
    let preserve_fds = args.handover.descriptors(listeners)?;
    args.handover.check()?;
    // The program is process 1 where it is.
    let env = if listeners == 0 {
        Vec::new()
    } else {
        vec![format!("LISTEN_FDS={listeners}"), "LISTEN_PID=1".to_owned()]
    };
    let bundle = args.bundle.canonicalize().map_err(io_error("find the bundle", &args.bundle))?;
    let terminal = args.handover.terminal(until == Until::Attended);
    let options = CreateOptions {
        id: &args.id,
        bundle: &bundle,
        state_root: root,
        overlay: None,
        stdio: Stdio::Inherit,
        preserve_fds,
        env,
        terminal,
        new_keyring: !args.no_new_keyring,
        systemd_cgroup,
        find_program: true,
        // Before the program can run, its terminal must be in someone's hands.
        at_once: until != Until::Created && terminal != TerminalTo::Socket,
    };
    let held = if until == Until::Attended { Some(hold()?) } else { None };
    let mut created = container::create(options)?;
    if let Err(err) = args.handover.give(&mut created) {
        container::delete(root, &args.id, true)?;
        return Err(err);
    }
    Ok((created, held))
}

/// The exit code is that of the program, unless detached.
pub fn run(root: &Path, args: &RunArgs, systemd_cgroup: bool) -> Result<u8, ContainerError> {
    let until = if args.detach { Until::Detached } else { Until::Attended };
    let (created, held) = make(root, &args.create, systemd_cgroup, until)?;
    let id = &args.create.id;
    let waits = args.create.handover.terminal(!args.detach) == TerminalTo::Socket;
    let started = if waits { container::start(root, id) } else { Ok(()) };
    let ended = match (started, held) {
        (Ok(()), None) => return Ok(0),
        (Ok(()), Some(held)) => attend(&created, &held),
        (Err(err), _) => Err(err),
    };
    if ended.is_err() || !args.keep {
        container::delete(root, id, true)?;
    }
    ended
}
