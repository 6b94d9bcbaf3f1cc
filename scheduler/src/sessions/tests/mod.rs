//! The control loop on a store in memory, with agents that only pretend to run pods.

mod lifecycle;

use super::Config;
use crate::{
    api_server::streams::Streams,
    clock::Clock,
    controllers::{self, object::text},
    registry::{DeleteOptions, Registry, Subresource, WriteOptions},
};
use agent_protocol::{
    ContainerState, ContainerStatus, Dial, FromAgent, LimitsEnforced, MAGIC, NodeInfo, NodeStatus, Phase,
    Pod, PodStatus, Service, StreamFrame, StreamRequest, ToAgent, VERSIONS,
};
use api::{
    Resource,
    resource::{CONFIG_MAPS, DEPLOYMENTS, EVENTS, NODES, PODS, REPLICA_SETS, SERVICES},
};
use codec::aio::{exchange, read_frame, write_frame};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::UnixStream, time::timeout};

const SOON: Duration = Duration::from_secs(20);

struct Cluster {
    registry: Registry,
    streams: super::NodeStreams,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let registry = Registry::in_memory(Clock::default()).expect("a store");
        registry.bootstrap(Ipv4Addr::LOCALHOST.into(), 6443).await.expect("bootstraps");
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("scheduler.sock");
        let sessions = Config {
            socket: socket.clone(),
            cluster_cidr: (Ipv4Addr::new(10, 244, 0, 0), 16),
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 12),
            dns: Ipv4Addr::new(10, 96, 0, 10),
            domain: "cluster.local".into(),
        };
        let config = controllers::Config { sessions, node_grace_s: 1 };
        let streams = controllers::run(registry.clone(), config).await.expect("starts");
        Self { registry, streams, socket, _directory: directory }
    }

    async fn create(&self, resource: &Resource, object: Value) -> Value {
        self.registry.create(resource, "default", object, &WriteOptions::default()).await.expect("creates")
    }

    async fn merge(&self, resource: &Resource, name: &str, patch: Value) {
        let change = |mut object: Value| {
            controllers::object::merge(&mut object, &patch);
            Ok(object)
        };
        let (part, options) = (Subresource::Main, WriteOptions::default());
        self.registry.update(resource, "default", name, part, change, &options).await.expect("updates");
    }

    /// Waits until the objects of a resource are as `holds` wants them.
    async fn wait(&self, what: &str, resource: &Resource, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut last = Vec::new();
        let waiting = async {
            loop {
                let (objects, revision) = self.registry.list(resource, None).await.expect("lists");
                if holds(&objects) {
                    return objects;
                }
                last = objects;
                let mut watch = self.registry.watch(resource, None, revision).await.expect("watches");
                watch.next().await;
            }
        };
        match timeout(SOON, waiting).await {
            Ok(objects) => objects,
            Err(_) => panic!("{what} did not come true; last seen: {last:#?}"),
        }
    }
}

/// An agent that says of every pod that it runs and is ready.
#[derive(Clone, Default)]
struct Agent {
    pods: Arc<Mutex<BTreeMap<String, Pod>>>,
    services: Arc<Mutex<BTreeMap<String, Service>>>,
    removed: Arc<Mutex<Vec<String>>>,
    /// Changes whenever something arrived.
    news: Arc<tokio::sync::Notify>,
}

impl Agent {
    async fn connect(&self, socket: &Path, name: &str) -> tokio::task::JoinHandle<()> {
        let mut stream = dial(socket, Dial::Session(Box::new(node_info(name)))).await;
        let report = NodeStatus {
            memory_available_bytes: 1 << 30,
            disk_available_bytes: 1 << 34,
            images: vec![(vec!["hello:1".into()], 1000)],
            ready: true,
            message: String::new(),
        };
        write_frame(&mut stream, &FromAgent::Node(report)).await.expect("reports");
        let (agent, socket) = (self.clone(), socket.to_owned());
        tokio::spawn(async move {
            let mut expected = 1;
            while let Ok(frame) = read_frame::<ToAgent>(&mut stream).await {
                if let Some(seq) = seq(&frame) {
                    assert_eq!(seq, expected, "no gap");
                    expected += 1;
                }
                for answer in agent.take(frame, &socket).await {
                    if write_frame(&mut stream, &answer).await.is_err() {
                        return;
                    }
                }
            }
        })
    }

    async fn take(&self, frame: ToAgent, socket: &Path) -> Vec<FromAgent> {
        let answers = match frame {
            ToAgent::PutPod { pod, .. } => {
                let uid = pod.uid.clone();
                let answer = if pod.deletion.is_some() {
                    self.pods.lock().expect("not poisoned").remove(&uid);
                    FromAgent::Gone { uid }
                } else {
                    let status = FromAgent::Status(Box::new(running(&pod)));
                    self.pods.lock().expect("not poisoned").insert(uid, *pod);
                    status
                };
                vec![answer]
            }
            ToAgent::RemovePod { uid, .. } => {
                self.pods.lock().expect("not poisoned").remove(&uid);
                self.removed.lock().expect("not poisoned").push(uid);
                vec![]
            }
            ToAgent::PutService { service, .. } => {
                self.services.lock().expect("not poisoned").insert(service.name.clone(), service);
                vec![]
            }
            ToAgent::RemoveService { name, .. } => {
                self.services.lock().expect("not poisoned").remove(&name);
                vec![]
            }
            ToAgent::OpenStream { token, .. } => {
                let mut stream = dial(socket, Dial::Stream { token }).await;
                let data = StreamFrame::Data { channel: 1, bytes: b"hello".to_vec() };
                for frame in [data, StreamFrame::Exit { code: 0 }] {
                    write_frame(&mut stream, &frame).await.expect("streams");
                }
                vec![]
            }
            ToAgent::Ping { nonce } => vec![FromAgent::Pong { nonce }],
            _ => vec![],
        };
        self.news.notify_waiters();
        answers
    }

    /// Waits until something holds of what arrived.
    async fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                let news = self.news.notified();
                if holds(self) {
                    return;
                }
                news.await;
            }
        };
        assert!(timeout(SOON, waiting).await.is_ok(), "{what} did not come true");
    }

    fn endpoints(&self, service: &str) -> usize {
        let services = self.services.lock().expect("not poisoned");
        services.get(service).and_then(|s| s.ports.first()).map_or(0, |port| port.endpoints.len())
    }
}

fn seq(frame: &ToAgent) -> Option<u64> {
    match frame {
        ToAgent::SyncBegin { seq }
        | ToAgent::SyncEnd { seq }
        | ToAgent::PutPod { seq, .. }
        | ToAgent::RemovePod { seq, .. }
        | ToAgent::PutService { seq, .. }
        | ToAgent::RemoveService { seq, .. } => Some(*seq),
        _ => None,
    }
}

async fn dial(socket: &Path, dial: Dial) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.expect("connects");
    exchange(&mut stream, MAGIC, &VERSIONS).await.expect("agrees on a version");
    write_frame(&mut stream, &dial).await.expect("dials");
    stream
}

fn node_info(name: &str) -> NodeInfo {
    NodeInfo {
        name: name.into(),
        addresses: vec![Ipv4Addr::new(192, 168, 1, 10)],
        cpu_millis: 8000,
        memory_bytes: 8 << 30,
        ephemeral_bytes: 100 << 30,
        pods_max: 110,
        kernel: "6.18".into(),
        os_image: "Debian".into(),
        architecture: "amd64".into(),
        version: "0.1.0".into(),
        machine_id: "m".into(),
        boot_id: "b".into(),
        labels: vec![("disk".into(), "ssd".into())],
        limits: LimitsEnforced::Waived { reason: "no cgroup v2 controllers".into() },
    }
}

fn running(pod: &Pod) -> PodStatus {
    let number = pod.uid.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let container = |container: &agent_protocol::Container| ContainerStatus {
        name: container.name.clone(),
        state: ContainerState::Running { started_ns: 1_800_000_000_000_000_000 },
        last: None,
        ready: true,
        started: true,
        restarts: 0,
        image: container.image.clone(),
        image_id: "sha256:0".into(),
        container_id: "wherry://c".into(),
    };
    PodStatus {
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        phase: Phase::Running,
        reason: String::new(),
        message: String::new(),
        pod_ip: Some(Ipv4Addr::from(0x0af4_0000 | (number & 0xffff))),
        start_ns: Some(1_800_000_000_000_000_000),
        sandbox_ready: true,
        initialized: true,
        init_containers: Vec::new(),
        containers: pod.containers.iter().map(container).collect(),
    }
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}},
                     "spec": {"containers": [{"name": "main", "image": image}]}}}})
}

fn available(objects: &[Value], replicas: u64) -> bool {
    let status = &objects.first().map(|object| &object["status"]);
    status.is_some_and(|status| {
        status["availableReplicas"] == replicas
            && status["updatedReplicas"] == replicas
            && status["replicas"] == replicas
    })
}

#[tokio::test]
async fn a_deployment_runs_scales_rolls_and_goes() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let _session = agent.connect(&cluster.socket, "one").await;
    let port = json!({"port": 80, "targetPort": 8080});
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [port]}});
    cluster.create(&SERVICES, service).await;
    cluster.create(&DEPLOYMENTS, deployment(3, "hello:1")).await;
    cluster.wait("three are available", &DEPLOYMENTS, |all| available(all, 3)).await;
    agent.wait("three endpoints arrive", |agent| agent.endpoints("web") == 3).await;

    cluster.merge(&DEPLOYMENTS, "web", json!({"spec": {"replicas": 5}})).await;
    cluster.wait("five are available", &DEPLOYMENTS, |all| available(all, 5)).await;

    let container = json!({"name": "main", "image": "hello:2"});
    let template = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    cluster.merge(&DEPLOYMENTS, "web", template).await;
    let rolled = |all: &[Value]| {
        available(all, 5)
            && all[0]["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"
            && all[0]["status"]["conditions"]
                .as_array()
                .is_some_and(|list| list.iter().any(|c| c["reason"] == "NewReplicaSetAvailable"))
    };
    cluster.wait("the new image is everywhere", &DEPLOYMENTS, rolled).await;
    cluster
        .wait("only new pods are left", &PODS, |pods| {
            pods.len() == 5 && pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "hello:2")
        })
        .await;
    agent.wait("five endpoints arrive", |agent| agent.endpoints("web") == 5).await;
    let (sets, _) = cluster.registry.list(&REPLICA_SETS, None).await.expect("lists");
    assert_eq!(sets.len(), 2, "the old one is kept for a rollback");

    cluster
        .registry
        .delete(&DEPLOYMENTS, "default", "web", &DeleteOptions::default())
        .await
        .expect("deletes");
    cluster.wait("its pods are gone", &PODS, |pods| pods.is_empty()).await;
    cluster.wait("its replica sets are gone", &REPLICA_SETS, |sets| sets.is_empty()).await;
    agent.wait("the node has none", |agent| agent.pods.lock().expect("not poisoned").is_empty()).await;
    let (events, _) = cluster.registry.list(&EVENTS, None).await.expect("lists");
    let reasons: Vec<&str> = events.iter().map(|event| text(&event["reason"])).collect();
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"] {
        assert!(reasons.contains(&reason), "{reason} in {reasons:?}");
    }
}

#[tokio::test]
async fn a_node_is_shown_as_its_agent_says() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let _session = agent.connect(&cluster.socket, "one").await;
    let ready = |nodes: &[Value]| {
        let conditions = nodes.first().map(|node| node["status"]["conditions"].clone());
        conditions.is_some_and(|list| {
            let holds = |kind: &str| {
                list.as_array().is_some_and(|l| l.iter().any(|c| c["type"] == kind && c["status"] == "True"))
            };
            holds("Ready") && holds("LimitsUnenforced")
        }) && nodes[0]["spec"]["taints"].is_null()
    };
    let nodes = cluster.wait("the node is ready", &NODES, ready).await;
    assert_eq!(nodes[0]["spec"]["podCIDR"], "10.244.0.0/24");
    assert_eq!(nodes[0]["metadata"]["labels"]["disk"], "ssd");
    assert_eq!(nodes[0]["status"]["capacity"]["cpu"], "8");
}

#[tokio::test]
async fn a_changed_config_map_reaches_the_node_and_a_missing_one_is_named() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let _session = agent.connect(&cluster.socket, "one").await;
    let variable = json!({"name": "V", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}});
    let container = json!({"name": "main", "image": "hello:1", "env": [variable]});
    cluster.create(&PODS, json!({"metadata": {"name": "p"}, "spec": {"containers": [container]}})).await;
    let error = |agent: &Agent| {
        let pods = agent.pods.lock().expect("not poisoned");
        pods.values().next().map(|pod| pod.containers[0].config_error.clone())
    };
    agent
        .wait("it is told what is missing", |agent| {
            error(agent) == Some(Some("configmap \"c\" not found".into()))
        })
        .await;
    cluster.create(&CONFIG_MAPS, json!({"metadata": {"name": "c"}, "data": {"k": "v"}})).await;
    agent.wait("it is told the value", |agent| error(agent) == Some(None)).await;
}

#[tokio::test]
async fn streams_are_joined_and_an_absent_node_is_an_error() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let _session = agent.connect(&cluster.socket, "one").await;
    cluster.wait("the node is there", &NODES, |nodes| nodes.len() == 1).await;
    let request = StreamRequest::PortForward { pod_uid: "u".into(), port: 80 };
    let mut stream = cluster.streams.open("one", request.clone()).await.expect("opens");
    let hello = StreamFrame::Data { channel: 1, bytes: b"hello".to_vec() };
    assert_eq!(stream.from_node.recv().await, Some(hello));
    assert_eq!(stream.from_node.recv().await, Some(StreamFrame::Exit { code: 0 }));
    assert_eq!(stream.from_node.recv().await, None);
    let Err(error) = cluster.streams.open("two", request).await else { panic!("two is not there") };
    assert_eq!(error.to_string(), "node two is not connected");
}

#[tokio::test]
async fn a_lost_node_is_marked_and_comes_back() {
    let (cluster, agent) = (Cluster::start().await, Agent::default());
    let session = agent.connect(&cluster.socket, "one").await;
    cluster.create(&DEPLOYMENTS, deployment(2, "hello:1")).await;
    cluster.wait("two are available", &DEPLOYMENTS, |all| available(all, 2)).await;
    session.abort();
    let status = |nodes: &[Value]| {
        let list = nodes.first().and_then(|node| node["status"]["conditions"].as_array().cloned());
        let ready = list.into_iter().flatten().find(|c| c["type"] == "Ready");
        ready.map(|c| text(&c["status"]).to_owned()).unwrap_or_default()
    };
    cluster.wait("the node is unknown", &NODES, |nodes| status(nodes) == "Unknown").await;
    cluster
        .wait("its pods do not count as ready", &DEPLOYMENTS, |all| {
            all[0]["status"]["availableReplicas"].is_null()
        })
        .await;
    let (before, _) = cluster.registry.list(&PODS, None).await.expect("lists");
    let _session = agent.connect(&cluster.socket, "one").await;
    cluster.wait("the node is ready", &NODES, |nodes| status(nodes) == "True").await;
    cluster.wait("two are available again", &DEPLOYMENTS, |all| available(all, 2)).await;
    let (after, _) = cluster.registry.list(&PODS, None).await.expect("lists");
    let uids =
        |pods: &[Value]| pods.iter().map(|p| text(&p["metadata"]["uid"]).to_owned()).collect::<Vec<_>>();
    assert_eq!(uids(&before), uids(&after), "no pod was replaced");
}
