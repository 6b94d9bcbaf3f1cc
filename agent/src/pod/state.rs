//! What is known of a pod: runs, images and back-offs of its containers. Plain data, owned by the pod's worker.

use agent_protocol::{Container, Pod, RestartPolicy, Terminated};
use codec::{Decode, Encode};
use std::net::Ipv4Addr;

/// First wait after a container ended or an image could not be had, doubled each time up to [`BACK_OFF_MAX_S`].
pub const BACK_OFF_S: u64 = 10;
pub const BACK_OFF_MAX_S: u64 = 300;
/// A container that ran this long starts over with the shortest wait.
pub const BACK_OFF_RESET_S: u64 = 600;

#[derive(Clone, Debug, PartialEq)]
pub struct PodState {
    pub spec: Pod,
    /// The API no longer has the pod: it ends at once and is forgotten.
    pub removed: bool,
    pub sandbox: Sandbox,
    /// A monitor that an earlier agent has started lives, and was not asked yet what it has.
    pub found: bool,
    /// When this host first saw the pod.
    pub start_ns: u64,
    /// The pod has failed as a whole: reason and message.
    pub failed: Option<(String, String)>,
    /// Init containers first, in the order of the spec.
    pub containers: Vec<ContainerRun>,
    /// Everything of it is gone from the host.
    pub gone: bool,
    /// Moment by which the present stop has to be through.
    pub stop_deadline_ns: Option<u64>,
}

/// The namespaces, network and volumes that containers need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    Absent,
    /// Being made, after so many attempts that failed.
    Busy {
        attempts: u32,
    },
    /// `None` for a pod in the host's network.
    Ready {
        ip: Option<Ipv4Addr>,
    },
    /// Could not be made; tried again.
    Failed {
        message: String,
        retry_ns: u64,
        attempts: u32,
    },
    /// Being taken down.
    Leaving,
}

/// One container over all its runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRun {
    pub run: Run,
    pub image: ImageState,
    pub restarts: u32,
    /// Number of the next run.
    pub attempt: u32,
    pub last: Option<Terminated>,
    pub back_off: BackOff,
    pub started: bool,
    pub ready: bool,
    /// Why the container waits, when the run itself could not be made.
    pub trouble: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    /// To be run, when its turn and its time come.
    Waiting,
    Creating,
    Running {
        id: String,
        started_ns: u64,
    },
    /// Asked to end.
    Stopping {
        id: String,
        started_ns: u64,
    },
    Exited(Terminated),
}

#[derive(Clone, Debug, PartialEq)]
pub enum ImageState {
    Unknown,
    Pulling,
    Present {
        name: String,
        id: String,
    },
    /// Reason and message, and when to ask again.
    Failed {
        reason: String,
        message: String,
        retry_ns: u64,
    },
}

/// Waits that double. `delay_s` 0: there has been no failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct BackOff {
    pub delay_s: u64,
    pub until_ns: u64,
}

impl BackOff {
    /// Notes a failure at `now_ns`; `ran_ns` is how long it had worked before.
    pub fn failed(&mut self, now_ns: u64, ran_ns: u64) {
        let reset = ran_ns >= BACK_OFF_RESET_S * crate::clock::SECOND_NS;
        self.delay_s =
            if self.delay_s == 0 || reset { BACK_OFF_S } else { (self.delay_s * 2).min(BACK_OFF_MAX_S) };
        self.until_ns = now_ns + self.delay_s * crate::clock::SECOND_NS;
    }
}

impl ContainerRun {
    pub fn new() -> Self {
        Self {
            run: Run::Waiting,
            image: ImageState::Unknown,
            restarts: 0,
            attempt: 0,
            last: None,
            back_off: BackOff::default(),
            started: false,
            ready: false,
            trouble: None,
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.run, Run::Creating | Run::Running { .. } | Run::Stopping { .. })
    }
}

impl PodState {
    pub fn new(spec: Pod, now_ns: u64) -> Self {
        let count = spec.init_containers.len() + spec.containers.len();
        Self {
            spec,
            removed: false,
            sandbox: Sandbox::Absent,
            found: false,
            start_ns: now_ns,
            failed: None,
            containers: vec![ContainerRun::new(); count],
            gone: false,
            stop_deadline_ns: None,
        }
    }

    pub fn init_count(&self) -> usize {
        self.spec.init_containers.len()
    }

    /// The spec of container `index`, init containers first.
    pub fn container(&self, index: usize) -> &Container {
        match index.checked_sub(self.init_count()) {
            Some(index) => &self.spec.containers[index],
            None => &self.spec.init_containers[index],
        }
    }

    pub fn index_of(&self, name: &str) -> Option<usize> {
        (0..self.containers.len()).find(|&index| self.container(index).name == name)
    }

    pub fn is_init(&self, index: usize) -> bool {
        index < self.init_count()
    }

    /// An init container that runs beside the others.
    pub fn is_sidecar(&self, index: usize) -> bool {
        self.is_init(index) && self.container(index).restart_always
    }

    /// Whether container `index` runs again after it has ended like this.
    pub fn restarts(&self, index: usize, ended: &Terminated) -> bool {
        if self.is_sidecar(index) {
            return true;
        }
        let succeeded = ended.exit_code == 0;
        match self.spec.restart_policy {
            RestartPolicy::Always => !(self.is_init(index) && succeeded),
            RestartPolicy::OnFailure => !succeeded,
            RestartPolicy::Never => false,
        }
    }

    /// Whether every init container is through (a sidecar: has started).
    pub fn initialized(&self) -> bool {
        (0..self.init_count()).all(|index| self.init_done(index))
    }

    pub fn init_done(&self, index: usize) -> bool {
        let container = &self.containers[index];
        match &container.run {
            _ if self.is_sidecar(index) => container.started || container.restarts > 0,
            Run::Exited(ended) => ended.exit_code == 0,
            _ => false,
        }
    }

    /// The pod is to end: deleted, removed, or failed.
    pub fn ending(&self) -> bool {
        self.removed || self.spec.deletion.is_some() || self.failed.is_some()
    }

    /// Name of a run on the node: unique, and one safe path component.
    pub fn run_id(&self, index: usize, attempt: u32) -> String {
        format!("{}.{}.{attempt}", self.spec.uid, self.container(index).name)
    }
}

/// (container, attempt) of a run's name.
pub fn parse_run_id<'a>(uid: &str, id: &'a str) -> Option<(&'a str, u32)> {
    let (container, attempt) = id.strip_prefix(uid)?.strip_prefix('.')?.rsplit_once('.')?;
    Some((container, attempt.parse().ok()?))
}

/// What an agent that starts anew has to know of a pod it ran before; `<run>/pods/<uid>/pod.bin`.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Memory {
    start_ns: u64,
    failed: Option<(String, String)>,
    /// By the container's name.
    containers: Vec<(String, Counts)>,
}

#[derive(Clone, Debug, Encode, Decode)]
struct Counts {
    restarts: u32,
    attempt: u32,
    back_off: BackOff,
    last: Option<Terminated>,
    ended: Option<Terminated>,
    /// Name and start of the run that was there.
    live: Option<(String, u64)>,
    started: bool,
    ready: bool,
}

const MEMORY_FILE: &str = "pod.bin";

impl Memory {
    pub fn of(pod: &PodState) -> Self {
        let counts = |container: &ContainerRun| Counts {
            restarts: container.restarts,
            attempt: container.attempt,
            back_off: container.back_off,
            last: container.last.clone(),
            ended: match &container.run {
                Run::Exited(ended) => Some(ended.clone()),
                _ => None,
            },
            live: match &container.run {
                Run::Running { id, started_ns } | Run::Stopping { id, started_ns } => {
                    Some((id.clone(), *started_ns))
                }
                _ => None,
            },
            started: container.started,
            ready: container.ready,
        };
        let containers = pod
            .containers
            .iter()
            .enumerate()
            .map(|(index, container)| (pod.container(index).name.clone(), counts(container)));
        Self { start_ns: pod.start_ns, failed: pod.failed.clone(), containers: containers.collect() }
    }

    /// Puts back what was kept; what runs is learnt from the monitor.
    pub fn restore(self, pod: &mut PodState) {
        pod.start_ns = self.start_ns;
        pod.failed = self.failed;
        for (name, counts) in self.containers {
            let Some(index) = pod.index_of(&name) else { continue };
            let container = &mut pod.containers[index];
            container.restarts = counts.restarts;
            container.attempt = counts.attempt;
            container.back_off = counts.back_off;
            container.last = counts.last;
            if let Some(ended) = counts.ended {
                container.run = Run::Exited(ended);
            } else if let Some((id, started_ns)) = counts.live {
                container.run = Run::Running { id, started_ns };
                container.started = counts.started;
                container.ready = counts.ready;
            }
        }
    }

    pub fn load(run_dir: &std::path::Path) -> Option<Self> {
        codec::from_bytes(&std::fs::read(run_dir.join(MEMORY_FILE)).ok()?).ok()
    }

    /// Whole or not at all; the directory is gone with the memory of the host, so nothing is synced.
    pub fn save(&self, run_dir: &std::path::Path) -> std::io::Result<()> {
        let bytes = codec::to_bytes(self).map_err(std::io::Error::other)?;
        std::fs::create_dir_all(run_dir)?;
        let temporary = run_dir.join("pod.bin.new");
        std::fs::write(&temporary, bytes)?;
        std::fs::rename(temporary, run_dir.join(MEMORY_FILE))
    }
}
