//! A pod's quality of service class, from its containers' requests and limits of cpu and memory.

use serde_json::Value;

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let containers: Vec<&Value> = ["initContainers", "containers"]
        .iter()
        .flat_map(|field| spec[*field].as_array().into_iter().flatten())
        .map(|container| &container["resources"])
        .collect();
    let names = ["cpu", "memory"];
    let any = |part: &str| containers.iter().any(|r| names.iter().any(|name| !r[part][*name].is_null()));
    if !any("requests") && !any("limits") {
        return "BestEffort";
    }
    let guaranteed = |resources: &&Value| {
        names.iter().all(|name| {
            let (limit, request) = (&resources["limits"][*name], &resources["requests"][*name]);
            !limit.is_null() && (request.is_null() || request == limit)
        })
    };
    if containers.iter().all(guaranteed) { "Guaranteed" } else { "Burstable" }
}
