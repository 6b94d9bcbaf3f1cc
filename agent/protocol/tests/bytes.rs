//! The bytes of the messages of version 1: agents and schedulers of different builds meet while hosts are upgraded.
//! Whoever changes a row here makes a new version.

use agent_protocol::{
    ClusterConfig, Dial, Event, FromAgent, ImageDetails, ImageFormat, ImageInfo, LocalReply, LocalRequest,
    NodeStatus, Protocol, Service, ServicePort, StreamFrame, StreamRequest, ToAgent,
};
use codec::{Decode, Encode};
use std::{fmt::Debug, net::Ipv4Addr};

const IP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

#[track_caller]
fn pinned<T: Encode + Decode<()> + PartialEq + Debug>(value: &T, expected: &str) {
    let bytes = codec::to_bytes(value).expect("encoded");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected, "{value:?}");
    assert_eq!(codec::from_bytes::<T>(&bytes).expect("decoded"), *value);
}

#[test]
fn to_the_agent() {
    let cluster = ClusterConfig {
        pod_cidr: (IP, 24),
        cluster_cidr: (IP, 16),
        service_cidr: (IP, 12),
        dns: IP,
        domain: "c".into(),
        version: "1".into(),
    };
    let port = ServicePort {
        name: "n".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        endpoints: vec![(IP, 80).into()],
    };
    let service = Service {
        namespace: "d".into(),
        name: "s".into(),
        cluster_ip: Some(IP),
        external_name: None,
        ports: vec![port],
        hosts: Vec::new(),
        affinity_s: None,
    };
    pinned(&ToAgent::Welcome(cluster), "000a000001180a000001100a0000010c0a00000101630131");
    pinned(&ToAgent::Refused { reason: "no".into() }, "01026e6f");
    pinned(&ToAgent::SyncBegin { seq: 1 }, "0201");
    pinned(&ToAgent::SyncEnd { seq: 2 }, "0302");
    pinned(&ToAgent::RemovePod { seq: 3, uid: "u".into() }, "05030175");
    pinned(
        &ToAgent::PutService { seq: 4, service },
        "060401640173010a0000010001016e00500001000a000001500000",
    );
    pinned(&ToAgent::RemoveService { seq: 5, namespace: "d".into(), name: "s".into() }, "070501640173");
    let request = StreamRequest::PortForward { pod_uid: "u".into(), port: 80 };
    pinned(&ToAgent::OpenStream { token: 6, request }, "080603017550");
    pinned(&ToAgent::Ping { nonce: 7 }, "0907");
}

#[test]
fn from_the_agent() {
    let event = Event {
        pod_uid: Some("u".into()),
        namespace: "d".into(),
        pod: "p".into(),
        field_path: "f".into(),
        warning: true,
        reason: "r".into(),
        message: "m".into(),
        at_ns: 1,
    };
    let status = NodeStatus {
        memory_available_bytes: 1,
        disk_available_bytes: 2,
        images: vec![(vec!["i".into()], 3)],
        ready: true,
        message: "m".into(),
    };
    pinned(&Dial::Stream { token: 1 }, "0101");
    pinned(&FromAgent::Applied { seq: 1 }, "0001");
    pinned(&FromAgent::Gone { uid: "u".into() }, "020175");
    pinned(&FromAgent::Event(event), "03010175016401700166010172016d01");
    pinned(&FromAgent::Node(status), "040102010101690301016d");
    pinned(&FromAgent::Pong { nonce: 7 }, "0507");
}

#[test]
fn streams() {
    let exec = StreamRequest::Exec {
        pod_uid: "u".into(),
        container: "c".into(),
        command: vec!["ls".into()],
        stdin: true,
        tty: false,
    };
    let logs = StreamRequest::Logs {
        pod_uid: "u".into(),
        container: "c".into(),
        follow: true,
        previous: false,
        since_ns: None,
        tail_lines: Some(1),
        limit_bytes: None,
        timestamps: true,
    };
    pinned(&logs, "000175016301000001010001");
    pinned(&exec, "010175016301026c730100");
    pinned(
        &StreamRequest::Attach { pod_uid: "u".into(), container: "c".into(), stdin: true },
        "020175016301",
    );
    pinned(&StreamFrame::Data { channel: 1, bytes: b"x".to_vec() }, "00010178");
    pinned(&StreamFrame::Close { channel: 0 }, "0100");
    pinned(&StreamFrame::Resize { width: 80, height: 24 }, "025018");
    pinned(&StreamFrame::Exit { code: 7 }, "030e");
    pinned(&StreamFrame::Failed { not_found: true, message: "no".into() }, "0401026e6f");
}

#[test]
fn on_the_host() {
    let reference = || "r".to_owned();
    pinned(&LocalRequest::Images, "00");
    pinned(&LocalRequest::Pull { reference: reference() }, "010172");
    pinned(&LocalRequest::Import { path: "p".into(), name: None }, "02017000");
    pinned(&LocalRequest::RemoveImage { reference: reference() }, "030172");
    pinned(&LocalRequest::Pods, "04");
    pinned(&LocalRequest::Drain { grace_s: 1 }, "0601");
    pinned(&LocalRequest::InspectImage { reference: reference() }, "070172");
    pinned(&LocalRequest::PruneImages { all: true }, "0801");
    pinned(&LocalRequest::ExportImage { reference: reference(), format: ImageFormat::Oci }, "09017200");
    pinned(&LocalRequest::ExportImage { reference: reference(), format: ImageFormat::Docker }, "09017201");
    pinned(&LocalRequest::ImportStream { name: Some("n".into()) }, "0a01016e");
    let info = ImageInfo { names: vec!["n".into()], digest: "d".into(), size_bytes: 1, created_s: 2 };
    let details = ImageDetails {
        info: info.clone(),
        layers: vec![("l".into(), 3)],
        last_used_s: Some(4),
        used_by: vec!["u".into()],
        config: "{}".into(),
    };
    pinned(&LocalReply::Images(vec![info]), "000101016e01640104");
    pinned(&LocalReply::Done("d".into()), "030164");
    pinned(&LocalReply::Failed("f".into()), "040166");
    pinned(&LocalReply::Image(Box::new(details)), "0501016e0164010401016c030104010175027b7d");
    let removed = vec![("d".to_owned(), vec!["n".to_owned()])];
    pinned(&LocalReply::Pruned { removed, freed_bytes: 1 }, "0601016401016e01");
    pinned(&LocalReply::Data(b"x".to_vec()), "070178");
}
