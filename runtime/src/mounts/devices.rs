//! The devices that every container has (config-linux.md, "Default Devices"), and those of config.json.

use super::{MountError, bind, io_error};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::{
        stat::{Mode, SFlag, fstat, makedev, mknodat},
        statfs::{DEVPTS_SUPER_MAGIC, fstatfs},
    },
    unistd::{Gid, Uid, fchownat, symlinkat},
};
use runtime_spec::oci::{LinuxDevice, LinuxDeviceType, Spec};
use runtime_sys::{
    mount::clone_tree,
    path::{make_dirs_in_root, open_beneath, open_in_root, open_on_mount},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

const DEFAULT: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Makes the nodes and links. In a user namespace, where mknod(2) is not allowed, the host's devices are bind mounted.
pub fn create(root: &OwnedFd, spec: &Spec, user_namespace: bool) -> Result<(), MountError> {
    let dev = make_dirs_in_root(root, Path::new("/dev")).map_err(io_error("open", Path::new("/dev")))?;
    for (name, major, minor) in DEFAULT {
        let at = Path::new("/dev").join(name);
        if user_namespace {
            bind_host(root, &at)?;
        } else {
            node(&dev, Path::new(name), SFlag::S_IFCHR, (major, minor), 0o666)
                .map_err(io_error("make", &at))?;
        }
    }
    for (target, name) in LINKS {
        match symlinkat(target, dev.as_fd(), name) {
            Err(err) if err != Errno::EEXIST => {
                return Err(io_error("link", &Path::new("/dev").join(name))(err.into()));
            }
            _ => {}
        }
    }
    let listed = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    listed.into_iter().flatten().try_for_each(|device| create_one(root, device, user_namespace))
}

fn create_one(root: &OwnedFd, device: &LinuxDevice, user_namespace: bool) -> Result<(), MountError> {
    let path = device.path();
    // The link to the multiplexer of the container's own devpts is there already; the host's would reach the host's terminals.
    if path == Path::new("/dev/ptmx") {
        return Ok(());
    }
    let invalid = || io_error("make", path)(io::ErrorKind::InvalidInput.into());
    if user_namespace {
        return bind_host(root, path);
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => return Err(invalid()),
    };
    let name = path.file_name().ok_or_else(invalid)?;
    let dir =
        make_dirs_in_root(root, path.parent().unwrap_or(Path::new("/"))).map_err(io_error("open", path))?;
    let number = (device.major() as u64, device.minor() as u64);
    node(&dir, Path::new(name), kind, number, device.file_mode().unwrap_or(0o666))
        .map_err(io_error("make", path))?;
    let (uid, gid) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let made = open_beneath(&dir, Path::new(name), OFlag::O_PATH).map_err(io_error("open", path))?;
    expect_node(&made, kind, number).map_err(io_error("chown", path))?;
    fchownat(made.as_fd(), Path::new(""), uid, gid, AtFlags::AT_EMPTY_PATH)
        .map_err(|err| io_error("chown", path)(err.into()))
}

/// Makes a node. Called with an empty umask, so that nothing has to be changed by name afterwards: in a volume the name may lead elsewhere by then.
fn node(dir: &OwnedFd, name: &Path, kind: SFlag, number: (u64, u64), mode: u32) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    match mknodat(dir.as_fd(), name, kind, mode, makedev(number.0, number.1)) {
        // An image may bring its own; only the right one will do.
        Err(Errno::EEXIST) => match open_beneath(dir, name, OFlag::O_PATH) {
            Ok(there) => expect_node(&there, kind, number),
            // A symlink.
            Err(_) => Err(Errno::EEXIST.into()),
        },
        made => Ok(made?),
    }
}

/// Errors: `EEXIST` when the file is another than this node.
fn expect_node(file: &OwnedFd, kind: SFlag, number: (u64, u64)) -> io::Result<()> {
    let stat = fstat(file)?;
    let same = stat.st_rdev == makedev(number.0, number.1) && stat.st_mode & libc::S_IFMT == kind.bits();
    if same { Ok(()) } else { Err(Errno::EEXIST.into()) }
}

fn bind_host(root: &OwnedFd, path: &Path) -> Result<(), MountError> {
    let host = clone_tree(None, path, false).map_err(io_error("clone", path))?;
    bind(host, root, path, false)
}

/// Puts the terminal behind `slave` in place of `/dev/console`.
pub fn console(root: &OwnedFd, slave: &OwnedFd) -> Result<(), MountError> {
    let at = Path::new("/dev/console");
    // Cloned from the descriptor, so that nothing swapped in by the image is ever followed (CVE-2025-52565).
    let copy = clone_tree(Some(slave.as_fd()), Path::new(""), false)
        .map_err(io_error("clone the terminal for", at))?;
    bind(copy, root, at, false)
}

/// Opens the terminal multiplexer of the container's own devpts, and nothing else that may be in its place (CVE-2025-52565).
pub fn open_ptmx(root: &OwnedFd) -> Result<OwnedFd, MountError> {
    let path = Path::new("/dev/pts");
    let dir = open_in_root(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(io_error("open", path))?;
    let kind = fstatfs(&dir).map_err(|err| io_error("stat", path)(err.into()))?.filesystem_type();
    if kind != DEVPTS_SUPER_MAGIC {
        return Err(io_error("use", path)(io::Error::other("it is not a devpts")));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    open_on_mount(&dir, Path::new("ptmx"), flags).map_err(io_error("open", &path.join("ptmx")))
}

/// A descriptor of the host's `/dev/null`, checked to be that device.
pub fn host_null() -> Result<OwnedFd, MountError> {
    let path = Path::new("/dev/null");
    let null = nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|err| io_error("open", path)(err.into()))?;
    expect_node(&null, SFlag::S_IFCHR, (1, 3))
        .map_err(|_| io_error("use", path)(io::Error::other("it is not the null device")))?;
    Ok(null)
}
