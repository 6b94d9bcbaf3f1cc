//! Pulls through a proxy that the environment names, as for docker: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.

use crate::server::{Server, file, layer, pull, registries};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rootfs::{ImageError, ImageStore};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

/// Names that only the proxy knows.
const PLAIN: &str = "plain.invalid";
const SECURE: &str = "secure.invalid";
const DIRECT: &str = "direct.invalid";

/// A proxy behind which `server` is every host; `CONNECT host` is noted, and what follows is TLS.
fn start(server: &Server, tls: Arc<ServerConfig>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let tunnels: Arc<Mutex<Vec<String>>> = Arc::default();
    let (server, noted) = (server.clone(), tunnels.clone());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (server, noted, tls) = (server.clone(), noted.clone(), tls.clone());
            thread::spawn(move || match tunnel(stream) {
                (stream, None) => server.serve(stream),
                (stream, Some(host)) => {
                    noted.lock().expect("lock").push(host);
                    server.serve(StreamOwned::new(ServerConnection::new(tls).expect("configured"), stream));
                }
            });
        }
    });
    (address, tunnels)
}

/// Answers a CONNECT; gives the host it asks for.
fn tunnel(mut stream: TcpStream) -> (TcpStream, Option<String>) {
    let mut start = [0];
    if stream.peek(&mut start).unwrap_or(0) == 0 || start != *b"C" {
        return (stream, None);
    }
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let host = String::from_utf8_lossy(&head).split(' ').nth(1).map(str::to_owned);
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").expect("answered");
    (stream, host)
}

/// In a process of its own, whose environment names the proxy.
fn inside(state: &Path) {
    let ca = state.join("ca.pem");
    let direct = std::env::var("WHERRY_TEST_DIRECT").expect("given");
    let config = format!(
        "[\"{PLAIN}\"]\nplain_http = true\n[\"{DIRECT}\"]\nplain_http = true\n[\"{SECURE}\"]\nca_file = {ca:?}\n"
    );
    let store = ImageStore::open(&state.join("store"), registries(&config)).expect("open");
    for registry in [PLAIN, SECURE, &direct] {
        let image = pull(&store, &format!("{registry}/library/app"), &[]).expect(registry);
        assert_eq!(file(&image, "f"), Some(b"x".to_vec()), "{registry}");
    }
    let error = pull(&store, &format!("{DIRECT}/library/app"), &[]).expect_err("not by the proxy");
    assert!(matches!(&error, ImageError::Registry { why, .. } if why.contains("no connection")), "{error}");
}

#[test]
fn the_proxy_of_the_environment_is_used_except_where_it_is_not_to_be() {
    const INNER: &str = "WHERRY_TEST_PROXIED";
    if let Some(state) = std::env::var_os(INNER) {
        return inside(Path::new(&state));
    }
    let (server, behind) = (Server::start(), Server::start());
    for registry in [&server, &behind] {
        registry.put_image("latest", &[layer("f", b"x")]);
    }
    let state = tempfile::tempdir().expect("directory");
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![SECURE.to_owned()]).expect("a certificate");
    std::fs::write(state.path().join("ca.pem"), cert.pem()).expect("written");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a pair");
    let (proxy, tunnels) = start(&behind, Arc::new(tls));
    let proxy = format!("http://{proxy}");
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "proxy::the_proxy_of_the_environment_is_used_except_where_it_is_not_to_be"])
        .env(INNER, state.path())
        .env("WHERRY_TEST_DIRECT", &server.address)
        .envs([("HTTP_PROXY", &proxy), ("HTTPS_PROXY", &proxy)])
        .env("NO_PROXY", DIRECT)
        .status();
    assert!(status.expect("started").success());
    assert_eq!(*tunnels.lock().expect("lock").first().expect("a tunnel"), format!("{SECURE}:443"));
    assert!(behind.count(&format!("http://{PLAIN}/v2/")) >= 2, "the plain one by its whole URL");
    assert_eq!(behind.count(DIRECT), 0);
    assert_eq!(server.count("manifests"), 1, "loopback is reached without the proxy");
}
