//! Capabilities that a newer kernel than this program may know: left out, as runc does, instead of refusing the container.

use crate::oci::Capability;
use serde_json::Value;

const SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];

/// The text of a config.json or process.json without the capabilities that are not known, each of which `unknown` is told; `None` where all are.
pub fn without_unknown(text: &[u8], unknown: &mut dyn FnMut(&str)) -> Option<Vec<u8>> {
    let mut json: Value = serde_json::from_slice(text).ok()?;
    let mut found = false;
    for process in ["/process", ""] {
        for set in SETS {
            let pointer = format!("{process}/capabilities/{set}");
            let Some(names) = json.pointer_mut(&pointer).and_then(Value::as_array_mut) else { continue };
            names.retain(|name| {
                let name =
                    name.as_str().filter(|_| serde_json::from_value::<Capability>(name.clone()).is_err());
                if let Some(name) = name {
                    found = true;
                    unknown(&format!("{}.{name}", pointer[1..].replace('/', ".")));
                }
                name.is_none()
            });
        }
    }
    found.then(|| json.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_left_out_and_told() {
        let mut told = Vec::new();
        let text = br#"{"process": {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_NOPE"], "effective": ["CAP_NOPE"]}}}"#;
        let known = without_unknown(text, &mut |name| told.push(name.to_owned())).expect("some are unknown");
        let known: Value = serde_json::from_slice(&known).expect("JSON");
        assert_eq!(known.pointer("/process/capabilities/bounding"), Some(&serde_json::json!(["CAP_CHOWN"])));
        assert_eq!(
            told,
            ["process.capabilities.bounding.CAP_NOPE", "process.capabilities.effective.CAP_NOPE"]
        );
        assert_eq!(without_unknown(br#"{"capabilities": {"ambient": ["CAP_KILL"]}}"#, &mut |_| {}), None);
    }
}
