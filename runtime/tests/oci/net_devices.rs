//! `linux.netDevices`: devices of the network namespace that the runtime is run in.

use crate::bundle::{Answer, Bundle, shell};
use serde_json::{Value, json};
use std::process::Command;

/// Runs a script in a network namespace of its own with the devices `d0` and `d1`; `$RUN` in it is `run` of the bundle.
fn in_own_network(bundle: &Bundle, script: &str) -> Answer {
    bundle.write();
    let run = bundle.command(&["run", "{id}"]);
    let words: Vec<String> =
        run.get_args().map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
    let script = format!(
        "ip link add d0 type veth peer name d1; {}",
        script.replace("$RUN", &format!("timeout {}", words.join(" ")))
    );
    let output = Command::new("unshare").args(["-n", "sh", "-ec", &script]).current_dir(&bundle.dir).output();
    output.expect("unshare runs").into()
}

fn with_devices(script: &str, devices: Value) -> Option<Bundle> {
    Some(shell(script)?.with("/linux/netDevices", devices))
}

#[test]
fn a_device_moves_with_its_name_its_addresses_and_up() {
    let script = "busybox ip -o addr show dev eth5 | awk '{print $3, $4}'; busybox ip link show dev eth5; busybox ip link show dev d0";
    let Some(bundle) = with_devices(script, json!({"d0": {"name": "eth5"}})) else { return };
    let before = "ip link set d0 address 02:00:00:00:00:05 mtu 1400; ip addr add 192.0.2.1/24 dev d0; ip -6 addr add 2001:db8::1/64 dev d0; ";
    let answer = in_own_network(&bundle, &format!("{before} $RUN || true; ip link show d1"));
    let out = answer.out;
    assert!(
        out.contains("inet 192.0.2.1/24\n") && out.contains("inet6 2001:db8::1/64\n"),
        "{out}{}",
        answer.err
    );
    assert!(out.contains(",UP") && out.contains("mtu 1400") && out.contains("02:00:00:00:00:05"), "{out}");
    assert!(answer.err.contains("d0"), "it has its new name only: {}", answer.err);
    bundle.expect_gone();
}

#[test]
fn a_device_keeps_its_name_and_a_namespace_by_path_has_it_too() {
    let Some(bundle) = with_devices("busybox ip -o link show dev d0 | awk '{print $2}'", json!({"d0": {}}))
    else {
        return;
    };
    let answer = in_own_network(&bundle, "$RUN");
    assert_eq!(answer.expect_ok().split('@').next(), Some("d0"));
    let Some(holder) = shell("touch /ready; sleep 1000") else { return };
    holder.up();
    holder.wait_for("it runs", || holder.root().join("ready").exists());
    let path = format!("/proc/{}/ns/net", holder.state()["pid"]);
    let bundle = bundle.with("/linux/namespaces/4", json!({"type": "network", "path": path}));
    assert_eq!(in_own_network(&bundle, "$RUN").expect_ok().split('@').next(), Some("d0"));
}

#[test]
fn a_device_that_cannot_be_had_is_an_error_by_name() {
    for (devices, words) in [
        (json!({"none": {}}), "linux.netDevices: none: find it: "),
        // There is one of this name already: the container's own loopback.
        (json!({"d0": {"name": "lo"}}), "linux.netDevices: d0: move it"),
    ] {
        let Some(bundle) = with_devices("true", devices) else { return };
        in_own_network(&bundle, "$RUN").expect_err(1, words);
        bundle.expect_gone();
    }
}
