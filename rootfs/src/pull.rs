//! Fetching images from registries (distribution-spec), on the crate oci-client.
//!
//! A blob is hashed while it arrives, unpacked only when its digest is right, and a layer is known only when its diff id is right too. Layers
//! are fetched a few at a time; two pulls of one image are one.

use crate::{
    Image, ImageError, ImageStore, Reference,
    error::{io_error, malformed},
    image::{Record, hex, parse_config},
    layer::to_hex,
    registries::Endpoint,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use oci_client::{
    Client, Reference as Remote,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::{OciDescriptor, OciImageManifest},
    secrets::RegistryAuth,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::io::AsyncWriteExt;

const LAYERS_AT_ONCE: usize = 3;
const TRIES: u32 = 3;
const RETRY_WAIT: Duration = Duration::from_millis(500);
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
        let auth = self.auth(&reference.registry, credentials);
        let host = if endpoint.host == "docker.io" { "index.docker.io" } else { &endpoint.host };
        let remote = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => {
                Remote::with_digest(host.to_owned(), reference.repository.clone(), digest.clone())
            }
            (None, Some(tag)) => Remote::with_tag(host.to_owned(), reference.repository.clone(), tag.clone()),
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
        let layers = manifest.layers.iter().zip(&diff_ids).map(|(layer, diff_id)| Ok((layer, diff_id)));
        stream::iter(layers)
            .try_for_each_concurrent(LAYERS_AT_ONCE, |(layer, diff_id)| {
                self.layer(&client, &remote, layer, diff_id, reference, report)
            })
            .await?;
        let size_bytes = manifest.layers.iter().map(|layer| u64::try_from(layer.size).unwrap_or(0)).sum();
        let record = Record { names: vec![reference.to_string()], digest, size_bytes, diff_ids, config };
        let store = self.clone();
        blocking(move || store.add_image(record)).await
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
        verify("image configuration", &manifest.config.digest, to_hex(Sha256::new_with_prefix(&bytes)))?;
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
        let staged = self.stage();
        let mut attempt = 1;
        let fetched = loop {
            match self.fetch(client, remote, layer, reference, &staged, &tell).await {
                Err(ImageError::Registry { .. } | ImageError::Digest { .. }) if attempt < TRIES => {
                    tokio::time::sleep(RETRY_WAIT * attempt).await;
                    attempt += 1;
                }
                fetched => break fetched,
            }
        };
        tell("unpacking", total);
        let (store, diff_id, path) = (self.clone(), diff_id.to_owned(), staged.clone());
        let added = match fetched {
            Ok(()) => {
                blocking(move || {
                    store.add_layer(&diff_id, fs::File::open(&path).map_err(io_error("open", path))?)
                })
                .await
            }
            Err(err) => Err(err),
        };
        // Staging is emptied at the next start at the latest.
        let _ = fs::remove_file(&staged);
        added.inspect(|()| tell("done", total))
    }

    /// Downloads a blob into a file, checking its digest on the way.
    async fn fetch(
        &self,
        client: &Client,
        remote: &Remote,
        layer: &OciDescriptor,
        reference: &Reference,
        path: &PathBuf,
        tell: &impl Fn(&'static str, u64),
    ) -> Result<(), ImageError> {
        let mut file = tokio::fs::File::create(path).await.map_err(io_error("create", path))?;
        let mut blob = client.pull_blob_stream(remote, layer).await.map_err(|err| explain(reference, err))?;
        let (mut hash, mut bytes) = (Sha256::new(), 0);
        while let Some(chunk) = blob.next().await {
            let chunk = chunk.map_err(|err| ImageError::Registry {
                reference: reference.to_string(),
                why: err.to_string(),
            })?;
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(io_error("write", path))?;
            tell("downloading", bytes);
        }
        file.flush().await.map_err(io_error("write", path))?;
        verify("layer", &layer.digest, to_hex(hash))
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

    fn auth(&self, registry: &str, credentials: &[Credential]) -> RegistryAuth {
        let given = credentials.iter().find(|credential| {
            registry == credential.registry || credential.registry.starts_with(&format!("{registry}/"))
        });
        if let Some(credential) = given {
            return RegistryAuth::Basic(credential.username.clone(), credential.password.clone());
        }
        let own = self.inner.registries.0.get(registry);
        match own.and_then(|own| own.username.clone().zip(own.password.clone())) {
            Some((username, password)) => RegistryAuth::Basic(username, password),
            None => RegistryAuth::Anonymous,
        }
    }
}

fn verify(what: &str, expected: &str, actual: String) -> Result<(), ImageError> {
    if hex(expected) == Some(&actual) {
        return Ok(());
    }
    Err(ImageError::Digest {
        what: what.to_owned(),
        expected: expected.to_owned(),
        actual: format!("sha256:{actual}"),
    })
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
        _ => false,
    }
}

fn explain(reference: &Reference, err: OciDistributionError) -> ImageError {
    let reference = reference.to_string();
    match &err {
        OciDistributionError::ImageManifestNotFoundError(_) => ImageError::NotFound { reference },
        OciDistributionError::AuthenticationFailure(why) => {
            ImageError::Unauthorized { reference, why: why.clone() }
        }
        OciDistributionError::UnauthorizedError { .. } => {
            ImageError::Unauthorized { reference, why: "access denied".to_owned() }
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let has =
                |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
            if has(&[OciErrorCode::ManifestUnknown, OciErrorCode::NameUnknown, OciErrorCode::NotFound]) {
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
