//! What the hub cannot do at once because it reads or writes the registry: done beside it, each ending in a [`Done`].

use super::{
    fetch::{Surroundings, fetch},
    register::{self, Network},
    status,
};
use crate::{
    controllers::{object::text, world::NsName},
    registry::{DeleteOptions, Registry, Subresource, WriteOptions},
};
use agent_protocol::{NodeInfo, NodeStatus, Pod, PodStatus};
use api::{Status, resource::PODS};
use serde_json::Value;
use std::time::Duration;
use tracing::warn;

const ATTEMPTS: u32 = 5;

pub enum Job {
    Register {
        connection: u64,
        info: Box<NodeInfo>,
        network: Network,
    },
    /// Every pod of a node, for its first state.
    Collect {
        connection: u64,
        pods: Vec<(String, NsName)>,
        around: Surroundings,
    },
    Resolve {
        connection: u64,
        uid: String,
        at: NsName,
        around: Surroundings,
    },
    PodStatus {
        report: Box<PodStatus>,
        host_ip: String,
    },
    /// Nothing of a deleted pod is left on its node.
    Finish {
        uid: String,
        at: NsName,
    },
    Node {
        connection: u64,
        name: String,
        status: Box<NodeStatus>,
    },
}

pub enum Done {
    Registered { connection: u64, pod_cidr: Result<String, Status> },
    Collected { connection: u64, pods: Result<Vec<Pod>, Status> },
    Resolved { connection: u64, uid: String, pod: Result<Option<Box<Pod>>, Status> },
    Pod { uid: String },
    Node { connection: u64 },
}

impl Job {
    pub async fn run(self, registry: Registry) -> Done {
        match self {
            Self::Register { connection, info, network } => {
                let pod_cidr = register::register(&registry, &info, &network).await;
                Done::Registered { connection, pod_cidr }
            }
            Self::Collect { connection, pods, around } => {
                let pods = collect(&registry, &pods, &around).await;
                Done::Collected { connection, pods }
            }
            Self::Resolve { connection, uid, at, around } => {
                let pod = fetch(&registry, &at, &uid, &around).await.map(|pod| pod.map(Box::new));
                Done::Resolved { connection, uid, pod }
            }
            Self::PodStatus { report, host_ip } => {
                let uid = report.uid.clone();
                persist("a pod's status", || write_status(&registry, &report, &host_ip)).await;
                Done::Pod { uid }
            }
            Self::Finish { uid, at } => {
                persist("a pod's end", || finish(&registry, &uid, &at)).await;
                Done::Pod { uid }
            }
            Self::Node { connection, name, status } => {
                persist("a node's status", || register::refresh(&registry, &name, &status)).await;
                Done::Node { connection }
            }
        }
    }
}

async fn collect(
    registry: &Registry,
    pods: &[(String, NsName)],
    around: &Surroundings,
) -> Result<Vec<Pod>, Status> {
    let mut resolved = Vec::with_capacity(pods.len());
    for (uid, at) in pods {
        resolved.extend(fetch(registry, at, uid, around).await?);
    }
    Ok(resolved)
}

/// Tries a write a few times; what cannot be written is logged, and the agent's next report says it again.
async fn persist<F: Future<Output = Result<(), Status>>>(what: &str, write: impl Fn() -> F) {
    for attempt in 1..=ATTEMPTS {
        match write().await {
            Ok(()) => return,
            Err(status) if status.code == 404 => return,
            Err(status) if attempt == ATTEMPTS || status.code == 422 => {
                warn!(error = %status, "{what} was not written");
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50) * attempt).await,
        }
    }
}

async fn write_status(registry: &Registry, report: &PodStatus, host_ip: &str) -> Result<(), Status> {
    let now_s = register::now_s(registry);
    let change = |mut object: Value| {
        if text(&object["metadata"]["uid"]) == report.uid {
            status::merge(&mut object, report, host_ip, now_s);
        }
        Ok(object)
    };
    let (options, part) = (WriteOptions::default(), Subresource::Status);
    registry.update(&PODS, &report.namespace, &report.name, part, change, &options).await.map(drop)
}

/// The world may not know of the deletion yet which the node has already carried out: the registry does.
async fn finish(registry: &Registry, uid: &str, at: &NsName) -> Result<(), Status> {
    let pod = registry.get(&PODS, &at.namespace, &at.name).await?;
    if pod["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let options = DeleteOptions { grace_period_s: Some(0), uid: Some(uid.to_owned()), ..Default::default() };
    match registry.delete(&PODS, &at.namespace, &at.name, &options).await {
        Err(status) if status.code == 409 => Ok(()),
        result => result.map(drop),
    }
}
