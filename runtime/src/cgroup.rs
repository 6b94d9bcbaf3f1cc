//! cgroup v2: create, limit, kill and remove the control group of one container.
//!
//! On disk: `<mount of cgroup2>/<path>/`. Semantics: kernel `Documentation/admin-guide/cgroup-v2.rst`, OCI `config-linux.md`.
//! Order of calls: [`Cgroup::create`] -> [`Cgroup::limit`] -> clone into [`Cgroup::open`].
//!
//! Invariants: limits are written, and read back, before the first process joins. A limit whose controller is not there is an
//! error, never ignored. cgroup v1 is never touched.

use cgroups_rs::fs::{
    MaxValue, cgroup::Cgroup as Controllers, cpu::CpuController, hierarchies, memory::MemController,
    pid::PidController,
};
use nix::fcntl::OFlag;
use runtime_spec::oci::LinuxResources;
use std::{
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
    #[error("cgroup {} still has processes {:?} after {} s", path.display(), pids, EMPTY_WAIT.as_secs())]
    Busy { path: PathBuf, pids: Vec<String> },
}

/// The mount point of the unified hierarchy.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|_| CgroupError::NotMounted)?;
    let line = table.lines().find(|line| line.contains(" - cgroup2 ")).ok_or(CgroupError::NotMounted)?;
    line.split(' ').nth(4).map(PathBuf::from).ok_or(CgroupError::NotMounted)
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

    /// Makes the directory, with as many controllers enabled on the way as there are.
    ///
    /// `path`: `linux.cgroupsPath`: relative to the root of the hierarchy, or absolute below its mount point.
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
        refuse_unsupported(resources)?;
        let mut limits = Vec::new();
        if let Some(cpu) = resources.cpu() {
            limits.extend(
                cpu.shares().filter(|&shares| shares > 0).map(|shares| Limit::CpuWeight(weight(shares))),
            );
            if cpu.quota().is_some() || cpu.period().is_some() {
                limits.push(Limit::CpuMax {
                    quota_us: cpu.quota().filter(|&quota| quota > 0),
                    period_us: cpu.period().unwrap_or(100_000),
                });
            }
        }
        if let Some(memory) = resources.memory() {
            limits.extend(memory.limit().map(|bytes| Limit::MemoryMax(max_value(bytes))));
            limits.extend(memory.reservation().map(|bytes| Limit::MemoryLow(max_value(bytes))));
            limits.extend(memory.swap().map(|both| Limit::SwapMax(swap(both, memory.limit()))));
        }
        limits.extend(resources.pids().as_ref().map(|pids| Limit::PidsMax(max_value(pids.limit()))));
        limits.iter().try_for_each(|limit| self.apply(limit))?;
        self.unified(resources)
    }

    fn apply(&self, limit: &Limit) -> Result<(), CgroupError> {
        let (controller, file, field, value) = limit.write();
        let path = self.path.join(file);
        if !path.exists() {
            // Nothing to enforce is enforced.
            if limit.is_none() {
                return Ok(());
            }
            return Err(CgroupError::ControllerMissing { controller, field, path: self.path.clone() });
        }
        let refused =
            |cause: String| CgroupError::Refused { field, value: value.clone(), path: path.clone(), cause };
        match self.path.strip_prefix(UNIFIED) {
            Ok(below) if Path::new(UNIFIED).join("cgroup.controllers").exists() => {
                limit.through_cgroups_rs(below).map_err(refused)?
            }
            _ => fs::write(&path, &value).map_err(|err| refused(err.to_string()))?,
        }
        let now = fs::read_to_string(&path).map_err(|err| refused(err.to_string()))?;
        if limit.holds(now.trim()) {
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
            if name.contains('/') || name.starts_with("cgroup.") {
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
        crate::clock::retry(EMPTY_WAIT, || events().lines().any(|line| line == wanted));
        Ok(())
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

    fn remove_tree(&self) -> io::Result<()> {
        self.children().iter().try_for_each(Self::remove_tree)?;
        absent_is_success(fs::remove_dir(&self.path))
    }

    fn children(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| Self::at(entry.path()))
            .collect()
    }
}

/// What nothing here writes must not look as if it were in force. Fields of cgroup v1 alone that docker and podman always send (kernel memory,
/// swappiness 0 and 60, an empty list) ask for nothing.
fn refuse_unsupported(resources: &LinuxResources) -> Result<(), CgroupError> {
    let refuse = |field: &'static str, value: Option<String>| match value {
        Some(value) => Err(CgroupError::Unsupported { field, value }),
        None => Ok(()),
    };
    if let Some(cpu) = resources.cpu() {
        refuse("cpu.realtimeRuntime", cpu.realtime_runtime().filter(|&us| us != 0).map(|us| us.to_string()))?;
        refuse("cpu.realtimePeriod", cpu.realtime_period().filter(|&us| us != 0).map(|us| us.to_string()))?;
        refuse("cpu.burst", cpu.burst().filter(|&us| us != 0).map(|us| us.to_string()))?;
        refuse("cpu.idle", cpu.idle().filter(|&idle| idle != 0).map(|idle| idle.to_string()))?;
        refuse("cpu.cpus", cpu.cpus().clone().filter(|cpus| !cpus.is_empty()))?;
        refuse("cpu.mems", cpu.mems().clone().filter(|mems| !mems.is_empty()))?;
    }
    if let Some(memory) = resources.memory() {
        refuse(
            "memory.disableOOMKiller",
            memory.disable_oom_killer().filter(|&off| off).map(|off| off.to_string()),
        )?;
    }
    let network = resources.network().as_ref();
    refuse("network.classID", network.and_then(|network| network.class_id()).map(|id| id.to_string()))?;
    refuse(
        "hugepageLimits",
        resources.hugepage_limits().iter().flatten().next().map(|limit| limit.page_size().clone()),
    )?;
    refuse("rdma", resources.rdma().iter().flatten().next().map(|(device, _)| device.clone()))?;
    let io = resources.block_io().as_ref();
    refuse(
        "blockIO.weight",
        io.and_then(|io| io.weight()).filter(|&weight| weight != 0).map(|weight| weight.to_string()),
    )
}

/// Makes the controllers of `dir` available below it; processes right in `dir` go into the leaf `holder` first, as cgroup v2 allows none
/// beside controlled children.
fn enable_controllers(dir: &Path) -> Result<(), CgroupError> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let enabled = read("cgroup.subtree_control");
    let available = read("cgroup.controllers");
    let wanted = |name: &&str| {
        ["cpu", "cpuset", "io", "memory", "pids"].contains(name)
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

/// One value of one file.
#[derive(Clone, Debug)]
enum Limit {
    CpuWeight(u64),
    CpuMax { quota_us: Option<i64>, period_us: u64 },
    MemoryMax(Option<u64>),
    MemoryLow(Option<u64>),
    SwapMax(Option<u64>),
    PidsMax(Option<u64>),
}

impl Limit {
    /// Controller, file, field of `linux.resources`, and the file's text.
    fn write(&self) -> (&'static str, &'static str, &'static str, String) {
        let max = |value: &Option<u64>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        match self {
            Self::CpuWeight(weight) => ("cpu", "cpu.weight", "cpu.shares", weight.to_string()),
            Self::CpuMax { quota_us, period_us } => {
                let quota = quota_us.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                ("cpu", "cpu.max", "cpu.quota", format!("{quota} {period_us}"))
            }
            Self::MemoryMax(bytes) => ("memory", "memory.max", "memory.limit", max(bytes)),
            Self::MemoryLow(bytes) => ("memory", "memory.low", "memory.reservation", max(bytes)),
            Self::SwapMax(bytes) => ("memory", "memory.swap.max", "memory.swap", max(bytes)),
            Self::PidsMax(tasks) => ("pids", "pids.max", "pids.limit", max(tasks)),
        }
    }

    /// Asks for nothing: weights share what there is, and `max` is no limit.
    fn is_none(&self) -> bool {
        matches!(
            self,
            Self::CpuWeight(_)
                | Self::MemoryLow(_)
                | Self::CpuMax { quota_us: None, .. }
                | Self::MemoryMax(None)
                | Self::SwapMax(_)
                | Self::PidsMax(None)
        )
    }

    /// Whether the file says what was asked; memory is rounded to pages by the kernel.
    fn holds(&self, now: &str) -> bool {
        let page = 4096;
        match self {
            Self::MemoryMax(Some(bytes)) | Self::MemoryLow(Some(bytes)) | Self::SwapMax(Some(bytes)) => {
                now.parse::<u64>().is_ok_and(|now| now / page == bytes / page)
            }
            _ => now == self.write().3,
        }
    }

    fn through_cgroups_rs(&self, below: &Path) -> Result<(), String> {
        let group = Controllers::load(Box::new(hierarchies::V2::new()), below);
        let missing = || "cgroups-rs has no such controller".to_owned();
        let text = |err: cgroups_rs::fs::error::Error| err.to_string();
        let signed = |value: &Option<u64>| {
            value.map_or(MaxValue::Max, |value| MaxValue::Value(i64::try_from(value).unwrap_or(i64::MAX)))
        };
        match self {
            Self::CpuWeight(weight) => {
                group.controller_of::<CpuController>().ok_or_else(missing)?.set_shares(*weight).map_err(text)
            }
            Self::CpuMax { quota_us, period_us } => {
                let cpu = group.controller_of::<CpuController>().ok_or_else(missing)?;
                cpu.set_cfs_quota_and_period(Some(quota_us.unwrap_or(-1)), Some(*period_us)).map_err(text)
            }
            Self::PidsMax(tasks) => group
                .controller_of::<PidController>()
                .ok_or_else(missing)?
                .set_pid_max(signed(tasks))
                .map_err(text),
            Self::MemoryMax(bytes) | Self::MemoryLow(bytes) | Self::SwapMax(bytes) => {
                let memory = group.controller_of::<MemController>().ok_or_else(missing)?;
                let mut wanted =
                    cgroups_rs::fs::memory::SetMemory { low: None, high: None, min: None, max: None };
                match self {
                    Self::MemoryMax(_) => wanted.max = Some(signed(bytes)),
                    Self::MemoryLow(_) => wanted.low = Some(signed(bytes)),
                    _ => {
                        return memory
                            .set_memswap_limit(
                                bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                            )
                            .map_err(text);
                    }
                }
                memory.set_mem(wanted).map_err(text)
            }
        }
    }
}

/// `cpu.weight` (1..=10000) of v1 shares (2..=262144), config-linux.md's conversion.
pub fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// `-1` is no limit.
fn max_value(value: i64) -> Option<u64> {
    u64::try_from(value).ok()
}

/// v2 limits swap alone, where config.json gives memory and swap together.
fn swap(both: i64, memory: Option<i64>) -> Option<u64> {
    let memory = memory.filter(|&memory| memory > 0).unwrap_or(0);
    u64::try_from(both).ok().map(|both| both.saturating_sub(memory as u64))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 1), (1 << 40, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn limits_become_the_text_of_files() {
        let cases = [
            (Limit::CpuMax { quota_us: Some(50_000), period_us: 100_000 }, "cpu.max", "50000 100000"),
            (Limit::CpuMax { quota_us: None, period_us: 100_000 }, "cpu.max", "max 100000"),
            (Limit::MemoryMax(Some(4096)), "memory.max", "4096"),
            (Limit::PidsMax(None), "pids.max", "max"),
        ];
        for (limit, file, text) in cases {
            let (_, name, _, value) = limit.write();
            assert_eq!((name, value.as_str()), (file, text));
            assert!(limit.holds(text));
        }
        assert!(Limit::MemoryMax(Some(5000)).holds("4096"), "the kernel rounds to pages");
        assert_eq!(swap(300, Some(100)), Some(200));
        assert_eq!(swap(-1, Some(100)), None);
    }
}
