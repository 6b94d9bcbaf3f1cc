//! Hooks: all six, in order, with the state on stdin, where the specification says they run.

use crate::bundle::{Bundle, shell};
use serde_json::{Value, json};
use std::fs;

const MOMENTS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A bundle with a hook at every moment that writes its name and its state's status.
fn hooked() -> Option<Bundle> {
    let mut bundle = shell("true")?;
    let trace = bundle.dir.join("trace");
    fs::write(&trace, "").expect("written");
    let hook = |moment: &str| {
        let say = format!(
            "read -r state; echo printed; echo \"{moment} $(readlink /proc/self/ns/uts) $state\" >>{}",
            trace.display()
        );
        let inside = moment == "startContainer";
        let say = if inside { say.replace(&*bundle.dir.to_string_lossy(), "/host") } else { say };
        json!([{"path": if inside { "/bin/sh" } else { "/bin/busybox" },
                "args": if inside { json!(["sh", "-c", say]) } else { json!(["busybox", "sh", "-c", say]) }}])
    };
    let hooks: serde_json::Map<String, Value> =
        MOMENTS.iter().map(|moment| ((*moment).to_owned(), hook(moment))).collect();
    let source = bundle.dir.clone();
    bundle.config["hooks"] = Value::Object(hooks);
    Some(bundle.also(
        "/mounts",
        json!({"destination": "/host", "type": "bind", "source": source, "options": ["bind"]}),
    ))
}

#[test]
fn hooks_run_in_order_with_the_state() {
    let Some(bundle) = hooked() else { return };
    let bundle = bundle.with("/annotations", json!({"org.example.key": "value"}));
    assert_eq!(bundle.run().expect_ok(), "", "what hooks print is not the container's output");
    let trace = fs::read_to_string(bundle.dir.join("trace")).expect("read");
    let seen: Vec<&str> = trace.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(seen, MOMENTS);
    let statuses = ["creating", "creating", "creating", "created", "running", "stopped"];
    let own = fs::read_link("/proc/self/ns/uts").expect("read");
    for (line, status) in trace.lines().zip(statuses) {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let [moment, namespace, state] = words[..] else { panic!("{line}") };
        let inside = ["createContainer", "startContainer"].contains(&moment);
        assert_eq!(own.to_str() != Some(namespace), inside, "whose namespaces: {line}");
        let state: Value = serde_json::from_str(state).expect("JSON");
        assert_eq!((&state["status"], &state["id"]), (&json!(status), &json!(bundle.id)), "{line}");
        assert_eq!(state["annotations"], json!({"org.example.key": "value"}), "{line}");
        assert_eq!(state["bundle"], json!(bundle.dir), "{line}");
        assert_eq!(state["pid"].is_i64(), *status != *"stopped", "{line}");
    }
}

#[test]
fn a_failing_hook_ends_the_container() {
    for moment in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let Some(mut bundle) = hooked() else { return };
        bundle.config["hooks"][moment] = json!([{"path": "/bin/busybox", "args": ["busybox", "false"]}]);
        if moment == "startContainer" {
            bundle.config["hooks"][moment][0]["path"] = json!("/bin/sh");
            bundle.config["hooks"][moment][0]["args"] = json!(["sh", "-c", "exit 1"]);
        }
        bundle.run().expect_err(1, &format!("{moment} hook"));
        bundle.expect_gone();
    }
}

#[test]
fn a_hook_that_hangs_is_stopped() {
    let Some(mut bundle) = shell("true") else { return };
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/busybox", "args": ["busybox", "sleep", "1000"], "timeout": 1}]});
    bundle.run().expect_err(1, "took longer than 1 s");
    bundle.expect_gone();
}

fn shell_hook(script: &str) -> Value {
    json!({"path": "/bin/busybox", "args": ["busybox", "sh", "-c", script]})
}

#[test]
fn what_a_failing_hook_says_is_in_the_error() {
    let Some(mut bundle) = shell("true") else { return };
    bundle.config["hooks"] = json!({"createRuntime": [shell_hook("echo no driver; echo found >&2; exit 4")]});
    bundle
        .run()
        .expect_err(1, "createRuntime hook /bin/busybox ended with exit status: 4: no driver | found");
    bundle.expect_gone();
}

#[test]
fn a_long_state_need_not_be_read() {
    let Some(mut bundle) = shell("true") else { return };
    // More than a pipe holds.
    bundle.config["annotations"] = json!({"org.example.long": "x".repeat(1 << 20)});
    bundle.config["hooks"] = json!({"prestart": [shell_hook("true")], "poststop": [shell_hook("true")]});
    bundle.run().expect_ok();
}

#[test]
fn environment_and_arguments_of_a_hook_are_its_own() {
    let Some(mut bundle) = shell("true") else { return };
    let mut hook = shell_hook(&format!("env >{}; echo $0 $1 >>{0}", bundle.dir.join("seen").display()));
    hook["args"].as_array_mut().expect("a list").extend([json!("zero"), json!("one")]);
    hook["env"] = json!(["PATH=/bin", "A=b=c"]);
    bundle.config["hooks"] = json!({"createRuntime": [hook]});
    bundle.run().expect_ok();
    let seen = fs::read_to_string(bundle.dir.join("seen")).expect("read");
    let mut lines: Vec<&str> =
        seen.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=b=c", "PATH=/bin", "zero one"]);
}

#[test]
fn a_failing_poststart_ends_the_container() {
    let Some(mut bundle) = shell("sleep 1000") else { return };
    bundle.config["hooks"] = json!({"poststart": [shell_hook("exit 1")]});
    bundle.write();
    bundle.runtime(&["create", "{id}"]).expect_ok();
    bundle.runtime(&["start", "{id}"]).expect_err(1, "poststart hook");
    bundle.wait_for("it ends", || bundle.status() == "stopped");
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    bundle.expect_gone();
}

#[test]
fn a_failing_poststop_is_a_warning_and_the_next_one_runs() {
    let Some(mut bundle) = shell("true") else { return };
    let touch = shell_hook(&format!("touch {}", bundle.dir.join("second").display()));
    bundle.config["hooks"] = json!({"poststop": [shell_hook("echo why; exit 1"), touch]});
    bundle.up();
    bundle.wait_for("it ends", || bundle.status() == "stopped");
    let answer = bundle.runtime(&["delete", "{id}"]);
    assert!(
        answer.code == 0
            && answer.err.contains("warning: poststop hook /bin/busybox ended with exit status: 1: why"),
        "{answer:?}"
    );
    assert!(bundle.dir.join("second").exists());
    bundle.expect_gone();
}
