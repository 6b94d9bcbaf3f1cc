//! The mount API of Linux 5.2 and later: mounts are made as descriptors, shaped, and attached to a descriptor, so that no path is
//! looked up twice.

use crate::{c_string, check};
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    ptr,
};

const EMPTY: &CStr = c"";
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x04;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const FSCONFIG_CMD_RECONFIGURE: u32 = 7;
const FSPICK_CLOEXEC: u32 = 1;
const FSPICK_EMPTY_PATH: u32 = 8;

/// Flags of a mount, `MOUNT_ATTR_*` of mount_setattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// To switch on.
    pub set: u64,
    /// To switch off.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`; 0 leaves it.
    pub propagation: u64,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A mount that is not attached anywhere; it goes when it is dropped.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Changes the mount's flags, with `recursive` those of every mount below it too. Errors as mount_setattr(2); Linux 5.12+.
    pub fn set_attributes(&self, attributes: Attributes, recursive: bool) -> io::Result<()> {
        set_attributes(self.0.as_fd(), attributes, recursive)
    }

    /// Shifts owners by the maps of the user namespace `users`; mount_setattr(2) `MOUNT_ATTR_IDMAP`. Only of a mount that was never attached, and
    /// of filesystems that can.
    pub fn map_ids(&self, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
        let attr = MountAttr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: users.as_raw_fd() as u64,
        };
        setattr(self.0.as_fd(), &attr, recursive)
    }

    /// Its root directory, O_PATH.
    pub fn open(&self) -> io::Result<OwnedFd> {
        crate::path::open_beneath(self.0.as_fd(), Path::new("."), nix::fcntl::OFlag::O_PATH)
    }

    /// Attaches the mount on the directory or file behind `target` (O_PATH is enough); gives its root, to clone it from. Errors as move_mount(2).
    pub fn attach(self, target: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
        let (from, to, empty) = (self.0.as_raw_fd(), target.as_raw_fd(), EMPTY.as_ptr());
        // SAFETY: both descriptors are open across the call, both paths are the same empty C string, as the flags allow.
        check(unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, flags) }).map(|_| self.0)
    }
}

impl From<OwnedFd> for Detached {
    /// One that another process has made and sent.
    fn from(mount: OwnedFd) -> Self {
        Self(mount)
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Changes the flags of the mount that `mount` is the root of.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    setattr(mount, &attr, recursive)
}

fn setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let (fd, empty, size) = (mount.as_raw_fd(), EMPTY.as_ptr(), std::mem::size_of::<MountAttr>());
    // SAFETY: the kernel reads `size` bytes of `attr` and an empty C string, both alive across the call.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, empty, flags, ptr::from_ref(attr), size) })
        .map(drop)
}

/// A copy of the mount at `path` (or what of it lies below), as a bind mount is made; open_tree(2).
pub fn clone_tree(dir: Option<BorrowedFd<'_>>, path: &Path, recursive: bool) -> io::Result<Detached> {
    let path = c_string(path)?;
    let at = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    flags |= if recursive { libc::AT_RECURSIVE as u32 } else { 0 };
    flags |= if path.is_empty() { libc::AT_EMPTY_PATH as u32 } else { 0 };
    // SAFETY: `path` is a C string alive across the call; `at` is open or AT_FDCWD.
    let fd = check(unsafe { libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags) })?;
    Ok(Detached(own(fd)))
}

/// A new instance of a filesystem: fsopen(2), fsconfig(2) for each option, fsmount(2).
///
/// - `options`: `("size", Some("64k"))`, `("newinstance", None)`.
/// - `attributes`: `MOUNT_ATTR_*` of the mount.
/// - Errors: the kernel's own words about a bad option are in the message.
pub fn new_filesystem(kind: &str, options: &[(&str, Option<&str>)], attributes: u64) -> io::Result<Detached> {
    let kind = CString::new(kind)?;
    // SAFETY: `kind` is a C string alive across the call.
    let context =
        own(check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?);
    set_options(&context, options)?;
    configure(&context, FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    // SAFETY: three integers.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes)
    })?;
    Ok(Detached(own(fd)))
}

/// Gives the filesystem that `mount` is the root of other options; fspick(2), Linux 5.2+.
pub fn reconfigure(mount: BorrowedFd<'_>, options: &[(&str, Option<&str>)]) -> io::Result<()> {
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: `mount` is open across the call, and the path an empty C string, as the flags allow.
    let context =
        own(check(unsafe { libc::syscall(libc::SYS_fspick, mount.as_raw_fd(), EMPTY.as_ptr(), flags) })?);
    set_options(&context, options)?;
    configure(&context, FSCONFIG_CMD_RECONFIGURE, ptr::null(), ptr::null())
}

fn set_options(context: &OwnedFd, options: &[(&str, Option<&str>)]) -> io::Result<()> {
    for (name, value) in options {
        let (name, value) = (CString::new(*name)?, value.map(CString::new).transpose()?);
        let (command, pointer) = match &value {
            Some(value) => (FSCONFIG_SET_STRING, value.as_ptr()),
            None => (FSCONFIG_SET_FLAG, ptr::null()),
        };
        configure(context, command, name.as_ptr(), pointer)?;
    }
    Ok(())
}

/// `name` and `value` are null or C strings of the caller's frame.
fn configure(
    context: &OwnedFd,
    command: u32,
    name: *const libc::c_char,
    value: *const libc::c_char,
) -> io::Result<()> {
    // SAFETY: private to this module; callers pass null or pointers into C strings that outlive the call, as each
    // command wants them (fsconfig(2)).
    let result =
        check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, name, value, 0) });
    result.map(drop).map_err(|err| explain(context, err))
}

/// Adds what the kernel wrote into the filesystem context about a failure.
fn explain(context: &OwnedFd, err: io::Error) -> io::Error {
    let mut message = [0u8; 512];
    let len = nix::unistd::read(context, &mut message).unwrap_or(0);
    let said = String::from_utf8_lossy(&message[..len]);
    match said.trim().strip_prefix("e ") {
        Some(said) => io::Error::new(err.kind(), format!("{err}: {said}")),
        None => err,
    }
}

fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: private to this module; only called on descriptors that a system call has just returned.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}
