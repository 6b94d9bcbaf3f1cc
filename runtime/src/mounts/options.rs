//! Mount options of config.json (config.md, "Mounts") as flags and filesystem data.

use super::MountError;
use runtime_spec::oci::Mount;
use runtime_sys::mount::Attributes;
use std::path::Path;

/// What a list of options asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub bind: bool,
    /// `rbind`.
    pub recursive: bool,
    pub attributes: Attributes,
    /// `rro` and the like: for the mounts below, too.
    pub recursive_attributes: bool,
    /// `idmap` or `ridmap`: owners are shifted; with the second those of the mounts below, too.
    pub idmap: bool,
    pub recursive_idmap: bool,
    /// A tmpfs starts with what the image has in its place.
    pub copy_up: bool,
    /// For the filesystem: `("size", Some("64k"))`.
    pub data: Vec<(String, Option<String>)>,
}

/// Name, attribute to set, attribute to clear.
const FLAGS: [(&str, u64, u64); 20] = [
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
    ("defaults", 0, 0),
    ("async", 0, 0),
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
/// About filesystems' superblocks, as mount(8) has them.
const SUPERBLOCK: [&str; 4] = ["sync", "dirsync", "lazytime", "silent"];
const UNSUPPORTED: [&str; 4] = ["remount", "mand", "iversion", "loud"];

/// Every option that is not the filesystem's own, for `features`.
pub fn names() -> Vec<String> {
    let flags = FLAGS.iter().map(|(name, ..)| *name);
    let recursive =
        FLAGS.iter().filter(|(_, set, clear)| set | clear != 0).map(|(name, ..)| format!("r{name}"));
    let others = ["bind", "rbind", "idmap", "ridmap", "tmpcopyup"].into_iter().chain(SUPERBLOCK);
    let plain = flags.chain(PROPAGATIONS.iter().map(|(name, _)| *name)).chain(others).map(str::to_owned);
    let mut names: Vec<String> = plain.chain(recursive).collect();
    names.sort();
    names
}

impl Options {
    /// Those of a mount of config.json; its type can say that it is a bind mount, too.
    pub fn of(mount: &Mount) -> Result<Self, MountError> {
        let mut options = Self::parse(mount.destination(), mount.options().as_deref().unwrap_or_default())?;
        options.bind |= mount.typ().as_deref() == Some("bind");
        Ok(options)
    }

    /// Reads the options of the mount on `target`.
    pub fn parse(target: &Path, words: &[String]) -> Result<Self, MountError> {
        let mut options = Self::default();
        for word in words {
            options.add(word).map_err(|why| MountError::Option {
                target: target.to_path_buf(),
                option: word.clone(),
                why,
            })?;
        }
        Ok(options)
    }

    fn add(&mut self, word: &str) -> Result<(), &'static str> {
        if UNSUPPORTED.contains(&word) {
            return Err("is not supported");
        }
        if word == "bind" || word == "rbind" {
            self.bind = true;
            self.recursive |= word == "rbind";
        } else if word == "idmap" || word == "ridmap" {
            self.idmap = true;
            self.recursive_idmap |= word == "ridmap";
        } else if word == "tmpcopyup" {
            self.copy_up = true;
        } else if let Some(&(_, set, clear)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            self.attribute(set, clear);
        } else if let Some(&(_, flags)) = PROPAGATIONS.iter().find(|(name, _)| *name == word) {
            self.attributes.propagation = flags & !libc::MS_REC;
            self.recursive_attributes |= flags & libc::MS_REC != 0;
        } else if let Some(&(_, set, clear)) =
            FLAGS.iter().find(|(name, ..)| word.strip_prefix('r').is_some_and(|word| word == *name))
        {
            self.attribute(set, clear);
            self.recursive_attributes = true;
        } else {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value.to_owned())));
            self.data.push((name.to_owned(), value));
        }
        Ok(())
    }

    /// The last word about an attribute counts.
    fn attribute(&mut self, set: u64, clear: u64) {
        self.attributes.set = self.attributes.set & !clear | set;
        self.attributes.clear = self.attributes.clear & !set | clear;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Options::parse(Path::new("/x"), &words).expect("valid")
    }

    #[test]
    fn words_become_flags_and_data() {
        let options = parse(&["nosuid", "size=64k", "newinstance", "ro"]);
        assert_eq!(options.attributes.set, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_RDONLY);
        let data = [("size".to_owned(), Some("64k".to_owned())), ("newinstance".to_owned(), None)];
        assert_eq!(options.data, data);
        let options = parse(&["rbind", "rslave", "rro"]);
        assert!(options.bind && options.recursive && options.recursive_attributes);
        assert_eq!(options.attributes.propagation, libc::MS_SLAVE);
        assert_eq!(parse(&["ro", "rw"]).attributes.set, 0, "the last word counts");
        assert!(Options::parse(Path::new("/x"), &["remount".to_owned()]).is_err());
    }
}
