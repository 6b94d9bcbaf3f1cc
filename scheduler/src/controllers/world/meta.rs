//! What every object has: where it is, who owns it, whether it is going.

use crate::controllers::object::{int, items, string, string_map, text, time_s};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt};

/// Name within a namespace; cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsName {
    pub namespace: String,
    pub name: String,
}

impl NsName {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for NsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// An object of any kind: resource with group (`pods`, `deployments.apps`), namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub resource: String,
    pub at: NsName,
}

impl ObjectKey {
    pub fn new(resource: &str, at: &NsName) -> Self {
        Self { resource: resource.to_owned(), at: at.clone() }
    }

    /// Reads the store's key: `/<resource>[.<group>]/<namespace>/<name>`, the namespace empty or left out when
    /// there is none.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.trim_start_matches('/').split('/');
        let resource = parts.next()?.trim_end_matches('.');
        let (first, second) = (parts.next()?, parts.next());
        let at = second.map_or_else(|| NsName::new("", first), |name| NsName::new(first, name));
        Some(Self { resource: resource.to_owned(), at })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.resource, self.at)
    }
}

/// One `metadata.ownerReferences` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: bool,
    pub blocks_deletion: bool,
}

/// The part of `metadata` that controllers use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    pub at: NsName,
    pub uid: String,
    pub generation: i64,
    pub revision: u64,
    pub labels: BTreeMap<String, String>,
    pub owners: Vec<Owner>,
    pub finalizers: Vec<String>,
    pub created_s: i64,
    pub deleted_s: Option<i64>,
}

impl Meta {
    pub fn parse(object: &Value, revision: u64) -> Self {
        let meta = &object["metadata"];
        Self {
            at: NsName::new(text(&meta["namespace"]), text(&meta["name"])),
            uid: string(&meta["uid"]),
            generation: int(&meta["generation"]),
            revision,
            labels: string_map(&meta["labels"]),
            owners: items(&meta["ownerReferences"]).iter().map(parse_owner).collect(),
            finalizers: items(&meta["finalizers"]).iter().map(string).collect(),
            created_s: time_s(&meta["creationTimestamp"]).unwrap_or_default(),
            deleted_s: time_s(&meta["deletionTimestamp"]),
        }
    }

    /// The owner that manages this object, if any.
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|owner| owner.controller)
    }

    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }

    pub fn is_deleting(&self) -> bool {
        self.deleted_s.is_some()
    }
}

impl Owner {
    /// As it stands in `metadata.ownerReferences`.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid,
        });
        if self.controller {
            value["controller"] = true.into();
        }
        if self.blocks_deletion {
            value["blockOwnerDeletion"] = true.into();
        }
        value
    }
}

fn parse_owner(value: &Value) -> Owner {
    Owner {
        api_version: string(&value["apiVersion"]),
        kind: string(&value["kind"]),
        name: string(&value["name"]),
        uid: string(&value["uid"]),
        controller: value["controller"] == true,
        blocks_deletion: value["blockOwnerDeletion"] == true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_keys_name_resource_namespace_and_name() {
        let cases = [
            ("/pods/default/a", Some(("pods", "default", "a"))),
            ("/pods./default/a", Some(("pods", "default", "a"))),
            ("/deployments.apps/ns/web", Some(("deployments.apps", "ns", "web"))),
            ("/nodes//one", Some(("nodes", "", "one"))),
            ("/nodes/one", Some(("nodes", "", "one"))),
            ("/nodes", None),
        ];
        for (key, expected) in cases {
            let expected = expected.map(|(resource, namespace, name)| ObjectKey {
                resource: resource.into(),
                at: NsName::new(namespace, name),
            });
            assert_eq!(ObjectKey::parse(key), expected, "{key}");
        }
    }
}
