//! Mount options of config.json (config.md, "Mounts") as flags and filesystem data.

use runtime_spec::oci::Mount;
use runtime_sys::mount::{Attributes, set_attributes};
use std::{io, os::fd::BorrowedFd};

/// What a list of options asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub bind: bool,
    /// `rbind`.
    pub recursive: bool,
    /// Changes a mount that is there.
    pub remount: bool,
    /// Of this mount.
    attributes: Attributes,
    /// `rro` and the like: of this mount and those below.
    recursive_attributes: Attributes,
    /// `MS_SHARED` and the like, with `MS_REC` for the mounts below, too; 0 leaves it.
    propagation: u64,
    /// `idmap` or `ridmap`: owners are shifted; with the second those of the mounts below, too.
    pub idmap: bool,
    pub recursive_idmap: bool,
    /// A tmpfs starts with what the image has in its place.
    pub copy_up: bool,
    /// For the filesystem: `("size", Some("64k"))`.
    pub data: Vec<(String, Option<String>)>,
}

/// Name, attribute to set, attribute to clear.
const FLAGS: [(&str, u64, u64); 18] = [
    ("ro", libc::MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, libc::MOUNT_ATTR_RDONLY),
    ("nosuid", libc::MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, libc::MOUNT_ATTR_NOSUID),
    ("nodev", libc::MOUNT_ATTR_NODEV, 0),
    ("dev", 0, libc::MOUNT_ATTR_NODEV),
    ("noexec", libc::MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, libc::MOUNT_ATTR_NOEXEC),
    ("nodiratime", libc::MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, libc::MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, libc::MOUNT_ATTR_NOSYMFOLLOW),
    ("noatime", libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME),
    ("relatime", libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR__ATIME),
    ("strictatime", libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME),
    ("atime", libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR__ATIME),
    ("norelatime", 0, 0),
    ("nostrictatime", 0, 0),
];
const PROPAGATIONS: [(&str, u64); 8] = [
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
    ("unbindable", libc::MS_UNBINDABLE),
    ("runbindable", libc::MS_UNBINDABLE | libc::MS_REC),
];
/// About filesystems' superblocks, as mount(8) has them: the kernel is told.
const SUPERBLOCK: [&str; 4] = ["sync", "dirsync", "lazytime", "mand"];
/// What is so anyway, or only about messages of the kernel.
/// Of `iversion` the mount API of descriptors knows nothing: filesystems that count versions do so unasked, ext4 from Linux 6.1 on.
const NO_EFFECT: [&str; 8] =
    ["async", "defaults", "iversion", "loud", "noiversion", "nolazytime", "nomand", "silent"];

/// Every option that is not the filesystem's own, for `features`.
pub fn names() -> Vec<String> {
    let flags = FLAGS.iter().map(|(name, ..)| *name);
    let recursive = FLAGS.iter().map(|(name, ..)| format!("r{name}"));
    let others = ["bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"].into_iter();
    let others = others.chain(SUPERBLOCK).chain(NO_EFFECT);
    let plain = flags.chain(PROPAGATIONS.iter().map(|(name, _)| *name)).chain(others).map(str::to_owned);
    let mut names: Vec<String> = plain.chain(recursive).collect();
    names.sort();
    names
}

impl Options {
    /// Those of a mount of config.json; its type can say that it is a bind mount, too.
    pub fn of(mount: &Mount) -> Self {
        let mut options = Self::default();
        mount.options().iter().flatten().for_each(|word| options.add(word));
        options.bind |= mount.typ().as_deref() == Some("bind");
        options
    }

    fn add(&mut self, word: &str) {
        if NO_EFFECT.contains(&word) {
        } else if word == "bind" || word == "rbind" {
            self.bind = true;
            self.recursive |= word == "rbind";
        } else if word == "remount" {
            self.remount = true;
        } else if word == "idmap" || word == "ridmap" {
            self.idmap = true;
            self.recursive_idmap |= word == "ridmap";
        } else if word == "tmpcopyup" {
            self.copy_up = true;
        } else if let Some(&(_, set, clear)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            change(&mut self.attributes, set, clear);
        } else if let Some(&(_, flags)) = PROPAGATIONS.iter().find(|(name, _)| *name == word) {
            self.propagation = flags;
        } else if let Some(&(_, set, clear)) =
            FLAGS.iter().find(|(name, ..)| word.strip_prefix('r').is_some_and(|word| word == *name))
        {
            change(&mut self.recursive_attributes, set, clear);
        } else {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value.to_owned())));
            self.data.push((name.to_owned(), value));
        }
    }

    /// For a filesystem that is made: its flags; propagation comes after.
    pub fn flags(&self) -> u64 {
        self.attributes.set | self.recursive_attributes.set
    }

    /// Gives a mount its flags and propagation: those of this mount alone, then those of the mounts below, too.
    pub fn shape(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        self.change(mount, self.attributes, self.recursive_attributes)
    }

    /// Gives a mount that was made with its flags its propagation.
    pub fn propagate(&self, mount: BorrowedFd<'_>) -> io::Result<()> {
        self.change(mount, Attributes::default(), Attributes::default())
    }

    fn change(&self, mount: BorrowedFd<'_>, own: Attributes, below: Attributes) -> io::Result<()> {
        let (mut own, mut below) = (own, below);
        let of = if self.propagation & libc::MS_REC == 0 { &mut own } else { &mut below };
        of.propagation = self.propagation & !libc::MS_REC;
        for (attributes, recursive) in [(own, false), (below, true)] {
            if attributes != Attributes::default() {
                set_attributes(mount, attributes, recursive)?;
            }
        }
        Ok(())
    }
}

/// `linux.rootfsPropagation`: `MS_SHARED` and the like; 0 where it says nothing.
pub fn propagation(word: Option<&str>) -> u64 {
    PROPAGATIONS.iter().find(|(name, _)| word == Some(*name)).map_or(0, |&(_, flags)| flags)
}

/// The last word about an attribute counts.
fn change(attributes: &mut Attributes, set: u64, clear: u64) {
    attributes.set = attributes.set & !clear | set;
    attributes.clear = attributes.clear & !set | clear;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        let mut options = Options::default();
        words.iter().for_each(|word| options.add(word));
        options
    }

    #[test]
    fn words_become_flags_and_data() {
        let options = parse(&["nosuid", "size=64k", "newinstance", "ro"]);
        assert_eq!(options.attributes.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_RDONLY);
        let data = [("size".to_owned(), Some("64k".to_owned())), ("newinstance".to_owned(), None)];
        assert_eq!(options.data, data);
        let options = parse(&["rbind", "rslave", "rro"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.propagation, libc::MS_SLAVE | libc::MS_REC);
        assert_eq!(options.recursive_attributes.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(options.attributes, Attributes::default());
        assert_eq!(parse(&["ro", "rw"]).attributes.set, 0, "the last word counts");
        assert_eq!(parse(&["iversion", "noiversion"]), Options::default());
    }
}
