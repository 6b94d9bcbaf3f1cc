//! Requests against a registry in memory, without the network.

use super::{Server, streams::NodeStream, streams::Streams};
use crate::{clock::Clock, pki::User, registry::Registry};
use agent_protocol::{StreamFrame, StreamRequest};
use api::Status;
use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{Response, header},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};

const SOON: Duration = Duration::from_secs(10);

/// A node that answers every stream with two pieces of a log.
struct Talkative;

impl Streams for Talkative {
    fn open<'a>(
        &'a self,
        node: &'a str,
        request: StreamRequest,
    ) -> Pin<Box<dyn Future<Output = Result<NodeStream, Status>> + Send + 'a>> {
        Box::pin(async move {
            let StreamRequest::Logs { container, tail_lines, .. } = request else {
                return Err(Status::internal("only logs"));
            };
            let (to_node, _) = mpsc::channel(1);
            let (sender, from_node) = mpsc::channel(4);
            for text in [format!("{node} {container}\n"), format!("{tail_lines:?}\n")] {
                let frame = StreamFrame::Data { channel: 1, bytes: text.into_bytes() };
                sender.send(frame).await.expect("has room");
            }
            sender.send(StreamFrame::Exit { code: 0 }).await.expect("has room");
            Ok(NodeStream { to_node, from_node })
        })
    }
}

pub async fn server() -> Server {
    let registry = Registry::in_memory(Clock::default()).expect("opens");
    registry.bootstrap("127.0.0.1".parse().expect("an address"), 6443).await.expect("bootstraps");
    Server::new(registry, Arc::new(Talkative))
}

fn admin() -> Option<Arc<User>> {
    Some(Arc::new(User { name: "admin".into(), groups: vec!["system:masters".into()] }))
}

async fn send(server: &Server, method: &str, uri: &str, body: &Value) -> Response<Body> {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let media = match method {
        "PATCH" => "application/strategic-merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, media);
    server.answer(request.body(body).expect("is a request"), admin()).await
}

async fn json_of(answer: Response<Body>) -> Value {
    let bytes =
        timeout(SOON, answer.into_body().collect()).await.expect("ends").expect("is whole").to_bytes();
    serde_json::from_slice(&bytes).expect("is JSON")
}

pub async fn call(server: &Server, method: &str, uri: &str, body: Value) -> (u16, Value) {
    let answer = send(server, method, uri, &body).await;
    (answer.status().as_u16(), json_of(answer).await)
}

fn config_map(name: &str, team: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"team": team}},
           "data": {"k": "v"}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create_maps(server: &Server, names: &[&str]) {
    for (index, name) in names.iter().enumerate() {
        let team = if index % 2 == 0 { "a" } else { "b" };
        let (code, _) = call(server, "POST", MAPS, config_map(name, team)).await;
        assert_eq!(code, 201);
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test]
async fn strangers_see_health_and_version_only() {
    let server = server().await;
    let get = |uri: &str| Request::builder().uri(uri).body(Body::empty()).expect("is a request");
    assert_eq!(server.answer(get("/livez"), None).await.status(), 200);
    assert_eq!(server.answer(get("/version"), None).await.status(), 200);
    assert_eq!(server.answer(get("/api/v1/pods"), None).await.status(), 401);
    let user = Some(Arc::new(User { name: "eve".into(), groups: Vec::new() }));
    let refused = json_of(server.answer(get("/api/v1/namespaces/default/secrets"), user).await).await;
    assert_eq!(
        refused["message"],
        "secrets \"\" is forbidden: User \"eve\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn masters_may_be_others_and_nobody_else() {
    let server = server().await;
    let get = || {
        let request = Request::builder().uri("/api/v1/pods").header("Impersonate-User", "eve");
        request.body(Body::empty()).expect("is a request")
    };
    let refused = json_of(server.answer(get(), admin()).await).await;
    assert!(refused["message"].as_str().is_some_and(|message| message.contains("User \"eve\" cannot list")));
    let user = Some(Arc::new(User { name: "bob".into(), groups: Vec::new() }));
    let refused = json_of(server.answer(get(), user).await).await;
    assert!(refused["message"].as_str().is_some_and(|message| message.contains("cannot impersonate")));
}

#[tokio::test]
async fn pages_are_of_one_revision() {
    let server = server().await;
    create_maps(&server, &["a", "b", "c", "d"]).await;
    let (_, first) = call(&server, "GET", &format!("{MAPS}?limit=2"), Value::Null).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(2)));
    create_maps(&server, &["bb"]).await;
    assert_eq!(call(&server, "DELETE", &format!("{MAPS}/c"), Value::Null).await.0, 200);
    let token = first["metadata"]["continue"].as_str().expect("there is more");
    let (_, rest) = call(&server, "GET", &format!("{MAPS}?limit=5&continue={token}"), Value::Null).await;
    assert_eq!(names(&rest), ["c", "d"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(rest["metadata"]["continue"].is_null());
    let selected = format!("{MAPS}?labelSelector=team%3Da&limit=1");
    let (_, selected) = call(&server, "GET", &selected, Value::Null).await;
    assert_eq!(names(&selected), ["a"]);
    assert!(selected["metadata"]["continue"].is_string());
}

#[tokio::test]
async fn long_lists_are_streamed_whole() {
    let server = server().await;
    let all: Vec<String> = (0..1_203).map(|number| format!("map-{number:05}")).collect();
    for name in &all {
        let options = crate::registry::WriteOptions::default();
        let created =
            server.registry().create(&api::resource::CONFIG_MAPS, "default", config_map(name, "a"), &options);
        created.await.expect("creates");
    }
    let (_, list) = call(&server, "GET", MAPS, Value::Null).await;
    assert_eq!(names(&list), all);
}

async fn events(uri: &str, server: &Server, count: usize) -> Vec<Value> {
    let answer = send(server, "GET", uri, &Value::Null).await;
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < count {
        let frame = timeout(SOON, body.frame()).await.expect("an event").expect("goes on").expect("is whole");
        text.extend(frame.into_data().unwrap_or_else(|_| Bytes::new()));
    }
    text.split(|byte| *byte == b'\n')
        .take(count)
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn informers_get_what_is_there_and_a_bookmark() {
    let server = server().await;
    create_maps(&server, &["a", "b"]).await;
    let uri = format!(
        "{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
         &fieldSelector=metadata.name%3Db"
    );
    let got = events(&uri, &server, 2).await;
    assert_eq!((&got[0]["type"], &got[0]["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("b")));
    let mark = &got[1]["object"]["metadata"];
    assert_eq!(
        (&got[1]["type"], &mark["annotations"]["k8s.io/initial-events-end"]),
        (&json!("BOOKMARK"), &json!("true"))
    );
    assert_eq!(mark["resourceVersion"], server.registry().revision().to_string());
}

#[tokio::test]
async fn selectors_turn_changes_into_additions_and_deletions() {
    let server = server().await;
    create_maps(&server, &["a", "b"]).await;
    let from = server.registry().revision();
    let label = |team: &str| json!({"metadata": {"labels": {"team": team}}});
    for (name, team) in [("b", "a"), ("a", "c"), ("b", "a2")] {
        assert_eq!(call(&server, "PATCH", &format!("{MAPS}/{name}"), label(team)).await.0, 200);
    }
    let uri = format!("{MAPS}?watch=1&resourceVersion={from}&labelSelector=team%3Da");
    let got = events(&uri, &server, 3).await;
    let seen: Vec<_> =
        got.iter().map(|e| (e["type"].as_str(), e["object"]["metadata"]["name"].as_str())).collect();
    assert_eq!(
        seen,
        [(Some("ADDED"), Some("b")), (Some("DELETED"), Some("a")), (Some("DELETED"), Some("b"))]
    );
    assert_eq!(got[1]["object"]["metadata"]["resourceVersion"], (from + 2).to_string());
}

#[tokio::test]
async fn old_revisions_are_gone() {
    use crate::store::Store;
    let server = server().await;
    create_maps(&server, &["a", "b"]).await;
    server.registry().store().compact(server.registry().revision()).await.expect("compacts");
    let (code, status) =
        call(&server, "GET", &format!("{MAPS}?watch=1&resourceVersion=1"), Value::Null).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    let (code, status) =
        call(&server, "GET", &format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact"), Value::Null)
            .await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    for query in ["resourceVersion=9999", "watch=1&resourceVersion=9999"] {
        let (code, status) = call(&server, "GET", &format!("{MAPS}?{query}"), Value::Null).await;
        let reason = &status["details"]["causes"][0]["reason"];
        assert_eq!((code, reason), (504, &json!("ResourceVersionTooLarge")), "{query}");
    }
}

#[tokio::test]
async fn writes_answer_as_kubernetes_does() {
    let server = server().await;
    let (code, made) = call(&server, "POST", &format!("{MAPS}?dryRun=All"), config_map("a", "a")).await;
    assert_eq!((code, made["metadata"]["uid"].is_string()), (201, true));
    assert_eq!(call(&server, "GET", &format!("{MAPS}/a"), Value::Null).await.0, 404);
    let (_, made) = call(&server, "POST", MAPS, config_map("a", "a")).await;
    let (code, again) = call(&server, "POST", MAPS, config_map("a", "a")).await;
    assert_eq!((code, &again["message"]), (409, &json!(r#"configmaps "a" already exists"#)));
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "w"}});
    let (code, status) = call(&server, "PATCH", &format!("{MAPS}/a"), stale).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let (code, deleted) = call(&server, "DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(
        (code, &deleted["status"], &deleted["details"]["uid"]),
        (200, &json!("Success"), &made["metadata"]["uid"])
    );
    let (code, _) = call(&server, "PUT", &format!("{MAPS}/a"), config_map("a", "a")).await;
    assert_eq!(code, 404);
    let big = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": {"k": "x".repeat(4 << 20)}});
    assert_eq!(call(&server, "POST", MAPS, big).await.0, 413);
}

#[tokio::test]
async fn discovery_is_revalidated_by_its_hash() {
    let server = server().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let get = |tag: &str| {
        let request = Request::builder().uri("/apis").header(header::ACCEPT, accept);
        request.header(header::IF_NONE_MATCH, tag).body(Body::empty()).expect("is a request")
    };
    let first = server.answer(get("\"\""), admin()).await;
    let tag = first.headers()[header::ETAG].to_str().expect("text").to_owned();
    assert_eq!(json_of(first).await["kind"], "APIGroupDiscoveryList");
    assert_eq!(server.answer(get(&tag), admin()).await.status(), 304);
    let (_, plain) = call(&server, "GET", "/apis/apps/v1", Value::Null).await;
    let scale =
        plain["resources"].as_array().and_then(|all| all.iter().find(|r| r["name"] == "deployments/scale"));
    assert_eq!(scale.map(|r| (&r["kind"], &r["group"])), Some((&json!("Scale"), &json!("autoscaling"))));
}

#[tokio::test]
async fn logs_come_from_the_pods_node() {
    let server = server().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main", "image": "nginx"}]}});
    assert_eq!(call(&server, "POST", pods, pod).await.0, 201);
    let (code, status) = call(&server, "GET", &format!("{pods}/web/log"), Value::Null).await;
    assert_eq!((code, &status["message"]), (400, &json!("pod web does not have a host assigned")));
    let binding = json!({"target": {"kind": "Node", "name": "node-1"}});
    assert_eq!(call(&server, "POST", &format!("{pods}/web/binding"), binding).await.0, 201);
    let answer = send(&server, "GET", &format!("{pods}/web/log?tailLines=5"), &Value::Null).await;
    let text = timeout(SOON, answer.into_body().collect()).await.expect("ends").expect("is whole").to_bytes();
    assert_eq!(text, "node-1 main\nSome(5)\n");
    let (code, _) = call(&server, "GET", &format!("{pods}/web/log?container=other"), Value::Null).await;
    assert_eq!(code, 400);
}
