//! A pod's status as the API shows it, from what its node reports.
//!
//! Pure and stable: the same report gives the same bytes, and a condition keeps the time of its last transition until
//! its status changes. Conditions of other owners (PodScheduled, custom ones) stay.

use super::resolve::time_of_ns;
use crate::controllers::object::{items, rfc3339, text};
use agent_protocol::{ContainerState, ContainerStatus, Phase, PodStatus, Terminated};
use serde_json::{Map, Value, json};

/// Puts the report into the object's `status`; `host_ip` is the node's address.
pub fn merge(object: &mut Value, report: &PodStatus, host_ip: &str, now_s: i64) {
    let conditions = conditions(object, report, now_s);
    let generation = object["metadata"]["generation"].clone();
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    let Some(status) = object["status"].as_object_mut() else { return };
    let mut set = |field: &str, value: Value| match value {
        Value::Null => drop(status.remove(field)),
        value => drop(status.insert(field.to_owned(), value)),
    };
    let phase = match report.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    };
    set("phase", phase.into());
    set("reason", unless_empty(&report.reason));
    set("message", unless_empty(&report.message));
    set("observedGeneration", generation);
    set("conditions", conditions);
    set("hostIP", unless_empty(host_ip));
    set("hostIPs", if host_ip.is_empty() { Value::Null } else { json!([{"ip": host_ip}]) });
    if let Some(ip) = report.pod_ip {
        set("podIP", ip.to_string().into());
        set("podIPs", json!([{"ip": ip.to_string()}]));
    }
    if let Some(start_ns) = report.start_ns {
        set("startTime", time_of_ns(start_ns).into());
    }
    let list = |statuses: &[ContainerStatus]| match statuses {
        [] => Value::Null,
        statuses => statuses.iter().map(container).collect(),
    };
    set("initContainerStatuses", list(&report.init_containers));
    set("containerStatuses", list(&report.containers));
}

fn unless_empty(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn conditions(object: &Value, report: &PodStatus, now_s: i64) -> Value {
    let current = items(&object["status"]["conditions"]);
    let ended = match report.phase {
        Phase::Succeeded => Some("PodCompleted"),
        Phase::Failed => Some("PodFailed"),
        _ => None,
    };
    let unready = named(&report.containers, |status| !status.ready);
    let (containers_ready, why, message) = match ended {
        Some(reason) => (false, reason, String::new()),
        None if unready.is_empty() => (true, "", String::new()),
        None => (false, "ContainersNotReady", format!("containers with unready status: [{unready}]")),
    };
    let uninitialized = named(&report.init_containers, |status| {
        !matches!(&status.state, ContainerState::Terminated(end) if end.exit_code == 0) && !status.started
    });
    let (init_reason, init_message) = match (report.initialized, ended) {
        (true, Some("PodCompleted")) => ("PodCompleted", String::new()),
        (true, _) => ("", String::new()),
        (false, _) => {
            ("ContainersNotInitialized", format!("containers with incomplete status: [{uninitialized}]"))
        }
    };
    let gate = containers_ready.then(|| closed_gate(object, current)).flatten();
    let ready = match gate {
        Some(message) => (false, "ReadinessGatesNotReady", message),
        None => (containers_ready, why, message.clone()),
    };
    let ours = [
        ("PodReadyToStartContainers", (report.sandbox_ready, "", String::new())),
        ("Initialized", (report.initialized, init_reason, init_message)),
        ("Ready", ready),
        ("ContainersReady", (containers_ready, why, message)),
    ];
    let generation = &object["metadata"]["generation"];
    let mut list: Vec<Value> = ours
        .into_iter()
        .map(|(kind, (status, reason, message))| {
            let old = current.iter().find(|condition| text(&condition["type"]) == kind);
            condition(kind, status, (reason, &message), old, generation, now_s)
        })
        .collect();
    let is_ours = |c: &&Value| !list.iter().any(|mine| mine["type"] == c["type"]);
    let others: Vec<Value> = current.iter().filter(is_ours).cloned().collect();
    list.extend(others);
    list.into()
}

fn condition(
    kind: &str,
    status: bool,
    (reason, message): (&str, &str),
    old: Option<&Value>,
    generation: &Value,
    now_s: i64,
) -> Value {
    let status = if status { "True" } else { "False" };
    let since = old.filter(|old| text(&old["status"]) == status).map(|old| &old["lastTransitionTime"]);
    let since = since.cloned().unwrap_or_else(|| rfc3339(now_s).into());
    let mut condition = Map::new();
    condition.insert("type".into(), kind.into());
    condition.insert("status".into(), status.into());
    condition.insert("lastProbeTime".into(), Value::Null);
    condition.insert("lastTransitionTime".into(), since);
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            condition.insert(field.into(), text.into());
        }
    }
    if !generation.is_null() {
        condition.insert("observedGeneration".into(), generation.clone());
    }
    condition.into()
}

/// Names of the containers that are so, as kubelet lists them.
fn named(statuses: &[ContainerStatus], is: impl Fn(&ContainerStatus) -> bool) -> String {
    let names: Vec<&str> = statuses.iter().filter(|s| is(s)).map(|status| status.name.as_str()).collect();
    names.join(" ")
}

/// Why a readiness gate keeps the pod from being ready.
fn closed_gate(object: &Value, conditions: &[Value]) -> Option<String> {
    let gates = items(&object["spec"]["readinessGates"]).iter().map(|gate| text(&gate["conditionType"]));
    for gate in gates {
        let condition = conditions.iter().find(|condition| text(&condition["type"]) == gate);
        match condition.map(|condition| text(&condition["status"])) {
            Some("True") => {}
            Some(status) => {
                return Some(format!(
                    "the status of pod readiness gate \"{gate}\" is not \"True\", but {status}"
                ));
            }
            None => {
                return Some(format!(
                    "corresponding condition of pod readiness gate \"{gate}\" does not exist."
                ));
            }
        }
    }
    None
}

fn container(status: &ContainerStatus) -> Value {
    let last = status.last.as_ref().map_or(json!({}), |end| json!({"terminated": terminated(end)}));
    let state = match &status.state {
        ContainerState::Waiting { reason, message } => {
            let mut waiting = json!({"reason": reason});
            if !message.is_empty() {
                waiting["message"] = message.as_str().into();
            }
            json!({"waiting": waiting})
        }
        ContainerState::Running { started_ns } => json!({"running": {"startedAt": time_of_ns(*started_ns)}}),
        ContainerState::Terminated(end) => json!({"terminated": terminated(end)}),
    };
    let mut value = json!({
        "name": status.name,
        "state": state,
        "lastState": last,
        "ready": status.ready,
        "restartCount": status.restarts,
        "image": status.image,
        "imageID": status.image_id,
        "started": status.started,
    });
    if !status.container_id.is_empty() {
        value["containerID"] = status.container_id.as_str().into();
    }
    value
}

fn terminated(end: &Terminated) -> Value {
    let time = |ns: u64| if ns == 0 { Value::Null } else { time_of_ns(ns).into() };
    let mut value = json!({
        "exitCode": end.exit_code,
        "reason": end.reason,
        "startedAt": time(end.started_ns),
        "finishedAt": time(end.finished_ns),
    });
    if let Some(signal) = end.signal {
        value["signal"] = signal.into();
    }
    for (field, text) in [("message", &end.message), ("containerID", &end.container_id)] {
        if !text.is_empty() {
            value[field] = text.as_str().into();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(phase: Phase, ready: bool) -> PodStatus {
        PodStatus {
            uid: "u".into(),
            namespace: "d".into(),
            name: "p".into(),
            phase,
            reason: String::new(),
            message: String::new(),
            pod_ip: Some(std::net::Ipv4Addr::new(10, 244, 0, 5)),
            start_ns: Some(1_000_000_000),
            sandbox_ready: true,
            initialized: true,
            init_containers: Vec::new(),
            containers: vec![ContainerStatus {
                name: "main".into(),
                state: ContainerState::Running { started_ns: 2_000_000_000 },
                last: None,
                ready,
                started: true,
                restarts: 0,
                image: "i".into(),
                image_id: String::new(),
                container_id: "wherry://c".into(),
            }],
        }
    }

    fn shown(object: &Value, kind: &str) -> (String, String, String) {
        let list = items(&object["status"]["conditions"]);
        let found = list.iter().find(|c| c["type"] == kind).expect("condition is there");
        let field = |name: &str| text(&found[name]).to_owned();
        (field("status"), field("reason"), field("lastTransitionTime"))
    }

    #[test]
    fn conditions_say_what_kubelet_says_and_keep_their_times() {
        let mut object = json!({"metadata": {"generation": 1}, "status": {"conditions":
            [{"type": "PodScheduled", "status": "True"}]}});
        merge(&mut object, &report(Phase::Running, false), "1.2.3.4", 10);
        let not_ready = ("False".into(), "ContainersNotReady".into(), rfc3339(10));
        assert_eq!(shown(&object, "Ready"), not_ready);
        assert_eq!(shown(&object, "PodScheduled").0, "True");
        merge(&mut object, &report(Phase::Running, true), "1.2.3.4", 20);
        assert_eq!(shown(&object, "Ready"), ("True".into(), String::new(), rfc3339(20)));
        assert_eq!(shown(&object, "Initialized"), ("True".into(), String::new(), rfc3339(10)));
        let before = object.clone();
        merge(&mut object, &report(Phase::Running, true), "1.2.3.4", 30);
        assert_eq!(object, before, "the same report changes nothing");
        merge(&mut object, &report(Phase::Succeeded, true), "1.2.3.4", 40);
        assert_eq!(shown(&object, "Ready"), ("False".into(), "PodCompleted".into(), rfc3339(40)));
    }
}
