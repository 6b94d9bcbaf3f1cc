//! Keeps the host's runtime binary from being written through `/proc/<pid>/exe` of a process that a container can see (CVE-2019-5736).
//!
//! The program is run again from a read-only bind mount of its file that is attached nowhere; for a static binary that takes half a millisecond,
//! and a monitor does it once for all containers of its pod.

use nix::{
    errno::Errno,
    fcntl::AtFlags,
    sys::statvfs::{FsFlags, statvfs},
};
use runtime_sys::mount::{Attributes, clone_tree};
use std::{
    env,
    ffi::{CString, NulError, OsString},
    io,
    os::{fd::AsFd, unix::ffi::OsStringExt},
    path::Path,
};

const OWN: &str = "/proc/self/exe";

/// Returns when the running binary is on a read-only mount, after running it again from one if need be.
pub fn protect() -> io::Result<()> {
    if statvfs(OWN)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let copy = match clone_tree(None, Path::new(OWN), false) {
        // An ordinary user may not; what is root's, such a user's containers cannot write.
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        copy => copy?,
    };
    copy.set_attributes(Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() }, false)?;
    let args = env::args_os().map(c_string).collect::<Result<Vec<_>, _>>()?;
    let variables = env::vars_os().map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        c_string(variable)
    });
    let variables = variables.collect::<Result<Vec<_>, _>>()?;
    match nix::unistd::execveat(copy.as_fd(), c"", &args, &variables, AtFlags::AT_EMPTY_PATH) {
        Err(Errno::ENOSYS) => Ok(()),
        Err(err) => Err(err.into()),
        Ok(never) => match never {},
    }
}

fn c_string(text: OsString) -> Result<CString, NulError> {
    CString::new(text.into_vec())
}
