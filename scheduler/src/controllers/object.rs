//! Reading the JSON of API objects: text, numbers, times, canonical hashes; merge patches for writing them.
//!
//! Objects that reach controllers went through validation, so a missing or ill-typed field reads as its zero value.

use serde_json::{Map, Value};
use std::hash::Hasher;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// The text of a string, else empty.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The text of a string, else empty, as a `String`.
pub fn string(value: &Value) -> String {
    text(value).to_owned()
}

/// The number, else 0.
pub fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// The elements of a list; nothing when it is absent.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A map of strings, sorted.
pub fn string_map(value: &Value) -> std::collections::BTreeMap<String, String> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), string(value))).collect()
}

/// Seconds since the epoch of an RFC 3339 time.
pub fn time_s(value: &Value) -> Option<i64> {
    OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// `2026-11-23T19:05:41Z`, as `metav1.Time` is written.
pub fn rfc3339(unix_s: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(unix_s).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    at.format(&format).expect("a UTC time formats")
}

/// `2026-11-23T19:05:41.123456Z`, as `metav1.MicroTime` is written.
pub fn rfc3339_micro(unix_ns: u64) -> String {
    let at =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ns)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    at.format(&format).expect("a UTC time formats")
}

/// FNV-1a; stable across builds, so that names derived from it stay the same.
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Hash of a value that does not depend on the order of keys.
pub fn canonical_hash(value: &Value) -> u64 {
    let mut hasher = Fnv::default();
    hash_into(value, &mut hasher);
    hasher.finish()
}

fn hash_into(value: &Value, hasher: &mut Fnv) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            hasher.write(b"{");
            for key in keys {
                hasher.write(key.as_bytes());
                hasher.write(b":");
                hash_into(&map[key], hasher);
            }
            hasher.write(b"}");
        }
        Value::Array(list) => {
            hasher.write(b"[");
            for item in list {
                hash_into(item, hasher);
                hasher.write(b",");
            }
            hasher.write(b"]");
        }
        other => hasher.write(other.to_string().as_bytes()),
    }
}

/// Text of a number in Kubernetes' alphabet for generated names (no vowels, nothing that looks like another).
pub fn safe_encode(number: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    number.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % 27])).collect()
}

/// Applies an RFC 7386 merge patch; true when it changed something.
pub fn merge(target: &mut Value, patch: &Value) -> bool {
    let Value::Object(patch) = patch else {
        let changed = target != patch;
        *target = patch.clone();
        return changed;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return false };
    let mut changed = false;
    for (key, value) in patch {
        if value.is_null() {
            changed |= target.remove(key).is_some();
        } else {
            let before = target.len();
            changed |= merge(target.entry(key.as_str()).or_insert(Value::Null), value);
            changed |= target.len() != before;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn key_order_does_not_matter_for_the_hash_but_list_order_does() {
        let parse = |text: &str| canonical_hash(&serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(parse(r#"{"a":1,"b":[1,2]}"#), parse(r#"{"b":[1,2],"a":1}"#));
        assert_ne!(parse(r#"{"a":[1,2]}"#), parse(r#"{"a":[2,1]}"#));
        assert_ne!(parse(r#"{"a":{"b":1}}"#), parse(r#"{"a":{},"b":1}"#));
    }

    #[test]
    fn merge_tells_whether_it_changed_something() {
        let mut value = json!({"a": {"b": 1}, "c": [1]});
        assert!(!merge(&mut value, &json!({"a": {"b": 1}, "c": [1], "absent": null})));
        assert!(merge(&mut value, &json!({"a": {"b": null, "d": 2}})));
        assert_eq!(value, json!({"a": {"d": 2}, "c": [1]}));
    }

    #[test]
    fn times_read_back_as_written() {
        assert_eq!(rfc3339(1_795_460_741), "2026-11-23T19:05:41Z");
        assert_eq!(time_s(&json!("2026-11-23T19:05:41Z")), Some(1_795_460_741));
        assert_eq!(time_s(&json!("2026-11-23T19:05:41.5+00:00")), Some(1_795_460_741));
        assert_eq!(time_s(&Value::Null), None);
    }
}
