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
        let say = format!("read -r state; echo \"{moment} $state\" >>{}", trace.display());
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
    bundle.run().expect_ok();
    let trace = fs::read_to_string(bundle.dir.join("trace")).expect("read");
    let seen: Vec<&str> = trace.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(seen, MOMENTS);
    let statuses = ["creating", "creating", "creating", "created", "running", "stopped"];
    for (line, status) in trace.lines().zip(statuses) {
        let state: Value = serde_json::from_str(line.split_once(' ').expect("two words").1).expect("JSON");
        assert_eq!((&state["status"], &state["id"]), (&json!(status), &json!(bundle.id)), "{line}");
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
