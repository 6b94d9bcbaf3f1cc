//! Port-forwarding by SPDY inside a WebSocket, as kubectl does it.
//!
//! Each TCP connection is a pair of streams with the same `requestid`: `error`, on which only we write, and `data`. Every
//! pair is a task of its own; what it sends goes through one bounded queue to the socket.

use super::{
    FRAME_BYTES, Pod,
    spdy::{self, Codec, Frame},
};
use agent_protocol::StreamFrame;
use axum::{
    body::Bytes,
    extract::ws::{Message, WebSocket},
};
use futures_util::{SinkExt, StreamExt, stream::SplitStream};
use std::{collections::HashMap, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::debug;

const PING_EVERY: Duration = Duration::from_secs(10);
const MESSAGES_QUEUED: usize = 16;
/// Connections at once; a further one is refused.
const CONNECTIONS_MAX: usize = 256;

pub async fn serve(socket: WebSocket, pod: Pod) {
    let (mut output, input) = socket.split();
    let (to_client, mut messages) = mpsc::channel::<Vec<u8>>(MESSAGES_QUEUED);
    let send = async {
        let mut pings = tokio::time::interval(PING_EVERY);
        loop {
            let message = tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => Message::Binary(message.into()),
                    None => return,
                },
                _ = pings.tick() => Message::Ping(Bytes::new()),
            };
            if output.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = send => {}
        () = receive(input, pod, to_client) => {}
    }
}

/// The client's streams, by number.
struct Streams {
    pod: Pod,
    to_client: mpsc::Sender<Vec<u8>>,
    /// Error streams that wait for their data stream, by request.
    errors: HashMap<String, u32>,
    data: HashMap<u32, mpsc::Sender<StreamFrame>>,
    connections: JoinSet<()>,
}

async fn receive(mut input: SplitStream<WebSocket>, pod: Pod, to_client: mpsc::Sender<Vec<u8>>) {
    let mut codec = Codec::new();
    let connections = JoinSet::new();
    let mut streams = Streams { pod, to_client, errors: HashMap::new(), data: HashMap::new(), connections };
    while let Some(Ok(message)) = input.next().await {
        match message {
            Message::Binary(bytes) => codec.push(&bytes),
            Message::Close(_) => return,
            _ => continue,
        }
        loop {
            match codec.next_frame() {
                Ok(Some(Frame::GoAway)) => return,
                Ok(Some(frame)) => streams.handle(frame, &mut codec).await,
                Ok(None) => break,
                Err(error) => return debug!(%error, "port-forward client broke the protocol"),
            }
        }
    }
}

impl Streams {
    async fn handle(&mut self, frame: Frame, codec: &mut Codec) {
        while self.connections.try_join_next().is_some() {}
        match frame {
            Frame::Open { stream, headers, .. } => {
                self.send(codec.accept(stream)).await;
                self.open(stream, &headers).await;
            }
            Frame::Data { stream, bytes, fin } => {
                let Some(sender) = self.data.get(&stream) else { return };
                for piece in bytes.chunks(FRAME_BYTES) {
                    // The connection may have ended; the client learns it from its own stream.
                    let _ = sender.send(StreamFrame::Data { channel: 0, bytes: piece.into() }).await;
                }
                if fin {
                    let _ = sender.send(StreamFrame::Close { channel: 0 }).await;
                    self.data.remove(&stream);
                }
            }
            Frame::Reset { stream } => {
                self.data.remove(&stream);
            }
            Frame::Ping { id } => self.send(spdy::pong(id)).await,
            Frame::GoAway | Frame::Other => {}
        }
    }

    async fn open(&mut self, stream: u32, headers: &[(String, String)]) {
        let header = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let request = header("requestid").to_owned();
        if header("streamtype") == "error" {
            self.errors.insert(request, stream);
            return;
        }
        let Some(error_stream) = self.errors.remove(&request) else { return };
        let port = header("port").parse::<u16>().ok().filter(|port| *port != 0);
        let Some(port) = port.filter(|_| self.connections.len() < CONNECTIONS_MAX) else {
            let why = format!("port {:?} cannot be forwarded", header("port"));
            self.send(spdy::data(error_stream, why.as_bytes(), true)).await;
            self.send(spdy::data(stream, b"", true)).await;
            return;
        };
        let (sender, from_client) = mpsc::channel(MESSAGES_QUEUED);
        self.data.insert(stream, sender);
        let ends = Ends { data: stream, error: error_stream, port };
        self.connections.spawn(connection(self.pod.clone(), ends, from_client, self.to_client.clone()));
    }

    async fn send(&self, frame: Vec<u8>) {
        // A closed queue means that the socket is gone, which ends the reading side too.
        let _ = self.to_client.send(frame).await;
    }
}

struct Ends {
    data: u32,
    error: u32,
    port: u16,
}

/// One TCP connection, from the pod's node to the client's streams.
async fn connection(
    pod: Pod,
    ends: Ends,
    mut from_client: mpsc::Receiver<StreamFrame>,
    to_client: mpsc::Sender<Vec<u8>>,
) {
    let failure = match pod.connect(ends.port).await {
        Err(status) => Some(status.message),
        Ok(mut node) => {
            // Whether the client closed its side, rather than reset the connection.
            let there = async {
                let mut closed = false;
                while let Some(frame) = from_client.recv().await {
                    closed |= matches!(frame, StreamFrame::Close { .. });
                    if node.to_node.send(frame).await.is_err() {
                        return true;
                    }
                }
                closed
            };
            let back = async {
                while let Some(frame) = node.from_node.recv().await {
                    match frame {
                        StreamFrame::Data { bytes, .. } => {
                            if to_client.send(spdy::data(ends.data, &bytes, false)).await.is_err() {
                                return None;
                            }
                        }
                        StreamFrame::Failed { message, .. } => return Some(message),
                        StreamFrame::Close { .. } | StreamFrame::Exit { .. } => return None,
                        StreamFrame::Resize { .. } => {}
                    }
                }
                None
            };
            // The client may close its side first and still read the rest.
            tokio::pin!(back);
            tokio::select! {
                failure = &mut back => failure,
                closed = there => if closed { back.await } else { None },
            }
        }
    };
    let message = failure.map(|why| format!("error forwarding port {} to pod: {why}", ends.port));
    // Nobody is left to tell when the queue is closed.
    let _ = to_client.send(spdy::data(ends.error, message.unwrap_or_default().as_bytes(), true)).await;
    let _ = to_client.send(spdy::data(ends.data, b"", true)).await;
}
