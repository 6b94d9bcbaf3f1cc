//! Bind mounts whose owners are shifted: `uidMappings` and `gidMappings` of a mount, `idmap` and `ridmap`; mount_setattr(2) `MOUNT_ATTR_IDMAP`.
//!
//! They are made by the process that creates the container: its first process, in a user namespace of its own, has no right to.

use super::{MountError, io_error, options::Options, source_of};
use crate::container::{ContainerError, ids};
use runtime_spec::oci::{LinuxIdMapping, Mount, Spec};
use runtime_sys::mount::{Detached, clone_tree};
use std::{io, os::fd::AsFd, path::Path};

/// One for each mount of config.json: the shifted tree, where one is asked for.
#[derive(Debug, Default)]
pub struct Mapped(Vec<Option<Detached>>);

impl Mapped {
    /// The tree for the mount at `index`, once.
    pub fn take(&mut self, index: usize) -> Option<Detached> {
        self.0.get_mut(index).and_then(Option::take)
    }
}

/// Makes every idmapped mount, attached nowhere.
pub fn prepare(spec: &Spec, bundle: &Path) -> Result<Mapped, ContainerError> {
    let mounts = spec.mounts().iter().flatten();
    mounts.map(|mount| prepare_one(mount, spec, bundle)).collect::<Result<_, _>>().map(Mapped)
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

fn prepare_one(mount: &Mount, spec: &Spec, bundle: &Path) -> Result<Option<Detached>, ContainerError> {
    let refused = |err: MountError| ContainerError::from(crate::init::InitError::from(err));
    let options = Options::of(mount).map_err(refused)?;
    let Some((uids, gids)) = plan(mount, &options, spec).map_err(refused)? else { return Ok(None) };
    let users = ids::namespace(&uids, &gids)?;
    let source = source_of(mount, bundle).map_err(refused)?;
    let map = || -> io::Result<Detached> {
        let tree = clone_tree(None, &source, options.recursive)?;
        tree.map_ids(users.as_fd(), options.recursive_idmap)?;
        Ok(tree)
    };
    map().map(Some).map_err(|err| refused(io_error("map the ids of", &source)(err)))
}
