//! Placement: which node a pod runs on. Filters say where it may, scores where it should.
//!
//! Kubernetes' default filters and weights (`pkg/scheduler/framework/plugins`) over a table that changes with the world
//! instead of being built anew: [`Placer::changed`] keeps it, [`Placer::decide`] answers for every pod that waits.
//! Ties go to the node with fewer pods, then to the name that sorts first, so the same world gives the same answer.
//!
//! Invariants: a pod that was given a node counts there at once ([`table`] calls that assumed), not only when the
//! binding comes back through the watch; it stops counting when the binding failed.
//! Not here: preemption, pod affinity, volumes.

mod filter;
mod queue;
mod score;
mod table;

use crate::controllers::{
    plan::{Change, NewCondition, Part, Patch, Plan, Regarding, Write},
    world::{Changed, Node, NsName, Pod, World, resource},
};
use queue::Queue;
use serde_json::json;
use table::Table;

const COMPONENT: &str = "default-scheduler";
/// Pods with this `schedulerName` (or none) are ours.
const SCHEDULER: &str = "default-scheduler";

#[derive(Default)]
pub struct Placer {
    table: Table,
    queue: Queue,
}

/// What became of one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub pod: NsName,
    pub uid: String,
    /// `None`: it fits nowhere, for the reasons in the Event among the writes.
    pub node: Option<String>,
    pub writes: Vec<Write>,
}

impl Placer {
    /// Starts over from a whole world.
    pub fn reset(&mut self, world: &World) {
        *self = Self::default();
        for name in world.nodes.keys() {
            self.table.put_node(name);
        }
        for pod in world.pods.values() {
            self.table.pod_changed(&pod.meta.uid, Some(pod));
            self.consider(pod);
        }
    }

    /// Takes in what changed in the world.
    pub fn changed(&mut self, world: &World, changed: &Changed, now_s: i64) {
        match changed {
            Changed::Node { name, old } => {
                let new = world.nodes.get(name);
                match new {
                    Some(_) => self.table.put_node(name),
                    None => self.table.remove_node(name),
                }
                if old.as_deref().map(Node::offer) != new.map(Node::offer) {
                    self.queue.wake_all(now_s);
                }
            }
            Changed::Pod { at, old } => {
                let new = world.pods.get(at);
                let freed = old.as_ref().is_some_and(|old| {
                    !old.node.is_empty() && !old.is_finished() && new.is_none_or(Pod::is_finished)
                });
                if let Some(old) = old
                    && new.is_none_or(|new| new.meta.uid != old.meta.uid)
                {
                    self.table.pod_changed(&old.meta.uid, None);
                }
                match new {
                    Some(pod) => {
                        self.table.pod_changed(&pod.meta.uid, Some(pod));
                        let edited = old.as_ref().is_some_and(|old| old.placement != pod.placement);
                        if edited || old.is_none() || is_settled(pod) {
                            self.consider(pod);
                        }
                    }
                    None => self.queue.remove(at),
                }
                if freed {
                    self.queue.wake_all(now_s);
                }
            }
            _ => {}
        }
    }

    fn consider(&mut self, pod: &Pod) {
        if is_settled(pod) || !matches!(pod.placement.scheduler.as_str(), "" | SCHEDULER) {
            self.queue.remove(&pod.meta.at);
        } else {
            self.queue.push(&pod.meta.at, pod.placement.priority, pod.meta.created_s);
        }
    }

    /// The binding of this pod was refused: it stops counting on its node and waits again.
    pub fn refused(&mut self, world: &World, at: &NsName, uid: &str, now_s: i64) {
        self.table.forget(uid);
        if let Some(pod) = world.pods.get(at).filter(|pod| !is_settled(pod)) {
            self.queue.park(&pod.meta.at, pod.placement.priority, pod.meta.created_s, now_s);
            self.queue.wake(&pod.meta.at, now_s);
        }
    }

    /// When a pod that was put off is to be looked at again.
    pub fn next_s(&self) -> Option<i64> {
        self.queue.next_s()
    }

    /// Decides at most `limit` of the pods that wait.
    pub fn decide(&mut self, world: &World, now_s: i64, limit: usize) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while decisions.len() < limit
            && let Some(at) = self.queue.pop(now_s)
        {
            let Some(pod) = world.pods.get(&at).filter(|pod| !is_settled(pod)) else { continue };
            if self.table.is_assumed(&pod.meta.uid) {
                continue;
            }
            decisions.push(self.place(world, pod, now_s));
        }
        decisions
    }

    fn place(&mut self, world: &World, pod: &Pod, now_s: i64) -> Decision {
        let decision = |node: Option<String>, writes| Decision {
            pod: pod.meta.at.clone(),
            uid: pod.meta.uid.clone(),
            node,
            writes,
        };
        if pod.placement.gated {
            let message = "Scheduling is blocked due to non-empty scheduling gates";
            let plan = unschedulable(pod, "SchedulingGated", message, now_s, false);
            return decision(None, plan.writes);
        }
        let verdict = filter::fitting(world, &self.table, pod);
        match score::best(&self.table, pod, &verdict.fitting) {
            Some(node) => {
                self.table.assume(pod, &node);
                let writes = vec![bind(pod, &node).into()];
                decision(Some(node), writes)
            }
            None => {
                self.queue.park(&pod.meta.at, pod.placement.priority, pod.meta.created_s, now_s);
                let plan = unschedulable(pod, "Unschedulable", &verdict.message(), now_s, true);
                decision(None, plan.writes)
            }
        }
    }
}

/// Nothing is left to decide about this pod.
fn is_settled(pod: &Pod) -> bool {
    !pod.node.is_empty() || !pod.is_active()
}

fn bind(pod: &Pod, node: &str) -> Patch {
    let message = format!("Successfully assigned {} to {node}", pod.meta.at);
    let note = Some(Regarding::new("v1", "Pod", &pod.meta).normal(COMPONENT, "Scheduled", message));
    let change = Change::Merge(json!({"spec": {"nodeName": node}}));
    Patch { note, ..Patch::new(resource::PODS, &pod.meta, Part::Binding, change) }
}

fn unschedulable(pod: &Pod, reason: &str, message: &str, now_s: i64, event: bool) -> Plan {
    let mut plan = Plan::default();
    if pod.unscheduled.as_ref().is_none_or(|(r, m)| r != reason || m != message) {
        let condition = NewCondition {
            kind: "PodScheduled",
            status: "False",
            reason: reason.to_owned(),
            message: message.to_owned(),
            now_s,
        };
        let change = Change::Conditions(vec![condition]);
        plan.push(Patch::new(resource::PODS, &pod.meta, Part::Status, change));
    }
    if event {
        let regarding = Regarding::new("v1", "Pod", &pod.meta);
        plan.writes.push(Write::Note(regarding.warning(COMPONENT, "FailedScheduling", message)));
    }
    plan
}

#[cfg(test)]
mod tests;
