//! Who this process is on the host.

use nix::unistd::getuid;
use std::{fs, sync::OnceLock};

/// Whether this process is the host's root: uid 0, and not in a user namespace of somebody else's, as under rootless podman. Where that cannot be known
/// it is: what an ordinary user may do without, such as a cgroup and its device rules, is not left out by mistake.
pub fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| {
        let mapped = |map: String| !map.split_whitespace().eq(["0", "0", "4294967295"]);
        getuid().is_root() && !fs::read_to_string("/proc/self/uid_map").is_ok_and(mapped)
    })
}
