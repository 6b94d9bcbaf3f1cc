//! The OCI config.json of one run of a container. Pure: everything it needs is given.

use agent_protocol::{Pod, QosClass, Seccomp, Security};
use rootfs::User;
use runtime_protocol::Ids;
use serde_json::{Value, json};
use std::path::PathBuf;

/// docker's default capabilities.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// `cpu.max` is given for this period.
const CPU_PERIOD_US: u64 = 100_000;

/// A bind mount of a volume or file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
    pub propagation: String,
}

/// What config.json is made of, besides the specs.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub index: usize,
    pub root: PathBuf,
    pub cgroup: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub user: User,
    pub binds: Vec<Bind>,
    /// cgroup v2 has the controllers to hold containers to their limits.
    pub limits: bool,
    /// OOM scores may be lowered on this host.
    pub may_protect: bool,
    /// Total memory of the host, bytes.
    pub memory_bytes: u64,
    pub seccomp: Option<Value>,
    /// The pod's user namespace and what of the host its ids are, if it has its own.
    pub users: Option<(PathBuf, Ids)>,
}

/// The document.
pub fn config(inputs: &Inputs<'_>) -> Value {
    let container = container(inputs);
    let security = &container.security;
    let capabilities: Vec<String> =
        capabilities(security).into_iter().map(|name| format!("CAP_{name}")).collect();
    // Only root has effective capabilities without asking for them.
    let effective: &[String] = if inputs.user.uid == 0 { &capabilities } else { &[] };
    let env: Vec<String> = inputs.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut process = json!({
        "terminal": container.tty,
        "user": { "uid": inputs.user.uid, "gid": inputs.user.gid, "additionalGids": inputs.user.groups },
        "args": inputs.args, "env": env, "cwd": inputs.cwd,
        "capabilities": { "bounding": capabilities, "effective": effective, "permitted": effective },
        "noNewPrivileges": !security.allow_privilege_escalation && !security.privileged,
    });
    if let Some(score) = oom_score(inputs) {
        process["oomScoreAdj"] = json!(score);
    }
    let mut linux = json!({
        "namespaces": namespaces(inputs),
        "cgroupsPath": inputs.cgroup,
        "resources": resources(inputs),
    });
    if let Some((_, ids)) = &inputs.users {
        let map = json!([{ "containerID": 0, "hostID": ids.host, "size": ids.count }]);
        (linux["uidMappings"], linux["gidMappings"]) = (map.clone(), map);
    }
    if security.privileged {
        linux["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
    }
    if !security.privileged && !security.unmasked_proc {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    if let (Some(profile), false) = (&inputs.seccomp, security.privileged) {
        linux["seccomp"] = profile.clone();
    }
    json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": { "path": inputs.root, "readonly": security.read_only_root },
        "mounts": mounts(inputs),
        "linux": linux,
        "annotations": {
            "io.kubernetes.pod.namespace": inputs.pod.namespace, "io.kubernetes.pod.name": inputs.pod.name,
            "io.kubernetes.container.name": container.name,
        },
    })
}

fn container<'a>(inputs: &Inputs<'a>) -> &'a agent_protocol::Container {
    let init = inputs.pod.init_containers.len();
    inputs
        .index
        .checked_sub(init)
        .map_or_else(|| &inputs.pod.init_containers[inputs.index], |index| &inputs.pod.containers[index])
}

/// Names without `CAP_`.
pub fn capabilities(security: &Security) -> Vec<&str> {
    if security.privileged {
        return ALL_CAPABILITIES.to_vec();
    }
    let name = |given: &str| -> Option<&'static str> {
        let bare = given.trim_start_matches("CAP_").to_ascii_uppercase();
        ALL_CAPABILITIES.iter().copied().find(|known| *known == bare)
    };
    let all = |list: &[String]| list.iter().any(|given| given.eq_ignore_ascii_case("ALL"));
    let added: Vec<&str> = if all(&security.capabilities_add) {
        ALL_CAPABILITIES.to_vec()
    } else {
        security.capabilities_add.iter().filter_map(|given| name(given)).collect()
    };
    let dropped: Vec<&str> = security.capabilities_drop.iter().filter_map(|given| name(given)).collect();
    let base: &[&str] = if all(&security.capabilities_drop) { &[] } else { &CAPABILITIES };
    let kept = base.iter().copied().filter(|capability| !dropped.contains(capability));
    let mut capabilities: Vec<&str> = kept.chain(added).collect();
    capabilities.sort_unstable();
    capabilities.dedup();
    capabilities
}

fn namespaces(inputs: &Inputs<'_>) -> Value {
    let mut namespaces = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
    if !inputs.pod.share_pid && !inputs.pod.host_pid {
        namespaces.push(json!({ "type": "pid" }));
    }
    if let Some((path, _)) = &inputs.users {
        namespaces.push(json!({ "type": "user", "path": path }));
    }
    Value::from(namespaces)
}

fn mounts(inputs: &Inputs<'_>) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let privileged = container(inputs).security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]),
    ];
    for bind in &inputs.binds {
        let access = if bind.read_only { "ro" } else { "rw" };
        let mut options = vec!["rbind", bind.propagation.as_str(), access];
        // What is the host's root's is the pod's root's, and so on.
        options.extend(inputs.users.is_some().then_some("idmap"));
        mounts.push(
            json!({ "destination": bind.target, "type": "bind", "source": bind.source, "options": options }),
        );
    }
    mounts
}

fn resources(inputs: &Inputs<'_>) -> Value {
    if !inputs.limits {
        return json!({});
    }
    let resources = container(inputs).resources;
    let request = if resources.cpu_request_millis == 0 {
        resources.cpu_limit_millis
    } else {
        resources.cpu_request_millis
    };
    let mut cpu = json!({ "shares": shares(request) });
    if resources.cpu_limit_millis > 0 {
        cpu["period"] = json!(CPU_PERIOD_US);
        cpu["quota"] = json!((resources.cpu_limit_millis * CPU_PERIOD_US / 1000).max(1000));
    }
    let mut memory = json!({});
    if resources.memory_limit_bytes > 0 {
        memory["limit"] = json!(resources.memory_limit_bytes);
        // No swap: what is over the limit is over the limit.
        memory["swap"] = json!(resources.memory_limit_bytes);
    }
    json!({ "cpu": cpu, "memory": memory })
}

/// `cpu.shares` of a request; 2 is the kernel's least.
pub fn shares(millis: u64) -> u64 {
    (millis * 1024 / 1000).max(2)
}

/// kubelet's `oom_score_adj` by QoS class; `None` where this host does not let it be lowered.
fn oom_score(inputs: &Inputs<'_>) -> Option<i64> {
    let request = container(inputs).resources.memory_request_bytes;
    let score = match inputs.pod.qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let used = i64::try_from(1000 * request / inputs.memory_bytes.max(1)).unwrap_or(0);
            (1000 - used).clamp(3, 999)
        }
    };
    (score >= 0 || inputs.may_protect).then_some(score)
}

/// Which profile: the default one for these capabilities, none, or a file that the caller reads.
pub fn default_seccomp(security: &Security) -> Option<Value> {
    if security.privileged || security.seccomp != Seccomp::RuntimeDefault {
        return None;
    }
    let names: Vec<String> = capabilities(security).into_iter().map(|name| format!("CAP_{name}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    serde_json::to_value(runtime_spec::seccomp::default_profile(&names)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_and_dropped() {
        let security = |add: &[&str], drop: &[&str]| Security {
            capabilities_add: add.iter().map(|&name| name.to_owned()).collect(),
            capabilities_drop: drop.iter().map(|&name| name.to_owned()).collect(),
            ..Security::default()
        };
        assert_eq!(capabilities(&security(&[], &[])).len(), 14);
        assert_eq!(capabilities(&security(&["NET_ADMIN"], &["ALL"])), ["NET_ADMIN"]);
        assert!(!capabilities(&security(&[], &["CAP_NET_RAW"])).contains(&"NET_RAW"));
        assert_eq!(capabilities(&Security { privileged: true, ..Security::default() }).len(), 41);
    }

    #[test]
    fn requests_become_shares() {
        for (millis, expected) in [(0, 2), (1, 2), (100, 102), (1000, 1024)] {
            assert_eq!(shares(millis), expected, "{millis}m");
        }
    }
}
