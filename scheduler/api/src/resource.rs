//! The kinds of objects that are served: names, scope, and what can be done with them.

use std::fmt;

/// One served kind. Displayed as errors name it: `pods`, `deployments.apps`.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// Whether `status` is a subresource of its own, which writes to the object leave alone.
    pub status: bool,
    /// Whether there is a `scale` subresource.
    pub scale: bool,
    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    pub generation: bool,
}

const NONE: Resource = Resource {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    status: false,
    scale: false,
    generation: false,
};

pub static NAMESPACES: Resource = Resource {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    status: true,
    ..NONE
};
pub static NODES: Resource = Resource {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    status: true,
    ..NONE
};
pub static PODS: Resource = Resource {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    status: true,
    generation: true,
    ..NONE
};
pub static SERVICES: Resource = Resource {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    status: true,
    ..NONE
};
pub static CONFIG_MAPS: Resource =
    Resource { kind: "ConfigMap", plural: "configmaps", singular: "configmap", short_names: &["cm"], ..NONE };
pub static SECRETS: Resource = Resource { kind: "Secret", plural: "secrets", singular: "secret", ..NONE };
pub static SERVICE_ACCOUNTS: Resource = Resource {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    ..NONE
};
pub static EVENTS: Resource =
    Resource { kind: "Event", plural: "events", singular: "event", short_names: &["ev"], ..NONE };
pub static DEPLOYMENTS: Resource = Resource {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    status: true,
    scale: true,
    generation: true,
    ..NONE
};
pub static REPLICA_SETS: Resource = Resource {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    status: true,
    scale: true,
    generation: true,
    ..NONE
};
pub static ENDPOINT_SLICES: Resource = Resource {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    generation: true,
    ..NONE
};
pub static LEASES: Resource =
    Resource { group: "coordination.k8s.io", kind: "Lease", plural: "leases", singular: "lease", ..NONE };

/// Everything served, in the order of discovery.
pub static RESOURCES: &[&Resource] = &[
    &NAMESPACES,
    &NODES,
    &PODS,
    &SERVICES,
    &CONFIG_MAPS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &EVENTS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &ENDPOINT_SLICES,
    &LEASES,
];

impl Resource {
    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(self.plural)
        } else {
            write!(f, "{}.{}", self.plural, self.group)
        }
    }
}

/// The served resource of that name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    let wanted = |r: &&&Resource| r.group == group && r.version == version && r.plural == plural;
    RESOURCES.iter().find(wanted).copied()
}
