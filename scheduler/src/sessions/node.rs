//! A node's object, from what its agent says on connect and now and again.

use crate::controllers::{
    object::rfc3339,
    plan::{Change, NewCondition},
};
use agent_protocol::{LimitsEnforced, NodeInfo, NodeStatus};
use serde_json::{Value, json};
use std::{collections::HashSet, net::Ipv4Addr};

/// Below these a node is under pressure.
const MEMORY_LOW_BYTES: u64 = 100 << 20;
const DISK_LOW_BYTES: u64 = 500 << 20;
/// Most images listed in a node's status.
const IMAGES_MAX: usize = 50;

/// The object of a node that is not there yet.
pub fn new_object(info: &NodeInfo, pod_cidr: &str, now_s: i64) -> Value {
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": info.name},
        "spec": {},
    });
    refresh_main(&mut node, info, pod_cidr);
    refresh_status(&mut node, info, now_s);
    node
}

/// Labels and pod CIDR; labels that others set stay.
pub fn refresh_main(node: &mut Value, info: &NodeInfo, pod_cidr: &str) {
    let own = [
        ("kubernetes.io/hostname", info.name.as_str()),
        ("kubernetes.io/arch", &info.architecture),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", &info.architecture),
        ("beta.kubernetes.io/os", "linux"),
    ];
    let given = info.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in own.into_iter().chain(given) {
        node["metadata"]["labels"][key] = value.into();
    }
    node["spec"]["podCIDR"] = pod_cidr.into();
    node["spec"]["podCIDRs"] = json!([pod_cidr]);
}

/// Capacity, addresses and versions. A node whose readiness is not known yet is not ready.
pub fn refresh_status(node: &mut Value, info: &NodeInfo, now_s: i64) {
    let amounts = json!({
        "cpu": if info.cpu_millis.is_multiple_of(1000) {
            (info.cpu_millis / 1000).to_string()
        } else {
            format!("{}m", info.cpu_millis)
        },
        "memory": format!("{}Ki", info.memory_bytes / 1024),
        "ephemeral-storage": format!("{}Ki", info.ephemeral_bytes / 1024),
        "pods": info.pods_max.to_string(),
    });
    let addresses = info.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}));
    let hostname = json!({"type": "Hostname", "address": info.name});
    let status = &mut node["status"];
    status["capacity"] = amounts.clone();
    status["allocatable"] = amounts;
    status["addresses"] = addresses.chain([hostname]).collect();
    status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": 10250}});
    status["nodeInfo"] = json!({
        "machineID": info.machine_id,
        "systemUUID": info.machine_id,
        "bootID": info.boot_id,
        "kernelVersion": info.kernel,
        "osImage": info.os_image,
        "containerRuntimeVersion": format!("wherry://{}", info.version),
        "kubeletVersion": format!("v{}", info.version.trim_start_matches('v')),
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": info.architecture,
    });
    let limits = match &info.limits {
        LimitsEnforced::Yes => {
            ("False", "LimitsAreEnforced", "cgroup v2 holds containers to their limits".into())
        }
        LimitsEnforced::No { reason } => ("False", "PodsWithLimitsAreRefused", reason.clone()),
        LimitsEnforced::Waived { reason } => ("True", "AllowedByFlag", reason.clone()),
    };
    set_condition(node, "LimitsUnenforced", limits, now_s);
    let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
    if ready.is_none_or(|ready| ready["status"] != "True") {
        let message = "the node's daemons have not reported yet".to_owned();
        set_condition(node, "Ready", ("False", "KubeletNotReady", message), now_s);
    }
}

/// Conditions and images, from a report.
pub fn report(node: &mut Value, status: &NodeStatus, now_s: i64) {
    let flag = |holds: bool| if holds { "True" } else { "False" };
    let low_memory = status.memory_available_bytes < MEMORY_LOW_BYTES;
    let low_disk = status.disk_available_bytes < DISK_LOW_BYTES;
    let word = |low: bool, bad: &'static str, good: &'static str| if low { bad } else { good };
    let memory = word(low_memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory");
    let disk = word(low_disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure");
    let in_ = if low_memory { "in" } else { "" };
    let conditions = [
        (
            "MemoryPressure",
            (flag(low_memory), memory, format!("kubelet has {in_}sufficient memory available")),
        ),
        (
            "DiskPressure",
            (flag(low_disk), disk, format!("kubelet has {}disk pressure", if low_disk { "" } else { "no " })),
        ),
        (
            "PIDPressure",
            ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned()),
        ),
        (
            "Ready",
            (
                flag(status.ready),
                if status.ready { "KubeletReady" } else { "KubeletNotReady" },
                if status.ready {
                    "kubelet is posting ready status".to_owned()
                } else {
                    status.message.clone()
                },
            ),
        ),
    ];
    for (kind, condition) in conditions {
        set_condition(node, kind, condition, now_s);
    }
    let images = status.images.iter().take(IMAGES_MAX);
    node["status"]["images"] =
        images.map(|(names, bytes)| json!({"names": names, "sizeBytes": bytes})).collect();
}

fn set_condition(
    node: &mut Value,
    kind: &'static str,
    (status, reason, message): (&'static str, &str, String),
    now_s: i64,
) {
    let condition = NewCondition { kind, status, reason: reason.to_owned(), message, now_s };
    Change::Conditions(vec![condition]).apply(node);
    let list = node["status"]["conditions"].as_array_mut().into_iter().flatten();
    for condition in list.filter(|condition| condition["type"] == kind) {
        condition["lastHeartbeatTime"] = rfc3339(now_s).into();
    }
}

/// The first /24 of the cluster's network that no node has; the whole network when it is smaller.
pub fn free_pod_cidr(cluster: (Ipv4Addr, u8), taken: &HashSet<String>) -> Option<String> {
    let (base, bits) = cluster;
    let (base, bits) = (u32::from(base), u32::from(bits));
    if bits > 24 {
        let whole = format!("{}/{bits}", Ipv4Addr::from(base));
        return (!taken.contains(&whole)).then_some(whole);
    }
    (0..1u32 << (24 - bits))
        .map(|index| format!("{}/24", Ipv4Addr::from(base + (index << 8))))
        .find(|cidr| !taken.contains(cidr))
}

/// `10.244.0.0/24` as address and prefix length.
pub fn parse_cidr(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let bits = bits.parse().ok().filter(|bits| *bits <= 32)?;
    Some((address.parse().ok()?, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_gets_a_network_of_its_own() {
        let cluster = parse_cidr("10.244.0.0/22").expect("a network");
        let mut taken = HashSet::from(["10.244.1.0/24".to_owned()]);
        for expected in [Some("10.244.0.0/24"), Some("10.244.2.0/24"), Some("10.244.3.0/24"), None] {
            let found = free_pod_cidr(cluster, &taken);
            assert_eq!(found.as_deref(), expected);
            taken.extend(found);
        }
        assert_eq!(parse_cidr("10.244.0.0"), None);
    }
}
