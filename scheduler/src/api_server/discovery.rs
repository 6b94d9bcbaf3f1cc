//! Discovery and OpenAPI: documents made once at the start, compressed, answered by hash.

use super::response::{self, Answer};
use api::{Resource, resource};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Answered by `reviews`: group, kind, plural.
const REVIEWS: [(&str, &str, &str, bool); 5] = [
    ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", false),
    ("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews", true),
    ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    ("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
    ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", false),
];

/// A served name below a group and version.
struct Item {
    kind: &'static str,
    plural: &'static str,
    singular: String,
    namespaced: bool,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: Vec<&'static str>,
    subresources: Vec<Sub>,
}

struct Sub {
    name: &'static str,
    /// Group, version and kind of what it takes.
    kind: (&'static str, &'static str, &'static str),
    verbs: &'static [&'static str],
}

/// All discovery documents.
pub struct Documents {
    /// By group and version, in order of preference.
    groups: Vec<(&'static str, &'static str, Vec<Item>)>,
    core: Aggregated,
    others: Aggregated,
    openapi: BTreeMap<String, Document>,
}

struct Aggregated {
    body: Vec<u8>,
    etag: String,
}

/// A large document, kept compressed.
struct Document {
    gzip: Vec<u8>,
    hash: String,
}

impl Documents {
    pub fn new() -> Self {
        let groups = groups();
        let aggregate = |core: bool| {
            let items: Vec<Value> = aggregated(&groups, core);
            let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2",
                              "metadata": {}, "items": items});
            let body = list.to_string().into_bytes();
            Aggregated { etag: hash(&body), body }
        };
        let (core, others) = (aggregate(true), aggregate(false));
        let mut openapi = BTreeMap::new();
        for (group, version, _) in &groups {
            let bytes = super::openapi::document(group, version).to_string().into_bytes();
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            openapi.insert(path, Document { hash: hash(&bytes), gzip: gzip(&bytes) });
        }
        Self { groups, core, others, openapi }
    }

    /// `/api`
    pub fn core(&self, request: &HeaderMap) -> Answer {
        if wants_aggregated(request) {
            return self.core.answer(request);
        }
        response::value(
            StatusCode::OK,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        )
    }

    /// `/apis`
    pub fn groups(&self, request: &HeaderMap) -> Answer {
        if wants_aggregated(request) {
            return self.others.answer(request);
        }
        let mut names: Vec<&str> = self.groups.iter().map(|(group, ..)| *group).collect();
        names.dedup();
        let groups: Vec<Value> = names
            .into_iter()
            .filter(|name| !name.is_empty())
            .filter_map(|name| self.group_value(name))
            .collect();
        let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
        response::value(StatusCode::OK, &list)
    }

    /// `/apis/<group>`
    pub fn group(&self, group: &str) -> Option<Answer> {
        let mut value = self.group_value(group)?;
        value["kind"] = json!("APIGroup");
        value["apiVersion"] = json!("v1");
        Some(response::value(StatusCode::OK, &value))
    }

    fn group_value(&self, group: &str) -> Option<Value> {
        let versions: Vec<Value> = self
            .groups
            .iter()
            .filter(|(name, ..)| *name == group && !group.is_empty())
            .map(|(_, version, _)| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
            .collect();
        let preferred = versions.first()?.clone();
        Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
    }

    /// `/api/v1`, `/apis/<group>/<version>`
    pub fn group_version(&self, group: &str, version: &str) -> Option<Answer> {
        let (.., items) = self.groups.iter().find(|(g, v, _)| *g == group && *v == version)?;
        let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let resources: Vec<Value> = items.iter().flat_map(legacy).collect();
        let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name,
                          "resources": resources});
        Some(response::value(StatusCode::OK, &list))
    }

    /// `/openapi/v3`
    pub fn openapi_index(&self) -> Answer {
        let paths: BTreeMap<&String, Value> = self
            .openapi
            .iter()
            .map(|(path, document)| {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                (path, json!({"serverRelativeURL": url}))
            })
            .collect();
        response::value(StatusCode::OK, &json!({"paths": paths}))
    }

    /// `/openapi/v3/<path>`
    pub fn openapi(&self, request: &HeaderMap, path: &str) -> Option<Answer> {
        let document = self.openapi.get(path)?;
        let mut answer = if response::accepts_gzip(request) {
            let mut answer = response::json(StatusCode::OK, document.gzip.clone());
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            answer
        } else {
            response::json(StatusCode::OK, gunzip(&document.gzip))
        };
        set(&mut answer, header::ETAG, &format!("\"{}\"", document.hash));
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        Some(answer)
    }
}

impl Aggregated {
    fn answer(&self, request: &HeaderMap) -> Answer {
        let etag = format!("\"{}\"", self.etag);
        let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let same = known.is_some_and(|known| known.split(',').any(|one| one.trim() == etag));
        let mut answer = if same {
            let mut answer = Answer::new(Body::empty());
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            answer
        } else {
            response::with_type(StatusCode::OK, AGGREGATED, Body::from(self.body.clone()))
        };
        set(&mut answer, header::ETAG, &etag);
        answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        answer
    }
}

fn set(answer: &mut Answer, name: header::HeaderName, value: &str) {
    let value = HeaderValue::from_str(value).expect("hashes are hexadecimal");
    answer.headers_mut().insert(name, value);
}

fn wants_aggregated(request: &HeaderMap) -> bool {
    let accepted = request.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|entry| {
        let parts: Vec<&str> = entry.split(';').map(str::trim).collect();
        ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"].iter().all(|part| parts.contains(part))
    })
}

fn groups() -> Vec<(&'static str, &'static str, Vec<Item>)> {
    let mut groups: Vec<(&str, &str, Vec<Item>)> = Vec::new();
    let mut add =
        |group, version, item| match groups.iter_mut().find(|(g, v, _)| *g == group && *v == version) {
            Some((.., items)) => items.push(item),
            None => groups.push((group, version, vec![item])),
        };
    for resource in resource::RESOURCES {
        add(resource.group, resource.version, item(resource));
    }
    for (group, kind, plural, namespaced) in REVIEWS {
        let item = Item {
            kind,
            plural,
            singular: kind.to_lowercase(),
            namespaced,
            short_names: &[],
            categories: &[],
            verbs: vec!["create"],
            subresources: Vec::new(),
        };
        add(group, "v1", item);
    }
    groups
}

fn item(resource: &'static Resource) -> Item {
    let own = (resource.group, resource.version, resource.kind);
    let mut subresources = Vec::new();
    let mut add = |name, kind, verbs| subresources.push(Sub { name, kind, verbs });
    if resource.status {
        add("status", own, &["get", "patch", "update"][..]);
    }
    if resource.scale {
        add("scale", ("autoscaling", "v1", "Scale"), &["get", "patch", "update"]);
    }
    match resource.plural {
        "namespaces" => add("finalize", own, &["update"]),
        "pods" if resource.group.is_empty() => {
            add("attach", ("", "v1", "PodAttachOptions"), &["create", "get"]);
            add("binding", ("", "v1", "Binding"), &["create"]);
            add("eviction", ("policy", "v1", "Eviction"), &["create"]);
            add("exec", ("", "v1", "PodExecOptions"), &["create", "get"]);
            add("log", own, &["get"]);
            add("portforward", ("", "v1", "PodPortForwardOptions"), &["create", "get"]);
        }
        _ => {}
    }
    Item {
        kind: resource.kind,
        plural: resource.plural,
        singular: resource.singular.into(),
        namespaced: resource.namespaced,
        short_names: resource.short_names,
        categories: resource.categories,
        verbs: VERBS.to_vec(),
        subresources,
    }
}

fn aggregated(groups: &[(&'static str, &'static str, Vec<Item>)], core: bool) -> Vec<Value> {
    let mut found: Vec<(&str, Vec<Value>)> = Vec::new();
    for (group, version, items) in groups.iter().filter(|(group, ..)| group.is_empty() == core) {
        let kind = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
        let resources: Vec<Value> = items
            .iter()
            .map(|item| {
                let subresources: Vec<Value> = item
                    .subresources
                    .iter()
                    .map(|sub| json!({"subresource": sub.name, "responseKind": kind(sub.kind), "verbs": sub.verbs}))
                    .collect();
                json!({
                    "resource": item.plural, "responseKind": kind((group, version, item.kind)),
                    "scope": if item.namespaced { "Namespaced" } else { "Cluster" },
                    "singularResource": item.singular, "verbs": item.verbs, "shortNames": item.short_names,
                    "categories": item.categories, "subresources": subresources,
                })
            })
            .collect();
        let version = json!({"version": version, "freshness": "Current", "resources": resources});
        match found.iter_mut().find(|(name, _)| name == group) {
            Some((_, versions)) => versions.push(version),
            None => found.push((group, vec![version])),
        }
    }
    found
        .into_iter()
        .map(|(name, versions)| {
            let metadata =
                if name.is_empty() { json!({"creationTimestamp": null}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect()
}

/// An item and its subresources as `APIResource`s.
fn legacy(item: &Item) -> Vec<Value> {
    let mut main = json!({
        "name": item.plural, "singularName": item.singular, "namespaced": item.namespaced, "kind": item.kind,
        "verbs": item.verbs,
    });
    if !item.short_names.is_empty() {
        main["shortNames"] = json!(item.short_names);
    }
    if !item.categories.is_empty() {
        main["categories"] = json!(item.categories);
    }
    let subresources = item.subresources.iter().map(|sub| {
        let (group, version, kind) = sub.kind;
        let mut value = json!({
            "name": format!("{}/{}", item.plural, sub.name), "singularName": "", "namespaced": item.namespaced,
            "kind": kind, "verbs": sub.verbs,
        });
        if kind != item.kind {
            value["group"] = json!(group);
            value["version"] = json!(version);
        }
        value
    });
    std::iter::once(main).chain(subresources).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let done = encoder.write_all(bytes).and_then(|()| encoder.finish());
    done.expect("writing to memory does not fail")
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut plain = Vec::new();
    let read = flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain);
    read.expect("we compressed it ourselves");
    plain
}
