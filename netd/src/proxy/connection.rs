//! One client, the endpoint that serves it, and the bytes between them.

use super::pipe::{Moved, Pipe, Pipes};
use crate::{clock, service::Backend};
use mio::{Interest, Poll, Token, net::TcpStream};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    io,
    net::{IpAddr, Shutdown, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

const CONNECT_WAIT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    Over,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// The source has sent its end; passed on once the pipe is empty.
    ended: bool,
    done: bool,
}

#[derive(Debug)]
pub struct Connection {
    client: TcpStream,
    peer: IpAddr,
    backend: Arc<Backend>,
    server: Option<(TcpStream, SocketAddr)>,
    connected: bool,
    /// Endpoints still to be tried.
    candidates: Vec<SocketAddr>,
    deadline: Instant,
    up: Flow,
    down: Flow,
    /// Either side was reset: the other is to learn that.
    reset: bool,
}

impl Connection {
    /// A client that has just come; without an endpoint it is refused at once.
    pub fn open(
        client: TcpStream,
        peer: IpAddr,
        backend: Arc<Backend>,
        token: usize,
        poll: &Poll,
    ) -> Option<Self> {
        let now = clock::now();
        let mut candidates = backend.order(peer, now);
        candidates.reverse();
        let _ = client.set_nodelay(true);
        let mut connection = Self {
            client,
            peer,
            backend,
            server: None,
            connected: false,
            candidates,
            deadline: now,
            up: Flow::default(),
            down: Flow::default(),
            reset: false,
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = poll.registry().register(&mut connection.client, Token(token), interest).is_ok();
        if registered && connection.try_next(token, poll) {
            return Some(connection);
        }
        abort(&connection.client);
        None
    }

    pub fn is_connecting(&self) -> bool {
        !self.connected
    }

    pub fn overdue(&self, now: Instant) -> bool {
        !self.connected && now >= self.deadline
    }

    pub fn give_up_endpoint(&mut self) {
        self.server = None;
    }

    /// Starts a connection to the next endpoint; false when none is left.
    fn try_next(&mut self, token: usize, poll: &Poll) -> bool {
        while let Some(endpoint) = self.candidates.pop() {
            let Ok(mut server) = TcpStream::connect(endpoint) else { continue };
            let interest = Interest::READABLE | Interest::WRITABLE;
            if poll.registry().register(&mut server, Token(token | 1), interest).is_ok() {
                let _ = server.set_nodelay(true);
                self.server = Some((server, endpoint));
                self.deadline = clock::now() + CONNECT_WAIT;
                return true;
            }
        }
        false
    }

    /// Does all that can be done now.
    pub fn serve(&mut self, token: usize, poll: &Poll, pipes: &mut Pipes) -> Life {
        while !self.connected {
            let Some((server, endpoint)) = &self.server else {
                if self.try_next(token, poll) {
                    continue;
                }
                self.reset = true;
                return Life::Over;
            };
            match outcome(server) {
                Some(Ok(())) => {
                    self.connected = true;
                    self.backend.served(self.peer, *endpoint, clock::now());
                    keep_alive(server);
                    keep_alive(&self.client);
                }
                None => return Life::Open,
                Some(Err(_)) => self.server = None,
            }
        }
        let Some((server, _)) = &self.server else { return Life::Over };
        let moved = pump(&mut self.up, &self.client, server, pipes)
            .and_then(|()| pump(&mut self.down, server, &self.client, pipes));
        if moved.is_err() {
            self.reset = true;
            return Life::Over;
        }
        if self.up.done && self.down.done { Life::Over } else { Life::Open }
    }

    /// Closes both sides; after a reset, with one.
    pub fn close(self, pipes: &mut Pipes) {
        if self.reset {
            abort(&self.client);
            self.server.iter().for_each(|(server, _)| abort(server));
        }
        for pipe in [self.up.pipe, self.down.pipe].into_iter().flatten() {
            pipes.give(pipe);
        }
    }
}

/// Whether a connection that was started is made: `None` while nobody knows.
fn outcome(server: &TcpStream) -> Option<io::Result<()>> {
    if let Ok(Some(err)) | Err(err) = server.take_error() {
        return Some(Err(err));
    }
    match server.peer_addr() {
        Ok(_) => Some(Ok(())),
        Err(err) if err.kind() == io::ErrorKind::NotConnected => None,
        Err(err) => Some(Err(err)),
    }
}

/// Moves one direction until nothing comes or nothing is taken; passes the end on when it has come.
fn pump(flow: &mut Flow, from: &TcpStream, to: &TcpStream, pipes: &mut Pipes) -> io::Result<()> {
    while !flow.done {
        let pipe = match &mut flow.pipe {
            Some(pipe) => pipe,
            none => none.insert(pipes.take()?),
        };
        let was_empty = pipe.held == 0;
        let filled = if flow.ended { Moved::End } else { pipe.fill(from)? };
        flow.ended |= filled == Moved::End;
        let before = pipe.held;
        if pipe.drain(to)? == Moved::Wait {
            // A pipe whose slots are all used takes more only after something has left.
            if filled == Moved::Wait || pipe.held == before {
                return Ok(());
            }
            continue;
        }
        if flow.ended {
            flow.done = true;
            match to.shutdown(Shutdown::Write) {
                Err(err) if err.kind() != io::ErrorKind::NotConnected => return Err(err),
                _ => {}
            }
        } else if filled == Moved::Wait && was_empty {
            // The source has nothing; a full pipe would have said the same. Idle connections hold no pipe.
            if let Some(pipe) = flow.pipe.take() {
                pipes.give(pipe);
            }
            return Ok(());
        }
    }
    if let Some(pipe) = flow.pipe.take() {
        pipes.give(pipe);
    }
    Ok(())
}

/// The next close sends RST: SO_LINGER 0.
fn abort(stream: &TcpStream) {
    // A socket that is closed already needs no reset.
    let _ = setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

fn keep_alive(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
}
