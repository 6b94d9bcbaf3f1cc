//! This host: where things are, what it can do, and what all pods share.

use crate::{
    monitor,
    netd::Netd,
    pod::volumes::{self, Dirs},
    user_ids::Pool,
};
use agent_protocol::{ClusterConfig, LimitsEnforced, NodeInfo, NodeStatus, Pod};
use rootfs::ImageStore;
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// Controllers without which a limit cannot be held.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
const PODS_MAX: u32 = 250;

/// Cheap to clone.
#[derive(Clone)]
pub struct Host {
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
    pub runtime: PathBuf,
    pub name: String,
    pub images: ImageStore,
    pub netd: Netd,
    pub cgroup_parent: PathBuf,
    pub limits: LimitsEnforced,
    pub labels: Vec<(String, String)>,
    pub addresses: Vec<Ipv4Addr>,
    pub memory_bytes: u64,
    pub user_ids: Pool,
    /// Known once a scheduler has been reached.
    pub cluster: Arc<Mutex<Option<ClusterConfig>>>,
}

impl Host {
    pub fn dirs(&self, uid: &str) -> Dirs {
        Dirs { state: self.pods().join(uid), run: self.run_dir.join("pods").join(uid) }
    }

    /// The directory with every pod's lasting one.
    pub fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    /// State of the OCI runtime.
    pub fn runtime_root(&self) -> PathBuf {
        self.run_dir.join("runtime")
    }

    pub fn cgroup(&self, uid: &str) -> PathBuf {
        self.cgroup_parent.join(format!("pod-{uid}"))
    }

    /// `/var/log/pods/<namespace>_<name>_<uid>`, where log collectors look.
    pub fn pod_logs(&self, pod: &Pod) -> PathBuf {
        self.log_dir.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }

    fn remove_logs(&self, uid: &str) -> std::io::Result<()> {
        let of_pod = |name: &str| name.strip_suffix(uid).is_some_and(|rest| rest.ends_with('_'));
        for entry in fs::read_dir(&self.log_dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(of_pod) {
                volumes::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    pub fn log_file(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        self.pod_logs(pod).join(container).join(format!("{attempt}.log"))
    }

    /// Removes what a pod without a monitor has here: processes, cgroup, snapshots, files, and with `logs` its logs. Its
    /// directory goes last: as long as it is there, an agent that starts knows that something is left.
    pub async fn clear_pod(&self, uid: &str, logs: bool) -> Result<(), String> {
        let (host, uid) = (self.clone(), uid.to_owned());
        let cleared = tokio::task::spawn_blocking(move || {
            if logs {
                host.remove_logs(&uid).map_err(|err| format!("remove the pod's logs: {err}"))?;
            }
            monitor::clear(&host.cgroup(&uid), &host.runtime_root(), &uid)
                .map_err(|err| format!("clear the pod's cgroup: {err}"))?;
            let prefix = format!("{uid}.");
            let snapshots = host.images.snapshots().map_err(|err| crate::chain(&err))?;
            for container in snapshots.iter().filter(|name| name.starts_with(&prefix)) {
                host.images.discard(container).map_err(|err| crate::chain(&err))?;
            }
            volumes::clear(&host.dirs(&uid)).map_err(|err| format!("clear the pod's files: {err}"))
        });
        cleared.await.unwrap_or_else(|err| Err(err.to_string()))
    }

    pub fn address(&self) -> Option<Ipv4Addr> {
        self.addresses.first().copied()
    }

    pub fn domain(&self) -> String {
        let cluster = self.cluster.lock().expect("no panic while locked");
        cluster.as_ref().map_or_else(|| "cluster.local".to_owned(), |cluster| cluster.domain.clone())
    }

    pub fn limits_enforced(&self) -> bool {
        self.limits == LimitsEnforced::Yes
    }

    /// What the scheduler is told on connect.
    pub fn info(&self) -> NodeInfo {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let os = read("/etc/os-release");
        let os_image = os
            .lines()
            .find_map(|line| line.strip_prefix("PRETTY_NAME="))
            .unwrap_or("Linux")
            .trim_matches('"')
            .to_owned();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        NodeInfo {
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            cpu_millis: std::thread::available_parallelism().map_or(1000, |cpus| cpus.get() as u64 * 1000),
            memory_bytes: self.memory_bytes,
            ephemeral_bytes: disk(&self.state_dir).0,
            pods_max: PODS_MAX,
            kernel: read("/proc/sys/kernel/osrelease"),
            os_image,
            architecture: architecture.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            labels: self.labels.clone(),
            limits: self.limits.clone(),
        }
    }

    pub fn status(&self) -> NodeStatus {
        let images = self.images.list().into_iter().map(|image| (image.names, image.size_bytes)).collect();
        let ready = self.netd.is_ready();
        NodeStatus {
            memory_available_bytes: meminfo("MemAvailable:"),
            disk_available_bytes: disk(&self.state_dir).1,
            images,
            ready,
            message: if ready {
                "agent is posting ready status".to_owned()
            } else {
                "netd does not answer".to_owned()
            },
        }
    }
}

/// A value of /proc/meminfo, bytes.
pub fn meminfo(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Size and free space of the filesystem at `path`, bytes.
fn disk(path: &Path) -> (u64, u64) {
    nix::sys::statvfs::statvfs(path).map_or((0, 0), |stat| {
        (stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size())
    })
}

/// The cgroup2 mount point.
pub fn cgroup_root() -> anyhow::Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let line = table.lines().find(|line| line.contains(" - cgroup2 "));
    let path = line.and_then(|line| line.split(' ').nth(4));
    path.map(PathBuf::from).ok_or_else(|| {
        anyhow::anyhow!("no cgroup2 filesystem is mounted: mount -t cgroup2 none /sys/fs/cgroup")
    })
}

/// Whether limits can be enforced below `root`, and what is said if not.
pub fn limits(root: &Path, allow_unenforced: bool) -> LimitsEnforced {
    let available = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| !available.split_whitespace().any(|have| have == *name))
        .collect();
    if missing.is_empty() {
        return LimitsEnforced::Yes;
    }
    let reason = format!("cgroup v2 has no {} controller on this host", missing.join(", "));
    if allow_unenforced { LimitsEnforced::Waived { reason } } else { LimitsEnforced::No { reason } }
}

/// IPv4 addresses of this host, that of the default route's device first; loopback where there is no other.
pub fn addresses(bridge_prefixes: &[&str]) -> Vec<Ipv4Addr> {
    let mut by_device: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let address = interface
            .address
            .as_ref()
            .and_then(|address| address.as_sockaddr_in())
            .map(|address| address.ip());
        let ours = bridge_prefixes.iter().any(|prefix| interface.interface_name.starts_with(prefix));
        if let Some(address) = address.filter(|address| !address.is_loopback() && !ours) {
            by_device.entry(interface.interface_name).or_default().push(address);
        }
    }
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let default = routes.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?;
        (fields.next()? == "00000000").then(|| device.to_owned())
    });
    let mut addresses = default.and_then(|device| by_device.remove(&device)).unwrap_or_default();
    addresses.extend(by_device.into_values().flatten());
    if addresses.is_empty() { vec![Ipv4Addr::LOCALHOST] } else { addresses }
}

/// Removes what this agent has made of cgroups, once no pod is left: the monitors' and the holder's first. A delegated parent that systemd
/// owns stays.
pub fn remove_cgroup_parent(parent: &Path) -> std::io::Result<()> {
    for leaf in ["monitors", "holder"] {
        remove_empty(&parent.join(leaf))?;
    }
    remove_empty(parent)
}

/// One that still has a process (the delegation's holder) is not ours to end.
fn remove_empty(cgroup: &Path) -> std::io::Result<()> {
    const TRIES: u32 = 400;
    for _ in 0..TRIES {
        match fs::remove_dir(cgroup) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(err) if err.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) => {
                let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                let leaves =
                    fs::read_dir(cgroup).into_iter().flatten().flatten().any(|entry| entry.path().is_dir());
                let held = cgroup.ends_with("holder") && !procs.is_empty();
                if held || leaves {
                    return Ok(());
                }
                // A monitor that has just ended takes a moment to leave.
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            other => return other,
        }
    }
    Ok(())
}
