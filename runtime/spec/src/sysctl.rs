//! Which sysctls a container may have: those that belong to a namespace of its own, or they would be set for the whole host.
//!
//! Source: namespaces(7) and the kernel's `Documentation/admin-guide/sysctl`; the same list as runc's.

use crate::{
    SpecError,
    oci::{Linux, LinuxNamespaceType as Kind},
    validate::{field, require},
};

const OF_IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

pub fn validate(linux: &Linux) -> Result<(), SpecError> {
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let wrong = |why: &str| Err(field("linux.sysctl", &format!("{name:?} {why}")));
        if name.is_empty() || name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
            return wrong("names no sysctl");
        }
        let Some((kind, word)) = namespace(&dotted(name)) else {
            return wrong("belongs to no namespace: it would be set for the whole host");
        };
        let mut listed = linux.namespaces().iter().flatten();
        let own = listed.any(|namespace| namespace.typ() == kind);
        let why = format!("{name:?} needs the {word} namespace in linux.namespaces");
        require(own, "linux.sysctl", &why)?;
    }
    Ok(())
}

/// With dots between its parts. Where the first separator is a slash, dots are parts of names, as of an interface; sysctl.d(5).
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.replace('/', "."),
        _ => name.to_owned(),
    }
}

fn namespace(name: &str) -> Option<(Kind, &'static str)> {
    if OF_IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        return Some((Kind::Ipc, "ipc"));
    }
    match name.split('.').next() {
        Some("net") => Some((Kind::Network, "network")),
        Some("user") => Some((Kind::User, "user")),
        _ if ["kernel.hostname", "kernel.domainname"].contains(&name) => Some((Kind::Uts, "uts")),
        _ => None,
    }
}
