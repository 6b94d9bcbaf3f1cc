//! Wherry in a virtual machine: systemd, unified cgroup v2 with every controller, limits that hold.
#![forbid(unsafe_code)]

mod limits;
mod peers;
mod resources;
mod systemd;
