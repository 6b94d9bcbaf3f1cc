//! Beginnings and endings: restarts, lost nodes, namespaces, garbage.

use super::*;
use crate::registry::Propagation;
use api::resource::{NAMESPACES, SECRETS};

impl Cluster {
    async fn delete(&self, resource: &Resource, name: &str, propagation: Option<Propagation>) {
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        let namespace = if resource.namespaced { "default" } else { "" };
        self.registry.delete(resource, namespace, name, &options).await.expect("deletes");
    }

    async fn uids(&self) -> Vec<String> {
        let (pods, _) = self.registry.list(&PODS, None).await.expect("lists");
        pods.iter().map(|pod| text(&pod["metadata"]["uid"]).to_owned()).collect()
    }
}

#[tokio::test]
async fn an_agent_that_comes_back_keeps_its_pods_and_drops_unknown_ones() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let first = agent.connect(&cluster.socket, "one").await;
    cluster.create(&DEPLOYMENTS, deployment(3, "hello:1")).await;
    cluster.wait("three are available", &DEPLOYMENTS, |all| available(all, 3)).await;
    let before = cluster.uids().await;
    first.abort();
    first.await.ok();
    let second = Agent::default();
    let _session = second.connect(&cluster.socket, "one").await;
    second
        .wait("all pods are named again", |agent| agent.pods.lock().expect("not poisoned").len() == 3)
        .await;
    assert_eq!(cluster.uids().await, before);
    assert!(second.removed.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn a_pod_the_api_does_not_know_is_removed() {
    let cluster = Cluster::start().await;
    let mut stream = dial(&cluster.socket, Dial::Session(Box::new(node_info("one")))).await;
    while !matches!(read_frame(&mut stream).await.expect("a frame"), ToAgent::SyncEnd { .. }) {}
    let ghost = resolve_stub("ghost");
    write_frame(&mut stream, &FromAgent::Status(Box::new(running(&ghost)))).await.expect("reports");
    let reading = async {
        loop {
            if let ToAgent::RemovePod { uid, .. } = read_frame(&mut stream).await.expect("a frame") {
                return uid;
            }
        }
    };
    assert_eq!(timeout(SOON, reading).await.expect("in time"), "ghost");
}

fn resolve_stub(uid: &str) -> Pod {
    let object = json!({"metadata": {"uid": uid, "name": "p", "namespace": "default"}, "spec": {}});
    crate::sessions::resolve::resolve(&object, &Default::default())
}

#[tokio::test]
async fn a_namespace_takes_everything_with_it() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let _session = agent.connect(&cluster.socket, "one").await;
    cluster
        .registry
        .create(&NAMESPACES, "", json!({"metadata": {"name": "t"}}), &WriteOptions::default())
        .await
        .expect("creates");
    let create = |resource, object| {
        let registry = cluster.registry.clone();
        async move { registry.create(resource, "t", object, &WriteOptions::default()).await.expect("creates") }
    };
    create(&SECRETS, json!({"metadata": {"name": "s"}, "data": {}})).await;
    create(&DEPLOYMENTS, deployment(2, "hello:1")).await;
    cluster.wait("two are available", &DEPLOYMENTS, |all| available(all, 2)).await;
    cluster.delete(&NAMESPACES, "t", None).await;
    cluster
        .wait("the namespace is gone", &NAMESPACES, |all| all.iter().all(|ns| ns["metadata"]["name"] != "t"))
        .await;
    assert!(cluster.uids().await.is_empty());
    let (secrets, _) = cluster.registry.list(&SECRETS, Some("t")).await.expect("lists");
    assert!(secrets.is_empty());
}

#[tokio::test]
async fn dependents_go_first_or_stay_behind_as_asked() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let _session = agent.connect(&cluster.socket, "one").await;
    cluster.create(&DEPLOYMENTS, deployment(2, "hello:1")).await;
    cluster.wait("two are available", &DEPLOYMENTS, |all| available(all, 2)).await;
    cluster.delete(&DEPLOYMENTS, "web", Some(Propagation::Orphan)).await;
    cluster.wait("the deployment is gone", &DEPLOYMENTS, |all| all.is_empty()).await;
    let (sets, _) = cluster.registry.list(&REPLICA_SETS, None).await.expect("lists");
    assert_eq!(sets.len(), 1);
    assert!(sets[0]["metadata"]["ownerReferences"].is_null());
    let before = cluster.uids().await;

    cluster.create(&DEPLOYMENTS, deployment(2, "hello:1")).await;
    let adopted =
        |sets: &[Value]| sets.len() == 1 && sets[0]["metadata"]["ownerReferences"][0]["kind"] == "Deployment";
    cluster.wait("the replica set is adopted", &REPLICA_SETS, adopted).await;
    assert_eq!(cluster.uids().await, before, "pods stayed");

    cluster.delete(&DEPLOYMENTS, "web", Some(Propagation::Foreground)).await;
    cluster.wait("the deployment is gone", &DEPLOYMENTS, |all| all.is_empty()).await;
    assert!(cluster.uids().await.is_empty(), "its pods went before it");
}

#[tokio::test]
async fn pods_of_a_lost_node_are_replaced_elsewhere() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let lost = agent.connect(&cluster.socket, "one").await;
    let mut object = deployment(2, "hello:1");
    object["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
         "tolerationSeconds": 1}]);
    cluster.create(&DEPLOYMENTS, object).await;
    cluster.wait("two are available", &DEPLOYMENTS, |all| available(all, 2)).await;
    let other = Agent::default();
    let _session = other.connect(&cluster.socket, "two").await;
    lost.abort();
    cluster
        .wait("two run on the other node", &PODS, |pods| {
            let on_two =
                |pod: &&Value| pod["spec"]["nodeName"] == "two" && pod["status"]["phase"] == "Running";
            pods.iter().filter(on_two).count() == 2
        })
        .await;
    cluster.delete(&NODES, "one", None).await;
}

#[tokio::test]
async fn a_deleted_node_registers_again() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let session = agent.connect(&cluster.socket, "one").await;
    let nodes = cluster.wait("the node is there", &NODES, |nodes| nodes.len() == 1).await;
    cluster.delete(&NODES, "one", None).await;
    timeout(SOON, session).await.expect("the session ends").expect("without a panic");
    let _session = agent.connect(&cluster.socket, "one").await;
    let again = cluster.wait("the node is there again", &NODES, |nodes| nodes.len() == 1).await;
    assert_ne!(nodes[0]["metadata"]["uid"], again[0]["metadata"]["uid"]);
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_starts_when_there_is_room() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "4"}}});
    cluster.create(&PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).await;
    let said = |wanted: &'static str| {
        move |events: &[Value]| {
            events.iter().any(|e| e["reason"] == "FailedScheduling" && e["message"] == wanted)
        }
    };
    cluster.wait("there is no node", &EVENTS, said("no nodes available to schedule pods")).await;
    let _session = agent.connect(&cluster.socket, "one").await;
    cluster.wait("it runs", &PODS, |pods| pods[0]["status"]["phase"] == "Running").await;
}

#[tokio::test]
async fn pods_are_adopted_and_released_by_their_labels() {
    let cluster = Cluster::start().await;
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let labels = json!({"app": "web"});
    cluster.create(&PODS, json!({"metadata": {"name": "own", "labels": labels}, "spec": spec})).await;
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec}}});
    cluster.create(&REPLICA_SETS, set).await;
    cluster
        .wait("the pod is adopted", &PODS, |pods| {
            pods.len() == 1 && pods[0]["metadata"]["ownerReferences"][0]["name"] == "web"
        })
        .await;
    cluster.merge(&PODS, "own", json!({"metadata": {"labels": {"app": "other"}}})).await;
    cluster
        .wait("it is released and replaced", &PODS, |pods| {
            let released = |pod: &Value| {
                pod["metadata"]["name"] == "own" && pod["metadata"]["ownerReferences"].is_null()
            };
            pods.len() == 2 && pods.iter().any(released)
        })
        .await;
}
