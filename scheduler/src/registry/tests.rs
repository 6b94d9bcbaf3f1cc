//! The rules of writes, on a store in memory and a clock that stands still.

use super::*;
use api::resource::{CONFIG_MAPS, DEPLOYMENTS, EVENTS, NAMESPACES, PODS, SERVICES};
use serde_json::json;
use std::time::Duration;

async fn registry() -> Registry {
    let clock = Clock::manual(Clock::default().now());
    let registry = Registry::in_memory(clock).expect("opens");
    registry.bootstrap("127.0.0.1".parse().expect("an address"), 6443).await.expect("bootstraps");
    registry
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "nginx"}]}})
}

fn deployment(replicas: u32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
                     "spec": {"containers": [{"name": "main", "image": "nginx"}]}}}})
}

fn options() -> WriteOptions {
    WriteOptions { field_manager: "test".into(), ..WriteOptions::default() }
}

#[tokio::test]
async fn bootstrapping_twice_changes_nothing() {
    let registry = registry().await;
    let before = registry.revision();
    registry.bootstrap("127.0.0.1".parse().expect("an address"), 6443).await.expect("again");
    assert_eq!(registry.revision(), before);
    let service = registry.get(&SERVICES, "default", "kubernetes").await.expect("is there");
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn a_created_object_has_its_metadata() {
    let registry = registry().await;
    let made = registry.create(&PODS, "default", pod("a"), &options()).await.expect("creates");
    let metadata = &made["metadata"];
    assert_eq!((&metadata["namespace"], &metadata["generation"]), (&json!("default"), &json!(1)));
    assert_eq!(metadata["uid"].as_str().map(str::len), Some(36));
    assert_eq!(metadata["managedFields"][0]["manager"], "test");
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(registry.get(&PODS, "default", "a").await.expect("is there"), made);
    let again = registry.create(&PODS, "default", pod("a"), &options()).await.expect_err("taken");
    assert_eq!(again.to_string(), r#"pods "a" already exists"#);
    let nowhere = registry.create(&PODS, "nowhere", pod("a"), &options()).await.expect_err("no namespace");
    assert_eq!(nowhere.to_string(), r#"namespaces "nowhere" not found"#);
}

#[tokio::test]
async fn generated_names_and_dry_runs() {
    let registry = registry().await;
    let object = json!({"metadata": {"generateName": "web-"}});
    let made = registry.create(&CONFIG_MAPS, "default", object, &options()).await.expect("creates");
    assert!(object::meta_str(&made, "name").starts_with("web-"));
    let before = registry.revision();
    let dry = WriteOptions { dry_run: true, ..options() };
    let object = json!({"metadata": {"name": "dry"}});
    registry.create(&CONFIG_MAPS, "default", object, &dry).await.expect("would create");
    assert_eq!(registry.revision(), before);
}

#[tokio::test]
async fn generation_counts_spec_changes_only() {
    let registry = registry().await;
    registry.create(&DEPLOYMENTS, "default", deployment(1), &options()).await.expect("creates");
    let update = |subresource, change: fn(&mut Value)| {
        let registry = registry.clone();
        async move {
            let change = |mut object: Value| {
                change(&mut object);
                Ok(object)
            };
            let options = options();
            let updated = registry.update(&DEPLOYMENTS, "default", "web", subresource, change, &options);
            updated.await.expect("updates")
        }
    };
    let status = update(Subresource::Status, |object| {
        object["status"]["replicas"] = json!(1);
        object["spec"]["replicas"] = json!(9);
    })
    .await;
    assert_eq!((&status["spec"]["replicas"], &status["metadata"]["generation"]), (&json!(1), &json!(1)));
    let main = update(Subresource::Main, |object| {
        object["spec"]["replicas"] = json!(2);
        object["status"] = json!({});
    })
    .await;
    assert_eq!((&main["status"]["replicas"], &main["metadata"]["generation"]), (&json!(1), &json!(2)));
    let before = registry.revision();
    update(Subresource::Main, |_| {}).await;
    assert_eq!(registry.revision(), before, "no change, no write");
}

#[tokio::test]
async fn a_stale_update_conflicts() {
    let registry = registry().await;
    let object = json!({"metadata": {"name": "a"}, "data": {"k": "1"}});
    let first = registry.create(&CONFIG_MAPS, "default", object, &options()).await.expect("creates");
    let mut second = first.clone();
    second["data"]["k"] = json!("2");
    let options = options();
    let put = |object: Value| {
        let change = move |_| Ok(object.clone());
        registry.update(&CONFIG_MAPS, "default", "a", Subresource::Main, change, &options)
    };
    put(second).await.expect("is current");
    let error = put(first).await.expect_err("is stale");
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert!(error.message.ends_with("please apply your changes to the latest version and try again"));
}

#[tokio::test]
async fn pods_get_their_grace_when_a_node_runs_them() {
    let registry = registry().await;
    registry.create(&PODS, "default", pod("a"), &options()).await.expect("creates");
    registry.create(&PODS, "default", pod("b"), &options()).await.expect("creates");
    let bound = registry.bind("default", "a", "node-1", &options()).await.expect("binds");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    registry.bind("default", "a", "node-2", &options()).await.expect_err("is bound");

    let delete = |name: &'static str, grace| {
        let registry = registry.clone();
        let options = DeleteOptions { grace_period_s: grace, ..DeleteOptions::default() };
        async move { registry.delete(&PODS, "default", name, &options).await.expect("deletes") }
    };
    assert!(delete("b", None).await.gone, "was never scheduled");
    let marked = delete("a", None).await;
    assert_eq!(marked.object["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(!marked.gone);
    let sooner = delete("a", Some(5)).await;
    assert_eq!(sooner.object["metadata"]["deletionGracePeriodSeconds"], 5);
    let later = delete("a", Some(50)).await;
    assert_eq!(later.object["metadata"]["deletionGracePeriodSeconds"], 5, "grace only gets shorter");
    assert!(delete("a", Some(0)).await.gone);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let registry = registry().await;
    let object = json!({"metadata": {"name": "a", "finalizers": ["example.com/hold"]}});
    registry.create(&CONFIG_MAPS, "default", object, &options()).await.expect("creates");
    let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    let marked = registry.delete(&CONFIG_MAPS, "default", "a", &foreground).await.expect("marks");
    assert_eq!(marked.object["metadata"]["finalizers"], json!(["example.com/hold", "foregroundDeletion"]));
    let set = |finalizers: Value| {
        let registry = registry.clone();
        async move {
            let change = |mut object: Value| {
                object["metadata"]["finalizers"] = finalizers.clone();
                Ok(object)
            };
            registry.update(&CONFIG_MAPS, "default", "a", Subresource::Main, change, &options()).await
        }
    };
    let error = set(json!(["example.com/hold", "b"])).await.expect_err("no new ones");
    assert_eq!(error.code, 422);
    set(json!([])).await.expect("lets go");
    registry.get(&CONFIG_MAPS, "default", "a").await.expect_err("is gone");
}

#[tokio::test]
async fn namespaces_end_after_their_contents() {
    let registry = registry().await;
    let object = json!({"metadata": {"name": "n"}});
    registry.create(&NAMESPACES, "", object, &options()).await.expect("creates");
    let marked = registry.delete(&NAMESPACES, "", "n", &DeleteOptions::default()).await.expect("marks");
    assert_eq!((marked.gone, &marked.object["status"]["phase"]), (false, &json!("Terminating")));
    let error = registry.create(&PODS, "n", pod("a"), &options()).await.expect_err("terminating");
    assert_eq!((error.code, error.details.causes[0].reason.as_str()), (403, "NamespaceTerminating"));
    let finalize = |mut object: Value| {
        object["spec"]["finalizers"] = json!([]);
        Ok(object)
    };
    registry.update(&NAMESPACES, "", "n", Subresource::Finalize, finalize, &options()).await.expect("ends");
    registry.get(&NAMESPACES, "", "n").await.expect_err("is gone");
    let kept = registry.delete(&NAMESPACES, "", "default", &DeleteOptions::default()).await;
    assert_eq!(kept.expect_err("is needed").code, 403);
}

#[tokio::test]
async fn preconditions_name_one_incarnation() {
    let registry = registry().await;
    let object = json!({"metadata": {"name": "a"}});
    registry.create(&CONFIG_MAPS, "default", object, &options()).await.expect("creates");
    let other = DeleteOptions { uid: Some("other".into()), ..DeleteOptions::default() };
    let error = registry.delete(&CONFIG_MAPS, "default", "a", &other).await.expect_err("another uid");
    assert_eq!(error.code, 409);
}

#[tokio::test]
async fn events_last_an_hour() {
    let registry = registry().await;
    let object = json!({"metadata": {"name": "a"}, "involvedObject": {"namespace": "default"}});
    registry.create(&EVENTS, "default", object, &options()).await.expect("creates");
    registry.sweep_events().await.expect("sweeps");
    registry.get(&EVENTS, "default", "a").await.expect("is young");
    registry.clock().advance(Duration::from_secs(3_700));
    registry.sweep_events().await.expect("sweeps");
    registry.get(&EVENTS, "default", "a").await.expect_err("is forgotten");
}

#[tokio::test]
async fn watches_tell_what_happened() {
    let registry = registry().await;
    let mut watch = registry.watch(&CONFIG_MAPS, None, registry.revision()).await.expect("watches");
    let object = json!({"metadata": {"name": "a"}});
    let made = registry.create(&CONFIG_MAPS, "default", object, &options()).await.expect("creates");
    assert_eq!(watch.next().await, Some(Event::Added(made)));
    registry.delete(&CONFIG_MAPS, "default", "a", &DeleteOptions::default()).await.expect("deletes");
    assert!(matches!(watch.next().await, Some(Event::Deleted(object)) if object["metadata"]["name"] == "a"));
}
