//! Who we are at Debian's docker-registry, which asks for a password (htpasswd) over TLS with an authority of the test's own.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rootfs::{Credential, ImageError, ImageStore, Reference, Registries};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command},
    sync::Arc,
    thread,
    time::Duration,
};

/// bcrypt of `secret`.
const USERS: &str = "me:$2b$04$aDddz7o0tIPsbXYty8QTbeSNAqVYoxGZ0iBQJVTmy1jfrdCf69glS\n";

type Case<'a> = (&'a str, &'a str, &'a str, Option<&'a str>, Option<&'a str>);

struct Registry {
    process: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// Writes `ca.pem`, `cert.pem` and `key.pem` for 127.0.0.1.
fn certificates(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = authority.self_signed(&key).expect("signed");
    fs::write(dir.join("ca.pem"), certificate.pem()).expect("written");
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("names");
    let server = server.signed_by(&key, &issuer).expect("signed");
    fs::write(dir.join("cert.pem"), server.pem()).expect("written");
    fs::write(dir.join("key.pem"), key.serialize_pem()).expect("written");
}

fn start(dir: &Path) -> Registry {
    let cache = std::env::var("WHERRY_TEST_CACHE").unwrap_or_else(|_| "/var/cache/wherry-test".to_owned());
    let storage = Path::new(&cache).join("images/registry");
    assert!(storage.is_dir(), "run tests/setup.sh {cache}");
    certificates(dir);
    fs::write(dir.join("users"), USERS).expect("written");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback").port();
    let (address, dir_text) = (format!("127.0.0.1:{port}"), dir.display());
    let config = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: true}}}}}}\n\
         auth: {{htpasswd: {{realm: test, path: {dir_text}/users}}}}\n\
         http: {{addr: \"{address}\", tls: {{certificate: {dir_text}/cert.pem, key: {dir_text}/key.pem}}}}\n",
        storage.display()
    );
    fs::write(dir.join("config.yml"), config).expect("written");
    let mut command = Command::new("docker-registry");
    let process = command.arg("serve").arg(dir.join("config.yml")).spawn().expect("started");
    let registry = Registry { process, address };
    let up = (0..200).any(|_| {
        thread::park_timeout(Duration::from_millis(50));
        TcpStream::connect(&registry.address).is_ok()
    });
    assert!(up, "the registry does not listen");
    registry
}

/// Pulls into a new store, knowing `own` of the registry, `file` as docker's credential file, and `secret` of the pod.
fn pull(dir: &Path, address: &str, own: &str, file: &str, secret: Option<&str>) -> Result<(), ImageError> {
    let state = tempfile::tempdir().expect("directory");
    let (path, docker) = (dir.join("registries.toml"), dir.join("docker.json"));
    let text = format!(
        "credential_files = [{:?}]\n[\"{address}\"]\nplain_http = false\n{own}",
        docker.display().to_string()
    );
    fs::write(&path, text).expect("written");
    fs::write(&docker, file.replace("ADDRESS", address)).expect("written");
    let store = ImageStore::open(state.path(), Registries::load(&path)?)?;
    let name: Reference = format!("{address}/library/busybox").parse()?;
    let credential = |password: &str| Credential {
        registry: address.to_owned(),
        username: "me".to_owned(),
        password: password.to_owned(),
    };
    let secret: Vec<Credential> = secret.into_iter().map(credential).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(store.pull(&name, &secret, Arc::new(|_| {}))).map(drop)
}

/// The test is run again by itself with a `PATH` on which docker's credential program is found.
#[test]
fn passwords_come_from_secret_then_table_then_files() {
    const INNER: &str = "WHERRY_TEST_PROGRAMS";
    let dir = tempfile::tempdir().expect("directory");
    if std::env::var_os(INNER).is_none() {
        let program = dir.path().join("docker-credential-test");
        let answer = r#"{"ServerURL":"x","Username":"me","Secret":"secret"}"#;
        fs::write(&program, format!("#!/bin/sh\n[ \"$1\" = get ] && read -r server; echo '{answer}'\n"))
            .expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").expect("a PATH"));
        let mut inner = Command::new(std::env::current_exe().expect("this program"));
        inner.args(["--exact", "passwords_come_from_secret_then_table_then_files"]);
        assert!(inner.env(INNER, "1").env("PATH", path).status().expect("started").success());
        return;
    }
    let registry = start(dir.path());
    let ca = format!("ca_file = {:?}\n", dir.path().join("ca.pem").display().to_string());
    let table = |password: &str| format!("{ca}username = \"me\"\npassword = {password:?}\n");
    // base64 of me:secret and me:wrong
    let (good, bad) = (
        r#"{"auths":{"ADDRESS":{"auth":"bWU6c2VjcmV0"}}}"#,
        r#"{"auths":{"ADDRESS":{"auth":"bWU6d3Jvbmc="}}}"#,
    );
    let program = r#"{"credHelpers":{"ADDRESS":"test"}}"#;
    let absent = r#"{"credHelpers":{"ADDRESS":"absent"}}"#;
    let (right, wrong) = (table("secret"), table("wrong"));
    // Name, table, file, the pod's secret, what the error says.
    let cases: [Case<'_>; 9] = [
        ("a file", &ca, good, None, None),
        ("a program", &ca, program, None, None),
        ("the table", &right, bad, None, None),
        ("the secret", &wrong, bad, Some("secret"), None),
        ("a wrong secret counts more than a right table", &right, good, Some("wrong"), Some("refuses")),
        ("a wrong table counts more than a right file", &wrong, good, None, Some("refuses")),
        ("nobody", &ca, "{}", None, Some("asks for a user name")),
        ("no program", &ca, absent, None, Some("docker-credential-absent: cannot be run")),
        ("an authority nobody knows", "", good, None, Some("UnknownIssuer")),
    ];
    for (name, own, file, secret, error) in cases {
        let done = pull(dir.path(), &registry.address, own, file, secret).map_err(|err| err.to_string());
        match (error, done) {
            (None, done) => assert_eq!(done, Ok(()), "{name}"),
            (Some(text), done) => {
                let err = done.expect_err(name);
                assert!(err.contains(text), "{name}: {err}");
            }
        }
    }
}
