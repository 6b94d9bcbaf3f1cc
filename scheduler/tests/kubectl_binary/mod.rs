//! Where kubectl is: `$KUBECTL`, or in `PATH`.

use std::{env, path::PathBuf};

/// `None`, with a line that says so, where there is none.
pub fn find() -> Option<PathBuf> {
    if let Some(named) = env::var_os("KUBECTL") {
        return Some(named.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join("kubectl")).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: no kubectl: set KUBECTL or put it into PATH");
    }
    found
}
