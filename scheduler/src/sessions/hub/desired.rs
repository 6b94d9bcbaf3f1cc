//! What nodes are sent: the whole state when a session begins, then what changes.

use super::{Hub, on_node};
use crate::{
    controllers::{
        object::Fnv,
        plan::Regarding,
        world::{Changed, Meta, NsName, Pod as PodView, World},
    },
    sessions::{
        fetch::{Surroundings, service_addresses},
        jobs::Job,
        node::parse_cidr,
        service,
    },
};
use agent_protocol::{ClusterConfig, LimitsEnforced, Pod, Service, ToAgent};
use api::Status;
use std::{hash::Hasher, sync::Arc};
use tracing::warn;

impl Hub {
    /// Takes in what changed in the world.
    pub fn changed(&mut self, world: &World, changed: &Changed) {
        match changed {
            Changed::Pod { at, old } => self.pod_changed(world.pods.get(at), old.as_deref()),
            Changed::Node { name, old: Some(_) } if !world.nodes.contains_key(name) => {
                // Its object was deleted: the agent dials again and gets a new one.
                self.sessions.remove(name);
            }
            Changed::Service { at } => {
                self.addresses = None;
                self.service_changed(world, at);
            }
            Changed::Slice { at, service } => {
                self.service_changed(world, &NsName::new(&at.namespace, service));
            }
            Changed::Reference { namespace, reference } => {
                let pods: Vec<&PodView> =
                    world.pods_referring(namespace, reference).filter_map(|at| world.pods.get(at)).collect();
                for pod in pods {
                    self.mark(pod);
                }
            }
            _ => {}
        }
    }

    fn mark(&mut self, pod: &PodView) {
        if let Some(session) = self.sessions.get_mut(&pod.node) {
            session.dirty.insert(pod.meta.uid.clone(), pod.meta.at.clone());
        }
    }

    fn pod_changed(&mut self, new: Option<&PodView>, old: Option<&PodView>) {
        if let Some(old) = old
            && new.is_none_or(|new| new.meta.uid != old.meta.uid || new.node != old.node)
            && !old.node.is_empty()
        {
            if let Some(session) = self.sessions.get_mut(&old.node) {
                session.dirty.remove(&old.meta.uid);
            }
            self.remove(&old.node, &old.meta.uid);
        }
        if let Some(new) = new.filter(|new| !new.node.is_empty()) {
            let same = |old: &PodView| {
                old.meta.uid == new.meta.uid && old.node == new.node && old.desired_hash == new.desired_hash
            };
            if !old.is_some_and(same) {
                self.mark(new);
            }
        }
    }

    fn service_changed(&mut self, world: &World, at: &NsName) {
        let new = service::message(world, at);
        if self.services.get(at) == new.as_ref() {
            return;
        }
        let live = self.sessions.iter().filter(|(_, session)| session.live);
        let nodes: Vec<String> = live.map(|(name, _)| name.clone()).collect();
        for node in &nodes {
            self.send(node, |seq| match &new {
                Some(service) => ToAgent::PutService { seq, service: service.clone() },
                None => {
                    ToAgent::RemoveService { seq, namespace: at.namespace.clone(), name: at.name.clone() }
                }
            });
        }
        match new {
            Some(service) => self.services.insert(at.clone(), service),
            None => self.services.remove(at),
        };
    }

    /// Starts resolving the pods that changed.
    pub fn flush(&mut self, world: &World) {
        let nodes: Vec<String> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.live && !s.dirty.is_empty())
            .map(|(n, _)| n.clone())
            .collect();
        for node in nodes {
            let around = self.surroundings(world, &node);
            let Some(session) = self.sessions.get_mut(&node) else { continue };
            let ready: Vec<String> =
                session.dirty.keys().filter(|uid| !session.resolving.contains(*uid)).cloned().collect();
            for uid in ready {
                let Some(at) = session.dirty.remove(&uid) else { continue };
                session.resolving.insert(uid.clone());
                let (connection, around) = (session.connection, around.clone());
                self.jobs.push(Job::Resolve { connection, uid, at, around });
            }
        }
    }

    fn surroundings(&mut self, world: &World, node: &str) -> Surroundings {
        let addresses = || Arc::new(service_addresses(world));
        Surroundings {
            config: self.config.clone(),
            services: self.addresses.get_or_insert_with(addresses).clone(),
            node: world.nodes.get(node).map(|node| node.allocatable).unwrap_or_default(),
        }
    }

    pub(super) fn registered(&mut self, world: &World, connection: u64, pod_cidr: Result<String, Status>) {
        let Some(node) = self.nodes.get(&connection).cloned() else { return };
        let around = self.surroundings(world, &node);
        let Some(session) = self.sessions.get_mut(&node) else { return };
        let parsed = pod_cidr.as_deref().ok().and_then(parse_cidr);
        let (Ok(text), Some(cidr)) = (&pod_cidr, parsed) else {
            let reason = match &pod_cidr {
                Ok(text) => format!("spec.podCIDR of node {node} is {text:?}, not an IPv4 network"),
                Err(status) => status.to_string(),
            };
            warn!(node, reason, "a node was refused");
            session.outbox.try_send(ToAgent::Refused { reason }).ok();
            self.sessions.remove(&node);
            return;
        };
        session.pod_cidr = Some(text.clone());
        let welcome = ClusterConfig {
            pod_cidr: cidr,
            cluster_cidr: self.config.cluster_cidr,
            service_cidr: self.config.service_cidr,
            dns: self.config.dns,
            domain: self.config.domain.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        session.outbox.try_send(ToAgent::Welcome(welcome)).ok();
        if let LimitsEnforced::Waived { reason } = &session.info.limits {
            let node = Meta { at: NsName::new("", &node), uid: node.clone(), ..Meta::default() };
            let message = format!("pods with limits run without them: {reason}");
            let note = Regarding::new("v1", "Node", &node).warning("kubelet", "LimitsUnenforced", message);
            self.recorder.record(Some(note));
        }
        session.dirty.clear();
        let pods = world.pods_on(&node).map(|pod| (pod.meta.uid.clone(), pod.meta.at.clone())).collect();
        self.jobs.push(Job::Collect { connection, pods, around });
        self.report_node(&node);
    }

    pub(super) fn collected(&mut self, world: &World, connection: u64, pods: Result<Vec<Pod>, Status>) {
        let Some(node) = self.nodes.get(&connection).cloned() else { return };
        let pods = match pods {
            Ok(pods) => pods,
            Err(status) => {
                warn!(node, error = %status, "a node's pods could not be read");
                self.sessions.remove(&node);
                return;
            }
        };
        self.send(&node, |seq| ToAgent::SyncBegin { seq });
        for pod in pods.into_iter().filter(|pod| on_node(world, &pod.uid, &node).is_some()) {
            self.send_pod(&node, Box::new(pod));
        }
        let services: Vec<Service> = self.services.values().cloned().collect();
        for service in services {
            self.send(&node, |seq| ToAgent::PutService { seq, service });
        }
        self.send(&node, |seq| ToAgent::SyncEnd { seq });
        if let Some(session) = self.sessions.get_mut(&node) {
            session.live = true;
        }
    }

    pub(super) fn resolved(
        &mut self,
        world: &World,
        connection: u64,
        uid: &str,
        pod: Result<Option<Box<Pod>>, Status>,
    ) {
        let Some(node) = self.nodes.get(&connection).cloned() else { return };
        if let Some(session) = self.sessions.get_mut(&node) {
            session.resolving.remove(uid);
        }
        let known = on_node(world, uid, &node);
        match pod {
            Ok(Some(pod)) if known.is_some() => self.send_pod(&node, pod),
            Ok(_) => {}
            Err(status) => {
                warn!(node, pod.uid = uid, error = %status, "a pod could not be read");
                if let Some(pod) = known {
                    self.mark(pod);
                }
            }
        }
    }

    /// Sends a pod unless the node has it just so.
    fn send_pod(&mut self, node: &str, pod: Box<Pod>) {
        let fingerprint = fingerprint(&pod);
        let Some(session) = self.sessions.get_mut(node) else { return };
        if session.sent.insert(pod.uid.clone(), fingerprint) != Some(fingerprint) {
            self.send(node, |seq| ToAgent::PutPod { seq, pod });
        }
    }
}

/// Of all of a pod but its revision.
fn fingerprint(pod: &Pod) -> u64 {
    let mut hasher = Fnv::default();
    let bare = Pod { revision: 0, ..pod.clone() };
    hasher.write(&codec::to_bytes(&bare).unwrap_or_default());
    hasher.finish()
}
