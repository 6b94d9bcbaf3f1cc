//! HTTP/1.1 requests, one connection each, and a load that counts what fails.

use crate::netns::Netns;
use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Status and body of `GET path`, from the caller's network namespace.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let mut stream =
        TcpStream::connect_timeout(&address, TIMEOUT).map_err(|err| format!("connect: {err}"))?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(TIMEOUT)))
        .map_err(|err| err.to_string())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .map_err(|err| format!("send: {err}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|err| format!("receive: {err}"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| format!("no HTTP answer but {answer:?}"))
}

/// Requests that go on in the background until [`Load::stop`].
pub struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// `clients` threads in `netns`, each asking for `path` again as soon as it has been answered.
    pub fn start(netns: &Netns, address: SocketAddr, path: &str, clients: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..clients)
            .map(|_| {
                let (stop, served, path) = (stop.clone(), served.clone(), path.to_owned());
                let namespace = File::open(netns.path()).expect("the namespace exists");
                std::thread::spawn(move || {
                    nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                        .expect("root may enter");
                    let mut failures = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        match get(address, &path) {
                            Ok((200, _)) => _ = served.fetch_add(1, Ordering::Relaxed),
                            Ok((status, body)) => failures.push(format!("{status}: {body}")),
                            Err(why) => failures.push(why),
                        }
                    }
                    failures
                })
            })
            .collect();
        Self { stop, served, threads }
    }

    /// How many requests have been answered with 200.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Ends the load; how many were served, and why others were not.
    pub fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures =
            self.threads.into_iter().flat_map(|thread| thread.join().expect("a client reports")).collect();
        (self.served.load(Ordering::Relaxed), failures)
    }
}
