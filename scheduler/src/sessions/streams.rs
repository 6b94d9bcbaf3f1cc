//! Streams to pods for the API server: the hub asks the node to dial back, and the two ends are joined.

use super::listener::Inbox;
use crate::api_server::streams::{NodeStream, STREAM_FRAMES, Streams};
use agent_protocol::{StreamFrame, StreamRequest};
use api::Status;
use codec::aio::{read_frame, write_frame};
use std::{future::Future, pin::Pin, time::Duration};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// A node has so long to dial back.
const DIAL_BACK_WITHIN: Duration = Duration::from_secs(10);

/// A stream somebody waits for.
pub struct OpenStream {
    pub node: String,
    pub request: StreamRequest,
    pub reply: oneshot::Sender<Result<UnixStream, String>>,
}

/// Opens streams through the node sessions.
#[derive(Clone)]
pub struct NodeStreams(pub(crate) mpsc::Sender<Inbox>);

impl Streams for NodeStreams {
    fn open<'a>(
        &'a self,
        node: &'a str,
        request: StreamRequest,
    ) -> Pin<Box<dyn Future<Output = Result<NodeStream, Status>> + Send + 'a>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let open = Inbox::Open(OpenStream { node: node.to_owned(), request, reply });
            let unavailable = |why: String| Status::new(503, "ServiceUnavailable", why);
            let stopping = || unavailable("the scheduler is stopping".to_owned());
            self.0.send(open).await.map_err(|_| stopping())?;
            match timeout(DIAL_BACK_WITHIN, answer).await {
                Ok(Ok(Ok(stream))) => Ok(joined(stream)),
                Ok(Ok(Err(why))) => Err(unavailable(why)),
                Ok(Err(_)) => Err(stopping()),
                Err(_) => Err(Status::new(
                    504,
                    "Timeout",
                    format!("node {node} did not open the stream within {} s", DIAL_BACK_WITHIN.as_secs()),
                )),
            }
        })
    }
}

/// Moves frames between the socket and the two channels until the API server drops the receiving one or the node closes.
fn joined(stream: UnixStream) -> NodeStream {
    let (mut reader, mut writer) = stream.into_split();
    let (to_node, mut outgoing) = mpsc::channel::<StreamFrame>(STREAM_FRAMES);
    let (incoming, from_node) = mpsc::channel::<StreamFrame>(STREAM_FRAMES);
    let reading = tokio::spawn(async move {
        loop {
            tokio::select! {
                frame = read_frame::<StreamFrame>(&mut reader) => match frame {
                    Ok(frame) => {
                        if incoming.send(frame).await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                },
                () = incoming.closed() => return,
            }
        }
    });
    tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if write_frame(&mut writer, &frame).await.is_err() {
                break;
            }
        }
        reading.await.ok();
        drop(writer);
    });
    NodeStream { to_node, from_node }
}
