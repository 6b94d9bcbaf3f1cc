//! Where kubectl is: `$KUBECTL`, or in `PATH`.

use std::{env, path::PathBuf};

/// Panics where there is none.
pub fn find() -> PathBuf {
    if let Some(named) = env::var_os("KUBECTL") {
        return named.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.is_file());
    found.expect("no kubectl: set KUBECTL or put it into PATH; `make test` does")
}
