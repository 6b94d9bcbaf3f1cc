//! Fetching images from registries (distribution-spec), on the crate oci-client.
//!
//! A layer is one stream: downloaded, hashed, decompressed, hashed and unpacked in the same pass; it is known only when both digests are right.
//! A connection that breaks is resumed where it stopped. Layers are fetched a few at a time; two pulls of one image are one.

use crate::{
    Image, ImageError, ImageStore, Reference,
    error::{io_error, malformed},
    image::{Record, parse_config},
    layer::to_hex,
    registries::Endpoint,
    store::verify,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::{
    Client, Reference as Remote,
    client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::{OciDescriptor, OciImageManifest},
    secrets::RegistryAuth,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, Read},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::mpsc;

const LAYERS_AT_ONCE: usize = 3;
const TRIES: u32 = 3;
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// Chunks (some 16 KiB each) between download and unpacking.
const CHUNKS_AHEAD: usize = 32;
const CONNECT_WAIT: Duration = Duration::from_secs(10);
const READ_WAIT: Duration = Duration::from_secs(60);

/// Who to be at a registry.
#[derive(Clone)]
pub struct Credential {
    pub registry: String,
    pub username: String,
    pub password: String,
}

/// How far one layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub digest: String,
    /// `waiting`, `downloading`, `unpacking`, `done`, `present`.
    pub state: &'static str,
    pub bytes: u64,
    pub bytes_total: u64,
}

/// Told about every step of a pull.
pub type Report = Arc<dyn Fn(Progress) + Send + Sync>;

impl ImageStore {
    /// Fetches an image from its registry, or a mirror of it; what is here of it already is not fetched again.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: &[Credential],
        report: Report,
    ) -> Result<Image, ImageError> {
        let lock = self.lock(&reference.to_string());
        let _one_at_a_time = lock.lock().await;
        let mut last = ImageError::NotFound { reference: reference.to_string() };
        for endpoint in self.inner.registries.endpoints(&reference.registry) {
            match self.pull_from(reference, &endpoint, credentials, &report).await {
                Ok(image) => return Ok(image),
                Err(err) => {
                    tracing::debug!(%reference, endpoint.host, error = %err, "not from here");
                    // What the registry itself says counts more than that a mirror lacks the image.
                    last = err;
                }
            }
        }
        Err(last)
    }

    fn lock(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.inner.locks.lock().expect("no panic while locked");
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(key.to_owned()).or_default().clone()
    }

    async fn pull_from(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        credentials: &[Credential],
        report: &Report,
    ) -> Result<Image, ImageError> {
        let client = self.client(reference, endpoint)?;
        let auth = self.auth(&reference.registry, endpoint, credentials);
        let host = if endpoint.host == "docker.io" { "index.docker.io" } else { &endpoint.host };
        let repository = match endpoint.prefix.as_str() {
            "" => reference.repository.clone(),
            prefix => format!("{prefix}/{}", reference.repository),
        };
        let remote = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => Remote::with_digest(host.to_owned(), repository, digest.clone()),
            (None, Some(tag)) => Remote::with_tag(host.to_owned(), repository, tag.clone()),
            (None, None) => unreachable!("a reference has a tag or a digest"),
        };
        let explain = |err| explain(reference, err);
        let (manifest, digest) =
            retry(|| client.pull_image_manifest(&remote, &auth)).await.map_err(explain)?;
        if manifest
            .layers
            .iter()
            .any(|layer| !layer.media_type.contains(".layer.") && !layer.media_type.contains("diff.tar"))
        {
            return Err(malformed(
                reference.to_string(),
                "is an OCI artifact, not an image: its layers are no file systems",
            ));
        }
        client.store_auth_if_needed(remote.resolve_registry(), &auth).await;
        let config = self.config(&client, &remote, &manifest, reference).await?;
        let (config, diff_ids) = parse_config(&config)?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(malformed(
                reference.to_string(),
                format!("{} layers but {} diff ids", manifest.layers.len(), diff_ids.len()),
            ));
        }
        let pin = self.pin(&diff_ids);
        let layers = manifest.layers.iter().zip(&diff_ids).map(|(layer, diff_id)| Ok((layer, diff_id)));
        stream::iter(layers)
            .try_for_each_concurrent(LAYERS_AT_ONCE, |(layer, diff_id)| {
                self.layer(&client, &remote, layer, diff_id, reference, report)
            })
            .await?;
        let size_bytes = manifest.layers.iter().map(|layer| u64::try_from(layer.size).unwrap_or(0)).sum();
        let record = Record { names: vec![reference.to_string()], digest, size_bytes, diff_ids, config };
        let store = self.clone();
        blocking(move || {
            let image = store.add_image(record);
            drop(pin);
            image
        })
        .await
    }

    async fn config(
        &self,
        client: &Client,
        remote: &Remote,
        manifest: &OciImageManifest,
        reference: &Reference,
    ) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        for attempt in 1.. {
            bytes.clear();
            match client.pull_blob(remote, &manifest.config, &mut bytes).await {
                Ok(()) => break,
                Err(err) if attempt < TRIES && transient(&err) => {
                    tokio::time::sleep(RETRY_WAIT * attempt).await
                }
                Err(err) => return Err(explain(reference, err)),
            }
        }
        verify("image configuration", &manifest.config.digest, &to_hex(Sha256::new_with_prefix(&bytes)))?;
        Ok(bytes)
    }

    async fn layer(
        &self,
        client: &Client,
        remote: &Remote,
        layer: &OciDescriptor,
        diff_id: &str,
        reference: &Reference,
        report: &Report,
    ) -> Result<(), ImageError> {
        let total = u64::try_from(layer.size).unwrap_or(0);
        let tell = |state, bytes| {
            report(Progress { digest: layer.digest.clone(), state, bytes, bytes_total: total })
        };
        let lock = self.lock(diff_id);
        let _one_at_a_time = lock.lock().await;
        if self.has_layer(diff_id) {
            tell("present", total);
            return Ok(());
        }
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let (store, diff_id, blob) = (self.clone(), diff_id.to_owned(), layer.digest.clone());
        let unpacked = blocking(move || store.add_layer(&diff_id, Some(&blob), Chunks::new(receiver)));
        let download = download(client, remote, layer, reference, &tell, sender);
        let (downloaded, unpacked) = tokio::join!(download, unpacked);
        // When the download failed, unpacking did because of it.
        downloaded.and(unpacked).inspect(|()| tell("done", total))
    }

    fn client(&self, reference: &Reference, endpoint: &Endpoint) -> Result<Client, ImageError> {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        PROVIDER.get_or_init(|| {
            // Somebody else may have installed one, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let mut config = ClientConfig {
            protocol: if endpoint.plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_WAIT),
            read_timeout: Some(READ_WAIT),
            ..ClientConfig::default()
        };
        let ca_file =
            self.inner.registries.0.get(&endpoint.host).and_then(|registry| registry.ca_file.as_ref());
        if let Some(path) = ca_file {
            let data = fs::read(path).map_err(io_error("read", path))?;
            config.extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
        }
        let wrong = |err: OciDistributionError| ImageError::Registry {
            reference: reference.to_string(),
            why: err.to_string(),
        };
        Client::try_from(config).map_err(wrong)
    }

    /// The pod's credentials are for the registry in the image's name and never sent to a mirror, which has its own.
    fn auth(&self, registry: &str, endpoint: &Endpoint, credentials: &[Credential]) -> RegistryAuth {
        let given = credentials.iter().find(|credential| {
            endpoint.host == registry
                && (registry == credential.registry
                    || credential.registry.starts_with(&format!("{registry}/")))
        });
        if let Some(credential) = given {
            return RegistryAuth::Basic(credential.username.clone(), credential.password.clone());
        }
        let own = self.inner.registries.0.get(&endpoint.host);
        match own.and_then(|own| own.username.clone().zip(own.password.clone())) {
            Some((username, password)) => RegistryAuth::Basic(username, password),
            None => RegistryAuth::Anonymous,
        }
    }
}

/// Sends the bytes of a blob into `sender`, over as many connections as it takes; a try that got further counts as the first.
async fn download(
    client: &Client,
    remote: &Remote,
    layer: &OciDescriptor,
    reference: &Reference,
    tell: &impl Fn(&'static str, u64),
    sender: mpsc::Sender<Vec<u8>>,
) -> Result<(), ImageError> {
    let total = u64::try_from(layer.size)
        .map_err(|_| malformed(reference.to_string(), format!("a layer of {} bytes", layer.size)))?;
    let (mut offset, mut attempt) = (0, 1);
    loop {
        let before = offset;
        match download_from(client, remote, layer, &mut offset, total, tell, &sender).await {
            Ok(()) => return Ok(()),
            Err(err) => {
                attempt = if offset > before { 1 } else { attempt + 1 };
                if attempt > TRIES || !transient(&err) {
                    return Err(explain(reference, err));
                }
                tracing::debug!(layer = layer.digest, offset, error = %chain(&err), "download interrupted");
                tokio::time::sleep(RETRY_WAIT * attempt).await;
            }
        }
    }
}

/// One connection's part of a blob, from `offset` on.
async fn download_from(
    client: &Client,
    remote: &Remote,
    layer: &OciDescriptor,
    offset: &mut u64,
    total: u64,
    tell: &impl Fn(&'static str, u64),
    sender: &mpsc::Sender<Vec<u8>>,
) -> Result<(), OciDistributionError> {
    let (mut chunks, mut skip) = match *offset {
        0 => (client.pull_blob_stream(remote, layer).await?.stream, 0),
        from => match client.pull_blob_stream_partial(remote, layer, from, None).await? {
            BlobResponse::Partial(blob) => (blob.stream, 0),
            // The server does not know ranges.
            BlobResponse::Full(blob) => (blob.stream, from),
        },
    };
    let mut told = *offset;
    while *offset < total {
        let cut_short = || OciDistributionError::IoError(io::ErrorKind::UnexpectedEof.into());
        let mut chunk = Vec::from(chunks.next().await.ok_or_else(cut_short)??);
        let skipped = chunk.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
        skip -= skipped as u64;
        chunk.drain(..skipped);
        *offset += chunk.len() as u64;
        if sender.send(chunk).await.is_err() {
            // Unpacking failed, and says why.
            return Ok(());
        }
        // A hundred reports are enough to draw a bar.
        if *offset - told > total / 100 {
            told = *offset;
            tell("downloading", *offset);
        }
    }
    tell("unpacking", *offset);
    Ok(())
}

/// The blob's bytes on the thread that unpacks. A blob that is cut short shows by its digest.
struct Chunks {
    receiver: mpsc::Receiver<Vec<u8>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl Chunks {
    fn new(receiver: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { receiver, chunk: io::Cursor::default() }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.chunk.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = io::Cursor::new(chunk),
                None => return Ok(0),
            }
        }
    }
}

async fn retry<T, F: Future<Output = Result<T, OciDistributionError>>>(
    mut ask: impl FnMut() -> F,
) -> Result<T, OciDistributionError> {
    let mut attempt = 1;
    loop {
        match ask().await {
            Err(err) if attempt < TRIES && transient(&err) => {
                tokio::time::sleep(RETRY_WAIT * attempt).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// Worth asking again: the connection broke, or the server says that it is the server's fault or too busy.
fn transient(err: &OciDistributionError) -> bool {
    match err {
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        // A connection that was refused will be refused again; the agent's back-off is for that.
        OciDistributionError::RequestError(err) => !err.is_connect() && !err.is_builder(),
        OciDistributionError::IoError(_) => true,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| error.code == OciErrorCode::Toomanyrequests)
        }
        _ => false,
    }
}

fn explain(reference: &Reference, err: OciDistributionError) -> ImageError {
    let reference = reference.to_string();
    match &err {
        OciDistributionError::ImageManifestNotFoundError(_) => ImageError::NotFound { reference },
        OciDistributionError::ServerError { code: 404, .. } => ImageError::NotFound { reference },
        OciDistributionError::ServerError { code: 403, message, .. } => {
            ImageError::Unauthorized { reference, why: message.lines().next().unwrap_or_default().to_owned() }
        }
        OciDistributionError::AuthenticationFailure(why) => {
            ImageError::Unauthorized { reference, why: why.clone() }
        }
        OciDistributionError::UnauthorizedError { .. } => {
            ImageError::Unauthorized { reference, why: "access denied".to_owned() }
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let has =
                |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            if has(&[
                OciErrorCode::ManifestUnknown,
                OciErrorCode::NameUnknown,
                OciErrorCode::NotFound,
                OciErrorCode::BlobUnknown,
            ]) {
                ImageError::NotFound { reference }
            } else if has(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                ImageError::Unauthorized { reference, why: envelope.to_string() }
            } else {
                ImageError::Registry { reference, why: envelope.to_string() }
            }
        }
        _ => ImageError::Registry { reference, why: chain(&err) },
    }
}

fn chain(err: &dyn std::error::Error) -> String {
    let mut line = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
