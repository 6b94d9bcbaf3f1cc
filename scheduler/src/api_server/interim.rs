//! Parts of the crate `api` that the server calls before they are there: the simplest answer of each.

pub mod protobuf {
    use api::Status;
    use serde_json::Value;
    pub fn decode(_b: &[u8]) -> Result<Value, Status> {
        Err(Status::bad_request("protobuf"))
    }
}

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

pub mod table {
    use api::Resource;
    use serde_json::{Value, json};
    use std::time::SystemTime;
    pub fn columns(_r: &Resource) -> Value {
        json!([{"name":"Name","type":"string","format":"name","description":"","priority":0}])
    }
    pub fn cells(_r: &Resource, v: &Value, _n: SystemTime) -> Value {
        json!([v["metadata"]["name"]])
    }
}

pub mod fields {
    use api::Resource;
    use serde_json::Value;
    pub fn prune_unknown(_r: &Resource, _v: &mut Value) -> Vec<String> {
        Vec::new()
    }
    pub fn duplicates(_b: &[u8]) -> Vec<String> {
        Vec::new()
    }
}

use api::{Resource, Status};
use serde_json::Value;
pub struct Selection {
    name: Option<String>,
    labels: Vec<(String, String)>,
    fields: Vec<(String, String)>,
}
impl Selection {
    pub fn parse(_r: &Resource, l: Option<&str>, f: Option<&str>) -> Result<Self, Status> {
        let pairs = |t: Option<&str>| {
            t.into_iter()
                .flat_map(|t| t.split(','))
                .filter_map(|p| p.split_once('='))
                .map(|(a, b)| (a.to_owned(), b.trim_start_matches('=').to_owned()))
                .collect()
        };
        Ok(Self { name: None, labels: pairs(l), fields: pairs(f) })
    }
    pub fn only_name(&mut self, n: &str) {
        self.name = Some(n.into())
    }
    pub fn is_everything(&self) -> bool {
        self.name.is_none() && self.labels.is_empty() && self.fields.is_empty()
    }
    pub fn matches(&self, v: &Value) -> bool {
        self.name.as_ref().is_none_or(|n| v["metadata"]["name"] == n.as_str())
            && self.labels.iter().all(|(k, x)| v["metadata"]["labels"][k.as_str()] == x.as_str())
            && self.fields.iter().all(|(k, x)| {
                let mut c = v;
                for p in k.split('.') {
                    c = &c[p];
                }
                c.as_str().unwrap_or_default() == x
            })
    }
}
