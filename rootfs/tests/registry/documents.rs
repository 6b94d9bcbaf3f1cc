//! Indexes, manifests and configurations: the right one is chosen, and what is not as it should be is refused with nothing left behind.

use crate::server::{
    CONFIG, INDEX, LAYER, MANIFEST, Server, describe, digest, file, json, layer, leftovers, mirrored, pull,
};
use rootfs::ImageStore;
use serde_json::{Value, json as value};
use std::fs;

/// Serves an index of (os, architecture, variant, content of the file `f`).
fn put_index(server: &Server, tag: &str, platforms: &[(&str, &str, Option<&str>, &str)]) {
    let entries: Vec<Value> = platforms
        .iter()
        .map(|(os, architecture, variant, content)| {
            let manifest = server.put_parts(&[layer("f", content.as_bytes())]);
            server.put_document(&digest(&manifest), MANIFEST, &manifest);
            let mut entry = describe(MANIFEST, &manifest);
            entry["platform"] = value!({"os": os, "architecture": architecture, "variant": variant});
            entry
        })
        .collect();
    let index = value!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    server.put_document(tag, INDEX, &json(&index));
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[test]
fn of_an_index_the_image_for_this_host_is_pulled() {
    let (server, state) = (Server::start(), tempfile::tempdir().expect("directory"));
    let own = architecture();
    let rows = [
        ("windows", own, None, "windows"),
        ("linux", "s390x", None, "s390x"),
        // Of a level that no processor has.
        ("linux", own, Some("v99"), "too new"),
        ("linux", own, None, "right"),
        ("unknown", "unknown", None, "attestation"),
    ];
    put_index(&server, "latest", &rows);
    let store = ImageStore::open(state.path(), mirrored(&server)).expect("open");
    let image = pull(&store, "app", &[]).expect("pulled");
    assert_eq!(file(&image, "f"), Some(b"right".to_vec()));
    assert_eq!(server.count("manifests/sha256"), 1, "no other platform is fetched");
    put_index(&server, "foreign", &[rows[0], rows[1], rows[2], rows[4]]);
    let error = pull(&store, "app:foreign", &[]).expect_err("none fits").to_string();
    let named =
        format!("has no image for linux/{own}; its index has: windows/{own}, linux/s390x, linux/{own}/v99");
    assert!(error.contains(&named), "{error}");
}

/// A change to an index, a manifest and a configuration that name each other by digest.
type Change = fn(&mut Value, &mut Value, &mut Value);

/// What is wrong, how, and what the error says.
const CHANGES: [(&str, Change, &str); 12] = [
    ("manifest's digest", |i, _, _| i["digest"] = digest(b"other").into(), "not found"),
    ("manifest's size", |i, _, _| i["size"] = 7.into(), "bytes long, expected 7"),
    ("manifest's sha512", |i, _, _| i["digest"] = format!("sha512:{:0128}", 1).into(), "expected sha256"),
    ("config's size", |_, m, _| m["config"]["size"] = 7.into(), "bytes long, expected 7"),
    ("config's digest", |_, m, _| m["config"]["digest"] = digest(b"x").into(), "not found"),
    (
        "no such config digest",
        |_, m, _| m["config"]["digest"] = "sha256:..".into(),
        "Invalid encoded value ..",
    ),
    ("config's type", |_, m, _| m["config"]["mediaType"] = LAYER.into(), "OCI artifact"),
    ("layer's type", |_, m, _| m["layers"][0]["mediaType"] = CONFIG.into(), "expected a tar archive"),
    ("layer's digest", |_, m, _| m["layers"][0]["digest"] = "md5:1".into(), "md5:1"),
    ("two kinds", |_, m, _| m["manifests"] = value!([]), "an index and of a manifest"),
    ("a manifest as an index", |_, m, _| m["mediaType"] = INDEX.into(), "is a manifest, but its mediaType"),
    ("diff ids", |_, _, c| c["rootfs"]["diff_ids"] = value!([]), "1 layers, its configuration 0"),
];

/// Serves the three documents, changed, with right digests otherwise.
fn put_changed(server: &Server, change: Change) {
    let (plain, packed) = layer("f", b"x");
    server.put_blob(&packed);
    // What is not being made yet, for changes to fall on.
    let unmade = || value!({"layers": [{}]});
    let mut config = value!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(&plain)]}});
    change(&mut unmade(), &mut unmade(), &mut config);
    let config = json(&config);
    server.put_blob(&config);
    let mut manifest = value!({"schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, &config),
        "layers": [describe(LAYER, &packed)]});
    change(&mut unmade(), &mut manifest, &mut unmade());
    let manifest = json(&manifest);
    server.put_document(&digest(&manifest), MANIFEST, &manifest);
    let mut entry = describe(MANIFEST, &manifest);
    change(&mut entry, &mut unmade(), &mut unmade());
    entry["platform"] = value!({"os": "linux", "architecture": architecture()});
    let index = value!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    server.put_document("latest", INDEX, &json(&index));
}

fn refused(server: &Server, name: &str, says: &str) {
    let state = tempfile::tempdir().expect("directory");
    let store = ImageStore::open(state.path(), mirrored(server)).expect("open");
    let error = pull(&store, "app", &[]).expect_err(name).to_string();
    assert!(error.contains(says), "{name}: {error}");
    let kept = |dir: &str| fs::read_dir(state.path().join(dir)).expect(dir).count();
    // The image that comes with the store, and `empty`.
    assert_eq!((leftovers(state.path()), kept("layers"), kept("images")), (0, 2, 1), "{name}");
}

#[test]
fn documents_that_contradict_each_other_are_refused() {
    let server = Server::start();
    put_changed(&server, |_, _, _| {});
    let state = tempfile::tempdir().expect("directory");
    let store = ImageStore::open(state.path(), mirrored(&server)).expect("open");
    pull(&store, "app", &[]).expect("unchanged they are an image");
    for (name, change, says) in CHANGES {
        let server = Server::start();
        put_changed(&server, change);
        refused(&server, name, says);
    }
}

#[test]
fn documents_with_other_bytes_are_refused() {
    for (part, what) in [("manifests/sha256", "manifest of"), ("blobs/", "configuration of")] {
        let server = Server::start();
        put_changed(&server, |_, _, _| {});
        let (_, packed) = layer("f", b"x");
        let path = server.path_with(part, &digest(&packed));
        // White space at the end keeps the JSON and, taken from elsewhere, the length.
        server.change(&path, |answer| *answer.body.last_mut().expect("not empty") = b' ');
        refused(&server, part, "expected sha256:");
        refused(&server, part, what);
    }
    for body in [&b"{"[..], b"[]", b"null", b"{}", b"\xff\xfe", b"{\"schemaVersion\":2,\"manifests\":[{}]}"] {
        let server = Server::start();
        server.put_document("latest", INDEX, body);
        refused(&server, &body.escape_ascii().to_string(), "manifest of docker.io/library/app:latest");
    }
    let server = Server::start();
    let artifact = value!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.sbom",
        "config": describe("application/vnd.oci.empty.v1+json", b"{}"), "layers": [describe("text/plain", b"{}")]});
    server.put_document("latest", MANIFEST, &json(&artifact));
    refused(
        &server,
        "an artifact",
        "is an OCI artifact (application/vnd.example.sbom), not a container image",
    );
}
