//! The agent's own socket: what `ctl` asks on this host, also while the control plane is away.

use crate::{
    host::Host,
    image_gc,
    node::Input,
    streams::{self, Target},
};
use agent_protocol::{
    ContainerState, ImageInfo, LocalReply, LocalRequest, MAGIC, PodInfo, PullProgress, VERSIONS,
};
use rootfs::Reference;
use std::sync::Arc;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

/// Serves every connection in a task of its own.
pub async fn serve(listener: UnixListener, host: Host, inputs: mpsc::UnboundedSender<Input>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let trusted = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw());
        if trusted {
            let (host, inputs) = (host.clone(), inputs.clone());
            tokio::spawn(async move {
                if let Err(err) = answer(stream, host, inputs).await {
                    tracing::debug!(error = %err, "a local request ended early");
                }
            });
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    host: Host,
    inputs: mpsc::UnboundedSender<Input>,
) -> Result<(), codec::CodecError> {
    codec::aio::exchange(&mut stream, MAGIC, &VERSIONS).await?;
    let request: LocalRequest = codec::aio::read_frame(&mut stream).await?;
    let reply = match request {
        LocalRequest::Images => LocalReply::Images(images(&host)),
        LocalRequest::Pods => LocalReply::Pods(targets(&inputs).await.iter().map(info).collect()),
        LocalRequest::Pull { reference } => return pull(stream, &host, &reference).await,
        LocalRequest::Import { path, name } => import(&host, path, name).await,
        LocalRequest::RemoveImage { reference } => {
            let users = image_gc::users(&host, &targets(&inputs).await);
            let store = host.images.clone();
            let removed = tokio::task::spawn_blocking(move || store.remove(&reference, &users)).await;
            match removed {
                Ok(Ok(digest)) => LocalReply::Done(format!("removed {digest}")),
                Ok(Err(err)) => LocalReply::Failed(crate::chain(&err)),
                Err(err) => LocalReply::Failed(err.to_string()),
            }
        }
        LocalRequest::Stream(request) => {
            let all = targets(&inputs).await;
            let target = all.into_iter().find(|target| target.spec.uid == streams::pod_of(&request));
            streams::serve(stream, request, target, host).await;
            return Ok(());
        }
        LocalRequest::Drain { grace_s } => drain(&inputs, grace_s).await,
    };
    codec::aio::write_frame(&mut stream, &reply).await
}

pub async fn targets(inputs: &mpsc::UnboundedSender<Input>) -> Vec<Target> {
    let (ask, asked) = oneshot::channel();
    // Without its node the agent is about to end.
    let _ = inputs.send(Input::Targets(ask));
    asked.await.unwrap_or_default()
}

async fn drain(inputs: &mpsc::UnboundedSender<Input>, grace_s: u32) -> LocalReply {
    let (done, wait) = oneshot::channel();
    let _ = inputs.send(Input::Drain { grace_s, done });
    match wait.await {
        Ok(Ok(())) => LocalReply::Done("every pod has ended".to_owned()),
        Ok(Err(why)) => LocalReply::Failed(why),
        Err(_) => LocalReply::Failed("the agent ends".to_owned()),
    }
}

fn images(host: &Host) -> Vec<ImageInfo> {
    let seconds =
        |text: &str| OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp);
    let info = |image: rootfs::Image| ImageInfo {
        names: image.names,
        digest: image.digest,
        size_bytes: image.size_bytes,
        created_s: seconds(&image.config.created),
    };
    host.images.list().into_iter().map(info).collect()
}

fn info(target: &Target) -> PodInfo {
    let status = target.status.borrow();
    let containers = status.iter().flat_map(|status| &status.containers);
    let container = |c: &agent_protocol::ContainerStatus| {
        (c.name.clone(), c.ready, c.restarts, matches!(c.state, ContainerState::Running { .. }), 0)
    };
    PodInfo {
        uid: target.spec.uid.clone(),
        namespace: target.spec.namespace.clone(),
        name: target.spec.name.clone(),
        phase: status.as_ref().map_or(agent_protocol::Phase::Pending, |status| status.phase),
        ip: status.as_ref().and_then(|status| status.pod_ip),
        containers: containers.map(container).collect(),
    }
}

async fn pull(mut stream: UnixStream, host: &Host, name: &str) -> Result<(), codec::CodecError> {
    let (told, mut progress) = mpsc::unbounded_channel::<PullProgress>();
    let report = Arc::new(move |step: rootfs::Progress| {
        let step = PullProgress {
            item: step.digest,
            state: step.state.to_owned(),
            bytes: step.bytes,
            bytes_total: step.bytes_total,
        };
        // Whoever watched may have gone; the pull goes on.
        let _ = told.send(step);
    });
    let pulling = async {
        let reference: Reference = name.parse()?;
        host.images.pull(&reference, &[], report).await
    };
    tokio::pin!(pulling);
    let reply = loop {
        tokio::select! {
            biased;
            Some(step) = progress.recv() => codec::aio::write_frame(&mut stream, &LocalReply::Progress(step)).await?,
            done = &mut pulling => break match done {
                Ok(image) => LocalReply::Done(format!("{} {}", image.names.join(" "), image.digest)),
                Err(err) => LocalReply::Failed(crate::chain(&err)),
            },
        }
    };
    codec::aio::write_frame(&mut stream, &reply).await
}

async fn import(host: &Host, path: std::path::PathBuf, name: Option<String>) -> LocalReply {
    let store = host.images.clone();
    match tokio::task::spawn_blocking(move || store.import(&path, name.as_deref())).await {
        Ok(Ok(images)) => {
            let names: Vec<String> = images.into_iter().flat_map(|image| image.names).collect();
            LocalReply::Done(format!("imported {}", names.join(", ")))
        }
        Ok(Err(err)) => LocalReply::Failed(crate::chain(&err)),
        Err(err) => LocalReply::Failed(err.to_string()),
    }
}
