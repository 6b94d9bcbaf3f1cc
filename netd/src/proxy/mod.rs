//! The TCP proxy: connections to services, moved by splice(2) through pipes.
//!
//! Each thread has an event loop and listeners of its own on every address (SO_REUSEPORT: the kernel spreads connections). Tables come over a channel;
//! listeners that are no longer asked for are closed, their connections go on.

mod connection;
mod pipe;

use crate::{clock, service::Table};
use connection::{Connection, Life};
use mio::{Events, Interest, Poll, Token, Waker, net::TcpListener};
use netd_protocol::Protocol;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};
use pipe::Pipes;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{Arc, mpsc},
    time::Duration,
};

const WAKE: Token = Token(0);
/// How often connections that are being made are looked at.
const CONNECT_STEP: Duration = Duration::from_millis(100);
const BACKLOG: i32 = 1024;

/// Handle on the proxy's threads.
pub struct Proxy {
    threads: Vec<(mpsc::Sender<Arc<Table>>, Waker)>,
}

impl Proxy {
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = (0..threads.max(1)).map(|_| spawn()).collect::<io::Result<Vec<_>>>()?;
        Ok(Self { threads })
    }

    /// Listeners and endpoints from now on.
    pub fn set(&self, table: &Arc<Table>) {
        for (tables, waker) in &self.threads {
            // The threads live as long as the process.
            let _ = tables.send(table.clone());
            let _ = waker.wake();
        }
    }
}

fn spawn() -> io::Result<(mpsc::Sender<Arc<Table>>, Waker)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    let (tables, inbox) = mpsc::channel();
    let mut thread = Thread {
        poll,
        inbox,
        table: Arc::default(),
        listeners: BTreeMap::new(),
        by_address: BTreeMap::new(),
        connections: BTreeMap::new(),
        pipes: Pipes::default(),
        next: 1,
        connecting: 0,
    };
    std::thread::Builder::new().name("proxy".to_owned()).spawn(move || thread.run())?;
    Ok((tables, waker))
}

struct Thread {
    poll: Poll,
    inbox: mpsc::Receiver<Arc<Table>>,
    table: Arc<Table>,
    listeners: BTreeMap<usize, (SocketAddr, TcpListener)>,
    by_address: BTreeMap<SocketAddr, usize>,
    /// By the client's token; the server's is one higher.
    connections: BTreeMap<usize, Connection>,
    pipes: Pipes,
    next: usize,
    /// Connections whose endpoint has not answered yet.
    connecting: usize,
}

impl Thread {
    fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            let wait = (self.connecting > 0).then_some(CONNECT_STEP);
            if let Err(err) = self.poll.poll(&mut events, wait)
                && err.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(error = %err, "a proxy thread cannot poll");
                return;
            }
            let tokens: Vec<Token> = events.iter().map(mio::event::Event::token).collect();
            for token in tokens {
                match token {
                    WAKE => self.renew(),
                    Token(token) if self.listeners.contains_key(&token) => self.accept(token),
                    Token(token) => self.serve(token & !1),
                }
            }
            if self.connecting > 0 {
                self.overdue();
            }
        }
    }

    /// Takes the newest table.
    fn renew(&mut self) {
        let Some(table) = self.inbox.try_iter().last() else { return };
        let wanted = |address: &SocketAddr| table.contains_key(&(Protocol::Tcp, *address));
        let stale: Vec<SocketAddr> =
            self.by_address.keys().filter(|address| !wanted(address)).copied().collect();
        for address in stale {
            if let Some(token) = self.by_address.remove(&address) {
                self.listeners.remove(&token);
            }
        }
        for (_, address) in table.keys().filter(|(protocol, _)| *protocol == Protocol::Tcp) {
            if !self.by_address.contains_key(address) {
                self.listen(*address);
            }
        }
        self.table = table;
    }

    fn listen(&mut self, address: SocketAddr) {
        let token = self.token();
        let listening = listener(address).and_then(|mut listener| {
            self.poll.registry().register(&mut listener, Token(token), Interest::READABLE)?;
            Ok(listener)
        });
        match listening {
            Ok(listener) => {
                self.listeners.insert(token, (address, listener));
                self.by_address.insert(address, token);
            }
            Err(err) => tracing::warn!(%address, error = %err, "a service cannot listen"),
        }
    }

    /// Even, so that a connection's two sockets are told apart by the last bit.
    fn token(&mut self) -> usize {
        self.next += 1;
        self.next * 2
    }

    fn accept(&mut self, listener: usize) {
        loop {
            let Some((address, socket)) = self.listeners.get(&listener) else { return };
            let (client, peer) = match socket.accept() {
                Ok(accepted) => accepted,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) => {
                    tracing::debug!(%address, error = %err, "accept");
                    return;
                }
            };
            let Some(backend) = self.table.get(&(Protocol::Tcp, *address)).cloned() else { continue };
            let token = self.token();
            let connection = Connection::open(client, peer.ip(), backend, token, &self.poll);
            if let Some(connection) = connection {
                self.connecting += 1;
                self.connections.insert(token, connection);
                self.serve(token);
            }
        }
    }

    fn serve(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let was_connecting = connection.is_connecting();
        let life = connection.serve(token, &self.poll, &mut self.pipes);
        let is_connecting = life == Life::Open && connection.is_connecting();
        if was_connecting && !is_connecting {
            self.connecting -= 1;
        }
        if life == Life::Over
            && let Some(connection) = self.connections.remove(&token)
        {
            connection.close(&mut self.pipes);
        }
    }

    /// Endpoints that do not answer in time are passed over.
    fn overdue(&mut self) {
        let now = clock::now();
        let late: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.overdue(now))
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.give_up_endpoint();
            }
            self.serve(token);
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let SocketAddr::V4(address) = address else { return Err(io::ErrorKind::Unsupported.into()) };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from_std(socket.into()))
}
