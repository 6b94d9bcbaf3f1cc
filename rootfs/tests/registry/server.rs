//! A registry of the test's own, for what goes wrong, and what tests of pulls have in common.

use rootfs::{Credential, Image, ImageError, ImageStore, Reference, Registries};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layer's archive, plain and packed.
pub type Layer = (Vec<u8>, Vec<u8>);

/// What a path answers.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub kind: &'static str,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes, this many times.
    pub cut: Option<(usize, u32)>,
    /// Send so many bytes and then nothing, for ever.
    pub stall: Option<usize>,
    /// `user:password` in base64 that is asked for.
    pub password: Option<&'static str>,
}

/// A registry in this process. Requests are noted as `METHOD path [range]`.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let answers: Arc<Mutex<BTreeMap<String, Answer>>> = Arc::default();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (shared, noted) = (answers.clone(), requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, requests) = (shared.clone(), noted.clone());
                thread::spawn(move || serve(stream, &answers, &requests));
            }
        });
        Self { address, answers, requests }
    }

    /// Answers on a connection that somebody else accepted.
    pub fn serve(&self, stream: impl Read + Write) {
        serve(stream, &self.answers, &self.requests);
    }

    pub fn put(&self, path: &str, answer: Answer) {
        self.answers.lock().expect("lock").insert(path.to_owned(), answer);
    }

    /// Serves an image under `tag`; answers with its layers' blob paths.
    pub fn put_image(&self, tag: &str, layers: &[Layer]) -> Vec<String> {
        let manifest = self.put_parts(layers);
        self.put_document(tag, MANIFEST, &manifest);
        layers.iter().map(|(_, blob)| blob_path(blob)).collect()
    }

    /// Serves configuration and layers of an image; answers with its manifest.
    pub fn put_parts(&self, layers: &[Layer]) -> Vec<u8> {
        let diff_ids: Vec<String> = layers.iter().map(|(plain, _)| digest(plain)).collect();
        let config =
            json(&serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}}));
        self.put_blob(&config);
        for (_, blob) in layers {
            self.put_blob(blob);
        }
        let layers: Vec<_> = layers.iter().map(|(_, blob)| describe(LAYER, blob)).collect();
        json(
            &serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, &config), "layers": layers}),
        )
    }

    pub fn put_blob(&self, bytes: &[u8]) {
        let answer = Answer {
            status: 200,
            kind: "application/octet-stream",
            body: bytes.to_vec(),
            ..Answer::default()
        };
        self.put(&blob_path(bytes), answer);
    }

    /// Serves a manifest or an index under a tag or digest.
    pub fn put_document(&self, reference: &str, kind: &'static str, bytes: &[u8]) {
        let answer = Answer { status: 200, kind, body: bytes.to_vec(), ..Answer::default() };
        self.put(&format!("/v2/library/app/manifests/{reference}"), answer);
    }

    pub fn change(&self, path: &str, change: impl FnOnce(&mut Answer)) {
        change(self.answers.lock().expect("lock").get_mut(path).expect("served"));
    }

    /// The one path that has `part` in it and not `without`.
    pub fn path_with(&self, part: &str, without: &str) -> String {
        let answers = self.answers.lock().expect("lock");
        let mut fitting = answers.keys().filter(|path| path.contains(part) && !path.contains(without));
        fitting.next().expect("served").clone()
    }

    pub fn count(&self, part: &str) -> usize {
        self.requests.lock().expect("lock").iter().filter(|request| request.contains(part)).count()
    }
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A descriptor of `bytes`.
pub fn describe(kind: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

pub fn json(value: &serde_json::Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON")
}

pub fn blob_path(bytes: &[u8]) -> String {
    format!("/v2/library/app/blobs/{}", digest(bytes))
}

/// Answers the requests of one connection; through a proxy a request names its host too (RFC 9112, absolute-form).
fn serve(
    stream: impl Read + Write,
    answers: &Mutex<BTreeMap<String, Answer>>,
    requests: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let Some((line, range, authorization)) = request(&mut reader) else { return };
        let target = line.split(' ').nth(1).unwrap_or_default();
        let path = target.find("/v2/").map_or(target, |at| &target[at..]).to_owned();
        requests.lock().expect("lock").push(format!("{} {range:?} {authorization}", line.trim()));
        let mut answers = answers.lock().expect("lock");
        let missing = Answer {
            status: if path == "/v2/" { 200 } else { 404 },
            kind: "text/plain",
            ..Answer::default()
        };
        let answer = answers.get_mut(&path);
        let cut = answer.as_ref().and_then(|a| a.cut).filter(|(_, times)| *times > 0);
        let answer = match answer {
            Some(answer) => {
                answer.cut = cut.map(|(bytes, times)| (bytes, times - 1));
                answer.clone()
            }
            None => missing,
        };
        drop(answers);
        if answer.password.is_some_and(|password| authorization != format!("Basic {password}")) {
            let reply = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0\r\n\r\n";
            let _ = reader.get_mut().write_all(reply.as_bytes());
            continue;
        }
        let from = range.unwrap_or(0);
        let (status, body) = if range.is_some() && answer.status == 200 {
            (206, &answer.body[from..])
        } else {
            (answer.status, &answer.body[..])
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            answer.kind,
            body.len()
        );
        let sent =
            cut.map(|(bytes, _)| bytes).or(answer.stall).map_or(body.len(), |bytes| bytes.min(body.len()));
        if reader.get_mut().write_all(&[head.as_bytes(), &body[..sent]].concat()).is_err() || cut.is_some() {
            return;
        }
        while answer.stall.is_some() {
            thread::park();
        }
    }
}

/// Reads the head of a request: its line, the first byte of its range and its authorization.
fn request(reader: &mut impl BufRead) -> Option<(String, Option<usize>, String)> {
    let (mut line, mut range, mut authorization) = (String::new(), None, String::new());
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return None;
    }
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header == "\r\n" {
            break;
        }
        let (name, value) = header.trim().split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                range =
                    value.strip_prefix("bytes=").and_then(|v| v.trim_end_matches('-').parse::<usize>().ok())
            }
            "authorization" => authorization = value.to_owned(),
            _ => {}
        }
    }
    Some((line, range, authorization))
}

/// Whether `state` holds within ten seconds.
pub fn soon(state: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        thread::park_timeout(Duration::from_millis(50));
        state()
    })
}

/// A layer with one file, plain and gzipped.
pub fn layer(name: &str, content: &[u8]) -> Layer {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).expect("appended");
    let plain = builder.into_inner().expect("finished");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(&plain).expect("packed");
    (plain, gzip.finish().expect("packed"))
}

pub fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub fn registries(text: &str) -> Registries {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("registries.toml");
    fs::write(&path, text).expect("written");
    Registries::load(&path).expect("valid")
}

pub fn mirrored(server: &Server) -> Registries {
    registries(&format!("[\"docker.io\"]\nmirrors = [\"http://{}\"]\nfallback = false\n", server.address))
}

pub fn pull(store: &ImageStore, name: &str, credentials: &[Credential]) -> Result<Image, ImageError> {
    run(async { store.pull(&name.parse::<Reference>()?, credentials, Arc::new(|_| {})).await })
}

pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(work)
}

/// A file of the image's uppermost layer that has it.
pub fn file(image: &Image, name: &str) -> Option<Vec<u8>> {
    image.lower.iter().find_map(|lower| fs::read(lower.join(name)).ok())
}

/// What is half done in the store.
pub fn leftovers(state: &Path) -> usize {
    fs::read_dir(state.join("staging")).expect("staging").count()
}
