//! Reads files of an image through its layers, without mounting them.
//!
//! Follows overlayfs: the uppermost layer that has a name decides, directories merge until one is opaque, a whiteout hides.
//! Symlinks are followed inside the image only; every step is taken from a descriptor and never follows a link by itself.

use crate::{unpack::is_directory, whiteout};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstatat},
};
use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    path::{Component, Path, PathBuf},
    rc::Rc,
};

/// As the kernel's MAXSYMLINKS.
const LINKS_MAX: usize = 40;

/// A directory of the merged tree: its parts in the layers, uppermost first.
type Merged = Rc<Vec<File>>;

enum Found {
    Nothing,
    Directory(Merged),
    Link(OsString),
    File(File),
}

/// Opens the regular file `path` for reading; `None` when the image has none there.
pub(crate) fn open(lower: &[PathBuf], path: &Path) -> io::Result<Option<File>> {
    let roots: Vec<File> = lower.iter().map(File::open).collect::<io::Result<_>>()?;
    let root: Merged = Rc::new(roots);
    let mut above: Vec<Merged> = vec![Rc::clone(&root)];
    let mut names: VecDeque<OsString> = VecDeque::new();
    push_front(&mut names, &mut above, path);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            if above.len() > 1 {
                above.pop();
            }
            continue;
        }
        match lookup(above.last().expect("the root stays"), &name)? {
            Found::Nothing => return Ok(None),
            Found::Directory(dir) => above.push(dir),
            Found::File(file) => return Ok(names.is_empty().then_some(file)),
            Found::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::ELOOP.into());
                }
                push_front(&mut names, &mut above, Path::new(&target));
            }
        }
    }
    Ok(None)
}

/// Puts the names of `path` before those left; an absolute one starts at the root again.
fn push_front(names: &mut VecDeque<OsString>, above: &mut Vec<Merged>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::RootDir => above.truncate(1),
            Component::ParentDir => names.push_front("..".into()),
            Component::Normal(name) => names.push_front(name.to_owned()),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn lookup(dir: &Merged, name: &OsStr) -> io::Result<Found> {
    Ok(match entry(dir, name)? {
        None => Found::Nothing,
        Some(Entry::Directory(parts)) => {
            Found::Directory(Rc::new(parts.into_iter().map(|(_, part)| part).collect()))
        }
        Some(Entry::Other { part, stat }) => match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFLNK => Found::Link(readlinkat(&dir[part], name)?),
            SFlag::S_IFREG => Found::File(open_at(&dir[part], name, OFlag::empty())?),
            _ => Found::Nothing,
        },
    })
}

/// What a merged directory has under one name.
pub(crate) enum Entry {
    /// Its parts, uppermost first, each with the number of the part of the parent that it is in.
    Directory(Vec<(usize, File)>),
    /// Anything else, and the number of the part of the parent that decides.
    Other { part: usize, stat: FileStat },
}

/// Looks `name` up in the directory that is made of `dir`, uppermost first.
pub(crate) fn entry(dir: &[File], name: &OsStr) -> io::Result<Option<Entry>> {
    if whiteout::is_mark(name) {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for (number, layer) in dir.iter().enumerate() {
        if whiteout::is_hidden(layer, name)? {
            break;
        }
        let stat = match fstatat(layer, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => continue,
            stat => stat?,
        };
        if is_directory(&stat) {
            let part = open_at(layer, name, OFlag::O_DIRECTORY)?;
            let opaque = whiteout::is_opaque(&part)?;
            parts.push((number, part));
            if opaque {
                break;
            }
        } else if parts.is_empty() {
            return Ok(Some(Entry::Other { part: number, stat }));
        } else {
            break;
        }
    }
    Ok((!parts.is_empty()).then_some(Entry::Directory(parts)))
}

pub(crate) fn open_at(dir: &File, name: &OsStr, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(openat(dir, name, flags, Mode::empty()).map(File::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whiteout::OPAQUE_XATTR;
    use std::{fs, os::unix::fs::symlink};
    use xattr::FileExt;

    #[test]
    fn the_merged_tree_is_what_overlayfs_shows() {
        let dir = tempfile::tempdir().expect("directory");
        let (up, low) = (dir.path().join("up"), dir.path().join("low"));
        for part in ["up/etc", "up/opaque", "low/etc/sub", "low/opaque", "low/gone"] {
            fs::create_dir_all(dir.path().join(part)).expect("made");
        }
        fs::write(dir.path().join("secret"), "outside").expect("written");
        for (file, text) in [
            ("up/etc/a", "up"),
            ("low/etc/a", "low"),
            ("low/etc/b", "b"),
            ("low/opaque/x", "x"),
            ("low/gone/x", "x"),
        ] {
            fs::write(dir.path().join(file), text).expect("written");
        }
        File::open(up.join("opaque")).expect("open").set_xattr(OPAQUE_XATTR, b"y").expect("needs root");
        nix::sys::stat::mknod(&up.join("gone"), SFlag::S_IFCHR, Mode::empty(), 0).expect("needs root");
        for (link, target) in [
            ("abs", "/etc/b"),
            ("rel", "etc/../etc/sub/../b"),
            ("climb", "../../secret"),
            ("loop", "loop"),
            ("dir", "/etc"),
        ] {
            symlink(target, up.join(link)).expect("linked");
        }
        let lower = [up, low];
        let text = |path: &str| {
            open(&lower, Path::new(path)).map(|file| file.map(|f| io::read_to_string(f).expect("text")))
        };
        let cases = [
            ("/etc/a", Some("up")),
            ("etc/b", Some("b")),
            ("/abs", Some("b")),
            ("/rel", Some("b")),
            ("/dir/b", Some("b")),
            ("/opaque/x", None),
            ("/gone/x", None),
            ("/climb", None),
            ("/etc", None),
            ("/etc/a/b", None),
            ("/none", None),
        ];
        for (path, expected) in cases {
            assert_eq!(text(path).expect(path).as_deref(), expected, "{path}");
        }
        assert!(text("/loop").is_err());
    }
}
