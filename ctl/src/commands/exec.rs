//! `ctl exec [-it] POD [-c CONTAINER] -- COMMAND…`: run a command in a container.
//!
//! Kubernetes' channel protocol over a WebSocket (`v5.channel.k8s.io`): the first byte of each message is the channel, 0 stdin,
//! 1 stdout, 2 stderr, 3 the result, 4 the terminal's size, 255 the end of another channel.

use super::logs::pod_of;
use crate::{
    cli::Session,
    error::{CtlError, failed},
    resource::{self, encode},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
    },
};
use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::Value;
use std::{
    io::{self, IsTerminal, Read, Write},
    net::TcpStream,
    os::fd::AsFd,
};
use tungstenite::{Message, WebSocket, client::IntoClientRequest};

const PROTOCOL: &str = "v5.channel.k8s.io";
const CHUNK_BYTES: usize = 16 << 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pod, or TYPE/NAME of something that owns pods
    pod: String,
    /// Container; needed when the pod has several
    #[arg(short, long)]
    container: Option<String>,
    /// Send standard input
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Program and arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

type Socket = WebSocket<StreamOwned<ClientConnection, TcpStream>>;

/// Ends with the exit code of the command.
pub fn run(args: &Args, session: &Session) -> Result<(), CtlError> {
    let mut socket = connect(args, session)?;
    let stream =
        socket.get_ref().sock.try_clone().map_err(|err| session.client.unreachable(&err.to_string()))?;
    stream.set_nonblocking(true).map_err(|err| session.client.unreachable(&err.to_string()))?;
    let raw = (args.tty && args.stdin && io::stdin().is_terminal()).then(RawTerminal::enter).flatten();
    let result = relay(args, &mut socket, &stream);
    drop(raw);
    match result? {
        0 => Ok(()),
        code => Err(CtlError::Exit(code)),
    }
}

fn connect(args: &Args, session: &Session) -> Result<Socket, CtlError> {
    let pod = pod_of(&args.pod, session)?;
    let mut query: Vec<String> =
        args.command.iter().map(|word| format!("command={}", encode(word))).collect();
    query.extend(args.container.as_ref().map(|name| format!("container={}", encode(name))));
    query.push("stdout=true".to_owned());
    let flags = [(args.stdin, "stdin"), (args.tty, "tty"), (!args.tty, "stderr")];
    query.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| format!("{name}=true")));
    let path = resource::object(resource::find("pods")?, &session.namespace, &pod);
    let authority = session.client.server().trim_start_matches("https://").to_owned();
    let host =
        authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host).trim_matches(['[', ']']);
    let unreachable = |cause: String| session.client.unreachable(&cause);
    let tcp = TcpStream::connect(&authority).map_err(|err| unreachable(err.to_string()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|err| unreachable(err.to_string()))?;
    let tls = ClientConnection::new(session.client.tls.clone(), name)
        .map_err(|err| unreachable(err.to_string()))?;
    let mut request = format!("wss://{authority}{path}/exec?{}", query.join("&"))
        .into_client_request()
        .map_err(|err| failed(err.to_string()))?;
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", tungstenite::http::HeaderValue::from_static(PROTOCOL));
    if let Some(token) = session.client.token() {
        let value = format!("Bearer {token}")
            .parse()
            .map_err(|_| failed("the token of the kubeconfig is no header value"))?;
        headers.insert("authorization", value);
    }
    match tungstenite::client(request, StreamOwned::new(tls, tcp)) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            let status: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
            let message =
                status["message"].as_str().map_or_else(|| response.status().to_string(), str::to_owned);
            Err(failed(message))
        }
        Err(err) => Err(unreachable(err.to_string())),
    }
}

/// Moves bytes both ways until the result arrives; returns the exit code.
fn relay(args: &Args, socket: &mut Socket, stream: &TcpStream) -> Result<u8, CtlError> {
    let resizes = winch().map_err(|err| failed(format!("signalfd: {err}")))?;
    let stdin = io::stdin();
    let mut stdin_open = args.stdin;
    let mut result = None;
    if args.tty {
        send(socket, 4, &size())?;
    }
    loop {
        let flushed = flush(socket)?;
        if let Some(code) = receive(socket, &mut result)? {
            return Ok(code);
        }
        let wanted = if flushed { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        let mut fds =
            vec![PollFd::new(stream.as_fd(), wanted), PollFd::new(resizes.as_fd(), PollFlags::POLLIN)];
        if stdin_open && flushed {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return Err(failed(format!("poll: {err}"))),
        }
        let ready = |index: usize| fds.get(index).and_then(|fd| fd.any()).unwrap_or(false);
        let (resized, typed) = (ready(1), ready(2));
        if resized && resizes.read_signal().is_ok() && args.tty {
            send(socket, 4, &size())?;
        }
        if typed {
            stdin_open = forward_stdin(socket)?;
        }
    }
}

/// Sends what was typed; false at end of file.
fn forward_stdin(socket: &mut Socket) -> Result<bool, CtlError> {
    let mut buffer = [0; CHUNK_BYTES];
    match io::stdin().lock().read(&mut buffer) {
        Ok(0) | Err(_) => send(socket, 255, &[0]).map(|()| false),
        Ok(len) => send(socket, 0, &buffer[..len]).map(|()| true),
    }
}

/// Handles every message that is there; the exit code once the server has closed.
fn receive(socket: &mut Socket, result: &mut Option<u8>) -> Result<Option<u8>, CtlError> {
    loop {
        let message = match socket.read() {
            Ok(message) => message,
            Err(tungstenite::Error::Io(err)) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(err) => {
                return result.map(Some).ok_or_else(|| failed(format!("the connection broke: {err}")));
            }
        };
        let Message::Binary(bytes) = message else { continue };
        match bytes.split_first() {
            Some((1, data)) => write_all(&mut io::stdout().lock(), data),
            Some((2, data)) => write_all(&mut io::stderr().lock(), data),
            Some((3, data)) => {
                *result = Some(exit_code(data)?);
                return Ok(*result);
            }
            _ => {}
        }
    }
}

/// A reader that went away does not end the remote command.
fn write_all(out: &mut impl Write, data: &[u8]) {
    let _ = out.write_all(data).and_then(|()| out.flush());
}

/// Reads the `Status` of channel 3.
fn exit_code(status: &[u8]) -> Result<u8, CtlError> {
    let status: Value = serde_json::from_slice(status).map_err(|err| failed(format!("the result: {err}")))?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes
        .into_iter()
        .flatten()
        .find(|cause| cause["reason"] == "ExitCode")
        .and_then(|c| c["message"].as_str());
    match code.and_then(|code| code.parse::<i32>().ok()) {
        Some(code) => Ok(u8::try_from(code & 0xff).unwrap_or(1)),
        None => Err(failed(status["message"].as_str().unwrap_or("the command could not be run").to_owned())),
    }
}

fn send(socket: &mut Socket, channel: u8, data: &[u8]) -> Result<(), CtlError> {
    let message: Vec<u8> = std::iter::once(channel).chain(data.iter().copied()).collect();
    match socket.write(Message::binary(message)) {
        Ok(()) => Ok(()),
        Err(tungstenite::Error::Io(err)) if err.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(err) => Err(failed(format!("the connection broke: {err}"))),
    }
}

/// False while the socket takes no more.
fn flush(socket: &mut Socket) -> Result<bool, CtlError> {
    match socket.flush() {
        Ok(()) => Ok(true),
        Err(tungstenite::Error::Io(err)) if err.kind() == io::ErrorKind::WouldBlock => Ok(false),
        // A close that is under way shows in the next read.
        Err(_) => Ok(true),
    }
}

fn size() -> Vec<u8> {
    let (width, height) =
        terminal_size::terminal_size().map_or((80, 24), |(width, height)| (width.0, height.0));
    format!("{{\"Width\":{width},\"Height\":{height}}}\n").into_bytes()
}

fn winch() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGWINCH);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Raw mode for as long as it lives.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing better can be done about a terminal that is gone.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_read_as_kubernetes_sends_it() {
        let code = |text: &str| exit_code(text.as_bytes());
        assert_eq!(code(r#"{"metadata":{},"status":"Success"}"#).expect("ended"), 0);
        let failure = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        assert_eq!(code(failure).expect("ended"), 7);
        let err = code(r#"{"status":"Failure","message":"no such container"}"#).expect_err("did not run");
        assert_eq!(err.to_string(), "no such container");
    }
}
