//! A pool of HTTPS connections to a cluster's API server, with the admin's certificate.

use crate::Cluster;
use serde_json::Value;
use std::{fs, sync::Arc, time::Duration};
use ureq::{
    Agent,
    http::{Method, Request},
    tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig},
};

/// Cheap to clone; clones share the pool. Use it on threads inside the cluster's namespace.
#[derive(Clone)]
pub struct Https {
    agent: Agent,
}

impl Https {
    pub fn new(cluster: &Cluster, connections: usize) -> Self {
        let text = fs::read_to_string(cluster.dir.join("kubeconfig")).expect("a kubeconfig");
        let data = |field: &str| {
            let line = text.lines().find_map(|line| line.trim().trim_start_matches("- ").strip_prefix(field));
            let value = line
                .unwrap_or_else(|| panic!("{field} in the kubeconfig"))
                .trim_start_matches(':')
                .trim()
                .trim_matches('"');
            decode(value)
        };
        let ca =
            Certificate::from_pem(&data("certificate-authority-data")).expect("a certificate").to_owned();
        let certificate =
            Certificate::from_pem(&data("client-certificate-data")).expect("a certificate").to_owned();
        let key = PrivateKey::from_pem(&data("client-key-data")).expect("a key");
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&[ca]))
            .client_cert(Some(ClientCert::new_with_certs(&[certificate], key)))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .proxy(None)
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .timeout_global(Some(Duration::from_secs(60)))
            .build();
        Self { agent: config.new_agent() }
    }

    /// Status code and body of a JSON request.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(format!("https://127.0.0.1:6443{path}"))
            .header("content-type", "application/json");
        let sent = match body {
            Some(body) => self.agent.run(request.body(body.to_string()).expect("a request")),
            None => self.agent.run(request.body(()).expect("a request")),
        };
        let mut response = sent.expect("the API server answers");
        let text = response.body_mut().read_to_string().expect("a body");
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

fn decode(base64: &str) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(base64).expect("base64")
}
