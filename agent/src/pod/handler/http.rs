//! One HTTP/1.1 GET, plain or over TLS, of which the status counts: kubelet's `pkg/probe/http`.

use agent_protocol::HttpHeader;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// Of an answer, as much is read.
const ANSWER_BYTES_MAX: usize = 10 << 10;

/// What is asked for, and where.
pub struct Get<'a> {
    pub host: &'a str,
    pub port: u16,
    pub path: &'a str,
    pub tls: bool,
    pub headers: &'a [HttpHeader],
}

impl Get<'_> {
    /// The status code of the answer.
    pub async fn status(&self) -> io::Result<u16> {
        let stream = TcpStream::connect((self.host, self.port)).await?;
        if !self.tls {
            return self.ask(stream).await;
        }
        let name = ServerName::try_from(self.host.to_owned()).map_err(io::Error::other)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config()?));
        self.ask(connector.connect(name, stream).await?).await
    }

    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<u16> {
        stream.write_all(self.request().as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        // The status line is all that counts; the rest is read so that the server is not cut off.
        while answer.len() < ANSWER_BYTES_MAX && stream.read_buf(&mut answer).await? > 0 {}
        status(&answer).ok_or_else(|| io::Error::other("malformed HTTP response"))
    }

    fn request(&self) -> String {
        let given = |name: &str| self.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
        let own = [
            ("Host", format!("{}:{}", self.host, self.port)),
            ("User-Agent", "kube-probe/wherry".to_owned()),
            ("Accept", "*/*".to_owned()),
        ];
        let own = own.iter().filter(|(name, _)| !given(name)).map(|(name, value)| (*name, value.as_str()));
        let headers = self.headers.iter().map(|header| (header.name.as_str(), header.value.as_str()));
        let lines: String = own.chain(headers).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("GET {} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n", self.path)
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&byte| byte == b'\r').next()?;
    let (version, rest) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let code = rest.split(' ').next()?;
    code.parse().ok().filter(|_| version.starts_with("HTTP/1."))
}

fn config() -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth())
}

/// Takes any certificate: a probe asks a pod how it is, and who it is was settled by its address.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::net::TcpListener;

    /// Answers one connection with `answer`; gives what was asked.
    async fn serve(listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>, answer: &str) -> String {
        async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") && stream.read_buf(&mut asked).await.expect("read") > 0 {}
            stream.write_all(answer.as_bytes()).await.expect("written");
            stream.shutdown().await.expect("closed");
            String::from_utf8(asked).expect("text")
        }
        let (stream, _) = listener.accept().await.expect("accepted");
        match tls {
            Some(acceptor) => exchange(acceptor.accept(stream).await.expect("handshake"), answer).await,
            None => exchange(stream, answer).await,
        }
    }

    fn self_signed() -> tokio_rustls::TlsAcceptor {
        let made = rcgen::generate_simple_self_signed(["other.example".to_owned()]).expect("made");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("usable");
        Arc::new(config).into()
    }

    fn ask(tls: bool, headers: &[HttpHeader], answer: &str) -> (io::Result<u16>, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("built");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
            let port = listener.local_addr().expect("an address").port();
            let get = Get { host: "127.0.0.1", port, path: "/ready?x=1", tls, headers };
            let (status, asked) = tokio::join!(get.status(), serve(listener, tls.then(self_signed), answer));
            (status, asked.replace(&port.to_string(), "PORT"))
        })
    }

    #[test]
    fn the_status_counts_over_plain_http_and_over_tls_with_any_certificate() {
        for tls in [false, true] {
            let (status, asked) = ask(tls, &[], "HTTP/1.1 503 Service Unavailable\r\n\r\nno");
            assert_eq!(status.expect("answered"), 503);
            assert_eq!(
                asked,
                "GET /ready?x=1 HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nUser-Agent: kube-probe/wherry\r\nAccept: */*\r\n\
                 Connection: close\r\n\r\n"
            );
        }
    }

    #[test]
    fn headers_of_the_probe_replace_ours() {
        let header = |name: &str, value: &str| HttpHeader { name: name.into(), value: value.into() };
        let (status, asked) =
            ask(false, &[header("host", "a.example"), header("X-A", "1")], "HTTP/1.0 200 OK\r\n\r\n");
        assert_eq!(status.expect("answered"), 200);
        assert!(
            asked.contains("\r\nhost: a.example\r\nX-A: 1\r\n") && !asked.contains("127.0.0.1"),
            "{asked}"
        );
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        for answer in ["", "SSH-2.0-x\r\n", "HTTP/1.1 abc\r\n"] {
            assert!(ask(false, &[], answer).0.is_err(), "{answer:?}");
        }
    }
}
