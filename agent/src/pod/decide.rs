//! What to do next for a pod: from its state and the time to a list of actions. No I/O; the state is moved on only where that is a matter of
//! time or policy (an ended container that runs again).
//!
//! Kubernetes' rules: init containers one after another, sidecars beside them; restart policies with a back-off of 10 s to 300 s; a pod that ends stops its
//! containers first and is taken down when none is left.

use super::state::{ImageState, PodState, Run, Sandbox};

/// One thing to do; each is answered by an event that ends the state it left behind (`Busy`, `Pulling`, `Creating`, …).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Volumes, namespaces, network.
    MakeSandbox,
    PullImage {
        index: usize,
    },
    /// Create and start the next run.
    Run {
        index: usize,
    },
    /// preStop, stop signal, and SIGKILL at the deadline.
    Stop {
        index: usize,
        deadline_ns: u64,
    },
    /// Take everything of the pod off the host.
    TearDown,
}

/// Actions to start now, and when to look again if nothing happens before.
pub fn decide(pod: &mut PodState, now_ns: u64) -> (Vec<Action>, Option<u64>) {
    let mut actions = Vec::new();
    let mut wake_ns = None;
    if pod.gone {
        return (actions, None);
    }
    // Taken over before anything else: what ends gets its grace as well.
    if pod.found && pod.sandbox == Sandbox::Absent {
        pod.sandbox = Sandbox::Busy { attempts: 0 };
        return (vec![Action::MakeSandbox], None);
    }
    if let Some(deadline) = deadline(pod).filter(|_| !pod.ending()) {
        if now_ns >= deadline {
            pod.failed = Some((
                "DeadlineExceeded".to_owned(),
                "Pod was active on the node longer than the specified deadline".to_owned(),
            ));
        } else {
            wake(&mut wake_ns, deadline);
        }
    }
    if pod.ending() {
        end(pod, now_ns, &mut actions);
        return (actions, wake_ns);
    }
    match &pod.sandbox {
        Sandbox::Absent if finished(pod) => {}
        Sandbox::Absent => {
            pod.sandbox = Sandbox::Busy { attempts: 0 };
            actions.push(Action::MakeSandbox);
        }
        Sandbox::Failed { retry_ns, attempts, .. } if now_ns >= *retry_ns => {
            pod.sandbox = Sandbox::Busy { attempts: *attempts };
            actions.push(Action::MakeSandbox);
        }
        Sandbox::Failed { retry_ns, .. } => wake(&mut wake_ns, *retry_ns),
        Sandbox::Busy { .. } | Sandbox::Leaving => {}
        Sandbox::Ready { .. } => {
            for index in due(pod) {
                next(pod, index, now_ns, &mut actions, &mut wake_ns);
            }
        }
    }
    (actions, wake_ns)
}

fn deadline(pod: &PodState) -> Option<u64> {
    Some(pod.start_ns + pod.spec.active_deadline_s? * crate::clock::SECOND_NS)
}

/// Every container has ended for good.
pub fn finished(pod: &PodState) -> bool {
    let ended = |index: usize| matches!(&pod.containers[index].run, Run::Exited(ended) if !pod.restarts(index, ended));
    let init_failed = (0..pod.init_count()).any(|index| ended(index) && !pod.init_done(index));
    init_failed || (pod.init_count()..pod.containers.len()).all(ended)
}

/// The containers whose turn it is: sidecars that have had theirs, then the first init container that is not through, or all others.
fn due(pod: &PodState) -> Vec<usize> {
    let mut due = Vec::new();
    for index in 0..pod.init_count() {
        if pod.is_sidecar(index) {
            due.push(index);
        }
        if !pod.init_done(index) {
            if !pod.is_sidecar(index) {
                due.push(index);
            }
            return due;
        }
    }
    due.extend(pod.init_count()..pod.containers.len());
    due
}

fn next(pod: &mut PodState, index: usize, now_ns: u64, actions: &mut Vec<Action>, wake_ns: &mut Option<u64>) {
    if let Run::Exited(ended) = &pod.containers[index].run {
        // Containers that have nothing left to run beside end with the others.
        let over = pod.is_sidecar(index) && finished(pod);
        if over || !pod.restarts(index, ended) {
            return;
        }
        let ended = ended.clone();
        let container = &mut pod.containers[index];
        // The first restart is at once, as kubelet's.
        if container.restarts > 0 {
            container.back_off.failed(now_ns, ended.finished_ns.saturating_sub(ended.started_ns));
        }
        container.last = Some(ended);
        container.restarts += 1;
        container.run = Run::Waiting;
    }
    if pod.container(index).config_error.is_some() || !matches!(pod.containers[index].run, Run::Waiting) {
        return;
    }
    let container = &mut pod.containers[index];
    match &container.image {
        ImageState::Pulling => {}
        ImageState::Failed { retry_ns, .. } if now_ns < *retry_ns => wake(wake_ns, *retry_ns),
        ImageState::Unknown | ImageState::Failed { .. } => {
            container.image = ImageState::Pulling;
            actions.push(Action::PullImage { index });
        }
        ImageState::Present { .. } if now_ns < container.back_off.until_ns => {
            wake(wake_ns, container.back_off.until_ns)
        }
        ImageState::Present { .. } => {
            container.run = Run::Creating;
            actions.push(Action::Run { index });
        }
    }
}

/// Stops what runs; takes the pod down when nothing does. A pod that failed but is still in the API keeps its logs and its place.
fn end(pod: &mut PodState, now_ns: u64, actions: &mut Vec<Action>) {
    if matches!(pod.sandbox, Sandbox::Busy { .. }) {
        return;
    }
    let deadline_ns = stop_deadline(pod, now_ns);
    let sooner = pod.stop_deadline_ns.is_none_or(|before| deadline_ns < before);
    if sooner {
        pod.stop_deadline_ns = Some(deadline_ns);
    }
    // Sidecars end last.
    let main_live =
        (0..pod.containers.len()).any(|index| !pod.is_sidecar(index) && pod.containers[index].is_live());
    for index in 0..pod.containers.len() {
        let wait = pod.is_sidecar(index) && main_live;
        match pod.containers[index].run.clone() {
            Run::Running { id, started_ns } if !wait => {
                pod.containers[index].run = Run::Stopping { id, started_ns };
                pod.containers[index].ready = false;
                actions
                    .push(Action::Stop { index, deadline_ns: pod.stop_deadline_ns.unwrap_or(deadline_ns) });
            }
            Run::Stopping { .. } if sooner => actions.push(Action::Stop { index, deadline_ns }),
            _ => {}
        }
    }
    let ready = matches!(pod.sandbox, Sandbox::Ready { .. });
    let live = pod
        .containers
        .iter()
        .any(|container| ready && container.is_live() || container.image == ImageState::Pulling);
    let leave = match pod.sandbox {
        Sandbox::Busy { .. } | Sandbox::Leaving => false,
        Sandbox::Absent => pod.removed || pod.spec.deletion.is_some(),
        Sandbox::Ready { .. } | Sandbox::Failed { .. } => true,
    };
    if !live && leave {
        pod.sandbox = Sandbox::Leaving;
        actions.push(Action::TearDown);
    }
}

fn stop_deadline(pod: &PodState, now_ns: u64) -> u64 {
    let grace = |seconds: u32| u64::from(seconds) * crate::clock::SECOND_NS;
    match &pod.spec.deletion {
        _ if pod.removed => now_ns,
        Some(deletion) => deletion.requested_ns.min(now_ns) + grace(deletion.grace_s),
        None => pod.stop_deadline_ns.unwrap_or(now_ns + grace(pod.spec.grace_s)),
    }
}

fn wake(at: &mut Option<u64>, candidate_ns: u64) {
    *at = Some(at.map_or(candidate_ns, |at| at.min(candidate_ns)));
}

#[cfg(test)]
mod tests;
