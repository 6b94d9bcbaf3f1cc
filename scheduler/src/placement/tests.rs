use super::*;
use serde_json::Value;
use std::sync::Arc;

fn put(world: &mut World, placer: &mut Placer, key: &str, object: &Value) {
    let bytes: Arc<[u8]> = object.to_string().into_bytes().into();
    let revision = world.revision + 1;
    for changed in world.apply(key, revision, Some(&bytes)) {
        placer.changed(world, &changed, 0);
    }
}

fn node(name: &str, cpu: &str, spec: Value) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn pod(name: &str, mut spec: Value, cpu: &str) -> Value {
    spec["containers"] = json!([{"name": "c", "resources": {"requests": {"cpu": cpu}}}]);
    json!({"metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}")}, "spec": spec})
}

fn message(decision: &Decision) -> String {
    let note = decision.writes.iter().find_map(|write| match write {
        Write::Note(note) => Some(note.message.clone()),
        _ => None,
    });
    note.unwrap_or_default()
}

#[test]
fn a_pod_lands_where_it_fits_or_hears_why_not() {
    let tainted = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let affinity = |operator: &str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": operator, "values": ["a"]}]}]}}}})
    };
    let tolerating = json!({"nodeSelector": {"kubernetes.io/hostname": "b"},
        "tolerations": [{"key": "k", "operator": "Exists"}]});
    let cases = [
        ("fits only on the free one", json!({}), "1", Some("a"), ""),
        (
            "too large",
            json!({}),
            "9",
            None,
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, \
             1 node(s) were unschedulable.",
        ),
        ("tolerates", tolerating, "1", Some("b"), ""),
        ("affinity", affinity("In"), "1", Some("a"), ""),
        (
            "anti-affinity",
            affinity("NotIn"),
            "1",
            None,
            "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
             1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable.",
        ),
    ];
    for (name, spec, cpu, expected, text) in cases {
        let (mut world, mut placer) = (World::default(), Placer::default());
        put(&mut world, &mut placer, "/nodes//a", &node("a", "4", json!({})));
        put(&mut world, &mut placer, "/nodes//b", &node("b", "4", tainted.clone()));
        put(&mut world, &mut placer, "/nodes//c", &node("c", "4", json!({"unschedulable": true})));
        put(&mut world, &mut placer, "/pods/d/p", &pod("p", spec, cpu));
        let decisions = placer.decide(&world, 0, 10);
        assert_eq!(decisions[0].node.as_deref(), expected, "{name}");
        assert_eq!(message(&decisions[0]), text, "{name}");
    }
}

#[test]
fn a_pod_counts_as_soon_as_it_is_decided_and_waits_for_room() {
    let (mut world, mut placer) = (World::default(), Placer::default());
    put(&mut world, &mut placer, "/nodes//a", &node("a", "1", json!({})));
    put(&mut world, &mut placer, "/pods/d/p", &pod("p", json!({}), "800m"));
    put(&mut world, &mut placer, "/pods/d/q", &pod("q", json!({}), "800m"));
    let nodes: Vec<_> = placer.decide(&world, 0, 10).into_iter().map(|d| (d.pod.name, d.node)).collect();
    assert_eq!(nodes, [("p".into(), Some("a".into())), ("q".into(), None)]);
    assert!(placer.decide(&world, 5, 10).is_empty(), "nothing changed, nothing is tried");
    put(&mut world, &mut placer, "/nodes//b", &node("b", "1", json!({})));
    assert_eq!(placer.next_s(), Some(1), "after the back-off");
    assert_eq!(placer.decide(&world, 1, 10)[0].node.as_deref(), Some("b"));
}

#[test]
fn a_refused_binding_gives_the_room_back() {
    let (mut world, mut placer) = (World::default(), Placer::default());
    put(&mut world, &mut placer, "/nodes//a", &node("a", "1", json!({})));
    put(&mut world, &mut placer, "/pods/d/p", &pod("p", json!({}), "800m"));
    assert!(placer.decide(&world, 0, 10)[0].node.is_some());
    placer.refused(&world, &NsName::new("d", "p"), "uid-p", 0);
    assert_eq!(placer.decide(&world, 2, 10)[0].node.as_deref(), Some("a"));
}

#[test]
fn pods_of_one_owner_are_spread() {
    let (mut world, mut placer) = (World::default(), Placer::default());
    for name in ["a", "b", "c"] {
        put(&mut world, &mut placer, &format!("/nodes//{name}"), &node(name, "8", json!({})));
    }
    for index in 0..6 {
        let mut object = pod(&format!("p{index}"), json!({}), "100m");
        object["metadata"]["ownerReferences"] =
            json!([{"kind": "ReplicaSet", "uid": "rs", "controller": true}]);
        put(&mut world, &mut placer, &format!("/pods/d/p{index}"), &object);
    }
    let mut nodes: Vec<_> = placer.decide(&world, 0, 10).into_iter().filter_map(|d| d.node).collect();
    nodes.sort();
    assert_eq!(nodes, ["a", "a", "b", "b", "c", "c"]);
}

#[test]
fn thousands_of_pods_are_decided_in_seconds_at_most() {
    let (mut world, mut placer) = (World::default(), Placer::default());
    for index in 0..50 {
        put(
            &mut world,
            &mut placer,
            &format!("/nodes//n{index}"),
            &node(&format!("n{index}"), "64", json!({})),
        );
    }
    for index in 0..5000 {
        let name = format!("p{index}");
        put(&mut world, &mut placer, &format!("/pods/d/{name}"), &pod(&name, json!({}), "10m"));
    }
    let decisions = placer.decide(&world, 0, 10_000);
    assert_eq!(decisions.len(), 5000);
    assert!(decisions.iter().all(|decision| decision.node.is_some()));
}

proptest::proptest! {
    #[test]
    fn no_node_is_given_more_than_it_has(
        nodes in proptest::collection::vec(1u64..8, 1..5),
        pods in proptest::collection::vec(100u64..3000, 1..40),
    ) {
        let (mut world, mut placer) = (World::default(), Placer::default());
        for (index, cpu) in nodes.iter().enumerate() {
            let name = format!("n{index}");
            put(&mut world, &mut placer, &format!("/nodes//{name}"), &node(&name, &cpu.to_string(), json!({})));
        }
        for (index, millis) in pods.iter().enumerate() {
            let name = format!("p{index:02}");
            put(&mut world, &mut placer, &format!("/pods/d/{name}"), &pod(&name, json!({}), &format!("{millis}m")));
        }
        let mut free: Vec<u64> = nodes.iter().map(|cpu| cpu * 1000).collect();
        for decision in placer.decide(&world, 0, 100) {
            let asked = pods[decision.pod.name[1..].parse::<usize>().expect("a number")];
            match decision.node {
                Some(node) => {
                    let index: usize = node[1..].parse().expect("a number");
                    proptest::prop_assert!(free[index] >= asked, "{node} has {} m of {asked} m", free[index]);
                    free[index] -= asked;
                }
                None => proptest::prop_assert!(free.iter().all(|free| *free < asked), "{asked} m would fit"),
            }
        }
    }
}
