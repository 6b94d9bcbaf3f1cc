//! What an object is given when it does not say.

use crate::{Resource, resource};
use serde_json::{Value, json};

/// Fills in defaults; doing it twice changes nothing.
pub fn set_defaults(resource: &Resource, object: &mut Value) {
    if resource == &resource::DEPLOYMENTS || resource == &resource::REPLICA_SETS {
        default(object, "spec", "replicas", json!(1));
    }
    if resource == &resource::SERVICES {
        default(object, "spec", "type", json!("ClusterIP"));
    }
}

fn default(object: &mut Value, part: &str, field: &str, value: Value) {
    if object[part].is_object() && object[part][field].is_null() {
        object[part][field] = value;
    }
}
