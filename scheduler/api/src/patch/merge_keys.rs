//! Which lists are merged, and by which field (`x-kubernetes-patch-merge-key` of upstream's types).

/// What a strategic merge patch does to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListStrategy {
    /// The patch's list takes the place of the old one.
    Replace,
    /// Items with the same value of this field are merged.
    MergeBy(&'static str),
    /// A set of scalars: the patch's items are added.
    Set,
}

/// (parent field, field) → merge key. The parent `*` is any.
const KEYS: [(&str, &str, &str); 20] = [
    ("*", "env", "name"),
    ("*", "containers", "name"),
    ("*", "initContainers", "name"),
    ("*", "ephemeralContainers", "name"),
    ("*", "imagePullSecrets", "name"),
    ("*", "schedulingGates", "name"),
    ("*", "volumes", "name"),
    ("*", "resourceClaims", "name"),
    ("containers", "ports", "containerPort"),
    ("initContainers", "ports", "containerPort"),
    ("ephemeralContainers", "ports", "containerPort"),
    ("spec", "ports", "port"),
    ("*", "volumeMounts", "mountPath"),
    ("*", "volumeDevices", "devicePath"),
    ("*", "topologySpreadConstraints", "topologyKey"),
    ("*", "hostAliases", "ip"),
    ("status", "podIPs", "ip"),
    ("metadata", "ownerReferences", "uid"),
    ("status", "conditions", "type"),
    ("status", "addresses", "type"),
];

/// How the list at `path` (field names from the object's root, without indices) is patched.
pub fn list_strategy(path: &[&str]) -> ListStrategy {
    let (field, parent) = match path {
        [.., parent, field] => (*field, *parent),
        [field] => (*field, ""),
        [] => return ListStrategy::Replace,
    };
    if (parent, field) == ("metadata", "finalizers") || (parent, field) == ("spec", "podCIDRs") {
        return ListStrategy::Set;
    }
    // The `secrets` of a ServiceAccount are the only list of that name at the top.
    if path == ["secrets"] {
        return ListStrategy::MergeBy("name");
    }
    let found = KEYS.iter().find(|(above, name, _)| *name == field && (*above == "*" || *above == parent));
    found.map_or(ListStrategy::Replace, |(_, _, key)| ListStrategy::MergeBy(key))
}

/// The field that tells the items of the list at `path` apart, if they are merged by one.
pub fn merge_key(path: &[&str]) -> Option<&'static str> {
    match list_strategy(path) {
        ListStrategy::MergeBy(key) => Some(key),
        _ => None,
    }
}
