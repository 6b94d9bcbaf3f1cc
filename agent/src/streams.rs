//! Logs, exec, attach and port-forward of one pod, between whoever asked and the pod's monitor.

use crate::{
    host::Host,
    logs::{self, Wanted},
    monitor,
    pod::state::parse_run_id,
};
use agent_protocol::{ContainerState, ContainerStatus, Pod, PodStatus, StreamFrame, StreamRequest};
use runtime_protocol::{Exec, Open, StreamFrame as MonitorFrame};
use tokio::{net::UnixStream, sync::watch};

/// A pod as a stream needs it.
#[derive(Clone, Debug)]
pub struct Target {
    pub spec: Pod,
    pub status: watch::Receiver<Option<PodStatus>>,
}

/// The pod's uid that a request is about.
pub fn pod_of(request: &StreamRequest) -> &str {
    match request {
        StreamRequest::Logs { pod_uid, .. }
        | StreamRequest::Exec { pod_uid, .. }
        | StreamRequest::Attach { pod_uid, .. }
        | StreamRequest::PortForward { pod_uid, .. } => pod_uid,
    }
}

/// Serves the request to its last frame.
pub async fn serve(mut peer: UnixStream, request: StreamRequest, target: Option<Target>, host: Host) {
    let served = match target {
        None => Err((true, format!("pod {} is not on this node", pod_of(&request)))),
        Some(target) => run(&mut peer, request, &target, &host).await,
    };
    let last = match served {
        Ok(Some(code)) => StreamFrame::Exit { code },
        Ok(None) => return,
        Err((not_found, message)) => StreamFrame::Failed { not_found, message },
    };
    // A peer that is gone has no use for it.
    let _ = codec::aio::write_frame(&mut peer, &last).await;
}

/// The exit code to send last, if it has not been sent; or why it could not be done, and whether because something is not there.
async fn run(
    peer: &mut UnixStream,
    request: StreamRequest,
    target: &Target,
    host: &Host,
) -> Result<Option<i32>, (bool, String)> {
    let dir = host.dirs(&target.spec.uid).run;
    let open = match &request {
        StreamRequest::Logs { container, follow, previous, .. } => {
            send_logs(peer, &request, container, *follow, *previous, target, host).await?;
            return Ok(Some(0));
        }
        StreamRequest::Exec { container, command, stdin, tty, .. } => Open::Exec(Exec {
            container: running(target, container)?,
            args: command.clone(),
            tty: *tty,
            stdin: *stdin,
        }),
        StreamRequest::Attach { container, .. } => Open::Attach { container: running(target, container)? },
        StreamRequest::PortForward { port, .. } => Open::Forward { port: *port },
    };
    let mut monitor = monitor::stream(&dir, &open).await.map_err(|err| (false, err.to_string()))?;
    relay(peer, &mut monitor).await;
    Ok(None)
}

fn find(target: &Target, container: &str) -> Result<ContainerStatus, (bool, String)> {
    let status = target.status.borrow().clone();
    let all =
        status.into_iter().flat_map(|status| status.init_containers.into_iter().chain(status.containers));
    let missing = || (true, format!("container {container} is not valid for pod {}", target.spec.name));
    all.into_iter().find(|status| status.name == container).ok_or_else(missing)
}

/// Name of the present run of a container that runs.
fn running(target: &Target, container: &str) -> Result<String, (bool, String)> {
    let status = find(target, container)?;
    match status.state {
        ContainerState::Running { .. } => Ok(run_id(&status.container_id).to_owned()),
        _ => Err((false, format!("container not found (\"{container}\"): it is not running"))),
    }
}

fn run_id(container_id: &str) -> &str {
    container_id.split_once("://").map_or(container_id, |(_, id)| id)
}

async fn send_logs(
    peer: &mut UnixStream,
    request: &StreamRequest,
    container: &str,
    follow: bool,
    previous: bool,
    target: &Target,
    host: &Host,
) -> Result<(), (bool, String)> {
    let status = find(target, container)?;
    let id = if previous {
        status.last.map(|last| last.container_id).unwrap_or_default()
    } else {
        status.container_id.clone()
    };
    let attempt = parse_run_id(&target.spec.uid, run_id(&id)).map(|(_, attempt)| attempt);
    let Some(attempt) = attempt else {
        let what = if previous { "previous terminated container" } else { "container" };
        let why = match &status.state {
            ContainerState::Waiting { reason, .. } if !previous => format!(" is waiting to start: {reason}"),
            _ => " not found".to_owned(),
        };
        return Err((false, format!("{what} \"{container}\" in pod \"{}\"{why}", target.spec.name)));
    };
    let path = host.log_file(&target.spec, container, attempt);
    let over = follow.then(|| follow_end(target.status.clone(), container.to_owned(), id));
    let sent = logs::send(peer, &path, Wanted::of(request), over).await;
    sent.map_err(|err| (false, format!("read the log {}: {err}", path.display())))
}

/// Turns true once the run is not the present, running one any more.
fn follow_end(
    mut status: watch::Receiver<Option<PodStatus>>,
    container: String,
    id: String,
) -> watch::Receiver<bool> {
    let (over, watched) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let runs = status.borrow_and_update().as_ref().is_some_and(|pod| {
                let mut all = pod.init_containers.iter().chain(&pod.containers);
                all.any(|c| {
                    c.name == container
                        && c.container_id == id
                        && matches!(c.state, ContainerState::Running { .. })
                })
            });
            if !runs || status.changed().await.is_err() {
                over.send_replace(true);
                return;
            }
        }
    });
    watched
}

/// Moves frames both ways until the monitor has sent its last one or either side is gone.
async fn relay(peer: &mut UnixStream, monitor: &mut UnixStream) {
    let (mut from_peer, mut to_peer) = peer.split();
    let (mut from_monitor, mut to_monitor) = monitor.split();
    let towards = async {
        while let Ok(frame) = codec::aio::read_frame::<StreamFrame>(&mut from_peer).await {
            let frame = match frame {
                StreamFrame::Data { channel, bytes } => MonitorFrame::Data { channel, bytes },
                StreamFrame::Close { channel } => MonitorFrame::Close { channel },
                StreamFrame::Resize { width, height } => MonitorFrame::Resize { width, height },
                StreamFrame::Exit { .. } | StreamFrame::Failed { .. } => return,
            };
            if codec::aio::write_frame(&mut to_monitor, &frame).await.is_err() {
                return;
            }
        }
    };
    let back = async {
        while let Ok(frame) = codec::aio::read_frame::<MonitorFrame>(&mut from_monitor).await {
            let (frame, last) = match frame {
                MonitorFrame::Data { channel, bytes } => (StreamFrame::Data { channel, bytes }, false),
                MonitorFrame::Close { channel } => (StreamFrame::Close { channel }, false),
                MonitorFrame::Resize { width, height } => (StreamFrame::Resize { width, height }, false),
                MonitorFrame::Exit(exit) => (StreamFrame::Exit { code: exit.code }, true),
                MonitorFrame::Failed { code: code @ (126 | 127), message } => {
                    // As a shell would: the reason on stderr, the code as exit code.
                    let bytes = format!("{message}\n").into_bytes();
                    let told =
                        codec::aio::write_frame(&mut to_peer, &StreamFrame::Data { channel: 2, bytes }).await;
                    if told.is_err() {
                        return;
                    }
                    (StreamFrame::Exit { code }, true)
                }
                MonitorFrame::Failed { message, .. } => {
                    (StreamFrame::Failed { not_found: false, message }, true)
                }
            };
            if codec::aio::write_frame(&mut to_peer, &frame).await.is_err() || last {
                return;
            }
        }
    };
    tokio::select! {
        () = towards => {}
        () = back => {}
    }
}
