//! One HTTPS client of the Kubernetes API.

use crate::{
    error::{CtlError, failed},
    kubeconfig::{Credential, Kubeconfig},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    sync::Arc,
    time::Duration,
};
use ureq::{
    Agent,
    http::{Method, Request, Response},
    tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig},
};

const CONNECT_WAIT: Duration = Duration::from_secs(10);
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// A connection pool, with the credentials that go with it.
pub struct Client {
    agent: Agent,
    server: String,
    token: Option<String>,
    /// For streams, which are not ureq's.
    pub tls: Arc<rustls::ClientConfig>,
}

/// Which patch a body is.
#[derive(Clone, Copy, Debug)]
pub enum Patch {
    Merge,
    Json,
    Strategic,
}

impl Client {
    pub fn new(config: &Kubeconfig) -> Result<Self, CtlError> {
        let bad = |what: &str, err: String| failed(format!("kubeconfig: {what}: {err}"));
        let roots: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&config.ca)
            .collect::<Result<_, _>>()
            .map_err(|err| bad("certificate-authority", err.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut store = rustls::RootCertStore::empty();
        for root in &roots {
            store.add(root.clone()).map_err(|err| bad("certificate-authority", err.to_string()))?;
        }
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|err| bad("tls", err.to_string()))?
            .with_root_certificates(store);
        let (tls, client_cert, token) = match &config.credential {
            Credential::Certificate { chain, key } => {
                let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
                    .collect::<Result<_, _>>()
                    .map_err(|err| bad("client-certificate", err.to_string()))?;
                let key_der =
                    PrivateKeyDer::from_pem_slice(key).map_err(|err| bad("client-key", err.to_string()))?;
                let certificates: Vec<Certificate<'static>> =
                    chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
                let private = PrivateKey::from_pem(key).map_err(|err| bad("client-key", err.to_string()))?;
                let tls = builder
                    .with_client_auth_cert(chain, key_der)
                    .map_err(|err| bad("client-certificate", err.to_string()))?;
                (tls, Some(ClientCert::new_with_certs(&certificates, private)), None)
            }
            Credential::Token(token) => (builder.with_no_client_auth(), None, Some(token.clone())),
        };
        let roots: Vec<Certificate<'static>> =
            roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let agent_tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::new_with_certs(&roots))
            .client_cert(client_cert)
            .build();
        let agent = Agent::config_builder()
            .tls_config(agent_tls)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("ctl/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_WAIT))
            .build()
            .new_agent();
        Ok(Self { agent, server: config.server.clone(), token, tls: Arc::new(tls) })
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub fn get(&self, path: &str) -> Result<Value, CtlError> {
        self.call(Method::GET, path, None)
    }

    /// The same with columns for people.
    pub fn get_table(&self, path: &str) -> Result<Value, CtlError> {
        into_value(self.send(Method::GET, path, TABLE, None)?)
    }

    pub fn create(&self, path: &str, object: &Value) -> Result<Value, CtlError> {
        self.call(Method::POST, path, Some(("application/json", object)))
    }

    pub fn patch(&self, path: &str, kind: Patch, patch: &Value) -> Result<Value, CtlError> {
        let content_type = match kind {
            Patch::Merge => "application/merge-patch+json",
            Patch::Json => "application/json-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        };
        self.call(Method::PATCH, path, Some((content_type, patch)))
    }

    pub fn delete(&self, path: &str) -> Result<Value, CtlError> {
        self.call(Method::DELETE, path, None)
    }

    /// The body as it arrives, for logs and watches.
    pub fn stream(&self, path: &str, accept: &str) -> Result<impl Read + 'static, CtlError> {
        let response = self.send(Method::GET, path, accept, None)?;
        if response.status().is_success() {
            return Ok(response.into_body().into_reader());
        }
        Err(into_value(response).err().unwrap_or_else(|| failed("the server sent no reason")))
    }

    /// Calls `each` with every event of a watch until it returns false or the server ends the watch.
    pub fn watch(
        &self,
        path: &str,
        accept: &str,
        mut each: impl FnMut(&Value) -> Result<bool, CtlError>,
    ) -> Result<(), CtlError> {
        for line in BufReader::new(self.stream(path, accept)?).lines() {
            let line = line.map_err(|err| self.unreachable(&err.to_string()))?;
            let event: Value =
                serde_json::from_str(&line).map_err(|err| failed(format!("watch event: {err}")))?;
            if event["type"] == "ERROR" {
                return Err(status(&event["object"]));
            }
            if !each(&event)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn call(&self, method: Method, path: &str, body: Option<(&str, &Value)>) -> Result<Value, CtlError> {
        into_value(self.send(method, path, "application/json", body)?)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Response<ureq::Body>, CtlError> {
        let mut request =
            Request::builder().method(method).uri(format!("{}{path}", self.server)).header("accept", accept);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let built = |err: ureq::http::Error| failed(format!("{path}: {err}"));
        let sent = match body {
            Some((content_type, value)) => {
                let request = request.header("content-type", content_type);
                self.agent.run(request.body(value.to_string()).map_err(built)?)
            }
            None => self.agent.run(request.body(()).map_err(built)?),
        };
        sent.map_err(|err| self.unreachable(&err.to_string()))
    }

    pub fn unreachable(&self, cause: &str) -> CtlError {
        CtlError::Unreachable { server: self.server.clone(), cause: cause.to_owned() }
    }
}

fn into_value(response: Response<ureq::Body>) -> Result<Value, CtlError> {
    let code = response.status();
    let text = response
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .read_to_string()
        .map_err(|err| failed(format!("the server's answer: {err}")))?;
    let value = serde_json::from_str(&text).unwrap_or(Value::Null);
    match (code.is_success(), value) {
        (true, value) => Ok(value),
        (false, Value::Null) => Err(failed(format!("the server answered {code}: {}", text.trim()))),
        (false, value) => Err(status(&value)),
    }
}

/// A Kubernetes `Status` as an error.
fn status(value: &Value) -> CtlError {
    let message = value["message"].as_str().unwrap_or("the server gave no reason").to_owned();
    let reason = value["reason"].as_str().unwrap_or_default().to_owned();
    CtlError::Api { message, reason }
}
