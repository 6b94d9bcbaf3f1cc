//! `wherry-agent`: the pods of one host.
//!
//! It dials the scheduler and is told which pods the host is to run; images, monitors, network and volumes are its business. Stopping or losing it
//! leaves the pods alone; the next one finds them again. No Kubernetes API is asked, ever.
#![forbid(unsafe_code)]

mod checkpoint;
mod clock;
mod host;
mod image_gc;
mod images;
mod local;
mod logs;
mod monitor;
mod netd;
mod node;
mod pod;
mod report;
mod session;
mod streams;
mod user_ids;

use anyhow::Context;
use clap::Parser;
use host::Host;
use rootfs::{ImageStore, Registries};
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

#[derive(Debug, Parser)]
#[command(name = "wherry-agent", version, about = "Wherry's agent: the pods of this host")]
struct Args {
    /// Files that a reboot may forget
    #[arg(long, default_value = "/run/wherry", value_name = "DIR")]
    run_dir: PathBuf,
    /// Files that last
    #[arg(long, default_value = "/var/lib/wherry", value_name = "DIR")]
    state_dir: PathBuf,
    /// Container logs
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    log_dir: PathBuf,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Address of this node [default: that of the default route's device]
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<Ipv4Addr>,
    /// Where the scheduler is
    #[arg(long, default_value = "unix:/run/wherry/scheduler.sock", value_name = "unix:PATH", value_parser = scheduler)]
    scheduler: PathBuf,
    /// netd's socket
    #[arg(long, default_value = "/run/wherry/netd.sock", value_name = "PATH")]
    netd: PathBuf,
    /// The runtime's program
    #[arg(long, default_value = "/usr/local/bin/wherry-runtime", value_name = "PATH")]
    runtime: PathBuf,
    /// cgroup that pods live below, relative to the cgroup2 mount
    #[arg(long, default_value = "wherry.slice", value_name = "PATH")]
    cgroup_parent: PathBuf,
    /// Mirrors, credentials and exceptions of image registries
    #[arg(long, default_value = "/etc/wherry/registries.toml", value_name = "FILE")]
    registries: PathBuf,
    #[command(flatten)]
    image_gc: image_gc::Options,
    #[command(flatten)]
    user_ids: user_ids::Options,
    /// Run pods with limits also where cgroup v2 cannot enforce them
    #[arg(long)]
    allow_unenforced_limits: bool,
    /// Label of the node
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// What to log: error, warn, info, debug, or per module
    #[arg(long, default_value = "info", value_name = "FILTER")]
    log: String,
}

fn scheduler(text: &str) -> Result<PathBuf, String> {
    text.strip_prefix("unix:")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| "expected unix:PATH".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected KEY=VALUE".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log);
    let Ok(filter) = filter.inspect_err(|err| eprintln!("wherry-agent: --log {:?}: {err}", args.log)) else {
        return ExitCode::from(2);
    };
    let refused = args.image_gc.policy().map(drop).and_then(|()| args.user_ids.pool().map(drop));
    if let Err(why) = refused {
        eprintln!("wherry-agent: {why}");
        return ExitCode::from(2);
    }
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("start tokio").and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("wherry-agent: {err:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let policy = args.image_gc.policy().map_err(anyhow::Error::msg)?;
    for dir in [&args.run_dir, &args.state_dir, &args.log_dir] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let _only = lock(&args.run_dir)?;
    let host = host(&args).await?;
    let report = report::Report::default();
    let (inputs, inbox) = mpsc::unbounded_channel();
    let listener = listen(&args.run_dir.join("agent.sock"))?;
    let node = node::Node::start(host.clone(), report.clone(), args.scheduler.clone()).await;
    tokio::spawn(local::serve(listener, host.clone(), inputs.clone()));
    tokio::spawn(image_gc::run(host.clone(), report.clone(), inputs.clone(), policy, args.image_gc));
    tokio::spawn(session::run(args.scheduler, host, report, inputs));
    if let Err(err) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::warn!(error = %err, "readiness was not told");
    }
    tracing::info!("ready");
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        () = node.run(inbox) => {}
        _ = terminate.recv() => tracing::info!("ending; pods go on"),
        _ = interrupt.recv() => tracing::info!("ending; pods go on"),
    }
    Ok(())
}

/// Two agents on one run directory would fight over the pods.
fn lock(run_dir: &Path) -> anyhow::Result<nix::fcntl::Flock<fs::File>> {
    let path = run_dir.join("agent.lock");
    let file = fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock)
        .map_err(|(_, err)| anyhow::anyhow!("another agent runs on {}: {err}", run_dir.display()))
}

async fn host(args: &Args) -> anyhow::Result<Host> {
    anyhow::ensure!(args.runtime.is_file(), "--runtime {}: there is no such program", args.runtime.display());
    let root = host::cgroup_root()?;
    let limits = host::limits(&root, args.allow_unenforced_limits);
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().context("the host name")?.to_string_lossy().to_ascii_lowercase(),
    };
    let (state_dir, registries) = (args.state_dir.join("images"), Registries::load(&args.registries)?);
    let images = tokio::task::spawn_blocking(move || ImageStore::open(&state_dir, registries)).await??;
    if let Some(why) = images.overlay_refused() {
        tracing::warn!(why, state_dir = %args.state_dir.display(), "overlayfs cannot be mounted: containers get copies of their images");
    }
    let addresses = args.node_ip.map_or_else(|| host::addresses(&["wherry", "wh"]), |address| vec![address]);
    Ok(Host {
        run_dir: args.run_dir.clone(),
        state_dir: args.state_dir.clone(),
        log_dir: args.log_dir.clone(),
        runtime: args.runtime.clone(),
        name,
        images,
        netd: netd::Netd::start(args.netd.clone()),
        cgroup_parent: root.join(args.cgroup_parent.strip_prefix("/").unwrap_or(&args.cgroup_parent)),
        limits,
        labels: args.labels.clone(),
        addresses,
        user_ids: args.user_ids.pool().map_err(anyhow::Error::msg)?,
        memory_bytes: host::meminfo("MemTotal:"),
        cluster: Arc::default(),
    })
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            return Err(err).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))
}

/// An error and its causes in one line.
fn chain(err: &dyn std::error::Error) -> String {
    let mut line = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}
