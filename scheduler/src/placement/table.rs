//! What is used on each node, kept up to date pod by pod.

use crate::controllers::world::{Pod, amount::Amounts, pod::HostPort};
use std::collections::{BTreeMap, HashMap};

/// What scoring takes for a container that asks for nothing, as Kubernetes does.
const DEFAULT_CPU_MILLIS: u64 = 100;
const DEFAULT_MEMORY_BYTES: u64 = 200 << 20;

#[derive(Default)]
pub struct Table {
    rows: BTreeMap<String, Row>,
    charges: HashMap<String, Charge>,
}

/// One node's sums.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub used: Amounts,
    /// As `used`, with a default for pods that ask for nothing.
    pub weighed: Amounts,
    pub ports: Vec<HostPort>,
    /// Pods by their controller's uid.
    pub owners: HashMap<String, u64>,
}

/// What one pod takes on one node.
#[derive(Clone, Debug, PartialEq)]
struct Charge {
    node: String,
    requests: Amounts,
    ports: Vec<HostPort>,
    owner: Option<String>,
    /// Decided here, not yet seen in the world.
    assumed: bool,
}

impl Table {
    pub fn put_node(&mut self, name: &str) {
        self.rows.entry(name.to_owned()).or_default();
    }

    /// Forgets a node. Its pods keep their charges until they go, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        if self.charges.values().all(|charge| charge.node != name) {
            self.rows.remove(name);
        }
    }

    pub fn row(&self, node: &str) -> Option<&Row> {
        self.rows.get(node)
    }

    /// Takes in a pod as it is in the world; `None`: it is gone.
    pub fn pod_changed(&mut self, uid: &str, pod: Option<&Pod>) {
        let charge = pod.filter(|pod| !pod.is_finished() && !pod.node.is_empty());
        let charge = charge.map(|pod| Charge::new(pod, &pod.node, false));
        let waits = pod.is_some_and(|pod| pod.is_active() && pod.node.is_empty());
        match (self.charges.get(uid), &charge) {
            (Some(current), None) if current.assumed && waits => {}
            (Some(current), Some(new)) if current.is_like(new) => {
                if let Some(current) = self.charges.get_mut(uid) {
                    current.assumed = false;
                }
            }
            _ => self.set(uid, charge),
        }
    }

    /// Counts a pod on a node before its binding is in the world.
    pub fn assume(&mut self, pod: &Pod, node: &str) {
        self.set(&pod.meta.uid, Some(Charge::new(pod, node, true)));
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.charges.get(uid).is_some_and(|charge| charge.assumed)
    }

    /// Takes back [`Table::assume`].
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.set(uid, None);
        }
    }

    fn set(&mut self, uid: &str, new: Option<Charge>) {
        let old = match new {
            Some(new) => {
                self.rows.entry(new.node.clone()).or_default().add(&new);
                self.charges.insert(uid.to_owned(), new)
            }
            None => self.charges.remove(uid),
        };
        if let Some(old) = old
            && let Some(row) = self.rows.get_mut(&old.node)
        {
            row.subtract(&old);
        }
    }
}

impl Charge {
    fn new(pod: &Pod, node: &str, assumed: bool) -> Self {
        Self {
            node: node.to_owned(),
            requests: pod.placement.requests,
            ports: pod.placement.host_ports.clone(),
            owner: pod.meta.controller().map(|owner| owner.uid.clone()),
            assumed,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.node, self.requests, &self.ports, &self.owner)
            == (&other.node, other.requests, &other.ports, &other.owner)
    }
}

impl Row {
    fn add(&mut self, charge: &Charge) {
        self.used = self.used.plus(charge.requests);
        self.weighed = self.weighed.plus(weighed(charge.requests));
        self.ports.extend(charge.ports.iter().cloned());
        if let Some(owner) = &charge.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
    }

    fn subtract(&mut self, charge: &Charge) {
        self.used = self.used.minus(charge.requests);
        self.weighed = self.weighed.minus(weighed(charge.requests));
        for port in &charge.ports {
            if let Some(index) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(index);
            }
        }
        if let Some(owner) = &charge.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

/// What a pod weighs when nodes are compared.
pub fn weighed(requests: Amounts) -> Amounts {
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    Amounts {
        cpu_millis: or(requests.cpu_millis, DEFAULT_CPU_MILLIS),
        memory_bytes: or(requests.memory_bytes, DEFAULT_MEMORY_BYTES),
        ..requests
    }
}
