//! Columns and cells of tables, as kubectl prints them.

use crate::clock;
use api::Resource;
use serde_json::{Value, json};
use std::time::SystemTime;

type Cell = fn(&Value, SystemTime) -> Value;
/// Name, JSON type, whether only `-o wide` shows it, and how it is made.
type Column = (&'static str, &'static str, bool, Cell);

const NAME: Column = ("Name", "string", false, |o, _| o["metadata"]["name"].clone());
const AGE: Column = ("Age", "string", false, |o, now| age(&o["metadata"]["creationTimestamp"], now));
const CONTAINERS: Column =
    ("Containers", "string", true, |o, _| names(&o["spec"]["template"]["spec"], "name"));
const IMAGES: Column = ("Images", "string", true, |o, _| names(&o["spec"]["template"]["spec"], "image"));
const SELECTOR: Column = ("Selector", "string", true, |o, _| pairs(&o["spec"]["selector"]["matchLabels"]));

/// `columnDefinitions` of a resource's table.
pub fn columns(resource: &Resource) -> Value {
    let definition = |(name, kind, wide, _): &Column| {
        let format = if *name == "Name" { "name" } else { "" };
        json!({"name": name, "type": kind, "format": format, "description": "", "priority": i32::from(*wide)})
    };
    all(resource).iter().map(definition).collect()
}

/// One row's cells.
pub fn cells(resource: &Resource, object: &Value, now: SystemTime) -> Value {
    all(resource).iter().map(|(.., cell)| cell(object, now)).collect()
}

fn all(resource: &Resource) -> Vec<Column> {
    match (resource.group, resource.plural) {
        ("", "pods") => pods(),
        ("", "nodes") => nodes(),
        ("", "services") => services(),
        ("", "events") => events(),
        ("", "namespaces") => {
            vec![NAME, ("Status", "string", false, |o, _| o["status"]["phase"].clone()), AGE]
        }
        ("", "configmaps") => vec![NAME, ("Data", "integer", false, |o, _| data(o)), AGE],
        ("", "secrets") => vec![
            NAME,
            ("Type", "string", false, |o, _| o["type"].clone()),
            ("Data", "integer", false, |o, _| data(o)),
            AGE,
        ],
        ("apps", "deployments") => deployments(),
        ("apps", "replicasets") => vec![
            NAME,
            ("Desired", "integer", false, |o, _| number(&o["spec"]["replicas"])),
            ("Current", "integer", false, |o, _| number(&o["status"]["replicas"])),
            ("Ready", "integer", false, |o, _| number(&o["status"]["readyReplicas"])),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ("discovery.k8s.io", "endpointslices") => vec![
            NAME,
            ("AddressType", "string", false, |o, _| o["addressType"].clone()),
            ("Ports", "string", false, |o, _| list(&o["ports"], |port| port["port"].to_string())),
            ("Endpoints", "string", false, |o, _| {
                list(&o["endpoints"], |e| text(&e["addresses"][0], "<none>"))
            }),
            AGE,
        ],
        _ => vec![NAME, AGE],
    }
}

fn pods() -> Vec<Column> {
    vec![
        NAME,
        ("Ready", "string", false, |o, _| {
            let ready = statuses(o).filter(|status| status["ready"] == true).count();
            json!(format!("{ready}/{}", o["spec"]["containers"].as_array().map_or(0, Vec::len)))
        }),
        ("Status", "string", false, |o, _| json!(pod_status(o))),
        ("Restarts", "string", false, |o, now| {
            let restarts: u64 = statuses(o).filter_map(|status| status["restartCount"].as_u64()).sum();
            let ended = |status: &Value| status["lastState"]["terminated"]["finishedAt"].clone();
            match statuses(o).map(ended).filter(Value::is_string).max_by_key(Value::to_string) {
                Some(last) if restarts != 0 => {
                    json!(format!("{restarts} ({} ago)", text(&age(&last, now), "<unknown>")))
                }
                _ => json!(restarts.to_string()),
            }
        }),
        AGE,
        ("IP", "string", true, |o, _| json!(text(&o["status"]["podIP"], "<none>"))),
        ("Node", "string", true, |o, _| json!(text(&o["spec"]["nodeName"], "<none>"))),
        ("Nominated Node", "string", true, |_, _| json!("<none>")),
        ("Readiness Gates", "string", true, |_, _| json!("<none>")),
    ]
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["status"]["containerStatuses"].as_array().into_iter().flatten()
}

/// As kubectl: what the first container that is not well says, else the phase.
fn pod_status(pod: &Value) -> String {
    let mut status = text(&pod["status"]["phase"], "Unknown");
    if let Some(reason) = pod["status"]["reason"].as_str().filter(|reason| !reason.is_empty()) {
        status = reason.into();
    }
    let init = pod["status"]["initContainerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, container) in init.iter().enumerate() {
        let state = &container["state"];
        let ended = &state["terminated"];
        if ended["exitCode"] == 0 || container["started"] == true {
            continue;
        }
        let waiting = state["waiting"]["reason"].as_str().filter(|reason| *reason != "PodInitializing");
        let reason = ended["reason"].as_str().or(waiting);
        return deleted(
            pod,
            reason.map_or(format!("Init:{index}/{}", init.len()), |why| format!("Init:{why}")),
        );
    }
    for container in statuses(pod) {
        let state = &container["state"];
        if let Some(reason) = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str()) {
            status = reason.into();
        } else if let Some(code) = state["terminated"]["exitCode"].as_i64() {
            status = format!("ExitCode:{code}");
        }
    }
    if status == "Completed" && statuses(pod).any(|status| status["state"]["running"].is_object()) {
        status = "Running".into();
    }
    deleted(pod, status)
}

fn deleted(pod: &Value, status: String) -> String {
    if pod["metadata"]["deletionTimestamp"].is_null() { status } else { "Terminating".into() }
}

fn nodes() -> Vec<Column> {
    vec![
        NAME,
        ("Status", "string", false, |o, _| {
            let ready = conditions(o).find(|condition| condition["type"] == "Ready");
            let status = match ready.map(|ready| ready["status"] == "True") {
                Some(true) => "Ready",
                Some(false) => "NotReady",
                None => "Unknown",
            };
            let cordoned = o["spec"]["unschedulable"] == true;
            json!(if cordoned { format!("{status},SchedulingDisabled") } else { status.into() })
        }),
        ("Roles", "string", false, |o, _| {
            let labels = o["metadata"]["labels"].as_object().into_iter().flatten();
            let roles = labels.filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
            json!(or_none(roles.collect::<Vec<_>>().join(",")))
        }),
        AGE,
        ("Version", "string", false, |o, _| o["status"]["nodeInfo"]["kubeletVersion"].clone()),
        ("Internal-IP", "string", true, |o, _| {
            let addresses = o["status"]["addresses"].as_array().into_iter().flatten();
            let mut internal = addresses.filter(|address| address["type"] == "InternalIP");
            json!(internal.next().map_or("<none>".into(), |address| text(&address["address"], "<none>")))
        }),
        ("External-IP", "string", true, |_, _| json!("<none>")),
        ("OS-Image", "string", true, |o, _| o["status"]["nodeInfo"]["osImage"].clone()),
        ("Kernel-Version", "string", true, |o, _| o["status"]["nodeInfo"]["kernelVersion"].clone()),
        ("Container-Runtime", "string", true, |o, _| {
            o["status"]["nodeInfo"]["containerRuntimeVersion"].clone()
        }),
    ]
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

fn services() -> Vec<Column> {
    vec![
        NAME,
        ("Type", "string", false, |o, _| o["spec"]["type"].clone()),
        ("Cluster-IP", "string", false, |o, _| json!(text(&o["spec"]["clusterIP"], "<none>"))),
        ("External-IP", "string", false, |o, _| match o["spec"]["type"].as_str() {
            Some("LoadBalancer") => json!("<pending>"),
            Some("ExternalName") => o["spec"]["externalName"].clone(),
            _ => json!("<none>"),
        }),
        ("Port(s)", "string", false, |o, _| {
            list(&o["spec"]["ports"], |port| {
                let node = port["nodePort"].as_u64().map(|node| format!(":{node}")).unwrap_or_default();
                format!("{}{node}/{}", port["port"], text(&port["protocol"], "TCP"))
            })
        }),
        AGE,
        ("Selector", "string", true, |o, _| pairs(&o["spec"]["selector"])),
    ]
}

fn deployments() -> Vec<Column> {
    vec![
        NAME,
        ("Ready", "string", false, |o, _| {
            let status = number(&o["status"]["readyReplicas"]);
            json!(format!("{status}/{}", number(&o["spec"]["replicas"])))
        }),
        ("Up-to-date", "integer", false, |o, _| number(&o["status"]["updatedReplicas"])),
        ("Available", "integer", false, |o, _| number(&o["status"]["availableReplicas"])),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ]
}

fn events() -> Vec<Column> {
    vec![
        ("Last Seen", "string", false, |o, now| {
            let seen = [&o["lastTimestamp"], &o["eventTime"], &o["metadata"]["creationTimestamp"]];
            age(seen.into_iter().find(|time| time.is_string()).unwrap_or(&Value::Null), now)
        }),
        ("Type", "string", false, |o, _| o["type"].clone()),
        ("Reason", "string", false, |o, _| o["reason"].clone()),
        ("Object", "string", false, |o, _| {
            let about = &o["involvedObject"];
            json!(format!("{}/{}", text(&about["kind"], "").to_lowercase(), text(&about["name"], "")))
        }),
        ("Message", "string", false, |o, _| json!(text(&o["message"], "").trim())),
        ("Name", "string", true, |o, _| o["metadata"]["name"].clone()),
    ]
}

fn number(value: &Value) -> Value {
    json!(value.as_i64().unwrap_or(0))
}

fn text(value: &Value, otherwise: &str) -> String {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or(otherwise).into()
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".into() } else { text }
}

fn data(object: &Value) -> Value {
    let count = |field: &str| object[field].as_object().map_or(0, |map| map.len());
    json!(count("data") + count("binaryData"))
}

fn pairs(map: &Value) -> Value {
    let pairs = map.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", text(value, ""))).collect();
    json!(or_none(pairs.join(",")))
}

fn names(pod_spec: &Value, field: &str) -> Value {
    list(&pod_spec["containers"], |container| text(&container[field], "<none>"))
}

fn list(values: &Value, shown: impl Fn(&Value) -> String) -> Value {
    let values: Vec<String> = values.as_array().into_iter().flatten().map(shown).collect();
    json!(or_none(values.join(",")))
}

/// As kubectl writes how long ago something was: `45s`, `3m20s`, `2h`, `5d`.
fn age(since: &Value, now: SystemTime) -> Value {
    let Some(since) = since.as_str().and_then(clock::parse_timestamp) else { return json!("<unknown>") };
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    let two = |large: u64, unit: &str, small: u64, lesser: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{lesser}") }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    json!(match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        for (seconds, expected) in
            [(45, "45s"), (125, "2m5s"), (900, "15m"), (11_000, "3h3m"), (90_000, "25h"), (180_000, "2d2h")]
        {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(age(&json!("1970-01-01T00:00:00Z"), now), expected);
        }
    }
}
