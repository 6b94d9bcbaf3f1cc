//! Security contexts of pod and container, merged: the container's word counts where it says something.

use super::id;
use crate::controllers::object::{items, string, text};
use agent_protocol::{Seccomp, Security};
use serde_json::Value;

pub fn merged(pod: &Value, container: &Value) -> Security {
    let either = |field: &str| if container[field].is_null() { &pod[field] } else { &container[field] };
    let privileged = container["privileged"] == true;
    let capabilities = |field: &str| {
        let names = items(&container["capabilities"][field]).iter().map(string);
        names.map(|name| name.trim_start_matches("CAP_").to_owned()).collect()
    };
    Security {
        user: id(either("runAsUser")),
        group: id(either("runAsGroup")),
        supplemental_groups: items(&pod["supplementalGroups"]).iter().filter_map(id).collect(),
        run_as_non_root: *either("runAsNonRoot") == true,
        privileged,
        read_only_root: container["readOnlyRootFilesystem"] == true,
        allow_privilege_escalation: container["allowPrivilegeEscalation"] != false,
        capabilities_add: capabilities("add"),
        capabilities_drop: capabilities("drop"),
        seccomp: seccomp(either("seccompProfile"), privileged),
        unmasked_proc: text(&container["procMount"]) == "Unmasked",
    }
}

fn seccomp(profile: &Value, privileged: bool) -> Seccomp {
    match text(&profile["type"]) {
        "Unconfined" => Seccomp::Unconfined,
        "Localhost" => Seccomp::Localhost(string(&profile["localhostProfile"])),
        "" if privileged => Seccomp::Unconfined,
        _ => Seccomp::RuntimeDefault,
    }
}
