//! The bytes of every message of version 1: daemons of different builds meet while a host is upgraded. Whoever changes a
//! row here makes a new version.

use codec::{Decode, Encode};
use netd_protocol::{
    Attach, Cidr, HostPort, Node, Protocol, Reply, ReplyBody, Request, RequestBody, Service, ServicePort,
};
use std::{fmt::Debug, net::Ipv4Addr};

const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

#[track_caller]
fn pinned<T: Encode + Decode<()> + PartialEq + Debug>(value: &T, expected: &str) {
    let bytes = codec::to_bytes(value).expect("encoded");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected, "{value:?}");
    assert_eq!(codec::from_bytes::<T>(&bytes).expect("decoded"), *value);
}

fn service() -> Service {
    let port = ServicePort {
        name: "n".into(),
        protocol: Protocol::Udp,
        port: 53,
        node_port: Some(30053),
        endpoints: vec![(IP, 53).into()],
    };
    Service {
        namespace: "d".into(),
        name: "s".into(),
        cluster_ip: Some(IP),
        external_name: None,
        ports: vec![port],
        hosts: vec![("h".into(), IP)],
        affinity_s: Some(1),
    }
}

#[test]
fn requests() {
    let cidr = Cidr { address: IP, prefix: 24 };
    let node = Node {
        pod_cidr: cidr,
        cluster_cidr: cidr,
        service_cidr: cidr,
        dns: IP,
        domain: "c".into(),
        upstream_dns: vec![IP.into()],
    };
    let host_port = HostPort { protocol: Protocol::Tcp, host: 80, container: 8080 };
    let attach = Attach { pod: "p".into(), netns: "/n".into(), netns_inode: 9, host_ports: vec![host_port] };
    pinned(&RequestBody::Configure(node), "000a000001180a000001180a000001180a000001016301000a000001");
    pinned(&RequestBody::Attach(attach), "010170022f6e09010050fb901f");
    pinned(&RequestBody::Detach { pod: "p".into() }, "020170");
    pinned(
        &RequestBody::SetServices(vec![service()]),
        "030101640173010a0000010001016e013501fb657501000a000001350101680a0000010101",
    );
    pinned(
        &RequestBody::PutService(service()),
        "0401640173010a0000010001016e013501fb657501000a000001350101680a0000010101",
    );
    pinned(&RequestBody::RemoveService { namespace: "d".into(), name: "s".into() }, "0501640173");
    pinned(&RequestBody::Attachments, "06");
    pinned(&RequestBody::Retain { pods: vec!["p".into()] }, "07010170");
    pinned(&Request { tag: 7, body: RequestBody::Teardown }, "0708");
}

#[test]
fn replies() {
    let reply = |result| Reply { tag: 7, result };
    pinned(&reply(Ok(ReplyBody::Done)), "070000");
    pinned(&reply(Ok(ReplyBody::Attached { address: IP, gateway: IP })), "0700010a0000010a000001");
    pinned(&reply(Ok(ReplyBody::Attachments(vec![("p".into(), IP)]))), "0700020101700a000001");
    pinned(&reply(Err("no".into())), "0701026e6f");
}
