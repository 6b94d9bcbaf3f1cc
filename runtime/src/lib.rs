//! The OCI runtime as a library: create, start, signal, exec and delete containers.
//!
//! [`container`] is what commands and the pod monitor call. Everything a container becomes is decided by its config.json
//! ([`runtime_spec`]); everything that touches the kernel unsafely is in [`runtime_sys`]. Knows containers; has never heard of Kubernetes.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod clock;
pub mod container;
mod device_rules;
mod hooks;
pub mod host;
mod init;
pub mod lsm;
pub mod monitor;
pub mod mounts;
mod net_devices;
mod procfs;
mod seccomp;
pub mod self_protection;
pub mod warnings;

/// The words of `linux.memoryPolicy` that are known, for `features`.
pub fn memory_modes() -> Vec<&'static str> {
    init::scheduling::MEMORY_MODES.iter().map(|(name, ..)| *name).collect()
}

pub fn memory_flags() -> Vec<&'static str> {
    init::scheduling::MEMORY_FLAGS.iter().map(|(name, ..)| *name).collect()
}
