//! Which of the host's users and groups a pod with `hostUsers: false` has: a range of its own, as long as the pod is on the host.
//!
//! On disk: `<state>/pods/<uid>/users`, "FIRST COUNT", written before anything runs with these ids. The files are all there is: an agent that starts
//! anew reads them, and a range is free again when its pod's directory is gone.

use clap::Args;
use runtime_protocol::Ids;
use std::{
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

const FILE: &str = "users";
/// What images and Kubernetes count on: every id of 16 bits.
const PER_POD: u32 = 65536;

#[derive(Clone, Copy, Debug, Args)]
pub struct Options {
    /// Users and groups of this host that pods with hostUsers: false get theirs from, which nobody else may have
    // What systemd's "Users, Groups, UIDs and GIDs" leaves unused, far above /etc/subuid's ranges of ordinary users; room for 1024 pods.
    #[arg(long = "user-ids", default_value = "1879048192:67108864", value_name = "FIRST:COUNT", value_parser = range)]
    range: (u32, u32),
    /// How many of them a pod gets
    #[arg(long = "user-ids-per-pod", default_value_t = PER_POD, value_name = "COUNT")]
    per_pod: u32,
}

fn range(text: &str) -> Result<(u32, u32), String> {
    let numbers =
        text.split_once(':').and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)));
    numbers.ok_or_else(|| "expected FIRST:COUNT, two numbers below 4294967296".to_owned())
}

impl Options {
    /// Errors say what is wrong with which flag.
    pub fn pool(&self) -> Result<Pool, String> {
        let ((first, count), per_pod) = (self.range, self.per_pod);
        if per_pod == 0 || !per_pod.is_multiple_of(PER_POD) {
            return Err(format!("--user-ids-per-pod {per_pod}: it is a multiple of {PER_POD}, and not 0"));
        }
        let end = u64::from(first) + u64::from(count);
        if first < PER_POD || end > u64::from(u32::MAX) {
            return Err(format!(
                "--user-ids {first}:{count}: they lie between {PER_POD} and {}",
                u32::MAX - 1
            ));
        }
        if count < per_pod {
            return Err(format!(
                "--user-ids {first}:{count}: that is not enough for one pod, which gets {per_pod}"
            ));
        }
        Ok(Pool { ids: first..first + count, per_pod, one_at_a_time: Arc::default() })
    }
}

/// The ids that pods get theirs from; cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    ids: Range<u32>,
    per_pod: u32,
    one_at_a_time: Arc<Mutex<()>>,
}

#[derive(Debug, thiserror::Error)]
pub enum UserIdsError {
    #[error(
        "all {pods} ranges of {per_pod} user ids (--user-ids {}:{}) are taken by other pods with hostUsers: false",
        ids.start, ids.len()
    )]
    Exhausted { pods: u32, per_pod: u32, ids: Range<u32> },
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl Pool {
    /// The pod's range, given to it now if it has none; `pods` is the directory of all pods. On disk when it returns. Blocks.
    pub fn assign(&self, pods: &Path, uid: &str) -> Result<Ids, UserIdsError> {
        let _alone = self.one_at_a_time.lock().expect("no panic while locked");
        if let Some(ids) = load(&pods.join(uid))? {
            return Ok(ids);
        }
        let mut taken = Vec::new();
        for entry in fs::read_dir(pods).map_err(io_error("read", pods))? {
            taken.extend(load(&entry.map_err(io_error("read", pods))?.path())?);
        }
        let ids = self.free(&taken).ok_or_else(|| UserIdsError::Exhausted {
            pods: self.ids.len() as u32 / self.per_pod,
            per_pod: self.per_pod,
            ids: self.ids.clone(),
        })?;
        save(&pods.join(uid), ids)?;
        Ok(ids)
    }

    /// The lowest range that shares no id with those taken. Pure.
    fn free(&self, taken: &[Ids]) -> Option<Ids> {
        let pods = self.ids.len() as u32 / self.per_pod;
        let ranges =
            (0..pods).map(|pod| Ids { host: self.ids.start + pod * self.per_pod, count: self.per_pod });
        let apart = |one: &Ids, other: &Ids| {
            let end = |ids: &Ids| u64::from(ids.host) + u64::from(ids.count);
            end(one) <= u64::from(other.host) || end(other) <= u64::from(one.host)
        };
        ranges.into_iter().find(|range| taken.iter().all(|other| apart(range, other)))
    }
}

/// The range of the pod with this directory. Errors: also one that cannot be read, which another pod must not be given.
pub fn load(pod: &Path) -> Result<Option<Ids>, UserIdsError> {
    let path = pod.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(err) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&err.kind()) => {
            return Ok(None);
        }
        text => text.map_err(io_error("read", &path))?,
    };
    let numbers = text.trim().split_once(' ').and_then(|(host, count)| {
        Some(Ids { host: host.parse().ok()?, count: count.parse().ok().filter(|count| *count > 0)? })
    });
    let malformed =
        || io_error("parse", &path)(io::Error::new(io::ErrorKind::InvalidData, format!("{text:?}")));
    numbers.map(Some).ok_or_else(malformed)
}

fn save(pod: &Path, ids: Ids) -> Result<(), UserIdsError> {
    let (path, temporary) = (pod.join(FILE), pod.join("users.new"));
    let write = || -> io::Result<()> {
        fs::create_dir_all(pod)?;
        let mut file = File::create(&temporary)?;
        writeln!(file, "{} {}", ids.host, ids.count)?;
        file.sync_data()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(io_error("write", &path))
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UserIdsError + use<> {
    let path = path.to_path_buf();
    move |source| UserIdsError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(first: u32, count: u32, per_pod: u32) -> Result<Pool, String> {
        Options { range: (first, count), per_pod }.pool()
    }

    #[test]
    fn the_lowest_free_range_is_given() {
        let pool = pool(1 << 20, 3 << 16, 1 << 16).expect("allowed");
        let at = |number: u32| Ids { host: (1 << 20) + (number << 16), count: 1 << 16 };
        let ids = |host: u32, count: u32| Ids { host, count };
        for (name, taken, expected) in [
            ("nothing is taken", vec![], Some(at(0))),
            ("the first is taken", vec![at(0)], Some(at(1))),
            ("one between is free", vec![at(0), at(2)], Some(at(1))),
            ("all are taken", vec![at(2), at(1), at(0)], None),
            ("one given from another pool lies across two", vec![ids((1 << 20) + 5, 1 << 16)], Some(at(2))),
            ("one given from another pool holds all", vec![ids(0, u32::MAX)], None),
            ("neighbours share nothing", vec![ids(0, 1 << 20), ids((1 << 20) + (3 << 16), 1)], Some(at(0))),
        ] {
            assert_eq!(pool.free(&taken), expected, "{name}");
        }
    }

    #[test]
    fn flags_that_cannot_be_are_named() {
        for (first, count, per_pod, expected) in [
            (1 << 20, 1 << 16, 1000, "--user-ids-per-pod 1000"),
            (1 << 20, 1 << 16, 0, "--user-ids-per-pod 0"),
            (1000, 1 << 16, 1 << 16, "between 65536"),
            (u32::MAX - 5, 1 << 16, 1 << 16, "between 65536"),
            (1 << 20, 1 << 16, 1 << 17, "not enough for one pod"),
        ] {
            let refused = pool(first, count, per_pod).expect_err("refused");
            assert!(refused.contains(expected), "{refused}");
        }
        assert!(range("5").is_err() && range("1:x").is_err() && range("65536:4294967296").is_err());
        assert_eq!(range("65536:65536"), Ok((65536, 65536)));
    }

    #[test]
    fn a_range_is_kept_until_the_pod_is_gone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let assign = |uid: &str| pool(1 << 20, 2 << 16, 1 << 16).expect("allowed").assign(dir.path(), uid);
        let first = assign("a").expect("free");
        let second = assign("b").expect("free");
        assert_ne!(first, second);
        assert_eq!(assign("a").expect("its own"), first, "also of another agent");
        let refused = assign("c").expect_err("none is left").to_string();
        assert!(
            refused.starts_with("all 2 ranges of 65536 user ids (--user-ids 1048576:131072)"),
            "{refused}"
        );
        fs::remove_dir_all(dir.path().join("a")).expect("removed");
        assert_eq!(assign("c").expect("free again"), first);
        fs::write(dir.path().join("b").join(FILE), "?").expect("written");
        assert!(assign("d").is_err(), "what cannot be read may be anybody's");
    }
}
