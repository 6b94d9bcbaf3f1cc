//! Which cgroup a container gets, and from whom.

use super::{ContainerError, CreateOptions, Record};
use crate::{
    cgroup::{self, Cgroup, CgroupError, Scope, limits},
    device_rules, host,
};
use runtime_spec::oci::{LinuxResources, Spec};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where a container's processes are counted and limited.
pub enum Place {
    /// A directory that we make; the first process is born in it.
    Own(PathBuf),
    /// A scope that systemd makes around the first process.
    Systemd(Scope),
    /// None can be had, and nothing needs one: an ordinary user without a delegated cgroup.
    Nowhere,
}

impl Place {
    /// By `linux.cgroupsPath`, the options and what this user may.
    pub fn choose(options: &CreateOptions<'_>, spec: &Spec) -> Result<Self, ContainerError> {
        let listed = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref());
        let listed = listed.filter(|path| !path.as_os_str().is_empty());
        if options.systemd_cgroup {
            let text = match listed {
                Some(path) => path.display().to_string(),
                None => format!(":wherry:{}", options.id),
            };
            let annotations = spec.annotations().iter().flatten();
            return Ok(Self::Systemd(Scope::parse(&text)?.with_properties(annotations)?));
        }
        if host::is_root() {
            let default = || Path::new("/wherry-runtime").join(options.id.as_ref());
            return Ok(Self::Own(cgroup::absolute(&listed.cloned().unwrap_or_else(default))?));
        }
        let path = match listed {
            Some(path) => cgroup::absolute(path)?,
            None => own_cgroup()?.join(format!("wherry-runtime-{}", options.id)),
        };
        let parent = path.ancestors().skip(1).find(|dir| dir.is_dir());
        let writable = |dir: &Path| nix::unistd::access(dir, nix::unistd::AccessFlags::W_OK).is_ok();
        match resources(spec).map(asks).transpose()? {
            _ if parent.is_some_and(writable) => Ok(Self::Own(path)),
            Some(true) => Err(CgroupError::Io {
                what: "linux.resources: this user has no right to make the",
                path,
                source: io::ErrorKind::PermissionDenied.into(),
            }
            .into()),
            _ => Ok(Self::Nowhere),
        }
    }

    /// What `delete` is to remove, known before anything is made.
    pub fn path(&self) -> Result<PathBuf, ContainerError> {
        match self {
            Self::Own(path) => Ok(path.clone()),
            Self::Systemd(scope) => Ok(cgroup::absolute(&scope.path())?),
            Self::Nowhere => Ok(PathBuf::new()),
        }
    }

    /// Makes the group to be born in, limited; `None`: it comes later, or never.
    pub fn prepare(&self, spec: &Spec) -> Result<Option<Cgroup>, ContainerError> {
        let Self::Own(path) = self else { return Ok(None) };
        let group = Cgroup::create(path)?;
        if let Some(resources) = resources(spec) {
            group.limit(resources)?;
        }
        Ok(Some(group))
    }

    /// While the first process sets itself up: keeps devices from what it will run; moves it where systemd has it, and limits it there.
    pub fn join(&self, record: &mut Record, spec: &Spec) -> Result<(), ContainerError> {
        let scope = match self {
            Self::Own(path) => return devices(&Cgroup::at(path), spec),
            Self::Systemd(scope) => scope,
            Self::Nowhere => return Ok(()),
        };
        let listed = resources(spec).map(limits::properties).transpose()?.unwrap_or_default();
        record.cgroup = cgroup::absolute(&scope.start(record.pid, record.id.as_ref(), &listed)?)?;
        let group = Cgroup::at(&record.cgroup);
        if let Some(resources) = resources(spec) {
            group.limit(resources)?;
        }
        devices(&group, spec)
    }
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
}

fn asks(resources: &LinuxResources) -> Result<bool, CgroupError> {
    let unified = resources.unified().iter().flatten().next().is_some();
    Ok(unified || limits::of(resources)?.iter().any(|limit| !limit.is_none()))
}

fn devices(group: &Cgroup, spec: &Spec) -> Result<(), ContainerError> {
    let listed = resources(spec).and_then(|resources| resources.devices().as_deref());
    match device_rules::apply(group, listed) {
        // An ordinary user cannot make nodes either, so there is nothing to keep away from.
        Err(CgroupError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied && !host::is_root() =>
        {
            Ok(())
        }
        applied => Ok(applied?),
    }
}

/// The directory of the cgroup that this process is in.
fn own_cgroup() -> Result<PathBuf, ContainerError> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(cgroup::absolute(Path::new(own))?)
}
