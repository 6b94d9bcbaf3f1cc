//! What the API server needs of node sessions: a stream to a pod's node for logs, exec, attach and port-forward.

use agent_protocol::{StreamFrame, StreamRequest};
use api::Status;
use std::{future::Future, pin::Pin};
use tokio::sync::mpsc;

/// Frames queued in each direction; the node's socket does the rest of the flow control.
pub const STREAM_FRAMES: usize = 8;

/// A stream to a node. Dropping it ends it; the node ends it with its last frame or by closing.
pub struct NodeStream {
    pub to_node: mpsc::Sender<StreamFrame>,
    pub from_node: mpsc::Receiver<StreamFrame>,
}

/// Opens streams; `sessions` implements it.
pub trait Streams: Send + Sync + 'static {
    /// Fails when the node has no session, or does not dial back in time.
    fn open<'a>(
        &'a self,
        node: &'a str,
        request: StreamRequest,
    ) -> Pin<Box<dyn Future<Output = Result<NodeStream, Status>> + Send + 'a>>;
}

/// A cluster without nodes.
pub struct NoNodes;

impl Streams for NoNodes {
    fn open<'a>(
        &'a self,
        node: &'a str,
        _: StreamRequest,
    ) -> Pin<Box<dyn Future<Output = Result<NodeStream, Status>> + Send + 'a>> {
        Box::pin(async move {
            Err(Status::new(503, "ServiceUnavailable", format!("node {node} is not connected")))
        })
    }
}
