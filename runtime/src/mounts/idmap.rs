//! Mounts whose owners are shifted: `uidMappings` and `gidMappings` of a bind mount, `idmap` and `ridmap`, and the layers of a root in a user
//! namespace; mount_setattr(2) `MOUNT_ATTR_IDMAP`.
//!
//! They are made by the process that creates the container: its first process, in a user namespace of its own, has no right to.

use super::{MountError, Overlay, io_error, mount_overlay, options::Options, source_of};
use crate::{
    container::{ContainerError, chain, end_child, ids, kernel},
    host,
    init::channel::{self, Channel, FromInit},
};
use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sys::stat::Mode,
    unistd::{Gid, Uid},
};
use runtime_spec::oci::{LinuxIdMapping, Mount, Spec};
use runtime_sys::{
    mount::{Detached, clone_tree},
    process::{Clone, clone3},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// The shifted trees, attached nowhere.
#[derive(Debug, Default)]
pub struct Mapped {
    /// One for each mount of config.json, where one is asked for.
    mounts: Vec<Option<Detached>>,
    /// The root, where it is an overlay in a user namespace.
    pub root: Option<Detached>,
}

impl Mapped {
    /// The tree for the mount at `index`, once.
    pub fn take(&mut self, index: usize) -> Option<Detached> {
        self.mounts.get_mut(index).and_then(Option::take)
    }
}

/// Makes every idmapped mount, and the overlay of idmapped layers for `root`.
pub fn prepare(
    spec: &Spec,
    bundle: &Path,
    root: &Path,
    overlay: Option<&Overlay>,
) -> Result<Mapped, ContainerError> {
    let mut users = Users::default();
    let mounts = spec.mounts().iter().flatten();
    let mounts =
        mounts.map(|mount| prepare_one(mount, spec, bundle, &mut users)).collect::<Result<_, _>>()?;
    let root = match overlay.filter(|_| host::is_root()).zip(maps_of(spec)) {
        Some((overlay, maps)) => {
            let at = users.with(&maps)?;
            Some(shifted_overlay(overlay, root, users.made[at].1.as_fd(), &maps)?)
        }
        None => None,
    };
    Ok(Mapped { mounts, root })
}

/// The ids of the container's user namespace, if config.json gives them: also of one that it joins.
fn maps_of(spec: &Spec) -> Option<Maps> {
    let linux = spec.linux().as_ref()?;
    let listed = |list: &Option<Vec<LinuxIdMapping>>| list.clone().filter(|list| !list.is_empty());
    Some((listed(linux.uid_mappings())?, listed(linux.gid_mappings())?))
}

/// The overlay, its layers shifted by `maps`: what the image says is root's is root's inside, and what is written lies unshifted in the
/// upper layer. Mounted by the host's root: only to that one does overlayfs show opaque directories, which are `trusted.*` attributes.
///
/// A process between has a mount namespace for it, where each shifted layer hides the unshifted one: overlayfs takes layers by path.
fn shifted_overlay(
    overlay: &Overlay,
    root: &Path,
    users: BorrowedFd<'_>,
    maps: &Maps,
) -> Result<Detached, ContainerError> {
    let (ours, theirs) = channel::pair().map_err(kernel("socketpair"))?;
    match clone3(libc::CLONE_NEWNS, None).map_err(kernel("clone3 with a mount namespace"))? {
        Clone::Child => {
            drop(ours);
            let said = match mount_shifted(overlay, root, users, maps) {
                Ok(made) => theirs.send_mount(made.as_fd()),
                Err(err) => {
                    let message = chain(&refused(err));
                    theirs.send(&FromInit::Failed { code: 1, message })
                }
            };
            std::process::exit(i32::from(said.is_err()));
        }
        Clone::Parent { pidfd, .. } => {
            drop(theirs);
            let made = receive_mount(&ours);
            end_child(&pidfd);
            made
        }
    }
}

fn receive_mount(channel: &Channel) -> Result<Detached, ContainerError> {
    match channel.receive().map_err(kernel("the process that mounts the layers died"))? {
        (FromInit::Mounted, Some(made)) => Ok(Detached::from(made)),
        (FromInit::Failed { code, message }, _) => Err(ContainerError::Init { code, message }),
        _ => Err(kernel("the process that mounts the layers")(io::ErrorKind::InvalidData.into())),
    }
}

fn mount_shifted(
    overlay: &Overlay,
    root: &Path,
    users: BorrowedFd<'_>,
    maps: &Maps,
) -> Result<Detached, MountError> {
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none)
        .map_err(|err| io_error("set the propagation of", Path::new("/"))(err.into()))?;
    // The upper layer and its work directory have to be on one mount.
    let around = overlay.upper.parent().filter(|around| overlay.work.starts_with(around));
    let around = around.ok_or_else(|| {
        let why = "the work directory is to be beside the upper layer";
        io_error("map the ids of", &overlay.upper)(io::Error::new(io::ErrorKind::InvalidInput, why))
    })?;
    for layer in overlay.lower.iter().map(std::path::PathBuf::as_path).chain([around]) {
        shift(layer, users).map_err(unmapped(layer))?;
    }
    act_as(host_id(&maps.0), host_id(&maps.1)).map_err(io_error("make files for", around))?;
    let mounted = mount_overlay(overlay, root).and_then(|()| clone_tree(None, root, false));
    mounted.map_err(|source| MountError::Mount {
        source_name: "overlay".to_owned(),
        target: root.to_path_buf(),
        source,
    })
}

/// Says of a refusal what is behind it.
fn unmapped(path: &Path) -> impl FnOnce(io::Error) -> MountError {
    move |err| {
        let why = match err.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => {
                let why =
                    format!("{err}: its filesystem takes no idmapped mounts, which a user namespace needs");
                io::Error::new(err.kind(), why)
            }
            _ => err,
        };
        io_error("map the ids of", path)(why)
    }
}

/// What is the container's root's on the host.
fn host_id(map: &[LinuxIdMapping]) -> u32 {
    let root = map.iter().find(|part| part.container_id() == 0);
    root.or(map.first()).map_or(0, LinuxIdMapping::host_id)
}

/// Makes files with these ids on the host, and with the rights of this process. overlayfs makes its own files as who mounts it, and the host's root has
/// no place on a shifted mount.
fn act_as(uid: u32, gid: u32) -> io::Result<()> {
    nix::unistd::setfsgid(Gid::from_raw(gid));
    nix::unistd::setfsuid(Uid::from_raw(uid));
    // Those over files went with the ids.
    let permitted = caps::read(None, caps::CapSet::Permitted).map_err(io::Error::other)?;
    caps::set(None, caps::CapSet::Effective, &permitted).map_err(io::Error::other)
}

/// Puts a shifted mount of the directory over itself.
fn shift(dir: &Path, users: BorrowedFd<'_>) -> io::Result<()> {
    let at = open(dir, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let tree = clone_tree(Some(at.as_fd()), Path::new(""), false)?;
    tree.map_ids(users, false)?;
    tree.attach(at.as_fd()).map(drop)
}

fn refused(err: MountError) -> ContainerError {
    ContainerError::from(crate::init::InitError::from(err))
}

/// Ids in the container and on the disk, of users and of groups.
type Maps = (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>);

/// How the owners of a mount are shifted, if they are.
pub fn plan(mount: &Mount, options: &Options, spec: &Spec) -> Result<Option<Maps>, MountError> {
    let own = |list: &Option<Vec<LinuxIdMapping>>| list.clone().filter(|list| !list.is_empty());
    let listed = (own(mount.uid_mappings()), own(mount.gid_mappings()));
    if !options.idmap && listed.0.is_none() && listed.1.is_none() {
        return Ok(None);
    }
    let target = mount.destination();
    let wrong =
        |why: &'static str| MountError::Option { target: target.clone(), option: "idmap".to_owned(), why };
    if !options.bind {
        return Err(wrong("only bind mounts can be mapped"));
    }
    let linux = spec.linux().as_ref();
    let of_container =
        || linux.and_then(|linux| Some((own(linux.uid_mappings())?, own(linux.gid_mappings())?)));
    match listed {
        (Some(uids), Some(gids)) => Ok(Some((uids, gids))),
        (None, None) => of_container()
            .map(Some)
            .ok_or_else(|| wrong("needs uidMappings and gidMappings, of the mount or of a user namespace")),
        _ => Err(wrong("uidMappings and gidMappings go together")),
    }
}

/// User namespaces that mounts are shifted by; most have the same maps.
#[derive(Default)]
struct Users {
    made: Vec<(Maps, OwnedFd)>,
}

impl Users {
    /// Index of the one with these maps, made where it is missing.
    fn with(&mut self, maps: &Maps) -> Result<usize, ContainerError> {
        if let Some(at) = self.made.iter().position(|(made, _)| made == maps) {
            return Ok(at);
        }
        self.made.push((maps.clone(), ids::namespace(&maps.0, &maps.1)?));
        Ok(self.made.len() - 1)
    }
}

fn prepare_one(
    mount: &Mount,
    spec: &Spec,
    bundle: &Path,
    users: &mut Users,
) -> Result<Option<Detached>, ContainerError> {
    let options = Options::of(mount);
    let Some(maps) = plan(mount, &options, spec).map_err(refused)? else { return Ok(None) };
    let at = users.with(&maps)?;
    let users = &users.made[at].1;
    let source = source_of(mount, bundle).map_err(refused)?;
    let map = || -> io::Result<Detached> {
        let tree = clone_tree(None, &source, options.recursive)?;
        tree.map_ids(users.as_fd(), options.recursive_idmap)?;
        Ok(tree)
    };
    map().map(Some).map_err(|err| refused(unmapped(&source)(err)))
}
