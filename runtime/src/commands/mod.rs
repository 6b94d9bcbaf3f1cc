//! The commands: arguments, and which function of the library each is.

mod attend;
mod create;
mod events;
mod exec;
mod features;
mod handover;
mod list;
mod spec;
mod update;
pub mod usage;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use nix::sys::signal::Signal;
use runtime::{
    clock,
    container::{self, ContainerError, SIGNALS},
    warnings,
};
use runtime_spec::ContainerId;
use serde_json::json;
use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

#[derive(Debug, Parser)]
// Of a flag that is given twice the last counts, as under runc: callers put theirs before a user's.
#[command(args_override_self = true)]
#[command(name = "wherry-runtime", version = VERSION, disable_version_flag = true, about = "An OCI runtime, and the monitor of Wherry's pods")]
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
    /// As --debug; whether a user is an ordinary one is seen. Before the command: `spec` has one of its own
    #[arg(long, hide = true, value_name = "BOOL", value_parser = ["true", "false", "auto"])]
    rootless: Option<String>,
    /// As --debug; there is no checkpoint to make with it
    #[arg(long, hide = true, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// Print the versions of this program and of the specification
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

/// As docker and podman parse it.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

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
    /// Remove a container that has stopped, or was never started
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

/// How a command that failed ends. An exec that never ran its program ends apart from every code of a program; a shell's 126 and 127 are made of the
/// message by whoever wants them, as docker and podman do.
pub fn exit_code(cli: &Cli) -> u8 {
    if matches!(cli.command, Command::Exec(_)) { 255 } else { 1 }
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
    expect_log(cli)?;
    listen_for_warnings(cli);
    match &cli.command {
        Command::Create(args) => create::create(root, args, cli.systemd_cgroup).map(|()| 0),
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
    if let Some(path) = &cli.log {
        log(path, cli.log_format, "error", message);
    }
}

/// A log that cannot be written to is told before anything is done. It is not kept open: its number could be one of `--preserve-fds`.
fn expect_log(cli: &Cli) -> Result<(), ContainerError> {
    let Some(path) = &cli.log else { return Ok(()) };
    open_log(path).map(drop).map_err(io_error("open --log", path))
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    fs::File::options().create(true).append(true).open(path)
}

/// Warnings go to `--log`, or without it to stderr, as runc's do.
fn listen_for_warnings(cli: &Cli) {
    let (path, format) = (cli.log.clone(), cli.log_format);
    warnings::send_to(move |message| match &path {
        Some(path) => log(path, format, "warning", message),
        None => eprintln!("wherry-runtime: warning: {message}"),
    });
}

/// Appends a line as logrus writes it, which callers of runc parse.
fn log(path: &Path, format: LogFormat, level: &str, message: &str) {
    let time = time(clock::now_ns());
    let line = match format {
        LogFormat::Text => format!("time={time:?} level={level} msg={message:?}\n"),
        LogFormat::Json => format!("{}\n", json!({ "level": level, "msg": message, "time": time })),
    };
    // A log that cannot be written is no reason to lose the exit code.
    let _ = open_log(path).and_then(|mut file| file.write_all(line.as_bytes()));
}

/// RFC 3339.
fn time(ns: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns));
    at.ok().and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok()).unwrap_or_default()
}

fn print(text: &str) -> Result<u8, ContainerError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(io_error("write", Path::new("standard output"))(err))
        }
        _ => Ok(0),
    }
}

/// `SIGTERM`, `TERM`, `15`, or `SIGRTMIN+3`; 0 only asks whether there is a process, kill(2), and nothing is SIGTERM.
fn parse_signal(text: &str) -> Result<i32, ContainerError> {
    let text = if text.is_empty() { "SIGTERM" } else { text };
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = || format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32);
    let number = text.parse::<i32>().ok().or_else(named).or_else(|| real_time(name));
    number.filter(|number| *number == 0 || SIGNALS.contains(number)).ok_or_else(|| {
        refused(&format!("unknown signal {text:?}: give a name like SIGTERM or SIGRTMIN+3, or a number"))
    })
}

/// `RTMIN+3`, `RTMAX-2`: from 34, as the C library counts, to 64.
fn real_time(name: &str) -> Option<i32> {
    let (first, rest, sign) = match name.strip_prefix("RTMIN") {
        Some(rest) => (34, rest.strip_prefix('+'), 1),
        None => (64, name.strip_prefix("RTMAX")?.strip_prefix('-'), -1),
    };
    let distance = if name.len() == 5 { 0 } else { rest?.parse::<u8>().ok()? };
    Some(first + sign * i32::from(distance)).filter(|number| (34..=64).contains(number))
}

fn refused(why: &str) -> ContainerError {
    ContainerError::Refused(why.to_owned())
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.to_path_buf();
    move |source| ContainerError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_name_or_a_number() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("kill", 9),
            ("1", 1),
            ("0", 0),
            ("", 15),
            ("37", 37),
            ("SIGRTMIN+3", 37),
            ("RTMIN", 34),
            ("rtmax-1", 63),
        ] {
            assert_eq!(parse_signal(text).expect(text), number);
        }
        for text in ["SIG", "65", "-9", "RTMIN+31", "RTMINX", "RTMAX+1", "TERMINATE"] {
            assert!(parse_signal(text).is_err(), "{text:?}");
        }
    }
}
