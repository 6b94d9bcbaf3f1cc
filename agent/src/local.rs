//! The agent's own socket: what `ctl` asks on this host, also while the control plane is away.

use crate::{
    host::Host,
    image_gc, images,
    node::Input,
    streams::{self, Target},
};
use agent_protocol::{ContainerState, LocalReply, LocalRequest, MAGIC, PodInfo, VERSIONS};
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
        LocalRequest::Images => images::list(&host),
        LocalRequest::Pods => LocalReply::Pods(targets(&inputs).await.iter().map(info).collect()),
        LocalRequest::Pull { reference } => return images::pull(stream, &host, &reference).await,
        LocalRequest::Import { path, name } => images::import(&host, path, name).await,
        LocalRequest::RemoveImage { reference } => {
            let users = image_gc::users(&host, &targets(&inputs).await);
            images::blocking(&host, move |store| store.remove(&reference, &users))
                .await
                .map_or_else(LocalReply::Failed, |digest| LocalReply::Done(format!("removed {digest}")))
        }
        LocalRequest::InspectImage { reference } => {
            let users = image_gc::users(&host, &targets(&inputs).await);
            images::inspect(&host, reference, &users).await
        }
        LocalRequest::PruneImages { all } => {
            let used = image_gc::used(&host, &targets(&inputs).await);
            images::prune(&host, all, used).await
        }
        LocalRequest::ExportImage { reference, format } => {
            return images::export(stream, &host, reference, format).await;
        }
        LocalRequest::ImportStream { name } => return images::import_stream(stream, &host, name).await,
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
