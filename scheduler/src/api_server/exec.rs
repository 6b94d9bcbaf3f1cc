//! `exec` and `attach`: a WebSocket of the protocols `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! The first byte of a message is its channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome as a `Status`, 4 the size of
//! the terminal; in v5, 255 closes the channel named by the next byte. Input and output are pumped by two futures, so
//! that a program that does not read cannot keep its output back.

use super::{
    Server,
    logs::{Place, refused},
    request::Target,
    response::Answer,
    router::Call,
    streams::NodeStream,
};
use agent_protocol::{StreamFrame, StreamRequest};
use api::{Cause, Status};
use axum::{
    body::Bytes,
    extract::{
        FromRequestParts,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    http::request::Parts,
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;

const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Bytes of one frame to a node.
const FRAME_BYTES: usize = 32 << 10;
const PING_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for a client to close its side.
const LINGER: Duration = Duration::from_secs(10);
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

impl Server {
    pub(super) async fn exec(&self, target: &Target, call: Call) -> Result<Answer, Status> {
        let place = self.place(target, &call).await?;
        let query = &call.query;
        let command: Vec<String> = query.all("command").map(str::to_owned).collect();
        if command.is_empty() {
            return Err(Status::bad_request("you must specify at least 1 command"));
        }
        let request = StreamRequest::Exec {
            pod_uid: place.pod_uid.clone(),
            container: place.container.clone(),
            command,
            stdin: query.flag("stdin")?,
            tty: query.flag("tty")?,
        };
        self.terminal(place, request, call).await
    }

    pub(super) async fn attach(&self, target: &Target, call: Call) -> Result<Answer, Status> {
        let place = self.place(target, &call).await?;
        let request = StreamRequest::Attach {
            pod_uid: place.pod_uid.clone(),
            container: place.container.clone(),
            stdin: call.query.flag("stdin")?,
        };
        self.terminal(place, request, call).await
    }

    async fn terminal(&self, place: Place, request: StreamRequest, call: Call) -> Result<Answer, Status> {
        let mut parts = call.parts;
        let upgrade = upgrade(&mut parts, &PROTOCOLS).await?;
        let stream = self.0.streams.open(&place.node, request).await?;
        Ok(upgrade.on_upgrade(move |socket| pump(socket, stream)))
    }
}

/// Accepts a WebSocket of one of `protocols`, our first choice first.
pub async fn upgrade(parts: &mut Parts, protocols: &[&'static str]) -> Result<WebSocketUpgrade, Status> {
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &()).await;
    let upgrade = upgrade
        .map_err(|error| Status::bad_request(format!("Upgrade request required: {}", error.body_text())))?;
    let upgrade = upgrade.protocols(protocols.iter().copied());
    if upgrade.selected_protocol().is_none() {
        let message = format!("the client speaks none of the protocols {}", protocols.join(", "));
        return Err(Status::bad_request(message));
    }
    Ok(upgrade)
}

async fn pump(socket: WebSocket, stream: NodeStream) {
    let (output, mut input) = socket.split();
    let NodeStream { to_node, from_node } = stream;
    // A client that is done with its input still reads the output; one that closed the socket does not.
    tokio::select! {
        () = send_input(&mut input, to_node) => {}
        _ = send_output(output, from_node) => linger(&mut input).await,
    }
}

/// Reads on until the client has closed as well: closing on unread input would reset the connection, and take from the
/// client what it has not read yet.
pub async fn linger(input: &mut SplitStream<WebSocket>) {
    let closed = async { while let Some(Ok(_)) = input.next().await {} };
    // One that does not close loses what it has not read.
    let _ = tokio::time::timeout(LINGER, closed).await;
}

/// Ends when the client does, or the node takes nothing more and the client then closes.
async fn send_input(input: &mut SplitStream<WebSocket>, to_node: mpsc::Sender<StreamFrame>) {
    while let Some(Ok(message)) = input.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        for frame in frames(&bytes) {
            // The node closes its side when the program has ended; its outcome is still on the way.
            let _ = to_node.send(frame).await;
        }
    }
}

/// What a client's message is for the node.
fn frames(message: &[u8]) -> Vec<StreamFrame> {
    match message {
        [CLOSE, channel, ..] => vec![StreamFrame::Close { channel: *channel }],
        [RESIZE, size @ ..] => resize(size).into_iter().collect(),
        [0, bytes @ ..] => bytes
            .chunks(FRAME_BYTES)
            .map(|bytes| StreamFrame::Data { channel: 0, bytes: bytes.into() })
            .collect(),
        _ => Vec::new(),
    }
}

fn resize(size: &[u8]) -> Option<StreamFrame> {
    let size: Value = serde_json::from_slice(size).ok()?;
    let side = |name: &str| size[name].as_u64().and_then(|side| u16::try_from(side).ok());
    Some(StreamFrame::Resize { width: side("Width")?, height: side("Height")? })
}

async fn send_output(
    mut output: SplitSink<WebSocket, Message>,
    mut from_node: mpsc::Receiver<StreamFrame>,
) -> Result<(), axum::Error> {
    let mut pings = tokio::time::interval(PING_EVERY);
    loop {
        let frame = tokio::select! {
            frame = from_node.recv() => frame,
            _ = pings.tick() => {
                output.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        let outcome = match frame {
            Some(StreamFrame::Data { channel, bytes }) => {
                output.send(on_channel(channel, &bytes)).await?;
                continue;
            }
            Some(StreamFrame::Close { .. } | StreamFrame::Resize { .. }) => continue,
            Some(StreamFrame::Exit { code }) => exit_status(code),
            Some(StreamFrame::Failed { not_found, message }) => refused(not_found, message).to_value(),
            None => Status::internal("the connection to the node ended").to_value(),
        };
        output.send(on_channel(OUTCOME, outcome.to_string().as_bytes())).await?;
        let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        output.send(Message::Close(Some(close))).await?;
        return output.close().await;
    }
}

pub fn on_channel(channel: u8, bytes: &[u8]) -> Message {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.into())
}

/// How a command ended, as clients turn it into their own exit code.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    let message = format!("command terminated with non-zero exit code: exit status {code}");
    let mut status = Status::new(500, "NonZeroExitCode", message);
    let cause = Cause { reason: "ExitCode".into(), message: code.to_string(), field: String::new() };
    status.details.causes.push(cause);
    status.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_frames() {
        for (message, expected) in [
            (&b"\x00hello"[..], vec![StreamFrame::Data { channel: 0, bytes: b"hello".to_vec() }]),
            (b"\xff\x00", vec![StreamFrame::Close { channel: 0 }]),
            (b"\x04{\"Width\":80,\"Height\":24}\n", vec![StreamFrame::Resize { width: 80, height: 24 }]),
            (b"\x04{\"Width\":80}", vec![]),
            (b"", vec![]),
            (b"\x00", vec![]),
        ] {
            assert_eq!(frames(message), expected, "{message:?}");
        }
        assert_eq!(frames(&vec![0; 1 + 2 * FRAME_BYTES]).len(), 2);
    }
}
