//! What a request is about: resource, namespace, name and subresource out of its path.

use api::{Resource, resource};

/// A path below `/api/v1` or `/apis/<group>/<version>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub resource: &'static Resource,
    /// Empty: all namespaces, or a cluster-scoped resource.
    pub namespace: String,
    /// Empty: the collection.
    pub name: String,
    /// Empty: the object itself.
    pub subresource: String,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    Version,
    /// `healthz`, `livez` or `readyz`.
    Health,
    Core,
    Groups,
    Group(String),
    /// `/api/v1` or `/apis/G/V`.
    GroupVersion {
        group: String,
        version: String,
    },
    OpenApiIndex,
    OpenApi(String),
    Object(Target),
    /// A POST that answers a question and stores nothing.
    Review {
        group: String,
        plural: String,
    },
    Unknown,
}

impl Target {
    /// For [`crate::registry::Registry`]: `None` is all namespaces.
    pub fn scope(&self) -> Option<&str> {
        Some(self.namespace.as_str()).filter(|namespace| !namespace.is_empty())
    }
}

impl Path {
    pub fn parse(path: &str) -> Self {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        match segments.as_slice() {
            ["version"] => Self::Version,
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["api"] => Self::Core,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group((*group).into()),
            ["openapi", "v3"] => Self::OpenApiIndex,
            ["openapi", "v3", rest @ ..] => Self::OpenApi(rest.join("/")),
            ["api", version, rest @ ..] => Self::versioned("", version, rest),
            ["apis", group, version, rest @ ..] => Self::versioned(group, version, rest),
            _ => Self::Unknown,
        }
    }

    fn versioned(group: &str, version: &str, rest: &[&str]) -> Self {
        let (namespace, rest) = match rest {
            [] => return Self::GroupVersion { group: group.into(), version: version.into() },
            // Below a namespace, but for the subresources of the namespace itself.
            ["namespaces", namespace, rest @ ..]
                if !rest.is_empty() && !matches!(rest, ["status" | "finalize"]) =>
            {
                (*namespace, rest)
            }
            rest => ("", rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", String::new()),
            [plural, name] => (*plural, *name, String::new()),
            [plural, name, subresource @ ..] => (*plural, *name, subresource.join("/")),
            [] => return Self::Unknown,
        };
        if matches!(group, "authorization.k8s.io" | "authentication.k8s.io") && name.is_empty() {
            return Self::Review { group: group.into(), plural: plural.into() };
        }
        let Some(resource) = resource::find(group, version, plural) else { return Self::Unknown };
        if !resource.namespaced && !namespace.is_empty() {
            return Self::Unknown;
        }
        let decode = |text: &str| percent_decode(text);
        let (namespace, name) = (decode(namespace), decode(name));
        Self::Object(Target { resource, namespace, name, subresource })
    }
}

/// `%41` to `A`; what is no escape stays.
fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::resource::{DEPLOYMENTS, NAMESPACES, PODS};

    fn target(resource: &'static Resource, namespace: &str, name: &str, subresource: &str) -> Path {
        let (namespace, name) = (namespace.into(), name.into());
        Path::Object(Target { resource, namespace, name, subresource: subresource.into() })
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/version/", Path::Version),
            ("/livez/ping", Path::Health),
            ("/api", Path::Core),
            ("/apis/", Path::Groups),
            ("/apis/apps", Path::Group("apps".into())),
            ("/api/v1", Path::GroupVersion { group: "".into(), version: "v1".into() }),
            ("/api/v1/pods", target(&PODS, "", "", "")),
            ("/api/v1/namespaces/n/pods/web/log", target(&PODS, "n", "web", "log")),
            ("/api/v1/namespaces", target(&NAMESPACES, "", "", "")),
            ("/api/v1/namespaces/n", target(&NAMESPACES, "", "n", "")),
            ("/api/v1/namespaces/n/finalize", target(&NAMESPACES, "", "n", "finalize")),
            ("/apis/apps/v1/namespaces/n/deployments/web/scale", target(&DEPLOYMENTS, "n", "web", "scale")),
            ("/apis/apps/v1/namespaces/n/deployments/a%2Eb", target(&DEPLOYMENTS, "n", "a.b", "")),
            ("/openapi/v3/apis/apps/v1", Path::OpenApi("apis/apps/v1".into())),
            (
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                Path::Review {
                    group: "authorization.k8s.io".into(),
                    plural: "selfsubjectaccessreviews".into(),
                },
            ),
            ("/apis/apps/v1/sprockets", Path::Unknown),
            ("/favicon.ico", Path::Unknown),
        ] {
            assert_eq!(Path::parse(path), expected, "{path}");
        }
    }
}
