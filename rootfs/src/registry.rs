//! One repository of one registry over HTTP: OCI distribution-spec, the pulling half.
//!
//! A request is answered, or fails after a bounded number of tries: a connection that breaks, `5xx` and `429` are tried again, after the time
//! the server asks for (`Retry-After`) or one that doubles. A `401` is answered with what its challenge asks for ([`crate::login`]).
//! Proxies are those of the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`), except for registries on loopback, as for docker.
//!
//! Invariant: a password is sent to the registry it belongs to, and to the token server which that registry names over TLS; nowhere else.

use crate::{
    ImageError, Reference,
    error::io_error,
    login::{self, Login},
    registries::{Endpoint, is_loopback},
};
use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use std::{
    fs,
    path::Path,
    sync::{Mutex, OnceLock},
    time::Duration,
};

pub(crate) const TRIES: u32 = 3;
const RETRY_WAIT: Duration = Duration::from_millis(500);
/// A server that wants a longer pause gets none: the caller is told.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const CONNECT_WAIT: Duration = Duration::from_secs(10);
const READ_WAIT: Duration = Duration::from_secs(60);
/// Most bytes of an answer that is kept in memory: a manifest, a configuration, a token, an error.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 8 << 20;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("not found")]
    NotFound,
    #[error("{0}")]
    Denied(String),
    #[error("HTTP status {status}{}", sentence(why))]
    Status { status: u16, why: String, retry_after: Option<Duration> },
    #[error("no connection")]
    Connection(#[source] reqwest::Error),
    /// An answer that ended too early.
    #[error("{0}")]
    Interrupted(String),
    #[error("{0}")]
    Malformed(String),
}

fn sentence(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

impl RegistryError {
    /// How long to wait before try number `attempt` + 1; `None` when another try would be of no use.
    pub(crate) fn retry_wait(&self, attempt: u32) -> Option<Duration> {
        let usual = RETRY_WAIT * 2u32.pow(attempt.min(6) - 1);
        let wait = match self {
            Self::Status { status: 429 | 500..=599, retry_after, .. } => retry_after.unwrap_or(usual),
            // A connection that was refused will be refused again; the agent's back-off is for that.
            Self::Connection(err) if !err.is_connect() && !err.is_builder() => usual,
            Self::Interrupted(_) => usual,
            _ => return None,
        };
        (attempt < TRIES && wait <= RETRY_AFTER_MAX).then_some(wait)
    }

    /// As the caller of a pull is told.
    pub(crate) fn explain(self, reference: &Reference, host: &str) -> ImageError {
        let reference = reference.to_string();
        let at = |why: String| format!("{host}: {why}");
        match self {
            Self::NotFound => ImageError::NotFound { reference },
            Self::Denied(why) => ImageError::Unauthorized { reference, why: at(why) },
            Self::Status { status: 429, why, retry_after } => {
                let later = retry_after.map_or_else(String::new, |wait| {
                    format!("; it asks to come again in {} s", wait.as_secs())
                });
                let why = at(format!("too many requests{}{later}", sentence(&why)));
                ImageError::Registry { reference, why }
            }
            other => ImageError::Registry { reference, why: at(chain(&other)) },
        }
    }
}

/// A repository and who we are there.
pub(crate) struct Repository {
    http: Client,
    pub(crate) host: String,
    /// `https://host/v2/name/`
    url: Url,
    name: String,
    login: Login,
    /// Value of the header that the registry accepted last.
    authorization: Mutex<Option<String>>,
}

impl Repository {
    pub(crate) fn new(
        endpoint: &Endpoint,
        repository: &str,
        ca_file: Option<&Path>,
        login: Login,
    ) -> Result<Self, ImageError> {
        let name = match endpoint.prefix.as_str() {
            "" => repository.to_owned(),
            prefix => format!("{prefix}/{repository}"),
        };
        let scheme = if endpoint.plain_http { "http" } else { "https" };
        let host = if endpoint.host == "docker.io" { "registry-1.docker.io" } else { &endpoint.host };
        let url = format!("{scheme}://{host}/v2/{name}/");
        let url = Url::parse(&url).map_err(|err| ImageError::Malformed {
            what: format!("registry {host}"),
            why: err.to_string(),
        })?;
        Ok(Self {
            http: client(&endpoint.host, ca_file)?,
            host: endpoint.host.clone(),
            url,
            name,
            login,
            authorization: Mutex::new(None),
        })
    }

    /// GET `path` below the repository, from byte `from` on; the answer is a success.
    pub(crate) async fn get(&self, path: &str, accept: &str, from: u64) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            match self.get_once(path, accept, from).await {
                Err(err) => match err.retry_wait(attempt) {
                    Some(wait) => {
                        tracing::debug!(registry.host = self.host, path, error = %chain(&err), "trying again");
                        tokio::time::sleep(wait).await;
                    }
                    None => return Err(err),
                },
                answer => return answer,
            }
            attempt += 1;
        }
    }

    /// A whole document, which is small; a connection that breaks inside it is tried again.
    pub(crate) async fn document(
        &self,
        path: &str,
        accept: &str,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let mut attempt = 1;
        loop {
            let response = self.get(path, accept, 0).await?;
            let digest = response.headers().get("docker-content-digest");
            let digest = digest.and_then(|value| value.to_str().ok()).map(str::to_owned);
            match body(response).await {
                Err(err) => match err.retry_wait(attempt) {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(err),
                },
                bytes => return Ok((bytes?, digest)),
            }
            attempt += 1;
        }
    }

    async fn get_once(&self, path: &str, accept: &str, from: u64) -> Result<Response, RegistryError> {
        let response = self.send(path, accept, from).await?;
        // A challenge of another host, to which a blob was redirected, is none of ours.
        let ours = response.url().origin() == self.url.origin();
        if response.status() != StatusCode::UNAUTHORIZED || !ours {
            return checked(response).await;
        }
        let challenges: Vec<String> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let scope = format!("repository:{}:pull", self.name);
        let answer =
            login::answer(&self.http, &self.login, &challenges, &scope, self.url.scheme() == "https");
        *self.authorization.lock().expect("no panic while locked") = Some(answer.await?);
        checked(self.send(path, accept, from).await?).await
    }

    async fn send(&self, path: &str, accept: &str, from: u64) -> Result<Response, RegistryError> {
        let mut request = self.http.get(format!("{}{path}", self.url)).header(ACCEPT, accept);
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some(value) = self.authorization.lock().expect("no panic while locked").as_ref() {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(RegistryError::Connection)
    }
}

fn client(host: &str, ca_file: Option<&Path>) -> Result<Client, ImageError> {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        // Somebody else may have installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_WAIT)
        .read_timeout(READ_WAIT)
        .user_agent(concat!("wherry/", env!("CARGO_PKG_VERSION")));
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    if let Some(path) = ca_file {
        let pem = fs::read(path).map_err(io_error("read", path))?;
        let certificates = Certificate::from_pem_bundle(&pem).ok().filter(|found| !found.is_empty());
        let certificates = certificates.ok_or_else(|| ImageError::Malformed {
            what: format!("ca_file {} of {host}", path.display()),
            why: "has no certificate in PEM format".to_owned(),
        })?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder
        .build()
        .map_err(|err| ImageError::Malformed { what: format!("registry {host}"), why: chain(&err) })
}

/// The answer, if it is a good one.
pub(crate) async fn checked(response: Response) -> Result<Response, RegistryError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let why = reason(&body(response).await.unwrap_or_default());
    Err(match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied(if why.is_empty() {
            format!("access denied (HTTP status {})", status.as_u16())
        } else {
            why
        }),
        _ => RegistryError::Status { status: status.as_u16(), why, retry_after },
    })
}

/// What the body of an error says: the messages of distribution-spec, or else its first line.
fn reason(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = value["errors"].as_array().into_iter().flatten();
    let messages: Vec<&str> = errors
        .filter_map(|error| {
            error["message"].as_str().filter(|text| !text.is_empty()).or(error["code"].as_str())
        })
        .collect();
    let line = match messages.as_slice() {
        [] => ["details", "message", "error"].iter().find_map(|key| value[*key].as_str()).map(str::to_owned),
        _ => Some(messages.join("; ")),
    };
    let first_line = || String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned();
    line.unwrap_or_else(first_line).chars().take(200).collect()
}

/// The whole body, which has a limit.
pub(crate) async fn body(mut response: Response) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(RegistryError::Connection)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > DOCUMENT_BYTES_MAX {
            let why = format!("{} is longer than {DOCUMENT_BYTES_MAX} bytes", response.url());
            return Err(RegistryError::Malformed(why));
        }
    }
    Ok(bytes)
}

/// An error and its causes in one line.
pub(crate) fn chain(err: &dyn std::error::Error) -> String {
    let mut line = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_bounded_and_as_long_apart_as_the_server_asks() {
        let status = |status, seconds: Option<u64>| RegistryError::Status {
            status,
            why: String::new(),
            retry_after: seconds.map(Duration::from_secs),
        };
        let cases = [
            ("a server's fault", status(503, None), 1, Some(500)),
            ("twice as long", status(503, None), 2, Some(1000)),
            ("not for ever", status(503, None), TRIES, None),
            ("as asked", status(429, Some(7)), 1, Some(7000)),
            ("too long a pause", status(429, Some(3600)), 1, None),
            ("our fault", status(400, None), 1, None),
            ("not there", RegistryError::NotFound, 1, None),
            ("not for us", RegistryError::Denied(String::new()), 1, None),
        ];
        for (name, error, attempt, expected) in cases {
            assert_eq!(error.retry_wait(attempt), expected.map(Duration::from_millis), "{name}");
        }
    }

    #[test]
    fn reasons_are_taken_from_what_registries_write() {
        let cases: [(&[u8], &str); 4] = [
            (
                br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"},{"code":"DENIED"}]}"#,
                "slow down; DENIED",
            ),
            (br#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            (b"Bad gateway\n<html>", "Bad gateway"),
            (b"", ""),
        ];
        for (body, expected) in cases {
            assert_eq!(reason(body), expected);
        }
    }
}
