//! `GET pods/NAME/log`: the node's answer, passed on as it comes.

use super::{
    Server,
    request::Target,
    response::{self, Answer},
    router::Call,
    streams::NodeStream,
};
use crate::clock;
use agent_protocol::{StreamFrame, StreamRequest};
use api::{Status, resource};
use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use serde_json::Value;
use std::{
    convert::Infallible,
    time::{Duration, UNIX_EPOCH},
};

/// A pod's container on its node.
pub struct Place {
    pub node: String,
    pub pod_uid: String,
    pub container: String,
}

impl Server {
    pub(super) async fn logs(&self, target: &Target, call: &Call) -> Result<Answer, Status> {
        let place = self.place(target, call).await?;
        let query = &call.query;
        let request = StreamRequest::Logs {
            pod_uid: place.pod_uid,
            container: place.container,
            follow: query.flag("follow")?,
            previous: query.flag("previous")?,
            since_ns: self.since_ns(call)?,
            tail_lines: query.number("tailLines")?,
            limit_bytes: query.number("limitBytes")?,
            timestamps: query.flag("timestamps")?,
        };
        let mut stream = self.0.streams.open(&place.node, request).await?;
        let first = match stream.from_node.recv().await {
            Some(StreamFrame::Failed { not_found, message }) => return Err(refused(not_found, message)),
            None => return Err(lost(&place.node)),
            Some(frame) => frame,
        };
        Ok(response::with_type(StatusCode::OK, "text/plain", body(stream, first)))
    }

    fn since_ns(&self, call: &Call) -> Result<Option<u64>, Status> {
        if let Some(time) = call.query.get("sinceTime") {
            let at = clock::parse_timestamp(time)
                .ok_or_else(|| Status::bad_request(format!("sinceTime: Invalid value: {time:?}")))?;
            return Ok(at.duration_since(UNIX_EPOCH).ok().map(|since| since.as_nanos() as u64));
        }
        let seconds = call.query.number::<u64>("sinceSeconds")?.map(Duration::from_secs);
        let now = self.registry().clock().now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(seconds.map(|seconds| now.saturating_sub(seconds).as_nanos() as u64))
    }

    /// Where the container that a request names runs, or the pod's only one.
    pub(super) async fn place(&self, target: &Target, call: &Call) -> Result<Place, Status> {
        let name = &target.name;
        let pod = self.registry().get(&resource::PODS, &target.namespace, name).await?;
        let of = |field: &str| pod["spec"][field].as_array().into_iter().flatten();
        let names = |field: &str| of(field).filter_map(|container| container["name"].as_str());
        let named = call.query.get("container");
        let container = match named {
            Some(wanted) => {
                let all = ["containers", "initContainers", "ephemeralContainers"];
                if !all.iter().any(|field| names(field).any(|name| name == wanted)) {
                    return Err(Status::bad_request(format!(
                        "container {wanted} is not valid for pod {name}"
                    )));
                }
                wanted
            }
            None => only_container(name, &names("containers").collect::<Vec<_>>())?,
        };
        let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
        let node =
            node.ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))?;
        let pod_uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok(Place { node: node.to_owned(), pod_uid, container: container.to_owned() })
    }
}

fn only_container<'a>(pod: &str, names: &[&'a str]) -> Result<&'a str, Status> {
    match names {
        [one] => Ok(one),
        many => Err(Status::bad_request(format!(
            "a container name must be specified for pod {pod}, choose one of: [{}]",
            many.join(" ")
        ))),
    }
}

/// The stream's bytes; dropping the body ends the stream on the node.
fn body(mut stream: NodeStream, first: StreamFrame) -> Body {
    let mut first = Some(first);
    let chunks = futures_util::stream::poll_fn(move |context| {
        let keep_open = &stream.to_node;
        debug_assert!(keep_open.capacity() > 0, "nothing is sent to a log");
        let frame = match first.take() {
            Some(frame) => std::task::Poll::Ready(Some(frame)),
            None => stream.from_node.poll_recv(context),
        };
        frame.map(|frame| match frame {
            Some(StreamFrame::Data { bytes, .. }) => Some(Ok::<_, Infallible>(Bytes::from(bytes))),
            _ => None,
        })
    });
    Body::from_stream(chunks)
}

/// A node's refusal as clients read it.
pub fn refused(not_found: bool, message: String) -> Status {
    if not_found { Status::new(404, "NotFound", message) } else { Status::bad_request(message) }
}

pub fn lost(node: &str) -> Status {
    Status::internal(format!("the connection to node {node} ended"))
}

/// The pod's uid and node, for streams that are not about one container.
pub fn pod_place(pod: &Value) -> Option<(String, String)> {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty())?;
    Some((node.to_owned(), pod["metadata"]["uid"].as_str()?.to_owned()))
}
