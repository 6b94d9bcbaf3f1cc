//! Which controllers have to look again after a change.

use super::world::{Changed, NsName, ObjectKey, Pod, ReplicaSet, World};
use std::collections::BTreeSet;

/// One object to be looked at by one controller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    Node(String),
    ReplicaSet(NsName),
    Deployment(NsName),
    Endpoints(NsName),
    PodGc(NsName),
    Garbage(ObjectKey),
    Namespace(String),
}

/// Adds to `tasks` what `changed` concerns.
pub fn affected(world: &World, changed: &Changed, tasks: &mut BTreeSet<Task>) {
    match changed {
        Changed::Pod { at, old } => pod_changed(world, at, old.as_deref(), tasks),
        Changed::Node { name, old } => {
            tasks.insert(Task::Node(name.clone()));
            if world.nodes.contains_key(name) != old.is_some() {
                tasks.extend(world.pods_on(name).map(|pod| Task::PodGc(pod.meta.at.clone())));
            }
        }
        Changed::ReplicaSet { at, old } => {
            tasks.insert(Task::ReplicaSet(at.clone()));
            replica_set_owners(world, world.replica_sets.get(at), tasks);
            replica_set_owners(world, old.as_deref(), tasks);
        }
        Changed::Deployment { at } => {
            tasks.insert(Task::Deployment(at.clone()));
        }
        Changed::Service { at } => {
            tasks.insert(Task::Endpoints(at.clone()));
        }
        Changed::Slice { at, service } => {
            tasks.insert(Task::Endpoints(NsName::new(&at.namespace, service)));
        }
        Changed::Namespace { name } => {
            tasks.insert(Task::Namespace(name.clone()));
        }
        Changed::Object(key) => {
            tasks.insert(Task::Garbage(key.clone()));
        }
        Changed::Reference { .. } => {}
    }
}

/// Every task there can be: after a start.
pub fn all(world: &World) -> BTreeSet<Task> {
    let mut tasks = BTreeSet::new();
    tasks.extend(world.nodes.keys().cloned().map(Task::Node));
    tasks.extend(world.replica_sets.keys().cloned().map(Task::ReplicaSet));
    tasks.extend(world.deployments.keys().cloned().map(Task::Deployment));
    tasks.extend(world.services.keys().cloned().map(Task::Endpoints));
    tasks.extend(world.pods.keys().cloned().map(Task::PodGc));
    tasks.extend(world.namespaces.keys().cloned().map(Task::Namespace));
    tasks.extend(world.dependents.keys().cloned().map(Task::Garbage));
    tasks
}

fn pod_changed(world: &World, at: &NsName, old: Option<&Pod>, tasks: &mut BTreeSet<Task>) {
    let new = world.pods.get(at);
    for pod in old.into_iter().chain(new) {
        match pod.meta.controller() {
            Some(owner) if owner.kind == "ReplicaSet" => {
                tasks.insert(Task::ReplicaSet(NsName::new(&at.namespace, &owner.name)));
            }
            Some(_) => {}
            None => {
                let sets = world.replica_sets_in(&at.namespace);
                let matching = sets.filter(|set| set.selector.matches(&pod.meta.labels));
                tasks.extend(matching.map(|set| Task::ReplicaSet(set.meta.at.clone())));
            }
        }
    }
    if new.is_none_or(Pod::is_finished) {
        let owner = old.and_then(|pod| pod.meta.controller());
        let set = owner.and_then(|o| world.replica_sets.get(&NsName::new(&at.namespace, &o.name)));
        replica_set_owners(world, set, tasks);
    }
    if old.map(answers) != new.map(answers) {
        let selects = |pod: &Pod, service: &super::world::Service| {
            service.selector.as_ref().is_some_and(|selector| selector.matches(&pod.meta.labels))
        };
        let services = world.services_in(&at.namespace);
        let services = services.filter(|s| old.into_iter().chain(new).any(|pod| selects(pod, s)));
        tasks.extend(services.map(|service| Task::Endpoints(service.meta.at.clone())));
    }
    let Some(pod) = new else { return };
    match world.nodes.get(&pod.node) {
        Some(node) if node.ready != "True" || node.taints.iter().any(|t| t.effect == "NoExecute") => {
            tasks.insert(Task::Node(pod.node.clone()));
        }
        Some(_) => {}
        None if !pod.node.is_empty() || pod.meta.is_deleting() => {
            tasks.insert(Task::PodGc(at.clone()));
        }
        None => {}
    }
}

/// What of a pod a Service's endpoints depend on.
fn answers(pod: &Pod) -> impl PartialEq + use<'_> {
    let finished = pod.is_finished();
    (&pod.ips, pod.ready, finished, pod.meta.is_deleting(), &pod.node, &pod.meta.labels, &pod.meta.uid)
}

fn replica_set_owners(world: &World, set: Option<&ReplicaSet>, tasks: &mut BTreeSet<Task>) {
    let Some(set) = set else { return };
    let namespace = &set.meta.at.namespace;
    match set.meta.controller() {
        Some(owner) if owner.kind == "Deployment" => {
            tasks.insert(Task::Deployment(NsName::new(namespace, &owner.name)));
        }
        Some(_) => {}
        None => {
            let matching = world.deployments_in(namespace).filter(|d| d.selector.matches(&set.meta.labels));
            tasks.extend(matching.map(|deployment| Task::Deployment(deployment.meta.at.clone())));
        }
    }
}
