//! TLS connections: accepting them, who their client certificate speaks for, and limits on what one may cost.

use super::Server;
use crate::pki::{self, Pki, User};
use axum::{body::Body, extract::Request};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{Instrument, debug, info_span, warn};

const CONNECTIONS_MAX: usize = 4_096;
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const HEADER_MAX: Duration = Duration::from_secs(20);
const HEADER_BYTES_MAX: u32 = 64 << 10;
const STREAMS_PER_CONNECTION: u32 = 250;
const PING_EVERY: Duration = Duration::from_secs(30);
/// A peer that answers no ping for this long is gone.
const PING_MAX: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE_S: u32 = 60;
const KEEPALIVE_INTERVAL_S: u32 = 15;
const BACK_OFF: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    #[error("listen on {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("use the cluster's certificates: {0}")]
    Tls(String),
}

/// The server's certificate, which may be renewed while it serves.
#[derive(Debug)]
pub struct Certificates(RwLock<Arc<CertifiedKey>>);

impl Certificates {
    pub fn new(pki: &Pki) -> Result<Self, ListenerError> {
        Ok(Self(RwLock::new(Self::key(pki)?)))
    }

    /// New connections are served with these.
    pub fn replace(&self, pki: &Pki) -> Result<(), ListenerError> {
        *self.0.write().expect("nothing panics while it holds the key") = Self::key(pki)?;
        Ok(())
    }

    fn key(pki: &Pki) -> Result<Arc<CertifiedKey>, ListenerError> {
        let (certificate, key) = pki.server.der().map_err(ListenerError::Tls)?;
        let key = ring::sign::any_supported_type(&key).map_err(tls)?;
        Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().expect("nothing panics while it holds the key").clone())
    }
}

/// A bound port.
pub struct Listener {
    socket: TcpListener,
    tls: TlsAcceptor,
}

impl Listener {
    pub async fn bind(
        address: SocketAddr,
        pki: &Pki,
        certificates: Arc<Certificates>,
    ) -> Result<Self, ListenerError> {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der().map_err(ListenerError::Tls)?).map_err(tls)?;
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(tls)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(certificates);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let bind = TcpListener::bind(address).await;
        let socket = bind.map_err(|source| ListenerError::Bind { address, source })?;
        Ok(Self { socket, tls: TlsAcceptor::from(Arc::new(config)) })
    }

    /// The address in use, with the port the kernel chose when 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until it is dropped.
    pub async fn serve(self, server: Server) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let (socket, peer) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the peer has gone: neither ends the server.
                    warn!(%error, "accept failed");
                    tokio::time::sleep(BACK_OFF).await;
                    continue;
                }
            };
            let (tls, server) = (self.tls.clone(), server.clone());
            let connection = async move {
                serve_connection(socket, tls, server).await;
                drop(slot);
            };
            tokio::spawn(connection.instrument(info_span!("connection", peer.address = %peer)));
        }
    }
}

async fn serve_connection(socket: TcpStream, tls: TlsAcceptor, server: Server) {
    set_options(&socket);
    let stream = match timeout(HANDSHAKE_MAX, tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user: Option<Arc<User>> = certificates.and_then(|chain| pki::user(chain.first()?)).map(Arc::new);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (server, user) = (server.clone(), user.clone());
        async move { Ok::<_, Infallible>(server.answer(request.map(Body::new) as Request, user).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADER_BYTES_MAX);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        debug!(%error, "connection ended");
    }
}

/// Options that only make a connection better: one that refuses them is served all the same.
fn set_options(socket: &TcpStream) {
    // Without it small answers wait for the peer's delayed acknowledgement.
    let _ = socket.set_nodelay(true);
    // A watcher whose host is gone says nothing and reads nothing: probes find out.
    let _ = setsockopt(socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S);
    let _ = setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S);
}

fn tls(error: impl std::fmt::Display) -> ListenerError {
    ListenerError::Tls(error.to_string())
}
