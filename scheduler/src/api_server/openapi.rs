//! `/openapi/v3`: which kinds there are and that their PATCH takes `fieldValidation`, which is what clients look for
//! before they validate on the server.
//!
//! There are no schemas: without them clients merge by their built-in Go types, which know the merge keys that
//! generated schemas lack.

use api::resource::RESOURCES;
use serde_json::{Map, Value, json};

/// The document of a group and version.
pub fn document(group: &str, version: &str) -> Value {
    let resources =
        RESOURCES.iter().filter(|resource| resource.group == group && resource.version == version);
    let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let paths: Map<String, Value> = resources
        .map(|resource| {
            let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
            let patch = json!({
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": resource.kind},
            });
            (format!("{base}{scope}/{}/{{name}}", resource.plural), json!({"patch": patch}))
        })
        .collect();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.37.0"},
        "paths": paths,
        "components": {"schemas": {}},
    })
}
