//! Names of sysctls, and whose they are; sysctl(8), namespaces(7).

use crate::{
    SpecError,
    oci::{Linux, LinuxNamespaceType},
    validate::{field, require},
};

/// Kernel parameters of an ipc namespace; ipc_namespaces(7).
const IPC: [&str; 10] = [
    "kernel/auto_msgmni",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "kernel/msg_next_id",
];

/// Refuses what would be set for the whole host, or for a namespace that the container has not for itself.
pub fn validate(linux: &Linux) -> Result<(), SpecError> {
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let wrong = |why: &str| field("linux.sysctl", &format!("{name:?} {why}"));
        let kind = namespace(name)
            .ok_or_else(|| wrong("belongs to no namespace: it would be set for the whole host"))?;
        let own = linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == kind);
        let why = format!("{name:?} needs the {kind} namespace in linux.namespaces");
        require(own, "linux.sysctl", &why)?;
    }
    Ok(())
}

/// The file below /proc/sys. The first separator tells: `net.ipv4.conf.eth0/1.mtu` is `net/ipv4/conf/eth0.1/mtu`, and so is the latter itself.
pub fn path(name: &str) -> String {
    if name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/')) {
        return name.to_owned();
    }
    name.chars()
        .map(|letter| {
            if letter == '.' {
                '/'
            } else if letter == '/' {
                '.'
            } else {
                letter
            }
        })
        .collect()
}

/// The kind of namespace that each has its own value of; `None`: there is one for the whole host, as of kernel.core_pattern, which would be run
/// outside any container.
pub fn namespace(name: &str) -> Option<LinuxNamespaceType> {
    let path = path(name);
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        None
    } else if path.starts_with("net/") {
        Some(LinuxNamespaceType::Network)
    } else if path.starts_with("fs/mqueue/") || IPC.contains(&path.as_str()) {
        Some(LinuxNamespaceType::Ipc)
    } else if ["kernel/hostname", "kernel/domainname"].contains(&path.as_str()) {
        Some(LinuxNamespaceType::Uts)
    } else if path.starts_with("user/") {
        Some(LinuxNamespaceType::User)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_host_is_nobodys() {
        let of = |name| namespace(name);
        assert_eq!(of("net.ipv4.ip_forward"), Some(LinuxNamespaceType::Network));
        assert_eq!(of("net/ipv4/ip_forward"), Some(LinuxNamespaceType::Network));
        assert_eq!(of("kernel.shmmax"), Some(LinuxNamespaceType::Ipc));
        assert_eq!(of("fs.mqueue.msg_max"), Some(LinuxNamespaceType::Ipc));
        assert_eq!(of("kernel.domainname"), Some(LinuxNamespaceType::Uts));
        for name in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "kernel.shmmax.",
            "net/../kernel/core_pattern",
            "net.//.kernel.core_pattern",
            "net//ipv4",
            "vm.overcommit_memory",
            "fs.suid_dumpable",
            "net",
            "",
            ".",
        ] {
            assert_eq!(of(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_first_separator_tells() {
        assert_eq!(path("net.ipv4.conf.eth0/1.mtu"), "net/ipv4/conf/eth0.1/mtu");
        assert_eq!(path("net/ipv4/conf/eth0.1/mtu"), "net/ipv4/conf/eth0.1/mtu");
    }
}
