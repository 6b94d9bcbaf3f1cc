//! A container's cgroup as a scope that systemd makes and knows: `slice:prefix:name` of `linux.cgroupsPath`.
//!
//! Sources: systemd.resource-control(5), org.freedesktop.systemd1(5).

use super::{
    CgroupError,
    dbus::{Body, Call, Connection, Value},
};
use crate::host;
use nix::unistd::getuid;
use std::{
    env, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long systemd may take to move a process.
const MOVE_WAIT: Duration = Duration::from_secs(30);
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Annotations that are properties of the unit: `org.systemd.property.KillSignal` is `KillSignal`, as runc has it.
const PROPERTY: &str = "org.systemd.property.";

/// A scope unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    slice: String,
    unit: String,
    /// Beyond those of limits.
    properties: Vec<(String, Value)>,
}

impl Scope {
    /// Reads `slice:prefix:name`; an empty slice is `system.slice` (`user.slice` for an ordinary user).
    pub fn parse(text: &str) -> Result<Self, CgroupError> {
        let wrong = || CgroupError::SystemdPath { value: text.to_owned() };
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts[..] else { return Err(wrong()) };
        let slice = match slice {
            "" if host::is_root() => "system.slice",
            "" => "user.slice",
            slice => slice,
        };
        let plain = |text: &str| !text.is_empty() && !text.contains('/') && !text.starts_with('.');
        if !slice.ends_with(".slice") || !plain(slice) || !plain(name) || prefix.contains('/') {
            return Err(wrong());
        }
        let unit = match name.strip_suffix(".slice") {
            Some(_) => return Err(wrong()),
            None if prefix.is_empty() => format!("{name}.scope"),
            None => format!("{prefix}-{name}.scope"),
        };
        Ok(Self { slice: slice.to_owned(), unit, properties: Vec::new() })
    }

    /// With the properties that annotations ask for. One that ends in `Sec` takes seconds, as in a unit's file, for the `USec` of the bus.
    pub fn with_properties<'a>(
        mut self,
        annotations: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, CgroupError> {
        for (name, text) in annotations {
            let Some(property) = name.strip_prefix(PROPERTY) else { continue };
            let wrong = || CgroupError::Property { name: name.clone(), value: text.clone() };
            if property.is_empty() || !property.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(wrong());
            }
            let value = Value::parse(text).ok_or_else(wrong)?;
            self.properties.push(match (property.strip_suffix("Sec"), value) {
                (Some(stem), Value::I32(seconds)) if !property.ends_with("USec") => {
                    let us = u64::try_from(seconds).map_err(|_| wrong())? * 1_000_000;
                    (format!("{stem}USec"), Value::U64(us))
                }
                (_, value) => (property.to_owned(), value),
            });
        }
        Ok(self)
    }

    /// Where systemd puts it, below the hierarchy's root: `a-b.slice` lies in `a.slice`.
    pub fn path(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        let name = self.slice.trim_end_matches(".slice");
        if name != "-" {
            let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
            path.extend(ends.map(|end| format!("{}.slice", &name[..end])));
        }
        path.join(&self.unit)
    }

    /// Makes the scope with this process in it; gives its directory below the hierarchy's root.
    pub fn start(&self, pid: i32, id: &str, limits: &[(&str, Value)]) -> Result<PathBuf, CgroupError> {
        let failed = |source| CgroupError::Systemd { what: "start", unit: self.unit.clone(), source };
        let mut properties: Vec<(&str, Value)> = vec![
            ("Description", Value::Text(format!("container {id}"))),
            ("Slice", Value::Text(self.slice.clone())),
            ("Delegate", Value::Bool(true)),
            ("PIDs", Value::Pids(vec![pid as u32])),
            ("DefaultDependencies", Value::Bool(false)),
            ("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        ];
        for accounting in ["CPUAccounting", "MemoryAccounting", "TasksAccounting", "IOAccounting"] {
            properties.push((accounting, Value::Bool(true)));
        }
        properties.extend(limits.iter().cloned());
        for (name, value) in &self.properties {
            properties.retain(|(own, _)| own != name);
            properties.push((name, value.clone()));
        }
        let mut body = Body::default();
        body.text(&self.unit);
        body.text("replace");
        body.properties(&properties);
        // No further units.
        body.array(8, |_| ());
        let manager = |body, member, signature| manager_call(body, member, signature);
        let mut bus = Connection::open(&bus()).map_err(failed)?;
        bus.call(manager(body, "StartTransientUnit", "ssa(sv)a(sa(sv))")).map_err(failed)?;
        let suffix = format!("/{}", self.unit);
        let mut place = None;
        crate::clock::retry(MOVE_WAIT, || {
            place = cgroup_of(pid).filter(|path| path.ends_with(suffix.trim_start_matches('/')));
            place.is_some()
        });
        place.ok_or_else(|| {
            failed(io::Error::new(io::ErrorKind::TimedOut, "systemd has not moved the process into it"))
        })
    }

    /// Ends a scope. One whose directory goes before systemd has seen it empty would stay "running" for ever.
    pub fn stop(unit: &str) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Systemd { what: "stop", unit: unit.to_owned(), source };
        let mut body = Body::default();
        body.text(unit);
        body.text("replace");
        Connection::open(&bus())
            .and_then(|mut bus| bus.call(manager_call(body, "StopUnit", "ss")))
            .map_err(failed)
    }

    /// Tells systemd of changed limits, or it would put the old ones back when it reloads.
    pub fn update(unit: &str, properties: &[(&str, Value)]) -> Result<(), CgroupError> {
        let failed = |source| CgroupError::Systemd { what: "update", unit: unit.to_owned(), source };
        if properties.is_empty() {
            return Ok(());
        }
        let mut body = Body::default();
        body.text(unit);
        // Until the scope ends.
        body.value(&Value::Bool(true));
        body.properties(properties);
        let mut bus = Connection::open(&bus()).map_err(failed)?;
        bus.call(manager_call(body, "SetUnitProperties", "sba(sv)")).map_err(failed)
    }
}

fn manager_call<'a>(body: Body, member: &'a str, signature: &'a str) -> Call<'a> {
    Call {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
        signature,
        body,
    }
}

/// Root talks to the system's manager, everybody else to their own; where they listen can be said as to every program (D-Bus specification,
/// "Well-known Message Bus Instances").
fn bus() -> PathBuf {
    let system = host::is_root();
    let variable = if system { "DBUS_SYSTEM_BUS_ADDRESS" } else { "DBUS_SESSION_BUS_ADDRESS" };
    let address = env::var(variable).unwrap_or_default();
    if let Some(path) = address.strip_prefix("unix:path=") {
        return PathBuf::from(path.split(',').next().unwrap_or(path));
    }
    if system {
        return PathBuf::from(SYSTEM_BUS);
    }
    let runtime = env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| format!("/run/user/{}", getuid()));
    Path::new(&runtime).join("bus")
}

/// The cgroup v2 of a process, below the hierarchy's root.
pub fn cgroup_of(pid: i32) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_slice_and_scope() {
        let cases = [
            ("machine.slice:libpod:abc", "/machine.slice/libpod-abc.scope"),
            ("user-1000.slice:x:y", "/user.slice/user-1000.slice/x-y.scope"),
            ("a-b-c.slice::d", "/a.slice/a-b.slice/a-b-c.slice/d.scope"),
            ("-.slice:x:y", "/x-y.scope"),
        ];
        for (text, path) in cases {
            assert_eq!(Scope::parse(text).expect(text).path(), Path::new(path));
        }
        let annotation = |name: &str, value: &str| [(format!("{PROPERTY}{name}"), value.to_owned())];
        let scope = Scope::parse("a.slice:b:c").expect("valid");
        let timeout = annotation("TimeoutStopSec", "5");
        let read = scope.clone().with_properties(timeout.iter().map(|(name, value)| (name, value)));
        assert_eq!(read.expect("valid").properties, [("TimeoutStopUSec".to_owned(), Value::U64(5_000_000))]);
        for (name, value) in [("KillSignal", "word"), ("", "1"), ("a.b", "1"), ("TimeoutStopSec", "-1")] {
            let wrong = annotation(name, value);
            assert!(scope.clone().with_properties(wrong.iter().map(|(name, value)| (name, value))).is_err());
        }
        for text in ["", "a:b", "a.slice:b:", "a:b:c", "a.slice:b:c:d", "x/y.slice:b:c", "a.slice:b:c/d"] {
            assert!(Scope::parse(text).is_err(), "{text:?}");
        }
    }
}
