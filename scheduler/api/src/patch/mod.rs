//! The patches of the Kubernetes API: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and strategic merge patch.

mod merge_keys;
mod strategic;

pub use merge_keys::{ListStrategy, list_strategy, merge_key};
pub use strategic::strategic;

use serde_json::Value;

#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch of its kind.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not go with the object: a `test` that fails, a path that is not there.
    #[error("{0}")]
    DoesNotApply(String),
}

/// Applies a JSON merge patch: `null` deletes, objects are merged, all else is replaced.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// Applies a JSON patch, whole or not at all.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|err| PatchError::Malformed(err.to_string()))?;
    json_patch::patch(target, &patch).map_err(|err| PatchError::DoesNotApply(err.to_string()))
}
