//! Pulls from registries over loopback: a server of the test for what goes wrong, and Debian's docker-registry for what goes right.

mod documents;
mod proxy;
mod server;

use rootfs::{Credential, ImageError, ImageStore, Progress, Reference, Registries};
use server::{Answer, Layer, Server, file, layer, leftovers, mirrored, noise, pull, registries, run, soon};
use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

#[test]
fn a_broken_download_is_resumed_where_it_stopped() {
    let (server, state) = (Server::start(), tempfile::tempdir().expect("directory"));
    let content = noise(1 << 20);
    let blobs = server.put_image("latest", &[layer("f", &content)]);
    server.change(&blobs[0], |answer| answer.cut = Some((300_000, 3)));
    let store = ImageStore::open(state.path(), mirrored(&server)).expect("open");
    let image = pull(&store, "app", &[]).expect("pulled");
    assert_eq!(file(&image, "f"), Some(content));
    assert_eq!((server.count("blobs"), server.count("Some(")), (5, 3), "config, a start, three resumptions");
    assert_eq!(leftovers(state.path()), 0);
}

#[test]
fn what_is_not_as_promised_is_not_kept() {
    let state = tempfile::tempdir().expect("directory");
    let good = layer("f", b"good");
    type Change = fn(&mut Answer);
    let cases: [(&str, Layer, Change); 4] = [
        ("changed bytes", good.clone(), |answer| answer.body[30] ^= 1),
        ("cut short for good", good.clone(), |answer| answer.body.truncate(100)),
        ("more than promised", good.clone(), |answer| answer.body.extend(b"more")),
        ("another diff id", (b"something else".to_vec(), good.1.clone()), |_| {}),
    ];
    for (name, layer, change) in cases {
        let server = Server::start();
        let blobs = server.put_image("latest", &[layer]);
        server.change(&blobs[0], change);
        let store = ImageStore::open(state.path(), mirrored(&server)).expect("open");
        let outcome = pull(&store, "app", &[]);
        let kept = store.resolve(&"app".parse().expect("name"));
        // Bytes after the promised end are not even read.
        assert!(
            outcome.is_err() == kept.is_none() && (outcome.is_err() || name == "more than promised"),
            "{name}: {outcome:?}"
        );
        assert_eq!(leftovers(state.path()), 0, "{name}");
        if kept.is_some() {
            store.remove("app", &[]).expect("removed");
        }
        assert_eq!(
            fs::read_dir(state.path().join("layers")).expect("layers").count(),
            2,
            "{name}: hello and `empty`"
        );
    }
}

#[test]
fn errors_say_what_the_caller_must_know() {
    let (server, state) = (Server::start(), tempfile::tempdir().expect("directory"));
    let manifest = "/v2/library/app/manifests/";
    server
        .put(&format!("{manifest}refused"), Answer { status: 401, kind: "text/plain", ..Answer::default() });
    server.put(
        &format!("{manifest}forbidden"),
        Answer { status: 403, kind: "text/plain", ..Answer::default() },
    );
    server.put(&format!("{manifest}broken"), Answer { status: 503, kind: "text/plain", ..Answer::default() });
    let artifact = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.helm.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}]}"#;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    server.put(
        &format!("{manifest}chart"),
        Answer { status: 200, kind, body: artifact.to_vec(), ..Answer::default() },
    );
    let store = ImageStore::open(state.path(), mirrored(&server)).expect("open");
    let error = |name: &str| pull(&store, name, &[]).expect_err(name);
    assert!(matches!(error("App"), ImageError::InvalidName { .. }));
    assert!(matches!(error("app:none"), ImageError::NotFound { .. }));
    assert!(matches!(error("app:refused"), ImageError::Unauthorized { .. }));
    assert!(matches!(error("app:forbidden"), ImageError::Unauthorized { .. }));
    assert!(matches!(error("app:broken"), ImageError::Registry { .. }));
    assert_eq!(server.count("manifests/broken"), 3, "a fault of the server is worth another try");
    let chart = error("app:chart").to_string();
    assert!(chart.contains("OCI artifact"), "{chart}");
}

#[test]
fn two_pulls_fetch_a_layer_once_and_a_removal_between_does_no_harm() {
    let (server, state) = (Server::start(), tempfile::tempdir().expect("directory"));
    let (shared, own) = (layer("shared", &noise(2 << 20)), layer("own", b"x"));
    let blobs = server.put_image("one", std::slice::from_ref(&shared));
    server.put_image("two", &[shared.clone(), own.clone(), shared, own]);
    let store = ImageStore::open(state.path(), mirrored(&server)).expect("open");
    let names = ["app:one", "app:two", "app:one"].map(|name| name.parse::<Reference>().expect("name"));
    let quiet: Arc<dyn Fn(Progress) + Send + Sync> = Arc::new(|_| {});
    let images = run(async {
        let [one, two, again] = names.each_ref().map(|name| store.pull(name, &[], quiet.clone()));
        let swept = async { store.remove("wherry.local/hello:latest", &[]).expect("the name goes") };
        let (one, two, again, _) = tokio::join!(one, two, again, swept);
        [one, two, again].map(|image| image.expect("pulled"))
    });
    assert_eq!(server.count(&blobs[0]), 1);
    assert_eq!(images[1].lower.len(), 2, "overlayfs takes no directory twice");
    let names: BTreeSet<_> = images.iter().map(|image| image.digest.clone()).collect();
    assert_eq!(names.len(), 2);
    store.remove("app:one", &[]).expect("removed");
    assert!(images[1].lower.iter().all(|lower| lower.is_dir()), "the other image still has the layer");
}

#[test]
fn credentials_go_to_their_registry_only() {
    let (mirror, origin) = (Server::start(), Server::start());
    let state = tempfile::tempdir().expect("directory");
    origin.put_image("latest", &[layer("f", b"x")]);
    // base64 of me:secret
    let password = Some("bWU6c2VjcmV0");
    origin.change("/v2/library/app/manifests/latest", |answer| answer.password = password);
    origin.put("/v2/", Answer { status: 200, kind: "text/plain", password, ..Answer::default() });
    let config =
        format!("[\"{}\"]\nmirrors = [\"http://{}\"]\nplain_http = true\n", origin.address, mirror.address);
    let store = ImageStore::open(state.path(), registries(&config)).expect("open");
    let name = format!("{}/library/app", origin.address);
    assert!(matches!(pull(&store, &name, &[]), Err(ImageError::Unauthorized { .. })));
    let me =
        Credential { registry: origin.address.clone(), username: "me".into(), password: "secret".into() };
    pull(&store, &name, &[me]).expect("pulled");
    assert_eq!(
        (mirror.count("Basic"), mirror.count("manifests") > 0),
        (0, true),
        "the mirror was asked, without a password"
    );
}

#[test]
fn credential_files_of_docker_are_used_and_their_faults_named() {
    let (server, dir) = (Server::start(), tempfile::tempdir().expect("directory"));
    server.put_image("latest", &[layer("f", b"x")]);
    server.change("/v2/library/app/manifests/latest", |answer| answer.password = Some("bWU6c2VjcmV0"));
    let file = dir.path().join("config.json");
    let text = format!("credential_files = [{:?}]\n", file.display().to_string());
    let store = ImageStore::open(&dir.path().join("state"), registries(&text)).expect("open");
    let name = format!("{}/library/app", server.address);
    let with = |auths: &str| {
        fs::write(&file, format!("{{\"auths\": {{\"{}/library\": {auths}}}}}", server.address))
            .expect("written");
        pull(&store, &name, &[]).map_err(|err| err.to_string())
    };
    assert!(with("{}").expect_err("no password").contains("asks for a user name"));
    assert!(with(r#"{"auth": "*"}"#).expect_err("refused").contains("auth is not base64"));
    with(r#"{"auth": "bWU6c2VjcmV0"}"#).expect("pulled");
}

/// The process to kill is this test again, told by the environment which store to pull into.
#[test]
fn a_crash_in_the_middle_of_a_pull_leaves_nothing() {
    const VICTIM: &str = "WHERRY_TEST_VICTIM";
    if let Some((state, mirror)) = std::env::var(VICTIM).ok().as_deref().and_then(|text| text.split_once(' '))
    {
        let config = format!("[\"docker.io\"]\nmirrors = [\"http://{mirror}\"]\nfallback = false\n");
        let store = ImageStore::open(Path::new(state), registries(&config)).expect("open");
        unreachable!("the layer never ends: {:?}", pull(&store, "app", &[]));
    }
    let (server, state) = (Server::start(), tempfile::tempdir().expect("directory"));
    let blobs = server.put_image("latest", &[layer("f", &noise(1 << 20))]);
    server.change(&blobs[0], |answer| answer.stall = Some(500_000));
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_crash_in_the_middle_of_a_pull_leaves_nothing"])
        .env(VICTIM, format!("{} {}", state.path().display(), server.address))
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    let half = || {
        let layers = fs::read_dir(state.path().join("staging")).into_iter().flatten().flatten();
        layers.filter_map(|layer| fs::metadata(layer.path().join("f")).ok()).any(|file| file.len() > 100_000)
    };
    let unpacking = soon(half);
    victim.kill().expect("ours");
    victim.wait().expect("ended");
    assert!(unpacking && half(), "it was killed with half a layer unpacked");
    // A layer whose image was never made, too.
    let orphan = state.path().join("layers").join("0".repeat(64));
    fs::create_dir_all(&orphan).expect("made");
    server.change(&blobs[0], |answer| answer.stall = None);
    let store = ImageStore::open(state.path(), mirrored(&server)).expect("open again");
    assert!(leftovers(state.path()) == 0 && !orphan.exists());
    assert!(store.resolve(&"app".parse().expect("name")).is_none());
    pull(&store, "app", &[]).expect("pulled");
}

/// In a mount namespace of its own, where the store is on a small disk.
#[test]
fn a_pull_that_fills_the_disk_says_so_and_succeeds_once_there_is_space() {
    const INNER: &str = "WHERRY_TEST_SMALL_DISK";
    if std::env::var_os(INNER).is_none() {
        let mut inner = Command::new("unshare");
        inner.arg("--mount").arg(std::env::current_exe().expect("this program")).env(INNER, "1");
        inner.args(["--exact", "a_pull_that_fills_the_disk_says_so_and_succeeds_once_there_is_space"]);
        assert!(inner.status().expect("started").success());
        return;
    }
    let (server, state) = (Server::start(), tempfile::tempdir().expect("directory"));
    let mount = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(state.path());
        assert!(mount.status().expect("started").success());
    };
    mount("size=5m");
    let content = noise(6 << 20);
    server.put_image("latest", &[layer("small", b"x"), layer("f", &content)]);
    let store = ImageStore::open(state.path(), mirrored(&server)).expect("open");
    let error = pull(&store, "app", &[]).expect_err("no space");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("No space left on device"), "{error}: {cause}");
    let name = "app".parse().expect("name");
    assert!(store.resolve(&name).is_none() && leftovers(state.path()) == 0);
    mount("remount,size=64m");
    let image = pull(&store, "app", &[]).expect("pulled");
    assert_eq!((file(&image, "f"), image.lower.len()), (Some(content), 2));
}

/// Needs `docker-registry` and the images that `tests/images/build.sh` makes; without them it says so.
#[test]
fn images_of_debian_from_a_real_registry() {
    let cache = std::env::var("WHERRY_TEST_CACHE").unwrap_or_else(|_| "/var/cache/wherry-test".to_owned());
    let images = Path::new(&cache).join("images");
    let needed = images.join("registry").is_dir() && Path::new("/usr/bin/docker-registry").exists();
    if !needed {
        let required = std::env::var_os("REQUIRE_PRIVILEGED").is_some();
        assert!(!required, "run tests/images/build.sh {}", images.display());
        println!("skipped: no registry in {}", images.display());
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("loopback").port();
    let address = format!("127.0.0.1:{port}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/images/registry.sh");
    let mut registry =
        Command::new(script).arg(&images).arg(&address).stderr(Stdio::piped()).spawn().expect("started");
    let up = soon(|| TcpStream::connect(&address).is_ok());
    let state = tempfile::tempdir().expect("directory");
    let config = format!("[\"docker.io\"]\nmirrors = [\"http://{address}\"]\nfallback = false\n");
    let outcome = std::panic::catch_unwind(|| {
        assert!(up, "the registry does not listen");
        let store = ImageStore::open(state.path(), registries(&config)).expect("open");
        let nginx = pull(&store, "nginx", &[]).expect("pulled");
        assert_eq!((nginx.config.cmd[0].as_str(), nginx.config.stop_signal.as_str()), ("nginx", "SIGQUIT"));
        assert_eq!(nginx.look_up("www-data").expect("a user").uid, 33);
        let alt = pull(&store, "nginx:1.27-alt", &[]).expect("pulled");
        assert_eq!(nginx.lower[1], alt.lower[1], "the big layer is shared");
        assert_ne!(
            file(&nginx, "usr/share/nginx/html/index.html"),
            file(&alt, "usr/share/nginx/html/index.html")
        );
        let again = pull(&store, &format!("nginx@{}", alt.digest), &[]).expect("by digest");
        assert_eq!(again.digest, alt.digest);
        // The same image out of the archive.
        let other = tempfile::tempdir().expect("directory");
        let archived = ImageStore::open(other.path(), Registries::default()).expect("open");
        let imported = archived.import(&images.join("nginx-alt.tar"), None).expect("imported");
        assert!(
            imported[0].names.contains(&"docker.io/library/nginx:1.27-alt".to_owned()),
            "{:?}",
            imported[0].names
        );
        assert_eq!(imported[0].lower.len(), 2);
    });
    registry.kill().expect("ours");
    let mut log = String::new();
    let _ = registry.stderr.take().expect("piped").read_to_string(&mut log);
    registry.wait().expect("ended");
    if let Err(panic) = outcome {
        eprintln!("{log}");
        std::panic::resume_unwind(panic);
    }
}
