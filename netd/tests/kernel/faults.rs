//! What is kept over the daemon's death, what is repaired, and what is left behind: nothing.

use crate::host::{CLUSTER_IP, Host, connect, wait_for};
use netd_protocol::{ReplyBody, RequestBody};
use std::net::Ipv4Addr;

#[test]
fn addresses_are_kept_and_used_again() {
    let mut host = Host::start();
    let (first, second) = (host.netns(), host.netns());
    let (a, b) = (host.attach("a", &first), host.attach("b", &second));
    assert_ne!(a, b);
    assert_eq!(host.attach("a", &first), a, "the same pod again");
    host.kill();
    host.restart();
    assert_eq!(host.attach("a", &first), a, "after the daemon died");
    let attached = host.ask(RequestBody::Attachments).expect("told");
    assert_eq!(attached, ReplyBody::Attachments(vec![("a".into(), a), ("b".into(), b)]));
    host.ask(RequestBody::Detach { pod: "a".into() }).expect("detached");
    host.ask(RequestBody::Detach { pod: "a".into() }).expect("absent is success");
    host.ask(RequestBody::Retain { pods: Vec::new() }).expect("dropped");
    assert_eq!(host.ask(RequestBody::Attachments), Ok(ReplyBody::Attachments(Vec::new())));
    // Their namespaces still stand, so that the kernel removes none.
    wait_for("no link is left", || host.links().is_empty().then_some(()));
}

/// The network has room for one pod, so that the next gets the address of the one that has ended.
#[test]
fn an_address_is_free_when_its_link_is_gone() {
    let mut host = Host::start();
    host.configure_with(30);
    let (first, second) = (host.netns(), host.netns());
    let address = host.attach("a", &first);
    host.ask(RequestBody::Detach { pod: "a".into() }).expect("detached");
    assert_eq!(host.attach("b", &second), address);
    assert_eq!(host.links().len(), 1, "that of the first is gone");
    let path = std::path::PathBuf::from(format!("/run/netns/{first}"));
    let netns_inode = std::os::unix::fs::MetadataExt::ino(&path.metadata().expect("there"));
    let third = netd_protocol::Attach { pod: "c".into(), netns: path, netns_inode, host_ports: Vec::new() };
    let refused = host.ask(RequestBody::Attach(third)).expect_err("no address is left");
    assert_eq!(refused, "every address of this node is taken");
}

#[test]
fn a_daemon_that_dies_while_links_leave_loses_none() {
    let mut host = Host::start();
    let (first, second, third) = (host.netns(), host.netns(), host.netns());
    let (a, b) = (host.attach("a", &first), host.attach("b", &second));
    host.ask(RequestBody::Detach { pod: "a".into() }).expect("detached");
    host.ask(RequestBody::Detach { pod: "b".into() }).expect("detached");
    host.kill();
    host.restart();
    // What the agent says to a daemon that has come back.
    host.ask(RequestBody::Retain { pods: Vec::new() }).expect("dropped");
    let c = host.attach("c", &third);
    assert!(c != a && c != b, "{c} is the address of a link that is there");
    wait_for("their links go", || (host.links().len() == 1).then_some(()));
    let attached = host.ask(RequestBody::Attachments).expect("told");
    assert_eq!(attached, ReplyBody::Attachments(vec![("c".into(), c)]));
}

#[test]
fn a_pod_that_comes_back_while_its_link_leaves_keeps_the_new_one() {
    let mut host = Host::start();
    let (old, new, other) = (host.netns(), host.netns(), host.netns());
    let address = host.attach("a", &old);
    host.attach("b", &other);
    host.ask(RequestBody::Detach { pod: "a".into() }).expect("detached");
    host.ask(RequestBody::Detach { pod: "b".into() }).expect("detached");
    assert_eq!(host.attach("a", &new), address);
    wait_for("the other's link goes", || (host.links().len() == 1).then_some(()));
    let reached =
        crate::host::within(&new, || std::net::UdpSocket::bind("0.0.0.0:0")?.connect(("10.244.0.1", 9)));
    reached.expect("the new namespace is connected");
}

#[test]
fn a_pod_with_a_new_namespace_is_connected_anew() {
    let mut host = Host::start();
    let (old, new) = (host.netns(), host.netns());
    let address = host.attach("a", &old);
    // The old namespace still stands, as one that the kernel has not yet cleaned up.
    assert_eq!(host.attach("a", &new), address);
    let reached =
        crate::host::within(&new, || std::net::UdpSocket::bind("0.0.0.0:0")?.connect(("10.244.0.1", 9)));
    reached.expect("the new namespace has the route");
}

#[test]
fn a_namespace_that_is_another_is_refused() {
    let mut host = Host::start();
    let netns = host.netns();
    let attach = netd_protocol::Attach {
        pod: "a".into(),
        netns: format!("/run/netns/{netns}").into(),
        netns_inode: 1,
        host_ports: Vec::new(),
    };
    let refused = host.ask(RequestBody::Attach(attach)).expect_err("refused");
    assert!(refused.contains(&netns), "{refused}");
}

#[test]
fn a_new_daemon_serves_before_it_is_told_anything() {
    let mut host = Host::start();
    let (_, a) = host.server("a");
    host.put(&[a]);
    let node = host.node().to_owned();
    let to = (CLUSTER_IP, 80).into();
    wait_for("it is served", || connect(&node, to).ok());
    for _ in 0..3 {
        host.kill();
        host.restart();
        wait_for("it is served again", || connect(&node, to).ok());
    }
    let links = host.run("ip", &["-o", "link", "show", "type", "bridge"]);
    assert_eq!(links.lines().count(), 1, "one bridge: {links}");
}

#[test]
fn a_teardown_leaves_nothing() {
    let mut host = Host::start();
    let (_, a) = host.server("a");
    host.put(&[a]);
    host.ask(RequestBody::Teardown).expect("torn down");
    assert!(host.ended(), "the daemon ends well");
    assert_eq!(host.run("ip", &["-o", "link"]).lines().count(), 1, "only lo is left");
    assert_eq!(host.run("ip", &["route", "show", "table", "all", "proto", "static"]), "");
    assert!(!host.run("ip", &["route", "show", "table", "local"]).contains("10.96."));
    assert_eq!(host.run("nft", &["list", "tables"]), "");
    assert!(!host.run_dir().join("netd/state.bin").exists());
    let unreachable = connect(host.node(), (Ipv4Addr::LOCALHOST, 30080).into());
    assert!(unreachable.is_err());
}
