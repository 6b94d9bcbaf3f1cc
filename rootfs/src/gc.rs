//! Garbage collection of images: by disk thresholds as kubelet does it, and on demand.
//!
//! Semantics: kubelet `pkg/kubelet/images/image_gc_manager.go`. At `high_percent` of the disk in use, images go, least recently used first, until
//! `low_percent` is reached; never one in use, never one that came or was used within `minimum_age_s`. Unlike kubelet's, the plan counts what
//! a removal really frees: layers that no other image has. An image whose removal would free nothing stays.
//!
//! Invariants: an image's record goes before its layers, so that no known image lacks one; a crash in between leaves layers without an image,
//! which opening the store removes. The image that comes with the library stays: nothing could bring it back before the next start.

use crate::{HELLO_IMAGE, ImageError, ImageStore, error::io_error, image::Record};
use std::collections::{BTreeMap, BTreeSet};

/// When images go and which may. Percents are of the disk that holds the store, in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// 100 never removes anything.
    pub high_percent: u8,
    pub low_percent: u8,
    pub minimum_age_s: u64,
}

/// Size and free space (for unprivileged users, as kubelet counts) of the filesystem, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Digests and names of what was removed.
    pub removed: Vec<(String, Vec<String>)>,
    /// Disk that the removed layers took.
    pub freed_bytes: u64,
    /// What was to be freed; 0 below the threshold.
    pub wanted_bytes: u64,
}

/// An image as the plan sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    digest: String,
    diff_ids: BTreeSet<String>,
    last_wanted_s: u64,
    /// A container is made from it, or it is part of the library.
    in_use: bool,
    named: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Digests, in the order of removal.
    remove: Vec<String>,
    frees_bytes: u64,
    wanted_bytes: u64,
}

impl ImageStore {
    /// Removes images if the disk is as full as `policy` says. `used` are digests of images that containers are made from. Blocks.
    pub fn collect(&self, policy: Policy, used: &[String], now_s: u64) -> Result<Collected, ImageError> {
        let wanted_bytes = wanted(self.disk()?, policy);
        if wanted_bytes == 0 {
            return Ok(Collected::default());
        }
        let candidates = self.candidates(used);
        let layers = self.measure(&candidates)?;
        let plan = plan(&candidates, &layers, wanted_bytes, now_s.saturating_sub(policy.minimum_age_s));
        let removed = self.remove_all(&candidates, &plan.remove)?;
        Ok(Collected { wanted_bytes, ..self.freed(removed, &candidates, &layers) })
    }

    /// Removes images that nothing uses: those without a name, or with `all` every one. Blocks.
    pub fn prune(&self, all: bool, used: &[String]) -> Result<Collected, ImageError> {
        let candidates = self.candidates(used);
        let layers = self.measure(&candidates)?;
        let doomed: Vec<String> = candidates
            .iter()
            .filter(|image| !image.in_use && (all || !image.named))
            .map(|image| image.digest.clone())
            .collect();
        let removed = self.remove_all(&candidates, &doomed)?;
        Ok(self.freed(removed, &candidates, &layers))
    }

    /// Of the filesystem that holds the store.
    pub fn disk(&self) -> Result<Disk, ImageError> {
        let root = &self.inner.root;
        let stat =
            nix::sys::statvfs::statvfs(root).map_err(|err| io_error("ask the size of", root)(err.into()))?;
        Ok(Disk {
            capacity_bytes: stat.blocks() * stat.fragment_size(),
            available_bytes: stat.blocks_available() * stat.fragment_size(),
        })
    }

    fn candidates(&self, used: &[String]) -> Vec<Candidate> {
        let images = self.inner.images.lock().expect("no panic while locked");
        let candidate = |record: &Record| Candidate {
            digest: record.digest.clone(),
            diff_ids: record.diff_ids.iter().cloned().collect(),
            last_wanted_s: self.last_wanted_s(&record.digest),
            named: !record.names.is_empty(),
            in_use: used.contains(&record.digest) || record.names.iter().any(|name| name == HELLO_IMAGE),
        };
        images.values().map(candidate).collect()
    }

    /// Bytes of every layer of the images.
    fn measure(&self, images: &[Candidate]) -> Result<BTreeMap<String, u64>, ImageError> {
        let ids: BTreeSet<&String> = images.iter().flat_map(|image| &image.diff_ids).collect();
        ids.into_iter().map(|id| Ok((id.clone(), self.layer_bytes(id)?))).collect()
    }

    /// Removes images, then the layers that nothing refers to. What a container began to use since it was `seen` stays.
    fn remove_all(
        &self,
        seen: &[Candidate],
        digests: &[String],
    ) -> Result<Vec<(String, Vec<String>)>, ImageError> {
        let unchanged = |digest: &String| {
            let now = self.last_wanted_s(digest);
            seen.iter().any(|image| image.digest == *digest && image.last_wanted_s == now)
        };
        let mut removed = Vec::new();
        {
            let mut images = self.inner.images.lock().expect("no panic while locked");
            for digest in digests.iter().filter(|digest| unchanged(digest)) {
                if let Some(record) = images.get(digest) {
                    removed.push((digest.clone(), record.names.clone()));
                    self.forget(&mut images, digest)?;
                }
            }
        }
        self.remove_unused_layers()?;
        Ok(removed)
    }

    /// Counts the layers of removed images that are really gone.
    fn freed(
        &self,
        removed: Vec<(String, Vec<String>)>,
        images: &[Candidate],
        layers: &BTreeMap<String, u64>,
    ) -> Collected {
        let of_removed: BTreeSet<&String> = images
            .iter()
            .filter(|image| removed.iter().any(|(digest, _)| *digest == image.digest))
            .flat_map(|image| &image.diff_ids)
            .collect();
        let gone = of_removed.into_iter().filter(|id| !self.has_layer(id));
        let freed_bytes = gone.filter_map(|id| layers.get(id)).sum();
        Collected { removed, freed_bytes, wanted_bytes: 0 }
    }
}

/// Bytes to free: nothing below `high_percent` in use, else what is missing to `low_percent`.
fn wanted(disk: Disk, policy: Policy) -> u64 {
    let Disk { capacity_bytes, available_bytes } = disk;
    if policy.high_percent >= 100 || capacity_bytes == 0 {
        return 0;
    }
    let (capacity, available) = (u128::from(capacity_bytes), u128::from(available_bytes));
    let used_percent = 100u128.saturating_sub(available * 100 / capacity);
    if used_percent < u128::from(policy.high_percent) {
        return 0;
    }
    let free_at_low = capacity * 100u128.saturating_sub(policy.low_percent.into()) / 100;
    u64::try_from(free_at_low.saturating_sub(available)).unwrap_or(u64::MAX)
}

/// Which images to remove to free `wanted_bytes`, least recently wanted first.
///
/// - `layers`: bytes of each layer.
/// - `before_s`: only what was last wanted by then may go.
/// - Frees less than was wanted when there is not more that may go. Pure.
fn plan(images: &[Candidate], layers: &BTreeMap<String, u64>, wanted_bytes: u64, before_s: u64) -> Plan {
    let mut users: BTreeMap<&str, u32> = BTreeMap::new();
    for id in images.iter().flat_map(|image| &image.diff_ids) {
        *users.entry(id).or_default() += 1;
    }
    let mut eligible: Vec<&Candidate> =
        images.iter().filter(|image| !image.in_use && image.last_wanted_s <= before_s).collect();
    eligible.sort_by_key(|image| (image.last_wanted_s, &image.digest));
    let (mut chosen, mut gone, mut frees_bytes) = (Vec::new(), BTreeSet::new(), 0u64);
    for image in eligible {
        if frees_bytes >= wanted_bytes {
            break;
        }
        for id in &image.diff_ids {
            let left = users.get_mut(id.as_str()).expect("counted above");
            *left -= 1;
            if *left == 0 {
                gone.insert(id);
                frees_bytes += layers.get(id).copied().unwrap_or(0);
            }
        }
        chosen.push(image);
    }
    // One whose layers all stay because of others would be lost for nothing.
    chosen.retain(|image| {
        image.diff_ids.iter().any(|id| gone.contains(id) && layers.get(id).is_some_and(|bytes| *bytes > 0))
    });
    Plan { remove: chosen.iter().map(|image| image.digest.clone()).collect(), frees_bytes, wanted_bytes }
}

#[cfg(test)]
mod tests;
