//! What `ctl image` asks: the image store over the agent's socket.

use crate::host::Host;
use agent_protocol::{ImageDetails, ImageFormat, ImageInfo, LocalReply, PullProgress, StreamFrame};
use codec::CodecError;
use rootfs::{Format, Image, ImageError, ImageStore, Reference};
use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{net::UnixStream, sync::mpsc};

/// Bytes of an archive in one frame.
const CHUNK_BYTES: usize = 256 << 10;
/// Frames between the disk and the socket.
const CHUNKS_AHEAD: usize = 4;

pub fn list(host: &Host) -> LocalReply {
    LocalReply::Images(host.images.list().into_iter().map(info).collect())
}

fn info(image: Image) -> ImageInfo {
    let seconds =
        |text: &str| OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp);
    ImageInfo {
        names: image.names,
        digest: image.digest,
        size_bytes: image.size_bytes,
        created_s: seconds(&image.config.created),
    }
}

/// Runs what blocks on a thread for that; errors as one line.
pub async fn blocking<T: Send + 'static>(
    host: &Host,
    work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, String> {
    let store = host.images.clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(done) => done.map_err(|err| crate::chain(&err)),
        Err(err) => Err(err.to_string()),
    }
}

/// `users`: (image digest, what needs it).
pub async fn inspect(host: &Host, reference: String, users: &[(String, String)]) -> LocalReply {
    match blocking(host, move |store| store.inspect(&reference)).await {
        Ok(details) => {
            let digest = &details.image.digest;
            let used_by = users.iter().filter(|(used, _)| used == digest).map(|(_, by)| by.clone()).collect();
            LocalReply::Image(Box::new(ImageDetails {
                config: details.image.config.whole.clone(),
                info: info(details.image),
                layers: details.layers,
                last_used_s: details.last_used_s,
                used_by,
            }))
        }
        Err(why) => LocalReply::Failed(why),
    }
}

/// `used`: digests of images that stay.
pub async fn prune(host: &Host, all: bool, used: Vec<String>) -> LocalReply {
    match blocking(host, move |store| store.prune(all, &used)).await {
        Ok(pruned) => LocalReply::Pruned { removed: pruned.removed, freed_bytes: pruned.freed_bytes },
        Err(why) => LocalReply::Failed(why),
    }
}

pub async fn pull(mut stream: UnixStream, host: &Host, name: &str) -> Result<(), CodecError> {
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

pub async fn import(host: &Host, path: PathBuf, name: Option<String>) -> LocalReply {
    imported(blocking(host, move |store| store.import(&path, name.as_deref())).await)
}

fn imported(images: Result<Vec<Image>, String>) -> LocalReply {
    images.map_or_else(LocalReply::Failed, |images| {
        let names: Vec<String> = images.into_iter().flat_map(|image| image.names).collect();
        LocalReply::Done(format!("imported {}", names.join(", ")))
    })
}

/// Sends the archive of an image as it is made. A peer that goes ends the work.
pub async fn export(
    mut stream: UnixStream,
    host: &Host,
    reference: String,
    format: ImageFormat,
) -> Result<(), CodecError> {
    let (sender, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
    let format = match format {
        ImageFormat::Oci => Format::Oci,
        ImageFormat::Docker => Format::Docker,
    };
    let exporting = blocking(host, move |store| {
        store.export(&reference, format, io::BufWriter::with_capacity(CHUNK_BYTES, Sending(sender)))?;
        Ok(reference)
    });
    let sending = async move {
        while let Some(chunk) = chunks.recv().await {
            codec::aio::write_frame(&mut stream, &LocalReply::Data(chunk)).await?;
        }
        Ok::<_, CodecError>(stream)
    };
    // On an error of the socket the channel ends, and with it the exporter.
    let (exported, stream) = tokio::join!(exporting, sending);
    let reply = exported
        .map_or_else(LocalReply::Failed, |reference| LocalReply::Done(format!("exported {reference}")));
    codec::aio::write_frame(&mut stream?, &reply).await
}

/// Takes an image from the archive that the peer sends.
pub async fn import_stream(
    mut stream: UnixStream,
    host: &Host,
    name: Option<String>,
) -> Result<(), CodecError> {
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let given = Path::new("standard input");
    let input = Receiving { receiver, chunk: io::Cursor::default(), ended: false };
    let importing = blocking(host, move |store| store.import_stream(input, given, name.as_deref()));
    let receiving = async move {
        loop {
            match codec::aio::read_frame::<StreamFrame>(&mut stream).await {
                Ok(StreamFrame::Data { bytes, .. }) => {
                    // An importer that has failed says why once everything has come.
                    let _ = sender.send(Some(bytes)).await;
                }
                Ok(StreamFrame::Close { .. }) => {
                    let _ = sender.send(None).await;
                    return Ok(stream);
                }
                // Dropping the sender without the end mark makes the importer fail.
                Ok(_) | Err(CodecError::Io(_)) => {
                    return Err(CodecError::Io(io::ErrorKind::UnexpectedEof.into()));
                }
                Err(err) => return Err(err),
            }
        }
    };
    let (images, stream) = tokio::join!(importing, receiving);
    codec::aio::write_frame(&mut stream?, &imported(images)).await
}

/// The writing end of an export, on the thread that packs.
struct Sending(mpsc::Sender<Vec<u8>>);

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(CHUNK_BYTES)];
        self.0.blocking_send(taken.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end of an import, on the thread that unpacks. `None` is the end; a channel that closes before is an error.
struct Receiving {
    receiver: mpsc::Receiver<Option<Vec<u8>>>,
    chunk: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl Read for Receiving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.chunk.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.ended {
                return Ok(count);
            }
            match self.receiver.blocking_recv() {
                Some(Some(chunk)) => self.chunk = io::Cursor::new(chunk),
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sender went away")),
            }
        }
    }
}
