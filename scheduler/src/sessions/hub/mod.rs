//! All sessions: which node is there, what it has been sent, and what it is to be sent next.
//!
//! A synchronous state machine: it takes in connections, changes of the world and ends of jobs, and answers with
//! [`Job`]s and frames. Frames of a session are numbered from 1 without a gap. What is sent when is in [`desired`].

mod desired;

use super::{
    Config,
    intake::{self, Intake},
    jobs::{Done, Job},
    listener::Inbox,
    register::Network,
    resolve::ServiceAddress,
    service,
    streams::OpenStream,
};
use crate::controllers::{
    node_lifecycle::Presence,
    recorder::Recorder,
    world::{NsName, Pod, World},
};
use agent_protocol::{FromAgent, NodeInfo, NodeStatus, Service, ToAgent};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
};
use tracing::{info, warn};

type StreamReply = oneshot::Sender<Result<UnixStream, String>>;

pub struct Hub {
    config: Arc<Config>,
    recorder: Recorder,
    sessions: HashMap<String, Session>,
    nodes: HashMap<u64, String>,
    /// What nodes were last told of each Service.
    services: BTreeMap<NsName, Service>,
    addresses: Option<Arc<Vec<ServiceAddress>>>,
    streams: HashMap<u64, StreamReply>,
    intake: Intake,
    presence: HashMap<String, Presence>,
    started_s: i64,
    /// To be started by the owner.
    pub jobs: Vec<Job>,
    /// Nodes that came or went: to be looked at.
    pub touched: Vec<String>,
}

struct Session {
    connection: u64,
    outbox: mpsc::Sender<ToAgent>,
    info: Box<NodeInfo>,
    seq: u64,
    /// The first whole state is out: changes follow.
    live: bool,
    /// Pods to be sent, by uid.
    dirty: BTreeMap<String, NsName>,
    resolving: HashSet<String>,
    /// Fingerprints of what was sent, by uid: the same is not sent twice.
    sent: HashMap<String, u64>,
    report: Option<Box<NodeStatus>>,
    reporting: bool,
    pod_cidr: Option<String>,
}

impl Session {
    /// False when the agent does not keep up.
    fn send(&mut self, frame: impl FnOnce(u64) -> ToAgent) -> bool {
        self.seq += 1;
        self.outbox.try_send(frame(self.seq)).is_ok()
    }
}

impl Hub {
    pub fn new(config: Config, recorder: Recorder, started_s: i64) -> Self {
        Self {
            config: Arc::new(config),
            recorder,
            sessions: HashMap::new(),
            nodes: HashMap::new(),
            services: BTreeMap::new(),
            addresses: None,
            streams: HashMap::new(),
            intake: Intake::default(),
            presence: HashMap::new(),
            started_s,
            jobs: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// Whether a node has a session, and since when.
    pub fn presence(&self, node: &str) -> Presence {
        let absent = Presence { connected: false, since_s: self.started_s };
        self.presence.get(node).copied().unwrap_or(absent)
    }

    /// The world was read anew: every session starts over from the whole state.
    pub fn reset(&mut self, world: &World) {
        self.addresses = None;
        self.services.clear();
        for at in world.services.keys() {
            self.services.extend(service::message(world, at).map(|service| (at.clone(), service)));
        }
        self.sessions.clear();
    }

    pub fn take(&mut self, world: &World, inbox: Inbox, now_s: i64) {
        match inbox {
            Inbox::Connected { connection, info, outbox } => {
                self.connected(world, connection, info, outbox, now_s);
            }
            Inbox::Received { connection, message } => self.received(world, connection, message),
            Inbox::Disconnected { connection } => self.disconnected(connection, now_s),
            Inbox::Stream { token, stream } => {
                if let Some(reply) = self.streams.remove(&token) {
                    reply.send(Ok(stream)).ok();
                }
            }
            Inbox::Open(open) => self.open_stream(open),
        }
    }

    fn connected(
        &mut self,
        world: &World,
        connection: u64,
        info: Box<NodeInfo>,
        outbox: mpsc::Sender<ToAgent>,
        now_s: i64,
    ) {
        if let Some(reason) = refusal(&info) {
            warn!(node = info.name, reason, "a node was refused");
            outbox.try_send(ToAgent::Refused { reason }).ok();
            return;
        }
        info!(node = info.name, "node connected");
        let name = info.name.clone();
        self.drop_session(&name);
        let in_objects = world.nodes.values().map(|node| node.pod_cidr.clone());
        let in_sessions = self.sessions.values().filter_map(|session| session.pod_cidr.clone());
        let network = Network {
            cluster: self.config.cluster_cidr,
            taken: in_objects.chain(in_sessions).filter(|cidr| !cidr.is_empty()).collect(),
        };
        self.jobs.push(Job::Register { connection, info: info.clone(), network });
        self.nodes.insert(connection, name.clone());
        self.presence.insert(name.clone(), Presence { connected: true, since_s: now_s });
        self.touched.push(name.clone());
        self.sessions.insert(
            name,
            Session {
                connection,
                outbox,
                info,
                seq: 0,
                live: false,
                dirty: BTreeMap::new(),
                resolving: HashSet::new(),
                sent: HashMap::new(),
                report: None,
                reporting: false,
                pod_cidr: None,
            },
        );
    }

    /// Forgets a session; its connection ends when the outbox goes.
    fn drop_session(&mut self, node: &str) {
        if let Some(session) = self.sessions.remove(node) {
            self.nodes.remove(&session.connection);
        }
    }

    fn disconnected(&mut self, connection: u64, now_s: i64) {
        let Some(node) = self.nodes.remove(&connection) else { return };
        if self.sessions.get(&node).is_some_and(|session| session.connection != connection) {
            return;
        }
        info!(node, "node disconnected");
        self.sessions.remove(&node);
        self.presence.insert(node.clone(), Presence { connected: false, since_s: now_s });
        self.touched.push(node);
    }

    fn received(&mut self, world: &World, connection: u64, message: FromAgent) {
        let Some(node) = self.nodes.get(&connection).cloned() else { return };
        match message {
            FromAgent::Status(report) => match on_node(world, &report.uid, &node) {
                Some(_) => {
                    let host_ip = self.sessions.get(&node).and_then(|s| s.info.addresses.first());
                    let host_ip = host_ip.map(ToString::to_string).unwrap_or_default();
                    self.jobs.extend(self.intake.status(report, &host_ip));
                }
                None => self.remove(&node, &report.uid),
            },
            FromAgent::Gone { uid } => {
                if let Some(pod) = on_node(world, &uid, &node) {
                    self.jobs.extend(self.intake.gone(&uid, pod.meta.at.clone()));
                }
            }
            FromAgent::Event(event) => self.recorder.record(intake::note(world, &node, event)),
            FromAgent::Node(status) => {
                if let Some(session) = self.sessions.get_mut(&node) {
                    session.report = Some(Box::new(status));
                }
                self.report_node(&node);
            }
            FromAgent::Applied { .. } | FromAgent::Pong { .. } => {}
        }
    }

    fn report_node(&mut self, node: &str) {
        let Some(session) = self.sessions.get_mut(node) else { return };
        if session.reporting || session.pod_cidr.is_none() {
            return;
        }
        if let Some(status) = session.report.take() {
            session.reporting = true;
            let (connection, name) = (session.connection, node.to_owned());
            self.jobs.push(Job::Node { connection, name, status });
        }
    }

    fn open_stream(&mut self, open: OpenStream) {
        self.streams.retain(|_, reply| !reply.is_closed());
        let token = u64::from_le_bytes(crate::registry::identity::random());
        let Some(session) = self.sessions.get_mut(&open.node) else {
            open.reply.send(Err(format!("node {} is not connected", open.node))).ok();
            return;
        };
        let frame = ToAgent::OpenStream { token, request: open.request };
        if session.outbox.try_send(frame).is_ok() {
            self.streams.insert(token, open.reply);
        } else {
            open.reply.send(Err(format!("node {} does not answer", open.node))).ok();
        }
    }

    /// Sends a frame; a session that cannot take it ends.
    fn send(&mut self, node: &str, frame: impl FnOnce(u64) -> ToAgent) {
        let kept = self.sessions.get_mut(node).is_none_or(|session| session.send(frame));
        if !kept {
            warn!(node, "an agent does not keep up: it starts over");
            if let Some(session) = self.sessions.get_mut(node) {
                // The connection's end comes back as `Disconnected`; until then nothing more is sent.
                session.outbox = mpsc::channel(1).0;
                session.live = false;
            }
        }
    }

    fn remove(&mut self, node: &str, uid: &str) {
        if let Some(session) = self.sessions.get_mut(node) {
            session.sent.remove(uid);
        }
        if self.sessions.get(node).is_some_and(|session| session.live) {
            self.send(node, |seq| ToAgent::RemovePod { seq, uid: uid.to_owned() });
        }
    }

    /// Takes in the end of a job.
    pub fn done(&mut self, world: &World, done: Done) {
        match done {
            Done::Registered { connection, pod_cidr } => self.registered(world, connection, pod_cidr),
            Done::Collected { connection, pods } => self.collected(world, connection, pods),
            Done::Resolved { connection, uid, pod } => self.resolved(world, connection, &uid, pod),
            Done::Pod { uid } => self.jobs.extend(self.intake.written(&uid)),
            Done::Node { connection } => {
                let Some(node) = self.nodes.get(&connection).cloned() else { return };
                if let Some(session) = self.sessions.get_mut(&node) {
                    session.reporting = false;
                }
                self.report_node(&node);
            }
        }
    }
}

/// The pod if the world has it on this node.
fn on_node<'a>(world: &'a World, uid: &str, node: &str) -> Option<&'a Pod> {
    world.pod_by_uid(uid).filter(|pod| pod.node == node)
}

/// Why a node may not take part.
fn refusal(info: &NodeInfo) -> Option<String> {
    let name = &info.name;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let valid = name.len() <= 253
        && name.chars().all(allowed)
        && edge(name.chars().next())
        && edge(name.chars().last());
    (!valid).then(|| {
        format!(
            "node name {name:?} is not allowed: lower case letters, digits, '-' and '.', at most 253, \
                 starting and ending with a letter or digit"
        )
    })
}
