//! The agent's side of netd: one connection, requests in order, everything repeated after a reconnect.

use crate::clock::{SECOND_NS, now_ns};
use netd_protocol::{Attach, MAGIC, Node, Reply, ReplyBody, Request, RequestBody, Service, VERSIONS};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};

const RECONNECT: Duration = Duration::from_millis(200);
/// A netd that is away for less is being restarted, which says nothing about the node.
const AWAY_NS: u64 = 10 * SECOND_NS;

type Answer = oneshot::Sender<Result<ReplyBody, String>>;

enum Order {
    Configure(Box<Node>),
    Service(Box<Service>),
    RemoveService(String, String),
    Services(Vec<Service>),
    Retain(BTreeSet<String>),
    Ask(Box<RequestBody>, Answer),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Netd {
    orders: mpsc::UnboundedSender<Order>,
    /// Since when it is away, nanoseconds since 1970.
    away: watch::Receiver<Option<u64>>,
}

/// What netd is to know, kept to be told again.
#[derive(Default)]
struct Wanted {
    node: Option<Node>,
    services: BTreeMap<(String, String), Service>,
    retain: Option<BTreeSet<String>>,
}

impl Netd {
    /// Talks to netd behind the socket `path`, for as long as the agent runs.
    pub fn start(path: PathBuf) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (told, away) = watch::channel(Some(now_ns()));
        tokio::spawn(serve(path, inbox, told));
        Self { orders, away }
    }

    pub fn configure(&self, node: Node) {
        self.order(Order::Configure(Box::new(node)));
    }

    pub fn put_service(&self, service: Service) {
        self.order(Order::Service(Box::new(service)));
    }

    pub fn remove_service(&self, namespace: String, name: String) {
        self.order(Order::RemoveService(namespace, name));
    }

    pub fn set_services(&self, services: Vec<Service>) {
        self.order(Order::Services(services));
    }

    /// Attachments of other pods go.
    pub fn retain(&self, pods: BTreeSet<String>) {
        self.order(Order::Retain(pods));
    }

    fn order(&self, order: Order) {
        // The task that takes orders lives as long as the agent.
        let _ = self.orders.send(order);
    }

    /// Gives the pod its address; waits for netd if it is away.
    pub async fn attach(&self, attach: Attach) -> Result<Ipv4Addr, String> {
        match self.ask(RequestBody::Attach(attach)).await? {
            ReplyBody::Attached { address, .. } => Ok(address),
            other => Err(format!("netd answered {other:?}")),
        }
    }

    pub async fn detach(&self, pod: &str) -> Result<(), String> {
        self.ask(RequestBody::Detach { pod: pod.to_owned() }).await.map(drop)
    }

    pub async fn teardown(&self) -> Result<(), String> {
        self.ask(RequestBody::Teardown).await.map(drop)
    }

    pub fn is_ready(&self) -> bool {
        self.away.borrow().is_none_or(|since_ns| now_ns() < since_ns + AWAY_NS)
    }

    /// Changes when netd comes or goes.
    pub fn watch(&self) -> watch::Receiver<Option<u64>> {
        let mut away = self.away.clone();
        away.mark_unchanged();
        away
    }

    async fn ask(&self, body: RequestBody) -> Result<ReplyBody, String> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Ask(Box::new(body), answer));
        answered.await.map_err(|_| "netd is away".to_owned())?
    }
}

async fn serve(path: PathBuf, mut inbox: mpsc::UnboundedReceiver<Order>, away: watch::Sender<Option<u64>>) {
    let mut wanted = Wanted::default();
    // An order that a lost connection left unanswered is carried out on the next.
    let mut open: Option<(RequestBody, Answer)> = None;
    loop {
        if let Ok(mut stream) = connect(&path).await {
            let told = tell_all(&mut stream, &wanted).await;
            if told.is_ok() {
                away.send_replace(None);
                talk(&mut stream, &mut inbox, &mut wanted, &mut open).await;
                away.send_replace(Some(now_ns()));
            }
        }
        if inbox.is_closed() && inbox.is_empty() {
            return;
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn connect(path: &PathBuf) -> Result<UnixStream, codec::CodecError> {
    let mut stream = UnixStream::connect(path).await.map_err(codec::CodecError::Io)?;
    codec::aio::exchange(&mut stream, MAGIC, &VERSIONS).await?;
    Ok(stream)
}

/// What a netd that has just come (back) has to know.
async fn tell_all(stream: &mut UnixStream, wanted: &Wanted) -> Result<(), codec::CodecError> {
    let Some(node) = &wanted.node else { return Ok(()) };
    let services = wanted.services.values().cloned().collect();
    let mut orders = vec![RequestBody::Configure(node.clone()), RequestBody::SetServices(services)];
    orders.extend(wanted.retain.clone().map(|pods| RequestBody::Retain { pods: pods.into_iter().collect() }));
    for body in orders {
        if let Err(why) = call(stream, body).await? {
            tracing::warn!(why, "netd refused what it is to know");
        }
    }
    Ok(())
}

/// Carries out orders until the connection breaks.
async fn talk(
    stream: &mut UnixStream,
    inbox: &mut mpsc::UnboundedReceiver<Order>,
    wanted: &mut Wanted,
    open: &mut Option<(RequestBody, Answer)>,
) {
    loop {
        let (body, answer) = match open.take() {
            Some(unfinished) => (unfinished.0, Some(unfinished.1)),
            None => {
                let order = tokio::select! {
                    order = inbox.recv() => order,
                    () = hung_up(stream) => return,
                };
                let Some(order) = order else { return };
                match note(wanted, order) {
                    Some(request) => request,
                    None => continue,
                }
            }
        };
        match call(stream, body.clone()).await {
            Ok(result) => match answer {
                // Whoever asked may have gone meanwhile.
                Some(answer) => drop(answer.send(result)),
                None => {
                    if let Err(why) = result {
                        tracing::warn!(why, "netd refused");
                    }
                }
            },
            Err(err) => {
                tracing::warn!(error = %err, "netd is away");
                *open = answer.map(|answer| (body, answer));
                return;
            }
        }
    }
}

/// Returns once the peer has gone; it says nothing by itself.
pub async fn hung_up(stream: &UnixStream) {
    while stream.readable().await.is_ok() {
        // Readiness may be left over from what was read before.
        match stream.try_read(&mut [0]) {
            Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// Remembers what an order says; gives the request to send.
fn note(wanted: &mut Wanted, order: Order) -> Option<(RequestBody, Option<Answer>)> {
    let body = match order {
        Order::Ask(body, answer) => {
            match (&*body, &mut wanted.retain) {
                (RequestBody::Attach(attach), Some(pods)) => _ = pods.insert(attach.pod.clone()),
                (RequestBody::Detach { pod }, Some(pods)) => _ = pods.remove(pod),
                _ => {}
            }
            return Some((*body, Some(answer)));
        }
        Order::Configure(node) => {
            wanted.node = Some((*node).clone());
            RequestBody::Configure(*node)
        }
        Order::Service(service) => {
            wanted.services.insert((service.namespace.clone(), service.name.clone()), (*service).clone());
            RequestBody::PutService(*service)
        }
        Order::RemoveService(namespace, name) => {
            wanted.services.remove(&(namespace.clone(), name.clone()));
            RequestBody::RemoveService { namespace, name }
        }
        Order::Services(services) => {
            wanted.services = services
                .iter()
                .map(|service| ((service.namespace.clone(), service.name.clone()), service.clone()))
                .collect();
            RequestBody::SetServices(services)
        }
        Order::Retain(pods) => {
            wanted.retain = Some(pods.clone());
            RequestBody::Retain { pods: pods.into_iter().collect() }
        }
    };
    Some((body, None))
}

async fn call(
    stream: &mut UnixStream,
    body: RequestBody,
) -> Result<Result<ReplyBody, String>, codec::CodecError> {
    codec::aio::write_frame(stream, &Request { tag: 0, body }).await?;
    let reply: Reply = codec::aio::read_frame(stream).await?;
    Ok(reply.result)
}
