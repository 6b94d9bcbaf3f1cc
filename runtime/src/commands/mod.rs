//! The commands: arguments, and which function of the library each is.

mod exec;
mod features;
mod spec;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::{
    signal::{SigSet, Signal},
    wait::{Id, WaitPidFlag, WaitStatus, waitid},
};
use runtime::{
    clock,
    container::{self, ContainerError, CreateOptions, Created, Stdio},
};
use runtime_spec::ContainerId;
use serde_json::{Value, json};
use std::{
    fs, io,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

#[derive(Debug, Parser)]
#[command(name = "wherry-runtime", version, about = "An OCI runtime, and the monitor of Wherry's pods")]
pub struct Cli {
    /// Where the state of containers is kept
    #[arg(long, global = true, default_value = "/run/wherry/runtime", value_name = "DIR")]
    root: PathBuf,
    /// Write errors to this file too
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct CreateArgs {
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

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container; its program waits for `start`
    Create(CreateArgs),
    /// Run the program of a created container
    Start { id: ContainerId },
    /// Create, start, wait and delete
    Run(CreateArgs),
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
    List {
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
        /// Ids only
        #[arg(short, long)]
        quiet: bool,
    },
    /// Stop every process of a container
    Pause { id: ContainerId },
    /// Let the processes of a paused container go on
    Resume { id: ContainerId },
    /// List the processes of a container
    Ps { id: ContainerId },
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

/// Before a command that makes processes in containers: see [`runtime::self_protection`].
pub fn protect(cli: &Cli) -> Result<(), ContainerError> {
    match cli.command {
        Command::Create(_) | Command::Run(_) | Command::Exec(_) | Command::Monitor { .. } => {
            runtime::self_protection::protect()
                .map_err(io_error("run from a read-only mount", Path::new("/proc/self/exe")))
        }
        _ => Ok(()),
    }
}

/// Runs the command; gives the exit code.
pub fn run(cli: &Cli) -> Result<u8, ContainerError> {
    let root = cli.root.as_path();
    match &cli.command {
        Command::Create(args) => create(root, args).map(|_| 0),
        Command::Start { id } => container::start(root, id).map(|()| 0),
        Command::Run(args) => run_to_end(root, args),
        Command::State { id } => {
            let view = container::state(root, id)?;
            print(&format!("{:#}\n", view.record.oci(view.status).to_json()))
        }
        Command::Kill { id, signal, all } => {
            container::signal(root, id, parse_signal(signal)?, *all).map(|()| 0)
        }
        Command::Delete { id, force } => container::delete(root, id, *force).map(|()| 0),
        Command::Exec(args) => exec::run(root, args),
        Command::List { quiet: true, .. } => {
            let ids: Vec<String> =
                container::list(root)?.iter().map(|view| format!("{}\n", view.record.id)).collect();
            print(&ids.concat())
        }
        Command::List { format, .. } => list(root, format == "json"),
        Command::Spec(args) => spec::run(args),
        Command::Features => print(&format!("{:#}\n", features::features())),
        Command::Pause { id } => container::pause(root, id).map(|()| 0),
        Command::Resume { id } => container::resume(root, id).map(|()| 0),
        Command::Ps { id } => {
            let cgroup = runtime::cgroup::Cgroup::at(container::state(root, id)?.record.cgroup);
            print(&format!("{}\n", json!(cgroup.processes())))
        }
        Command::Monitor { dir } => runtime::monitor::daemonize(dir).map(|()| 0),
    }
}

/// Puts an error where it was asked for: stderr, and `--log`.
pub fn report(cli: &Cli, message: &str) {
    eprintln!("wherry-runtime: {message}");
    let Some(path) = &cli.log else { return };
    let line = match cli.log_format {
        LogFormat::Text => format!("level=error msg={message:?}\n"),
        LogFormat::Json => format!("{}\n", json!({ "level": "error", "msg": message, "time": time() })),
    };
    // A log that cannot be written is no reason to lose the exit code.
    let _ = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
}

fn time() -> String {
    let now = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(clock::now_ns()));
    now.ok()
        .and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

fn create(root: &Path, args: &CreateArgs) -> Result<Created, ContainerError> {
    if args.no_pivot {
        return Err(refused("--no-pivot is not supported: the host's root would stay in reach"));
    }
    let bundle = args.bundle.canonicalize().map_err(io_error("find the bundle", &args.bundle))?;
    let preserve_fds = args.preserve_fds;
    let options = CreateOptions {
        id: &args.id,
        bundle: &bundle,
        state_root: root,
        overlay: None,
        stdio: Stdio::Inherit,
        preserve_fds,
        new_keyring: !args.no_new_keyring,
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

fn run_to_end(root: &Path, args: &CreateArgs) -> Result<u8, ContainerError> {
    let created = create(root, args)?;
    let ended = container::start(root, &args.id).and_then(|()| attended(&created));
    container::delete(root, &args.id, true)?;
    ended
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

fn list(root: &Path, as_json: bool) -> Result<u8, ContainerError> {
    let views = container::list(root)?;
    if as_json {
        let rows: Vec<Value> = views.iter().map(|view| view.record.oci(view.status).to_json()).collect();
        return print(&format!("{}\n", Value::from(rows)));
    }
    let mut text = format!("{:<40} {:<8} {:<9} BUNDLE\n", "ID", "PID", "STATUS");
    for view in &views {
        let (record, status) = (&view.record, view.status.to_string());
        text.push_str(&format!(
            "{:<40} {:<8} {status:<9} {}\n",
            record.id.to_string(),
            record.pid,
            record.bundle.display()
        ));
    }
    print(&text)
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
