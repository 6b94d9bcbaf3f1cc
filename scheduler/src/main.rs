//! `wherry-scheduler`: the cluster's control process.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::Parser;
use scheduler::{
    api_server::{Certificates, Listener, Server},
    clock::Clock,
    controllers, pki,
    registry::{self, Cidr, Registry},
    sessions,
    store::Embedded,
};
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

/// API server, store, placement, controllers and node sessions of one cluster.
#[derive(Parser)]
#[command(name = "wherry-scheduler", version)]
struct Args {
    /// State until reboot; agents dial scheduler.sock in it
    #[arg(long, default_value = "/run/wherry")]
    run_dir: PathBuf,
    /// Durable state: the store and the cluster's certificates
    #[arg(long, default_value = "/var/lib/wherry")]
    state_dir: PathBuf,
    /// Address and port of the Kubernetes API; port 0 lets the kernel choose
    #[arg(long, default_value = "0.0.0.0:6443")]
    listen: SocketAddr,
    /// Address under which others reach the API [default: the one of the default route]
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Network of all pods
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: Cidr,
    /// Network of Service addresses
    #[arg(long, default_value = "10.96.0.0/12")]
    service_cidr: Cidr,
    /// Where to write the administrator's kubeconfig
    #[arg(long, default_value = "/etc/wherry/kubeconfig")]
    kubeconfig: PathBuf,
    /// Seconds after which a node without a session is not ready
    #[arg(long, default_value_t = 40)]
    node_grace_s: u64,
    /// What to log: a level, or `target=level` pairs
    #[arg(long, default_value = "info")]
    log: String,
}

/// Threads that read long lists; each may keep memory of its own.
const BLOCKING_THREADS: usize = 2;
/// How often the certificates are looked at.
const RENEWAL_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("wherry-scheduler: --log {:?}: {error}", args.log);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let done = runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let chain: Vec<String> = failed.chain().map(ToString::to_string).collect();
            error!("{}", chain.join(": "));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let clock = Clock::default();
    fs::create_dir_all(&args.state_dir).with_context(|| format!("create {}", args.state_dir.display()))?;
    fs::create_dir_all(&args.run_dir).with_context(|| format!("create {}", args.run_dir.display()))?;
    let store = Embedded::open(&args.state_dir.join("store.redb"))?;
    let config = registry::Config { service_cidr: args.service_cidr, clock: clock.clone() };
    let registry = Registry::new(store.clone(), config);
    let advertise = args.advertise_address.unwrap_or_else(own_address);
    let names = server_names(&args, advertise);
    let pki_dir = args.state_dir.join("pki");
    let pki = pki::load(&pki_dir, &names, &clock)?;
    let certificates = Arc::new(Certificates::new(&pki)?);
    let listener = Listener::bind(args.listen, &pki, certificates.clone()).await?;
    let address = listener.address().context("read the port of the API")?;
    registry.bootstrap(advertise, address.port()).await.context("create the cluster's first objects")?;
    let url = kubeconfig_url(address);
    pki::write_private(&args.kubeconfig, pki::kubeconfig(&pki, &url).as_bytes())?;
    let streams = controllers::run(registry.clone(), control_config(&args)).await?;
    let server = Server::new(registry.clone(), Arc::new(streams));
    info!(url, revision = registry.revision(), kubeconfig = %args.kubeconfig.display(), "serving");
    if let Err(err) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::warn!(error = %err, "readiness was not told");
    }

    let renewal = async {
        let mut days = tokio::time::interval(RENEWAL_EVERY);
        loop {
            days.tick().await;
            let renewed = pki::load(&pki_dir, &names, &clock).map_err(anyhow::Error::from).and_then(|pki| {
                certificates.replace(&pki)?;
                Ok(pki::write_private(&args.kubeconfig, pki::kubeconfig(&pki, &url).as_bytes())?)
            });
            if let Err(failed) = renewed {
                warn!(error = format!("{failed:#}"), "certificates were not renewed");
            }
        }
    };
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    tokio::select! {
        () = listener.serve(server) => {}
        () = registry::expire_events(registry.clone()) => {}
        () = renewal => {}
        () = store.failed() => anyhow::bail!("a write to {} failed: starting anew", args.state_dir.display()),
        _ = terminate.recv() => info!("SIGTERM"),
        _ = interrupt.recv() => info!("SIGINT"),
    }
    Ok(())
}

fn control_config(args: &Args) -> controllers::Config {
    let sessions = sessions::Config {
        socket: args.run_dir.join("scheduler.sock"),
        cluster_cidr: args.cluster_cidr.network(),
        service_cidr: args.service_cidr.network(),
        dns: args.service_cidr.host(10),
        domain: "cluster.local".to_owned(),
    };
    controllers::Config { sessions, node_grace_s: i64::try_from(args.node_grace_s).unwrap_or(i64::MAX) }
}

/// Every name and address that clients may use for the API.
fn server_names(args: &Args, advertise: IpAddr) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = [
        "localhost",
        "127.0.0.1",
        "::1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .into();
    names.insert(advertise.to_string());
    names.insert(args.service_cidr.host(1).to_string());
    if !args.listen.ip().is_unspecified() {
        names.insert(args.listen.ip().to_string());
    }
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let is_dns = |name: &String| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
    };
    names.extend(host.filter(is_dns));
    names
}

/// The URL in the kubeconfig: over loopback where the API listens there.
fn kubeconfig_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("https://{}", SocketAddr::new(ip, address.port()))
}

/// The address of the interface that the default route uses; no packet is sent. Loopback where there is none.
fn own_address() -> IpAddr {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    ask().map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}
