//! What cannot be done: the exit code, words that name the field or path, and nothing left behind.

use crate::bundle::{Bundle, shell};
use serde_json::{Value, json};
use std::fs;

/// Fails with these words, before anything is made.
fn expect_refused(bundle: &Bundle, code: i32, words: &str) {
    bundle.runtime(&["run", "{id}"]).expect_err(code, words);
    assert!(!bundle.state_root().exists(), "{words}: nothing was made");
    assert!(!bundle.cgroup().exists(), "{words}: no cgroup was made");
}

#[test]
fn a_malformed_config_is_an_error_with_its_place() {
    let Some(bundle) = shell("true") else { return };
    let path = bundle.dir.join("config.json");
    let path = path.display();
    let whole = bundle.config.to_string();
    for (text, words) in [
        ("{\n  \"ociVersion\": \"1.0.2\",\n  oops\n}", "line 3 column 3"),
        (&whole[..whole.len() / 2], "EOF while parsing"),
        (&format!("{whole} again"), "trailing characters at line 1"),
        ("", "line 1 column 0"),
        ("5", "integer `5`, expected struct Spec at line 1 column 1"),
    ] {
        fs::write(bundle.dir.join("config.json"), text).expect("written");
        expect_refused(&bundle, 1, words);
        let answer = bundle.runtime(&["run", "{id}"]);
        assert!(answer.err.contains(&path.to_string()), "the file is named: {answer:?}");
    }
    fs::remove_file(bundle.dir.join("config.json")).expect("removed");
    expect_refused(&bundle, 1, "No such file or directory");
    bundle.runtime(&["run", "--bundle", "/nowhere", "{id}"]).expect_err(1, "/nowhere");
}

#[test]
fn a_wrong_type_or_word_is_an_error_with_its_field_and_place() {
    for (pointer, value, words) in [
        ("/ociVersion", json!(5), "ociVersion: invalid type: integer `5`, expected a string"),
        ("/root", json!("rootfs"), "root: invalid type: string \"rootfs\", expected struct Root"),
        (
            "/process/user",
            json!({"uid": -1, "gid": 0}),
            "process.user.uid: invalid value: integer `-1`, expected u32",
        ),
        (
            "/process/user",
            json!({"uid": "root", "gid": 0}),
            "process.user.uid: invalid type: string \"root\", expected u32",
        ),
        ("/process/args", json!("sh"), "process.args: invalid type: string \"sh\", expected a sequence"),
        ("/process/args", json!(["sh", 5]), "process.args[1]: invalid type: integer `5`, expected a string"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type: unknown variant `RLIMIT_X`, expected one of `RLIMIT_CPU`",
        ),
        (
            "/process/capabilities/bounding",
            json!(["CAP_KILL", 5]),
            "process.capabilities.bounding[1]: invalid type: integer `5`",
        ),
        (
            "/process/ioPriority",
            json!({"class": "X", "priority": 1}),
            "process.ioPriority.class: unknown variant `X`",
        ),
        (
            "/process/execCPUAffinity",
            json!({"final": "x"}),
            "process.execCPUAffinity: Invalid execCPUAffinity format: x at line 1 column",
        ),
        ("/mounts/0", json!({"type": "proc"}), "mounts[0]: missing field `destination`"),
        (
            "/linux/namespaces",
            json!([{"type": "planet"}]),
            "linux.namespaces[0].type: unknown variant `planet`",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_MAYBE"}),
            "linux.seccomp.defaultAction: unknown variant `SCMP_ACT_MAYBE`",
        ),
        (
            "/linux/resources",
            json!({"memory": {"limit": "64m"}}),
            "linux.resources.memory.limit: invalid type: string \"64m\", expected i64",
        ),
        ("/hooks", json!({"poststop": [{}]}), "hooks.poststop[0]: missing field `path`"),
    ] {
        let Some(bundle) = shell("true") else { return };
        let bundle = bundle.with(pointer, value);
        bundle.write();
        expect_refused(&bundle, 1, &format!("config.json: {words}"));
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name_before_anything_is_made() {
    for (pointer, value, words) in [
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/process/cwd", json!("tmp"), "process.cwd"),
        ("/process/user", json!({"uid": u32::MAX, "gid": 1000}), "process.user.uid"),
        ("/process/user", json!({"uid": 1000, "gid": u32::MAX}), "process.user.gid"),
        ("/process/env", json!(["NOVALUE"]), "process.env[0]"),
        ("/process/terminal", json!(true), "process.terminal"),
        ("/hostname", json!("x"), "hostname: needs a uts namespace"),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), "linux.sysctl: \"vm.swappiness\""),
        ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
        ("/linux/personality", json!({"domain": "LINUX", "flags": ["X"]}), "linux.personality.flags"),
        ("/linux/cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath"),
        ("/linux/seccomp/architectures", json!(["SCMP_ARCH_PPC"]), "linux.seccomp.architectures"),
        ("/hooks", json!({"poststop": [{"path": "relative"}]}), "hooks.poststop[0].path"),
    ] {
        let Some(bundle) = shell("true") else { return };
        // Whose cgroup's name is not that of the field under test.
        let (cgroup, mut bundle) = (bundle.cgroup(), bundle.with(pointer, value));
        if pointer == "/hostname" {
            let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("a list");
            namespaces.retain(|namespace| namespace["type"] != "uts");
        }
        bundle.write();
        bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}/container", bundle.id));
        expect_refused(&bundle, 1, words);
        assert_eq!(bundle.cgroup(), cgroup);
    }
}

#[test]
fn every_resource_without_a_counterpart_is_refused() {
    for (resources, field) in [
        (json!({"cpu": {"realtimeRuntime": 5}}), "cpu.realtimeRuntime"),
        (json!({"memory": {"limit": 4096, "swap": 1024}}), "memory.swap"),
        (json!({"network": {"classID": 5}}), "network.classID"),
        (json!({"blockIO": {"leafWeight": 5}}), "blockIO.leafWeight"),
        (json!({"devices": [{"allow": true, "access": "x"}]}), "devices"),
        (json!({"unified": {"../x": "1"}}), "unified"),
        (json!({"unified": {"cgroup.procs": "1"}}), "unified"),
    ] {
        let Some(bundle) = shell("true") else { return };
        let bundle = bundle.with("/linux/resources", resources);
        bundle.run().expect_err(1, &format!("linux.resources.{field}"));
        bundle.expect_gone();
    }
}

#[test]
fn settings_that_runc_passes_over_are_too_with_a_warning_by_name() {
    let Some(bundle) = shell("sleep 1000") else { return };
    let memory = json!({"kernel": 4096, "kernelTCP": 4096, "swappiness": 5, "disableOOMKiller": true});
    let bundle = bundle.with("/linux/resources", json!({ "memory": memory }));
    bundle.write();
    let words =
        |value: &str| format!("linux.resources.memory.{value}: is ignored: cgroup v2 has no such setting");
    let told = |answer: crate::bundle::Answer| {
        assert_eq!(answer.code, 0, "{answer:?}");
        for value in ["kernel: 4096", "kernelTCP: 4096", "swappiness: 5", "disableOOMKiller: true"] {
            assert_eq!(answer.err.matches(&words(value)).count(), 1, "{value}: {}", answer.err);
        }
    };
    told(bundle.runtime(&["create", "{id}"]));
    fs::write(bundle.dir.join("update.json"), json!({ "memory": memory }).to_string()).expect("written");
    told(bundle.runtime(&["update", "--resources", "update.json", "{id}"]));
}

#[test]
fn a_missing_root_is_named() {
    let Some(bundle) = shell("true") else { return };
    let bundle = bundle.with("/root/path", json!("nowhere"));
    bundle.run().expect_err(1, "open root.path");
    bundle.expect_gone();
    let Some(bundle) = shell("true") else { return };
    fs::write(bundle.dir.join("file"), "").expect("written");
    let bundle = bundle.with("/root/path", json!("file"));
    bundle.run().expect_err(1, "Not a directory");
    bundle.expect_gone();
}

#[test]
fn programs_that_cannot_run_are_named_at_create() {
    for (args, words) in [
        (json!(["no-such"]), "exec: \"no-such\": executable file not found in $PATH"),
        (json!(["/no/such"]), "no such file or directory"),
        (json!(["/data"]), "permission denied"),
        (json!(["/bin"]), "exec: \"/bin\": EACCES: permission denied"),
    ] {
        for command in ["run", "create"] {
            let Some(bundle) = shell("") else { return };
            fs::write(bundle.root().join("data"), "no program").expect("written");
            let bundle = bundle.with("/process/args", args.clone());
            bundle.write();
            let answer = bundle.runtime(&[command, "{id}"]);
            assert_eq!(answer.code, 1, "{command} {args}: {answer:?}");
            // docker and podman look for these words, whatever their case.
            assert!(
                answer.err.to_lowercase().contains(&words.to_lowercase()),
                "{command} {args}: {answer:?}"
            );
            bundle.expect_gone();
        }
    }
}

#[test]
fn users_that_are_not_mapped_are_refused() {
    let Some(bundle) = shell("true") else { return };
    let bundle = bundle.with_users(100_000).with("/process/user", json!({"uid": 70_000, "gid": 0}));
    bundle.run().expect_err(1, "process.user: uid 70000");
    bundle.expect_gone();
    let Some(bundle) = shell("true") else { return };
    let bundle = bundle
        .with_users(100_000)
        .with("/process/user", json!({"uid": 0, "gid": 0, "additionalGids": [70_000]}));
    bundle.run().expect_err(1, "process.user: groups");
    bundle.expect_gone();
}

#[test]
fn ids_are_taken_once_and_are_plain_names() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    for command in ["create", "run"] {
        let words = format!("container with given ID already exists: {}", bundle.id);
        bundle.runtime(&[command, "{id}"]).expect_err(1, &words);
    }
    assert_eq!(bundle.status(), "running", "the first is not touched");
    for id in ["a/b", "..", "", "a b"] {
        let answer = bundle.runtime(&["create", id]);
        answer.expect_err(1, &format!("invalid container ID format: {id:?}: allowed are"));
    }
}

#[test]
fn every_command_says_what_is_not_there() {
    let Some(bundle) = shell("true") else { return };
    for words in [
        &["start", "{id}"][..],
        &["state", "{id}"],
        &["kill", "{id}"],
        &["kill", "--all", "{id}"],
        &["delete", "{id}"],
        &["pause", "{id}"],
        &["resume", "{id}"],
        &["ps", "{id}"],
        &["events", "--stats", "{id}"],
        &["update", "--pids-limit", "5", "{id}"],
    ] {
        bundle.runtime(words).expect_err(1, &format!("container does not exist: {}", bundle.id));
    }
    bundle.runtime(&["exec", "{id}", "sh"]).expect_err(255, "container does not exist");
    bundle.runtime(&["delete", "--force", "{id}"]).expect_ok();
}

#[test]
fn updates_that_cannot_be_are_refused() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    fs::write(bundle.dir.join("wrong.json"), "{\n\"cpu\": 5}").expect("written");
    for (words, why) in [
        (&["--l3-cache-schema", "L3:0=f"][..], "linux.intelRdt is not supported"),
        (&["--mem-bw-schema", "MB:0=1"], "linux.intelRdt is not supported"),
        (&["--cpu-rt-runtime", "5"], "cpu.realtimeRuntime"),
        (&["--resources", "wrong.json"], "wrong.json: cpu: invalid type: integer `5`"),
        (&["--resources", "none.json"], "none.json"),
    ] {
        bundle.runtime(&[&["update"], words, &["{id}"]].concat()).expect_err(1, why);
    }
    for words in
        [&["--memory", "lots"][..], &["--memory", "1.5x"], &["--cpu-period", "-5"], &["--cpu-share", "x"]]
    {
        let answer = bundle.runtime(&[&["update"], words, &["{id}"]].concat());
        answer.expect_err(1, &format!("invalid value '{}' for '{} <", words[1], words[0]));
    }
    bundle.runtime(&["update", "--kernel-memory", "5m", "{id}"]).expect_ok();
}

#[test]
fn a_cgroup_that_others_are_in_is_left_alone() {
    let Some(first) = shell("sleep 1000") else { return };
    first.up();
    let Some(second) = shell("true") else { return };
    let second = second.with("/linux/cgroupsPath", first.config["linux"]["cgroupsPath"].clone());
    second.write();
    second.runtime(&["run", "{id}"]).expect_err(1, "is not empty");
    assert!(!second.state_root().join(&second.id).exists());
    assert_eq!(first.status(), "running", "nobody is killed");
    drop(first);
}

#[test]
fn a_container_without_a_cgroup_has_nothing_to_pause() {
    let Some(bundle) = shell("sleep 1000") else { return };
    bundle.up();
    // As an ordinary user's without a delegated cgroup.
    let path = bundle.state_root().join(&bundle.id).join("state.json");
    let whole = fs::read_to_string(&path).expect("read");
    let mut state: Value = serde_json::from_str(&whole).expect("JSON");
    state["cgroup"] = json!("");
    fs::write(&path, state.to_string()).expect("written");
    bundle.runtime(&["pause", "{id}"]).expect_err(1, "it has no cgroup of its own");
    bundle.runtime(&["update", "--pids-limit", "5", "{id}"]).expect_err(1, "it has no cgroup of its own");
    bundle.runtime(&["exec", "--cgroup", "x", "{id}", "sh"]).expect_err(255, "it has no cgroup of its own");
    fs::write(&path, whole).expect("written");
}
