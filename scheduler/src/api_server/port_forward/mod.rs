//! `portforward`: TCP connections to a pod's ports, over one WebSocket.
//!
//! kubectl speaks SPDY inside the WebSocket ([`tunnel`]), other clients the channel protocol ([`channels`]).

mod channels;
mod spdy;
mod tunnel;

use super::{Server, exec, logs::pod_place, request::Target, response::Answer, router::Call};
use agent_protocol::StreamRequest;
use api::{Status, resource};

const SPDY: &str = "SPDY/3.1+portforward.k8s.io";
const PROTOCOLS: [&str; 3] = [SPDY, "v5.channel.k8s.io", "v4.channel.k8s.io"];
const PORTS_MAX: usize = 32;
/// Bytes of one frame to a node.
const FRAME_BYTES: usize = 32 << 10;

/// The pod whose ports are forwarded.
#[derive(Clone)]
struct Pod {
    server: Server,
    node: String,
    uid: String,
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<super::streams::NodeStream, Status> {
        let request = StreamRequest::PortForward { pod_uid: self.uid.clone(), port };
        self.server.0.streams.open(&self.node, request).await
    }
}

impl Server {
    pub(super) async fn port_forward(&self, target: &Target, call: Call) -> Result<Answer, Status> {
        let pod = self.registry().get(&resource::PODS, &target.namespace, &target.name).await?;
        let (node, uid) = pod_place(&pod).ok_or_else(|| {
            Status::bad_request(format!("pod {} does not have a host assigned", target.name))
        })?;
        let pod = Pod { server: self.clone(), node, uid };
        let ports = call.query.all("ports").flat_map(|ports| ports.split(','));
        let ports: Vec<u16> = ports.filter_map(|port| port.parse().ok()).take(PORTS_MAX).collect();
        let mut parts = call.parts;
        let upgrade = exec::upgrade(&mut parts, &PROTOCOLS).await?;
        if upgrade.selected_protocol().is_some_and(|protocol| protocol == SPDY) {
            return Ok(upgrade.on_upgrade(move |socket| tunnel::serve(socket, pod)));
        }
        if ports.is_empty() {
            return Err(Status::bad_request("ports: Required value"));
        }
        let mut streams = Vec::new();
        for port in &ports {
            streams.push(pod.connect(*port).await?);
        }
        Ok(upgrade.on_upgrade(move |socket| channels::serve(socket, ports, streams)))
    }
}
