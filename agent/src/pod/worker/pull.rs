//! The image of a container: here already, or pulled.

use crate::{
    clock::{SECOND_NS, now_ns},
    host::Host,
};
use agent_protocol::PullPolicy;
use rootfs::{Credential, Image, ImageError, Reference};
use std::sync::Arc;

/// A pull that failed, as kubelet names it.
pub struct ImageFailure {
    pub reason: &'static str,
    pub message: String,
}

/// The image of that name by the pull policy; whether it was pulled.
pub async fn image(
    host: &Host,
    name: &str,
    policy: PullPolicy,
    credentials: &[Credential],
) -> Result<(Image, bool), ImageFailure> {
    let reference: Reference = name.parse().map_err(|err: ImageError| ImageFailure {
        reason: "InvalidImageName",
        message: format!("Failed to apply default image tag \"{name}\": {err}"),
    })?;
    let mut present = host.images.resolve(&reference);
    if let Some(image) = &present
        // Garbage collection may just have taken it; from here on it leaves it alone.
        && !mark_used(host, image)?
    {
        present = None;
    }
    // What is built in has no registry to be newer in.
    let built_in = reference.registry == "wherry.local";
    match (present, policy) {
        (Some(image), PullPolicy::IfNotPresent | PullPolicy::Never) => return Ok((image, false)),
        (Some(image), PullPolicy::Always) if built_in => return Ok((image, false)),
        (None, PullPolicy::Never) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            return Err(ImageFailure { reason: "ErrImageNeverPull", message });
        }
        _ => {}
    }
    let pulled = host.images.pull(&reference, credentials, Arc::new(|_| {})).await;
    let failed = |err: ImageError| ImageFailure {
        reason: "ErrImagePull",
        message: format!("failed to pull and unpack image \"{reference}\": {}", crate::chain(&err)),
    };
    pulled.map(|image| (image, true)).map_err(failed)
}

fn mark_used(host: &Host, image: &Image) -> Result<bool, ImageFailure> {
    let marked = host.images.mark_used(&image.digest, now_ns() / SECOND_NS);
    marked.map_err(|err| ImageFailure { reason: "ErrImagePull", message: crate::chain(&err) })
}
