//! The connection to the scheduler: dialled, kept, dialled again.

use crate::{host::Host, node::Input, report::Report};
use agent_protocol::{Dial, FromAgent, MAGIC, ToAgent, VERSIONS};
use std::{path::PathBuf, time::Duration};
use tokio::{net::UnixStream, sync::mpsc};

const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Dials the scheduler for as long as the agent runs; what it sends goes to `inputs`, what pods report to it.
pub async fn run(socket: PathBuf, host: Host, report: Report, inputs: mpsc::UnboundedSender<Input>) {
    let mut retry = RETRY;
    loop {
        match dial(&socket, &Dial::Session(Box::new(host.info()))).await {
            Ok(stream) => {
                retry = RETRY;
                let ended = talk(stream, &host, &report, &inputs).await;
                tracing::info!(why = %ended, "the scheduler is away; pods go on");
            }
            Err(err) => tracing::debug!(error = %err, "the scheduler does not answer"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// A connection to the scheduler for one purpose.
pub async fn dial(socket: &PathBuf, purpose: &Dial) -> Result<UnixStream, codec::CodecError> {
    let mut stream = UnixStream::connect(socket).await.map_err(codec::CodecError::Io)?;
    codec::aio::exchange(&mut stream, MAGIC, &VERSIONS).await?;
    codec::aio::write_frame(&mut stream, purpose).await?;
    Ok(stream)
}

/// Until either side ends it; why.
async fn talk(
    stream: UnixStream,
    host: &Host,
    report: &Report,
    inputs: &mpsc::UnboundedSender<Input>,
) -> String {
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut outgoing) = mpsc::unbounded_channel::<FromAgent>();
    let frames = inputs.clone();
    let mut reading = tokio::spawn(async move {
        if frames.send(Input::Connected(answers)).is_err() {
            return "the agent ends".to_owned();
        }
        loop {
            match codec::aio::read_frame::<ToAgent>(&mut reader).await {
                Ok(frame) => {
                    if frames.send(Input::Frame(Box::new(frame))).is_err() {
                        return "the agent ends".to_owned();
                    }
                }
                Err(err) => return err.to_string(),
            }
        }
    });
    let mut status = tokio::time::interval(STATUS_EVERY);
    let mut netd = host.netd.watch();
    loop {
        let frames = tokio::select! {
            ended = &mut reading => return ended.unwrap_or_else(|err| err.to_string()),
            answer = outgoing.recv() => match answer {
                Some(frame) => vec![frame],
                None => {
                    reading.abort();
                    return "a frame was missing".to_owned();
                }
            },
            _ = status.tick() => vec![FromAgent::Node(host.status())],
            _ = netd.changed() => vec![FromAgent::Node(host.status())],
            frames = report.take() => frames,
        };
        for frame in frames {
            if let Err(err) = codec::aio::write_frame(&mut writer, &frame).await {
                reading.abort();
                return err.to_string();
            }
        }
    }
}
