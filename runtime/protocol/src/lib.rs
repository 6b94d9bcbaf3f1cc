//! agent ↔ pod monitor (`wherry-runtime monitor`): plain structs, nothing of Kubernetes.
//!
//! The monitor is started by the agent with `wherry-runtime monitor --dir DIR`, where `DIR` is
//! `/run/wherry/pods/<pod uid>` and holds [`SANDBOX_FILE`] (a [`Sandbox`], written by the agent before).
//! It daemonizes: the command returns 0 once [`SOCKET_FILE`] listens, 1 with a message on stderr otherwise.
//! While it lives it holds an exclusive flock on [`LOCK_FILE`], by which a restarted agent tells a live
//! monitor from a dead one. The monitor itself has unshared the pod's net, ipc and uts namespaces (unless
//! the sandbox says host), so `/proc/<pid>/ns/net` is the pod's and containers inherit them by fork.
//!
//! Every connection starts with the hello of [`MAGIC`] and one [`Open`]:
//! - [`Open::Control`]: [`Request`] frames one way; [`FromMonitor`] the other. First comes
//!   [`FromMonitor::Snapshot`]; then replies (in request order, by tag) and events as they happen. Several control
//!   connections may exist; each sees every event.
//! - [`Open::Exec`], [`Open::Attach`], [`Open::Forward`]: [`StreamFrame`] both ways until [`StreamFrame::Exit`] or
//!   [`StreamFrame::Failed`], which the monitor sends last. A peer that hangs up kills an exec (SIGKILL) and detaches an attach.
//!
//! Times are nanoseconds since the Unix epoch. Enums are append-only: bincode writes the variant's index.
#![forbid(unsafe_code)]

use codec::{Decode, Encode};
use std::{ops::RangeInclusive, path::PathBuf};

/// First bytes of every connection.
pub const MAGIC: [u8; 4] = *b"WhRt";
/// Versions this build speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;
/// Name of the monitor's socket in its directory.
pub const SOCKET_FILE: &str = "monitor.sock";
/// Name of the file with the encoded [`Sandbox`].
pub const SANDBOX_FILE: &str = "sandbox.bin";
/// Name of the file the monitor holds a flock on; its content is the monitor's pid as text.
pub const LOCK_FILE: &str = "monitor.lock";
/// Name of the link that leads to the pod's user namespace, where it has one: the `path` of config.json's user namespace.
pub const USERS_FILE: &str = "users";

/// What the containers of one pod share.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sandbox {
    /// uid of the pod; also the name of its directory.
    pub pod: String,
    /// UTS host name; ignored with `host_network`, where the host's stays.
    pub hostname: String,
    /// Stay in the host's network (and UTS) namespace.
    pub host_network: bool,
    /// Stay in the host's IPC namespace.
    pub host_ipc: bool,
    /// Containers share one pid namespace, whose init is a child of the monitor.
    pub share_pid: bool,
    /// `(name, value)` written below `/proc/sys` inside the sandbox's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// The pod's cgroup v2 directory, absolute; the monitor creates and, on shutdown, removes it.
    pub cgroup: PathBuf,
    /// Limits of the pod as a whole, written into `cgroup`; `None` where no controller can enforce them.
    pub limits: Option<Limits>,
    /// `--root` of the runtime: where container state lives.
    pub state_root: PathBuf,
    /// The pod's namespaces belong to a user namespace of its own with these ids, which containers join by [`USERS_FILE`]; never with
    /// `host_network`, `host_ipc` or a container in the host's pids.
    pub users: Option<Ids>,
}

/// Users and groups `host..host + count` of the host, which are `0..count` inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Ids {
    pub host: u32,
    pub count: u32,
}

/// cgroup v2 values; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Limits {
    /// `cpu.weight`, 1..=10000.
    pub cpu_weight: Option<u64>,
    /// `cpu.max` as (quota, period), both in microseconds.
    pub cpu_max: Option<(u64, u64)>,
    /// `memory.max`, bytes.
    pub memory_max: Option<u64>,
    /// `memory.low`, bytes.
    pub memory_low: Option<u64>,
    /// `pids.max`.
    pub pids_max: Option<u64>,
}

/// First frame of a connection: what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Open {
    /// Requests and events.
    Control,
    /// Run a process in a running container.
    Exec(Exec),
    /// Join the standard streams of a container's first process.
    Attach { container: String },
    /// Connect to `127.0.0.1:port` in the pod's network namespace; bytes travel on channels 0 and 1.
    Forward { port: u16 },
}

/// A process to run in a container. Environment, user and working directory default to the container's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Exec {
    pub container: String,
    /// Program and arguments; looked up in the container's `PATH`.
    pub args: Vec<String>,
    pub tty: bool,
    /// Whether stdin will be sent; without it the process reads end of file.
    pub stdin: bool,
}

/// One request on a control connection; answered by [`FromMonitor::Reply`] with the same `tag`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Request {
    pub tag: u64,
    pub body: RequestBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RequestBody {
    /// Create a container (OCI `create`): everything is set up, the program does not run yet.
    Create(Box<Create>),
    /// Run the program of a created container (OCI `start`).
    Start { container: String },
    /// Send a signal to the first process, or with `all` to every process of the container.
    Signal { container: String, signal: i32, all: bool },
    /// Remove a stopped container: its cgroup, state and writable layer mount. Absent is success.
    Delete { container: String },
    /// Kill and delete everything, then exit and remove the monitor's own files.
    Shutdown,
    /// Reopen nothing, change nothing: answered when every earlier request is done.
    Ping,
}

/// A container to create.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Create {
    /// Unique on the node.
    pub container: String,
    /// Directory with the OCI `config.json`. Its `linux.namespaces` lists only namespaces private to the container
    /// (mount, pid, cgroup), and the pod's user namespace by its path; net, ipc and uts are the monitor's own. `linux.cgroupsPath` is absolute, below
    /// [`Sandbox::cgroup`].
    pub bundle: PathBuf,
    /// When set, the root filesystem is this overlay, mounted inside the container's mount namespace on `root.path`
    /// of the config, so that no mount exists on the host.
    pub overlay: Option<Overlay>,
    /// CRI log file of this attempt; the directory exists.
    pub log: PathBuf,
    /// Rotate the log when it grows over this many bytes, keeping `log_files` files (`.log`, `.log.1`, …).
    pub log_bytes_max: u64,
    pub log_files: u32,
    /// Keep stdin open for attach; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    pub stdin_once: bool,
}

/// Layers of an overlay mount; all paths absolute on the host.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Overlay {
    /// Uppermost first, as in the mount option `lowerdir`.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// What the monitor sends on a control connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromMonitor {
    /// First frame: the sandbox and every container known, exited ones included until they are deleted.
    Snapshot { pid: u32, netns_inode: u64, containers: Vec<Container> },
    /// Answer to a request; the error is one line for people.
    Reply { tag: u64, result: Result<(), String> },
    /// A container changed; the whole new state.
    Changed(Container),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Container {
    pub container: String,
    pub state: ContainerState,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ContainerState {
    Created { pid: u32 },
    Running { pid: u32, started_ns: u64 },
    Exited(Exit),
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Exit {
    /// Exit status; 128 + signal when one ended it.
    pub code: i32,
    pub signal: Option<i32>,
    /// The kernel's OOM killer chose a process of the container (`memory.events`, `oom_kill`).
    pub oom_killed: bool,
    pub started_ns: u64,
    pub finished_ns: u64,
}

/// Frames of an exec, attach or forward connection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StreamFrame {
    /// Bytes of channel 0 (stdin, towards the process), 1 (stdout) or 2 (stderr); at most [`CHUNK_BYTES_MAX`].
    Data { channel: u8, bytes: Vec<u8> },
    /// End of file on a channel.
    Close { channel: u8 },
    /// New size of the terminal, in characters.
    Resize { width: u16, height: u16 },
    /// The process ended; last frame.
    Exit(Exit),
    /// The process could not be run; last frame. 126 and 127 as a shell has them.
    Failed { code: i32, message: String },
}

/// Most bytes in one [`StreamFrame::Data`].
pub const CHUNK_BYTES_MAX: usize = 32 << 10;
