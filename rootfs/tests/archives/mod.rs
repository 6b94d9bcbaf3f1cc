//! Archives of images for tests.

use sha2::{Digest, Sha256};
use std::{fs, path::Path};

/// An archive of regular files; a name that ends in `/` is a directory.
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        let directory = name.ends_with('/');
        header.set_entry_type(if directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).expect("appended");
    }
    builder.into_inner().expect("finished")
}

/// What `docker save` writes, into a file.
pub fn save(path: &Path, tag: &str, layers: &[Vec<u8>]) {
    let hex =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let config =
        serde_json::json!({"rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {"User": "web"}});
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
    let (config, manifest) = (config.to_string(), manifest.to_string());
    let mut files = vec![("manifest.json", manifest.as_bytes()), ("config.json", config.as_bytes())];
    files.extend(names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)));
    fs::write(path, archive(&files)).expect("written");
}
