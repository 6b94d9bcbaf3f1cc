//! What is kept about a container on disk, and what it tells about its state.

use super::{ContainerError, io_error};
use crate::{
    cgroup::Cgroup,
    hooks::{self, HookError},
};
use runtime_spec::{
    ContainerId, State, Status,
    oci::{Hooks, Spec},
};
use runtime_sys::process::{pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
};

const START_SOCKET: &str = "start.sock";

/// A container as `state.json` has it.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: ContainerId,
    pub bundle: PathBuf,
    /// `root.path`, absolute.
    pub root: PathBuf,
    /// 0 until the first process is set up.
    pub pid: i32,
    /// Whether it is inside its root: before, nothing may be run in it.
    pub ready: bool,
    /// Clock ticks from boot to the process's start, by which a recycled pid is told.
    pub started_ticks: u64,
    /// Empty for none.
    pub cgroup: PathBuf,
    /// Whether systemd made the cgroup.
    pub systemd: bool,
    pub created_ns: u64,
    pub annotations: BTreeMap<String, String>,
    /// uid that created it.
    pub owner: u32,
    /// As config.json had them; what becomes of that file later does not matter.
    pub hooks: Option<Hooks>,
}

/// A container as `list` shows it.
#[derive(Clone, Debug)]
pub struct View {
    pub record: Record,
    pub status: Status,
}

impl Record {
    pub fn dir(state_root: &Path, id: &ContainerId) -> PathBuf {
        state_root.join(id.as_ref())
    }

    pub fn start_socket(state_root: &Path, id: &ContainerId) -> PathBuf {
        Self::dir(state_root, id).join(START_SOCKET)
    }

    /// Binds or connects the start socket by a path through the directory's descriptor: it may be no longer than 107 bytes.
    pub fn with_start_socket<T>(
        state_root: &Path,
        id: &ContainerId,
        open: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let dir = File::open(Self::dir(state_root, id))?;
        open(Path::new(&format!("/proc/self/fd/{}/{START_SOCKET}", dir.as_raw_fd())))
    }

    /// Writes the record, whole or not at all.
    pub fn save(&self, state_root: &Path) -> Result<(), ContainerError> {
        let dir = Self::dir(state_root, &self.id);
        let (path, temporary) = (dir.join("state.json"), dir.join("state.json.new"));
        let text = json!({
            "bundle": self.bundle, "pid": self.pid, "ready": self.ready, "startedTicks": self.started_ticks, "cgroup": self.cgroup,
            "createdNs": self.created_ns, "annotations": self.annotations, "owner": self.owner, "root": self.root,
            "systemd": self.systemd, "hooks": self.hooks,
        });
        let written =
            File::create(&temporary).and_then(|mut file| file.write_all(text.to_string().as_bytes()));
        written.and_then(|()| fs::rename(&temporary, &path)).map_err(io_error("write", path))
    }

    /// Reads the record. A container whose creation was cut short before there was one has a record with nothing in it.
    pub fn load(state_root: &Path, id: &ContainerId) -> Result<Self, ContainerError> {
        let dir = Self::dir(state_root, id);
        if !dir.is_dir() {
            return Err(ContainerError::Absent { id: id.to_string() });
        }
        let path = dir.join("state.json");
        let value: Value = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|err| io_error("parse", &path)(io::Error::other(err)))?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => Value::Null,
            Err(err) => return Err(io_error("read", path)(err)),
        };
        let text = |field: &str| PathBuf::from(value[field].as_str().unwrap_or_default());
        Ok(Self {
            id: id.clone(),
            bundle: text("bundle"),
            pid: value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0),
            ready: value["ready"].as_bool().unwrap_or(false),
            started_ticks: value["startedTicks"].as_u64().unwrap_or(0),
            cgroup: text("cgroup"),
            created_ns: value["createdNs"].as_u64().unwrap_or(0),
            annotations: serde_json::from_value(value["annotations"].clone()).unwrap_or_default(),
            owner: value["owner"].as_u64().and_then(|uid| u32::try_from(uid).ok()).unwrap_or(0),
            root: text("root"),
            systemd: value["systemd"].as_bool().unwrap_or(false),
            hooks: serde_json::from_value(value["hooks"].clone()).unwrap_or_default(),
        })
    }

    /// Keeps config.json as it was read. Before the container is ready.
    pub fn save_config(&self, state_root: &Path, text: &[u8]) -> Result<(), ContainerError> {
        let path = Self::dir(state_root, &self.id).join(runtime_spec::CONFIG);
        fs::write(&path, text).map_err(io_error("write", path))
    }

    /// What the container was created with, whatever has become of its bundle.
    pub fn config(&self, state_root: &Path) -> Result<Spec, ContainerError> {
        Ok(runtime_spec::load(&Self::dir(state_root, &self.id), &mut |_| ())?)
    }

    /// Where the container is in its life, by what the kernel says of its process.
    pub fn status(&self, state_root: &Path) -> Status {
        if self.pid == 0 {
            return Status::Creating;
        }
        if start_ticks(self.pid) != Some(self.started_ticks) {
            return Status::Stopped;
        }
        if !self.ready {
            return Status::Creating;
        }
        if !self.cgroup.as_os_str().is_empty() && Cgroup::at(&self.cgroup).frozen() {
            return Status::Paused;
        }
        if Self::waits(state_root, &self.id) { Status::Created } else { Status::Running }
    }

    /// Whether the first process waits for `start`: by who has the socket open, as its file may outlive a `start` that was killed.
    fn waits(state_root: &Path, id: &ContainerId) -> bool {
        if !Self::start_socket(state_root, id).exists() {
            return false;
        }
        // Refused for its kind where somebody listens, who notices nothing; and because there is nobody where nobody does.
        let knock = |path: &Path| UnixDatagram::unbound()?.connect(path);
        let answer = Self::with_start_socket(state_root, id, knock);
        !answer.is_err_and(|err| {
            matches!(err.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        })
    }

    /// The scope that systemd made.
    pub fn unit(&self) -> Option<&str> {
        self.cgroup.file_name().and_then(|unit| unit.to_str()).filter(|_| self.systemd)
    }

    /// Runs the hooks after its program was started. One that fails ends the container (runtime.md, "Lifecycle").
    pub fn run_poststart(&self) -> Result<(), HookError> {
        let listed = self.hooks.as_ref().and_then(|hooks| hooks.poststart().as_ref());
        hooks::run("poststart", listed, &self.oci(Status::Running)).inspect_err(|_| {
            // The descriptor is of the right process if that one still is after it was opened; one that has ended is as good.
            if let Ok(pidfd) = pidfd_open(self.pid)
                && start_ticks(self.pid) == Some(self.started_ticks)
            {
                let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
        })
    }

    /// Runs the hooks after it is gone; one that fails is a warning (runtime.md, "Lifecycle").
    pub fn run_poststop(&self) {
        let listed = self.hooks.as_ref().and_then(|hooks| hooks.poststop().as_ref());
        hooks::run_all("poststop", listed, &self.oci(Status::Stopped));
    }

    /// pids of the container's processes: those of its cgroup, or without one those of its pid namespace.
    pub fn processes(&self) -> Vec<i32> {
        if !self.cgroup.as_os_str().is_empty() {
            return Cgroup::at(&self.cgroup).processes();
        }
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let Some(own) =
            namespace(self.pid).filter(|own| Some(own) != namespace(std::process::id() as i32).as_ref())
        else {
            return vec![self.pid];
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| namespace(pid).as_ref() == Some(&own)).collect()
    }

    /// The OCI state document.
    pub fn oci(&self, status: Status) -> State<'_> {
        let pid = if status == Status::Stopped { 0 } else { self.pid };
        State { id: &self.id, status, pid, bundle: &self.bundle, annotations: &self.annotations }
    }
}

/// Start of a process in clock ticks since boot (field 22 of proc_pid_stat(5)); `None` when it has ended.
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}
