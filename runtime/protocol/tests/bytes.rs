//! The bytes of every message of version 1. A monitor outlives its agent, so a newer agent has to speak to an older
//! monitor: whoever changes a row here makes a new version.

use codec::{Decode, Encode};
use runtime_protocol::{
    Container, ContainerState, Create, Exec, Exit, FromMonitor, Ids, Limits, Open, Overlay, Request,
    RequestBody, Sandbox, StreamFrame,
};
use std::fmt::Debug;

#[track_caller]
fn pinned<T: Encode + Decode<()> + PartialEq + Debug>(value: &T, expected: &str) {
    let bytes = codec::to_bytes(value).expect("encoded");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected, "{value:?}");
    assert_eq!(codec::from_bytes::<T>(&bytes).expect("decoded"), *value);
}

#[test]
fn connections() {
    pinned(&Open::Control, "00");
    let exec = Exec { container: "c".into(), args: vec!["ls".into()], tty: true, stdin: false };
    pinned(&Open::Exec(exec), "01016301026c730100");
    pinned(&Open::Attach { container: "c".into() }, "020163");
    pinned(&Open::Forward { port: 80 }, "0350");
}

#[test]
fn requests() {
    let request = |body| Request { tag: 7, body };
    let create = Create {
        container: "c".into(),
        bundle: "/b".into(),
        overlay: Some(Overlay { lower: vec!["/l".into()], upper: "/u".into(), work: "/w".into() }),
        log: "/o".into(),
        log_bytes_max: 1,
        log_files: 2,
        stdin: true,
        stdin_once: false,
    };
    pinned(
        &request(RequestBody::Create(Box::new(create))),
        "07000163022f620101022f6c022f75022f77022f6f01020100",
    );
    pinned(&request(RequestBody::Start { container: "c".into() }), "07010163");
    pinned(&request(RequestBody::Signal { container: "c".into(), signal: 15, all: true }), "070201631e01");
    pinned(&request(RequestBody::Delete { container: "c".into() }), "07030163");
    pinned(&request(RequestBody::Shutdown), "0704");
    pinned(&request(RequestBody::Ping), "0705");
}

#[test]
fn answers() {
    let exit = Exit { code: 137, signal: Some(9), oom_killed: true, started_ns: 1, finished_ns: 2 };
    let container = |state| Container { container: "c".into(), state };
    let containers = vec![container(ContainerState::Created { pid: 3 })];
    pinned(&FromMonitor::Snapshot { pid: 1, netns_inode: 2, containers }, "0001020101630003");
    pinned(&FromMonitor::Reply { tag: 7, result: Ok(()) }, "010700");
    pinned(&FromMonitor::Reply { tag: 7, result: Err("no".into()) }, "010701026e6f");
    pinned(
        &FromMonitor::Changed(container(ContainerState::Running { pid: 3, started_ns: 4 })),
        "020163010304",
    );
    pinned(
        &FromMonitor::Changed(container(ContainerState::Exited(exit.clone()))),
        "02016302fb12010112010102",
    );
    pinned(&StreamFrame::Data { channel: 1, bytes: b"x".to_vec() }, "00010178");
    pinned(&StreamFrame::Close { channel: 0 }, "0100");
    pinned(&StreamFrame::Resize { width: 80, height: 24 }, "025018");
    pinned(&StreamFrame::Exit(exit), "03fb12010112010102");
    pinned(&StreamFrame::Failed { code: 127, message: "no".into() }, "04fbfe00026e6f");
}

#[test]
fn the_file_that_a_monitor_starts_from() {
    let limits = Limits {
        cpu_weight: Some(1),
        cpu_max: Some((2, 3)),
        memory_max: Some(4),
        memory_low: None,
        pids_max: Some(5),
    };
    let sandbox = Sandbox {
        pod: "p".into(),
        hostname: "h".into(),
        host_network: true,
        host_ipc: false,
        share_pid: true,
        sysctls: vec![("a".into(), "b".into())],
        cgroup: "/g".into(),
        limits: Some(limits),
        state_root: "/s".into(),
        users: Some(Ids { host: 6, count: 7 }),
    };
    pinned(&sandbox, "017001680100010101610162022f670101010102030104000105022f73010607");
}
