//! Makes or refreshes a node's object and its lease when an agent connects or reports.

use super::node::{free_pod_cidr, new_object, refresh_main, refresh_status, report};
use crate::{
    clock,
    controllers::object::text,
    registry::{Registry, Subresource, WriteOptions},
};
use agent_protocol::{NodeInfo, NodeStatus};
use api::{
    Status,
    resource::{LEASES, NODES},
};
use serde_json::{Value, json};
use std::{collections::HashSet, net::Ipv4Addr, time::UNIX_EPOCH};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_S: u32 = 40;

/// Where a new node's network is taken from.
#[derive(Clone, Debug)]
pub struct Network {
    pub cluster: (Ipv4Addr, u8),
    pub taken: HashSet<String>,
}

/// The node's pod CIDR, once its object is as the agent says.
pub async fn register(registry: &Registry, info: &NodeInfo, network: &Network) -> Result<String, Status> {
    let now_s = now_s(registry);
    let current = match registry.get(&NODES, "", &info.name).await {
        Ok(node) => text(&node["spec"]["podCIDR"]).to_owned(),
        Err(status) if status.code == 404 => String::new(),
        Err(status) => return Err(status),
    };
    let full = || Status::new(507, "NoRoom", "the cluster's network has no room for another node");
    let pod_cidr = match current.as_str() {
        "" => free_pod_cidr(network.cluster, &network.taken).ok_or_else(full)?,
        cidr => cidr.to_owned(),
    };
    let options = WriteOptions::default();
    match registry.create(&NODES, "", new_object(info, &pod_cidr, now_s), &options).await {
        Err(status) if status.reason == "AlreadyExists" => {
            let main = |mut node: Value| {
                refresh_main(&mut node, info, &pod_cidr);
                Ok(node)
            };
            registry.update(&NODES, "", &info.name, Subresource::Main, main, &options).await?;
            let status = |mut node: Value| {
                refresh_status(&mut node, info, now_s);
                Ok(node)
            };
            registry.update(&NODES, "", &info.name, Subresource::Status, status, &options).await?;
        }
        result => drop(result?),
    }
    renew_lease(registry, &info.name).await?;
    Ok(pod_cidr)
}

/// Writes what the node reported, and renews its lease.
pub async fn refresh(registry: &Registry, name: &str, status: &NodeStatus) -> Result<(), Status> {
    let now_s = now_s(registry);
    let change = |mut node: Value| {
        report(&mut node, status, now_s);
        Ok(node)
    };
    registry.update(&NODES, "", name, Subresource::Status, change, &WriteOptions::default()).await?;
    renew_lease(registry, name).await
}

async fn renew_lease(registry: &Registry, name: &str) -> Result<(), Status> {
    let spec = json!({
        "holderIdentity": name,
        "leaseDurationSeconds": LEASE_S,
        "renewTime": clock::timestamp_micros(registry.clock().now()),
    });
    let change = |mut lease: Value| {
        lease["spec"] = spec.clone();
        Ok(lease)
    };
    let options = WriteOptions::default();
    match registry.update(&LEASES, LEASE_NAMESPACE, name, Subresource::Main, change, &options).await {
        Err(status) if status.code == 404 => {
            let node = registry.get(&NODES, "", name).await?;
            let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name,
                                "uid": node["metadata"]["uid"]}]);
            let lease = json!({"metadata": {"name": name, "ownerReferences": owner}, "spec": spec});
            registry.create(&LEASES, LEASE_NAMESPACE, lease, &options).await.map(drop)
        }
        result => result.map(drop),
    }
}

pub fn now_s(registry: &Registry) -> i64 {
    let since = registry.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}
