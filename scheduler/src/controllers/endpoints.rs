//! EndpointSlices of Services with a selector: who answers for the Service, on which ports.
//!
//! As Kubernetes' endpointslice controller: pods with an address and not finished; `ready` unless the pod is not or is
//! terminating (`publishNotReadyAddresses` makes it always true), `serving` and `terminating` say the rest. Named target
//! ports are looked up in each pod, so pods that give a name different numbers come in slices of their own.
//! Slices are named after the Service, their ports and their place, so a pass after a lost answer makes nothing twice.

use super::{
    object::{Fnv, safe_encode},
    plan::{Delete, Part, Patch, Plan, Write, owned_by},
    world::{Endpoint, EndpointSlice, Meta, NsName, Pod, Service, SlicePort, World, resource},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashSet},
    hash::Hasher,
};

const ENDPOINTS_PER_SLICE: usize = 100;
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One pass over one Service.
pub fn sync(world: &World, at: &NsName) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = world.services.get(at) else { return plan };
    let Some(selector) = &service.selector else { return plan };
    if service.is_external() || service.meta.is_deleting() {
        return plan;
    }
    let mut groups: BTreeMap<Vec<SlicePort>, Vec<Endpoint>> = BTreeMap::new();
    let selected = world.pods_in(&at.namespace).filter(|pod| selector.matches(&pod.meta.labels));
    for pod in selected.filter(|pod| !pod.is_finished() && !pod.ips.is_empty() && !pod.node.is_empty()) {
        groups.entry(ports_of(service, pod)).or_default().push(endpoint(service, pod));
    }
    if groups.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    let mut kept = HashSet::new();
    for (ports, mut endpoints) in groups {
        endpoints.sort();
        let chunks = endpoints.chunks(ENDPOINTS_PER_SLICE);
        let count = chunks.len().max(1);
        for (index, chunk) in chunks.chain(std::iter::repeat_n(&[][..], 1)).take(count).enumerate() {
            let name = slice_name(service, &ports, index);
            let slice_at = NsName::new(&at.namespace, &name);
            plan.writes.extend(put_slice(world.slices.get(&slice_at), service, &slice_at, &ports, chunk));
            kept.insert(name);
        }
    }
    let managed = |meta: &Meta| meta.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER);
    for slice in world.slices_of(at).filter(|slice| managed(&slice.meta)) {
        if !kept.contains(&slice.meta.at.name) {
            plan.push(Delete::new(resource::ENDPOINT_SLICES, &slice.meta));
        }
    }
    plan
}

fn ports_of(service: &Service, pod: &Pod) -> Vec<SlicePort> {
    let resolved = service.ports.iter().filter_map(|port| {
        Some(SlicePort {
            name: port.name.clone(),
            protocol: port.protocol.clone(),
            port: pod.port(&port.target, &port.protocol)?,
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn endpoint(service: &Service, pod: &Pod) -> Endpoint {
    let terminating = pod.meta.is_deleting();
    let serving = pod.ready || service.publish_not_ready;
    Endpoint {
        addresses: pod.ips.first().cloned().into_iter().collect(),
        hostname: if pod.subdomain == service.meta.at.name { pod.hostname.clone() } else { String::new() },
        node: pod.node.clone(),
        ready: service.publish_not_ready || (pod.ready && !terminating),
        serving,
        terminating,
        target: Some((pod.meta.at.name.clone(), pod.meta.uid.clone())),
    }
}

fn slice_name(service: &Service, ports: &[SlicePort], index: usize) -> String {
    let mut hasher = Fnv::default();
    hasher.write(service.meta.uid.as_bytes());
    for port in ports {
        hasher.write(format!("{}/{}/{};", port.name, port.protocol, port.port).as_bytes());
    }
    hasher.write(&index.to_le_bytes());
    let suffix: String = safe_encode(hasher.finish()).chars().take(8).collect();
    format!("{}-{suffix}", service.meta.at.name)
}

fn put_slice(
    current: Option<&EndpointSlice>,
    service: &Service,
    at: &NsName,
    ports: &[SlicePort],
    endpoints: &[Endpoint],
) -> Option<Write> {
    let namespace = &at.namespace;
    let endpoints_json: Vec<Value> = endpoints.iter().map(|e| endpoint_json(e, namespace)).collect();
    let ports_json: Vec<Value> = ports.iter().map(port_json).collect();
    let mut labels = json!({MANAGED_BY: MANAGER, SERVICE_NAME: service.meta.at.name});
    for (key, value) in &service.meta.labels {
        labels[key] = value.clone().into();
    }
    if service.is_headless() {
        labels["service.kubernetes.io/headless"] = "".into();
    }
    let Some(current) = current else {
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": at.name, "namespace": namespace, "labels": labels,
                "ownerReferences": owned_by("v1", "Service", &service.meta),
            },
            "addressType": "IPv4",
            "endpoints": endpoints_json,
            "ports": ports_json,
        });
        return Some(Write::Create { resource: resource::ENDPOINT_SLICES, object, note: None });
    };
    let labelled = labels.as_object().into_iter().flatten();
    let labelled =
        labelled.into_iter().all(|(key, value)| current.meta.labels.get(key).is_some_and(|l| value == l));
    if labelled && current.endpoints == endpoints && current.ports == ports {
        return None;
    }
    let merge = json!({"metadata": {"labels": labels}, "endpoints": endpoints_json, "ports": ports_json});
    Some(Patch::new(resource::ENDPOINT_SLICES, &current.meta, Part::Main, merge).into())
}

fn endpoint_json(endpoint: &Endpoint, namespace: &str) -> Value {
    let mut value = json!({
        "addresses": endpoint.addresses,
        "conditions": {
            "ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating,
        },
        "nodeName": endpoint.node,
    });
    if let Some((name, uid)) = &endpoint.target {
        value["targetRef"] = json!({"kind": "Pod", "namespace": namespace, "name": name, "uid": uid});
    }
    if !endpoint.hostname.is_empty() {
        value["hostname"] = endpoint.hostname.clone().into();
    }
    value
}

fn port_json(port: &SlicePort) -> Value {
    let mut value = json!({"name": port.name, "protocol": port.protocol, "port": port.port});
    if let Some(app_protocol) = &port.app_protocol {
        value["appProtocol"] = app_protocol.clone().into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::object::{items, text};

    struct Setup {
        world: World,
        number: u64,
    }

    impl Setup {
        fn new(spec: Value) -> Self {
            let mut setup = Self { world: World::default(), number: 0 };
            let metadata = json!({"name": "web", "namespace": "d", "uid": "service"});
            setup.put("/services/d/web", json!({"metadata": metadata, "spec": spec}));
            setup
        }

        fn put(&mut self, key: &str, object: Value) {
            self.number += 1;
            self.world.apply(key, self.number, Some(&object.to_string().into_bytes().into()));
        }

        fn pod(&mut self, name: &str, ready: bool, change: impl FnOnce(&mut Value)) {
            let status = if ready { "True" } else { "False" };
            let mut pod = json!({
                "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
                "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIP": format!("10.0.0.{}", self.number),
                           "conditions": [{"type": "Ready", "status": status}]},
            });
            change(&mut pod);
            self.put(&format!("/pods/d/{name}"), pod);
        }

        fn slices(&self) -> Vec<Value> {
            let created = sync(&self.world, &NsName::new("d", "web")).writes.into_iter();
            let object = |write| match write {
                Write::Create { object, .. } => object,
                other => panic!("only creations: {other:?}"),
            };
            created.map(object).collect()
        }
    }

    fn service(extra: Value) -> Value {
        let ports = json!([{"name": "web", "port": 80, "protocol": "TCP", "targetPort": "http"}]);
        let mut spec = json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.7", "ports": ports});
        crate::controllers::object::merge(&mut spec, &extra);
        spec
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let deleting = |pod: &mut Value| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let publish = json!({"publishNotReadyAddresses": true});
        let cases: [(&str, Value, bool, bool, [bool; 3]); 5] = [
            ("ready", json!({}), true, false, [true, true, false]),
            ("not ready", json!({}), false, false, [false, false, false]),
            ("terminating", json!({}), true, true, [false, true, true]),
            ("published", publish.clone(), false, false, [true, true, false]),
            ("published and terminating", publish, false, true, [true, true, true]),
        ];
        for (name, extra, ready, is_deleting, [ready_is, serving, terminating]) in cases {
            let mut setup = Setup::new(service(extra));
            setup.pod("a", ready, |pod| {
                if is_deleting {
                    deleting(pod)
                }
            });
            let slices = setup.slices();
            let expected = json!({"ready": ready_is, "serving": serving, "terminating": terminating});
            assert_eq!(slices[0]["endpoints"][0]["conditions"], expected, "{name}");
            assert_eq!(slices[0]["ports"][0]["port"], 8080, "{name}");
        }
    }

    #[test]
    fn pods_that_cannot_answer_are_left_out() {
        let mut setup = Setup::new(service(json!({})));
        setup.pod("finished", false, |pod| pod["status"]["phase"] = "Succeeded".into());
        setup.pod("addressless", true, |pod| pod["status"]["podIP"] = Value::Null);
        setup.pod("other", true, |pod| pod["metadata"]["labels"] = json!({"app": "db"}));
        let slices = setup.slices();
        assert_eq!((slices.len(), items(&slices[0]["endpoints"]).len()), (1, 0), "an empty slice says so");
    }

    #[test]
    fn different_ports_and_many_endpoints_make_several_slices() {
        let mut setup = Setup::new(service(json!({})));
        for index in 0..150 {
            setup.pod(&format!("p{index}"), true, |_| ());
        }
        let other = json!([{"ports": [{"name": "http", "containerPort": 9090}]}]);
        setup.pod("other", true, |pod| pod["spec"]["containers"] = other);
        let mut sizes: Vec<usize> = setup.slices().iter().map(|s| items(&s["endpoints"]).len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 50, 100]);
    }

    #[test]
    fn a_headless_service_names_hosts() {
        let mut setup = Setup::new(service(json!({"clusterIP": "None"})));
        setup.pod("a", true, |pod| {
            pod["spec"]["hostname"] = "db-0".into();
            pod["spec"]["subdomain"] = "web".into();
        });
        let slices = setup.slices();
        assert_eq!(text(&slices[0]["endpoints"][0]["hostname"]), "db-0");
        assert_eq!(slices[0]["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    }

    #[test]
    fn what_is_written_converges_and_stale_slices_go() {
        let mut setup = Setup::new(service(json!({})));
        setup.pod("a", true, |_| ());
        for mut slice in setup.slices() {
            slice["metadata"]["uid"] = "slice".into();
            setup.put(
                &format!("/{}/d/{}", resource::ENDPOINT_SLICES, text(&slice["metadata"]["name"])),
                slice,
            );
        }
        let at = NsName::new("d", "web");
        assert_eq!(sync(&setup.world, &at).writes, []);
        let other = json!([{"ports": [{"name": "http", "containerPort": 9090}]}]);
        setup.pod("a", true, |pod| pod["spec"]["containers"] = other);
        let writes = sync(&setup.world, &at).writes;
        assert!(matches!(&writes[..], [Write::Create { .. }, Write::Delete(_)]), "{writes:?}");
    }
}
