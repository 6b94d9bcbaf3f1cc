//! The snapshot that controllers, placement and sessions decide from: every object that matters, parsed once per
//! change into small structs, with the indexes they ask for.
//!
//! Fed by one watch over the whole store, in order, so it is always the state at one revision ([`World::revision`]),
//! only perhaps a little old. Whoever wrote at revision R and waits until the world has reached R has therefore seen
//! its own writes and everything before them: this replaces Kubernetes' per-controller expectations.
//!
//! Invariants: indexes hold exactly the objects of the maps; nothing outside this module changes either.

pub mod amount;
mod dependents;
pub mod meta;
pub mod network;
pub mod node;
pub mod pod;
pub mod selector;
pub mod workload;

pub use dependents::{Dependent, Dependents};
pub use meta::{Meta, NsName, ObjectKey, Owner};
pub use network::{Endpoint, EndpointSlice, Service, ServicePort, SlicePort};
pub use node::{Node, Taint};
pub use pod::{Phase, Pod, Reference};
pub use selector::Selector;
pub use workload::{Condition, Deployment, ReplicaSet, RollingUpdate};

use crate::controllers::object::text;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Resource names as the store's keys have them.
pub mod resource {
    pub const PODS: &str = "pods";
    pub const NODES: &str = "nodes";
    pub const NAMESPACES: &str = "namespaces";
    pub const SERVICES: &str = "services";
    pub const CONFIG_MAPS: &str = "configmaps";
    pub const SECRETS: &str = "secrets";
    pub const EVENTS: &str = "events";
    pub const REPLICA_SETS: &str = "replicasets.apps";
    pub const DEPLOYMENTS: &str = "deployments.apps";
    pub const ENDPOINT_SLICES: &str = "endpointslices.discovery.k8s.io";
    pub const LEASES: &str = "leases.coordination.k8s.io";
}

/// What one change did to the world; `old` is what was there before.
#[derive(Debug)]
pub enum Changed {
    Pod {
        at: NsName,
        old: Option<Box<Pod>>,
    },
    Node {
        name: String,
        old: Option<Box<Node>>,
    },
    ReplicaSet {
        at: NsName,
        old: Option<Box<ReplicaSet>>,
    },
    Deployment {
        at: NsName,
    },
    Service {
        at: NsName,
    },
    Slice {
        at: NsName,
        service: String,
    },
    Namespace {
        name: String,
    },
    Reference {
        namespace: String,
        reference: Reference,
    },
    /// Something for the garbage collector to look at.
    Object(ObjectKey),
}

/// A namespace that is on its way out, or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    pub meta: Meta,
    /// `spec.finalizers` still holds `kubernetes`.
    pub finalizer: bool,
}

#[derive(Debug, Default)]
pub struct World {
    /// Everything up to this revision of the store is in.
    pub revision: u64,
    pub pods: BTreeMap<NsName, Pod>,
    pub nodes: BTreeMap<String, Node>,
    pub replica_sets: BTreeMap<NsName, ReplicaSet>,
    pub deployments: BTreeMap<NsName, Deployment>,
    pub services: BTreeMap<NsName, Service>,
    pub slices: BTreeMap<NsName, EndpointSlice>,
    pub namespaces: BTreeMap<String, Namespace>,
    pub dependents: Dependents,
    pods_by_node: HashMap<String, BTreeSet<NsName>>,
    pods_by_uid: HashMap<String, NsName>,
    pods_by_reference: HashMap<(String, Reference), BTreeSet<NsName>>,
}

impl World {
    /// Takes in one change: `value` is the object's JSON, `None` when it was deleted.
    pub fn apply(&mut self, key: &str, revision: u64, value: Option<&Arc<[u8]>>) -> Vec<Changed> {
        self.revision = self.revision.max(revision);
        let Some(key) = ObjectKey::parse(key) else { return Vec::new() };
        if key.resource == resource::EVENTS || key.resource == "events.events.k8s.io" {
            return Vec::new();
        }
        let object: Option<Value> = value.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let mut changed: Vec<Changed> = Vec::new();
        changed
            .extend(self.dependents.apply(&key, revision, object.as_ref()).into_iter().map(Changed::Object));
        let namespace = key.at.namespace.clone();
        changed.extend(self.apply_typed(key, revision, object.as_ref(), value));
        if value.is_none() && self.namespaces.get(&namespace).is_some_and(|n| n.meta.is_deleting()) {
            changed.push(Changed::Namespace { name: namespace });
        }
        changed
    }

    fn apply_typed(
        &mut self,
        key: ObjectKey,
        revision: u64,
        object: Option<&Value>,
        raw: Option<&Arc<[u8]>>,
    ) -> Option<Changed> {
        let (at, raw) = (key.at, raw.cloned().unwrap_or_default());
        Some(match key.resource.as_str() {
            resource::PODS => {
                let old = self.put_pod(&at, object.map(|o| Pod::parse(o, revision)));
                Changed::Pod { at, old: old.map(Box::new) }
            }
            resource::NODES => {
                let old = put(&mut self.nodes, &at.name, object.map(|o| Node::parse(o, revision)));
                Changed::Node { name: at.name, old: old.map(Box::new) }
            }
            resource::REPLICA_SETS => {
                let new = object.map(|o| ReplicaSet::parse(o, revision, raw));
                let old = put(&mut self.replica_sets, &at, new);
                Changed::ReplicaSet { at, old: old.map(Box::new) }
            }
            resource::DEPLOYMENTS => {
                put(&mut self.deployments, &at, object.map(|o| Deployment::parse(o, revision, raw)));
                Changed::Deployment { at }
            }
            resource::SERVICES => {
                put(&mut self.services, &at, object.map(|o| Service::parse(o, revision)));
                Changed::Service { at }
            }
            resource::ENDPOINT_SLICES => {
                let old = put(&mut self.slices, &at, object.map(|o| EndpointSlice::parse(o, revision)));
                let service = self.slices.get(&at).or(old.as_ref()).map(|slice| slice.service.clone());
                Changed::Slice { at, service: service.unwrap_or_default() }
            }
            resource::NAMESPACES => {
                put(&mut self.namespaces, &at.name, object.map(|o| Namespace::parse(o, revision)));
                Changed::Namespace { name: at.name }
            }
            resource::CONFIG_MAPS => {
                Changed::Reference { namespace: at.namespace, reference: Reference::ConfigMap(at.name) }
            }
            resource::SECRETS => {
                Changed::Reference { namespace: at.namespace, reference: Reference::Secret(at.name) }
            }
            _ => return None,
        })
    }

    fn put_pod(&mut self, at: &NsName, new: Option<Pod>) -> Option<Pod> {
        if let Some(pod) = &new {
            self.pods_by_node.entry(pod.node.clone()).or_default().insert(at.clone());
            self.pods_by_uid.insert(pod.meta.uid.clone(), at.clone());
        }
        let old = self.pods.remove(at);
        let references = |pod: Option<&Pod>| pod.map(|pod| pod.references.clone()).unwrap_or_default();
        let (had, has) = (references(old.as_ref()), references(new.as_ref()));
        for reference in had.difference(&has) {
            drop_from(&mut self.pods_by_reference, &(at.namespace.clone(), reference.clone()), at);
        }
        for reference in has.difference(&had) {
            let key = (at.namespace.clone(), reference.clone());
            self.pods_by_reference.entry(key).or_default().insert(at.clone());
        }
        if let Some(old) = &old {
            if new.as_ref().is_none_or(|new| new.node != old.node) {
                drop_from(&mut self.pods_by_node, &old.node, at);
            }
            if new.as_ref().is_none_or(|new| new.meta.uid != old.meta.uid) {
                self.pods_by_uid.remove(&old.meta.uid);
            }
        }
        if let Some(pod) = new {
            self.pods.insert(at.clone(), pod);
        }
        old
    }

    /// Pods bound to a node; the empty name: those bound to none.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Pod> {
        self.pods_by_node.get(node).into_iter().flatten().filter_map(|at| self.pods.get(at))
    }

    pub fn pod_by_uid(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(self.pods_by_uid.get(uid)?)
    }

    /// Pods that refer to a ConfigMap or Secret.
    pub fn pods_referring(&self, namespace: &str, reference: &Reference) -> impl Iterator<Item = &NsName> {
        self.pods_by_reference.get(&(namespace.to_owned(), reference.clone())).into_iter().flatten()
    }

    pub fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        within(&self.pods, namespace)
    }

    pub fn replica_sets_in(&self, namespace: &str) -> impl Iterator<Item = &ReplicaSet> {
        within(&self.replica_sets, namespace)
    }

    pub fn deployments_in(&self, namespace: &str) -> impl Iterator<Item = &Deployment> {
        within(&self.deployments, namespace)
    }

    pub fn services_in(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        within(&self.services, namespace)
    }

    pub fn slices_of(&self, service: &NsName) -> impl Iterator<Item = &EndpointSlice> {
        within(&self.slices, &service.namespace).filter(|slice| slice.service == service.name)
    }
}

impl Namespace {
    fn parse(object: &Value, revision: u64) -> Self {
        let finalizers = crate::controllers::object::items(&object["spec"]["finalizers"]);
        Self {
            meta: Meta::parse(object, revision),
            finalizer: finalizers.iter().any(|name| text(name) == "kubernetes"),
        }
    }
}

fn within<'a, T>(map: &'a BTreeMap<NsName, T>, namespace: &str) -> impl Iterator<Item = &'a T> {
    let namespace = namespace.to_owned();
    map.range(NsName::new(&namespace, "")..)
        .take_while(move |(at, _)| at.namespace == namespace)
        .map(|(_, object)| object)
}

fn put<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    }
}

fn drop_from<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<NsName>>, key: &K, at: &NsName) {
    if let Some(set) = map.get_mut(key) {
        set.remove(at);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
