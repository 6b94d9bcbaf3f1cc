//! Daemons as systemd units.
//!
//! The units that `make install` puts in place are used as they are. Without an installation the same units, with the
//! path of the binaries changed, are written below `/run/systemd/system`, where a reboot forgets them.
//! Flags go into `/etc/wherry/<name>.env` (`WHERRY_FLAGS`).

use super::{Daemon, write_atomically};
use crate::error::{CtlError, failed, file};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const RUNTIME_UNITS: &str = "/run/systemd/system";
const ENVIRONMENT: &str = "/etc/wherry";
const INSTALLED_BINARIES: &str = "/usr/local/bin";
const UNITS: [(&str, &str); 5] = [
    ("wherry.slice", include_str!("../../units/wherry.slice")),
    ("wherry-pods.service", include_str!("../../units/wherry-pods.service")),
    ("wherry-scheduler.service", include_str!("../../units/wherry-scheduler.service")),
    ("wherry-netd.service", include_str!("../../units/wherry-netd.service")),
    ("wherry-agent.service", include_str!("../../units/wherry-agent.service")),
];

/// Whether systemd is this host's init (sd_booted(3)).
pub fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Writes the flags, and the units where they are not installed, and starts the daemon; returns once it is ready.
pub fn start(daemon: &Daemon, binaries: &Path) -> Result<(), CtlError> {
    fs::create_dir_all(ENVIRONMENT).map_err(file("create", ENVIRONMENT))?;
    let flags = format!("WHERRY_FLAGS={}\n", daemon.args.join(" "));
    write_atomically(&environment_file(daemon.name), flags.as_bytes())?;
    if !installed() {
        for (name, unit) in UNITS {
            let unit = unit.replace(INSTALLED_BINARIES, &binaries.to_string_lossy());
            write_atomically(&Path::new(RUNTIME_UNITS).join(name), unit.as_bytes())?;
        }
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["start", &format!("{}.service", daemon.program())])
}

/// Stops one daemon; not running is success.
pub fn stop_one(name: &str) -> Result<(), CtlError> {
    if !active(name) {
        return Ok(());
    }
    systemctl(&["stop", &format!("wherry-{name}.service")])
}

/// Gives back the pods' cgroup and takes units that were not installed away.
pub fn stop() -> Result<(), CtlError> {
    stop_one("pods")?;
    if !installed() {
        for (name, _) in UNITS {
            super::remove(&Path::new(RUNTIME_UNITS).join(name))?;
        }
        systemctl(&["daemon-reload"])?;
    }
    Ok(())
}

/// Whether `name` (without `wherry-`) is active.
pub fn active(name: &str) -> bool {
    Command::new("systemctl")
        .args(["is-active", "--quiet", &format!("wherry-{name}.service")])
        .status()
        .is_ok_and(|status| status.success())
}

/// The flags the daemon was last started with.
pub fn last_args(name: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(environment_file(name)).ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("WHERRY_FLAGS="))?;
    Some(flags.split_whitespace().map(str::to_owned).collect())
}

/// Removes what [`start`] wrote below `/etc/wherry`.
pub fn forget_flags() -> Result<(), CtlError> {
    ["scheduler", "netd", "agent"].iter().try_for_each(|name| super::remove(&environment_file(name)))
}

fn environment_file(name: &str) -> PathBuf {
    Path::new(ENVIRONMENT).join(format!("{name}.env"))
}

fn installed() -> bool {
    ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"]
        .iter()
        .any(|dir| Path::new(dir).join("wherry-agent.service").exists())
}

fn systemctl(args: &[&str]) -> Result<(), CtlError> {
    let output = Command::new("systemctl").args(args).output().map_err(file("run", "systemctl"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let hint = args.get(1).map(|unit| format!("; `journalctl -u {unit}` has more")).unwrap_or_default();
    Err(failed(format!("systemctl {}: {}{hint}", args.join(" "), said.trim().replace('\n', "; "))))
}
