//! Which pods of a ReplicaSet are deleted first: those that cost the least, as Kubernetes' `ActivePodsWithRanks` sorts.

use crate::controllers::world::{Pod, ReplicaSet, World};
use std::{cmp::Ordering, collections::HashMap};

/// `pods` in the order in which they should go.
pub fn first_to_go<'a>(world: &World, set: &ReplicaSet, pods: &[&'a Pod], now_s: i64) -> Vec<&'a Pod> {
    let crowding = crowding(world, set);
    let crowd = |pod: &Pod| crowding.get(pod.node.as_str()).copied().unwrap_or_default();
    let mut pods = pods.to_vec();
    pods.sort_by(|a, b| {
        cheaper(a, b)
            .then_with(|| crowd(b).cmp(&crowd(a)))
            .then_with(|| ready_age(a, now_s).cmp(&ready_age(b, now_s)))
            .then_with(|| b.restarts.cmp(&a.restarts))
            .then_with(|| age(Some(a.meta.created_s), now_s).cmp(&age(Some(b.meta.created_s), now_s)))
            .then_with(|| a.meta.uid.cmp(&b.meta.uid))
    });
    pods
}

fn cheaper(a: &Pod, b: &Pod) -> Ordering {
    let key = |pod: &Pod| (!pod.node.is_empty(), pod.phase, pod.ready, pod.deletion_cost);
    key(a).cmp(&key(b))
}

fn ready_age(pod: &Pod, now_s: i64) -> (bool, u32) {
    age(pod.ready_since_s.filter(|_| pod.ready), now_s)
}

/// Seconds on a logarithmic scale, so that pods of about the same age are told apart by their uid; what has no time
/// comes first.
fn age(since_s: Option<i64>, now_s: i64) -> (bool, u32) {
    since_s.map_or((false, 0), |since_s| (true, (now_s - since_s).max(1).ilog2()))
}

/// Active pods per node of all ReplicaSets that share this one's controller.
fn crowding<'a>(world: &'a World, set: &ReplicaSet) -> HashMap<&'a str, i64> {
    let owner = set.meta.controller();
    let related = |candidate: &ReplicaSet| {
        candidate.meta.uid == set.meta.uid
            || owner.is_some_and(|owner| candidate.meta.is_controlled_by(&owner.uid))
    };
    let siblings: Vec<&str> = world
        .replica_sets_in(&set.meta.at.namespace)
        .filter(|candidate| related(candidate))
        .map(|candidate| candidate.meta.uid.as_str())
        .collect();
    let mut pods: HashMap<&str, i64> = HashMap::new();
    for pod in world.pods_in(&set.meta.at.namespace).filter(|pod| pod.is_active() && !pod.node.is_empty()) {
        if pod.meta.controller().is_some_and(|owner| siblings.contains(&owner.uid.as_str())) {
            *pods.entry(&pod.node).or_default() += 1;
        }
    }
    pods
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::Phase;

    fn pod(uid: &str, change: impl FnOnce(&mut Pod)) -> Pod {
        let mut pod = Pod { node: "n".into(), phase: Phase::Running, ready: true, ..Pod::default() };
        (pod.ready_since_s, pod.meta.created_s, pod.meta.uid) = (Some(0), 0, uid.into());
        change(&mut pod);
        pod
    }

    #[test]
    fn the_pod_that_costs_least_goes_first() {
        let cases: [(&str, Pod, Pod); 7] = [
            ("unassigned", pod("z", |p| p.node.clear()), pod("a", |_| ())),
            ("pending", pod("z", |p| p.phase = Phase::Pending), pod("a", |_| ())),
            ("not ready", pod("z", |p| p.ready = false), pod("a", |_| ())),
            ("lower cost", pod("z", |p| p.deletion_cost = -1), pod("a", |_| ())),
            ("ready for less long", pod("z", |p| p.ready_since_s = Some(90)), pod("a", |_| ())),
            ("restarted more", pod("z", |p| p.restarts = 3), pod("a", |_| ())),
            ("younger", pod("z", |p| p.meta.created_s = 90), pod("a", |_| ())),
        ];
        for (name, first, second) in cases {
            let order = first_to_go(&World::default(), &ReplicaSet::default(), &[&second, &first], 100);
            assert_eq!(order[0].meta.uid, "z", "{name}");
        }
    }
}
