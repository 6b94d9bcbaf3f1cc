//! Pods nobody will ever report on: bound to a node that is gone, or deleted before they were bound to any.

use super::{
    plan::{Delete, Plan},
    world::{NsName, World, resource},
};

/// A pod on an unknown node is left alone for this long after its creation.
const QUARANTINE_S: i64 = 40;

/// One pass over one pod.
pub fn sync(world: &World, at: &NsName, now_s: i64) -> Plan {
    let mut plan = Plan::default();
    let Some(pod) = world.pods.get(at) else { return plan };
    let gone =
        if pod.node.is_empty() { pod.meta.is_deleting() } else { !world.nodes.contains_key(&pod.node) };
    if !gone {
        return plan;
    }
    let ripe_s = pod.meta.created_s + QUARANTINE_S;
    if !pod.node.is_empty() && ripe_s > now_s {
        plan.again(ripe_s);
    } else {
        plan.push(Delete { grace_s: Some(0), ..Delete::new(resource::PODS, &pod.meta) });
    }
    plan
}
