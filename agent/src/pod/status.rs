//! A pod's state in Kubernetes' words: phase, reasons, messages. Pure.

use super::state::{ContainerRun, ImageState, PodState, Run, Sandbox};
use agent_protocol::{ContainerState, ContainerStatus, Phase, PodStatus, RestartPolicy};

/// Prefix of `containerID`.
const ID_SCHEME: &str = "wherry://";

/// What is reported; `now_ns` decides whether a container is in back-off.
pub fn status(pod: &PodState, now_ns: u64) -> PodStatus {
    let statuses: Vec<ContainerStatus> =
        (0..pod.containers.len()).map(|index| container(pod, index, now_ns)).collect();
    let (init, main) = statuses.split_at(pod.init_count());
    let (reason, message) = pod.failed.clone().unwrap_or_default();
    let ip = match pod.sandbox {
        Sandbox::Ready { ip } => ip,
        _ => None,
    };
    PodStatus {
        uid: pod.spec.uid.clone(),
        namespace: pod.spec.namespace.clone(),
        name: pod.spec.name.clone(),
        phase: phase(pod),
        reason,
        message,
        pod_ip: ip,
        start_ns: Some(pod.start_ns),
        sandbox_ready: matches!(pod.sandbox, Sandbox::Ready { .. }),
        initialized: pod.initialized(),
        init_containers: init.to_vec(),
        containers: main.to_vec(),
    }
}

/// kubelet's `getPhase`.
pub fn phase(pod: &PodState) -> Phase {
    if pod.failed.is_some() {
        return Phase::Failed;
    }
    let never = pod.spec.restart_policy == RestartPolicy::Never;
    let (init, main) = pod.containers.split_at(pod.init_count());
    let init_failed = |(index, container): (usize, &ContainerRun)| {
        !pod.is_sidecar(index) && matches!(&container.run, Run::Exited(ended) if ended.exit_code != 0)
    };
    if never && init.iter().enumerate().any(init_failed) {
        return Phase::Failed;
    }
    if !pod.initialized() {
        return Phase::Pending;
    }
    let running = main.iter().any(|c| matches!(c.run, Run::Running { .. } | Run::Stopping { .. }));
    let waiting = main.iter().any(|c| matches!(c.run, Run::Waiting | Run::Creating) && c.last.is_none());
    let stopped = |c: &&ContainerRun| {
        matches!(c.run, Run::Exited(_)) || (matches!(c.run, Run::Waiting | Run::Creating) && c.last.is_some())
    };
    let succeeded = main.iter().all(|c| matches!(&c.run, Run::Exited(ended) if ended.exit_code == 0));
    match () {
        () if waiting => Phase::Pending,
        () if running => Phase::Running,
        () if main.iter().any(|c| stopped(&c)) => match pod.spec.restart_policy {
            RestartPolicy::Always => Phase::Running,
            _ if succeeded => Phase::Succeeded,
            RestartPolicy::Never => Phase::Failed,
            RestartPolicy::OnFailure => Phase::Running,
        },
        () => Phase::Pending,
    }
}

fn container(pod: &PodState, index: usize, now_ns: u64) -> ContainerStatus {
    let (spec, run) = (pod.container(index), &pod.containers[index]);
    let (image, image_id) = match &run.image {
        ImageState::Present { name, id } => (name.clone(), id.clone()),
        _ => (spec.image.clone(), String::new()),
    };
    let id = match &run.run {
        Run::Running { id, .. } | Run::Stopping { id, .. } => format!("{ID_SCHEME}{id}"),
        Run::Exited(ended) => ended.container_id.clone(),
        _ => run.last.as_ref().map(|last| last.container_id.clone()).unwrap_or_default(),
    };
    let done = pod.is_init(index) && !pod.is_sidecar(index) && pod.init_done(index);
    ContainerStatus {
        name: spec.name.clone(),
        state: state(pod, index, now_ns),
        last: run.last.clone(),
        ready: run.ready || done,
        started: run.started,
        restarts: run.restarts,
        image,
        image_id,
        container_id: id,
    }
}

fn state(pod: &PodState, index: usize, now_ns: u64) -> ContainerState {
    let (spec, run) = (pod.container(index), &pod.containers[index]);
    let waiting =
        |reason: &str, message: String| ContainerState::Waiting { reason: reason.to_owned(), message };
    match &run.run {
        Run::Running { started_ns, .. } | Run::Stopping { started_ns, .. } => {
            ContainerState::Running { started_ns: *started_ns }
        }
        Run::Exited(ended) => ContainerState::Terminated(ended.clone()),
        Run::Waiting | Run::Creating => {
            if !pod.is_init(index) && !pod.initialized() {
                return waiting("PodInitializing", String::new());
            }
            if let Some(message) = &spec.config_error {
                return waiting("CreateContainerConfigError", message.clone());
            }
            if let ImageState::Failed { reason, message, .. } = &run.image {
                return waiting(reason, message.clone());
            }
            if run.run == Run::Waiting && run.last.is_some() && now_ns < run.back_off.until_ns {
                let (name, delay) = (&spec.name, duration(run.back_off.delay_s));
                let pod_name = format!("{}_{}({})", pod.spec.name, pod.spec.namespace, pod.spec.uid);
                return waiting(
                    "CrashLoopBackOff",
                    format!("back-off {delay} restarting failed container={name} pod={pod_name}"),
                );
            }
            match &run.trouble {
                Some((reason, message)) => waiting(reason, message.clone()),
                None => waiting("ContainerCreating", String::new()),
            }
        }
    }
}

/// `10s`, `2m40s`, as Go prints durations.
fn duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

/// `wherry://<run>`.
pub fn container_id(run: &str) -> String {
    format!("{ID_SCHEME}{run}")
}

#[cfg(test)]
mod tests;
