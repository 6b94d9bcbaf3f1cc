//! What tests need from elsewhere and `tests/setup.sh` has put into the cache: kubectl and container images.

use crate::cache;
use std::path::PathBuf;

/// The real kubectl, 1.37.
pub fn kubectl() -> PathBuf {
    let path = cache().join("kubectl");
    assert!(path.exists(), "no {}: run `make test-setup`", path.display());
    path
}

/// The directory with the image archives `busybox.tar`, `nginx.tar` and `nginx-alt.tar`.
pub fn archives() -> PathBuf {
    let path = cache().join("images");
    assert!(path.join("busybox.tar").exists(), "no {}: run `make test-setup`", path.display());
    path
}

/// A docker-registry on the loopback of a cluster's namespace, filled with the images of `tests/images`; gone when dropped.
pub struct Registry(std::process::Child);

impl Registry {
    const ADDRESS: &str = "127.0.0.1:5000";

    pub fn start(netns: &crate::netns::Netns) -> Self {
        let script = crate::root().join("tests/images/registry.sh");
        let child = netns
            .command("bash")
            .arg(script)
            .arg(archives())
            .arg(Self::ADDRESS)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("bash starts");
        let address = Self::ADDRESS.parse().expect("an address");
        let answers = || netns.enter(|| crate::traffic::get(address, "/v2/")).ok();
        crate::clock::poll(crate::cluster::SOON, answers).expect("the registry answers");
        Self(child)
    }

    /// registries.toml for a cluster beside it.
    pub fn mirror_config() -> String {
        format!("[\"docker.io\"]\nmirrors = [\"http://{}\"]\nfallback = false\n", Self::ADDRESS)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}
