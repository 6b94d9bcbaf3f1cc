//! What every cluster has from the start: four namespaces and the Service that leads to this API.

use super::{Registry, Subresource, WriteOptions};
use api::{Status, resource};
use serde_json::{Value, json};
use std::net::IpAddr;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Registry {
    /// Creates what is missing; run at every start, before anything is served.
    pub async fn bootstrap(&self, advertise: IpAddr, port: u16) -> Result<(), Status> {
        let options = WriteOptions::default();
        for name in NAMESPACES {
            let namespace = json!({"metadata": {"name": name}});
            exists(self.create(&resource::NAMESPACES, "", namespace, &options).await)?;
        }
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": self.0.config.service_cidr.host(1).to_string(),
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
            },
        });
        exists(self.create(&resource::SERVICES, "default", service, &options).await)?;
        let endpoints = json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [advertise.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        });
        exists(self.create(&resource::ENDPOINT_SLICES, "default", endpoints.clone(), &options).await)?;
        let move_here = |mut slice: Value| {
            for field in ["endpoints", "ports"] {
                slice[field] = endpoints[field].clone();
            }
            Ok(slice)
        };
        let slices = &resource::ENDPOINT_SLICES;
        self.update(slices, "default", "kubernetes", Subresource::Main, move_here, &options).await?;
        Ok(())
    }
}

fn exists(created: Result<Value, Status>) -> Result<(), Status> {
    match created {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}
