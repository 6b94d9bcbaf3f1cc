//! cgroup v2: create, limit, kill and remove the control group of one container.
//!
//! On disk: `<mount of cgroup2>/<path>/`. Semantics: kernel `Documentation/admin-guide/cgroup-v2.rst`, OCI `config-linux.md`.
//! Order of calls: [`Cgroup::create`] -> [`Cgroup::limit`] -> clone into [`Cgroup::open`]; or, where systemd owns the tree, [`Scope::start`].
//!
//! Invariants: limits are written, and read back, before the container's program runs. A limit whose controller is not there is an
//! error, never ignored. cgroup v1 is never touched.

mod dbus;
pub mod limits;
pub mod stats;
mod systemd;

pub use systemd::{Scope, cgroup_of};

use crate::warnings::warn;
use limits::Limit;
use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, openat},
    sys::{
        stat::Mode,
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
    unistd::{UnlinkatFlags, unlinkat},
};
use runtime_spec::oci::LinuxResources;
use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where a unified hierarchy is mounted when it is the only one; the one place cgroups-rs writes to.
const UNIFIED: &str = "/sys/fs/cgroup";
/// How long killed processes may take to leave.
const EMPTY_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup2 filesystem is mounted")]
    NotMounted,
    #[error("{what} cgroup {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("controller {controller} is not available in {}: linux.resources.{field} cannot be enforced", path.display())]
    ControllerMissing { controller: &'static str, field: &'static str, path: PathBuf },
    #[error("linux.resources.{field}: {value} was not accepted by {}: {cause}", path.display())]
    Refused { field: &'static str, value: String, path: PathBuf, cause: String },
    #[error("linux.resources.{field}: {value}: is not supported")]
    Unsupported { field: &'static str, value: String },
    #[error(
        "linux.cgroupsPath: {value:?}: with --systemd-cgroup it is slice:prefix:name, as in machine.slice:libpod:abc"
    )]
    SystemdPath { value: String },
    #[error(
        "annotations: {name}: {value:?}: is not a property of a systemd unit with a value as in 'text', true, 37 or uint64 5"
    )]
    Property { name: String, value: String },
    #[error("{what} {unit} by systemd")]
    Systemd { what: &'static str, unit: String, source: io::Error },
    #[error(
        "linux.resources.memory.limit: {limit}: {used} bytes are in use, and memory.checkBeforeUpdate is set"
    )]
    InUse { limit: i64, used: u64 },
    #[error("linux.cgroupsPath: cgroup {} is not empty: it has processes {pids:?} of others", path.display())]
    Occupied { path: PathBuf, pids: Vec<i32> },
    #[error("cgroup {} is not frozen after {} s", path.display(), EMPTY_WAIT.as_secs())]
    NotFrozen { path: PathBuf },
    #[error("cgroup {} still has processes {:?} after {} s", path.display(), pids, EMPTY_WAIT.as_secs())]
    Busy { path: PathBuf, pids: Vec<String> },
}

/// The mount point of the unified hierarchy.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    // Where it is on all but strange hosts: alone, or beside v1.
    for usual in [UNIFIED, "/sys/fs/cgroup/unified"] {
        if statfs(usual).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(PathBuf::from(usual));
        }
    }
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|_| CgroupError::NotMounted)?;
    let line = table.lines().find(|line| line.contains(" - cgroup2 ")).ok_or(CgroupError::NotMounted)?;
    line.split(' ').nth(4).map(PathBuf::from).ok_or(CgroupError::NotMounted)
}

/// The directory of `linux.cgroupsPath`: relative to the root of the hierarchy, or absolute below its mount point.
pub fn absolute(path: &Path) -> Result<PathBuf, CgroupError> {
    let root = mount_point()?;
    let below = path.strip_prefix(&root).unwrap_or(path);
    Ok(root.join(below.strip_prefix("/").unwrap_or(below)))
}

/// A control group, by its directory.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The group at an absolute directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the directory, with as many controllers enabled on the way as there are. `path`: as for [`absolute`].
    pub fn create(path: &Path) -> Result<Self, CgroupError> {
        let root = mount_point()?;
        let below = path.strip_prefix(&root).unwrap_or(path);
        let below = below.strip_prefix("/").unwrap_or(below);
        let mut dir = root;
        for part in below.components() {
            enable_controllers(&dir)?;
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("create", &dir)(err));
                }
                _ => {}
            }
        }
        Ok(Self { path: dir })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor to clone a process into.
    pub fn open(&self) -> Result<OwnedFd, CgroupError> {
        let flags = (OFlag::O_DIRECTORY | OFlag::O_PATH).bits();
        let file = File::options().read(true).custom_flags(flags).open(&self.path);
        file.map(OwnedFd::from).map_err(io_error("open", &self.path))
    }

    /// Writes every limit of `resources` and reads it back.
    pub fn limit(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        limits::ignored(resources).iter().for_each(|line| warn(line));
        if let Some(memory) = resources.memory()
            && let Some(limit) = memory.limit().filter(|&limit| limit > 0)
            && memory.check_before_update() == Some(true)
        {
            let text = fs::read_to_string(self.path.join("memory.current")).unwrap_or_default();
            match text.trim().parse::<u64>() {
                Ok(used) if used > limit as u64 => return Err(CgroupError::InUse { limit, used }),
                _ => {}
            }
        }
        // What the kernel takes only after another one (cpu.max.burst is at most the quota, cpu.weight is not for the idle) gets a second chance.
        let limits = limits::of(resources)?;
        let refused: Vec<&Limit> = limits.iter().filter(|limit| self.apply(limit).is_err()).collect();
        refused.into_iter().try_for_each(|limit| self.apply(limit))?;
        self.unified(resources)
    }

    fn apply(&self, limit: &Limit) -> Result<(), CgroupError> {
        let (controller, file, field, mut value) = limit.write();
        let path = self.path.join(file);
        if let Some((file, value)) = limit.write_for_bfq() {
            let bfq = self.path.join(file);
            if bfq.exists() {
                fs::write(&bfq, &value).map_err(|err| CgroupError::Refused {
                    field,
                    value,
                    path: bfq.clone(),
                    cause: err.to_string(),
                })?;
                if !path.exists() {
                    return Ok(());
                }
            }
        }
        if let Limit::CpuMax { quota_us: None, .. } = limit {
            // A period alone leaves the quota as it is.
            let now = fs::read_to_string(&path).unwrap_or_default();
            let quota = now.split(' ').next().filter(|quota| !quota.is_empty()).unwrap_or("max");
            value = value.replacen("max", quota, 1);
        }
        if !path.exists() {
            // Nothing to enforce is enforced.
            if limit.is_none() {
                return Ok(());
            }
            return Err(CgroupError::ControllerMissing { controller, field, path: self.path.clone() });
        }
        let refused =
            |cause: String| CgroupError::Refused { field, value: value.clone(), path: path.clone(), cause };
        let library = match self.path.strip_prefix(UNIFIED) {
            Ok(below) if Path::new(UNIFIED).join("cgroup.controllers").exists() => {
                limit.through_cgroups_rs(below)
            }
            _ => None,
        };
        match library {
            Some(written) => written.map_err(refused)?,
            None => fs::write(&path, &value).map_err(|err| refused(err.to_string()))?,
        }
        let now = fs::read_to_string(&path).map_err(|err| refused(err.to_string()))?;
        if limit.holds(now.trim()) || now.trim() == value {
            Ok(())
        } else {
            Err(refused(format!("it reads back as {}", now.trim())))
        }
    }

    /// `linux.resources.unified`: files and values as they are.
    fn unified(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        for (name, value) in resources.unified().iter().flatten() {
            let path = self.path.join(name);
            let refused = |cause: String| CgroupError::Refused {
                field: "unified",
                value: format!("{name}={value}"),
                path: path.clone(),
                cause,
            };
            let of_tree = name.starts_with("cgroup.") && !name.starts_with("cgroup.max.");
            if name.contains('/') || of_tree {
                return Err(refused("names no limit".to_owned()));
            }
            fs::write(&path, value).map_err(|err| refused(err.to_string()))?;
        }
        Ok(())
    }

    /// Writes one file of the group, named and formatted as cgroup-v2.rst has it.
    pub fn set(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        fs::write(self.path.join(file), value).map_err(io_error("set", &self.path.join(file)))
    }

    /// Moves a process in.
    pub fn join(&self, pid: i32) -> Result<(), CgroupError> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).map_err(io_error("join", &self.path))
    }

    /// Kills every process in the group and below it; absent is success.
    pub fn kill(&self) -> Result<(), CgroupError> {
        absent_is_success(fs::write(self.path.join("cgroup.kill"), "1")).map_err(io_error("kill", &self.path))
    }

    /// Stops or resumes every process; returns once they are, or when they take too long.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let value = if frozen { "1" } else { "0" };
        fs::write(self.path.join("cgroup.freeze"), value).map_err(io_error("freeze", &self.path))?;
        let wanted = format!("frozen {value}");
        let events = || fs::read_to_string(self.path.join("cgroup.events")).unwrap_or_default();
        if crate::clock::retry(EMPTY_WAIT, || events().lines().any(|line| line == wanted)) {
            return Ok(());
        }
        if frozen {
            // Half of it must not stay stopped.
            fs::write(self.path.join("cgroup.freeze"), "0").map_err(io_error("thaw", &self.path))?;
        }
        Err(CgroupError::NotFrozen { path: self.path.clone() })
    }

    /// A container's cgroup is killed and removed with it, so nobody else may be in it. Absent is success.
    pub fn expect_unoccupied(&self) -> Result<(), CgroupError> {
        match fs::read_to_string(self.path.join("cgroup.procs")) {
            Err(_) => Ok(()),
            Ok(_) => match self.processes() {
                pids if pids.is_empty() => Ok(()),
                pids => Err(CgroupError::Occupied { path: self.path.clone(), pids }),
            },
        }
    }

    /// The group that takes a further process beside `pid`: this one, or that of `pid` where this one has controlled groups below it and so takes none
    /// (cgroup-v2.rst, "No Internal Process Constraint").
    pub fn beside(&self, pid: i32) -> Result<Self, CgroupError> {
        let controlled = fs::read_to_string(self.path.join("cgroup.subtree_control")).unwrap_or_default();
        match cgroup_of(pid).filter(|_| !controlled.trim().is_empty()) {
            Some(path) => Ok(Self::at(absolute(&path)?)),
            None => Ok(self.clone()),
        }
    }

    /// Resources of an update with what they only make sense with as it is now: memory.limit for memory.swap, of which it is a part.
    pub fn complete(&self, resources: &LinuxResources) -> LinuxResources {
        let mut resources = resources.clone();
        let now = || fs::read_to_string(self.path.join("memory.max")).ok()?.trim().parse::<i64>().ok();
        if let Some(memory) = resources.memory_mut()
            && memory.swap().is_some_and(|swap| swap > 0)
            && memory.limit().is_none_or(|limit| limit == 0)
            && let Some(limit) = now()
        {
            memory.set_limit(Some(limit));
        }
        resources
    }

    pub fn frozen(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
    }

    /// pids of the processes in the group and below it.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = fs::read_to_string(self.path.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        pids.extend(self.children().iter().flat_map(Self::processes));
        pids
    }

    /// How often the OOM killer has chosen a process of this group; 0 where memory is not controlled.
    pub fn oom_kills(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.unwrap_or(0)
    }

    /// Kills what is left and removes the group and those below it; absent is success.
    pub fn remove(&self) -> Result<(), CgroupError> {
        if absent_is_success(fs::remove_dir(&self.path)).is_ok() {
            return Ok(());
        }
        self.kill()?;
        let gone = crate::clock::retry(EMPTY_WAIT, || self.remove_tree().is_ok());
        if gone {
            Ok(())
        } else {
            Err(CgroupError::Busy {
                path: self.path.clone(),
                pids: self.processes().iter().map(i32::to_string).collect(),
            })
        }
    }

    /// Step by step from descriptors: a container that makes cgroups of its own may nest them deeper than a path, or a stack, can be.
    fn remove_tree(&self) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = match openat(AT_FDCWD, &self.path, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()),
            opened => Dir::from_fd(opened?)?,
        };
        let mut names: Vec<CString> = Vec::new();
        loop {
            let child = dir.iter().filter_map(Result::ok).find(|entry| {
                entry.file_type() == Some(Type::Directory) && ![c".", c".."].contains(&entry.file_name())
            });
            if let Some(child) = child {
                let name = child.file_name().to_owned();
                dir = Dir::from_fd(openat(&dir, name.as_c_str(), flags, Mode::empty())?)?;
                names.push(name);
            } else if let Some(name) = names.pop() {
                let parent = Dir::from_fd(openat(&dir, c"..", flags, Mode::empty())?)?;
                absent_is_success(Ok(unlinkat(&parent, name.as_c_str(), UnlinkatFlags::RemoveDir)?))?;
                dir = parent;
            } else {
                return absent_is_success(fs::remove_dir(&self.path));
            }
        }
    }

    fn children(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| Self::at(entry.path()))
            .collect()
    }
}

/// Makes the controllers of `dir` available below it; processes right in `dir` go into the leaf `holder` first, as cgroup v2 allows none
/// beside controlled children.
fn enable_controllers(dir: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let enabled = read("cgroup.subtree_control");
    let available = read("cgroup.controllers");
    let wanted = |name: &&str| {
        ["cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"].contains(name)
            && !enabled.split_whitespace().any(|on| on == *name)
    };
    let missing: Vec<String> =
        available.split_whitespace().filter(wanted).map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if dir.join("cgroup.type").exists() {
        let stray = Cgroup::at(dir);
        let direct = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let holder = Cgroup::at(stray.path.join("holder"));
        for pid in direct.lines().filter_map(|pid| pid.parse().ok()) {
            absent_is_success(
                fs::create_dir(&holder.path).or_else(|err| {
                    if err.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(err) }
                }),
            )
            .map_err(io_error("create", &holder.path))?;
            // A process that has ended meanwhile needs no place.
            let _ = holder.join(pid);
        }
    }
    // One by one: a controller that a v1 hierarchy holds does not keep the others away.
    for controller in missing {
        let _ = fs::write(dir.join("cgroup.subtree_control"), controller);
    }
    Ok(())
}

fn absent_is_success(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound || err.raw_os_error() == Some(libc::ENODEV) => {
            Ok(())
        }
        other => other,
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_path_buf();
    move |source| CgroupError::Io { what, path, source }
}
