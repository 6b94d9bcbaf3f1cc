//! The web server of the first example: one page that says which pod serves it.
//!
//! `PORT` (8080) to listen on; `GREETING` for the headline; `DRAIN_MS` (500), see below. `/healthz` answers `ok`.
//!
//! One thread and one poll(2): a connection costs a descriptor and a few hundred bytes, however long it idles.
//! SIGTERM: for `DRAIN_MS` new connections are still answered, as those who balance load take a moment to hear of the end,
//! then no more; what is being answered is finished, and it exits 0. As pid 1 of a container it has to catch the signal.
#![forbid(unsafe_code)]

mod connection;
mod page;

use connection::{Connection, State};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use std::{
    env,
    error::Error,
    io,
    net::TcpListener,
    os::fd::AsFd,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Connections open at once; one more closes the one that has been silent longest.
const CONNECTIONS_MAX: usize = 1000;
/// How long clients may take to read their answers once nothing is accepted any more.
const FINISH: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let (port, drain_ms) = (number("PORT", 8080u16)?, number("DRAIN_MS", 500u32)?);
    let listener =
        TcpListener::bind(("0.0.0.0", port)).map_err(|err| format!("listen on port {port}: {err}"))?;
    listener.set_nonblocking(true)?;
    println!("listening on port {port}");
    Server { listener: Some(listener), signals, connections: Vec::new(), turn: 0, drain: None }
        .serve(Duration::from_millis(drain_ms.into()))
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T, String> {
    match env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}={text:?} is not a number in range")),
        Err(_) => Ok(default),
    }
}

struct Server {
    listener: Option<TcpListener>,
    signals: SignalFd,
    connections: Vec<Connection>,
    /// Counts passes of the loop, to tell who has been silent longest.
    turn: u64,
    /// When to stop accepting, then when to give up; set by the signal.
    drain: Option<Instant>,
}

impl Server {
    fn serve(mut self, drain: Duration) -> Result<(), Box<dyn Error>> {
        loop {
            let ready = self.wait()?;
            self.turn += 1;
            if let Some(signal) = self.signals.read_signal()?
                && self.drain.is_none()
            {
                println!("signal {}: finishing {} connections", signal.ssi_signo, self.connections.len());
                self.drain = Some(now() + drain);
            }
            let ending = self.drain.is_some();
            for (connection, ready) in self.connections.iter_mut().zip(ready) {
                if ready {
                    connection.advance(ending, self.turn);
                }
            }
            self.accept();
            self.connections.retain(|connection| connection.state() != State::Closed);
            if self.drain.is_some_and(|deadline| now() >= deadline) {
                if self.listener.take().is_none() {
                    return Ok(());
                }
                self.drain = Some(now() + FINISH);
                // Who came last may have asked already.
                self.connections.iter_mut().for_each(|connection| connection.advance(true, self.turn));
            }
            if self.listener.is_none() {
                self.connections.retain(|connection| connection.state() == State::Answering);
                if self.connections.is_empty() {
                    return Ok(());
                }
            }
        }
    }

    /// Sleeps until there is something to do; answers which connections are ready.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(self.connections.len() + 2);
        for connection in &self.connections {
            let answering = connection.state() == State::Answering;
            let flags = if answering { PollFlags::POLLOUT } else { PollFlags::POLLIN };
            fds.push(PollFd::new(connection.as_fd(), flags));
        }
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        fds.extend(self.listener.as_ref().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        let left = self.drain.map(|deadline| deadline.saturating_duration_since(now()).as_millis() + 1);
        let timeout = left.map_or(PollTimeout::NONE, |ms| {
            PollTimeout::try_from(ms.min(60_000)).expect("a minute is a valid time")
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
        Ok(fds[..self.connections.len()].iter().map(|fd| fd.any().unwrap_or(true)).collect())
    }

    fn accept(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept) {
            if self.connections.len() >= CONNECTIONS_MAX {
                let silent = (0..self.connections.len()).min_by_key(|&at| self.connections[at].heard());
                self.connections.swap_remove(silent.expect("there are some"));
            }
            match Connection::new(stream, self.turn) {
                Ok(connection) => self.connections.push(connection),
                Err(err) => eprintln!("connection: {err}"),
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the one clock of this program")]
fn now() -> Instant {
    Instant::now()
}
