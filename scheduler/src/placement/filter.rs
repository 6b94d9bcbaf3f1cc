//! Where a pod may run, and in Kubernetes' words why not elsewhere.

use super::table::{Row, Table};
use crate::controllers::{
    node_lifecycle::tolerates,
    world::{Node, Pod, Taint, World, pod::HostPort},
};
use std::collections::BTreeMap;

/// Nodes that passed every filter, and why the others did not.
pub struct Verdict<'a> {
    pub fitting: Vec<&'a Node>,
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl Verdict<'_> {
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "))
    }
}

/// Sorts the world's nodes into those that can take the pod and the rest.
pub fn fitting<'a>(world: &'a World, table: &Table, pod: &Pod) -> Verdict<'a> {
    let mut verdict = Verdict { fitting: Vec::new(), nodes: world.nodes.len(), reasons: BTreeMap::new() };
    let empty = Row::default();
    for (name, node) in &world.nodes {
        let row = table.row(name).unwrap_or(&empty);
        if let Some(reason) = first_obstacle(node, row, pod) {
            *verdict.reasons.entry(reason).or_default() += 1;
            continue;
        }
        let missing = missing_resources(node, row, pod);
        for reason in &missing {
            *verdict.reasons.entry((*reason).to_owned()).or_default() += 1;
        }
        if missing.is_empty() {
            verdict.fitting.push(node);
        }
    }
    verdict
}

fn first_obstacle(node: &Node, row: &Row, pod: &Pod) -> Option<String> {
    let placement = &pod.placement;
    let tolerated = |taint: &Taint| placement.tolerations.iter().any(|t| tolerates(t, taint));
    if node.unschedulable && !tolerated(&taint("node.kubernetes.io/unschedulable")) {
        return Some("node(s) were unschedulable".to_owned());
    }
    let hard = |taint: &&Taint| taint.effect != "PreferNoSchedule";
    let untolerated =
        |taint: &Taint| format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value);
    if let Some(taint) = node.taints.iter().filter(hard).find(|taint| !tolerated(taint)) {
        return Some(untolerated(taint));
    }
    let not_ready = taint("node.kubernetes.io/not-ready");
    if node.ready != "True" && !tolerated(&not_ready) {
        return Some(untolerated(&not_ready));
    }
    let labels = &node.meta.labels;
    let selected = placement.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let required = placement.required.as_ref();
    if !selected || required.is_some_and(|terms| !terms.iter().any(|t| t.matches(&node.meta.at.name, labels)))
    {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let taken = |wanted: &HostPort| row.ports.iter().any(|used| conflicts(used, wanted));
    placement
        .host_ports
        .iter()
        .any(taken)
        .then(|| "node(s) didn't have free ports for the requested pod ports".to_owned())
}

fn taint(key: &str) -> Taint {
    Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
}

fn conflicts(used: &HostPort, wanted: &HostPort) -> bool {
    used.port == wanted.port
        && used.protocol == wanted.protocol
        && (used.ip.is_empty() || wanted.ip.is_empty() || used.ip == wanted.ip)
}

fn missing_resources(node: &Node, row: &Row, pod: &Pod) -> Vec<&'static str> {
    let (free, wanted) = (node.allocatable.minus(row.used), pod.placement.requests);
    let checks = [
        (free.pods < wanted.pods, "Too many pods"),
        (free.cpu_millis < wanted.cpu_millis, "Insufficient cpu"),
        (free.memory_bytes < wanted.memory_bytes, "Insufficient memory"),
        (free.ephemeral_bytes < wanted.ephemeral_bytes, "Insufficient ephemeral-storage"),
    ];
    checks.into_iter().filter(|(short, _)| *short).map(|(_, reason)| reason).collect()
}
