//! A host of its own for a test: a namespace, the daemon in it, and pods.

use netd_protocol::{
    Attach, Cidr, MAGIC, Node, Protocol, Reply, ReplyBody, Request, RequestBody, Service, ServicePort,
    VERSIONS,
};
use nix::sched::{CloneFlags, setns};
use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// Longest wait for what should come at once.
pub const SOON: Duration = Duration::from_secs(20);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Host {
    name: String,
    dir: tempfile::TempDir,
    netd: Child,
    /// Namespaces of pods.
    pods: Vec<String>,
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("ip starts");
    assert!(
        output.status.success(),
        "ip {words:?} (root is needed): {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `work` on a thread inside a namespace.
pub fn within<T: Send + 'static>(netns: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(format!("/run/netns/{netns}")).expect("a namespace");
    let inside = std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).expect("entered");
        work()
    });
    inside.join().expect("no panic")
}

/// Looks until `found` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let tries = SOON.as_millis() / 10;
    for _ in 0..tries {
        if let Some(found) = found() {
            return found;
        }
        pause();
    }
    panic!("waited in vain: {what}");
}

#[allow(clippy::disallowed_methods)] // The step between two looks.
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

impl Host {
    pub fn start() -> Self {
        let name = format!("netd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let dir = tempfile::tempdir().expect("a directory");
        let netd = launch(&name, &dir);
        let host = Self { name, dir, netd, pods: Vec::new() };
        host.configure();
        host
    }

    pub fn configure(&self) {
        self.configure_with(24);
    }

    /// With so many bits of the pods' network.
    pub fn configure_with(&self, prefix: u8) {
        let cidr = |a, b, prefix| Cidr { address: Ipv4Addr::new(a, b, 0, 0), prefix };
        self.ask(RequestBody::Configure(Node {
            pod_cidr: cidr(10, 244, prefix),
            cluster_cidr: cidr(10, 244, 16),
            service_cidr: cidr(10, 96, 12),
            dns: DNS,
            domain: "cluster.local".into(),
            upstream_dns: Vec::new(),
        }))
        .expect("configured");
    }

    /// One request on a connection of its own.
    pub fn ask(&self, body: RequestBody) -> Result<ReplyBody, String> {
        let connect = || UnixStream::connect(self.dir.path().join("netd.sock")).ok();
        let mut stream = wait_for("netd listens", connect);
        stream.set_read_timeout(Some(SOON)).expect("set");
        codec::exchange(&mut stream, MAGIC, &VERSIONS).expect("hello");
        codec::write_frame(&mut stream, &Request { tag: 7, body }).expect("sent");
        let reply: Reply = codec::read_frame(&mut stream).expect("answered");
        assert_eq!(reply.tag, 7);
        reply.result
    }

    /// A new pod namespace.
    pub fn netns(&mut self) -> String {
        let netns = format!("{}-p{}", self.name, self.pods.len());
        ip(&["netns", "add", &netns]);
        self.pods.push(netns.clone());
        netns
    }

    pub fn attach(&self, pod: &str, netns: &str) -> Ipv4Addr {
        let path = PathBuf::from(format!("/run/netns/{netns}"));
        let netns_inode = path.metadata().expect("there").ino();
        let attach = Attach { pod: pod.into(), netns: path, netns_inode, host_ports: Vec::new() };
        match self.ask(RequestBody::Attach(attach)).expect("attached") {
            ReplyBody::Attached { address, .. } => address,
            other => panic!("{other:?}"),
        }
    }

    /// A pod that serves on port 8080, by [`serve`]; namespace and endpoint.
    pub fn server(&mut self, pod: &'static str) -> (String, SocketAddr) {
        let netns = self.netns();
        let endpoint = (self.attach(pod, &netns), 8080).into();
        serve(&netns, pod);
        (netns, endpoint)
    }

    pub fn put(&self, endpoints: &[SocketAddr]) {
        let ports = vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: Some(30080),
            endpoints: endpoints.to_vec(),
        }];
        self.ask(RequestBody::PutService(Service {
            namespace: "d".into(),
            name: "web".into(),
            cluster_ip: Some(CLUSTER_IP),
            external_name: None,
            ports,
            hosts: Vec::new(),
            affinity_s: None,
        }))
        .expect("put");
    }

    /// The node's namespace.
    pub fn node(&self) -> &str {
        &self.name
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    pub fn kill(&mut self) {
        self.netd.kill().expect("killed");
        self.netd.wait().expect("reaped");
    }

    pub fn restart(&mut self) {
        self.netd = launch(&self.name, &self.dir);
    }

    /// Waits for the daemon to end by itself.
    pub fn ended(&mut self) -> bool {
        wait_for("netd ends", || self.netd.try_wait().expect("waited")).success()
    }

    /// The host's ends of the pods' links.
    pub fn links(&self) -> Vec<String> {
        let list = self.run("ip", &["-o", "link", "show", "type", "veth"]);
        list.lines().filter_map(|line| line.split(": ").nth(1).map(str::to_owned)).collect()
    }

    /// What a command prints in the node's namespace.
    pub fn run(&self, program: &str, words: &[&str]) -> String {
        let net = format!("--net=/run/netns/{}", self.name);
        let output = Command::new("nsenter").arg(net).arg(program).args(words).output().expect("starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.netd.kill();
        let _ = self.netd.wait();
        for netns in self.pods.iter().chain([&self.name]) {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

fn launch(netns: &str, dir: &tempfile::TempDir) -> Child {
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .arg(env!("CARGO_BIN_EXE_wherry-netd"))
        .arg("--run-dir")
        .arg(dir.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("nsenter starts")
}

pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 1);

/// Serves on port 8080 of a namespace until the test's process ends: says the pod's name, then gives back what it gets.
fn serve(netns: &str, pod: &'static str) {
    let listener = within(netns, || TcpListener::bind(("0.0.0.0", 8080)).expect("bound"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                let _ = stream.write_all(format!("{pod}\n").as_bytes());
                // The end of the test is the end of a connection, too.
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..len]).is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
}

/// A connection from a namespace, and the name of the pod that serves it.
pub fn connect(netns: &str, to: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    within(netns, move || {
        let mut stream = TcpStream::connect_timeout(&to, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let (mut name, mut byte) = (String::new(), [0]);
        loop {
            match stream.read(&mut byte)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ if byte[0] == b'\n' => return Ok((stream, name)),
                _ => name.push(char::from(byte[0])),
            }
        }
    })
}
