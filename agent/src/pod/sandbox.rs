//! What a pod needs before its first container: directories, volumes, namespaces held by a monitor, an address, and the files that name things.

use super::{
    env::Addresses,
    volumes::{self, Dirs},
};
use crate::{
    host::Host,
    monitor::{self, Event, Monitor},
};
use agent_protocol::{Pod, Protocol};
use netd_protocol::{Attach, HostPort};
use runtime_protocol::{Container, Ids, Limits, Sandbox};
use std::{fmt::Write, fs, net::Ipv4Addr, path::PathBuf};
use tokio::sync::mpsc;

/// Tasks of one pod; `pids.max` is always set where it can be.
const PIDS_MAX: u64 = 4096;

/// A pod that containers can be run in.
#[derive(Debug)]
pub struct Ready {
    pub monitor: Monitor,
    pub ip: Option<Ipv4Addr>,
    /// Containers that a monitor found alive still has.
    pub containers: Vec<Container>,
}

/// Makes everything, or finds it again; repeating it is harmless. The error is for people, with the reason of the Event before it.
pub async fn make(
    pod: Pod,
    host: Host,
    events: mpsc::UnboundedSender<Event>,
) -> Result<Ready, (&'static str, String)> {
    let sandbox_failed =
        |message: String| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"));
    let dirs = host.dirs(&pod.uid);
    for dir in [dirs.state.join("etc"), dirs.run.clone(), host.pod_logs(&pod)] {
        fs::create_dir_all(&dir).map_err(|err| sandbox_failed(format!("create {}: {err}", dir.display())))?;
    }
    let users = users(&pod, &host).map_err(sandbox_failed)?;
    let start = async {
        if !monitor::alive(&dirs.run) {
            let (cgroup, root, uid) = (host.cgroup(&pod.uid), host.runtime_root(), pod.uid.clone());
            let cleared = tokio::task::spawn_blocking(move || monitor::clear(&cgroup, &root, &uid)).await;
            cleared
                .map_err(|err| err.to_string())?
                .map_err(|err| format!("clear what a lost monitor left: {err}"))?;
        }
        monitor::start(&host.runtime, &dirs.run, &description(&pod, &host, users))
            .await
            .map_err(|err| err.to_string())?;
        Monitor::connect(&dirs.run, events).await.map_err(|err| err.to_string())
    };
    let (monitor, containers) = start.await.map_err(sandbox_failed)?;
    let ip = match pod.host_network {
        true => None,
        false => Some(
            host.netd
                .attach(attach(&pod, &monitor))
                .await
                .map_err(|err| sandbox_failed(format!("network: {err}")))?,
        ),
    };
    let addresses = Addresses { pod: ip, host: host.address() };
    let (spec, at) = (pod.clone(), dirs.clone());
    let prepared = tokio::task::spawn_blocking(move || {
        volumes::prepare(&spec, &at, addresses)
            .and_then(|()| if spec.own_users { volumes::expect_mappable(&spec, &at) } else { Ok(()) })
            .map_err(|err| crate::chain(&err))
    })
    .await;
    let prepared = prepared.map_err(|err| err.to_string()).and_then(|prepared| prepared);
    prepared.map_err(|err| ("FailedMount", format!("MountVolume.SetUp failed for {err}")))?;
    write_files(&pod, &dirs, &host, ip)
        .map_err(|err| sandbox_failed(format!("write the files of etc: {err}")))?;
    Ok(Ready { monitor, ip, containers })
}

/// The pod's own users, if it is to have some; on disk before anything runs with them.
fn users(pod: &Pod, host: &Host) -> Result<Option<Ids>, String> {
    if !pod.own_users {
        return Ok(None);
    }
    if let Some(why) = host.images.overlay_refused() {
        return Err(format!(
            "hostUsers: false needs overlayfs, which cannot be mounted on this node ({why}): a copy of an image belongs to the host's users"
        ));
    }
    host.user_ids.assign(&host.pods(), &pod.uid).map(Some).map_err(|err| crate::chain(&err))
}

fn description(pod: &Pod, host: &Host, users: Option<Ids>) -> Sandbox {
    Sandbox {
        pod: pod.uid.clone(),
        hostname: pod.hostname.clone(),
        host_network: pod.host_network,
        host_ipc: pod.host_ipc,
        share_pid: pod.share_pid,
        sysctls: pod.sysctls.clone(),
        cgroup: host.cgroup(&pod.uid),
        limits: host.limits_enforced().then(|| Limits { pids_max: Some(PIDS_MAX), ..Limits::default() }),
        state_root: host.runtime_root(),
        users,
    }
}

fn attach(pod: &Pod, monitor: &Monitor) -> Attach {
    let ports = pod.containers.iter().chain(&pod.init_containers).flat_map(|container| &container.ports);
    let host_port = |port: &agent_protocol::Port| HostPort {
        protocol: if port.protocol == Protocol::Tcp {
            netd_protocol::Protocol::Tcp
        } else {
            netd_protocol::Protocol::Udp
        },
        host: port.host,
        container: port.container,
    };
    Attach {
        pod: pod.uid.clone(),
        netns: PathBuf::from(format!("/proc/{}/ns/net", monitor.pid)),
        netns_inode: monitor.netns_inode,
        host_ports: ports.filter(|port| port.host != 0).map(host_port).collect(),
    }
}

/// `hosts`, `hostname` and `resolv.conf`, which every container of the pod gets.
fn write_files(pod: &Pod, dirs: &Dirs, host: &Host, ip: Option<Ipv4Addr>) -> std::io::Result<()> {
    let etc = dirs.state.join("etc");
    fs::write(etc.join("hostname"), format!("{}\n", pod.hostname))?;
    fs::write(
        etc.join("resolv.conf"),
        resolv_conf(pod, &fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
    )?;
    let hosts =
        if pod.host_network { fs::read_to_string("/etc/hosts")? } else { hosts(pod, ip, &host.domain()) };
    fs::write(etc.join("hosts"), hosts)
}

fn hosts(pod: &Pod, ip: Option<Ipv4Addr>, domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    );
    if let Some(ip) = ip {
        let full = match pod.subdomain.as_str() {
            "" => String::new(),
            subdomain => format!("{}.{subdomain}.{}.svc.{domain}\t", pod.hostname, pod.namespace),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{ip}\t{full}{}", pod.hostname);
    }
    for alias in &pod.host_aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.names.join("\t"));
    }
    text
}

/// The pod's own settings, on top of the host's where the policy says `Default`.
fn resolv_conf(pod: &Pod, host: &str) -> String {
    let of_host = |word: &str| -> Vec<String> {
        let lines = host.lines().filter(|_| pod.dns.host).filter_map(|line| line.trim().strip_prefix(word));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let joined =
        |word: &str, own: &[String]| of_host(word).into_iter().chain(own.iter().cloned()).collect::<Vec<_>>();
    let mut text = String::new();
    let searches = joined("search ", &pod.dns.searches);
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    for server in joined("nameserver ", &pod.dns.nameservers) {
        let _ = writeln!(text, "nameserver {server}");
    }
    let options = joined("options ", &pod.dns.options);
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}
