//! The one loop that runs controllers, placement and sessions over one world.
//!
//! It owns all state. Events come in from the store's watch, the agents and finished work; each step asks the pure
//! parts what is to be done and starts that as tasks, whose ends are events again. Nothing here polls.

use super::{
    deployment, endpoints, feed, garbage, namespace, node_lifecycle, perform,
    plan::Plan,
    pod_gc,
    queue::Queue,
    recorder::Recorder,
    replicaset,
    tasks::{self, Task},
    world::{Changed, NsName, World},
};
use crate::{
    placement::{Decision, Placer},
    registry::Registry,
    sessions::{self, Hub, Inbox, NodeStreams},
    store::{StoreError, Watch},
};
use std::time::{Duration, UNIX_EPOCH};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{debug, error, info, warn};

/// Messages from agents that wait for the loop; their connections wait beyond that.
const INBOX_FRAMES: usize = 1024;
/// Pods placed in one step.
const PLACEMENTS: usize = 256;
/// Pause before the store is read anew.
const RELOAD_PAUSE: Duration = Duration::from_millis(200);

/// What the loop has to know of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    pub sessions: sessions::Config,
    /// A node without a session for so long is not ready.
    pub node_grace_s: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] sessions::ListenError),
    #[error("read the store")]
    Store(#[from] StoreError),
}

/// Starts everything; returns how the API server opens streams to nodes. Runs until the runtime ends.
pub async fn run(registry: Registry, config: Config) -> Result<NodeStreams, StartError> {
    let (sender, inbox) = mpsc::channel(INBOX_FRAMES);
    let (world, watch) = feed::load(&registry).await?;
    sessions::serve(&config.sessions.socket, sender.clone())?;
    let mut event_loop = Loop::new(registry, config);
    event_loop.reset(world);
    tokio::spawn(event_loop.run(watch, inbox));
    Ok(NodeStreams(sender))
}

/// Work that has ended.
enum Ended {
    Task { task: Task, failure: Option<String> },
    Bound { at: NsName, uid: String, bound: bool },
    Job(sessions::Done),
}

struct Loop {
    registry: Registry,
    recorder: Recorder,
    config: Config,
    world: World,
    queue: Queue,
    placer: Placer,
    hub: Hub,
    work: JoinSet<Ended>,
}

impl Loop {
    fn new(registry: Registry, config: Config) -> Self {
        let recorder = Recorder::start(registry.clone());
        let started_s = now_ms(&registry) / 1000;
        let hub = Hub::new(config.sessions.clone(), recorder.clone(), started_s as i64);
        Self {
            registry,
            recorder,
            config,
            world: World::default(),
            queue: Queue::default(),
            placer: Placer::default(),
            hub,
            work: JoinSet::new(),
        }
    }

    /// Starts over from a world that was read anew.
    fn reset(&mut self, world: World) {
        self.world = world;
        self.placer.reset(&self.world);
        self.hub.reset(&self.world);
        self.queue.add(tasks::all(&self.world));
    }

    async fn run(mut self, mut watch: Watch, mut inbox: mpsc::Receiver<Inbox>) {
        loop {
            self.step();
            let pause = self.pause();
            tokio::select! {
                change = watch.next() => match change {
                    Some(change) => self.take_changes(&mut watch, change),
                    None => watch = self.reload().await,
                },
                Some(ended) = self.work.join_next() => self.take_end(ended),
                Some(message) = inbox.recv() => self.take_message(message),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn reload(&mut self) -> Watch {
        loop {
            match feed::load(&self.registry).await {
                Ok((world, watch)) => {
                    info!(revision = world.revision, "the store was read anew");
                    self.reset(world);
                    return watch;
                }
                Err(error) => error!(%error, "the store cannot be read"),
            }
            tokio::time::sleep(RELOAD_PAUSE).await;
        }
    }

    fn take_changes(&mut self, watch: &mut Watch, change: crate::store::Change) {
        let now_s = self.now_s();
        let mut touched = std::collections::BTreeSet::new();
        feed::take(&mut self.world, watch, change, |world, changed: &Changed| {
            tasks::affected(world, changed, &mut touched);
            self.placer.changed(world, changed, now_s);
            self.hub.changed(world, changed);
        });
        self.queue.add(touched);
    }

    fn take_message(&mut self, message: Inbox) {
        let now_s = self.now_s();
        self.hub.take(&self.world, message, now_s);
        let touched = std::mem::take(&mut self.hub.touched);
        self.queue.add(touched.into_iter().map(Task::Node));
    }

    fn take_end(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let (revision, now_ms) = (self.registry.revision(), now_ms(&self.registry));
        match ended {
            Ok(Ended::Task { task, failure: None }) => self.queue.finished(&task, revision),
            Ok(Ended::Task { task, failure: Some(message) }) => {
                debug!(?task, message, "a task failed and is tried again");
                self.queue.failed(&task, revision, message, now_ms);
            }
            Ok(Ended::Bound { at, uid, bound: false }) => {
                self.placer.refused(&self.world, &at, &uid, (now_ms / 1000) as i64);
            }
            Ok(Ended::Bound { .. }) => {}
            Ok(Ended::Job(done)) => self.hub.done(&self.world, done),
            Err(error) => warn!(%error, "work ended without an answer"),
        }
    }

    /// Starts whatever can be started now.
    fn step(&mut self) {
        let now_ms = now_ms(&self.registry);
        for task in self.queue.take(self.world.revision, now_ms) {
            self.start(task, (now_ms / 1000) as i64);
        }
        for decision in self.placer.decide(&self.world, (now_ms / 1000) as i64, PLACEMENTS) {
            self.place(decision);
        }
        self.hub.flush(&self.world);
        for job in std::mem::take(&mut self.hub.jobs) {
            let registry = self.registry.clone();
            self.work.spawn(async move { Ended::Job(job.run(registry).await) });
        }
    }

    fn start(&mut self, task: Task, now_s: i64) {
        let Plan { writes, again_at_s } = self.plan(&task, now_s);
        if let Some(at_s) = again_at_s {
            self.queue.wake_at(&task, u64::try_from(at_s).unwrap_or_default() * 1000);
        }
        if writes.is_empty() {
            self.queue.settled(&task);
            return;
        }
        self.queue.started(&task);
        let (registry, recorder) = (self.registry.clone(), self.recorder.clone());
        self.work.spawn(async move {
            let failure = perform::perform(&registry, &recorder, writes).await.err();
            Ended::Task { task, failure: failure.map(|status| status.to_string()) }
        });
    }

    fn plan(&self, task: &Task, now_s: i64) -> Plan {
        let world = &self.world;
        match task {
            Task::Deployment(at) => deployment::sync(world, at, now_s),
            Task::ReplicaSet(at) => replicaset::sync(world, at, now_s, self.queue.failure(task)),
            Task::Endpoints(at) => endpoints::sync(world, at),
            Task::Namespace(name) => namespace::sync(world, name),
            Task::Garbage(key) => garbage::sync(world, key),
            Task::PodGc(at) => pod_gc::sync(world, at, now_s),
            Task::Node(name) => {
                let presence = self.hub.presence(name);
                node_lifecycle::sync(world, name, presence, self.config.node_grace_s, now_s)
            }
        }
    }

    fn place(&mut self, decision: Decision) {
        let (registry, recorder) = (self.registry.clone(), self.recorder.clone());
        let Decision { pod: at, uid, node, writes } = decision;
        self.work.spawn(async move {
            let written = perform::perform(&registry, &recorder, writes).await;
            if let Err(status) = &written {
                debug!(pod = %at, error = %status, "a placement was not written");
            }
            Ended::Bound { bound: node.is_none() || written.is_ok(), at, uid }
        });
    }

    /// Until the next timer.
    fn pause(&self) -> Duration {
        let timers = [self.queue.next_timer(), self.placer.next_s().map(|at_s| at_s.max(0) as u64 * 1000)];
        let next_ms = timers.into_iter().flatten().min();
        let wait_ms =
            next_ms.map_or(u64::from(u32::MAX), |at| at.saturating_sub(now_ms(&self.registry)).max(1));
        Duration::from_millis(wait_ms)
    }

    fn now_s(&self) -> i64 {
        (now_ms(&self.registry) / 1000) as i64
    }
}

fn now_ms(registry: &Registry) -> u64 {
    registry.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
