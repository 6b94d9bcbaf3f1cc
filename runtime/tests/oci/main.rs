//! The runtime's command line against the real kernel: what a container sees, what it cannot do, and what is left when it is gone.
//!
//! Needs root, cgroup v2 and a static busybox; without them each test says `skipped: why`, or fails under `REQUIRE_PRIVILEGED=1`.

mod attacks;
mod bad_input;
mod bundle;
mod cli;
mod exec;
#[cfg(target_arch = "x86_64")]
mod faults;
mod features;
mod hooks;
mod isolation;
mod leaked;
mod lifecycle;
mod monitor;
mod mounts;
mod net_devices;
mod output;
mod overwrite;
mod privileges;
mod races;
mod redirect;
mod rootless;
mod spec;
mod states;
mod systemd;
#[cfg(target_arch = "x86_64")]
mod tracer;
mod usage;
