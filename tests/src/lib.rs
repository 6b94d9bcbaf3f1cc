//! The harness: clusters of real daemons, each in a network namespace and directories of its own.
//!
//! A [`Cluster`] is started and stopped by `ctl up` and `ctl down`, as a user would; [`Cluster::wait_for`] waits for a
//! state. Dropping it stops every process; after a panic it prints where logs and state were kept.
#![forbid(unsafe_code)]

pub mod clock;
pub mod cluster;
pub mod command;
pub mod guest;
pub mod https;
pub mod images;
pub mod leaks;
pub mod netns;
pub mod traffic;

pub use cluster::{Cluster, Options};

use std::path::{Path, PathBuf};

/// Where the release binaries are: `$WHERRY_BIN`, which `make test` sets, or the release directory of this workspace.
pub fn binaries() -> PathBuf {
    let dir = std::env::var_os("WHERRY_BIN").map_or_else(|| root().join("target/bin"), PathBuf::from);
    assert!(dir.join("wherry-agent").exists(), "no binaries in {}: run `make build`", dir.display());
    dir
}

/// The top of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_path_buf()
}

/// Where what takes long to make is kept between runs, readable to the user that runs guests: guest and container images, kubectl.
pub fn cache() -> PathBuf {
    let dir = std::env::var_os("WHERRY_TEST_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/wherry-test"), PathBuf::from);
    std::fs::create_dir_all(&dir).expect("the test cache can be created");
    dir
}

/// Whether this is root; suites that need it call this first and say what is the matter.
pub fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "this suite makes namespaces and cgroups: run it as root");
}
