//! Port-forwarding over the protocols `v5.channel.k8s.io` and `v4.channel.k8s.io`: port number i has the channels 2i
//! for data and 2i+1 for errors, and the server first sends the port on both, little-endian.

use super::{
    super::{
        exec::{linger, on_channel},
        streams::NodeStream,
    },
    FRAME_BYTES,
};
use agent_protocol::StreamFrame;
use axum::extract::ws::{Message, WebSocket};
use futures_util::{SinkExt, StreamExt, future};
use tokio::sync::mpsc;

const CLOSE: u8 = 255;

pub async fn serve(socket: WebSocket, ports: Vec<u16>, streams: Vec<NodeStream>) {
    let (mut output, mut input) = socket.split();
    for (index, port) in (0u8..).zip(&ports) {
        for channel in [2 * index, 2 * index + 1] {
            if output.send(on_channel(channel, &port.to_le_bytes())).await.is_err() {
                return;
            }
        }
    }
    let (to_client, mut messages) = mpsc::channel::<Message>(8);
    let (mut senders, mut readers) = (Vec::new(), Vec::new());
    for (index, stream) in (0u8..).zip(streams) {
        senders.push(stream.to_node);
        readers.push(read_port(index, stream.from_node, to_client.clone()));
    }
    drop(to_client);
    let forward = async {
        while let Some(message) = messages.recv().await {
            if output.send(message).await.is_err() {
                return;
            }
        }
        // The client may be gone already.
        let _ = output.close().await;
    };
    let from_client = async {
        while let Some(Ok(message)) = input.next().await {
            let Message::Binary(bytes) = message else { continue };
            let (channel, bytes) = match &bytes[..] {
                [CLOSE, channel, ..] => (*channel, None),
                [channel, bytes @ ..] => (*channel, Some(bytes)),
                [] => continue,
            };
            let Some(sender) = senders.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0) else {
                continue;
            };
            let frames: Vec<StreamFrame> = match bytes {
                None => vec![StreamFrame::Close { channel: 0 }],
                Some(bytes) => bytes
                    .chunks(FRAME_BYTES)
                    .map(|bytes| StreamFrame::Data { channel: 0, bytes: bytes.into() })
                    .collect(),
            };
            for frame in frames {
                // The pod's side may be closed while others go on.
                let _ = sender.send(frame).await;
            }
        }
    };
    tokio::select! {
        _ = future::join(forward, future::join_all(readers)) => linger(&mut input).await,
        () = from_client => {}
    }
}

/// One port's way back; ends when the pod closes the connection.
async fn read_port(index: u8, mut from_node: mpsc::Receiver<StreamFrame>, to_client: mpsc::Sender<Message>) {
    while let Some(frame) = from_node.recv().await {
        let message = match frame {
            StreamFrame::Data { bytes, .. } => on_channel(2 * index, &bytes),
            StreamFrame::Failed { message, .. } => on_channel(2 * index + 1, message.as_bytes()),
            StreamFrame::Close { .. } | StreamFrame::Exit { .. } => return,
            StreamFrame::Resize { .. } => continue,
        };
        if to_client.send(message).await.is_err() {
            return;
        }
    }
}
