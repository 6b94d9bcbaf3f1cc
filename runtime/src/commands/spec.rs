//! `spec`: a config.json to start from, as runc's but with the default seccomp profile in force and no terminal.

use super::io_error;
use clap::Args;
use nix::unistd::{getgid, getuid};
use runtime::container::ContainerError;
use runtime_spec::{OCI_VERSION, seccomp::default_profile};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Directory to write config.json to
    #[arg(short, long, default_value = ".", value_name = "DIR")]
    bundle: PathBuf,
    /// For a container of an ordinary user: ids mapped to this one's, and no cgroup
    #[arg(long)]
    rootless: bool,
}

/// An existing config.json is left alone, and an error.
pub fn run(args: &SpecArgs) -> Result<u8, ContainerError> {
    let path = args.bundle.join("config.json");
    let mut config = config();
    if args.rootless {
        for_ordinary_user(&mut config);
    }
    let text = format!("{config:#}\n");
    File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(io_error("write", Path::new(&path)))?;
    Ok(0)
}

/// What an ordinary user may: a user namespace with its own ids, the host's network and /sys, which a new sysfs needs a network namespace for.
fn for_ordinary_user(config: &mut Value) {
    let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut config["linux"];
    linux["uidMappings"] = own(getuid().as_raw());
    linux["gidMappings"] = own(getgid().as_raw());
    linux["resources"] = Value::Null;
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        for mount in mounts {
            match mount["destination"].as_str() {
                Some("/sys") => {
                    let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
                    *mount =
                        json!({"destination": "/sys", "type": "none", "source": "/sys", "options": options});
                }
                Some("/dev/pts") => {
                    // Its group is not mapped.
                    let options = mount["options"].as_array_mut();
                    options.into_iter().for_each(|options| options.retain(|option| option != "gid=5"));
                }
                _ => {}
            }
        }
    }
}

fn config() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |target: &str, kind: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "wherry",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/devices/virtual/powercap", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": default_profile(&capabilities),
        },
    })
}
