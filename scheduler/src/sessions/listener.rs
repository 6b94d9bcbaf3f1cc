//! The socket agents dial: who may, the hello, and the two kinds of connection.

use agent_protocol::{Dial, FromAgent, MAGIC, NodeInfo, ToAgent, VERSIONS};
use codec::{
    CodecError,
    aio::{exchange, read_frame, write_frame},
};
use std::{io, path::Path, time::Duration};
use tokio::{
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};
use tracing::{Instrument, debug, info_span, warn};

/// From the connection to its first frame.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// An agent that does not take a frame for so long is gone.
const WRITE_WITHIN: Duration = Duration::from_secs(20);
/// An agent that was sent nothing for so long is asked whether it is there; one that says nothing for longer is not.
const PING_EVERY: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Frames that wait for one agent; one that is further behind is disconnected.
const OUTBOX_FRAMES: usize = 1 << 16;

/// What connections tell the hub.
pub enum Inbox {
    Connected { connection: u64, info: Box<NodeInfo>, outbox: mpsc::Sender<ToAgent> },
    Received { connection: u64, message: FromAgent },
    Disconnected { connection: u64 },
    Stream { token: u64, stream: UnixStream },
    Open(super::streams::OpenStream),
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("listen on {path}")]
    Bind { path: String, source: io::Error },
}

#[derive(Debug, thiserror::Error)]
enum RefusedPeer {
    #[error("user {uid} may not connect")]
    User { uid: u32 },
    #[error("peer's user is unknown")]
    Unknown(#[source] io::Error),
    #[error("agent said nothing in time")]
    Silent,
    #[error(transparent)]
    Frames(#[from] CodecError),
}

/// Binds the socket, replacing one that a killed scheduler left, and serves it until the inbox closes.
pub fn serve(path: &Path, inbox: mpsc::Sender<Inbox>) -> Result<(), ListenError> {
    let failed = |source| ListenError::Bind { path: path.display().to_string(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(failed)?;
    tokio::spawn(accept(listener, inbox).instrument(info_span!("agents")));
    Ok(())
}

async fn accept(listener: UnixListener, inbox: mpsc::Sender<Inbox>) {
    let mut connection = 0;
    while !inbox.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                connection += 1;
                let span = info_span!("agent", connection);
                tokio::spawn(welcome(stream, connection, inbox.clone()).instrument(span));
            }
            Err(error) => {
                warn!(%error, "an agent's connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn welcome(stream: UnixStream, connection: u64, inbox: mpsc::Sender<Inbox>) {
    match identify(stream).await {
        Ok((stream, Dial::Stream { token })) => {
            inbox.send(Inbox::Stream { token, stream }).await.ok();
        }
        Ok((stream, Dial::Session(info))) => session(stream, info, connection, inbox).await,
        Err(error) => warn!(error = %error, "a connection was refused"),
    }
}

async fn identify(mut stream: UnixStream) -> Result<(UnixStream, Dial), RefusedPeer> {
    let uid = stream.peer_cred().map_err(RefusedPeer::Unknown)?.uid();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Err(RefusedPeer::User { uid });
    }
    let dialled = timeout(HELLO_WITHIN, async {
        exchange(&mut stream, MAGIC, &VERSIONS).await?;
        read_frame::<Dial>(&mut stream).await
    });
    let dial = dialled.await.map_err(|_| RefusedPeer::Silent)??;
    Ok((stream, dial))
}

/// Lives as long as both directions: the hub ends it by dropping the outbox.
async fn session(stream: UnixStream, info: Box<NodeInfo>, connection: u64, inbox: mpsc::Sender<Inbox>) {
    let (outbox, frames) = mpsc::channel(OUTBOX_FRAMES);
    let (reader, writer) = stream.into_split();
    if inbox.send(Inbox::Connected { connection, info, outbox }).await.is_err() {
        return;
    }
    let reading = tokio::spawn(read(reader, connection, inbox.clone()).in_current_span());
    let mut reading = Abort(reading);
    tokio::select! {
        () = write(writer, frames) => {}
        _ = &mut reading.0 => {}
    }
    inbox.send(Inbox::Disconnected { connection }).await.ok();
}

/// Ends the task with its owner.
struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(mut reader: OwnedReadHalf, connection: u64, inbox: mpsc::Sender<Inbox>) {
    loop {
        match timeout(SILENCE_MAX, read_frame::<FromAgent>(&mut reader)).await {
            Err(_) => {
                warn!("an agent was silent for {} s and was disconnected", SILENCE_MAX.as_secs());
                return;
            }
            Ok(Ok(message)) => {
                if inbox.send(Inbox::Received { connection, message }).await.is_err() {
                    return;
                }
            }
            Ok(Err(error)) if error.is_eof() => return,
            Ok(Err(error)) => {
                debug!(%error, "an agent's session broke");
                return;
            }
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut frames: mpsc::Receiver<ToAgent>) {
    for nonce in 0.. {
        let frame = match timeout(PING_EVERY, frames.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(_) => ToAgent::Ping { nonce },
        };
        match timeout(WRITE_WITHIN, write_frame(&mut writer, &frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(%error, "an agent's session broke");
                return;
            }
            Err(_) => {
                warn!("an agent did not keep up and was disconnected");
                return;
            }
        }
    }
}
