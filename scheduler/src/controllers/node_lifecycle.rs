//! Nodes that stop answering, and what that means for their pods.
//!
//! A node renews by its session. Without one for the grace period its conditions become Unknown, it gets the
//! `unreachable` taints, and its pods count as not ready, so that traffic goes elsewhere. A NoExecute taint evicts pods
//! that do not tolerate it, at once or after their `tolerationSeconds`.

use super::{
    object::rfc3339,
    plan::{Change, Delete, NewCondition, Part, Patch, Plan, Regarding},
    world::{Node, Pod, Taint, World, pod::Toleration, resource},
};
use serde_json::{Value, json};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const NO_EXECUTE: &str = "NoExecute";

/// Whether a node has a session, and since when that is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    pub connected: bool,
    pub since_s: i64,
}

/// One pass over one node.
pub fn sync(world: &World, name: &str, presence: Presence, grace_s: i64, now_s: i64) -> Plan {
    let mut plan = Plan::default();
    let Some(node) = world.nodes.get(name) else { return plan };
    let lost_at_s = presence.since_s + grace_s;
    let lost = !presence.connected && lost_at_s <= now_s;
    if !presence.connected && !lost {
        plan.again(lost_at_s);
    }
    if lost && node.ready != "Unknown" {
        let kinds = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
        let unknown = kinds.map(|kind| NewCondition {
            kind,
            status: "Unknown",
            reason: "NodeStatusUnknown".into(),
            message: "Kubelet stopped posting node status.".into(),
            now_s,
        });
        let change = Change::Conditions(unknown.to_vec());
        let regarding = Regarding::new("v1", "Node", &node.meta);
        let message = format!("Node {name} status is now: NodeNotReady");
        let note = Some(regarding.normal("node-controller", "NodeNotReady", message));
        plan.push(Patch { note, ..Patch::new(resource::NODES, &node.meta, Part::Status, change) });
    }
    let wanted = if lost {
        Some(UNREACHABLE)
    } else {
        match node.ready.as_str() {
            "True" => None,
            "False" | "" => Some(NOT_READY),
            _ => Some(UNREACHABLE),
        }
    };
    let taints = set_taints(node, wanted, now_s, &mut plan);
    for pod in world.pods_on(name).filter(|pod| pod.is_active()) {
        if wanted.is_some() && pod.ready {
            let reason = if lost { "NodeNotReady" } else { "NodeUnready" };
            plan.push(not_ready(pod, reason, now_s));
        }
        evict(pod, &taints, now_s, &mut plan);
    }
    plan
}

/// The node's taints as they will be: both effects of `wanted`, neither of the other key.
fn set_taints(node: &Node, wanted: Option<&str>, now_s: i64, plan: &mut Plan) -> Vec<Taint> {
    let ours = |taint: &Taint| taint.key == UNREACHABLE || taint.key == NOT_READY;
    let mut taints: Vec<Taint> = node
        .taints
        .iter()
        .filter(|taint| !ours(taint) || wanted == Some(taint.key.as_str()))
        .cloned()
        .collect();
    for effect in ["NoSchedule", NO_EXECUTE] {
        if let Some(key) = wanted
            && !taints.iter().any(|taint| taint.key == key && taint.effect == effect)
        {
            let added_s = (effect == NO_EXECUTE).then_some(now_s);
            let taint = Taint { key: key.into(), value: String::new(), effect: effect.into(), added_s };
            taints.push(taint);
        }
    }
    if taints != node.taints {
        let list: Vec<Value> = taints.iter().map(taint_json).collect();
        let list = if list.is_empty() { Value::Null } else { list.into() };
        let patch = Patch::new(resource::NODES, &node.meta, Part::Main, json!({"spec": {"taints": list}}));
        plan.push(Patch { revision: Some(node.meta.revision), ..patch });
    }
    taints
}

fn taint_json(taint: &Taint) -> Value {
    let mut value = json!({"key": taint.key, "effect": taint.effect});
    if !taint.value.is_empty() {
        value["value"] = taint.value.clone().into();
    }
    if let Some(added_s) = taint.added_s {
        value["timeAdded"] = rfc3339(added_s).into();
    }
    value
}

fn not_ready(pod: &Pod, reason: &str, now_s: i64) -> Patch {
    let condition =
        NewCondition { kind: "Ready", status: "False", reason: reason.into(), message: String::new(), now_s };
    Patch::new(resource::PODS, &pod.meta, Part::Status, Change::Conditions(vec![condition]))
}

fn evict(pod: &Pod, taints: &[Taint], now_s: i64, plan: &mut Plan) {
    let deadlines = taints.iter().filter(|taint| taint.effect == NO_EXECUTE).filter_map(|taint| {
        let tolerations = pod.placement.tolerations.iter().filter(|t| tolerates(t, taint));
        let seconds: Vec<Option<i64>> = tolerations.map(|t| t.seconds).collect();
        if seconds.is_empty() {
            return Some(now_s);
        }
        let shortest = seconds.into_iter().flatten().min()?;
        Some(taint.added_s.unwrap_or(now_s) + shortest.max(0))
    });
    let Some(deadline_s) = deadlines.min() else { return };
    if deadline_s > now_s {
        plan.again(deadline_s);
        return;
    }
    let regarding = Regarding::new("v1", "Pod", &pod.meta);
    let message = format!("Marking for deletion Pod {}", pod.meta.at);
    let note = Some(regarding.normal("taint-eviction-controller", "TaintManagerEviction", message));
    plan.push(Delete { note, ..Delete::new(resource::PODS, &pod.meta) });
}

/// Whether a toleration covers a taint: key, value and effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let value = toleration.value.as_ref();
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && (toleration.key.is_empty() || toleration.key == taint.key)
        && value.is_none_or(|value| !toleration.key.is_empty() && *value == taint.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::plan::Write;

    const NOW_S: i64 = 1_000_000;

    fn world(ready: &str, taints: Value, tolerations: Value) -> World {
        let mut world = World::default();
        let mut put = |key: &str, object: Value| {
            world.apply(key, 1, Some(&object.to_string().into_bytes().into()));
        };
        put(
            "/nodes/n",
            json!({"metadata": {"name": "n", "uid": "n"}, "spec": {"taints": taints},
                   "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
        );
        put(
            "/pods/d/p",
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
                   "spec": {"nodeName": "n", "tolerations": tolerations},
                   "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        world
    }

    /// What a plan does, in a word each.
    fn words(plan: &Plan) -> Vec<&'static str> {
        let word = |write: &Write| match write {
            Write::Delete(_) => "evict",
            Write::Patch(patch) if patch.key.resource == resource::PODS => "pod not ready",
            Write::Patch(patch) if patch.part == Part::Status => "node unknown",
            Write::Patch(Patch { change: Change::Merge(merge), .. }) if merge["spec"]["taints"].is_null() => {
                "untaint"
            }
            Write::Patch(_) => "taint",
            _ => "other",
        };
        plan.writes.iter().map(word).collect()
    }

    #[test]
    fn a_lost_node_is_tainted_and_its_pods_go_when_their_toleration_ends() {
        let taint = |key: &str, added_s: i64| {
            json!([{"key": key, "effect": "NoSchedule"},
                   {"key": key, "effect": "NoExecute", "timeAdded": rfc3339(added_s)}])
        };
        let tolerate = |seconds: Value| json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        let here = Presence { connected: true, since_s: NOW_S };
        let away = |seconds: i64| Presence { connected: false, since_s: NOW_S - seconds };
        let tainted = |added_s: i64| taint(UNREACHABLE, added_s);
        let none = || json!([]);
        let cases = [
            ("all is well", "True", none(), none(), here, vec![], None),
            ("just gone", "True", none(), none(), away(10), vec![], Some(NOW_S + 30)),
            (
                "gone for the grace period",
                "True",
                none(),
                tolerate(300.into()),
                away(40),
                vec!["node unknown", "taint", "pod not ready"],
                Some(NOW_S + 300),
            ),
            (
                "nothing tolerated",
                "True",
                none(),
                none(),
                away(40),
                vec!["node unknown", "taint", "pod not ready", "evict"],
                None,
            ),
            (
                "tolerated for ever",
                "Unknown",
                tainted(NOW_S - 999),
                tolerate(Value::Null),
                away(999),
                vec!["pod not ready"],
                None,
            ),
            (
                "toleration over",
                "Unknown",
                tainted(NOW_S - 300),
                tolerate(300.into()),
                away(340),
                vec!["pod not ready", "evict"],
                None,
            ),
            ("back again", "True", tainted(NOW_S - 10), none(), here, vec!["untaint"], None),
        ];
        for (name, ready, taints, tolerations, presence, expected, again_at_s) in cases {
            let plan = sync(&world(ready, taints, tolerations), "n", presence, 40, NOW_S);
            assert_eq!((words(&plan), plan.again_at_s), (expected, again_at_s), "{name}");
        }
    }

    #[test]
    fn a_toleration_covers_key_value_and_effect() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: "NoSchedule".into(), added_s: None };
        let toleration = |key: &str, value: Option<&str>, effect: &str| Toleration {
            key: key.into(),
            value: value.map(str::to_owned),
            effect: effect.into(),
            seconds: None,
        };
        let cases = [
            (toleration("k", Some("v"), "NoSchedule"), true),
            (toleration("k", Some("v"), ""), true),
            (toleration("k", None, "NoSchedule"), true),
            (toleration("", None, ""), true),
            (toleration("k", Some("w"), ""), false),
            (toleration("j", None, ""), false),
            (toleration("k", None, "NoExecute"), false),
            (toleration("", Some("v"), ""), false),
        ];
        for (toleration, expected) in cases {
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
