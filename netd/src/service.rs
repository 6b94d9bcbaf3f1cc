//! Services as listeners: which address leads to which endpoints. Pure but for the counters.

use netd_protocol::{HostPort, Protocol, Service};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Clients remembered for `sessionAffinity: ClientIP`, per port.
const CLIENTS_MAX: usize = 10_000;

/// Where connections to one address go.
#[derive(Debug)]
pub struct Backend {
    pub endpoints: Vec<SocketAddr>,
    next: AtomicUsize,
    affinity: Option<Duration>,
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

impl Backend {
    fn new(endpoints: Vec<SocketAddr>, affinity_s: Option<u32>) -> Self {
        let affinity = affinity_s.map(|seconds| Duration::from_secs(u64::from(seconds)));
        Self { endpoints, next: AtomicUsize::new(0), affinity, clients: Mutex::default() }
    }

    /// The endpoints to try for a client, in order: its own if it has one, else round robin.
    pub fn order(&self, client: IpAddr, now: Instant) -> Vec<SocketAddr> {
        let count = self.endpoints.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let mut order: Vec<SocketAddr> =
            self.endpoints.iter().cycle().skip(first).take(count).copied().collect();
        if self.affinity.is_some() {
            let clients = self.clients.lock().expect("no panic while locked");
            if let Some((own, _)) = clients.get(&client).filter(|(_, until)| now < *until)
                && let Some(at) = order.iter().position(|endpoint| endpoint == own)
            {
                order[..=at].rotate_right(1);
            }
        }
        order
    }

    /// Notes which endpoint has served a client.
    pub fn served(&self, client: IpAddr, endpoint: SocketAddr, now: Instant) {
        let Some(affinity) = self.affinity else { return };
        let mut clients = self.clients.lock().expect("no panic while locked");
        if clients.len() >= CLIENTS_MAX {
            clients.retain(|_, (_, until)| now < *until);
        }
        if clients.len() < CLIENTS_MAX {
            clients.insert(client, (endpoint, now + affinity));
        }
    }
}

/// Listeners by protocol and address.
pub type Table = BTreeMap<(Protocol, SocketAddr), Arc<Backend>>;

/// The listeners that services and host ports ask for. A backend that has not changed is kept, with what it remembers.
pub fn table<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    host_ports: impl IntoIterator<Item = (HostPort, Ipv4Addr)>,
    before: &Table,
) -> Table {
    let mut table = Table::new();
    let mut add = |protocol, address: SocketAddr, endpoints: &[SocketAddr], affinity_s: Option<u32>| {
        let affinity = affinity_s.map(|seconds| Duration::from_secs(u64::from(seconds)));
        let kept = before
            .get(&(protocol, address))
            .filter(|old| old.endpoints == endpoints && old.affinity == affinity);
        table.insert(
            (protocol, address),
            kept.cloned().unwrap_or_else(|| Arc::new(Backend::new(endpoints.to_vec(), affinity_s))),
        );
    };
    for service in services {
        for port in &service.ports {
            if let Some(cluster_ip) = service.cluster_ip {
                add(port.protocol, (cluster_ip, port.port).into(), &port.endpoints, service.affinity_s);
            }
            if let Some(node_port) = port.node_port {
                add(
                    port.protocol,
                    (Ipv4Addr::UNSPECIFIED, node_port).into(),
                    &port.endpoints,
                    service.affinity_s,
                );
            }
        }
    }
    for (port, pod) in host_ports {
        add(port.protocol, (Ipv4Addr::UNSPECIFIED, port.host).into(), &[(pod, port.container).into()], None);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use netd_protocol::ServicePort;

    fn service(endpoints: &[&str], affinity_s: Option<u32>) -> Service {
        let port = ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().expect("an address")).collect(),
        };
        Service {
            namespace: "d".to_owned(),
            name: "s".to_owned(),
            cluster_ip: Some(Ipv4Addr::new(10, 96, 0, 7)),
            external_name: None,
            ports: vec![port],
            hosts: Vec::new(),
            affinity_s,
        }
    }

    #[test]
    fn endpoints_take_turns_and_clients_may_stick() {
        let now = crate::clock::now();
        let client: IpAddr = Ipv4Addr::LOCALHOST.into();
        let firsts = |table: &Table, count: usize| -> Vec<u16> {
            let backend = table.values().next().expect("one");
            (0..count).map(|_| backend.order(client, now)[0].port()).collect()
        };
        let spread = table(&[service(&["10.0.0.1:1", "10.0.0.2:2"], None)], [], &Table::new());
        assert_eq!(spread.len(), 2, "cluster address and node port");
        assert_eq!(firsts(&spread, 4), [1, 2, 1, 2]);
        let sticky = table(&[service(&["10.0.0.1:1", "10.0.0.2:2"], Some(60))], [], &Table::new());
        sticky.values().next().expect("one").served(client, "10.0.0.2:2".parse().expect("an address"), now);
        assert_eq!(firsts(&sticky, 3), [2, 2, 2]);
        let same = table(&[service(&["10.0.0.1:1", "10.0.0.2:2"], None)], [], &spread);
        assert!(
            same.iter().all(|(key, backend)| Arc::ptr_eq(backend, &spread[key])),
            "nothing changed, nothing forgotten"
        );
    }
}
