//! What a config.json may say, before anything is created.

use crate::{
    SpecError,
    oci::{LinuxNamespaceType, Spec},
};
use std::path::Path;

/// Checks what the types do not: versions, paths, and fields that this runtime does not do, each by name.
pub fn validate(spec: &Spec) -> Result<(), SpecError> {
    version(spec.version())?;
    let root = spec.root().as_ref().ok_or_else(|| field("root", "is missing"))?;
    require(!root.path().as_os_str().is_empty(), "root.path", "is empty")?;
    if let Some(process) = spec.process() {
        require(process.args().as_ref().is_some_and(|args| !args.is_empty()), "process.args", "is empty")?;
        require(process.cwd().is_absolute(), "process.cwd", "is not absolute")?;
        for (index, variable) in process.env().iter().flatten().enumerate() {
            require(
                variable.contains('=') && !variable.contains('\0'),
                &format!("process.env[{index}]"),
                "is not NAME=value",
            )?;
        }
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        require(
            !mount.destination().as_os_str().is_empty(),
            &format!("mounts[{index}].destination"),
            "is empty",
        )?;
    }
    linux(spec)
}

fn version(version: &str) -> Result<(), SpecError> {
    let mut parts = version.split('.');
    let known = parts.next() == Some("1")
        && parts.next().is_some_and(|minor| minor.parse::<u8>().is_ok_and(|minor| minor <= 3));
    require(known, "ociVersion", &format!("{version:?}: 1.0 to 1.3 are supported"))
}

fn linux(spec: &Spec) -> Result<(), SpecError> {
    let Some(linux) = spec.linux() else { return Ok(()) };
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
    let has_user = seen.contains(&LinuxNamespaceType::User);
    let mapped = linux.uid_mappings().iter().flatten().count() > 0;
    require(!mapped || has_user, "linux.uidMappings", "needs a user namespace")?;
    require(linux.intel_rdt().is_none(), "linux.intelRdt", "is not supported")?;
    let new_time = linux
        .namespaces()
        .iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Time && namespace.path().is_none());
    for clock in linux.time_offsets().iter().flatten().map(|(clock, _)| clock) {
        require(new_time, "linux.timeOffsets", "needs a new time namespace")?;
        require(
            ["monotonic", "boottime"].contains(&clock.as_str()),
            "linux.timeOffsets",
            &format!("{clock:?}: allowed are monotonic and boottime"),
        )?;
    }
    require(linux.net_devices().iter().flatten().count() == 0, "linux.netDevices", "is not supported")?;
    require(linux.memory_policy().is_none(), "linux.memoryPolicy", "is not supported")?;
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        require(
            !name.is_empty() && !name.split(['.', '/']).any(|part| part.is_empty() || part == ".."),
            "linux.sysctl",
            &format!("{name:?} names no sysctl"),
        )?;
    }
    Ok(())
}

fn require(holds: bool, name: &str, why: &str) -> Result<(), SpecError> {
    if holds { Ok(()) } else { Err(field(name, why)) }
}

fn field(field: &str, why: &str) -> SpecError {
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
        let cases: [(&str, Value, &str); 9] = [
            ("/ociVersion", json!("2.0.0"), "ociVersion"),
            ("/root/path", json!(""), "root.path"),
            ("/process/args", json!([]), "process.args"),
            ("/process/cwd", json!("tmp"), "process.cwd"),
            ("/process/env", json!(["A"]), "process.env[0]"),
            ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}), "linux.memoryPolicy"),
            ("/linux/timeOffsets", json!({"boottime": {"secs": 5}}), "linux.timeOffsets"),
            ("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces"),
            ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "linux.namespaces[1]"),
        ];
        assert!(validate(&serde_json::from_value(config()).expect("valid")).is_ok());
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
