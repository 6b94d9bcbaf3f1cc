//! DNS for pods: names of the cluster answered here, others by the host's resolvers.
//!
//! Source: Kubernetes DNS specification 1.1.0: `<service>.<namespace>.svc.<domain>` (A, SRV of named ports), headless services and host names, CNAME for ExternalName.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, CNAME, SRV},
    },
};
use netd_protocol::{Protocol, Service};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};

const TTL_S: u32 = 5;
const UPSTREAM_WAIT: Duration = Duration::from_secs(2);
const FORWARDED_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 4096;
/// What fits into a UDP answer without EDNS.
const UDP_BYTES: usize = 512;

/// What names are answered from.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    pub domain: String,
    pub services: BTreeMap<(String, String), Service>,
    pub upstream: Vec<IpAddr>,
}

pub type Shared = Arc<RwLock<Zone>>;

/// What the zone knows of a name.
#[derive(Debug, PartialEq)]
enum Found {
    /// Of the cluster: records, perhaps none of this type.
    Records(Vec<RData>),
    NoSuchName,
    /// Not of the cluster.
    Elsewhere,
}

fn find(zone: &Zone, name: &str, kind: RecordType) -> Found {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let Some(inside) = name.strip_suffix(&zone.domain).and_then(|rest| rest.strip_suffix('.')) else {
        return if name == zone.domain { Found::Records(Vec::new()) } else { Found::Elsewhere };
    };
    let labels: Vec<&str> = inside.split('.').collect();
    let Some((before, "svc")) = labels.split_last().map(|(last, before)| (before, *last)) else {
        return Found::NoSuchName;
    };
    let Some((namespace, before)) = before.split_last() else { return Found::Records(Vec::new()) };
    let Some((service, before)) = before.split_last() else {
        let known = zone.services.keys().any(|(of, _)| of == namespace);
        return if known { Found::Records(Vec::new()) } else { Found::NoSuchName };
    };
    let Some(found) = zone.services.get(&((*namespace).to_owned(), (*service).to_owned())) else {
        return Found::NoSuchName;
    };
    let own_name = format!("{service}.{namespace}.svc.{}.", zone.domain);
    match before {
        [] => Found::Records(of_service(found, kind)),
        [host] => match found.hosts.iter().find(|(name, _)| name == host) {
            Some((_, address)) if kind == RecordType::A => Found::Records(vec![RData::A(A(*address))]),
            Some(_) => Found::Records(Vec::new()),
            None => Found::NoSuchName,
        },
        [port, protocol] => of_port(found, port, protocol, kind, &own_name),
        _ => Found::NoSuchName,
    }
}

fn of_service(service: &Service, kind: RecordType) -> Vec<RData> {
    if let Some(target) = &service.external_name {
        let target = Name::from_ascii(target).map(|name| RData::CNAME(CNAME(name)));
        return target.into_iter().collect();
    }
    if kind != RecordType::A {
        return Vec::new();
    }
    match service.cluster_ip {
        Some(address) => vec![RData::A(A(address))],
        None => service.hosts.iter().map(|(_, address)| RData::A(A(*address))).collect(),
    }
}

fn of_port(service: &Service, port: &str, protocol: &str, kind: RecordType, name: &str) -> Found {
    let wanted = match protocol {
        "_tcp" => Protocol::Tcp,
        "_udp" => Protocol::Udp,
        _ => return Found::NoSuchName,
    };
    let port = port.strip_prefix('_').unwrap_or_default();
    let Some(port) = service.ports.iter().find(|have| have.name == port && have.protocol == wanted) else {
        return Found::NoSuchName;
    };
    if kind != RecordType::SRV {
        return Found::Records(Vec::new());
    }
    let targets: Vec<String> = match service.cluster_ip {
        Some(_) => vec![name.to_owned()],
        None => service
            .hosts
            .iter()
            .filter(|(host, _)| !host.is_empty())
            .map(|(host, _)| format!("{host}.{name}"))
            .collect(),
    };
    let records = targets
        .iter()
        .filter_map(|target| Some(RData::SRV(SRV::new(0, 100, port.port, Name::from_ascii(target).ok()?))));
    Found::Records(records.collect())
}

/// The answer to a query of the cluster; `None` when others are to be asked.
fn answer(zone: &Zone, request: &Message) -> Option<Message> {
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&request.queries);
    let [query] = request.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return Some(reply);
    };
    if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return Some(reply);
    }
    match find(zone, &query.name().to_ascii(), query.query_type()) {
        Found::Elsewhere => {
            return reverse(zone, query).map(|record| {
                reply.answers.push(record);
                reply
            });
        }
        Found::NoSuchName => reply.metadata.response_code = ResponseCode::NXDomain,
        Found::Records(records) => {
            reply.answers = records
                .into_iter()
                .map(|data| Record::from_rdata(query.name().clone(), TTL_S, data))
                .collect();
        }
    }
    reply.metadata.authoritative = true;
    Some(reply)
}

/// The name of a service's address.
fn reverse(zone: &Zone, query: &Query) -> Option<Record> {
    let name = query.name().to_ascii().to_ascii_lowercase();
    let labels: Vec<&str> = name.strip_suffix(".in-addr.arpa.")?.split('.').collect();
    let octets: Vec<u8> = labels.iter().rev().filter_map(|label| label.parse().ok()).collect();
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?);
    let ((namespace, service), _) =
        zone.services.iter().find(|(_, service)| service.cluster_ip == Some(address))?;
    let target = Name::from_ascii(format!("{service}.{namespace}.svc.{}.", zone.domain)).ok()?;
    let mut record =
        Record::from_rdata(query.name().clone(), TTL_S, RData::PTR(hickory_proto::rr::rdata::PTR(target)));
    record.dns_class = DNSClass::IN;
    Some(record)
}

/// Serves `address` over UDP and TCP until it is aborted.
pub async fn serve(address: Ipv4Addr, zone: Shared) -> std::io::Result<()> {
    let udp = Arc::new(UdpSocket::bind((address, 53)).await?);
    let tcp = TcpListener::bind((address, 53)).await?;
    let forwarded = Arc::new(Semaphore::new(FORWARDED_MAX));
    tokio::try_join!(serve_udp(udp, zone.clone(), forwarded.clone()), serve_tcp(tcp, zone, forwarded))?;
    Ok(())
}

async fn serve_udp(socket: Arc<UdpSocket>, zone: Shared, forwarded: Arc<Semaphore>) -> std::io::Result<()> {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let (len, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // A client that has closed its port reports here too.
            Err(_) => continue,
        };
        let Ok(request) = Message::from_vec(&buffer[..len]) else { continue };
        let known = answer(&zone.read().expect("no panic while locked"), &request);
        let limit = usize::from(request.max_payload()).max(UDP_BYTES);
        if let Some(reply) = known {
            let _ = socket.send_to(&encode(&reply, limit), peer).await;
            continue;
        }
        let Ok(permit) = forwarded.clone().try_acquire_owned() else { continue };
        let (socket, bytes, zone) = (socket.clone(), buffer[..len].to_vec(), zone.clone());
        tokio::spawn(async move {
            let reply = forward(&bytes, &request, &zone, false).await;
            let _ = socket.send_to(&reply, peer).await;
            drop(permit);
        });
    }
}

async fn serve_tcp(listener: TcpListener, zone: Shared, forwarded: Arc<Semaphore>) -> std::io::Result<()> {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let Ok(permit) = forwarded.clone().try_acquire_owned() else { continue };
        let zone = zone.clone();
        tokio::spawn(async move {
            // A client that goes away early needs no answer.
            let _ = tokio::time::timeout(UPSTREAM_WAIT * 5, converse(stream, zone)).await;
            drop(permit);
        });
    }
}

async fn converse(mut stream: TcpStream, zone: Shared) -> std::io::Result<()> {
    loop {
        let bytes = read_message(&mut stream).await?;
        let Ok(request) = Message::from_vec(&bytes) else { return Ok(()) };
        let known = answer(&zone.read().expect("no panic while locked"), &request);
        let reply = match known {
            Some(reply) => encode(&reply, usize::from(u16::MAX)),
            None => forward(&bytes, &request, &zone, true).await,
        };
        write_message(&mut stream, &reply).await?;
    }
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(len)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let len = u16::try_from(bytes.len()).unwrap_or(0);
    stream.write_all(&[&len.to_be_bytes(), bytes].concat()).await
}

/// Asks the resolvers one after another; SERVFAIL when none answers.
async fn forward(bytes: &[u8], request: &Message, zone: &Shared, tcp: bool) -> Vec<u8> {
    let upstream = zone.read().expect("no panic while locked").upstream.clone();
    for server in upstream {
        let server = SocketAddr::from((server, 53));
        let asked = async {
            if tcp { ask_tcp(server, bytes).await } else { ask_udp(server, bytes, request.metadata.id).await }
        };
        if let Ok(Ok(reply)) = tokio::time::timeout(UPSTREAM_WAIT, asked).await {
            return reply;
        }
    }
    let mut reply = Message::error_msg(request.metadata.id, OpCode::Query, ResponseCode::ServFail);
    reply.queries.clone_from(&request.queries);
    encode(&reply, UDP_BYTES)
}

async fn ask_udp(server: SocketAddr, bytes: &[u8], id: u16) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if buffer.get(..2) == Some(&id.to_be_bytes()) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, bytes).await?;
    read_message(&mut stream).await
}

fn encode(reply: &Message, limit: usize) -> Vec<u8> {
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        Ok(_) => reply.truncate().to_vec().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// The host's own resolvers; loopback ones among them answer this host.
pub fn host_resolvers() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netd_protocol::ServicePort;

    fn zone() -> Zone {
        let port = ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: Vec::new(),
        };
        let service = |name: &str, cluster_ip, external_name: Option<&str>, hosts| Service {
            namespace: "web".to_owned(),
            name: name.to_owned(),
            cluster_ip,
            external_name: external_name.map(str::to_owned),
            ports: vec![port.clone()],
            hosts,
            affinity_s: None,
        };
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let services = [
            service("shop", Some(Ipv4Addr::new(10, 96, 0, 9)), None, Vec::new()),
            service(
                "db",
                None,
                None,
                vec![("db-0".to_owned(), address), (String::new(), Ipv4Addr::new(10, 0, 0, 2))],
            ),
            service("out", None, Some("example.org"), Vec::new()),
        ];
        let services = services
            .into_iter()
            .map(|service| ((service.namespace.clone(), service.name.clone()), service))
            .collect();
        Zone { domain: "cluster.local".to_owned(), services, upstream: Vec::new() }
    }

    #[test]
    fn names_of_the_cluster() {
        let count = |name: &str, kind| match find(&zone(), name, kind) {
            Found::Records(records) => records.len() as i32,
            Found::NoSuchName => -1,
            Found::Elsewhere => -2,
        };
        let cases = [
            ("shop.web.svc.cluster.local.", RecordType::A, 1),
            ("SHOP.web.svc.cluster.local.", RecordType::A, 1),
            ("shop.web.svc.cluster.local.", RecordType::AAAA, 0),
            ("db.web.svc.cluster.local.", RecordType::A, 2),
            ("db-0.db.web.svc.cluster.local.", RecordType::A, 1),
            ("db-9.db.web.svc.cluster.local.", RecordType::A, -1),
            ("_http._tcp.shop.web.svc.cluster.local.", RecordType::SRV, 1),
            ("_http._tcp.db.web.svc.cluster.local.", RecordType::SRV, 1),
            ("_none._tcp.shop.web.svc.cluster.local.", RecordType::SRV, -1),
            ("out.web.svc.cluster.local.", RecordType::A, 1),
            ("none.web.svc.cluster.local.", RecordType::A, -1),
            ("web.svc.cluster.local.", RecordType::A, 0),
            ("shop.none.svc.cluster.local.", RecordType::A, -1),
            ("example.org.", RecordType::A, -2),
            ("notcluster.local.", RecordType::A, -2),
        ];
        for (name, kind, expected) in cases {
            assert_eq!(count(name, kind), expected, "{name} {kind}");
        }
    }
}
