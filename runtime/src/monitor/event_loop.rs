//! The one loop: connections, containers' output, ends of processes.

use super::{
    connection::{Connection, Life},
    containers::{self, Container, read_some},
    kernel,
    log::Stream,
    relay::{End, Relay, finish},
};
use crate::{
    cgroup::Cgroup,
    clock,
    container::{self, ContainerError, chain},
};
use mio::{
    Events, Interest, Poll, Token,
    net::{UnixListener, UnixStream},
    unix::SourceFd,
};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
    socket::{getsockopt, sockopt::PeerCredentials},
};
use runtime_protocol::{
    ContainerState, FromMonitor, LOCK_FILE, Open, Request, RequestBody, SANDBOX_FILE, SOCKET_FILE, Sandbox,
    StreamFrame, USERS_FILE,
};
use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

const LISTENER: Token = Token(0);
const SIGNALS: Token = Token(1);
const READ_BYTES: usize = 16 << 10;
/// Reads of one container's output before others have their turn.
const READS_IN_A_ROW: usize = 16;
const STOP_WAIT: Duration = Duration::from_secs(10);

/// What a token that is no connection stands for.
#[derive(Debug)]
enum Source {
    Output {
        container: String,
        stream: Stream,
    },
    End {
        container: String,
    },
    /// A descriptor of a relay.
    Relay {
        peer: usize,
    },
    /// A process whose peer hung up.
    Orphan(OwnedFd),
}

#[derive(Debug)]
enum Role {
    New,
    Control,
    Stream(Box<Relay>),
}

#[derive(Debug)]
struct Peer {
    connection: Connection,
    role: Role,
}

struct Monitor<'a> {
    poll: Poll,
    sandbox: &'a Sandbox,
    next: usize,
    peers: BTreeMap<usize, Peer>,
    sources: BTreeMap<usize, Source>,
    containers: BTreeMap<String, Container>,
    /// Sources with more to read than their turn allowed.
    again: VecDeque<usize>,
    /// Who asked for the shutdown, if it was a peer.
    shutdown: Option<Option<(usize, u64)>>,
}

/// Serves until a shutdown is asked for, by a request or SIGTERM; then nothing of the pod is left.
pub fn run(
    dir: &Path,
    sandbox: &Sandbox,
    listener: std::os::unix::net::UnixListener,
) -> Result<(), ContainerError> {
    listener.set_nonblocking(true).map_err(kernel("socket"))?;
    let mut listener = UnixListener::from_std(listener);
    let signals = signals().map_err(|err| kernel("signalfd")(err.into()))?;
    let poll = Poll::new().map_err(kernel("epoll"))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(kernel("epoll"))?;
    poll.registry()
        .register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)
        .map_err(kernel("epoll"))?;
    let mut monitor = Monitor {
        poll,
        sandbox,
        next: 2,
        peers: BTreeMap::new(),
        sources: BTreeMap::new(),
        containers: BTreeMap::new(),
        again: VecDeque::new(),
        shutdown: None,
    };
    let mut events = Events::with_capacity(64);
    while monitor.shutdown.is_none() {
        let wait = (!monitor.again.is_empty()).then_some(Duration::ZERO);
        match monitor.poll.poll(&mut events, wait) {
            Err(err) if err.kind() != io::ErrorKind::Interrupted => return Err(kernel("epoll")(err)),
            _ => {}
        }
        let mut ready: VecDeque<usize> = std::mem::take(&mut monitor.again);
        ready.extend(events.iter().map(|event| event.token().0));
        for token in ready {
            match Token(token) {
                LISTENER => monitor.accept(&listener),
                SIGNALS => monitor.shutdown = Some(None),
                _ => monitor.handle(token),
            }
        }
    }
    monitor.end(dir)
}

fn signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        mask.add(signal);
    }
    let mut ignored = mask;
    for signal in [Signal::SIGHUP, Signal::SIGPIPE] {
        ignored.add(signal);
    }
    ignored.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

impl Monitor<'_> {
    fn token(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if !trusted(&stream) {
                continue;
            }
            let token = self.token();
            let mut connection = Connection::new(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut connection.stream, Token(token), interest).is_ok() {
                connection.flush();
                self.peers.insert(token, Peer { connection, role: Role::New });
            }
        }
    }

    fn handle(&mut self, token: usize) {
        if self.peers.contains_key(&token) {
            return self.serve(token);
        }
        match self.sources.get(&token) {
            Some(Source::Output { container, stream }) => {
                let (container, stream) = (container.clone(), *stream);
                if self.drain(&container, stream, READS_IN_A_ROW) {
                    self.again.push_back(token);
                }
            }
            Some(Source::End { container }) => {
                let container = container.clone();
                self.ended(&container);
            }
            Some(Source::Relay { peer }) => {
                let peer = *peer;
                self.serve(peer);
            }
            Some(Source::Orphan(pidfd)) if containers::reap(pidfd).is_some() => {
                _ = self.sources.remove(&token)
            }
            Some(Source::Orphan(_)) | None => {}
        }
    }

    /// Everything that can be done for one connection now.
    fn serve(&mut self, token: usize) {
        // Taken out while it is served, so that requests may touch all the rest.
        let Some(mut peer) = self.peers.remove(&token) else { return };
        let life = self.serve_peer(token, &mut peer);
        if life == Life::Open {
            self.peers.insert(token, peer);
        } else {
            self.hang_up(token, peer);
        }
    }

    fn serve_peer(&mut self, token: usize, peer: &mut Peer) -> Life {
        loop {
            if let Role::Stream(relay) = &mut peer.role {
                return relay.pump(&mut peer.connection);
            }
            let more = match peer.role {
                Role::New => match peer.connection.next::<Open>() {
                    Ok(Some(open)) => self.open(token, peer, open),
                    Ok(None) => None,
                    Err(life) => Some(life),
                },
                _ => match peer.connection.next::<Request>() {
                    Ok(Some(request)) => Some(self.answer(token, peer, request)),
                    Ok(None) => None,
                    Err(life) => Some(life),
                },
            };
            match more {
                Some(Life::Over) => return Life::Over,
                Some(Life::Open) => {}
                None => match peer.connection.fill() {
                    Ok(true) => {}
                    Ok(false) => return peer.connection.flush(),
                    Err(life) => return life,
                },
            }
        }
    }

    fn open(&mut self, token: usize, peer: &mut Peer, open: Open) -> Option<Life> {
        let root = &self.sandbox.state_root;
        let relay = match open {
            Open::Control => {
                peer.role = Role::Control;
                return Some(peer.connection.send(&self.snapshot()));
            }
            Open::Exec(exec) => {
                Relay::exec(&exec, root).map_err(|err| (i32::from(err.exit_code()), chain(&err)))
            }
            Open::Attach { container } => self.attach(&container).map_err(|message| (1, message)),
            Open::Forward { port } => Relay::forward(port).map_err(|message| (1, message)),
        };
        Some(match relay {
            Ok(relay) => {
                self.watch_relay(token, &relay);
                peer.role = Role::Stream(Box::new(relay));
                Life::Open
            }
            Err((code, message)) => finish(&mut peer.connection, &StreamFrame::Failed { code, message }),
        })
    }

    fn attach(&mut self, name: &str) -> Result<Relay, String> {
        let container =
            self.containers.get(name).ok_or_else(|| format!("container {name:?} does not exist"))?;
        if matches!(container.state, ContainerState::Exited(_)) {
            return Err(format!("container {name:?} has ended"));
        }
        let dup = |fd: &OwnedFd| fd.try_clone().map_err(|err| format!("dup: {err}"));
        let input = container.stdin.as_ref().map(dup).transpose()?;
        let terminal =
            container.outputs.first().filter(|_| container.terminal).map(|(_, fd)| dup(fd)).transpose()?;
        Ok(Relay::attach(name.to_owned(), input, terminal, container.stdin_once))
    }

    fn watch_relay(&mut self, peer: usize, relay: &Relay) {
        let mut fds: Vec<i32> = relay.outputs.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        if let End::Process { pidfd, .. } = &relay.end {
            fds.push(pidfd.as_raw_fd());
        }
        for fd in fds {
            self.watch(fd, Interest::READABLE, Source::Relay { peer });
        }
        if let Some(input) = &relay.input {
            self.watch(input.as_raw_fd(), Interest::WRITABLE, Source::Relay { peer });
        }
    }

    fn watch(&mut self, fd: i32, interest: Interest, source: Source) {
        let token = self.token();
        if self.poll.registry().register(&mut SourceFd(&fd), Token(token), interest).is_ok() {
            self.sources.insert(token, source);
        }
    }

    fn snapshot(&self) -> FromMonitor {
        let netns_inode =
            fs::metadata("/proc/self/ns/net").map_or(0, |meta| std::os::unix::fs::MetadataExt::ino(&meta));
        let containers = self.containers.values().map(Container::view).collect();
        FromMonitor::Snapshot { pid: std::process::id(), netns_inode, containers }
    }

    fn answer(&mut self, token: usize, peer: &mut Peer, request: Request) -> Life {
        let tag = request.tag;
        let result = match request.body {
            RequestBody::Create(create) => self.create(&create),
            RequestBody::Start { container } => self.start(peer, &container),
            RequestBody::Signal { container, signal, all } => self.signal(&container, signal, all),
            RequestBody::Delete { container } => self.delete(&container),
            RequestBody::Ping => Ok(()),
            RequestBody::Shutdown => {
                self.shutdown = Some(Some((token, tag)));
                return Life::Open;
            }
        };
        peer.connection.send(&FromMonitor::Reply { tag, result })
    }

    fn create(&mut self, create: &runtime_protocol::Create) -> Result<(), String> {
        if self.containers.contains_key(&create.container) {
            return Err(format!("container with id {} already exists", create.container));
        }
        let container = containers::create(create, &self.sandbox.state_root).map_err(|err| chain(&err))?;
        let name = create.container.clone();
        self.watch(container.pidfd.as_raw_fd(), Interest::READABLE, Source::End { container: name.clone() });
        for (stream, fd) in &container.outputs {
            let (fd, stream) = (fd.as_raw_fd(), *stream);
            self.watch(fd, Interest::READABLE, Source::Output { container: name.clone(), stream });
        }
        self.containers.insert(name, container);
        Ok(())
    }

    fn start(&mut self, asking: &mut Peer, name: &str) -> Result<(), String> {
        let root = &self.sandbox.state_root;
        let container = self.containers.get_mut(name).ok_or_else(|| absent(name))?;
        container.start(root).map_err(|err| chain(&err))?;
        let changed = FromMonitor::Changed(container.view());
        // The peer that asked is not among the others while it is served.
        if asking.connection.send(&changed) == Life::Over {
            return Err("the peer hung up".to_owned());
        }
        self.tell(&changed);
        Ok(())
    }

    fn signal(&mut self, name: &str, number: i32, all: bool) -> Result<(), String> {
        let container = self.containers.get(name).ok_or_else(|| absent(name))?;
        container::SIGNALS.contains(&number).then_some(()).ok_or_else(|| format!("{number} is no signal"))?;
        if !all {
            let sent = runtime_sys::process::pidfd_send_signal(container.pidfd.as_fd(), number);
            return sent.or_else(|err| {
                if err.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(err.to_string()) }
            });
        }
        container::signal(&self.sandbox.state_root, &container.id, number, true).map_err(|err| chain(&err))
    }

    fn delete(&mut self, name: &str) -> Result<(), String> {
        let Some(container) = self.containers.remove(name) else { return Ok(()) };
        let deleted =
            container::delete(&self.sandbox.state_root, &container.id, true).map_err(|err| chain(&err));
        if deleted.is_err() {
            self.containers.insert(name.to_owned(), container);
            return deleted;
        }
        containers::reap(&container.pidfd);
        self.sources.retain(|_, source| match source {
            Source::Output { container, .. } | Source::End { container } => container != name,
            _ => true,
        });
        Ok(())
    }

    /// Moves a container's output into its log and to those attached; true if there may be more.
    fn drain(&mut self, name: &str, stream: Stream, reads: usize) -> bool {
        let Some(container) = self.containers.get_mut(name) else { return false };
        let Some(index) = container.outputs.iter().position(|(which, _)| *which == stream) else {
            return false;
        };
        let mut buffer = [0; READ_BYTES];
        for _ in 0..reads {
            let bytes = match read_some(&container.outputs[index].1, &mut buffer) {
                None => return false,
                Some([]) => {
                    container.outputs.remove(index);
                    return false;
                }
                Some(bytes) => bytes,
            };
            container.log.write(stream, bytes, clock::now_ns());
            let channel = if stream == Stream::Stdout { 1 } else { 2 };
            let frame = StreamFrame::Data { channel, bytes: bytes.to_vec() };
            for peer in self.peers.values_mut() {
                let attached = matches!(&peer.role, Role::Stream(relay) if matches!(&relay.end, End::Container { name: of, .. } if of == name));
                if attached && peer.connection.send(&frame) == Life::Over {
                    // Too slow or gone: the next turn of its own ends it.
                    peer.connection.closing = true;
                }
            }
        }
        true
    }

    /// The first process of a container may have ended.
    fn ended(&mut self, name: &str) {
        let root = self.sandbox.state_root.clone();
        let Some(container) = self.containers.get_mut(name) else { return };
        if !container.note_exit(&root) {
            return;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.drain(name, stream, READS_IN_A_ROW) {}
        }
        let Some(container) = self.containers.get_mut(name) else { return };
        container.log.finish(clock::now_ns());
        container.outputs.clear();
        container.stdin = None;
        let changed = FromMonitor::Changed(container.view());
        if let ContainerState::Exited(exit) = container.state.clone() {
            for peer in self.peers.values_mut() {
                let attached = matches!(&peer.role, Role::Stream(relay) if matches!(&relay.end, End::Container { name: of, .. } if of == name));
                if attached {
                    finish(&mut peer.connection, &StreamFrame::Exit(exit.clone()));
                }
            }
        }
        self.tell(&changed);
    }

    /// Sends an event to every control connection.
    fn tell(&mut self, event: &FromMonitor) {
        let mut over = Vec::new();
        for (token, peer) in self.peers.iter_mut().filter(|(_, peer)| matches!(peer.role, Role::Control)) {
            if peer.connection.send(event) == Life::Over {
                over.push(*token);
            }
        }
        for token in over {
            if let Some(peer) = self.peers.remove(&token) {
                self.hang_up(token, peer);
            }
        }
    }

    /// The connection is over: what it alone used goes too.
    fn hang_up(&mut self, token: usize, mut peer: Peer) {
        // It is closed in a moment either way.
        let _ = self.poll.registry().deregister(&mut peer.connection.stream);
        self.sources.retain(|_, source| !matches!(source, Source::Relay { peer } if *peer == token));
        let Role::Stream(relay) = peer.role else { return };
        match relay.end {
            End::Process { pidfd, exit: None, .. } => {
                // Already gone is as good.
                let _ = runtime_sys::process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                if containers::reap(&pidfd).is_none() {
                    let fd = pidfd.as_raw_fd();
                    // Registered for the relay before, under a token that is no more.
                    let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
                    self.watch(fd, Interest::READABLE, Source::Orphan(pidfd));
                }
            }
            End::Container { name, once: true } => {
                if let Some(container) = self.containers.get_mut(&name) {
                    container.stdin = None;
                }
            }
            _ => {}
        }
    }

    /// Kills and deletes every container, removes the pod's cgroup and this monitor's files, and says so.
    fn end(mut self, dir: &Path) -> Result<(), ContainerError> {
        let group = Cgroup::at(&self.sandbox.cgroup);
        let names: Vec<String> = self.containers.keys().cloned().collect();
        let mut result = group.kill().map_err(|err| chain(&err));
        for name in names {
            if let Some(Container { pidfd, state, .. }) = self.containers.get(&name) {
                let exited = matches!(state, ContainerState::Exited(_));
                clock::retry(STOP_WAIT, || exited || containers::reap(pidfd).is_some());
            }
            result = result.and(self.delete(&name));
        }
        result = result.and(group.remove().map_err(|err| chain(&err)));
        for file in [SOCKET_FILE, SANDBOX_FILE, USERS_FILE, LOCK_FILE] {
            // The directory is the agent's, which removes it whole.
            let _ = fs::remove_file(dir.join(file));
        }
        if let Some(Some((token, tag))) = self.shutdown
            && let Some(peer) = self.peers.get_mut(&token)
        {
            peer.connection.send(&FromMonitor::Reply { tag, result });
        }
        Ok(())
    }
}

fn absent(name: &str) -> String {
    format!("container {name:?} does not exist")
}

/// Only root and our own user may speak to a monitor.
fn trusted(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}
