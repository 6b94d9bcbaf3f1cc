//! `features` tells the truth: each item of its lists is done, and what it says is off is refused.

use crate::bundle::{Bundle, shell};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};

fn features(bundle: &Bundle) -> Value {
    serde_json::from_str(&bundle.runtime(&["features"]).expect_ok()).expect("JSON")
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().expect("a list").iter().map(|word| word.as_str().expect("text").to_owned()).collect()
}

#[test]
fn every_mount_option_is_understood() {
    let Some(bundle) = shell("true") else { return };
    fs::create_dir(bundle.dir.join("volume")).expect("made");
    let options = words(&features(&bundle)["mountOptions"]);
    let missing: Vec<&str> =
        RUNC.split_whitespace().filter(|word| !options.contains(&(*word).to_owned())).collect();
    assert_eq!(missing, [""; 0], "runc has them");
    let map = json!([{"containerID": 0, "hostID": 3000, "size": 10}]);
    let bundle = options.iter().enumerate().fold(bundle, |bundle, (index, option)| {
        let target = format!("/data-{index}");
        let mount = |kind: &str, options: Value| {
            json!({"destination": target, "type": kind, "source": "volume", "options": options})
        };
        let superblock = ["sync", "dirsync", "lazytime", "mand", "nomand", "nolazytime", "silent", "loud", "iversion", "noiversion"];
        match option.as_str() {
            "remount" => bundle.also("/mounts", mount("tmpfs", json!([]))).also("/mounts", mount("tmpfs", json!(["remount", "ro"]))),
            "tmpcopyup" => bundle.also("/mounts", mount("tmpfs", json!([option]))),
            "idmap" | "ridmap" => {
                let mut mount = mount("bind", json!(["rbind", option]));
                mount["uidMappings"] = map.clone();
                mount["gidMappings"] = map.clone();
                bundle.also("/mounts", mount)
            }
            option if superblock.contains(&option) => bundle.also("/mounts", mount("tmpfs", json!([option]))),
            option => bundle.also("/mounts", mount("bind", json!(["rbind", option]))),
        }
    });
    bundle.run().expect_ok();
}

const RUNC: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec \
    noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount rexec \
    rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave \
    rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";

#[test]
fn every_namespace_is_made() {
    let Some(mut bundle) = shell("true") else { return };
    bundle = bundle.with_users(100_000);
    let listed = words(&features(&bundle)["linux"]["namespaces"]);
    bundle.config["linux"]["namespaces"] = listed.iter().map(|kind| json!({"type": kind})).collect();
    bundle.config["process"]["args"] =
        json!(["/bin/sh", "-c", "cd /proc/self/ns; for kind in *; do readlink $kind; done"]);
    let out = bundle.run().expect_ok();
    let parse = |text: &str| -> BTreeMap<String, String> {
        text.lines()
            .filter_map(|line| line.split_once(':').map(|(kind, id)| (kind.to_owned(), id.to_owned())))
            .collect()
    };
    let own: String = fs::read_dir("/proc/self/ns")
        .expect("read")
        .flatten()
        .map(|entry| format!("{}\n", fs::read_link(entry.path()).expect("a link").display()))
        .collect();
    let (inside, outside) = (parse(&out), parse(&own));
    assert_eq!(listed.len(), 8);
    for kind in listed {
        let name = match kind.as_str() {
            "mount" => "mnt",
            "network" => "net",
            kind => kind,
        };
        assert!(inside[name] != outside[name], "{kind} is shared: {out}");
    }
}

/// Every action, by what it does to a call that a program makes.
#[test]
fn every_seccomp_action_does_what_it_says() {
    let Some(bundle) = shell("true") else { return };
    let seccomp = features(&bundle)["linux"]["seccomp"].clone();
    drop(bundle);
    let killed = 128 + libc::SIGSYS;
    for action in words(&seccomp["actions"]) {
        // The shell's own mkdir fails, or its process is killed; what is traced by nobody, or asked of nobody, is not implemented.
        let (code, out) = match action.as_str() {
            "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" => (0, ""),
            "SCMP_ACT_ERRNO" => (1, "File exists"),
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" | "SCMP_ACT_KILL_PROCESS" | "SCMP_ACT_TRAP" => {
                (killed, "")
            }
            "SCMP_ACT_TRACE" => (1, "not implemented"),
            // Its own test: a supervisor is needed.
            "SCMP_ACT_NOTIFY" => continue,
            other => panic!("{other} is new: test it"),
        };
        let Some(bundle) = shell("mkdir /made") else { return };
        let rule = if action == "SCMP_ACT_ERRNO" {
            json!({"names": ["mkdir", "mkdirat"], "action": action, "errnoRet": libc::EEXIST})
        } else {
            json!({"names": ["mkdir", "mkdirat"], "action": action})
        };
        let bundle = bundle
            .with("/process/args", json!(["/bin/mkdir", "/made"]))
            .with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        let answer = bundle.run();
        assert_eq!(answer.code, code, "{action}: {answer:?}");
        assert!(answer.err.contains(out), "{action}: {answer:?}");
    }
}

/// Every operator, by a filter of `kill`'s second argument: the signal.
#[test]
fn every_seccomp_operator_compares() {
    let Some(bundle) = shell("true") else { return };
    let operators = words(&features(&bundle)["linux"]["seccomp"]["operators"]);
    drop(bundle);
    // Of the signals 1, 2 and 3, those that a comparison with 2 refuses (with the mask 2: 2 and 3).
    let expected: BTreeMap<&str, &str> = [
        ("SCMP_CMP_EQ", "2"),
        ("SCMP_CMP_NE", "1 3"),
        ("SCMP_CMP_LT", "1"),
        ("SCMP_CMP_LE", "1 2"),
        ("SCMP_CMP_GT", "3"),
        ("SCMP_CMP_GE", "2 3"),
        ("SCMP_CMP_MASKED_EQ", "2 3"),
    ]
    .into();
    assert_eq!(operators.len(), expected.len());
    for operator in operators {
        let script = "trap '' 1 2 3; for s in 1 2 3; do busybox kill -$s $$ 2>/dev/null || echo $s; done | busybox xargs";
        let Some(bundle) = shell(script) else { return };
        let arg = json!({"index": 1, "value": 2, "valueTwo": 2, "op": operator});
        let rule = json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [arg]});
        let bundle =
            bundle.with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        assert_eq!(bundle.run().expect_ok().trim(), expected[&*operator], "{operator}");
    }
}

#[test]
fn every_seccomp_flag_is_taken() {
    let Some(bundle) = shell("grep -c 'Seccomp:.2' /proc/self/status") else { return };
    let seccomp = features(&bundle)["linux"]["seccomp"].clone();
    assert_eq!(seccomp["knownFlags"], seccomp["supportedFlags"]);
    let bundle = bundle.with(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": seccomp["supportedFlags"]}),
    );
    assert_eq!(bundle.run().expect_ok(), "1\n");
}

#[test]
fn what_is_off_is_refused_by_name() {
    let Some(bundle) = shell("true") else { return };
    let features = features(&bundle);
    assert_eq!(features["linux"]["cgroup"]["v1"], false);
    drop(bundle);
    assert_eq!(features["linux"]["intelRdt"]["enabled"], false);
    let Some(bundle) = shell("true") else { return };
    let bundle = bundle.with("/linux/intelRdt", json!({"closID": "x"}));
    bundle.run().expect_err(1, "linux.intelRdt: is not supported");
    assert!(!bundle.state_root().exists(), "nothing was made");
}

/// By what the kernel says of the program's memory; proc_pid_numa_maps(5).
#[test]
fn every_memory_policy_is_in_force() {
    let Some(bundle) = shell("true") else { return };
    let policy = features(&bundle)["linux"]["memoryPolicy"].clone();
    drop(bundle);
    let of = |policy: Value| {
        let bundle = shell("awk '{print $2; exit}' /proc/self/numa_maps")?;
        Some(bundle.with("/linux/memoryPolicy", policy).with("/linux/seccomp", Value::Null).run())
    };
    for mode in words(&policy["modes"]) {
        let (nodes, shown) = match mode.as_str() {
            "MPOL_DEFAULT" => ("", "default"),
            "MPOL_LOCAL" => ("", "local"),
            "MPOL_BIND" => ("0", "bind:0"),
            "MPOL_INTERLEAVE" => ("0", "interleave:0"),
            "MPOL_PREFERRED" => ("0", "prefer:0"),
            "MPOL_PREFERRED_MANY" => ("0", "prefer (many):0"),
            "MPOL_WEIGHTED_INTERLEAVE" => ("0", "weighted interleave:0"),
            other => panic!("{other} is new: test it"),
        };
        let Some(answer) = of(json!({"mode": mode, "nodes": nodes})) else { return };
        // Of a name with a space, awk shows the first word.
        assert_eq!(answer.expect_ok().trim(), shown.split(' ').next().expect("a word"), "{mode}");
    }
    for flag in words(&policy["flags"]) {
        let Some(answer) = of(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]})) else { return };
        assert!(answer.expect_ok().starts_with("bind"), "{flag}");
    }
    let Some(answer) = of(json!({"mode": "MPOL_BIND", "nodes": "1000"})) else { return };
    answer.expect_err(1, "linux.memoryPolicy: MPOL_BIND \"1000\"");
}
