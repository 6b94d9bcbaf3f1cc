//! What has happened to a pod, taken into its state.

use super::{Pods, actions::Outcome};
use crate::{
    clock::{SECOND_NS, now_ns},
    monitor::Event as MonitorEvent,
    pod::{
        probes::{self, Kind, Verdict},
        sandbox,
        state::{ImageState, Run, Sandbox, parse_run_id},
        status::container_id,
    },
};
use agent_protocol::{Terminated, TerminationMessagePolicy};
use runtime_protocol::{Container, ContainerState, Exit};
use std::{fs, time::Duration};

/// A sandbox that could not be made is tried again after this long, doubled up to [`RETRY_MAX_S`].
const RETRY_S: u64 = 1;
const RETRY_MAX_S: u64 = 60;
/// Of a termination message, Kubernetes' limit.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Lines of log that stand in for a termination message.
const MESSAGE_LINES: usize = 80;

impl Pods {
    pub(super) fn done(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Sandbox(Ok(ready)) => self.sandbox_ready(ready),
            Outcome::Sandbox(Err((reason, message))) => self.sandbox_failed(reason, message),
            Outcome::Image { index, result, pulled_in } => self.image_done(index, result, pulled_in),
            Outcome::Ran { index, id, result } => self.ran(index, id, result),
            Outcome::Stopped { index } => drop(self.stops.remove(&index)),
            Outcome::Probed { index, kind, result } => self.probed(index, kind, result),
            Outcome::Refreshed(result) => {
                if let Err(why) = result {
                    self.tell(None, true, "FailedMount", format!("MountVolume.SetUp failed for {why}"));
                }
            }
            Outcome::Gone(result) => self.torn_down(result),
        }
    }

    pub(super) fn noted(&mut self, event: MonitorEvent) {
        match event {
            MonitorEvent::Changed(container) => self.changed(&container),
            MonitorEvent::Lost
                if self.monitor.is_some() && !matches!(self.state.sandbox, Sandbox::Leaving) =>
            {
                self.monitor_lost()
            }
            MonitorEvent::Lost => {}
        }
    }

    fn sandbox_ready(&mut self, ready: sandbox::Ready) {
        self.monitor = Some(ready.monitor);
        self.state.found = false;
        self.state.sandbox = Sandbox::Ready { ip: ready.ip };
        for container in &ready.containers {
            self.adopt(container);
        }
        // What was running under a monitor that is no more has ended with it.
        for index in 0..self.state.containers.len() {
            let known = |id: &str| ready.containers.iter().any(|container| container.container == id);
            if let Run::Running { id, started_ns } | Run::Stopping { id, started_ns } =
                self.state.containers[index].run.clone()
                && !known(&id)
            {
                self.lost(index, &id, started_ns);
            }
        }
    }

    /// Takes over a container that an earlier agent has started.
    fn adopt(&mut self, container: &Container) {
        let uid = self.state.spec.uid.clone();
        let Some((name, attempt)) = parse_run_id(&uid, &container.container) else { return };
        let Some(index) = self.state.index_of(name) else { return };
        if attempt + 1 < self.state.containers[index].attempt {
            return;
        }
        self.container_mut(index).attempt = attempt + 1;
        if let Some(reference) = self.state.container(index).image.parse().ok()
            && let Some(image) = self.host.images.resolve(&reference)
        {
            let id = format!("{}/{}@{}", reference.registry, reference.repository, image.digest);
            self.container_mut(index).image = ImageState::Present { name: reference.to_string(), id };
        }
        let (run, id) = (&self.state.containers[index].run, &container.container);
        // Its end may have been heard of after the monitor had said what there is.
        let over = matches!(run, Run::Exited(ended) if ended.container_id == container_id(id));
        let known = matches!(run, Run::Running { id: known, .. } if known == id);
        match &container.state {
            _ if over => {}
            ContainerState::Running { started_ns, .. } => {
                self.container_mut(index).run = Run::Running { id: id.clone(), started_ns: *started_ns };
                if known {
                    // It stays as ready as it was until a probe says otherwise.
                    self.begin_probes(index);
                } else {
                    self.running(index);
                }
            }
            ContainerState::Exited(exit) => self.exited(index, &container.container, exit),
            // Its start was cut short: it is made anew.
            ContainerState::Created { .. } => self.container_mut(index).run = Run::Waiting,
        }
    }

    fn sandbox_failed(&mut self, reason: &str, message: String) {
        let attempts = match self.state.sandbox {
            Sandbox::Busy { attempts } => attempts + 1,
            _ => 1,
        };
        self.tell(None, true, reason, message.clone());
        self.state.found = false;
        let wait_s = (RETRY_S << attempts.min(6)).min(RETRY_MAX_S);
        self.state.sandbox = Sandbox::Failed { message, retry_ns: now_ns() + wait_s * SECOND_NS, attempts };
    }

    fn image_done(
        &mut self,
        index: usize,
        result: Result<rootfs::Image, super::pull::ImageFailure>,
        pulled_in: Option<Duration>,
    ) {
        let name = self.state.container(index).image.clone();
        match result {
            Ok(image) => {
                let message = match pulled_in {
                    Some(time) => format!(
                        "Successfully pulled image \"{name}\" in {:.3}s. Image size: {} bytes.",
                        time.as_secs_f64(),
                        image.size_bytes
                    ),
                    None => format!("Container image \"{name}\" already present on machine"),
                };
                self.tell(Some(index), false, "Pulled", message);
                let full = name.parse::<rootfs::Reference>().ok();
                let id = full.as_ref().map_or_else(
                    || image.digest.clone(),
                    |full| format!("{}/{}@{}", full.registry, full.repository, image.digest),
                );
                let name = full.map_or(name, |full| full.to_string());
                self.container_mut(index).image = ImageState::Present { name, id };
                self.container_mut(index).trouble = None;
            }
            Err(failure) => {
                self.tell(Some(index), true, "Failed", failure.message.clone());
                let again = matches!(&self.state.containers[index].trouble, Some((reason, _)) if reason == failure.reason);
                let now = now_ns();
                let container = self.container_mut(index);
                container.back_off.failed(now, 0);
                let retry_ns = container.back_off.until_ns;
                container.trouble = Some((failure.reason.to_owned(), failure.message.clone()));
                let pulling = failure.reason == "ErrImagePull";
                // kubelet names the failure first, and the waiting afterwards.
                let (reason, message) = if pulling && again {
                    (
                        "ImagePullBackOff".to_owned(),
                        format!("Back-off pulling image \"{name}\": ErrImagePull: {}", failure.message),
                    )
                } else {
                    (failure.reason.to_owned(), failure.message)
                };
                let retry_ns = if pulling && !again { now + SECOND_NS } else { retry_ns };
                container.image = ImageState::Failed { reason, message, retry_ns };
                if pulling {
                    self.tell(Some(index), false, "BackOff", format!("Back-off pulling image \"{name}\""));
                }
            }
        }
    }

    fn ran(&mut self, index: usize, id: String, result: Result<(), (&'static str, String)>) {
        let name = self.state.container(index).name.clone();
        match result {
            Ok(()) => {
                self.tell(Some(index), false, "Created", format!("Created container {name}"));
                self.tell(Some(index), false, "Started", format!("Started container {name}"));
                self.container_mut(index).trouble = None;
                // The event of its start, or of its end, may have come before.
                if self.state.containers[index].run == Run::Creating {
                    self.container_mut(index).run = Run::Running { id, started_ns: now_ns() };
                    self.running(index);
                }
            }
            Err((reason, message)) => {
                self.tell(Some(index), true, "Failed", format!("Error: {message}"));
                if reason == "PostStartHookError" {
                    self.tell(Some(index), true, "FailedPostStartHook", message);
                    return;
                }
                let now = now_ns();
                let container = self.container_mut(index);
                container.back_off.failed(now, 0);
                container.trouble = Some((reason.to_owned(), message.clone()));
                container.run = if reason == "RunContainerError" {
                    let ended = Terminated {
                        exit_code: 128,
                        reason: "ContainerCannotRun".to_owned(),
                        message,
                        started_ns: now,
                        finished_ns: now,
                        container_id: container_id(&id),
                        signal: None,
                    };
                    Run::Exited(ended)
                } else {
                    Run::Waiting
                };
            }
        }
    }

    fn changed(&mut self, container: &Container) {
        let uid = self.state.spec.uid.clone();
        let Some((name, attempt)) = parse_run_id(&uid, &container.container) else { return };
        let Some(index) =
            self.state.index_of(name).filter(|&index| attempt + 1 == self.state.containers[index].attempt)
        else {
            return;
        };
        match &container.state {
            ContainerState::Created { .. } => {}
            ContainerState::Running { started_ns, .. } => {
                if self.state.containers[index].run == Run::Creating {
                    self.container_mut(index).run =
                        Run::Running { id: container.container.clone(), started_ns: *started_ns };
                    self.running(index);
                }
            }
            // One that never ran is told of by whoever tried to start it.
            ContainerState::Exited(exit) if exit.started_ns == 0 => {}
            ContainerState::Exited(exit) => self.exited(index, &container.container, exit),
        }
    }

    fn running(&mut self, index: usize) {
        let container = self.state.container(index);
        let (startup, readiness) = (container.startup.is_some(), container.readiness.is_some());
        let run = self.container_mut(index);
        run.started = !startup;
        run.ready = !startup && !readiness;
        self.begin_probes(index);
    }

    fn exited(&mut self, index: usize, id: &str, exit: &Exit) {
        if matches!(&self.state.containers[index].run, Run::Exited(ended) if ended.container_id == container_id(id))
        {
            return;
        }
        let reason = match exit {
            Exit { oom_killed: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        let message = self.termination_message(index, id, exit.code);
        self.end_run(
            index,
            Terminated {
                exit_code: exit.code,
                signal: None,
                reason: reason.to_owned(),
                message,
                started_ns: exit.started_ns,
                finished_ns: exit.finished_ns,
                container_id: container_id(id),
            },
        );
    }

    /// A run whose monitor has died: it was killed with it, and nobody knows its exit code.
    fn lost(&mut self, index: usize, id: &str, started_ns: u64) {
        self.end_run(
            index,
            Terminated {
                exit_code: 137,
                signal: None,
                reason: "ContainerStatusUnknown".to_owned(),
                message: "The container could not be located when the pod was terminated".to_owned(),
                started_ns,
                finished_ns: now_ns(),
                container_id: container_id(id),
            },
        );
    }

    fn end_run(&mut self, index: usize, ended: Terminated) {
        self.end_probes(index);
        if let Some(stop) = self.stops.remove(&index) {
            stop.abort();
        }
        let restarts = self.state.restarts(index, &ended) && !self.state.ending();
        let uid = self.state.spec.uid.clone();
        let container = self.container_mut(index);
        container.ready = false;
        container.started = false;
        let again = restarts && container.restarts > 0;
        container.run = Run::Exited(ended);
        if again {
            let name = self.state.container(index).name.clone();
            let pod = format!("{}_{}({uid})", self.state.spec.name, self.state.spec.namespace);
            self.tell(
                Some(index),
                true,
                "BackOff",
                format!("Back-off restarting failed container {name} in pod {pod}"),
            );
        }
    }

    fn termination_message(&self, index: usize, id: &str, code: i32) -> String {
        let container = self.state.container(index);
        let bundle = self.host.dirs(&self.state.spec.uid).state.join("containers").join(id);
        let text = fs::read(bundle.join("termination-log")).unwrap_or_default();
        let from_log =
            container.termination_message_policy == TerminationMessagePolicy::FallbackToLogsOnError;
        if text.is_empty() && from_log && code != 0 {
            let attempt = self.state.containers[index].attempt.saturating_sub(1);
            return crate::logs::last_lines(
                &self.host.log_file(&self.state.spec, &container.name, attempt),
                MESSAGE_LINES,
                MESSAGE_BYTES_MAX,
            );
        }
        String::from_utf8_lossy(&text[..text.len().min(MESSAGE_BYTES_MAX)]).into_owned()
    }

    /// The monitor was killed: its containers end with it, and a new sandbox is made.
    fn monitor_lost(&mut self) {
        self.monitor = None;
        self.tell(
            None,
            true,
            "SandboxChanged",
            "Pod sandbox changed, it will be killed and re-created.".to_owned(),
        );
        for index in 0..self.state.containers.len() {
            if let Run::Running { id, started_ns } | Run::Stopping { id, started_ns } =
                self.state.containers[index].run.clone()
            {
                self.lost(index, &id, started_ns);
            }
        }
        self.state.sandbox = Sandbox::Absent;
    }

    fn probed(&mut self, index: usize, kind: Kind, result: Result<(), String>) {
        let Run::Running { id, .. } = self.state.containers[index].run.clone() else { return };
        let Some(probe) = probes::of(self.state.container(index), kind).cloned() else { return };
        // Until it has started, only the startup probe counts.
        let waits = kind != Kind::Startup && !self.state.containers[index].started;
        if !waits {
            let verdict = self.streaks.entry((index, kind)).or_default().count(&probe, result.is_ok());
            if let Err(why) = &result {
                self.tell(Some(index), true, "Unhealthy", format!("{} probe failed: {why}", kind.words()));
            }
            match (kind, verdict) {
                (Kind::Startup, Verdict::Good) => {
                    let readiness = self.state.container(index).readiness.is_some();
                    let run = self.container_mut(index);
                    run.started = true;
                    run.ready = !readiness;
                    self.probes.remove(&(index, kind));
                    return;
                }
                (Kind::Readiness, Verdict::Good) => self.container_mut(index).ready = true,
                (Kind::Readiness, Verdict::Bad) => self.container_mut(index).ready = false,
                (Kind::Startup | Kind::Liveness, Verdict::Bad) => {
                    let name = self.state.container(index).name.clone();
                    let words = kind.words().to_ascii_lowercase();
                    self.tell(
                        Some(index),
                        false,
                        "Killing",
                        format!("Container {name} failed {words} probe, will be restarted"),
                    );
                    self.replace(index);
                    return;
                }
                _ => {}
            }
        }
        self.probe(index, kind, id, probes::period(&probe));
    }

    fn torn_down(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.state.gone = self.state.removed || self.state.spec.deletion.is_some();
                self.state.sandbox = Sandbox::Absent;
            }
            Err(why) => {
                self.tell(None, true, "FailedKillPod", format!("error killing pod: {why}"));
                self.state.sandbox =
                    Sandbox::Failed { message: why, retry_ns: now_ns() + SECOND_NS, attempts: 1 };
            }
        }
    }
}
