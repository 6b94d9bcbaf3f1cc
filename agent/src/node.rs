//! The owner of this node's desired state: takes frames in, keeps them on disk, hands pods to their tasks.

use crate::{
    checkpoint::Desired,
    clock::now_ns,
    host::Host,
    monitor::end_monitor,
    pod::{
        state::Memory,
        worker::{self, Order, Worker},
    },
    report::Report,
    session,
    streams::{self, Target},
};
use agent_protocol::{ClusterConfig, Deletion, Dial, FromAgent, Protocol, Service, ToAgent};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// What reaches the node.
pub enum Input {
    /// A session has begun; answers go here, and dropping it ends the session.
    Connected(mpsc::UnboundedSender<FromAgent>),
    Frame(Box<ToAgent>),
    /// `ctl` asks for the pods that are here.
    Targets(oneshot::Sender<Vec<Target>>),
    /// Stop every pod, then the network; answers when nothing is left.
    Drain {
        grace_s: u32,
        done: oneshot::Sender<Result<(), String>>,
    },
}

pub struct Node {
    host: Host,
    report: Report,
    scheduler: PathBuf,
    desired: Desired,
    workers: BTreeMap<String, Worker>,
    answers: Option<mpsc::UnboundedSender<FromAgent>>,
    /// Last sequence number; `None` before the first frame of a session.
    seq: Option<u64>,
    /// The state that is being sent whole.
    sync: Option<Desired>,
}

impl Node {
    /// Takes up what an earlier agent left: its pods go on, what it did not finish is finished.
    pub async fn start(host: Host, report: Report, scheduler: PathBuf) -> Self {
        let desired = Desired::load(&host.state_dir);
        let mut node = Self {
            host,
            report,
            scheduler,
            desired,
            workers: BTreeMap::new(),
            answers: None,
            seq: None,
            sync: None,
        };
        if let Some(cluster) = node.desired.cluster.clone() {
            node.configure(&cluster);
            node.host.netd.set_services(node.desired.services.values().map(convert).collect());
        }
        node.host.netd.retain(node.desired.pods.keys().cloned().collect());
        node.clear_strangers().await;
        node.apply();
        node
    }

    pub async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        while let Some(first) = inputs.recv().await {
            // What has piled up is kept on disk once, and then acted on.
            let mut batch = vec![first];
            while let Ok(more) = inputs.try_recv() {
                batch.push(more);
            }
            let mut changed = None;
            for input in batch {
                match input {
                    Input::Connected(answers) => self.connected(answers),
                    Input::Frame(frame) => changed = self.frame(*frame).or(changed),
                    Input::Targets(asked) => drop(asked.send(self.targets())),
                    Input::Drain { grace_s, done } => drop(done.send(self.drain(grace_s).await)),
                }
            }
            if let Some(seq) = changed {
                self.keep().await;
                self.apply();
                self.report.applied(seq);
            }
        }
    }

    fn connected(&mut self, answers: mpsc::UnboundedSender<FromAgent>) {
        self.answers = Some(answers);
        self.seq = None;
        self.sync = None;
        for status in self.workers.values().filter_map(|worker| worker.status.borrow().clone()) {
            self.report.status(&status);
        }
    }

    /// Takes a frame in; the sequence number when the desired state has changed.
    fn frame(&mut self, frame: ToAgent) -> Option<u64> {
        if let Some(seq) = seq(&frame) {
            let expected = self.seq.map(|last| last + 1);
            if expected.is_some_and(|expected| expected != seq) {
                tracing::warn!(expected, seq, "a frame is missing: dialling again");
                self.answers = None;
                return None;
            }
            self.seq = Some(seq);
        }
        let target = self.sync.as_mut().unwrap_or(&mut self.desired);
        match frame {
            ToAgent::Welcome(cluster) => self.welcome(cluster),
            ToAgent::Refused { reason } => tracing::error!(reason, "the scheduler refuses this node"),
            ToAgent::SyncBegin { .. } => {
                self.sync = Some(Desired { cluster: self.desired.cluster.clone(), ..Desired::default() })
            }
            ToAgent::SyncEnd { seq } => {
                if let Some(whole) = self.sync.take() {
                    self.host.netd.set_services(whole.services.values().map(convert).collect());
                    self.desired = whole;
                }
                return Some(seq);
            }
            ToAgent::PutPod { seq, pod } => {
                target.pods.insert(pod.uid.clone(), *pod);
                return self.sync.is_none().then_some(seq);
            }
            ToAgent::RemovePod { seq, uid } => {
                target.pods.remove(&uid);
                return self.sync.is_none().then_some(seq);
            }
            ToAgent::PutService { seq, service } => {
                if self.sync.is_none() {
                    self.host.netd.put_service(convert(&service));
                }
                let target = self.sync.as_mut().unwrap_or(&mut self.desired);
                target.services.insert((service.namespace.clone(), service.name.clone()), service);
                return self.sync.is_none().then_some(seq);
            }
            ToAgent::RemoveService { seq, namespace, name } => {
                target.services.remove(&(namespace.clone(), name.clone()));
                self.host.netd.remove_service(namespace, name);
                return self.sync.is_none().then_some(seq);
            }
            ToAgent::OpenStream { token, request } => self.open_stream(token, request),
            ToAgent::Ping { nonce } => {
                if let Some(answers) = &self.answers {
                    // A session that has just ended needs no answer.
                    let _ = answers.send(FromAgent::Pong { nonce });
                }
            }
        }
        None
    }

    fn welcome(&mut self, cluster: ClusterConfig) {
        tracing::info!(pod_cidr = ?cluster.pod_cidr, "joined the cluster");
        self.configure(&cluster);
        self.desired.cluster = Some(cluster);
    }

    fn configure(&self, cluster: &ClusterConfig) {
        *self.host.cluster.lock().expect("no panic while locked") = Some(cluster.clone());
        let cidr = |(address, prefix)| netd_protocol::Cidr { address, prefix };
        self.host.netd.configure(netd_protocol::Node {
            pod_cidr: cidr(cluster.pod_cidr),
            cluster_cidr: cidr(cluster.cluster_cidr),
            service_cidr: cidr(cluster.service_cidr),
            dns: cluster.dns,
            domain: cluster.domain.clone(),
            upstream_dns: Vec::new(),
        });
    }

    async fn keep(&self) {
        let (desired, state_dir) = (self.desired.clone(), self.host.state_dir.clone());
        let saved = tokio::task::spawn_blocking(move || desired.save(&state_dir)).await;
        if let Err(err) = saved.unwrap_or_else(|err| Err(std::io::Error::other(err))) {
            tracing::error!(error = %err, "the desired state could not be kept on disk");
        }
    }

    /// Moves the pods' tasks to the desired state.
    fn apply(&mut self) {
        self.workers.retain(|_, worker| !worker.orders.is_closed());
        for (uid, worker) in self.workers.iter().filter(|(uid, _)| !self.desired.pods.contains_key(*uid)) {
            tracing::info!(pod.uid = uid, "the pod is gone from the API");
            // One that has just ended is what is wanted.
            let _ = worker.orders.send(Order::Remove);
        }
        for (uid, pod) in &self.desired.pods {
            match self.workers.get_mut(uid) {
                Some(worker) if worker.spec == *pod => {}
                Some(worker) => {
                    worker.spec = pod.clone();
                    let _ = worker.orders.send(Order::Update(Box::new(pod.clone())));
                }
                None => {
                    let dirs = self.host.dirs(uid);
                    if pod.deletion.is_some() && !dirs.run.exists() && !dirs.state.exists() {
                        self.report.gone(uid);
                        continue;
                    }
                    let memory = Memory::load(&dirs.run);
                    let worker = worker::spawn(pod.clone(), self.host.clone(), self.report.clone(), memory);
                    self.workers.insert(uid.clone(), worker);
                }
            }
        }
    }

    /// Takes pods off the host that are not desired any more and have no task: an agent was killed before it could.
    async fn clear_strangers(&self) {
        let names = |dir: PathBuf| -> BTreeSet<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let known =
            names(self.host.run_dir.join("pods")).into_iter().chain(names(self.host.state_dir.join("pods")));
        let snapshots = self.host.images.snapshots().unwrap_or_default();
        let owners = snapshots.iter().filter_map(|name| name.split_once('.').map(|(uid, _)| uid.to_owned()));
        let strangers: BTreeSet<String> =
            known.chain(owners).filter(|uid| !self.desired.pods.contains_key(uid)).collect();
        for uid in strangers {
            tracing::info!(pod.uid = uid, "clearing what is left of a pod");
            if let Err(why) = self.clear(&uid).await {
                tracing::warn!(pod.uid = uid, why, "something is left of a pod");
            }
        }
    }

    async fn clear(&self, uid: &str) -> Result<(), String> {
        end_monitor(&self.host.dirs(uid).run, None).await?;
        self.host.clear_pod(uid, true).await
    }

    fn targets(&self) -> Vec<Target> {
        self.workers
            .values()
            .map(|worker| Target { spec: worker.spec.clone(), status: worker.status.clone() })
            .collect()
    }

    fn open_stream(&self, token: u64, request: agent_protocol::StreamRequest) {
        let worker = self.workers.get(streams::pod_of(&request));
        let target = worker.map(|worker| Target { spec: worker.spec.clone(), status: worker.status.clone() });
        let (host, scheduler) = (self.host.clone(), self.scheduler.clone());
        tokio::spawn(async move {
            match session::dial(&scheduler, &Dial::Stream { token }).await {
                Ok(stream) => streams::serve(stream, request, target, host).await,
                Err(err) => tracing::warn!(error = %err, "a stream could not be opened"),
            }
        });
    }

    /// Ends every pod, then the network; the desired state is forgotten.
    async fn drain(&mut self, grace_s: u32) -> Result<(), String> {
        self.desired = Desired { cluster: self.desired.cluster.clone(), ..Desired::default() };
        self.keep().await;
        let deletion = Some(Deletion { grace_s, requested_ns: now_ns() });
        for worker in self.workers.values_mut() {
            worker.spec.deletion.clone_from(&deletion);
            // One that has just ended is what is wanted.
            let _ = worker.orders.send(Order::Update(Box::new(worker.spec.clone())));
        }
        for (uid, worker) in std::mem::take(&mut self.workers) {
            let limit = Duration::from_secs(u64::from(grace_s) + 30);
            tokio::time::timeout(limit, worker.orders.closed())
                .await
                .map_err(|_| format!("pod {uid} does not end"))?;
        }
        self.clear_strangers().await;
        self.host.netd.teardown().await?;
        let parent = self.host.cgroup_parent.clone();
        let removed = tokio::task::spawn_blocking(move || crate::host::remove_cgroup_parent(&parent)).await;
        removed
            .unwrap_or_else(|err| Err(std::io::Error::other(err)))
            .map_err(|err| format!("remove the pods' cgroup: {err}"))
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

fn convert(service: &Service) -> netd_protocol::Service {
    let port = |port: &agent_protocol::ServicePort| netd_protocol::ServicePort {
        name: port.name.clone(),
        protocol: if port.protocol == Protocol::Tcp {
            netd_protocol::Protocol::Tcp
        } else {
            netd_protocol::Protocol::Udp
        },
        port: port.port,
        node_port: port.node_port,
        endpoints: port.endpoints.clone(),
    };
    netd_protocol::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        cluster_ip: service.cluster_ip,
        external_name: service.external_name.clone(),
        ports: service.ports.iter().map(port).collect(),
        hosts: service.hosts.clone(),
        affinity_s: service.affinity_s,
    }
}
