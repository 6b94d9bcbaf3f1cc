//! Services: addresses, names, ports, and endpoints that follow the pods.

use std::collections::BTreeSet;
use tests::{Cluster, Options, images::Registry, traffic};

#[test]
fn a_service_is_found_by_name_and_balanced() {
    let cluster = Cluster::start(Options { registries: Registry::mirror_config(), ..Options::default() });
    let registry = Registry::start(&cluster.netns);
    cluster.apply_example("hello.yaml");
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec:\n  containers:\n  - {name: main, image: busybox, command: [sleep, '36000']}\n";
    cluster.apply(manifest);
    cluster.wait_ready("client");
    let ask = |url: &str| cluster.kubectl(&["exec", "client", "--", "timeout", "5", "wget", "-qO-", url]);
    for url in ["http://hello", "http://hello.default.svc.cluster.local/"] {
        assert!(ask(url).ok().contains("Hello from Wherry"), "{url}");
    }
    let names: BTreeSet<String> =
        cluster.list("pods", "app=hello").iter().map(|pod| pod["metadata"]["name"].to_string()).collect();
    let served: BTreeSet<bool> = (0..20)
        .filter_map(|_| {
            let (_, body) = cluster.netns.enter(|| traffic::get(cluster.node_port(30080), "/")).ok()?;
            names.iter().position(|name| body.contains(name.trim_matches('"'))).map(|index| index == 0)
        })
        .collect();
    assert_eq!(served.len(), 2, "both pods serve");
    let resolved =
        cluster.kubectl(&["exec", "client", "--", "nslookup", "kubernetes.default.svc.cluster.local"]).ok();
    assert!(resolved.contains("10.96.0.1"), "{resolved}");

    cluster.kubectl(&["scale", "deployment/hello", "--replicas=0"]).ok();
    cluster.wait_for("nobody serves", || {
        cluster.netns.enter(|| traffic::get(cluster.node_port(30080), "/")).is_err().then_some(())
    });
    cluster.kubectl(&["scale", "deployment/hello", "--replicas=1"]).ok();
    cluster.wait_for("one serves again", || {
        cluster.netns.enter(|| traffic::get(cluster.node_port(30080), "/")).ok()
    });
    cluster.kubectl(&["delete", "service", "hello"]).ok();
    cluster.wait_for("the port is closed", || {
        cluster.netns.enter(|| traffic::get(cluster.node_port(30080), "/")).is_err().then_some(())
    });
    drop(registry);
    cluster.down();
}
