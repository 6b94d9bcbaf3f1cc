//! From a reference to the manifest of this host's platform: indexes, manifests, and what is neither (OCI image-spec `image-index.md`, `manifest.md`).
//!
//! Invariant: every document is what its digest says, where a digest is known: the reference's, the registry's, or the index's.

use crate::{
    ImageError, Reference, error::malformed, image::hex, layer::to_hex, registry::Repository, store::verify,
};
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, MediaType, Os, Platform};
use serde::Deserialize;
use sha2::{Digest, Sha256};

const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// An index may name an index, but not for ever.
const DEPTH_MAX: usize = 3;

/// A manifest, and its digest (`sha256:…`).
pub(crate) struct Manifest {
    pub(crate) digest: String,
    pub(crate) content: ImageManifest,
}

/// What tells a manifest from an index and an image from an artifact.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// Fetches the manifest that `reference` means on this host.
pub(crate) async fn fetch(repository: &Repository, reference: &Reference) -> Result<Manifest, ImageError> {
    let mut wanted = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.clone(),
        (None, Some(tag)) => tag.clone(),
        (None, None) => unreachable!("a reference has a tag or a digest"),
    };
    let mut size = None;
    for _ in 0..DEPTH_MAX {
        let (bytes, promised) = repository
            .document(&format!("manifests/{wanted}"), ACCEPT)
            .await
            .map_err(|err| err.explain(reference, &repository.host))?;
        let actual = to_hex(Sha256::new_with_prefix(&bytes));
        check_size(&format!("manifest of {reference}"), size, &bytes)?;
        let expected = if wanted.starts_with("sha256:") { Some(wanted) } else { promised };
        if let Some(expected) = expected {
            verify(&format!("manifest of {reference}"), &expected, &actual)?;
        }
        let digest = format!("sha256:{actual}");
        let Some(index) = index(reference, &bytes)? else {
            return Ok(Manifest { digest, content: image(reference, &bytes)? });
        };
        let entry = select(reference, index.manifests(), &Host::this())?;
        wanted = entry.digest().to_string();
        if hex(&wanted).is_none() {
            let why = format!("its index names a manifest by the digest {wanted}: expected sha256");
            return Err(malformed(reference.to_string(), why));
        }
        size = Some(entry.size());
    }
    Err(malformed(reference.to_string(), format!("its indexes name indexes, more than {DEPTH_MAX} deep")))
}

/// Refuses a document that is not as long as the one that names it says.
pub(crate) fn check_size(what: &str, promised: Option<u64>, bytes: &[u8]) -> Result<(), ImageError> {
    match promised {
        Some(promised) if promised != bytes.len() as u64 => {
            Err(malformed(what, format!("is {} bytes long, expected {promised}", bytes.len())))
        }
        _ => Ok(()),
    }
}

/// The index that the bytes are; `None` when they are a manifest.
fn index(reference: &Reference, bytes: &[u8]) -> Result<Option<ImageIndex>, ImageError> {
    let wrong = |err: serde_json::Error| malformed(format!("manifest of {reference}"), err);
    let shape: Shape = serde_json::from_slice(bytes).map_err(wrong)?;
    if shape.schema_version == Some(1) {
        return Err(malformed(
            reference.to_string(),
            "is in docker's old format (schema 1), which has no digests of its layers: push it again with a current tool",
        ));
    }
    if let Some(why) = ambiguity(&shape) {
        return Err(malformed(format!("manifest of {reference}"), why));
    }
    let artifact = |kind: &str| Err(not_an_image(reference, kind));
    match (shape.manifests, shape.config, shape.artifact_type, shape.media_type) {
        (Some(_), ..) => serde_json::from_slice(bytes).map(Some).map_err(wrong),
        (None, Some(_), None, _) => Ok(None),
        (None, _, Some(kind), _) | (None, None, None, Some(kind)) => artifact(&kind),
        (None, None, None, None) => Err(malformed(
            format!("manifest of {reference}"),
            "has neither `manifests` nor `config`: it is no index and no manifest",
        )),
    }
}

/// Why two readers may take a document for two different things: CVE-2021-41190.
fn ambiguity(shape: &Shape) -> Option<String> {
    let kind = shape.media_type.as_deref().unwrap_or_default();
    let of_index = kind.contains(".index.") || kind.contains(".manifest.list.");
    let of_manifest = kind.contains(".manifest.v");
    match (shape.manifests.is_some(), shape.config.is_some() || shape.layers.is_some()) {
        (true, true) => Some("has the parts of an index and of a manifest".to_owned()),
        (true, false) if of_manifest => Some(format!("is an index, but its mediaType is {kind}")),
        (false, true) if of_index => Some(format!("is a manifest, but its mediaType is {kind}")),
        _ => None,
    }
}

fn not_an_image(reference: &Reference, kind: &str) -> ImageError {
    malformed(reference.to_string(), format!("is an OCI artifact ({kind}), not a container image"))
}

fn image(reference: &Reference, bytes: &[u8]) -> Result<ImageManifest, ImageError> {
    let manifest: ImageManifest =
        serde_json::from_slice(bytes).map_err(|err| malformed(format!("manifest of {reference}"), err))?;
    let kind = manifest.config().media_type().as_ref();
    if !CONFIGS.contains(&kind) {
        return Err(not_an_image(reference, kind));
    }
    for (number, layer) in manifest.layers().iter().enumerate() {
        let kind = layer.media_type().as_ref();
        if !is_filesystem(layer.media_type()) {
            return Err(malformed(
                reference.to_string(),
                format!("layer {number} is {kind}: expected a tar archive, plain or packed by gzip or zstd"),
            ));
        }
        if hex(layer.digest().as_ref()).is_none() {
            let why = format!("layer {number} has the digest {}: expected sha256", layer.digest());
            return Err(malformed(reference.to_string(), why));
        }
    }
    Ok(manifest)
}

/// Layers of a container image, whoever wrote it: OCI's, docker's, and those that must not be pushed elsewhere.
fn is_filesystem(kind: &MediaType) -> bool {
    let kind = kind.as_ref();
    let base = ["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];
    let packed = [".tar", ".tar+gzip", ".tar+zstd", ".tar.gzip", ".tar.zstd"];
    base.iter().any(|base| kind.starts_with(base)) && packed.iter().any(|end| kind.ends_with(end))
}

/// What this machine runs.
struct Host {
    os: Os,
    architecture: Arch,
    /// Of amd64: 1 to 4 (x86-64-v1…v4); of arm: 5 to 7; of arm64: 8.
    level: u32,
}

impl Host {
    fn this() -> Self {
        let architecture = Arch::default();
        let level = match architecture {
            Arch::Amd64 => amd64_level(),
            Arch::ARM64 => 8,
            Arch::ARM => 7,
            _ => 0,
        };
        Self { os: Os::Linux, architecture, level }
    }

    /// How well a platform fits: more is better, `None` is not at all.
    fn fit(&self, platform: &Platform) -> Option<u32> {
        if *platform.os() != self.os || *platform.architecture() != self.architecture {
            return None;
        }
        let usual = match self.architecture {
            Arch::Amd64 => 1,
            Arch::ARM => 7,
            _ => self.level,
        };
        let level = match platform.variant().as_deref() {
            None | Some("") => usual,
            Some(variant) => variant.strip_prefix('v')?.parse().ok()?,
        };
        (level <= self.level).then_some(level)
    }
}

/// The level of the x86-64 psABI that this processor has.
fn amd64_level() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let v2 = has!("sse3")
            && has!("ssse3")
            && has!("sse4.1")
            && has!("sse4.2")
            && has!("popcnt")
            && has!("cmpxchg16b");
        let v3 = v2
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe");
        let v4 = v3
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl");
        1 + u32::from(v2) + u32::from(v3) + u32::from(v4)
    }
    #[cfg(not(target_arch = "x86_64"))]
    1
}

/// The entry of an index for `host`, the most advanced variant that it runs; an error names what there is.
fn select<'a>(
    reference: &Reference,
    entries: &'a [Descriptor],
    host: &Host,
) -> Result<&'a Descriptor, ImageError> {
    let fitting = entries.iter().filter_map(|entry| Some((host.fit(entry.platform().as_ref()?)?, entry)));
    // Of equals the first, as the index's author ordered them.
    let best = fitting.reduce(|best, next| if next.0 > best.0 { next } else { best });
    if let Some((_, entry)) = best {
        return Ok(entry);
    }
    // An index of one image need not say for which platform it is.
    if let [entry] = entries
        && entry.platform().is_none()
    {
        return Ok(entry);
    }
    let name = |platform: &Platform| {
        let variant = platform.variant().as_deref().map_or_else(String::new, |variant| format!("/{variant}"));
        format!("{}/{}{variant}", platform.os(), platform.architecture())
    };
    let mut known: Vec<String> =
        entries.iter().filter_map(|entry| entry.platform().as_ref()).map(name).collect();
    // Attestations of builders.
    known.retain(|name| name != "unknown/unknown");
    known.dedup();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let why = format!("has no image for {}/{}; its index has: {known}", host.os, host.architecture);
    Err(malformed(reference.to_string(), why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reference() -> Reference {
        "app".parse().expect("a name")
    }

    fn entry(number: usize, os: &str, architecture: &str, variant: &str) -> serde_json::Value {
        let mut platform = json!({ "os": os, "architecture": architecture });
        if !variant.is_empty() {
            platform["variant"] = variant.into();
        }
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
            "digest": format!("sha256:{number:064}"), "platform": platform })
    }

    #[test]
    fn the_best_variant_that_runs_is_chosen() {
        let host = |architecture, level| Host { os: Os::Linux, architecture, level };
        let cases = [
            (
                "only the right one",
                host(Arch::Amd64, 2),
                vec![("linux", "arm64", "v8"), ("linux", "amd64", "")],
                Some(1),
            ),
            ("another system", host(Arch::Amd64, 2), vec![("windows", "amd64", "")], None),
            (
                "the highest level",
                host(Arch::Amd64, 3),
                vec![("linux", "amd64", ""), ("linux", "amd64", "v3"), ("linux", "amd64", "v2")],
                Some(1),
            ),
            (
                "but none too high",
                host(Arch::Amd64, 2),
                vec![("linux", "amd64", "v3"), ("linux", "amd64", "")],
                Some(1),
            ),
            (
                "the first of equals",
                host(Arch::Amd64, 1),
                vec![("linux", "amd64", ""), ("linux", "amd64", "v1")],
                Some(0),
            ),
            ("arm64 without a variant is v8", host(Arch::ARM64, 8), vec![("linux", "arm64", "")], Some(0)),
            (
                "older arm",
                host(Arch::ARM, 6),
                vec![("linux", "arm", "v7"), ("linux", "arm", "v5"), ("linux", "arm", "v6")],
                Some(2),
            ),
            ("an attestation", host(Arch::Amd64, 1), vec![("unknown", "unknown", "")], None),
        ];
        for (name, host, platforms, expected) in cases {
            let entries = platforms
                .iter()
                .enumerate()
                .map(|(number, (os, arch, variant))| entry(number, os, arch, variant));
            let entries: Vec<Descriptor> =
                entries.map(|entry| serde_json::from_value(entry).expect(name)).collect();
            let found = select(&reference(), &entries, &host).ok();
            assert_eq!(found, expected.map(|at: usize| &entries[at]), "{name}");
        }
    }

    #[test]
    fn what_there_is_instead_is_listed() {
        let index = json!({ "schemaVersion": 2, "manifests": [entry(0, "linux", "s390x", ""), entry(1, "windows", "amd64", ""), entry(2, "linux", "arm", "v7"), entry(3, "unknown", "unknown", "")] });
        let index = index_of(&index).expect("an index").expect("an index");
        let host = Host { os: Os::Linux, architecture: Arch::Amd64, level: 3 };
        let error = select(&reference(), index.manifests(), &host).expect_err("none fits").to_string();
        assert_eq!(
            error,
            "docker.io/library/app:latest: has no image for linux/amd64; its index has: linux/s390x, windows/amd64, linux/arm/v7"
        );
    }

    fn index_of(value: &serde_json::Value) -> Result<Option<ImageIndex>, ImageError> {
        index(&reference(), value.to_string().as_bytes())
    }

    #[test]
    fn what_is_no_image_is_called_by_its_name() {
        let descriptor = |kind: &str| json!({ "mediaType": kind, "digest": format!("sha256:{}", "a".repeat(64)), "size": 1 });
        let manifest = |config: &str, layer: &str| json!({ "schemaVersion": 2, "config": descriptor(config), "layers": [descriptor(layer)] });
        let mut old = manifest(CONFIGS[0], "application/vnd.oci.image.layer.v1.tar");
        old["schemaVersion"] = 1.into();
        let mut signed = manifest(CONFIGS[0], "application/vnd.oci.image.layer.v1.tar");
        signed["artifactType"] = "application/vnd.sbom".into();
        let mut weak = manifest(CONFIGS[0], "application/vnd.oci.image.layer.v1.tar");
        weak["layers"][0]["digest"] = format!("sha512:{}", "a".repeat(128)).into();
        let cases = [
            (
                "a chart",
                manifest(
                    "application/vnd.cncf.helm.config.v1+json",
                    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                ),
                "is an OCI artifact (application/vnd.cncf.helm.config.v1+json)",
            ),
            ("an artifact by its type", signed, "is an OCI artifact (application/vnd.sbom)"),
            (
                "an artifact manifest",
                json!({ "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [] }),
                "is an OCI artifact",
            ),
            (
                "a layer that is a file",
                manifest(CONFIGS[1], "application/vnd.in-toto+json"),
                "layer 0 is application/vnd.in-toto+json",
            ),
            (
                "an encrypted layer",
                manifest(CONFIGS[0], "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
                "layer 0 is",
            ),
            ("schema 1", old, "schema 1"),
            ("another digest", weak, "expected sha256"),
            ("nothing", json!({}), "neither `manifests` nor `config`"),
            (
                "no digest",
                json!({ "config": { "mediaType": CONFIGS[0], "size": 1 }, "layers": [] }),
                "missing field",
            ),
        ];
        for (name, value, expected) in cases {
            let bytes = value.to_string();
            let outcome =
                index(&reference(), bytes.as_bytes()).and_then(|_| image(&reference(), bytes.as_bytes()));
            let error = outcome.map(|_| ()).expect_err(name).to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        for kind in [
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ] {
            let good = manifest(CONFIGS[1], kind).to_string();
            assert!(image(&reference(), good.as_bytes()).is_ok(), "{kind}");
        }
    }
}
