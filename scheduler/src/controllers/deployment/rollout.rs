//! One pass's working state, and the ways from the old ReplicaSets to the new one.

use super::{
    COMPONENT, KIND,
    scale::{Fenceposts, Share, fenceposts, proportional},
};
use crate::controllers::{
    plan::{Part, Patch, Plan, Regarding},
    world::{Condition, Deployment, NsName, Phase, ReplicaSet, World, resource},
};
use serde_json::json;

/// Annotations of a ReplicaSet: the Deployment's size when it was last scaled.
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// A ReplicaSet and the size this pass gives it.
pub(super) struct Set {
    pub rs: ReplicaSet,
    pub replicas: i64,
}

impl Set {
    /// Its size was changed, and how many pods it has for that is not known yet.
    fn is_settling(&self) -> bool {
        self.rs.meta.generation > self.rs.status.observed_generation
    }

    /// Available pods that are left once the set has come down to its size; its status may not know that size yet.
    fn available(&self) -> i64 {
        self.rs.status.available.min(self.replicas)
    }
}

pub(super) struct Rollout<'a> {
    pub deployment: &'a Deployment,
    pub now_s: i64,
    /// By creation, oldest first.
    pub sets: Vec<Set>,
    /// Index in `sets` of the one that has the Deployment's template.
    pub new: Option<usize>,
    pub fence: Fenceposts,
    pub conditions: Vec<Condition>,
    pub collisions: Option<i64>,
    pub plan: Plan,
    /// ReplicaSet names of the namespace that are taken by others.
    pub taken: Vec<NsName>,
}

impl<'a> Rollout<'a> {
    pub fn new(world: &World, deployment: &'a Deployment, sets: Vec<&ReplicaSet>, now_s: i64) -> Self {
        let mut sets: Vec<Set> =
            sets.into_iter().map(|rs| Set { replicas: rs.replicas, rs: rs.clone() }).collect();
        sets.sort_by(|a, b| (a.rs.meta.created_s, &a.rs.meta.at).cmp(&(b.rs.meta.created_s, &b.rs.meta.at)));
        let new = sets.iter().position(|set| set.rs.template_hash == deployment.template_hash);
        let none = Fenceposts { max_surge: 0, max_unavailable: 0 };
        let rolling = deployment.rolling.as_ref();
        Self {
            deployment,
            now_s,
            new,
            fence: rolling.map_or(none, |rolling| fenceposts(rolling, deployment.replicas)),
            conditions: deployment.status.conditions.clone(),
            collisions: deployment.status.collisions,
            plan: Plan::default(),
            taken: world
                .replica_sets_in(&deployment.meta.at.namespace)
                .filter(|rs| sets.iter().all(|set| set.rs.meta.uid != rs.meta.uid))
                .map(|rs| rs.meta.at.clone())
                .chain(sets.iter().map(|set| set.rs.meta.at.clone()))
                .collect(),
            sets,
        }
    }

    pub fn regarding(&self) -> Regarding {
        Regarding::new(super::API_VERSION, KIND, &self.deployment.meta)
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |&index| Some(index) != new)
    }

    pub fn total(&self) -> i64 {
        self.sets.iter().map(|set| set.replicas).sum()
    }

    /// Pods there may be now: a set that was made smaller counts with the pods it still has.
    fn present(&self) -> i64 {
        self.sets.iter().map(|set| set.replicas.max(set.rs.status.replicas)).sum()
    }

    /// The size a new ReplicaSet may have now.
    pub fn new_replicas(&self, current: i64) -> i64 {
        let wanted = self.deployment.replicas;
        if self.deployment.rolling.is_none() {
            return wanted;
        }
        if self.old().any(|index| self.sets[index].is_settling()) {
            return current;
        }
        let room = wanted + self.fence.max_surge - self.present();
        if room <= 0 { current } else { current + room.min(wanted - current) }
    }

    /// A size was asked for that some live ReplicaSet does not know of yet.
    pub fn is_scaling(&self) -> bool {
        self.sets.iter().filter(|set| set.replicas > 0).any(|set| {
            let desired = set.rs.annotations.get(DESIRED_REPLICAS).and_then(|text| text.parse::<i64>().ok());
            desired.is_some_and(|desired| desired != self.deployment.replicas)
        })
    }

    /// Gives a set its new size; true when that is a change.
    pub fn scale(&mut self, index: usize, replicas: i64) -> bool {
        let max = self.deployment.replicas + self.fence.max_surge;
        let annotations = [(DESIRED_REPLICAS, self.deployment.replicas), (MAX_REPLICAS, max)];
        let set = &mut self.sets[index];
        let resized = set.replicas != replicas;
        let stale = annotations
            .iter()
            .any(|(key, value)| set.rs.annotations.get(*key).map(String::as_str) != Some(&value.to_string()));
        if !resized && !stale {
            return false;
        }
        let mut merge = json!({"metadata": {"annotations": {}}});
        for (key, value) in annotations {
            merge["metadata"]["annotations"][key] = value.to_string().into();
            set.rs.annotations.insert(key.to_owned(), value.to_string());
        }
        if resized {
            merge["spec"] = json!({"replicas": replicas});
        }
        let direction = if replicas > set.replicas { "up" } else { "down" };
        let name = &set.rs.meta.at.name;
        let message = format!("Scaled {direction} replica set {name} from {} to {replicas}", set.replicas);
        set.replicas = replicas;
        let patch = Patch::new(resource::REPLICA_SETS, &set.rs.meta, Part::Main, merge);
        let note = resized.then(|| self.regarding().normal(COMPONENT, "ScalingReplicaSet", message));
        self.plan.push(Patch { note, ..patch });
        resized
    }

    /// A paused Deployment, or one whose size changed: sizes follow, the rollout itself does not go on.
    pub fn resize(&mut self) {
        self.sync_revision(false);
        let wanted = self.deployment.replicas;
        let mut active: Vec<usize> =
            (0..self.sets.len()).filter(|&index| self.sets[index].replicas > 0).collect();
        if active.len() <= 1 {
            if let Some(index) = active.first().copied().or(self.new).or_else(|| self.old().last()) {
                self.scale(index, wanted);
            }
            return;
        }
        if self.new.is_some_and(|new| self.is_saturated(new)) {
            for index in self.old().filter(|index| active.contains(index)) {
                self.scale(index, 0);
            }
            return;
        }
        if self.deployment.rolling.is_none() {
            return;
        }
        let growing = wanted + self.fence.max_surge > self.total();
        active.sort_by(|&a, &b| {
            let newer = if growing { b.cmp(&a) } else { a.cmp(&b) };
            self.sets[b].replicas.cmp(&self.sets[a].replicas).then(newer)
        });
        let shares: Vec<Share> = active.iter().map(|&index| self.share(index)).collect();
        let sizes = proportional(&shares, wanted, self.fence.max_surge, self.deployment.status.replicas);
        for (index, size) in active.into_iter().zip(sizes) {
            self.scale(index, size);
        }
    }

    fn share(&self, index: usize) -> Share {
        let set = &self.sets[index];
        let max_before = set.rs.annotations.get(MAX_REPLICAS).and_then(|text| text.parse().ok());
        Share { replicas: set.replicas, max_before }
    }

    fn is_saturated(&self, new: usize) -> bool {
        let (set, wanted) = (&self.sets[new], self.deployment.replicas);
        let desired = set.rs.annotations.get(DESIRED_REPLICAS).and_then(|text| text.parse::<i64>().ok());
        set.replicas == wanted && desired == Some(wanted) && set.rs.status.available == wanted
    }

    /// Rolling update: grow the new one, else shrink the old ones, else finish.
    pub fn roll(&mut self) {
        self.sync_revision(true);
        if let Some(new) = self.new {
            let current = self.sets[new].replicas;
            let size = if current > self.deployment.replicas {
                self.deployment.replicas
            } else {
                self.new_replicas(current)
            };
            let grown = size != current && self.scale(new, size);
            if !grown && !self.shrink_old(new) && self.is_complete() {
                self.remove_old_revisions();
            }
        }
        self.write_status(true);
    }

    /// Waits for every set to know its size: one that was made smaller and larger again has lost pods since its status.
    fn shrink_old(&mut self, new: usize) -> bool {
        if self.sets.iter().any(Set::is_settling) {
            return false;
        }
        let old: Vec<usize> = self.old().filter(|&index| self.sets[index].replicas > 0).collect();
        let min_available = self.deployment.replicas - self.fence.max_unavailable;
        let new_set = &self.sets[new];
        let new_unavailable = new_set.replicas - new_set.available();
        let mut room = self.total() - min_available - new_unavailable;
        if old.is_empty() || room <= 0 {
            return false;
        }
        let mut sizes: Vec<i64> = old.iter().map(|&index| self.sets[index].replicas).collect();
        for (size, &index) in sizes.iter_mut().zip(&old) {
            let unhealthy = *size - self.sets[index].available();
            let drop = unhealthy.min(room).max(0);
            room -= drop;
            *size -= drop;
        }
        let available: i64 = self.sets.iter().map(Set::available).sum();
        let mut surplus = available - min_available;
        for size in &mut sizes {
            let drop = (*size).min(surplus).max(0);
            surplus -= drop;
            *size -= drop;
        }
        let shrunk = old
            .into_iter()
            .zip(sizes)
            .map(|(index, size)| size != self.sets[index].replicas && self.scale(index, size));
        shrunk.fold(false, |any, one| any | one)
    }

    /// Recreate: everything old goes before anything new comes.
    pub fn recreate(&mut self, world: &World) {
        self.sync_revision(false);
        let active: Vec<usize> = self.old().filter(|&index| self.sets[index].replicas > 0).collect();
        let any_active = !active.is_empty();
        for index in active {
            self.scale(index, 0);
        }
        if !any_active && !self.old_pods_left(world) {
            if self.new.is_none() {
                self.sync_revision(true);
            }
            if let Some(new) = self.new {
                let wanted = self.deployment.replicas;
                if self.sets[new].replicas != wanted {
                    self.scale(new, wanted);
                }
            }
            if self.is_complete() {
                self.remove_old_revisions();
            }
        }
        self.write_status(true);
    }

    fn old_pods_left(&self, world: &World) -> bool {
        self.old().any(|index| {
            let uid = &self.sets[index].rs.meta.uid;
            self.sets[index].rs.status.replicas > 0
                || world
                    .pods_in(&self.deployment.meta.at.namespace)
                    .filter(|pod| pod.meta.is_controlled_by(uid))
                    .any(|pod| !matches!(pod.phase, Phase::Succeeded | Phase::Failed))
        })
    }
}
