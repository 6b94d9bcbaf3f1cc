//! The task that owns one pod: takes in what happens, decides, acts, reports.

mod actions;
mod events;
mod pull;

use super::{
    decide::{Action, decide},
    env::Addresses,
    probes::{Kind, Streak},
    state::{ContainerRun, PodState, Sandbox},
    status,
};
use crate::{
    clock::now_ns,
    host::Host,
    monitor::{self, Event as MonitorEvent, Monitor},
    report::Report,
};
use agent_protocol::{Event, Pod, PodStatus};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

pub use actions::Outcome;

/// What the node tells a pod's task.
#[derive(Debug)]
pub enum Order {
    /// The pod as it is to be from now on.
    Update(Box<Pod>),
    /// The API has it no more.
    Remove,
}

/// Handle on the task.
#[derive(Debug)]
pub struct Worker {
    pub orders: mpsc::UnboundedSender<Order>,
    /// What the pod is like, always the newest.
    pub status: tokio::sync::watch::Receiver<Option<PodStatus>>,
    /// The spec it was last given.
    pub spec: Pod,
}

pub(super) struct Pods {
    host: Host,
    state: PodState,
    report: Report,
    monitor: Option<Monitor>,
    /// Monitor events of the present connection.
    events: mpsc::UnboundedSender<MonitorEvent>,
    jobs: JoinSet<Outcome>,
    /// The stop of a container that is under way.
    stops: HashMap<usize, AbortHandle>,
    probes: HashMap<(usize, Kind), AbortHandle>,
    streaks: BTreeMap<(usize, Kind), Streak>,
    published: tokio::sync::watch::Sender<Option<PodStatus>>,
}

/// Starts the task of a pod. `remembered` is what an earlier agent kept of it.
pub fn spawn(spec: Pod, host: Host, report: Report, remembered: Option<super::state::Memory>) -> Worker {
    let (orders, inbox) = mpsc::unbounded_channel();
    let (published, status) = tokio::sync::watch::channel(None);
    let mut state = PodState::new(spec.clone(), now_ns());
    if let Some(memory) = remembered {
        memory.restore(&mut state);
    }
    state.found = monitor::alive(&host.dirs(&spec.uid).run);
    let (events, happened) = mpsc::unbounded_channel();
    let pods = Pods {
        host,
        state,
        report,
        monitor: None,
        events,
        jobs: JoinSet::new(),
        stops: HashMap::new(),
        probes: HashMap::new(),
        streaks: BTreeMap::new(),
        published,
    };
    tokio::spawn(pods.run(inbox, happened));
    Worker { orders, status, spec }
}

impl Pods {
    async fn run(
        mut self,
        mut inbox: mpsc::UnboundedReceiver<Order>,
        mut happened: mpsc::UnboundedReceiver<MonitorEvent>,
    ) {
        self.admit();
        loop {
            let wake_ns = self.act();
            self.publish();
            if self.state.gone && (self.state.removed || self.state.spec.deletion.is_some()) {
                self.report.gone(&self.state.spec.uid);
                return;
            }
            let pause = wake_ns.map_or(Duration::from_secs(3600), |at| {
                Duration::from_nanos(at.saturating_sub(now_ns()).max(1))
            });
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                Some(event) = happened.recv() => self.noted(event),
                // One that was aborted has lost its object: a stop or probe of a run that is over.
                Some(done) = self.jobs.join_next() => done.into_iter().for_each(|outcome| self.done(outcome)),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Refuses what this host cannot do, before anything is made.
    fn admit(&mut self) {
        let agent_protocol::LimitsEnforced::No { reason } = &self.host.limits else {
            if let (agent_protocol::LimitsEnforced::Waived { reason }, true) =
                (&self.host.limits, has_limits(&self.state.spec))
            {
                let message = format!("limits of this pod are not enforced: {reason}");
                self.tell(None, true, "LimitsNotEnforced", message);
            }
            return;
        };
        if has_limits(&self.state.spec) && self.state.failed.is_none() {
            let message = format!("this node cannot enforce the pod's limits: {reason}");
            self.tell(None, true, "UnenforceableLimits", message.clone());
            self.state.failed = Some(("UnenforceableLimits".to_owned(), message));
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Remove => self.state.removed = true,
            Order::Update(spec) => self.update(*spec),
        }
    }

    /// Containers keep running through a change of the spec; one whose image changed is run anew, as kubelet does.
    fn update(&mut self, spec: Pod) {
        let same_containers = spec.containers.len() == self.state.spec.containers.len()
            && spec.init_containers.len() == self.state.init_count();
        let renamed = !same_containers
            || (0..self.state.containers.len()).any(|index| {
                let new = index
                    .checked_sub(spec.init_containers.len())
                    .map_or_else(|| &spec.init_containers[index], |index| &spec.containers[index]);
                new.name != self.state.container(index).name
            });
        if renamed {
            tracing::warn!(pod.uid = %spec.uid, "the containers of a pod have changed, which the API does not allow: ignored");
            return;
        }
        let files_changed = spec.volumes != self.state.spec.volumes;
        let old = std::mem::replace(&mut self.state.spec, spec);
        for index in 0..self.state.containers.len() {
            let before = index
                .checked_sub(old.init_containers.len())
                .map_or_else(|| &old.init_containers[index], |index| &old.containers[index]);
            if before.image != self.state.container(index).image {
                self.state.containers[index].image = super::state::ImageState::Unknown;
                self.replace(index);
            }
        }
        if files_changed {
            match &mut self.state.sandbox {
                Sandbox::Ready { .. } => self.refresh_volumes(),
                // What was missing may be there now.
                Sandbox::Failed { retry_ns, .. } => *retry_ns = 0,
                _ => {}
            }
        }
    }

    /// Decides and starts what is to be done; when to look again.
    fn act(&mut self) -> Option<u64> {
        let (actions, wake_ns) = decide(&mut self.state, now_ns());
        for action in actions {
            self.start(action);
        }
        wake_ns
    }

    fn start(&mut self, action: Action) {
        match action {
            Action::MakeSandbox => self.make_sandbox(),
            Action::PullImage { index } => self.pull(index),
            Action::Run { index } => self.run_container(index),
            Action::Stop { index, deadline_ns } => self.stop(index, deadline_ns),
            Action::TearDown => self.tear_down(),
        }
    }

    /// Sends a new status out when it differs from the last one, and keeps what a next agent has to know.
    fn publish(&mut self) {
        if self.state.found {
            return;
        }
        let status = status::status(&self.state, now_ns());
        if self.published.borrow().as_ref() == Some(&status) {
            return;
        }
        self.remember();
        self.report.status(&status);
        self.published.send_replace(Some(status));
    }

    fn remember(&self) {
        if self.state.gone {
            return;
        }
        let dirs = self.host.dirs(&self.state.spec.uid);
        let memory = super::state::Memory::of(&self.state);
        if let Err(err) = memory.save(&dirs.run) {
            tracing::warn!(pod.uid = %self.state.spec.uid, error = %err, "a pod's counts could not be kept");
        }
    }

    fn addresses(&self) -> Addresses {
        let pod = match self.state.sandbox {
            Sandbox::Ready { ip } => ip,
            _ => None,
        };
        Addresses { pod, host: self.host.address() }
    }

    /// An Event about the pod, or one of its containers.
    fn tell(&self, index: Option<usize>, warning: bool, reason: &str, message: String) {
        let field_path = index.map_or_else(String::new, |index| {
            let list = if self.state.is_init(index) { "initContainers" } else { "containers" };
            format!("spec.{list}{{{}}}", self.state.container(index).name)
        });
        self.report.event(Event {
            pod_uid: Some(self.state.spec.uid.clone()),
            namespace: self.state.spec.namespace.clone(),
            pod: self.state.spec.name.clone(),
            field_path,
            warning,
            reason: reason.to_owned(),
            message,
            at_ns: now_ns(),
        });
    }

    fn container_mut(&mut self, index: usize) -> &mut ContainerRun {
        &mut self.state.containers[index]
    }
}

fn has_limits(pod: &Pod) -> bool {
    let limited = |container: &agent_protocol::Container| {
        container.resources.cpu_limit_millis > 0 || container.resources.memory_limit_bytes > 0
    };
    pod.containers.iter().chain(&pod.init_containers).any(limited)
}
