//! Images: names, registries, a content store, layers, and the writable layer of each container.
//!
//! On disk, below `<state>`: `images/<manifest digest>.json` (names, config, layers), `layers/<diff id>/` (unpacked once, never changed),
//! `snapshots/<container>/{upper,work,root}` (or `root` alone, a copy, where overlayfs cannot be mounted), `used/<manifest digest>` (when it was
//! last used), `staging/` (what is being made; emptied at start).
//!
//! Invariants: what is under `layers/` and `images/` is whole and verified, because it is renamed there after it was synced; nothing is mounted on the
//! host: a container's overlay is mounted in its own mount namespace by the runtime.
#![forbid(unsafe_code)]

mod archive;
mod copy;
mod credentials;
mod embedded;
mod error;
mod export;
mod gc;
mod image;
mod layer;
mod login;
mod manifest;
mod merged;
mod overlay;
mod pack;
mod pull;
mod reference;
mod registries;
mod registry;
pub mod remove;
mod snapshot;
mod sparse;
mod store;
mod tarball;
mod unpack;
mod usage;
mod users;
mod whiteout;

pub use error::ImageError;
pub use export::{Details, Format};
pub use gc::{Collected, Disk, Policy};
pub use image::Image;
pub use pull::{Credential, Progress};
pub use reference::Reference;
pub use registries::Registries;
pub use snapshot::{Overlay, Snapshot};
pub use store::ImageStore;
pub use users::User;

/// For tests and fuzzing of what layers may do: not part of what this library offers.
#[doc(hidden)]
pub use {
    layer::{Unpacked, unpack as unpack_layer},
    unpack::Limits,
};

/// The image that is part of this library.
pub const HELLO_IMAGE: &str = "wherry.local/hello:latest";
