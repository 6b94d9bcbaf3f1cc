//! The new ReplicaSet, the numbers of revisions, and how many old ones are kept.

use super::{
    API_VERSION, COMPONENT, KIND,
    rollout::{DESIRED_REPLICAS, MAX_REPLICAS, Rollout, Set},
};
use crate::controllers::{
    object::{Fnv, safe_encode},
    plan::{Delete, Part, Patch, Write, owned_by},
    world::{ReplicaSet, resource, workload::POD_TEMPLATE_HASH},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, hash::Hasher, sync::Arc};

const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";

/// Annotations of a Deployment that its ReplicaSets do not get a copy of.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

impl Rollout<'_> {
    /// Gives the new ReplicaSet its revision and annotations; makes it if `create` and there is none.
    pub fn sync_revision(&mut self, create: bool) {
        let newest_old = (0..self.sets.len())
            .filter(|&index| Some(index) != self.new)
            .map(|index| revision_of(&self.sets[index].rs.annotations))
            .max();
        let next = newest_old.unwrap_or_default() + 1;
        match self.new {
            Some(new) => {
                self.update_new(new, next);
                let revision = self.sets[new].rs.annotations.get(REVISION).cloned();
                self.set_deployment_revision(revision);
                self.note_found(new);
            }
            None if create => {
                self.create_new(next);
                self.set_deployment_revision(Some(next.to_string()));
            }
            None => {}
        }
    }

    fn update_new(&mut self, new: usize, next: i64) {
        let set = &mut self.sets[new];
        let mut wanted = copied(&self.deployment.annotations);
        let have = set.rs.annotations.get(REVISION).cloned();
        let had = revision_of(&set.rs.annotations);
        if had < next {
            wanted.insert(REVISION.to_owned(), next.to_string());
            if let Some(have) = have {
                let history = set.rs.annotations.get(REVISION_HISTORY).filter(|text| !text.is_empty());
                let history = history.map_or(have.clone(), |history| format!("{history},{have}"));
                wanted.insert(REVISION_HISTORY.to_owned(), history);
            }
        }
        wanted.retain(|key, value| set.rs.annotations.get(key) != Some(value));
        let min_ready = self.deployment.min_ready_s;
        if wanted.is_empty() && set.rs.min_ready_s == min_ready {
            return;
        }
        let mut merge = json!({"metadata": {"annotations": wanted}});
        if set.rs.min_ready_s != min_ready {
            merge["spec"] = json!({"minReadySeconds": min_ready});
        }
        set.rs.annotations.extend(wanted);
        let patch = Patch::new(resource::REPLICA_SETS, &set.rs.meta, Part::Main, merge);
        self.plan.push(patch);
    }

    fn set_deployment_revision(&mut self, revision: Option<String>) {
        let Some(revision) = revision else { return };
        if self.deployment.annotations.get(REVISION) != Some(&revision) {
            let merge = json!({"metadata": {"annotations": {REVISION: revision}}});
            self.plan.push(Patch::new(resource::DEPLOYMENTS, &self.deployment.meta, Part::Main, merge));
        }
    }

    fn create_new(&mut self, revision: i64) {
        let Some(hash) = self.free_hash() else { return };
        let replicas = self.new_replicas(0);
        let object = self.new_object(&hash, revision, replicas);
        let rs = ReplicaSet::parse(&object, 0, Arc::default());
        let name = rs.meta.at.name.clone();
        let note = (replicas > 0).then(|| {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.regarding().normal(COMPONENT, "ScalingReplicaSet", message)
        });
        self.plan.writes.push(Write::Create { resource: resource::REPLICA_SETS, object, note });
        self.new = Some(self.sets.len());
        self.sets.push(Set { replicas, rs });
        let message = format!("Created new replica set \"{name}\"");
        self.progress("True", "NewReplicaSetCreated", message);
    }

    /// The template's hash as text. A ReplicaSet of that name that is not ours or has another template makes it
    /// count a collision and take another hash.
    fn free_hash(&mut self) -> Option<String> {
        for _ in 0..16 {
            let mut hasher = Fnv::default();
            hasher.write(&self.deployment.template_hash.to_le_bytes());
            if let Some(collisions) = self.collisions {
                hasher.write(&collisions.to_le_bytes());
            }
            let hash = safe_encode(hasher.finish() & u64::from(u32::MAX));
            let name = format!("{}-{hash}", self.deployment.meta.at.name);
            if self.taken.iter().all(|taken| taken.name != name) {
                return Some(hash);
            }
            self.collisions = Some(self.collisions.unwrap_or_default() + 1);
        }
        None
    }

    fn new_object(&self, hash: &str, revision: i64, replicas: i64) -> Value {
        let deployment = self.deployment.object();
        let spec = &deployment["spec"];
        let mut template = spec["template"].clone();
        template["metadata"]["labels"][POD_TEMPLATE_HASH] = hash.into();
        let mut selector = spec["selector"].clone();
        selector["matchLabels"][POD_TEMPLATE_HASH] = hash.into();
        let mut annotations = copied(&self.deployment.annotations);
        let max = self.deployment.replicas + self.fence.max_surge;
        annotations.insert(REVISION.to_owned(), revision.to_string());
        annotations.insert(DESIRED_REPLICAS.to_owned(), self.deployment.replicas.to_string());
        annotations.insert(MAX_REPLICAS.to_owned(), max.to_string());
        let meta = &self.deployment.meta;
        let mut set_spec = json!({"replicas": replicas, "selector": selector, "template": template});
        if self.deployment.min_ready_s > 0 {
            set_spec["minReadySeconds"] = self.deployment.min_ready_s.into();
        }
        json!({
            "apiVersion": API_VERSION,
            "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{}-{hash}", meta.at.name),
                "namespace": meta.at.namespace,
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": owned_by(API_VERSION, KIND, meta),
            },
            "spec": set_spec,
        })
    }

    /// Deletes the oldest revisions beyond `revisionHistoryLimit` that have no pods.
    pub fn remove_old_revisions(&mut self) {
        let limit = self.deployment.history_limit;
        let mut old: Vec<&Set> = (0..self.sets.len())
            .filter(|&index| Some(index) != self.new)
            .map(|index| &self.sets[index])
            .filter(|set| !set.rs.meta.is_deleting())
            .collect();
        let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        old.sort_by_key(|set| revision_of(&set.rs.annotations));
        let removable = old.into_iter().take(excess).filter(|set| {
            set.replicas == 0
                && set.rs.replicas == 0
                && set.rs.status.replicas == 0
                && set.rs.meta.generation <= set.rs.status.observed_generation
        });
        let deletes: Vec<Write> =
            removable.map(|set| Delete::new(resource::REPLICA_SETS, &set.rs.meta).into()).collect();
        self.plan.writes.extend(deletes);
    }
}

fn revision_of(annotations: &BTreeMap<String, String>) -> i64 {
    annotations.get(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn copied(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut annotations = annotations.clone();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    annotations
}
