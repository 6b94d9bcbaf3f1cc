//! The owner of the node's network: takes the agent's requests one by one.

use crate::{
    dns::{self, Shared, Zone},
    ipam,
    leaving::Leaving,
    links,
    links::Plug,
    nftables,
    proxy::Proxy,
    service::{self, Table},
    state::{self, State},
};
use netd_protocol::{Attach, Cidr, MAGIC, Node, Reply, ReplyBody, Request, RequestBody, VERSIONS};
use rtnetlink::Handle;
use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

const TABLE: &str = "wherry";

pub struct Server {
    run_dir: PathBuf,
    bridge: String,
    handle: Handle,
    proxy: Proxy,
    zone: Shared,
    table: Arc<Table>,
    state: State,
    leaving: Leaving,
    dns: Option<JoinHandle<()>>,
}

type Asked = (RequestBody, oneshot::Sender<Result<ReplyBody, String>>);

/// Serves the socket until a teardown; then nothing of the network is left.
pub async fn run(run_dir: PathBuf, bridge: String, threads: usize) -> anyhow::Result<()> {
    let proxy = Proxy::start(threads)?;
    let handle = links::connect()?;
    let state = State::load(&run_dir);
    let mut server = Server {
        run_dir,
        bridge,
        handle,
        proxy,
        zone: Shared::default(),
        table: Arc::default(),
        state,
        leaving: Leaving::default(),
        dns: None,
    };
    if let Some(node) = server.state.node.clone() {
        server.configure(node).await.map_err(anyhow::Error::msg)?;
        tracing::info!(
            services = server.state.services.len(),
            pods = server.state.ipam.leases.len(),
            "serving what was kept"
        );
    }
    let listener = listen(&server.run_dir.join("netd.sock"))?;
    let (asks, mut asked) = mpsc::channel::<Asked>(64);
    tokio::spawn(accept(listener, asks));
    if let Err(err) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::warn!(error = %err, "readiness was not told");
    }
    tracing::info!("ready");
    loop {
        let (body, answer) = tokio::select! {
            asked = asked.recv() => match asked {
                Some(asked) => asked,
                None => return Ok(()),
            },
            Some(pod) = server.leaving.next() => {
                server.left(&pod)?;
                continue;
            }
        };
        let teardown = body == RequestBody::Teardown;
        let result = server.obey(body).await;
        if let Err(why) = &result {
            tracing::warn!(why, "a request failed");
        }
        let over = teardown && result.is_ok();
        // The agent may have gone; it will ask again.
        let _ = answer.send(result);
        if over {
            // The answer is written by the connection's task.
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            return Ok(());
        }
    }
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err.into()),
        _ => {}
    }
    Ok(UnixListener::bind(path)?)
}

async fn accept(listener: UnixListener, asks: mpsc::Sender<Asked>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let trusted = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw());
        if trusted {
            tokio::spawn(talk(stream, asks.clone()));
        }
    }
}

/// One connection: a request, its reply, the next.
async fn talk(mut stream: UnixStream, asks: mpsc::Sender<Asked>) {
    if codec::aio::exchange(&mut stream, MAGIC, &VERSIONS).await.is_err() {
        return;
    }
    while let Ok(request) = codec::aio::read_frame::<Request>(&mut stream).await {
        let (answer, answered) = oneshot::channel();
        if asks.send((request.body, answer)).await.is_err() {
            return;
        }
        let result = answered.await.unwrap_or_else(|_| Err("netd ends".to_owned()));
        if codec::aio::write_frame(&mut stream, &Reply { tag: request.tag, result }).await.is_err() {
            return;
        }
    }
}

impl Server {
    async fn obey(&mut self, body: RequestBody) -> Result<ReplyBody, String> {
        match body {
            RequestBody::Configure(node) => {
                self.configure(node).await?;
                self.save()?;
            }
            RequestBody::Attach(attach) => return self.attach(attach).await,
            RequestBody::Detach { pod } => {
                self.detach(&pod)?;
            }
            RequestBody::SetServices(services) => {
                self.state.services = services
                    .into_iter()
                    .map(|service| ((service.namespace.clone(), service.name.clone()), service))
                    .collect();
                self.publish()?;
            }
            RequestBody::PutService(service) => {
                self.state.services.insert((service.namespace.clone(), service.name.clone()), service);
                self.publish()?;
            }
            RequestBody::RemoveService { namespace, name } => {
                self.state.services.remove(&(namespace, name));
                self.publish()?;
            }
            RequestBody::Attachments => {
                let leases = &self.state.ipam.leases;
                return Ok(ReplyBody::Attachments(
                    leases
                        .iter()
                        .filter(|(pod, _)| !self.leaving.contains(pod))
                        .map(|(pod, address)| (pod.clone(), *address))
                        .collect(),
                ));
            }
            RequestBody::Retain { pods } => {
                let strangers: Vec<String> =
                    self.state.ipam.leases.keys().filter(|pod| !pods.contains(pod)).cloned().collect();
                strangers.iter().try_for_each(|pod| self.detach(pod))?;
            }
            RequestBody::Teardown => self.tear_down().await?,
        }
        Ok(ReplyBody::Done)
    }

    async fn configure(&mut self, node: Node) -> Result<(), String> {
        let text = |err: links::LinkError| crate::chain(&err);
        let gateway = ipam::gateway(node.pod_cidr);
        links::bridge(&self.handle, &self.bridge, gateway, node.pod_cidr.prefix).await.map_err(text)?;
        links::any_ip(&self.handle, node.service_cidr).await.map_err(text)?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .map_err(|err| format!("switch ip_forward on: {err}"))?;
        if let Err(err) = nftables::masquerade(TABLE, node.pod_cidr, node.cluster_cidr) {
            // Pods reach each other and services without it.
            tracing::warn!(error = %err, "pods cannot be masqueraded: is nf_tables missing from the kernel?");
        }
        let upstream =
            if node.upstream_dns.is_empty() { dns::host_resolvers() } else { node.upstream_dns.clone() };
        {
            let mut zone = self.zone.write().expect("no panic while locked");
            *zone = Zone { domain: node.domain.clone(), services: self.state.services.clone(), upstream };
        }
        let moved = self.state.node.as_ref().is_none_or(|before| before.dns != node.dns);
        if moved || self.dns.as_ref().is_none_or(JoinHandle::is_finished) {
            self.dns.take().inspect(JoinHandle::abort);
            let (address, zone) = (node.dns, self.zone.clone());
            self.dns = Some(tokio::spawn(async move {
                if let Err(err) = dns::serve(address, zone).await {
                    tracing::error!(%address, error = %err, "DNS cannot be served");
                }
            }));
        }
        self.state.node = Some(node);
        self.publish()
    }

    /// Hands services and host ports to the proxy and to DNS, and keeps them.
    fn publish(&mut self) -> Result<(), String> {
        let leases = &self.state.ipam.leases;
        let host_ports = self
            .state
            .host_ports
            .iter()
            .filter_map(|(pod, ports)| leases.get(pod).map(|address| (ports, *address)));
        let host_ports =
            host_ports.flat_map(|(ports, address)| ports.iter().map(move |port| (*port, address)));
        self.table = Arc::new(service::table(self.state.services.values(), host_ports, &self.table));
        self.proxy.set(&self.table);
        self.zone.write().expect("no panic while locked").services.clone_from(&self.state.services);
        self.save()
    }

    async fn attach(&mut self, attach: Attach) -> Result<ReplyBody, String> {
        let text = |err: links::LinkError| crate::chain(&err);
        let node = self.state.node.clone().ok_or("the node's network is not configured yet")?;
        let namespace = links::namespace(&attach.netns, attach.netns_inode).map_err(text)?;
        let gateway = ipam::gateway(node.pod_cidr);
        let bridge =
            links::bridge(&self.handle, &self.bridge, gateway, node.pod_cidr.prefix).await.map_err(text)?;
        if self.leaving.cancel(&attach.pod) {
            // One that leads into the pod's namespace of before; the kernel may be at it.
            links::remove(&self.handle, &links::host_name(&attach.pod)).await.map_err(text)?;
        }
        let address = self.lease(&attach.pod, node.pod_cidr).await?;
        // On disk before it is used: a netd that dies here knows whose it is.
        self.save()?;
        let plug =
            Plug { host: links::host_name(&attach.pod), address, prefix: node.pod_cidr.prefix, gateway };
        links::plug(&self.handle, bridge, &plug, namespace).await.map_err(text)?;
        let before = match attach.host_ports.is_empty() {
            true => self.state.host_ports.remove(&attach.pod),
            false => self.state.host_ports.insert(attach.pod, attach.host_ports.clone()),
        };
        if before.unwrap_or_default() != attach.host_ports {
            self.publish()?;
        }
        Ok(ReplyBody::Attached { address, gateway })
    }

    /// An address for the pod; when all are taken, the first that is given back by a pod that has ended.
    async fn lease(&mut self, pod: &str, cidr: Cidr) -> Result<Ipv4Addr, String> {
        loop {
            if let Some(address) = self.state.ipam.lease(pod, cidr) {
                return Ok(address);
            }
            let Some(left) = self.leaving.next().await else {
                return Err("every address of this node is taken".to_owned());
            };
            self.state.ipam.release(&left);
        }
    }

    /// The pod has ended: its ports are free at once, its address when its link is gone.
    fn detach(&mut self, pod: &str) -> Result<(), String> {
        if self.state.ipam.leases.contains_key(pod) {
            self.leaving.begin(&self.handle, pod);
        }
        match self.state.host_ports.remove(pod) {
            Some(_) => self.publish(),
            None => Ok(()),
        }
    }

    fn left(&mut self, pod: &str) -> anyhow::Result<()> {
        self.state.ipam.release(pod);
        self.save().map_err(anyhow::Error::msg)
    }

    async fn tear_down(&mut self) -> Result<(), String> {
        let pods: Vec<String> = self.state.ipam.leases.keys().cloned().collect();
        for pod in pods {
            self.leaving.cancel(&pod);
            links::remove(&self.handle, &links::host_name(&pod)).await.map_err(|err| crate::chain(&err))?;
        }
        self.proxy.set(&Arc::default());
        self.dns.take().inspect(JoinHandle::abort);
        links::remove(&self.handle, &self.bridge).await.map_err(|err| crate::chain(&err))?;
        if let Some(node) = &self.state.node {
            links::remove_any_ip(&self.handle, node.service_cidr).await;
        }
        if let Err(err) = nftables::remove(TABLE) {
            tracing::warn!(error = %err, "the masquerade table stays");
        }
        self.state = State::default();
        let dir = state::dir(&self.run_dir);
        match fs::remove_dir_all(&dir) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(format!("remove {}: {err}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    fn save(&self) -> Result<(), String> {
        self.state.save(&self.run_dir).map_err(|err| format!("keep the state of the network: {err}"))
    }
}
