//! Fetching images from registries.
//!
//! A layer is one stream: downloaded, hashed, decompressed, hashed and unpacked in the same pass; it is known only when both digests are right.
//! A connection that breaks is resumed where it stopped. Layers are fetched a few at a time; two pulls of one image are one.

use crate::{
    Image, ImageError, ImageStore, Reference, credentials,
    error::malformed,
    image::{Record, parse_config},
    layer::to_hex,
    login::Login,
    manifest,
    registries::Endpoint,
    registry::{RegistryError, Repository, chain},
    store::verify,
};
use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use oci_spec::image::Descriptor;
use sha2::{Digest, Sha256};
use std::{
    io::{self, Read},
    sync::Arc,
};
use tokio::sync::mpsc;

const LAYERS_AT_ONCE: usize = 4;
/// Chunks (some 16 to 400 KiB each) between download and unpacking.
const CHUNKS_AHEAD: usize = 16;

/// Who to be at a registry.
#[derive(Clone)]
pub struct Credential {
    /// A registry, or a registry and the first part of a repository's path.
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
        let login = self.login(reference, endpoint, credentials).await?;
        let own = self.inner.registries.by_host.get(&endpoint.host);
        let ca_file = own.and_then(|own| own.ca_file.as_deref());
        let repository = Repository::new(endpoint, &reference.repository, ca_file, login)?;
        let manifest = manifest::fetch(&repository, reference).await?;
        let layers = manifest.content.layers();
        let config = manifest.content.config().digest().to_string();
        let (bytes, _) = repository
            .document(&format!("blobs/{config}"), "*/*")
            .await
            .map_err(|err| err.explain(reference, &repository.host))?;
        let what = format!("configuration of {reference}");
        manifest::check_size(&what, Some(manifest.content.config().size()), &bytes)?;
        verify(&what, &config, &to_hex(Sha256::new_with_prefix(&bytes)))?;
        let (config, diff_ids) = parse_config(&bytes)?;
        if diff_ids.len() != layers.len() {
            return Err(malformed(
                reference.to_string(),
                format!(
                    "its manifest has {} layers, its configuration {} diff_ids",
                    layers.len(),
                    diff_ids.len()
                ),
            ));
        }
        let pin = self.pin(&diff_ids);
        let pull = LayerPull { store: self, repository: &repository, reference, report };
        // The largest first: nobody waits for it alone at the end.
        let mut parts: Vec<(&Descriptor, &String)> = layers.iter().zip(&diff_ids).collect();
        parts.sort_by_key(|(layer, _)| std::cmp::Reverse(layer.size()));
        stream::iter(parts.into_iter().map(Ok))
            .try_for_each_concurrent(LAYERS_AT_ONCE, |(layer, diff_id)| pull.run(layer, diff_id))
            .await?;
        let size_bytes = layers.iter().map(Descriptor::size).fold(0, u64::saturating_add);
        let names = vec![reference.to_string()];
        let record = Record { names, digest: manifest.digest, size_bytes, diff_ids, config };
        let store = self.clone();
        blocking(move || {
            let image = store.add_image(record);
            drop(pin);
            image
        })
        .await
    }

    /// Who to be: the pod's secret, then registries.toml, then what docker and podman know. The pod's and theirs are for the registry in the
    /// image's name and never sent to a mirror, which has its own in registries.toml.
    async fn login(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        credentials: &[Credential],
    ) -> Result<Login, ImageError> {
        let registries = &self.inner.registries;
        let itself = endpoint.host == reference.registry;
        let given = credentials
            .iter()
            .filter(|_| itself)
            .filter_map(|credential| Some((credentials::fit(&credential.registry, reference)?, credential)))
            .max_by_key(|(length, _)| *length);
        if let Some((_, credential)) = given {
            let (username, password) = (credential.username.clone(), credential.password.clone());
            return Ok(Login::Password { username, password });
        }
        let own = registries.by_host.get(&endpoint.host);
        if let Some((username, password)) = own.and_then(|own| own.username.clone().zip(own.password.clone()))
        {
            return Ok(Login::Password { username, password });
        }
        if !itself {
            return Ok(Login::Anonymous);
        }
        let files = registries.credential_files.clone().unwrap_or_else(credentials::usual_files);
        credentials::look_up(&files, reference).await
    }
}

/// What the layers of one pull have in common.
struct LayerPull<'a> {
    store: &'a ImageStore,
    repository: &'a Repository,
    reference: &'a Reference,
    report: &'a Report,
}

impl LayerPull<'_> {
    async fn run(&self, layer: &Descriptor, diff_id: &str) -> Result<(), ImageError> {
        let digest = layer.digest().to_string();
        let tell = |state, bytes| {
            (self.report)(Progress { digest: digest.clone(), state, bytes, bytes_total: layer.size() });
        };
        let lock = self.store.lock(diff_id);
        let _one_at_a_time = lock.lock().await;
        if self.store.has_layer(diff_id) {
            tell("present", layer.size());
            return Ok(());
        }
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let (store, diff_id, blob) = (self.store.clone(), diff_id.to_owned(), digest.clone());
        let unpacked = blocking(move || store.add_layer(&diff_id, Some(&blob), Chunks::new(receiver)));
        let download = async {
            let ended = self.download(&digest, layer.size(), &tell, &sender).await;
            drop(sender);
            ended.map_err(|err| err.explain(self.reference, &self.repository.host))
        };
        let (downloaded, unpacked) = futures_util::future::join(download, unpacked).await;
        // When the download failed, unpacking did because of it.
        downloaded.and(unpacked).inspect(|()| tell("done", layer.size()))
    }

    /// Sends the bytes of a blob into `sender`, over as many connections as it takes; a try that got further counts as the first.
    async fn download(
        &self,
        digest: &str,
        total: u64,
        tell: &impl Fn(&'static str, u64),
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), RegistryError> {
        let (mut offset, mut attempt) = (0, 1);
        loop {
            let before = offset;
            match self.download_from(digest, &mut offset, total, tell, sender).await {
                Ok(()) => return Ok(()),
                Err(err) => {
                    attempt = if offset > before { 1 } else { attempt };
                    let Some(wait) = err.retry_wait(attempt) else { return Err(err) };
                    tracing::debug!(layer = digest, offset, error = %chain(&err), "download interrupted");
                    tokio::time::sleep(wait).await;
                    attempt += 1;
                }
            }
        }
    }

    /// One connection's part of a blob, from `offset` on.
    async fn download_from(
        &self,
        digest: &str,
        offset: &mut u64,
        total: u64,
        tell: &impl Fn(&'static str, u64),
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), RegistryError> {
        let mut response = self.repository.get(&format!("blobs/{digest}"), "*/*", *offset).await?;
        // A server that does not know ranges sends everything again.
        let mut skip = if response.status().as_u16() == 206 { 0 } else { *offset };
        let mut told = *offset;
        while *offset < total {
            let Some(mut chunk) = response.chunk().await.map_err(RegistryError::Connection)? else {
                let why = format!("blob {digest} ends after {offset} bytes of {total}");
                return Err(RegistryError::Interrupted(why));
            };
            let skipped = chunk.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= skipped as u64;
            let chunk = chunk.split_off(skipped);
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
}

/// The blob's bytes on the thread that unpacks. A blob that is cut short shows by its digest.
struct Chunks {
    receiver: mpsc::Receiver<Bytes>,
    chunk: io::Cursor<Bytes>,
}

impl Chunks {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
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

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
