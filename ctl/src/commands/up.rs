//! `ctl up`: a one-node cluster on this host.

use crate::{
    client::Client,
    clock::wait_until,
    error::{CtlError, failed, file},
    host::{self, Daemon, process, systemd},
    kubeconfig::{DEFAULT_PATH, Kubeconfig},
    output::note,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const READY_WAIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub host: Host,
    /// Address and port of the API server
    #[arg(long, default_value = "0.0.0.0:6443", value_name = "ADDRESS:PORT")]
    listen: std::net::SocketAddr,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Addresses for pods; each node takes a /24
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    cluster_cidr: String,
    /// Addresses for Services
    #[arg(long, default_value = "10.96.0.0/12", value_name = "CIDR")]
    service_cidr: String,
    /// Name of the bridge that pods are plugged into
    #[arg(long, default_value = "wherry0", value_name = "NAME")]
    bridge: String,
    /// cgroup that pods live below, where systemd does not give one
    #[arg(long, default_value = "wherry.slice", value_name = "PATH")]
    cgroup_parent: String,
    /// Mirrors, credentials and exceptions of image registries
    #[arg(long, default_value = "/etc/wherry/registries.toml", value_name = "FILE")]
    registries: PathBuf,
    #[command(flatten)]
    image_gc: ImageGc,
    /// Run pods with limits also where cgroup v2 cannot enforce them
    #[arg(long)]
    allow_unenforced_limits: bool,
}

/// When unused images go, as `wherry-agent` takes it.
#[derive(Debug, clap::Args)]
struct ImageGc {
    /// Remove unused images when this much of the disk is used; 100: never
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// Remove unused images until only this much of the disk is used
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// Keep an unused image for at least so long after it came or was last used
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    image_gc_minimum_age: u64,
    /// Look at the disk this often
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    image_gc_period: u64,
}

impl ImageGc {
    /// The agent's flags. Errors: what the agent would refuse, said before anything is started.
    fn flags(&self) -> Result<[String; 4], CtlError> {
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        if low >= high {
            return Err(failed(format!(
                "--image-gc-low-threshold {low} must be lower than --image-gc-high-threshold {high}"
            )));
        }
        Ok([
            format!("--image-gc-high-threshold={high}"),
            format!("--image-gc-low-threshold={low}"),
            format!("--image-gc-minimum-age={}", self.image_gc_minimum_age),
            format!("--image-gc-period={}", self.image_gc_period),
        ])
    }
}

/// Where this host keeps things.
#[derive(Debug, clap::Args)]
pub struct Host {
    /// Files that a reboot may forget
    #[arg(long, default_value = "/run/wherry", value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Files that last: the store, images, pods' volumes
    #[arg(long, default_value = "/var/lib/wherry", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Container logs
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    pub log_dir: PathBuf,
    /// Run the daemons as plain processes, also where systemd runs
    #[arg(long)]
    pub no_systemd: bool,
}

impl Host {
    pub fn systemd(&self) -> bool {
        !self.no_systemd && systemd::booted()
    }
}

/// Starts what does not run yet; returns once the node is Ready.
pub fn run(args: &Args, kubeconfig: Option<&Path>) -> Result<(), CtlError> {
    let kubeconfig = kubeconfig.unwrap_or(Path::new(DEFAULT_PATH));
    if !nix::unistd::geteuid().is_root() {
        return Err(failed("ctl up needs root: it makes namespaces, cgroups and a bridge"));
    }
    let image_gc = args.image_gc.flags()?;
    let binaries = host::binaries()?;
    for dir in [&args.host.run_dir, &args.host.state_dir, &args.host.log_dir] {
        fs::create_dir_all(dir).map_err(file("create", dir))?;
    }
    let daemons = daemons(args, image_gc, kubeconfig, &binaries);
    for daemon in &daemons {
        start(daemon, &args.host, &binaries)?;
    }
    wait_for_node(args, kubeconfig, || revive(&daemons, &args.host, &binaries))?;
    note(&format!("The cluster is ready. Its kubeconfig: {}", kubeconfig.display()));
    note("Next: `ctl apply -f examples/hello.yaml`, `ctl get pods -A`; `ctl down` stops it all.");
    Ok(())
}

/// Starts one daemon in the way of this host and says so.
pub fn start(daemon: &Daemon, host: &Host, binaries: &Path) -> Result<(), CtlError> {
    if host.systemd() {
        systemd::start(daemon, binaries)?;
        note(&format!("{} runs (journalctl -u {0})", daemon.program()));
    } else {
        let pid = process::start(daemon, binaries, &host.run_dir)?;
        let log = process::log_file(daemon.name, &host.run_dir);
        note(&format!("{} runs (pid {pid}, log {})", daemon.program(), log.display()));
    }
    Ok(())
}

/// Starts what has ended since: a process that was being killed when `up` looked still counted as running. systemd does this by itself.
fn revive(daemons: &[Daemon], host: &Host, binaries: &Path) -> Result<(), CtlError> {
    if host.systemd() {
        return Ok(());
    }
    daemons.iter().try_for_each(|daemon| process::start(daemon, binaries, &host.run_dir).map(|_| ()))
}

/// The three daemons in the order they start, with every path spelt out.
fn daemons(args: &Args, image_gc: [String; 4], kubeconfig: &Path, binaries: &Path) -> [Daemon; 3] {
    let (run, state) = (args.host.run_dir.display(), args.host.state_dir.display());
    let with = |name, own: Vec<String>| Daemon {
        name,
        args: [format!("--run-dir={run}")].into_iter().chain(own).collect(),
    };
    let state = format!("--state-dir={state}");
    let mut agent = vec![
        state.clone(),
        format!("--log-dir={}", args.host.log_dir.display()),
        format!("--scheduler=unix:{run}/scheduler.sock"),
        format!("--netd={run}/netd.sock"),
        format!("--runtime={}", binaries.join("wherry-runtime").display()),
        format!("--registries={}", args.registries.display()),
    ];
    agent.extend(image_gc);
    agent.extend((!args.host.systemd()).then(|| format!("--cgroup-parent={}", args.cgroup_parent)));
    agent.extend(args.node_name.iter().map(|name| format!("--node-name={name}")));
    agent.extend(args.allow_unenforced_limits.then(|| "--allow-unenforced-limits".to_owned()));
    let scheduler = vec![
        state,
        format!("--listen={}", args.listen),
        format!("--cluster-cidr={}", args.cluster_cidr),
        format!("--service-cidr={}", args.service_cidr),
        format!("--kubeconfig={}", kubeconfig.display()),
    ];
    let netd = vec![format!("--bridge={}", args.bridge)];
    [with("scheduler", scheduler), with("netd", netd), with("agent", agent)]
}

fn wait_for_node(
    args: &Args,
    kubeconfig: &Path,
    mut revive: impl FnMut() -> Result<(), CtlError>,
) -> Result<(), CtlError> {
    let name = args.node_name.clone().unwrap_or_else(|| {
        nix::unistd::gethostname().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
    });
    let mut last = String::from("the API server has not answered");
    let mut revived = Ok(());
    let ready = wait_until(READY_WAIT, POLL, || {
        revived = revive();
        if revived.is_err() {
            return true;
        }
        let node = Kubeconfig::load(kubeconfig, None)
            .and_then(|config| Client::new(&config))
            .and_then(|client| client.get(&format!("/api/v1/nodes/{name}")));
        match node {
            Ok(node) => {
                let condition = node["status"]["conditions"]
                    .as_array()
                    .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
                last = condition
                    .and_then(|c| c["message"].as_str())
                    .unwrap_or("no Ready condition yet")
                    .to_owned();
                condition.is_some_and(|condition| condition["status"] == "True")
            }
            Err(err) => {
                last = err.to_string();
                false
            }
        }
    });
    revived?;
    if ready {
        Ok(())
    } else {
        Err(failed(format!("node {name} is not Ready after {} s: {last}", READY_WAIT.as_secs())))
    }
}
