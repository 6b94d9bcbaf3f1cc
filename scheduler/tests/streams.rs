//! logs, exec, attach and port-forward with the real kubectl, against a node that only pretends to run a pod.

mod kubectl_binary;

use agent_protocol::{StreamFrame, StreamRequest};
use api::{Status, resource};
use scheduler::{
    api_server::{
        Certificates, Listener, Server,
        streams::{NodeStream, STREAM_FRAMES, Streams},
    },
    clock::Clock,
    pki,
    registry::{Registry, WriteOptions},
};
use serde_json::json;
use std::{
    future::Future,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    pin::Pin,
    process::{Command, Output, Stdio},
    sync::Arc,
};
use tokio::sync::mpsc;

struct PretendNode;

impl Streams for PretendNode {
    fn open<'a>(
        &'a self,
        _: &'a str,
        request: StreamRequest,
    ) -> Pin<Box<dyn Future<Output = Result<NodeStream, Status>> + Send + 'a>> {
        let (to_node, from_api) = mpsc::channel(STREAM_FRAMES);
        let (to_api, from_node) = mpsc::channel(STREAM_FRAMES);
        tokio::spawn(async move {
            // Sending fails when the client has gone, which ends the pretence.
            let _ = pretend(request, from_api, to_api).await;
        });
        Box::pin(async move { Ok(NodeStream { to_node, from_node }) })
    }
}

type Sent = Result<(), mpsc::error::SendError<StreamFrame>>;

async fn pretend(
    request: StreamRequest,
    mut from_api: mpsc::Receiver<StreamFrame>,
    to_api: mpsc::Sender<StreamFrame>,
) -> Sent {
    let say =
        |channel: u8, text: &str| to_api.send(StreamFrame::Data { channel, bytes: text.as_bytes().into() });
    match request {
        StreamRequest::Logs { .. } => {
            say(1, "first line\n").await?;
            say(1, "second line\n").await?;
            to_api.send(StreamFrame::Exit { code: 0 }).await
        }
        StreamRequest::Exec { command, .. } if command == ["fail"] => {
            say(2, "it broke\n").await?;
            to_api.send(StreamFrame::Exit { code: 7 }).await
        }
        StreamRequest::Exec { .. } | StreamRequest::Attach { .. } => {
            while let Some(frame) = from_api.recv().await {
                match frame {
                    StreamFrame::Data { bytes, .. } => {
                        to_api.send(StreamFrame::Data { channel: 1, bytes }).await?
                    }
                    StreamFrame::Close { .. } => break,
                    _ => {}
                }
            }
            to_api.send(StreamFrame::Exit { code: 0 }).await
        }
        StreamRequest::PortForward { port: 81, .. } => {
            let message = "connection refused".to_owned();
            to_api.send(StreamFrame::Failed { not_found: false, message }).await
        }
        StreamRequest::PortForward { port, .. } => {
            let mut received = 0;
            while let Some(frame) = from_api.recv().await {
                match frame {
                    StreamFrame::Data { bytes, .. } => received += bytes.len(),
                    _ => break,
                }
            }
            say(1, &format!("port {port} got {received} bytes")).await?;
            to_api.send(StreamFrame::Close { channel: 1 }).await
        }
    }
}

/// A server with the running pod `web`, and kubectl against it.
struct Cluster {
    kubectl: PathBuf,
    dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let kubectl = kubectl_binary::find();
        let dir = tempfile::tempdir().expect("makes a directory");
        let clock = Clock::default();
        let registry = Registry::in_memory(clock.clone()).expect("opens");
        let loopback = "127.0.0.1".parse().expect("an address");
        registry.bootstrap(loopback, 6443).await.expect("bootstraps");
        let names = ["127.0.0.1".to_owned()].into();
        let pki = pki::load(&dir.path().join("pki"), &names, &clock).expect("makes certificates");
        let certificates = Arc::new(Certificates::new(&pki).expect("usable"));
        let any_port = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(any_port, &pki, certificates).await.expect("binds");
        let url = format!("https://{}", listener.address().expect("has one"));
        let kubeconfig = dir.path().join("kubeconfig");
        pki::write_private(&kubeconfig, pki::kubeconfig(&pki, &url).as_bytes()).expect("writes");
        let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main", "image": "nginx",
                         "ports": [{"containerPort": 80}], "stdin": true}]}});
        let options = WriteOptions::default();
        registry.create(&resource::PODS, "default", pod, &options).await.expect("creates");
        registry.bind("default", "web", "node-1", &options).await.expect("binds");
        let run = |mut pod: serde_json::Value| {
            pod["status"]["phase"] = json!("Running");
            Ok(pod)
        };
        let status = scheduler::registry::Subresource::Status;
        registry.update(&resource::PODS, "default", "web", status, run, &options).await.expect("runs");
        tokio::spawn(listener.serve(Server::new(registry, Arc::new(PretendNode))));
        Self { kubectl, dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(args).env("KUBECONFIG", self.dir.path().join("kubeconfig"));
        command
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("is piped");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A command that does not read its input closes it.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("kubectl ends");
        writer.join().expect("does not panic");
        output
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `story` beside the server.
fn with_cluster(story: impl FnOnce(&Cluster)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("builds");
    let cluster = runtime.block_on(Cluster::start());
    story(&cluster);
}

#[test]
fn logs_and_exec() {
    with_cluster(|cluster| {
        let logs = cluster.run(&["logs", "web"], b"");
        assert_eq!(text(&logs.stdout), "first line\nsecond line\n", "{}", text(&logs.stderr));

        let input = vec![b'x'; 300_000];
        let echo = cluster.run(&["exec", "-i", "web", "--", "cat"], &input);
        assert_eq!(echo.stdout.len(), input.len(), "{}", text(&echo.stderr));
        assert!(echo.status.success());

        let failed = cluster.run(&["exec", "web", "--", "fail"], b"");
        assert_eq!(failed.status.code(), Some(7));
        assert!(text(&failed.stderr).starts_with("it broke\n"), "{}", text(&failed.stderr));

        let missing = cluster.run(&["exec", "web", "-c", "other", "--", "cat"], b"");
        assert!(text(&missing.stderr).contains("container"), "{}", text(&missing.stderr));

        let attached = cluster.run(&["attach", "-i", "web"], b"hello\n");
        assert!(text(&attached.stdout).ends_with("hello\n"), "{}", text(&attached.stderr));
    });
}

#[test]
fn port_forward() {
    with_cluster(|cluster| {
        let mut kubectl =
            cluster.command(&["port-forward", "pod/web", ":80", ":81"]).spawn().expect("kubectl starts");
        let mut lines = BufReader::new(kubectl.stdout.take().expect("is piped")).lines();
        // "Forwarding from 127.0.0.1:40123 -> 80"
        let mut forwarded = |port: &str| loop {
            let line = lines.next().expect("kubectl says where it listens").expect("text");
            if let Some((from, _)) = line.split_once(&format!(" -> {port}"))
                && let Some(address) = from.strip_prefix("Forwarding from ").filter(|a| a.starts_with("127."))
            {
                return address.to_owned();
            }
        };
        let open = forwarded("80");
        let exchange = |bytes: usize| {
            let mut stream = TcpStream::connect(&open).expect("connects");
            stream.write_all(&vec![b'x'; bytes]).expect("writes");
            stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("reads");
            answer
        };
        for bytes in [1, 200_000] {
            assert_eq!(exchange(bytes), format!("port 80 got {bytes} bytes"));
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(exchange(10_000), "port 80 got 10000 bytes"));
            }
        });
        let refused = forwarded("81");
        let mut stream = TcpStream::connect(&refused).expect("connects");
        stream.read_to_end(&mut Vec::new()).expect("ends");
        kubectl.kill().expect("kills");
        let output = kubectl.wait_with_output().expect("kubectl ends");
        assert!(text(&output.stderr).contains("connection refused"), "{}", text(&output.stderr));
    });
}
