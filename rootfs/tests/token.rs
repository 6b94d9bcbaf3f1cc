//! Docker's token protocol: a registry that names a token server, which wants a password and a scope.

use rootfs::{Credential, ImageError, ImageStore, Reference, Registries};
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

/// Answers one request on each connection: `/token` for `me:secret`, and an empty registry for who has the token.
fn serve(stream: TcpStream, address: &str) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
    let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let has = |header: &str| request.iter().any(|line| line.eq_ignore_ascii_case(header));
    let scope = "scope=repository%3Alibrary%2Fapp%3Apull";
    let path = request.first().map(String::as_str).unwrap_or_default();
    let (head, body) = match path {
        // base64 of me:secret
        _ if path.starts_with("GET /token?") && path.contains(scope) && path.contains("service=here") => {
            match has("authorization: Basic bWU6c2VjcmV0") {
                true => ("200 OK".to_owned(), r#"{"token":"given"}"#),
                false => ("401 Unauthorized".to_owned(), r#"{"details":"who are you"}"#),
            }
        }
        _ if has("authorization: Bearer given") => ("404 Not Found".to_owned(), ""),
        _ => {
            let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"here\"");
            (format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}"), "")
        }
    };
    let mut stream = stream;
    let length = body.len();
    write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[test]
fn a_token_is_bought_with_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let served = address.clone();
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(serve(stream, &served))));
    let state = tempfile::tempdir().expect("directory");
    let registries = Registries { credential_files: Some(Vec::new()), ..Registries::default() };
    let store = ImageStore::open(state.path(), registries).expect("open");
    let name: Reference = format!("{address}/library/app").parse().expect("a name");
    let pull = |password: &str| {
        let (username, password) = ("me".to_owned(), password.to_owned());
        let credential = Credential { registry: address.clone(), username, password };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(store.pull(&name, &[credential], Arc::new(|_| {}))).expect_err("it is empty")
    };
    assert!(matches!(pull("secret"), ImageError::NotFound { .. }), "with the token it is only not there");
    let refused = pull("wrong");
    assert!(matches!(refused, ImageError::Unauthorized { .. }), "{refused}");
    assert!(refused.to_string().contains("who are you"), "{refused}");
}
