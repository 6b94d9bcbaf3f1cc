//! The commands: arguments, and which function of the library each is.

mod create;
mod events;
mod exec;
mod features;
mod list;
mod spec;
mod update;

use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::{
    signal::{SigSet, Signal},
    wait::{Id, WaitPidFlag, WaitStatus, waitid},
};
use runtime::{
    clock,
    container::{self, ContainerError, Created},
};
use runtime_spec::ContainerId;
use serde_json::json;
use std::{
    fs, io,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

#[derive(Debug, Parser)]
#[command(name = "wherry-runtime", version, long_version = VERSION, about = "An OCI runtime, and the monitor of Wherry's pods")]
pub struct Cli {
    /// Where the state of containers is kept [default: /run/wherry/runtime, of an ordinary user below $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Write errors to this file too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Let systemd make cgroups: linux.cgroupsPath is slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// Taken for the sake of callers of other runtimes; there is no more to tell
    #[arg(long, hide = true)]
    debug: bool,
    /// As --debug
    #[arg(long, hide = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// As --debug; whether a user is an ordinary one is seen
    #[arg(long, hide = true, value_name = "BOOL")]
    rootless: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// As docker and podman parse it.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
// Only what is asked for is built: all commands together take as long as cloning the container.
#[command(defer = true)]
enum Command {
    /// Create a container; its program waits for `start`
    Create(create::CreateArgs),
    /// Run the program of a created container
    Start { id: ContainerId },
    /// Create, start, wait and delete
    Run(create::RunArgs),
    /// Print the state of a container
    State { id: ContainerId },
    /// Send a signal to a container's first process
    Kill {
        id: ContainerId,
        #[arg(default_value = "SIGTERM")]
        signal: String,
        /// To every process of the container
        #[arg(short, long)]
        all: bool,
    },
    /// Remove a stopped container
    Delete {
        id: ContainerId,
        /// Also one that runs; one that is not there is no error
        #[arg(short, long)]
        force: bool,
    },
    /// Run a further process in a container
    Exec(exec::ExecArgs),
    /// List containers
    List(list::ListArgs),
    /// Stop every process of a container
    Pause { id: ContainerId },
    /// Let the processes of a paused container go on
    Resume { id: ContainerId },
    /// List the processes of a container
    Ps(list::PsArgs),
    /// Change the limits of a container
    Update(Box<update::UpdateArgs>),
    /// Print what a container uses, and when it runs out of memory
    Events(events::EventsArgs),
    /// Write a config.json to start from
    Spec(spec::SpecArgs),
    /// Print what this runtime supports
    Features,
    /// Watch over one pod; started by the agent
    Monitor {
        /// The pod's directory
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Before a command that makes processes in containers: see [`runtime::self_protection`]. By the words alone, so that they are parsed once.
pub fn protect() -> Result<(), ContainerError> {
    let makes = ["create", "run", "exec", "monitor"];
    if !std::env::args_os().skip(1).any(|word| makes.iter().any(|name| word == *name)) {
        return Ok(());
    }
    runtime::self_protection::protect()
        .map_err(io_error("run from a read-only mount", Path::new("/proc/self/exe")))
}

/// Where state is kept unless `--root` says otherwise.
fn default_root() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !runtime::host::is_root());
    own.map_or_else(|| PathBuf::from("/run/wherry/runtime"), |dir| Path::new(&dir).join("wherry-runtime"))
}

/// Runs the command; gives the exit code.
pub fn run(cli: &Cli) -> Result<u8, ContainerError> {
    let root = &cli.root.clone().unwrap_or_else(default_root);
    match &cli.command {
        Command::Create(args) => create::create(root, args, cli.systemd_cgroup, false).map(|_| 0),
        Command::Start { id } => container::start(root, id).map(|()| 0),
        Command::Run(args) => create::run(root, args, cli.systemd_cgroup),
        Command::State { id } => list::state(root, id),
        Command::Kill { id, signal, all } => {
            container::signal(root, id, parse_signal(signal)?, *all).map(|()| 0)
        }
        Command::Delete { id, force } => container::delete(root, id, *force).map(|()| 0),
        Command::Exec(args) => exec::run(root, args),
        Command::List(args) => list::list(root, args),
        Command::Spec(args) => spec::run(args),
        Command::Features => print(&format!("{:#}\n", features::features())),
        Command::Pause { id } => container::pause(root, id).map(|()| 0),
        Command::Resume { id } => container::resume(root, id).map(|()| 0),
        Command::Ps(args) => list::ps(root, args),
        Command::Update(args) => update::run(root, args),
        Command::Events(args) => events::run(root, args),
        Command::Monitor { dir } => runtime::monitor::daemonize(dir).map(|()| 0),
    }
}

/// Puts an error where it was asked for: stderr, and `--log`.
pub fn report(cli: &Cli, message: &str) {
    eprintln!("wherry-runtime: {message}");
    let Some(path) = &cli.log else { return };
    let line = match cli.log_format {
        LogFormat::Text => format!("level=error msg={message:?}\n"),
        LogFormat::Json => {
            format!("{}\n", json!({ "level": "error", "msg": message, "time": time(clock::now_ns()) }))
        }
    };
    // A log that cannot be written is no reason to lose the exit code.
    let _ = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
}

/// RFC 3339.
fn time(ns: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns));
    at.ok().and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
}

/// Waits for the process, passing signals on; its exit code as a shell has it.
fn attended(created: &Created) -> Result<u8, ContainerError> {
    let forwarded: SigSet = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGCHLD,
    ]
    .into_iter()
    .collect();
    let kernel = |what: &str| {
        let what = what.to_owned();
        move |err: nix::Error| ContainerError::Kernel { what, source: err.into() }
    };
    forwarded.thread_block().map_err(kernel("block signals"))?;
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        match waitid(Id::PIDFd(created.pidfd.as_fd()), flags).map_err(kernel("wait"))? {
            WaitStatus::Exited(_, code) => return Ok(code as u8),
            WaitStatus::Signaled(_, signal, _) => return Ok(128 + signal as u8),
            _ => {}
        }
        let signal = forwarded.wait().map_err(kernel("wait for a signal"))?;
        if signal != Signal::SIGCHLD {
            // It may have ended between; the next look tells.
            let _ = runtime_sys::process::pidfd_send_signal(created.pidfd.as_fd(), signal as i32);
        }
    }
}

fn print(text: &str) -> Result<u8, ContainerError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(io_error("write", Path::new("standard output"))(err))
        }
        _ => Ok(0),
    }
}

/// `SIGTERM`, `TERM` or `15`.
fn parse_signal(text: &str) -> Result<Signal, ContainerError> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper.clone() } else { format!("SIG{upper}") };
    let by_number = text.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    by_number
        .or_else(|| name.parse().ok())
        .ok_or_else(|| refused(&format!("{text:?} is no signal: give a name like SIGTERM or a number")))
}

fn write_pid(file: Option<&Path>, pid: i32) -> Result<(), ContainerError> {
    file.map_or(Ok(()), |path| fs::write(path, pid.to_string()).map_err(io_error("write", path)))
}

fn hand_over(socket: Option<&Path>, terminal: Option<OwnedFd>) -> Result<(), ContainerError> {
    match (socket, terminal) {
        (Some(socket), Some(master)) => send_terminal(socket, &master),
        (None, Some(_)) => Err(refused("process.terminal is set, but no --console-socket is given")),
        (Some(_), None) => Err(refused("--console-socket is given, but process.terminal is not set")),
        (None, None) => Ok(()),
    }
}

fn send_terminal(socket: &Path, master: &OwnedFd) -> Result<(), ContainerError> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::{fd::AsRawFd, unix::net::UnixStream};
    let stream = UnixStream::connect(socket).map_err(io_error("connect to the console socket", socket))?;
    let (fds, name) = ([master.as_raw_fd()], [io::IoSlice::new(b"/dev/ptmx")]);
    sendmsg::<()>(
        stream.as_raw_fd(),
        &name,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(|err| io_error("send the terminal to", socket)(err.into()))?;
    Ok(())
}

fn refused(why: &str) -> ContainerError {
    ContainerError::Kernel { what: why.to_owned(), source: io::ErrorKind::InvalidInput.into() }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.to_path_buf();
    move |source| ContainerError::Io { what, path, source }
}
