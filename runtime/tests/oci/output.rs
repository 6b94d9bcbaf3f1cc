//! What `list`, `state`, `ps`, `events` and `update` print and read, in the shape that runc 1.1.5 has.

use crate::bundle::{Bundle, shell};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::Stdio,
};

fn running() -> Option<Bundle> {
    let bundle = shell("sleep 1000")?;
    bundle.up();
    Some(bundle)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|err| panic!("{text}: {err}"))
}

/// Names of an object's fields, sorted.
fn fields(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn list_is_a_table_as_wide_as_runcs_or_ids_or_json() {
    let Some(bundle) = running() else { return };
    let pid = bundle.state()["pid"].to_string();
    let table = bundle.runtime(&["list"]).expect_ok();
    let lines: Vec<&str> = table.lines().collect();
    let words: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(words, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row: Vec<&str> = lines[1].split_whitespace().collect();
    let dir = bundle.dir.display().to_string();
    assert_eq!([row[0], row[1], row[2], row[3], row[5]], [&bundle.id, &pid, "running", &dir, "root"]);
    let at = |name: &str| lines[0].find(name).expect("a column");
    assert_eq!((at("STATUS") - at("PID"), at("BUNDLE") - at("STATUS")), (12, 12), "{table}");
    let listed = parsed(&bundle.runtime(&["list", "-f", "json"]).expect_ok());
    let expected = ["bundle", "created", "id", "ociVersion", "owner", "pid", "rootfs", "status"];
    assert_eq!((fields(&listed[0]), listed.as_array().map(Vec::len)), (expected.to_vec(), Some(1)));
    assert_eq!(listed[0], bundle.state(), "one document for both");
    // Ids alone, whatever the format.
    assert_eq!(bundle.runtime(&["list", "-f", "json", "-q"]).expect_ok(), format!("{}\n", bundle.id));
    bundle.runtime(&["kill", "{id}", "KILL"]).expect_ok();
    bundle.wait_for("it stops", || bundle.status() == "stopped");
    assert_eq!(bundle.state()["pid"], json!(0));
    bundle.runtime(&["delete", "{id}"]).expect_ok();
    assert_eq!(bundle.runtime(&["list", "-q"]).expect_ok(), "");
    // runc prints null.
    assert_eq!(bundle.runtime(&["list", "-f", "json"]).expect_ok(), "[]\n");
}

#[test]
fn ps_is_a_table_of_ps_or_pids() {
    let Some(bundle) = running() else { return };
    let pid = bundle.state()["pid"].to_string();
    assert_eq!(bundle.runtime(&["ps", "-f", "json", "{id}"]).expect_ok(), format!("[{pid}]\n"));
    for (options, first) in [(&[][..], "UID"), (&["aux"], "USER"), (&["-o", "comm,pid"], "COMMAND")] {
        let text = bundle.runtime(&[&["ps", "{id}"], options].concat()).expect_ok();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].starts_with(first), "{options:?}: {text}");
        assert!(lines[1].split_whitespace().any(|word| word == pid), "{options:?}: {text}");
    }
}

#[test]
fn stats_are_one_line_and_come_again_after_each_interval_until_the_end() {
    let Some(bundle) = running() else { return };
    let check = |line: &str| {
        let event = parsed(line);
        assert_eq!(
            (fields(&event), &event["type"], &event["id"]),
            (vec!["data", "id", "type"], &json!("stats"), &json!(bundle.id))
        );
        let data = &event["data"];
        assert_eq!(fields(data), ["blkio", "cpu", "hugetlb", "memory", "network_interfaces", "pids"]);
        assert_eq!(fields(&data["cpu"]["usage"]), ["kernel", "total", "user"]);
        assert_eq!(fields(&data["cpu"]["throttling"]), ["periods", "throttledPeriods", "throttledTime"]);
        assert_eq!(fields(&data["memory"]["usage"]), ["failcnt", "limit", "max", "usage"]);
        assert_eq!(fields(&data["memory"]["swap"]), ["failcnt", "limit", "max", "usage"]);
        assert_eq!(fields(&data["pids"]), ["current", "limit"]);
    };
    let text = bundle.runtime(&["events", "--stats", "{id}"]).expect_ok();
    assert_eq!(text.lines().count(), 1, "{text}");
    check(&text);
    let mut events = bundle.command(&["events", "--interval", "1ms", "{id}"]);
    let mut events = events.stdout(Stdio::piped()).spawn().expect("runs");
    let lines = BufReader::new(events.stdout.take().expect("a pipe")).lines();
    for (count, line) in lines.enumerate() {
        check(&line.expect("read"));
        if count == 3 {
            bundle.runtime(&["kill", "{id}", "KILL"]).expect_ok();
        }
    }
    assert!(events.wait().expect("ends").success());
}

#[test]
fn an_update_is_read_from_standard_input_whole() {
    let Some(bundle) = running() else { return };
    let update = |text: &str| {
        let path = bundle.dir.join("input");
        fs::write(&path, text).expect("written");
        let mut command = bundle.command(&["update", "--resources", "-", "{id}"]);
        command.stdin(File::open(path).expect("opened"));
        bundle.answer(command)
    };
    update(r#"{"cpu": 5}"#).expect_err(1, "-: cpu: invalid type: integer `5`");
    update(r#"{"memory": {"limit": "5"}}"#).expect_err(1, "-: memory.limit: invalid type: string \"5\"");
    update("").expect_err(1, "-: EOF while parsing a value");
    let answer = update(
        r#"{"strange": 5, "cpu": {}, "memory": {"swappiness": 5}, "pids": {"limit": 0}, "devices": []}"#,
    );
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.err.contains("-: unknown field strange is ignored"), "{answer:?}");
    assert!(answer.err.contains("linux.resources.memory.swappiness: 5: is ignored"), "{answer:?}");
    let hugetlb = bundle.cgroup().join("hugetlb.2MB.max");
    if hugetlb.exists() {
        update(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]}"#).expect_ok();
        assert_eq!(fs::read_to_string(hugetlb).expect("read"), "2097152\n");
    }
}
