//! Forms that objects come and go in: tables, selectors, strict fields, OpenAPI.

pub mod openapi {
    use api::resource::RESOURCES;
    use serde_json::{Value, json};
    pub fn document(g: &str, v: &str) -> Option<Value> {
        let mut paths = serde_json::Map::new();
        for r in RESOURCES.iter().filter(|r| r.group == g && r.version == v) {
            let base = if g.is_empty() { format!("/api/{v}") } else { format!("/apis/{g}/{v}") };
            let ns = if r.namespaced { "/namespaces/{namespace}" } else { "" };
            paths.insert(format!("{base}{ns}/{}/{{name}}",r.plural), json!({"patch":{"parameters":[{"name":"fieldValidation","in":"query"}],"x-kubernetes-group-version-kind":{"group":g,"version":v,"kind":r.kind}}}));
        }
        Some(json!({"openapi":"3.0.0","info":{"title":"Kubernetes","version":"v1.37.0"},"paths":paths}))
    }
}

pub mod fields;
mod selection;
pub mod table;

pub use selection::Selection;
