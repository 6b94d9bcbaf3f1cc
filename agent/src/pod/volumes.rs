//! Volumes of a pod: directories below the pod's own, filled before the first container starts and kept up to date.
//!
//! On disk: `<state>/pods/<uid>/volumes/<name>`, and `<run>/pods/<uid>/volumes/<name>` for what is to be forgotten with the memory (secrets; tmpfs for
//! `medium: Memory`). Files of ConfigMaps and Secrets are swapped atomically as kubelet does: `..data` points to a directory of one version.

use super::env::Addresses;
use agent_protocol::{EmptyDirMedium, File, FileContent, HostPathType, Mount, Pod, Volume, VolumeSource};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, PermissionsExt, chown, symlink},
    },
    path::{Component, Path, PathBuf},
};

const DATA: &str = "..data";

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("volume {volume:?} : {message}")]
    Refused { volume: String, message: String },
    #[error("volume {volume:?} : {what} {}", path.display())]
    Io { volume: String, what: &'static str, path: PathBuf, source: io::Error },
}

/// Where a pod's files are.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Lasts: `<state>/pods/<uid>`.
    pub state: PathBuf,
    /// Until reboot: `<run>/pods/<uid>`.
    pub run: PathBuf,
}

impl Dirs {
    /// The directory of a volume that is ours.
    fn volume(&self, volume: &Volume) -> PathBuf {
        let memory = match &volume.source {
            VolumeSource::Files { memory, .. } => *memory,
            VolumeSource::EmptyDir { medium, .. } => *medium == EmptyDirMedium::Memory,
            _ => false,
        };
        if memory { &self.run } else { &self.state }.join("volumes").join(&volume.name)
    }
}

/// Makes every volume, and brings the files of those that are there up to date. Blocks.
pub fn prepare(pod: &Pod, dirs: &Dirs, addresses: Addresses) -> Result<(), VolumeError> {
    pod.volumes.iter().try_for_each(|volume| prepare_one(pod, volume, dirs, addresses))
}

fn prepare_one(pod: &Pod, volume: &Volume, dirs: &Dirs, addresses: Addresses) -> Result<(), VolumeError> {
    let refused = |message: String| VolumeError::Refused { volume: volume.name.clone(), message };
    let dir = dirs.volume(volume);
    let io = |what: &'static str, path: &Path| io_error(volume, what, path);
    match &volume.source {
        VolumeSource::Missing { message } => Err(refused(message.clone())),
        VolumeSource::HostPath { path, kind } => host_path(Path::new(path), *kind).map_err(refused),
        VolumeSource::EmptyDir { medium, size_bytes_max } => {
            if dir.is_dir() {
                return Ok(());
            }
            fs::create_dir_all(&dir).map_err(io("create", &dir))?;
            if *medium == EmptyDirMedium::Memory {
                let data = size_bytes_max.map(|size| format!("size={size}")).unwrap_or_default();
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, Some(data.as_str()))
                    .map_err(|err| io("mount a tmpfs on", &dir)(err.into()))?;
            }
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))
                .map_err(io("set the mode of", &dir))?;
            match pod.fs_group {
                Some(group) => own(&dir, group, 0o2770).map_err(io("chown", &dir)),
                None => Ok(()),
            }
        }
        VolumeSource::Files { files, .. } => {
            fs::create_dir_all(&dir).map_err(io("create", &dir))?;
            write_files(&dir, files, addresses, pod.fs_group).map_err(io("write the files of", &dir))
        }
    }
}

fn own(path: &Path, group: u32, mode: u32) -> io::Result<()> {
    chown(path, None, Some(group))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// One version of the files in a directory of its own, then `..data` swapped to it, then a link for each top-level name.
fn write_files(dir: &Path, files: &[File], addresses: Addresses, group: Option<u32>) -> io::Result<()> {
    let content = |file: &File| match &file.content {
        FileContent::Bytes(bytes) => bytes.clone(),
        FileContent::Field(field) => addresses.field(*field).into_bytes(),
    };
    let same = |file: &File| {
        let path = dir.join(DATA).join(&file.path);
        fs::read(&path).is_ok_and(|bytes| bytes == content(file))
            && fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == file.mode & 0o777)
    };
    let names: Vec<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.is_some() && files.iter().all(same) && count_files(&dir.join(DATA)) == files.len() {
        return Ok(());
    }
    let version = format!("..{}", crate::clock::now_ns());
    let fresh = dir.join(&version);
    fs::create_dir(&fresh)?;
    for file in files {
        if !is_plain(&file.path) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{:?} is not a relative path without ..", file.path),
            ));
        }
        let path = fresh.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(&fresh))?;
        fs::write(&path, content(file))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        if let Some(group) = group {
            own(&path, group, file.mode | 0o040)?;
        }
    }
    let swap = dir.join("..data_tmp");
    remove(&swap)?;
    symlink(&version, &swap)?;
    fs::rename(&swap, dir.join(DATA))?;
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(&name.as_ref()) {
            remove(&entry.path())?;
        }
    }
    for name in names {
        let link = dir.join(name);
        if !link.is_symlink() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    old.map_or(Ok(()), |old| remove(&dir.join(old)))
}

fn count_files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn is_plain(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn host_path(path: &Path, kind: HostPathType) -> Result<(), String> {
    let meta = path.metadata();
    let is = |wanted: fn(&fs::FileType) -> bool| meta.as_ref().is_ok_and(|meta| wanted(&meta.file_type()));
    let made = |result: io::Result<()>| result.map_err(|err| format!("hostPath {}: {err}", path.display()));
    let expected = match kind {
        HostPathType::Any => return Ok(()),
        HostPathType::DirectoryOrCreate if meta.is_err() => return made(fs::create_dir_all(path)),
        HostPathType::FileOrCreate if meta.is_err() => return made(fs::File::create(path).map(drop)),
        HostPathType::Directory | HostPathType::DirectoryOrCreate => {
            (is(fs::FileType::is_dir), "a directory")
        }
        HostPathType::File | HostPathType::FileOrCreate => (is(fs::FileType::is_file), "a file"),
        HostPathType::Socket => (is(FileTypeExt::is_socket), "a socket"),
        HostPathType::CharDevice => (is(FileTypeExt::is_char_device), "a character device"),
        HostPathType::BlockDevice => (is(FileTypeExt::is_block_device), "a block device"),
    };
    if expected.0 {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not {}", path.display(), expected.1))
    }
}

/// Checks that every volume can be shifted to the users of the pod, whose monitor runs. Blocks.
pub fn expect_mappable(pod: &Pod, dirs: &Dirs) -> Result<(), VolumeError> {
    let link = dirs.run.join(runtime_protocol::USERS_FILE);
    for volume in &pod.volumes {
        let users = fs::File::open(&link).map_err(io_error(volume, "open", &link))?;
        let root = root(volume, dirs);
        let mapped = runtime_sys::mount::clone_tree(None, &root, false)
            .and_then(|tree| tree.map_ids(users.as_fd(), false));
        match mapped {
            Err(err) if err.raw_os_error() == Some(nix::errno::Errno::EINVAL as i32) => {
                let message = format!(
                    "{} lies on {}, which takes no idmapped mounts: hostUsers: false needs them",
                    root.display(),
                    filesystem(&root)
                );
                return Err(VolumeError::Refused { volume: volume.name.clone(), message });
            }
            // A hostPath that is not there is told of where it is mounted.
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(volume, "map the ids of", &root)(err));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Name of the filesystem that a path lies on; proc_pid_mountinfo(5).
fn filesystem(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, kind.split(' ').next()?))
    });
    // The last of those on one place is the uppermost.
    let around = mounts.filter(|(at, _)| path.starts_with(at)).max_by_key(|(at, _)| at.len());
    around.map_or_else(|| "a filesystem".to_owned(), |(_, kind)| kind.to_owned())
}

fn root(volume: &Volume, dirs: &Dirs) -> PathBuf {
    match &volume.source {
        VolumeSource::HostPath { path, .. } => PathBuf::from(path),
        _ => dirs.volume(volume),
    }
}

/// The host's path behind a mount of a container; a subPath is followed by descriptor and never leaves the volume. Blocks.
pub fn source(pod: &Pod, wanted: &Mount, dirs: &Dirs) -> Result<(PathBuf, bool), VolumeError> {
    let refused = |message: String| VolumeError::Refused { volume: wanted.volume.clone(), message };
    let volume = pod
        .volumes
        .iter()
        .find(|volume| volume.name == wanted.volume)
        .ok_or_else(|| refused("the pod has no such volume".to_owned()))?;
    let files = matches!(volume.source, VolumeSource::Files { .. });
    let root = root(volume, dirs);
    if wanted.sub_path.is_empty() {
        return Ok((root, files));
    }
    if !is_plain(&wanted.sub_path) {
        return Err(refused(format!("subPath {:?} is not a relative path without ..", wanted.sub_path)));
    }
    let io = |what, path: &Path| io_error(volume, what, path);
    let handle = fs::File::open(&root).map_err(io("open", &root))?;
    let sub_path = Path::new(&wanted.sub_path);
    let flags = nix::fcntl::OFlag::O_PATH;
    let found = match runtime_sys::path::open_in_root(&handle, sub_path, flags) {
        Err(err) if err.kind() == io::ErrorKind::NotFound && !files => {
            runtime_sys::path::make_dirs_in_root(&handle, sub_path)
        }
        found => found,
    };
    let found = found.map_err(io("open the subPath", sub_path))?;
    let own = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found)));
    Ok((fs::read_link(&own).map_err(io("find", sub_path))?, files))
}

/// Takes everything of the pod away; a tmpfs is unmounted first. Blocks.
pub fn clear(dirs: &Dirs) -> io::Result<()> {
    for entry in fs::read_dir(dirs.run.join("volumes")).into_iter().flatten().flatten() {
        unmount(&entry.path())?;
    }
    remove(&dirs.state)?;
    remove(&dirs.run)
}

/// Unmounts as long as something is mounted there.
fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(err) => return Err(err.into()),
        }
    }
}

/// Removes a file or tree; absent is success.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        // What a container has nested deeper than this process has descriptors would stay for ever.
        Ok(meta) if meta.is_dir() => rootfs::remove::tree(path),
        Ok(_) => fs::remove_file(path),
        Err(err) => Err(err),
    };
    match removed {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn io_error(
    volume: &Volume,
    what: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> VolumeError + use<> {
    let (volume, path) = (volume.name.clone(), path.to_path_buf());
    move |source| VolumeError::Io { volume, what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), mode: 0o644, content: FileContent::Bytes(text.as_bytes().to_vec()) }
    }

    #[test]
    fn a_volume_of_any_depth_is_removed() {
        use nix::{
            fcntl::{OFlag, openat},
            sys::stat::{Mode, mkdirat},
        };
        let dir = tempfile::tempdir().expect("temporary directory");
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).expect("made");
        let mut at = std::os::fd::OwnedFd::from(fs::File::open(&volume).expect("opened"));
        for _ in 0..20_000 {
            mkdirat(&at, "d", Mode::S_IRWXU).expect("made");
            at = openat(&at, "d", OFlag::O_PATH, Mode::empty()).expect("opened");
        }
        remove(&volume).expect("removed");
        assert!(!volume.exists());
        remove(&volume).expect("absent is success");
    }

    #[test]
    fn files_are_swapped_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let write = |files: &[File]| write_files(dir.path(), files, Addresses::default(), None);
        write(&[file("a", "1"), file("d/b", "2")]).expect("written");
        let first = fs::read_link(dir.path().join(DATA)).expect("a link");
        write(&[file("a", "1"), file("d/b", "2")]).expect("written");
        assert_eq!(
            fs::read_link(dir.path().join(DATA)).expect("a link"),
            first,
            "nothing changed, nothing swapped"
        );
        write(&[file("a", "3")]).expect("written");
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("read"), "3");
        assert!(!dir.path().join("d").exists() && !dir.path().join(&first).exists());
        assert!(write(&[file("../x", "1")]).is_err());
    }
}
