//! Services: who is served by whom, and what connections live through.

use crate::host::{CLUSTER_IP, DNS, Host, connect, wait_for, within};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket},
    str::FromStr,
};

fn cluster_ip() -> SocketAddr {
    (CLUSTER_IP, 80).into()
}

#[test]
fn endpoints_take_turns_on_every_way_in() {
    let mut host = Host::start();
    let ((pod, a), (_, b)) = (host.server("a"), host.server("b"));
    host.put(&[a, b]);
    let node_port = (Ipv4Addr::LOCALHOST, 30080).into();
    let by_bridge = (Ipv4Addr::new(10, 244, 0, 1), 30080).into();
    let node = host.node().to_owned();
    for (from, to) in [(&node, cluster_ip()), (&pod, cluster_ip()), (&node, node_port), (&pod, by_bridge)] {
        let mut served = BTreeMap::new();
        for _ in 0..10 {
            let (_, name) = wait_for("it is served", || connect(from, to).ok());
            *served.entry(name).or_insert(0) += 1;
        }
        let both = served.get("a").is_some_and(|&times| times >= 3)
            && served.get("b").is_some_and(|&times| times >= 3);
        assert!(both, "{from} → {to}: {served:?}");
    }
}

#[test]
fn a_connection_outlives_its_endpoint() {
    let mut host = Host::start();
    let ((_, a), (_, b)) = (host.server("a"), host.server("b"));
    host.put(&[a]);
    let node = host.node().to_owned();
    let (mut old, name) = wait_for("it is served", || connect(&node, cluster_ip()).ok());
    assert_eq!(name, "a");
    host.put(&[b]);
    wait_for("new connections go to the other", || {
        connect(&node, cluster_ip()).ok().filter(|(_, name)| name == "b")
    });
    old.write_all(b"still here").expect("sent");
    let mut echo = [0; 10];
    old.read_exact(&mut echo).expect("answered");
    assert_eq!(&echo, b"still here");
}

#[test]
fn without_an_endpoint_a_client_hears_it_at_once() {
    let mut host = Host::start();
    let (_, a) = host.server("a");
    let node = host.node().to_owned();
    host.put(&[]);
    assert!(connect(&node, cluster_ip()).is_err());
    let nobody = (Ipv4Addr::new(10, 244, 0, 200), 8080).into();
    let closed = SocketAddr::new(a.ip(), 9);
    host.put(&[closed, nobody, a]);
    for _ in 0..3 {
        let (_, name) = connect(&node, cluster_ip()).expect("the one that answers is found");
        assert_eq!(name, "a");
    }
    host.ask(netd_protocol::RequestBody::RemoveService { namespace: "d".into(), name: "web".into() })
        .expect("removed");
    wait_for("the port is closed", || connect(&node, cluster_ip()).is_err().then_some(()));
}

#[test]
fn bytes_arrive_whole_both_ways_and_the_end_of_one_way_is_passed_on() {
    const LEN: usize = 16 << 20;
    let mut host = Host::start();
    let (_, a) = host.server("a");
    host.put(&[a]);
    let node = host.node().to_owned();
    let (mut stream, _) = wait_for("it is served", || connect(&node, cluster_ip()).ok());
    let sent: Vec<u8> = (0..LEN).map(|index| (index * 7 % 251) as u8).collect();
    let mut writer = stream.try_clone().expect("cloned");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).expect("sent");
        writer.shutdown(Shutdown::Write).expect("closed");
    });
    let mut received = Vec::with_capacity(LEN);
    stream.read_to_end(&mut received).expect("read until the other way ends as well");
    writing.join().expect("no panic");
    assert!(received == sent, "{} of {LEN} bytes", received.len());
}

/// Addresses that netd's DNS has for a name, or the code of its refusal.
fn resolve(netns: &str, name: &str) -> Result<Vec<Ipv4Addr>, ResponseCode> {
    let mut question = Message::new(42, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_str(name).expect("a name"), RecordType::A));
    question.metadata.recursion_desired = true;
    let bytes = question.to_vec().expect("encoded");
    let answer = within(netns, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
        socket.set_read_timeout(Some(crate::host::SOON)).expect("set");
        socket.send_to(&bytes, (DNS, 53)).expect("sent");
        let mut buffer = [0; 1500];
        let (len, from) = socket.recv_from(&mut buffer).expect("answered");
        assert_eq!(from, (DNS, 53).into());
        Message::from_vec(&buffer[..len]).expect("DNS")
    });
    let address = |data: &RData| if let RData::A(address) = data { Some(address.0) } else { None };
    match answer.metadata.response_code {
        ResponseCode::NoError => {
            Ok(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
        }
        refusal => Err(refusal),
    }
}

#[test]
fn services_have_names() {
    let mut host = Host::start();
    let (pod, a) = host.server("a");
    host.put(&[a]);
    assert_eq!(resolve(&pod, "web.d.svc.cluster.local."), Ok(vec![CLUSTER_IP]));
    assert_eq!(resolve(&pod, "WEB.d.svc.cluster.local."), Ok(vec![CLUSTER_IP]));
    assert_eq!(resolve(&pod, "none.d.svc.cluster.local."), Err(ResponseCode::NXDomain));
}
