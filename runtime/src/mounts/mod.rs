//! A container's filesystem: its root, the mounts of config.json, devices, masks, and the pivot into it.
//!
//! Order of calls, all in the new mount namespace: [`prepare_root`] -> [`mount_all`] -> [`devices::create`] -> [`pivot`] -> [`masked::apply`].
//! Every target is opened inside the root by descriptor ([`runtime_sys::path`]), and mounts are attached to descriptors, so a symlink that is swapped
//! meanwhile leads nowhere.

mod copy_up;
pub mod devices;
pub mod idmap;
pub mod masked;
mod options;

pub use options::names as option_names;

use crate::cgroup::mount_point;
use idmap::Mapped;
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, fstat},
    unistd::{fchdir, pivot_root},
};
use options::Options;
use runtime_spec::oci::{Mount, Spec};
use runtime_sys::{
    mount::{Attributes, Detached, clone_tree, new_filesystem, reconfigure, set_attributes},
    path::{make_dirs_in_root, make_file_in_root, open_in_root},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("mount {} on {}", source_name, target.display())]
    Mount { source_name: String, target: PathBuf, source: io::Error },
    #[error("mounts: {}: option {option:?}: {why}", target.display())]
    Option { target: PathBuf, option: String, why: &'static str },
}

/// Layers to mount as the root, instead of a directory that holds it.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Uppermost first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// mount(2) takes one page of options.
const OVERLAY_OPTIONS_MAX: usize = 4095;

/// Cuts this mount namespace off from the host's as far as `linux.rootfsPropagation` allows, and makes the root a mount of its own; gives a
/// descriptor of it. What is shared stays so, for volumes whose mounts are to reach the host; the root itself never is before the pivot.
/// `made` is the overlay, where the creating process has mounted it already.
pub fn prepare_root(
    root: &Path,
    overlay: Option<&Overlay>,
    made: Option<Detached>,
    propagation: Option<&str>,
) -> Result<OwnedFd, MountError> {
    let asked = MsFlags::from_bits_retain(options::propagation(propagation));
    let cut = if asked.contains(MsFlags::MS_SHARED) {
        asked
    } else if asked.intersects(MsFlags::MS_PRIVATE | MsFlags::MS_UNBINDABLE) {
        MsFlags::MS_PRIVATE | MsFlags::MS_REC
    } else {
        MsFlags::MS_SLAVE | MsFlags::MS_REC
    };
    let none: Option<&Path> = None;
    mount(none, "/", none, cut, none)
        .map_err(|err| io_error("set the propagation of", Path::new("/"))(err.into()))?;
    if asked.contains(MsFlags::MS_SHARED) {
        make_parent_private(root)?;
    }
    let by_path = || {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(root, flags, Mode::empty()).map_err(|err| io_error("open root.path", root)(err.into()))
    };
    if let Some(made) = made {
        return made.attach(by_path()?.as_fd()).map_err(io_error("mount", root));
    }
    let Some(overlay) = overlay else {
        // Looked up once: what is cloned is what it is mounted on.
        let here = by_path()?;
        let copy = clone_tree(Some(here.as_fd()), Path::new(""), true).map_err(io_error("clone", root))?;
        return copy.attach(here.as_fd()).map_err(io_error("mount", root));
    };
    mount_overlay(overlay, root).map_err(|source| MountError::Mount {
        source_name: "overlay".to_owned(),
        target: root.to_path_buf(),
        source,
    })?;
    by_path()
}

/// Makes the mount that `root` lies on private, so that the root's own mount does not reach the host.
fn make_parent_private(root: &Path) -> Result<(), MountError> {
    let root = root.canonicalize().map_err(io_error("open root.path", root))?;
    let none: Option<&Path> = None;
    for dir in root.ancestors() {
        match mount(none, dir, none, MsFlags::MS_PRIVATE, none) {
            // No mount point: what it lies on is further up.
            Err(Errno::EINVAL) => {}
            done => return done.map_err(|err| io_error("make private", dir)(err.into())),
        }
    }
    Ok(())
}

/// Gives the root the propagation of `linux.rootfsPropagation`: after the pivot, which takes no shared one.
pub fn propagate_root(root: &OwnedFd, propagation: Option<&str>) -> Result<(), MountError> {
    let asked = options::propagation(propagation);
    let (kind, recursive) = (asked & !libc::MS_REC, asked & libc::MS_REC != 0);
    if kind == 0 || kind == libc::MS_PRIVATE {
        return Ok(());
    }
    let attributes = Attributes { propagation: kind, ..Attributes::default() };
    set_attributes(root.as_fd(), attributes, recursive)
        .map_err(io_error("set the propagation of", Path::new("/")))
}

/// Mounts the layers on `root`. The old call takes them all at once, as long as they fit; since Linux 6.8 the new one takes any number, one by one.
fn mount_overlay(overlay: &Overlay, root: &Path) -> io::Result<()> {
    let text = |path: &Path| {
        let text = path
            .to_str()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a layer's path is not UTF-8"));
        text.map(str::to_owned)
    };
    let lower = overlay.lower.iter().map(|path| text(path)).collect::<io::Result<Vec<_>>>()?;
    let (upper, work) = (text(&overlay.upper)?, text(&overlay.work)?);
    let data = format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":"));
    if data.len() <= OVERLAY_OPTIONS_MAX {
        let data = Some(data.as_str());
        return Ok(mount(Some("overlay"), root, Some("overlay"), MsFlags::empty(), data)?);
    }
    let layers = lower.iter().map(|path| ("lowerdir+", Some(path.as_str())));
    let options: Vec<_> =
        layers.chain([("upperdir", Some(upper.as_str())), ("workdir", Some(work.as_str()))]).collect();
    let made = new_filesystem("overlay", &options, 0)?;
    let at = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    made.attach(at.as_fd()).map(drop)
}

/// Mounts what config.json lists, in order.
pub fn mount_all(root: &OwnedFd, spec: &Spec, bundle: &Path, mapped: &mut Mapped) -> Result<(), MountError> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    let label = label.filter(|label| !label.is_empty());
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        mount_one(root, mount, bundle, mapped.take(index), label)?;
    }
    Ok(())
}

/// What a bind mount binds.
fn source_of(mount: &Mount, bundle: &Path) -> Result<PathBuf, MountError> {
    mount.source().as_ref().map(|path| bundle.join(path)).ok_or_else(|| MountError::Mount {
        source_name: "nothing".to_owned(),
        target: mount.destination().clone(),
        source: io::Error::new(io::ErrorKind::InvalidInput, "a bind mount needs a source"),
    })
}

fn mount_one(
    root: &OwnedFd,
    mount: &Mount,
    bundle: &Path,
    mapped: Option<Detached>,
    label: Option<&str>,
) -> Result<(), MountError> {
    let target = mount.destination();
    let options = Options::of(mount);
    let kind = mount.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "none" });
    let source_name = mount.source().as_ref().map_or(kind.to_owned(), |path| path.display().to_string());
    let failed =
        |source| MountError::Mount { source_name: source_name.clone(), target: target.clone(), source };
    if options.remount {
        return remount(root, target, &options).map_err(failed);
    }
    let (made, is_dir) = if options.bind {
        let source = source_of(mount, bundle)?;
        let tree = match mapped {
            Some(tree) => tree,
            None => clone_tree(None, &source, options.recursive).map_err(failed)?,
        };
        let mode = fstat(&tree).map_err(|err| failed(err.into()))?.st_mode;
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        (tree, is_dir)
    } else {
        match new_mount(kind, &source_name, &options, label) {
            // In a user namespace without a cgroup namespace there is but the host's own mount to show.
            Err(err) if kind.starts_with("cgroup") && not_permitted(&err) => {
                let host = mount_point().map_err(io::Error::other).map_err(failed)?;
                let tree = clone_tree(None, &host, true).map_err(failed)?;
                options.shape(tree.as_fd()).map_err(failed)?;
                (tree, true)
            }
            made => (made.map_err(failed)?, true),
        }
    };
    let at = open_target(root, target, is_dir).map_err(io_error("open the mount point", target))?;
    if options.copy_up {
        let inside = made.open().map_err(failed)?;
        copy_up::copy_tree(&at, &inside).map_err(io_error("copy up", target))?;
    }
    // Written to before it may become read-only.
    if options.bind || options.copy_up {
        options.shape(made.as_fd()).map_err(failed)?;
    } else {
        options.propagate(made.as_fd()).map_err(failed)?;
    }
    made.attach(at.as_fd()).map(drop).map_err(failed)
}

fn not_permitted(err: &io::Error) -> bool {
    matches!(err.raw_os_error(), Some(libc::EPERM | libc::EBUSY))
}

/// Gives the mount on `target` other flags, and without `bind` its filesystem other options.
fn remount(root: &OwnedFd, target: &Path, options: &Options) -> io::Result<()> {
    let at = open_in_root(root, target, OFlag::O_PATH)?;
    if !options.bind && !options.data.is_empty() {
        let data = options.data.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        reconfigure(at.as_fd(), &data.collect::<Vec<_>>())?;
    }
    options.shape(at.as_fd())
}

/// What of `mounts` cannot be done, before anything is.
pub fn check(spec: &Spec) -> Result<(), MountError> {
    for mount in spec.mounts().iter().flatten() {
        let options = Options::of(mount);
        let wrong = |option: &str, why| {
            Err(MountError::Option { target: mount.destination().clone(), option: option.to_owned(), why })
        };
        if options.copy_up && (options.bind || mount.typ().as_deref() != Some("tmpfs")) {
            return wrong("tmpcopyup", "only a tmpfs can start with what the image has");
        }
        idmap::plan(mount, &options, spec)?;
    }
    Ok(())
}

/// A new instance of a filesystem, labelled where it takes a label.
fn new_mount(kind: &str, source: &str, options: &Options, label: Option<&str>) -> io::Result<Detached> {
    let kind = if kind == "cgroup" { "cgroup2" } else { kind };
    let context = label.filter(|_| ["tmpfs", "mqueue", "devpts"].contains(&kind));
    let data = options.data.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
    let data: Vec<(&str, Option<&str>)> = std::iter::once(("source", Some(source)))
        .chain(data)
        .chain(context.map(|label| ("context", Some(label))))
        .collect();
    new_filesystem(kind, &data, if options.copy_up { 0 } else { options.flags() })
}

/// The directory, or file, to mount on; made where it is missing.
fn open_target(root: &OwnedFd, target: &Path, is_dir: bool) -> io::Result<OwnedFd> {
    if is_dir { make_dirs_in_root(root, target) } else { make_file_in_root(root, target) }
}

/// Checks that what config.json mounts as `proc` on /proc is what is there in the end: a volume above it, or a link in its place, would swallow the
/// masks (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561).
pub fn verify_proc(root: &OwnedFd, spec: &Spec) -> Result<(), MountError> {
    let proc = Path::new("/proc");
    let listed = |mount: &Mount| mount.destination() == proc && mount.typ().as_deref() == Some("proc");
    if !spec.mounts().iter().flatten().any(listed) {
        return Ok(());
    }
    let there = runtime_sys::path::open_beneath(root, Path::new("proc"), OFlag::O_PATH);
    there.and_then(crate::procfs::expect_root).map_err(io_error("use", proc))
}

/// Makes the root read-only; mounts below keep their own flags.
pub fn make_read_only(root: &OwnedFd) -> Result<(), MountError> {
    let attributes = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    set_attributes(root.as_fd(), attributes, false).map_err(io_error("make read-only", Path::new("/")))
}

/// Makes `root` this process's `/` and lets go of the old one. pivot_root(2), "pivot_root(".", ".")".
pub fn pivot(root: &OwnedFd) -> Result<(), MountError> {
    let failed = |err: nix::Error| io_error("pivot_root to", Path::new("root.path"))(err.into());
    let old =
        open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    fchdir(root).map_err(failed)?;
    pivot_root(".", ".").map_err(failed)?;
    // The old root now lies over the new one.
    fchdir(&old).map_err(failed)?;
    let none: Option<&Path> = None;
    mount(none, ".", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).map_err(failed)?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed)?;
    nix::unistd::chdir("/").map_err(failed)
}

/// A bind mount of the host's file or directory behind `source`, attached inside the root.
fn bind(source: Detached, root: &OwnedFd, target: &Path, is_dir: bool) -> Result<(), MountError> {
    let at = open_target(root, target, is_dir).map_err(io_error("open the mount point", target))?;
    source.attach(at.as_fd()).map(drop).map_err(io_error("mount on", target))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.to_path_buf();
    move |source| MountError::Io { what, path, source }
}
