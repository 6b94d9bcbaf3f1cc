//! The image that comes with the library: a static web server, so that a first pod needs no registry.

use crate::{
    HELLO_IMAGE, ImageError, ImageStore,
    error::malformed,
    image::{Config, Record},
    layer::to_hex,
};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

const BINARY: &[u8] = include_bytes!(env!("HELLO_BINARY"));

/// Makes the image known unless it is; the digest is the same for the same build of the server.
pub fn install(store: &ImageStore) -> Result<(), ImageError> {
    let layer = layer().map_err(|err| malformed(HELLO_IMAGE, err))?;
    let diff_id = digest(&layer);
    let config = Config {
        entrypoint: vec!["/hello".to_owned()],
        env: vec!["PATH=/".to_owned()],
        user: "65532:65532".to_owned(),
        working_dir: "/".to_owned(),
        ..Config::default()
    };
    let digest = format!("sha256:{}", digest(format!("{HELLO_IMAGE} {diff_id}").as_bytes()));
    let reference = HELLO_IMAGE.parse::<crate::Reference>()?;
    if store.resolve(&reference).is_some_and(|image| image.digest == digest) {
        return Ok(());
    }
    store.add_layer(&diff_id, None, layer.as_slice())?;
    let version = format!("wherry.local/hello:{}", env!("CARGO_PKG_VERSION"));
    let names = vec![reference.to_string(), version];
    store.add_image(Record {
        names,
        digest,
        size_bytes: layer.len() as u64,
        diff_ids: vec![diff_id],
        config,
    })?;
    Ok(())
}

fn layer() -> std::io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    let mut add = |kind: EntryType, path: &str, mode: u32, content: &[u8]| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, content)
    };
    add(EntryType::Directory, "etc/", 0o755, b"")?;
    add(EntryType::Directory, "tmp/", 0o1777, b"")?;
    add(EntryType::Regular, "etc/passwd", 0o644, b"root:x:0:0:root:/:/\nhello:x:65532:65532:hello:/:/\n")?;
    add(EntryType::Regular, "etc/group", 0o644, b"root:x:0:\nhello:x:65532:\n")?;
    add(EntryType::Regular, "hello", 0o755, BINARY)?;
    builder.into_inner()
}

fn digest(bytes: &[u8]) -> String {
    to_hex(Sha256::new_with_prefix(bytes))
}
