//! One client: requests in, answers out, never waiting. HTTP/1.1 with keep-alive; bodies of requests are not expected.

use crate::page;
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

/// Longest request head.
const REQUEST_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Wants to read a request.
    Listening,
    /// Has an answer to write.
    Answering,
    Closed,
}

pub struct Connection {
    stream: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Close once `output` is written.
    last: bool,
    closed: bool,
    heard: u64,
}

impl Connection {
    pub fn new(stream: TcpStream, turn: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { stream, local, peer, input, output, last: false, closed: false, heard: turn })
    }

    /// The turn of the loop in which it was last ready.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    pub fn state(&self) -> State {
        match (self.closed, self.output.is_empty()) {
            (true, _) => State::Closed,
            (false, true) => State::Listening,
            (false, false) => State::Answering,
        }
    }

    /// Reads, answers and writes as far as it goes. With `ending`, an answer is the connection's last.
    pub fn advance(&mut self, ending: bool, turn: u64) {
        self.heard = turn;
        match self.try_advance(ending) {
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.closed = true,
            Ok(()) => {}
        }
    }

    fn try_advance(&mut self, ending: bool) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            while !self.output.is_empty() {
                let written = self.stream.write(&self.output)?;
                self.output.drain(..written);
            }
            if self.last {
                self.closed = true;
                return Ok(());
            }
            if let Some(end) = self.input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..end + 4).collect();
                self.answer(&String::from_utf8_lossy(&head), ending);
            } else if self.input.len() > REQUEST_BYTES_MAX {
                self.reply("431 Request Header Fields Too Large", "text/plain", "too long\n", true);
            } else {
                match self.stream.read(&mut buffer)? {
                    0 => {
                        self.closed = true;
                        return Ok(());
                    }
                    count => self.input.extend_from_slice(&buffer[..count]),
                }
            }
        }
    }

    fn answer(&mut self, head: &str, ending: bool) {
        let line = head.lines().next().unwrap_or_default();
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
        let has = |wanted: &str| {
            head.lines().any(|line| line.to_ascii_lowercase().replace(' ', "").starts_with(wanted))
        };
        // A body would be taken for the next request: none is asked for, so the connection ends there.
        let body = has("content-length:") && !has("content-length:0") || has("transfer-encoding:");
        let close = ending || body || has("connection:close") || line.ends_with("HTTP/1.0");
        match (method, path) {
            ("GET" | "HEAD", "/healthz") => self.reply("200 OK", "text/plain", "ok\n", close),
            ("GET" | "HEAD", _) => {
                println!("{line} from {}", self.peer);
                let page = page::render(self.local);
                self.reply("200 OK", "text/html; charset=utf-8", &page, close);
            }
            _ => self.reply("405 Method Not Allowed", "text/plain", "GET or HEAD\n", close),
        }
        if method == "HEAD"
            && let Some(end) = self.output.windows(4).position(|bytes| bytes == b"\r\n\r\n")
        {
            self.output.truncate(end + 4);
        }
    }

    fn reply(&mut self, status: &str, kind: &str, body: &str, close: bool) {
        let (length, connection) = (body.len(), if close { "close" } else { "keep-alive" });
        self.last = close;
        self.output = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
        )
        .into_bytes();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, poll};
    use std::net::TcpListener;

    /// A connection and its client.
    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("set");
        (Connection::new(listener.accept().expect("accepted").0, 0).expect("ready"), client)
    }

    /// Waits until something has arrived, then advances.
    fn hear(connection: &mut Connection, ending: bool) {
        let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 10_000u16), Ok(1));
        connection.advance(ending, 1);
    }

    /// Sends `request` and answers with what came back, read to the end when the server closed.
    fn ask(connection: &mut Connection, client: &mut TcpStream, request: &str, ending: bool) -> String {
        client.write_all(request.as_bytes()).expect("sent");
        hear(connection, ending);
        let mut answer = [0; 16 << 10];
        let count = client.read(&mut answer).expect("answered");
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }

    #[test]
    fn requests_are_answered_one_after_another() {
        let (mut connection, mut client) = pair();
        let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let first = ask(&mut connection, &mut client, get, false);
        assert!(
            first.starts_with("HTTP/1.1 200 OK\r\n")
                && first.contains("<h1>")
                && first.contains("keep-alive")
        );
        let health = ask(&mut connection, &mut client, "GET /healthz HTTP/1.1\r\n\r\n", false);
        assert!(health.ends_with("\r\n\r\nok\n") && connection.state() == State::Listening);
        client.write_all(b"GET / HT").expect("sent");
        hear(&mut connection, false);
        assert_eq!(connection.state(), State::Listening, "half a request is waited for");
        let last = ask(&mut connection, &mut client, "TP/1.1\r\n\r\n", true);
        assert!(last.contains("Connection: close") && connection.state() == State::Closed);
    }

    #[test]
    fn odd_requests_end_well() {
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(REQUEST_BYTES_MAX));
        let cases = [
            ("HEAD / HTTP/1.1\r\n\r\n", "200 OK", State::Listening),
            ("GET / HTTP/1.0\r\n\r\n", "200 OK", State::Closed),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", "200 OK", State::Closed),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405", State::Closed),
            (long.as_str(), "431", State::Closed),
        ];
        for (request, status, state) in cases {
            let (mut connection, mut client) = pair();
            let answer = ask(&mut connection, &mut client, request, false);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:.40}: {answer}");
            assert_eq!(connection.state(), state, "{request:.40}");
        }
        let (mut connection, client) = pair();
        drop(client);
        hear(&mut connection, false);
        assert_eq!(connection.state(), State::Closed);
    }
}
