//! Reads a pod and what it refers to, and resolves it.

use super::{
    Config,
    resolve::{ServiceAddress, Sources, resolve},
};
use crate::{
    controllers::{
        object::text,
        world::{NsName, Pod, Reference, World, amount::Amounts},
    },
    registry::Registry,
};
use api::{Status, resource};
use std::sync::Arc;

/// What every pod of a node is resolved with.
#[derive(Clone)]
pub struct Surroundings {
    pub config: Arc<Config>,
    pub services: Arc<Vec<ServiceAddress>>,
    pub node: Amounts,
}

/// The Services that pods get variables for.
pub fn service_addresses(world: &World) -> Vec<ServiceAddress> {
    let with_address = world
        .services
        .values()
        .filter(|service| !service.cluster_ip.is_empty() && !service.is_headless() && !service.is_external());
    let address = |service: &crate::controllers::world::Service| ServiceAddress {
        namespace: service.meta.at.namespace.clone(),
        name: service.meta.at.name.clone(),
        ip: service.cluster_ip.clone(),
        ports: service.ports.iter().map(|p| (p.name.clone(), p.protocol.clone(), p.port)).collect(),
    };
    with_address.map(address).collect()
}

/// The pod as its node is to run it; `None` when it is gone or another has its name.
pub async fn fetch(
    registry: &Registry,
    at: &NsName,
    uid: &str,
    around: &Surroundings,
) -> Result<Option<agent_protocol::Pod>, Status> {
    let mut sources = Sources {
        revision: registry.revision(),
        services: around.services.to_vec(),
        cluster_dns: Some(around.config.dns),
        cluster_domain: around.config.domain.clone(),
        node: around.node,
        ..Sources::default()
    };
    let object = match registry.get(&resource::PODS, &at.namespace, &at.name).await {
        Ok(object) if text(&object["metadata"]["uid"]) == uid => object,
        Ok(_) => return Ok(None),
        Err(status) if status.code == 404 => return Ok(None),
        Err(status) => return Err(status),
    };
    for reference in Pod::parse(&object, 0).references {
        let (kind, name) = match &reference {
            Reference::ConfigMap(name) => (&resource::CONFIG_MAPS, name),
            Reference::Secret(name) => (&resource::SECRETS, name),
        };
        let value = match registry.get(kind, &at.namespace, name).await {
            Ok(value) => value,
            Err(status) if status.code == 404 => continue,
            Err(status) => return Err(status),
        };
        let map = match &reference {
            Reference::ConfigMap(_) => &mut sources.config_maps,
            Reference::Secret(_) => &mut sources.secrets,
        };
        map.insert(name.clone(), value);
    }
    Ok(Some(resolve(&object, &sources)))
}
