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
