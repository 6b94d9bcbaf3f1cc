//! What a config.json may say, before anything is created.

use crate::{
    SpecError,
    oci::{Linux, LinuxNamespaceType, Spec},
    process::{numbers, validate_process},
    sysctl,
};
use std::path::{Component, Path, PathBuf};

/// Checks what the types do not: versions, paths, and fields that this runtime does not do, each by name.
pub fn validate(spec: &Spec) -> Result<(), SpecError> {
    version(spec.version())?;
    let root = spec.root().as_ref().ok_or_else(|| field("root", "is missing"))?;
    require(!root.path().as_os_str().is_empty(), "root.path", "is empty")?;
    if let Some(process) = spec.process() {
        validate_process(process)?;
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        require(
            !mount.destination().as_os_str().is_empty(),
            &format!("mounts[{index}].destination"),
            "is empty",
        )?;
    }
    for (name, of_another_platform) in [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        require(!of_another_platform, name, "is not supported: this runtime makes containers of Linux")?;
    }
    let has_key = |annotations: &std::collections::HashMap<String, String>| !annotations.contains_key("");
    require(spec.annotations().as_ref().is_none_or(has_key), "annotations", "a key is empty")?;
    hooks(spec)?;
    linux(spec)
}

#[allow(deprecated, reason = "config.json files still have prestart")]
fn hooks(spec: &Spec) -> Result<(), SpecError> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let moments = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (moment, list) in moments {
        for (index, hook) in list.iter().flatten().enumerate() {
            let at = |name: &str| format!("hooks.{moment}[{index}].{name}");
            let shown = format!("{}: is not absolute", hook.path().display());
            require(hook.path().is_absolute(), &at("path"), &shown)?;
            require(hook.timeout().is_none_or(|seconds| seconds > 0), &at("timeout"), "is not above 0")?;
        }
    }
    Ok(())
}

fn version(version: &str) -> Result<(), SpecError> {
    let mut parts = version.split('.');
    let known = parts.next() == Some("1")
        && parts.next().is_some_and(|minor| minor.parse::<u8>().is_ok_and(|minor| minor <= 3));
    require(known, "ociVersion", &format!("{version:?}: 1.0 to 1.3 are supported"))
}

fn linux(spec: &Spec) -> Result<(), SpecError> {
    // Without one, what is done to mounts would be done to the host's.
    let Some(linux) = spec.linux() else {
        return Err(field("linux", "is missing: a mount namespace is needed"));
    };
    let mut seen = Vec::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let at = format!("linux.namespaces[{index}]");
        require(!seen.contains(&namespace.typ()), &at, "this type is listed twice")?;
        require(
            namespace.path().as_deref().is_none_or(Path::is_absolute),
            &format!("{at}.path"),
            "is not absolute",
        )?;
        seen.push(namespace.typ());
    }
    require(seen.contains(&LinuxNamespaceType::Mount), "linux.namespaces", "a mount namespace is needed")?;
    let new = |kind: LinuxNamespaceType| {
        let mut listed = linux.namespaces().iter().flatten();
        listed.any(|namespace| namespace.typ() == kind && namespace.path().is_none())
    };
    let maps = [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())];
    let new_users = new(LinuxNamespaceType::User);
    for (name, map) in maps {
        let mapped = map.iter().flatten().next().is_some();
        require(!mapped || seen.contains(&LinuxNamespaceType::User), name, "needs a user namespace")?;
        require(mapped || !new_users, name, "is empty, but a new user namespace needs it")?;
    }
    let has_names = seen.contains(&LinuxNamespaceType::Uts);
    for (name, value) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let set = value.as_deref().is_some_and(|value| !value.is_empty());
        require(!set || has_names, name, "needs a uts namespace, or it would be the host's")?;
    }
    let climbs = |path: &PathBuf| path.components().any(|part| part == Component::ParentDir);
    require(!linux.cgroups_path().as_ref().is_some_and(climbs), "linux.cgroupsPath", "holds ..")?;
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let absolute = device.path().is_absolute() && device.path().file_name().is_some();
        require(absolute, &format!("linux.devices[{index}].path"), "is not absolute")?;
    }
    let flags = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref());
    require(flags.is_none_or(Vec::is_empty), "linux.personality.flags", "is not supported")?;
    propagation(linux)?;
    let new_time = new(LinuxNamespaceType::Time);
    for clock in linux.time_offsets().iter().flatten().map(|(clock, _)| clock) {
        require(new_time, "linux.timeOffsets", "needs a new time namespace")?;
        require(
            ["monotonic", "boottime"].contains(&clock.as_str()),
            "linux.timeOffsets",
            &format!("{clock:?}: allowed are monotonic and boottime"),
        )?;
    }
    net_devices(linux)?;
    let nodes =
        linux.memory_policy().as_ref().and_then(|policy| policy.nodes().as_deref()).unwrap_or_default();
    let why = format!("{nodes:?}: give nodes as in 0-1,3");
    require(nodes.is_empty() || numbers(nodes).is_some(), "linux.memoryPolicy.nodes", &why)?;
    require(linux.intel_rdt().is_none(), "linux.intelRdt", "is not supported")?;
    sysctl::validate(linux)
}

fn net_devices(linux: &Linux) -> Result<(), SpecError> {
    // dev_valid_name of the kernel; an interface's name has 15 bytes at most.
    let valid = |name: &str| {
        let allowed = |byte: u8| !byte.is_ascii_whitespace() && !b"/:%\0".contains(&byte);
        (1..=15).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed)
    };
    let mut taken = Vec::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let inside = device.name().as_ref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        // A template, of which the kernel makes a name that is free: `eth%d`.
        let template = device.name().as_ref().and_then(|inside| inside.strip_suffix("%d"));
        for name in [name.as_str(), template.unwrap_or(inside)] {
            require(valid(name), "linux.netDevices", &format!("{name:?} is no name of a network device"))?;
        }
        let twice = template.is_none() && taken.contains(&inside);
        require(!twice, "linux.netDevices", &format!("{inside:?} is the name of two"))?;
        taken.push(inside);
    }
    let own =
        linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    require(taken.is_empty() || own, "linux.netDevices", "needs a network namespace")
}

fn propagation(linux: &Linux) -> Result<(), SpecError> {
    const NAMES: [&str; 8] =
        ["shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable"];
    let asked = linux.rootfs_propagation().as_deref().unwrap_or_default();
    let why = format!("{asked:?}: allowed are {}", NAMES.join(", "));
    require(asked.is_empty() || NAMES.contains(&asked), "linux.rootfsPropagation", &why)
}

pub fn require(holds: bool, name: &str, why: &str) -> Result<(), SpecError> {
    if holds { Ok(()) } else { Err(field(name, why)) }
}

pub fn field(field: &str, why: &str) -> SpecError {
    SpecError::Field { field: field.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn config() -> Value {
        json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        })
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases: [(&str, Value, &str); 31] = [
            ("/ociVersion", json!("2.0.0"), "ociVersion"),
            ("/root/path", json!(""), "root.path"),
            ("/process/args", json!([]), "process.args"),
            ("/process/cwd", json!("tmp"), "process.cwd"),
            ("/process/env", json!(["A"]), "process.env[0]"),
            ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "x"}), "linux.memoryPolicy.nodes"),
            ("/linux/timeOffsets", json!({"boottime": {"secs": 5}}), "linux.timeOffsets"),
            ("/process/env", json!(["=A"]), "process.env[0]"),
            (
                "/process/rlimits",
                json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]),
                "process.rlimits[1]",
            ),
            (
                "/process/ioPriority",
                json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
                "process.ioPriority.priority",
            ),
            ("/hooks", json!({"poststop": [{"path": "true"}]}), "hooks.poststop[0].path"),
            ("/hooks", json!({"prestart": [{"path": "/x", "timeout": 0}]}), "hooks.prestart[0].timeout"),
            ("/annotations", json!({"": "x"}), "annotations"),
            ("/linux/netDevices", json!({"eth0": {}}), "linux.netDevices"),
            ("/linux/netDevices", json!({"a/b": {}}), "linux.netDevices"),
            ("/linux/netDevices", json!({"eth%d": {}}), "linux.netDevices"),
            ("/linux/netDevices", json!({"eth0": {"name": "a%dx"}}), "linux.netDevices"),
            ("/vm", json!({"kernel": {"path": "/x"}}), "vm"),
            ("/hostname", json!("x"), "hostname"),
            ("/domainname", json!("x"), "domainname"),
            ("/linux/uidMappings", json!([{"containerID": 0, "hostID": 5, "size": 1}]), "linux.uidMappings"),
            ("/linux/namespaces", json!([{"type": "mount"}, {"type": "user"}]), "linux.uidMappings"),
            ("/linux/sysctl", json!({"vm.swappiness": "1"}), "linux.sysctl"),
            ("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}), "linux.sysctl"),
            ("/linux/sysctl", json!({"kernel/../../x": "1"}), "linux.sysctl"),
            ("/linux/cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath"),
            (
                "/linux/devices",
                json!([{"path": "fuse", "type": "c", "major": 10, "minor": 229}]),
                "linux.devices[0].path",
            ),
            ("/linux/personality", json!({"domain": "LINUX", "flags": ["X"]}), "linux.personality.flags"),
            ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
            ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces"),
            ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "linux.namespaces[1]"),
        ];
        assert!(validate(&serde_json::from_value(config()).expect("valid")).is_ok());
        for (pointer, name) in [("", "linux"), ("", "root"), ("/linux", "namespaces")] {
            let mut config = config();
            config.pointer_mut(pointer).and_then(Value::as_object_mut).expect("there").remove(name);
            let err = validate(&serde_json::from_value(config).expect("parses")).expect_err(name).to_string();
            assert!(err.contains(name), "{err}");
        }
        for (pointer, value, field) in cases {
            let mut config = config();
            let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
            config.pointer_mut(parent).expect("there")[name] = value;
            let err =
                validate(&serde_json::from_value(config).expect("parses")).expect_err(pointer).to_string();
            assert!(err.starts_with(&format!("config.json: {field}: ")), "{err}");
        }
    }
}
