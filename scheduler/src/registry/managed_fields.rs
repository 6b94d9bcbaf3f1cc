//! `metadata.managedFields`: which manager wrote to an object, when, and through which subresource.

use super::{WriteOptions, object::metadata};
use serde_json::{Value, json};

const CONTROL_PLANE: &str = "wherry-scheduler";

/// Notes a write with operation `Update`.
pub fn record(object: &mut Value, options: &WriteOptions, subresource: &str, now: &str) {
    let manager =
        if options.field_manager.is_empty() { CONTROL_PLANE } else { options.field_manager.as_str() };
    let api_version = object["apiVersion"].clone();
    let fields = metadata(object).entry("managedFields").or_insert_with(|| json!([]));
    if !fields.is_array() {
        *fields = json!([]);
    }
    let entries = fields.as_array_mut().expect("just made sure");
    let same = |entry: &&mut Value| {
        entry["manager"] == manager
            && entry["operation"] == "Update"
            && entry["subresource"].as_str().unwrap_or_default() == subresource
    };
    if let Some(entry) = entries.iter_mut().find(same) {
        entry["time"] = json!(now);
        entry["apiVersion"] = api_version;
        return;
    }
    let mut entry = json!({
        "manager": manager, "operation": "Update", "apiVersion": api_version, "time": now,
        "fieldsType": "FieldsV1", "fieldsV1": {},
    });
    if !subresource.is_empty() {
        entry["subresource"] = json!(subresource);
    }
    entries.push(entry);
}
