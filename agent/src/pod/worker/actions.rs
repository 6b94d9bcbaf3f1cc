//! What a pod's task does: each action is a job whose outcome comes back to the task.

use super::{
    Pods,
    pull::{ImageFailure, image},
};
use crate::{
    clock::{SECOND_NS, now_ns},
    host::Host,
    monitor::{Monitor, MonitorError, end_monitor},
    pod::{
        config::{self, Bind, Inputs},
        env::{self, Addresses},
        handler,
        probes::{self, Kind},
        sandbox,
        state::{ImageState, Run},
        volumes,
    },
    user_ids,
};
use agent_protocol::{Pod, PullPolicy, Seccomp};
use rootfs::{Credential, Image, ImageError, Reference};
use runtime_protocol::{Create, Ids, Overlay, RequestBody, USERS_FILE};
use std::{fs, path::PathBuf, time::Duration};

/// Logs of one container: rotated at this size, this many files kept.
const LOG_BYTES_MAX: u64 = 10 << 20;
const LOG_FILES: u32 = 5;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// How a job ended.
pub enum Outcome {
    Sandbox(Result<sandbox::Ready, (&'static str, String)>),
    Image {
        index: usize,
        result: Result<Image, ImageFailure>,
        pulled_in: Option<Duration>,
    },
    /// The run was started, or could not be: reason and message.
    Ran {
        index: usize,
        id: String,
        result: Result<(), (&'static str, String)>,
    },
    /// preStop has run and every signal is sent.
    Stopped {
        index: usize,
    },
    Probed {
        index: usize,
        kind: Kind,
        result: Result<(), String>,
    },
    Refreshed(Result<(), String>),
    Gone(Result<(), String>),
}

impl Pods {
    pub(super) fn make_sandbox(&mut self) {
        let (pod, host, events) = (self.state.spec.clone(), self.host.clone(), self.events.clone());
        self.jobs.spawn(async move { Outcome::Sandbox(sandbox::make(pod, host, events).await) });
    }

    pub(super) fn pull(&mut self, index: usize) {
        let container = self.state.container(index);
        let (name, policy) = (container.image.clone(), container.pull_policy);
        let credentials = self.state.spec.registry_credentials.iter().map(|credential| Credential {
            registry: credential.registry.clone(),
            username: credential.username.clone(),
            password: credential.password.clone(),
        });
        let (host, credentials) = (self.host.clone(), credentials.collect::<Vec<_>>());
        let present = name
            .parse::<Reference>()
            .ok()
            .and_then(|reference| self.host.images.resolve(&reference))
            .is_some();
        if policy == PullPolicy::Always || (policy == PullPolicy::IfNotPresent && !present) {
            self.tell(Some(index), false, "Pulling", format!("Pulling image \"{name}\""));
        }
        self.jobs.spawn(async move {
            let begin = now_ns();
            let result = image(&host, &name, policy, &credentials).await;
            let pulled_in = matches!(result, Ok((_, true))).then(|| Duration::from_nanos(now_ns() - begin));
            Outcome::Image { index, result: result.map(|(image, _)| image), pulled_in }
        });
    }

    pub(super) fn run_container(&mut self, index: usize) {
        let Some(monitor) = self.monitor.clone() else { return };
        let attempt = self.state.containers[index].attempt;
        self.state.containers[index].attempt += 1;
        if let (0, Some(why)) = (attempt, self.host.images.overlay_refused()) {
            let message = format!(
                "Overlayfs cannot be mounted on this node ({why}): every run of the container gets a copy of its image, which takes time and disk space"
            );
            self.tell(Some(index), true, "OverlayUnavailable", message);
        }
        let id = self.state.run_id(index, attempt);
        let previous = attempt.checked_sub(1).map(|attempt| self.state.run_id(index, attempt));
        let start = Start {
            host: self.host.clone(),
            pod: self.state.spec.clone(),
            index,
            attempt,
            id: id.clone(),
            previous,
            addresses: self.addresses(),
        };
        self.jobs.spawn(async move {
            let result = start.run(&monitor).await;
            Outcome::Ran { index, id, result }
        });
    }

    /// preStop and the stop signal at once, SIGKILL to all at the deadline. A stop under way is replaced by one with an earlier deadline.
    pub(super) fn stop(&mut self, index: usize, deadline_ns: u64) {
        let (Run::Running { id, .. } | Run::Stopping { id, .. }) = self.state.containers[index].run.clone()
        else {
            return;
        };
        let Some(monitor) = self.monitor.clone() else { return };
        let again = self.stops.remove(&index).inspect(tokio::task::AbortHandle::abort).is_some();
        if !again {
            self.end_probes(index);
            self.tell(
                Some(index),
                false,
                "Killing",
                format!("Stopping container {}", self.state.container(index).name),
            );
        }
        let pre_stop = self.state.container(index).pre_stop.clone().filter(|_| !again);
        let signal = self.stop_signal(index);
        let ip = self.addresses().pod;
        let job = self.jobs.spawn(async move {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
            if let (Some(handler), false) = (pre_stop, left.is_zero())
                && let Err(why) = handler::run(&handler, monitor.dir(), &id, ip, left).await
            {
                tracing::info!(container.id = id, why, "preStop failed");
            }
            let send =
                |signal, all| monitor.request(RequestBody::Signal { container: id.clone(), signal, all });
            let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
            if !left.is_zero() {
                // One that has ended meanwhile needs no signal.
                let _ = send(signal, false).await;
                tokio::time::sleep(left).await;
            }
            let _ = send(SIGKILL, true).await;
            Outcome::Stopped { index }
        });
        self.stops.insert(index, job);
    }

    fn stop_signal(&self, index: usize) -> i32 {
        let ImageState::Present { name, .. } = &self.state.containers[index].image else { return SIGTERM };
        let image = name.parse::<Reference>().ok().and_then(|reference| self.host.images.resolve(&reference));
        let given = image.map(|image| image.config.stop_signal).unwrap_or_default();
        let bare = given.trim_start_matches("SIG").to_owned();
        given
            .parse()
            .ok()
            .or_else(|| {
                format!("SIG{bare}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
            })
            .unwrap_or(SIGTERM)
    }

    /// Ends a run so that another takes its place.
    pub(super) fn replace(&mut self, index: usize) {
        if let Run::Running { id, started_ns } = self.state.containers[index].run.clone() {
            self.state.containers[index].run = Run::Stopping { id, started_ns };
            let deadline_ns = now_ns() + u64::from(self.state.spec.grace_s) * SECOND_NS;
            self.stop(index, deadline_ns);
        }
    }

    pub(super) fn refresh_volumes(&mut self) {
        let (pod, dirs, addresses) =
            (self.state.spec.clone(), self.host.dirs(&self.state.spec.uid), self.addresses());
        self.jobs.spawn(async move {
            let refreshed = tokio::task::spawn_blocking(move || {
                volumes::prepare(&pod, &dirs, addresses).map_err(|err| crate::chain(&err))
            })
            .await;
            Outcome::Refreshed(refreshed.unwrap_or_else(|err| Err(err.to_string())))
        });
    }

    /// Takes the pod off the host. A pod that stays in the API keeps its logs.
    pub(super) fn tear_down(&mut self) {
        let (pod, host, monitor) = (self.state.spec.clone(), self.host.clone(), self.monitor.take());
        let forget = self.state.removed || pod.deletion.is_some();
        self.jobs.spawn(async move { Outcome::Gone(tear_down(&pod, &host, monitor, forget).await) });
    }

    /// Starts the probes of a run.
    pub(super) fn begin_probes(&mut self, index: usize) {
        self.end_probes(index);
        let Run::Running { id, started_ns } = self.state.containers[index].run.clone() else { return };
        let age = Duration::from_nanos(now_ns().saturating_sub(started_ns));
        let started = self.state.containers[index].started;
        for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
            if kind == Kind::Startup && started {
                continue;
            }
            if let Some(probe) = probes::of(self.state.container(index), kind).cloned() {
                let initial = Duration::from_secs(u64::from(probe.initial_delay_s));
                self.probe(index, kind, id.clone(), initial.saturating_sub(age));
            }
        }
    }

    /// One probe after a pause; its outcome starts the next.
    pub(super) fn probe(&mut self, index: usize, kind: Kind, id: String, pause: Duration) {
        let Some(probe) = probes::of(self.state.container(index), kind).cloned() else { return };
        let dir = self.host.dirs(&self.state.spec.uid).run;
        let ip = self.addresses().pod;
        let job = self.jobs.spawn(async move {
            tokio::time::sleep(pause).await;
            let limit = Duration::from_secs(u64::from(probe.timeout_s.max(1)));
            let result = handler::run(&probe.handler, &dir, &id, ip, limit).await;
            Outcome::Probed { index, kind, result }
        });
        self.probes.insert((index, kind), job);
    }

    pub(super) fn end_probes(&mut self, index: usize) {
        for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness] {
            if let Some(job) = self.probes.remove(&(index, kind)) {
                job.abort();
            }
            self.streaks.remove(&(index, kind));
        }
    }
}

/// One run of a container, from image to started program.
struct Start {
    host: Host,
    pod: Pod,
    index: usize,
    attempt: u32,
    id: String,
    previous: Option<String>,
    addresses: Addresses,
}

impl Start {
    async fn run(self, monitor: &Monitor) -> Result<(), (&'static str, String)> {
        let id = self.id.clone();
        let post_start = self.container().post_start.clone();
        let ip = self.addresses.pod;
        if let Some(previous) = &self.previous {
            // The run before this is of use only through its log, which stays.
            let removed = monitor.request(RequestBody::Delete { container: previous.clone() }).await;
            removed.map_err(|err| ("CreateContainerError", err.to_string()))?;
        }
        let prepared = tokio::task::spawn_blocking(move || self.prepare()).await;
        let create = prepared
            .map_err(|err| ("CreateContainerError", err.to_string()))
            .and_then(|prepared| prepared)?;
        let request = |body| async { monitor.request(body).await };
        let failed = |reason: &'static str| move |err: MonitorError| (reason, err.to_string());
        request(RequestBody::Create(Box::new(create))).await.map_err(failed("CreateContainerError"))?;
        let started =
            request(RequestBody::Start { container: id.clone() }).await.map_err(failed("RunContainerError"));
        if started.is_err() {
            // It never ran: nothing of it is worth keeping.
            let _ = request(RequestBody::Delete { container: id }).await;
            return started;
        }
        if let Some(handler) = post_start {
            let limit = Duration::from_secs(600);
            if let Err(why) = handler::run(&handler, monitor.dir(), &id, ip, limit).await {
                let _ =
                    request(RequestBody::Signal { container: id.clone(), signal: SIGKILL, all: true }).await;
                return Err(("PostStartHookError", why));
            }
        }
        Ok(())
    }

    fn container(&self) -> &agent_protocol::Container {
        let init = self.pod.init_containers.len();
        self.index
            .checked_sub(init)
            .map_or_else(|| &self.pod.init_containers[self.index], |index| &self.pod.containers[index])
    }

    /// Writable layer, bundle, log directory. Blocks.
    fn prepare(&self) -> Result<Create, (&'static str, String)> {
        let container = self.container();
        let config_error = |message: String| ("CreateContainerConfigError", message);
        let failed = |message: String| ("CreateContainerError", message);
        let reference: Reference =
            container.image.parse().map_err(|err: ImageError| failed(err.to_string()))?;
        let image = self
            .host
            .images
            .resolve(&reference)
            .ok_or_else(|| failed(format!("image {reference} is gone")))?;
        let security = &container.security;
        let mut user = image.look_up(&image.config.user).map_err(|err| failed(err.to_string()))?;
        if let Some(uid) = security.user {
            user = image.look_up(&uid.to_string()).map_err(|err| failed(err.to_string()))?;
        }
        user.gid = security.group.unwrap_or(user.gid);
        user.groups.extend(security.supplemental_groups.iter().copied().chain(self.pod.fs_group));
        if security.run_as_non_root && user.uid == 0 {
            return Err(config_error("container has runAsNonRoot and image will run as root".to_owned()));
        }
        let env = env::environment(&image.config.env, &self.pod.hostname, container, self.addresses);
        let args = env::command(&image.config.entrypoint, &image.config.cmd, container, &env);
        if args.is_empty() {
            return Err(failed("no command specified".to_owned()));
        }
        let cwd = [&container.working_dir, &image.config.working_dir].into_iter().find(|dir| !dir.is_empty());
        let snapshot =
            self.host.images.prepare(&image, &self.id).map_err(|err| failed(crate::chain(&err)))?;
        let bundle = self.host.dirs(&self.pod.uid).state.join("containers").join(&self.id);
        let seccomp = self.seccomp().map_err(config_error)?;
        let inputs = Inputs {
            pod: &self.pod,
            index: self.index,
            root: snapshot.root.clone(),
            cgroup: self.host.cgroup(&self.pod.uid).join(format!("{}-{}", container.name, self.attempt)),
            args,
            cwd: cwd.cloned().unwrap_or_else(|| "/".to_owned()),
            env: with_home(env, &user.home),
            user,
            binds: self.binds(&bundle).map_err(failed)?,
            limits: self.host.limits_enforced(),
            may_protect: may_protect(),
            memory_bytes: self.host.memory_bytes,
            seccomp,
            users: self.users().map_err(failed)?,
        };
        let text = config::config(&inputs).to_string();
        fs::write(bundle.join("config.json"), text)
            .map_err(|err| failed(format!("write config.json: {err}")))?;
        let log = self.host.log_file(&self.pod, &container.name, self.attempt);
        fs::create_dir_all(log.parent().unwrap_or(&bundle))
            .map_err(|err| failed(format!("create the log's directory: {err}")))?;
        Ok(Create {
            container: self.id.clone(),
            bundle,
            overlay: snapshot.overlay.map(|overlay| Overlay {
                lower: overlay.lower,
                upper: overlay.upper,
                work: overlay.work,
            }),
            log,
            log_bytes_max: LOG_BYTES_MAX,
            log_files: LOG_FILES,
            stdin: container.stdin,
            stdin_once: container.stdin_once,
        })
    }

    fn users(&self) -> Result<Option<(PathBuf, Ids)>, String> {
        if !self.pod.own_users {
            return Ok(None);
        }
        let dirs = self.host.dirs(&self.pod.uid);
        let ids = user_ids::load(&dirs.state).map_err(|err| crate::chain(&err))?;
        let ids = ids.ok_or_else(|| format!("the user ids of pod {} are lost", self.pod.uid))?;
        Ok(Some((dirs.run.join(USERS_FILE), ids)))
    }

    fn seccomp(&self) -> Result<Option<serde_json::Value>, String> {
        let security = &self.container().security;
        let Seccomp::Localhost(name) = &security.seccomp else {
            return Ok(config::default_seccomp(security));
        };
        let path = self.host.state_dir.join("seccomp").join(name);
        let text = fs::read(&path).map_err(|err| format!("seccomp profile {}: {err}", path.display()))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|err| format!("seccomp profile {}: {err}", path.display()))
    }

    /// Volumes, the files of etc, and the termination log; makes the bundle's directory.
    fn binds(&self, bundle: &PathBuf) -> Result<Vec<Bind>, String> {
        let container = self.container();
        let dirs = self.host.dirs(&self.pod.uid);
        fs::create_dir_all(bundle).map_err(|err| format!("create {}: {err}", bundle.display()))?;
        let bind = |source: PathBuf, target: &str| Bind {
            source,
            target: target.to_owned(),
            read_only: false,
            propagation: "rprivate".to_owned(),
        };
        let mounted = |target: &str| container.mounts.iter().any(|mount| mount.path == target);
        let mut binds = Vec::new();
        for (name, target) in
            [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
        {
            if !mounted(target) {
                binds.push(bind(dirs.state.join("etc").join(name), target));
            }
        }
        let termination = bundle.join("termination-log");
        fs::write(&termination, "").map_err(|err| format!("create {}: {err}", termination.display()))?;
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&termination, everyone)
            .map_err(|err| format!("set the mode of {}: {err}", termination.display()))?;
        if !container.termination_message_path.is_empty() {
            binds.push(bind(termination, &container.termination_message_path));
        }
        for mount in &container.mounts {
            let (source, files) =
                volumes::source(&self.pod, mount, &dirs).map_err(|err| crate::chain(&err))?;
            let propagation = match mount.propagation.as_str() {
                "rshared" => "rshared",
                "rslave" => "rslave",
                _ => "rprivate",
            };
            // What Kubernetes writes is not the container's to change.
            let read_only = mount.read_only || files;
            binds.push(Bind {
                source,
                target: mount.path.clone(),
                read_only,
                propagation: propagation.to_owned(),
            });
        }
        Ok(binds)
    }
}

fn with_home(mut env: Vec<(String, String)>, home: &str) -> Vec<(String, String)> {
    for (name, value) in
        [("HOME", home), ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")]
    {
        if !env.iter().any(|(have, _)| have == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    env
}

/// Whether OOM scores may be lowered: the effective capability 24, CAP_SYS_RESOURCE.
fn may_protect() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << 24) != 0)
}

async fn tear_down(pod: &Pod, host: &Host, monitor: Option<Monitor>, forget: bool) -> Result<(), String> {
    end_monitor(&host.dirs(&pod.uid).run, monitor).await?;
    if !pod.host_network {
        host.netd.detach(&pod.uid).await?;
    }
    host.clear_pod(&pod.uid, forget).await
}
