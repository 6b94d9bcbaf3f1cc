//! Where a pod should run: Kubernetes' default scores and weights, in whole points from 0 to 100.

use super::table::{Row, Table, weighed};
use crate::controllers::{
    node_lifecycle::tolerates,
    world::{Node, Pod},
};
use std::cmp::Reverse;

const POINTS: u64 = 100;
const WEIGHT_SPREAD: u64 = 2;
const WEIGHT_TAINTS: u64 = 3;
const WEIGHT_AFFINITY: u64 = 2;

/// Raw numbers of one candidate, before those that are relative to the others are scaled.
struct Raw<'a> {
    node: &'a Node,
    absolute: u64,
    siblings: u64,
    avoided: u64,
    preferred: u64,
    pods: u64,
}

/// The best of `fitting`; `None` when there is none.
pub fn best(table: &Table, pod: &Pod, fitting: &[&Node]) -> Option<String> {
    if let [only] = fitting {
        return Some(only.meta.at.name.clone());
    }
    let empty = Row::default();
    let raw: Vec<Raw> = fitting
        .iter()
        .map(|node| measure(node, table.row(&node.meta.at.name).unwrap_or(&empty), pod))
        .collect();
    let most = |of: fn(&Raw) -> u64| raw.iter().map(of).max().unwrap_or_default();
    let (siblings, avoided, preferred) =
        (most(|raw| raw.siblings), most(|raw| raw.avoided), most(|raw| raw.preferred));
    let fewer =
        |value: u64, most: u64| POINTS.saturating_sub((value * POINTS).checked_div(most).unwrap_or(0));
    let total = |raw: &Raw| {
        raw.absolute
            + WEIGHT_SPREAD * fewer(raw.siblings, siblings)
            + WEIGHT_TAINTS * fewer(raw.avoided, avoided)
            + WEIGHT_AFFINITY * (raw.preferred * POINTS).checked_div(preferred).unwrap_or(0)
    };
    raw.iter()
        .min_by_key(|raw| (Reverse(total(raw)), raw.pods, &raw.node.meta.at.name))
        .map(|raw| raw.node.meta.at.name.clone())
}

fn measure<'a>(node: &'a Node, row: &Row, pod: &Pod) -> Raw<'a> {
    let after = row.weighed.plus(weighed(pod.placement.requests));
    let share =
        |used: u64, of: u64| (used * POINTS).checked_div(of).map_or(POINTS, |share| share.min(POINTS));
    let cpu = share(after.cpu_millis, node.allocatable.cpu_millis);
    let memory = share(after.memory_bytes / 1024, node.allocatable.memory_bytes / 1024);
    let least_allocated = (POINTS - cpu).midpoint(POINTS - memory);
    let balanced = POINTS - cpu.abs_diff(memory) / 2;
    let owner = pod.meta.controller();
    let avoided = node.taints.iter().filter(|taint| {
        taint.effect == "PreferNoSchedule" && !pod.placement.tolerations.iter().any(|t| tolerates(t, taint))
    });
    let preferred = pod
        .placement
        .preferred
        .iter()
        .filter(|(_, term)| term.matches(&node.meta.at.name, &node.meta.labels));
    Raw {
        node,
        absolute: least_allocated + balanced,
        siblings: owner.and_then(|owner| row.owners.get(&owner.uid)).copied().unwrap_or_default(),
        avoided: avoided.count() as u64,
        preferred: preferred.map(|(weight, _)| u64::try_from(*weight).unwrap_or_default()).sum(),
        pods: row.used.pods,
    }
}
