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
fn a_template_becomes_a_name_that_is_free() {
    let devices = json!({"d0": {"name": "eth%d"}, "d1": {"name": "eth%d"}});
    let script = "busybox ip -o link show up | awk '{print $2}' | grep eth; busybox ip -o addr show";
    let Some(bundle) = with_devices(script, devices) else { return };
    let answer =
        in_own_network(&bundle, "ip addr add 192.0.2.1/24 dev d0; ip addr add 192.0.2.2/24 dev d1; $RUN");
    let out = answer.expect_ok();
    let names: Vec<&str> = out.lines().take(2).filter_map(|line| line.split(['@', ':']).next()).collect();
    assert!(names.contains(&"eth0") && names.contains(&"eth1"), "{out}");
    assert!(out.contains("192.0.2.1/24") && out.contains("192.0.2.2/24"), "{out}");
    // Not so a name that is one already.
    let Some(bundle) = with_devices("true", json!({"d0": {"name": "eth5"}, "d1": {"name": "eth5"}})) else {
        return;
    };
    in_own_network(&bundle, "$RUN").expect_err(1, "linux.netDevices: \"eth5\" is the name of two");
}

/// config-linux.md, "Namespace Lifecycle and Container Termination".
#[test]
fn a_device_belongs_to_its_namespace_and_is_not_taken_back() {
    let Some(holder) = shell("touch /ready; sleep 1000") else { return };
    holder.up();
    holder.wait_for("it runs", || holder.root().join("ready").exists());
    let path = format!("/proc/{}/ns/net", holder.state()["pid"]);
    let devices = json!({"d0": {"name": "kept"}});
    let Some(bundle) = with_devices("true", devices) else { return };
    let bundle = bundle.with("/linux/namespaces/4", json!({"type": "network", "path": path}));
    let script = format!("$RUN; nsenter --net={path} ip -o link show kept; ip -o link show");
    let out = in_own_network(&bundle, &script).expect_ok();
    assert!(out.contains("kept") && out.contains("d1") && !out.contains("d0:"), "{out}");
    bundle.expect_gone();
    // A namespace of the container's own ends with it, and so does a virtual device in it, with its peer.
    let Some(bundle) = with_devices("true", json!({"d0": {}})) else { return };
    let gone = "timeout 20 sh -c 'while ip link show d1 >/dev/null 2>&1; do :; done'; echo gone";
    assert_eq!(in_own_network(&bundle, &format!("$RUN; {gone}")).expect_ok(), "gone\n");
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
