//! `TYPE`, `TYPE/NAME` and paths of the API, as words of the command line name them.

use crate::error::CtlError;
use api::Resource;

/// Objects of one type: all of them, or one by name.
#[derive(Clone, Debug)]
pub struct Target {
    pub resource: &'static Resource,
    pub name: Option<String>,
}

/// The type that `word` names: plural, singular, short name or kind, with or without `.group`.
pub fn find(word: &str) -> Result<&'static Resource, CtlError> {
    let lower = word.to_ascii_lowercase();
    let (name, group) =
        lower.split_once('.').map_or((lower.as_str(), None), |(name, group)| (name, Some(group)));
    let matches = |resource: &&'static Resource| {
        let named = resource.plural == name
            || resource.singular == name
            || resource.kind.eq_ignore_ascii_case(name)
            || resource.short_names.contains(&name);
        named
            && group.is_none_or(|group| {
                group == resource.group || group.ends_with(&format!(".{}", resource.group))
            })
    };
    api::resource::RESOURCES.iter().copied().find(matches).ok_or_else(|| {
        let known: Vec<&str> = api::resource::RESOURCES.iter().map(|resource| resource.plural).collect();
        CtlError::Usage(format!("there is no resource type {word:?}; there are {}", known.join(", ")))
    })
}

/// Reads `TYPE`, `TYPE NAME…`, `TYPE/NAME…` and `TYPE,TYPE`; `all` stands for pods, services, deployments and replica sets.
pub fn targets(words: &[String]) -> Result<Vec<Target>, CtlError> {
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| {
                let (kind, name) = word
                    .split_once('/')
                    .filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
                    .ok_or_else(|| CtlError::Usage(format!("{word:?} is not TYPE/NAME")))?;
                Ok(Target { resource: find(kind)?, name: Some(name.to_owned()) })
            })
            .collect();
    }
    let Some((types, names)) = words.split_first() else {
        return Err(CtlError::Usage("name a resource type, for example pods".to_owned()));
    };
    let types = if types == "all" { "pods,services,deployments,replicasets" } else { types };
    let mut targets = Vec::new();
    for word in types.split(',') {
        let resource = find(word)?;
        match names {
            [] => targets.push(Target { resource, name: None }),
            names => targets.extend(names.iter().map(|name| Target { resource, name: Some(name.clone()) })),
        }
    }
    Ok(targets)
}

/// Path of a collection; `namespace: None` spans all namespaces.
pub fn collection(resource: &Resource, namespace: Option<&str>) -> String {
    let root = match resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    match namespace.filter(|_| resource.namespaced) {
        Some(namespace) => format!("{root}/namespaces/{}/{}", encode(namespace), resource.plural),
        None => format!("{root}/{}", resource.plural),
    }
}

/// Path of one object.
pub fn object(resource: &Resource, namespace: &str, name: &str) -> String {
    format!("{}/{}", collection(resource, Some(namespace)), encode(name))
}

/// `deployment.apps/web`, as `-o name` and messages have it.
pub fn label(resource: &Resource, name: &str) -> String {
    match resource.group {
        "" => format!("{}/{name}", resource.singular),
        group => format!("{}.{group}/{name}", resource.singular),
    }
}

/// Percent-encodes what may not stand in a path segment or query value.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn every_way_to_name_objects() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&["po"], &["pods"]),
            (&["Deployment", "a", "b"], &["deployments/a", "deployments/b"]),
            (&["deploy/a", "svc/b"], &["deployments/a", "services/b"]),
            (&["cm,secrets"], &["configmaps", "secrets"]),
            (&["deployments.apps"], &["deployments"]),
        ];
        for (given, expected) in cases {
            let got: Vec<String> = targets(&words(given))
                .expect("known")
                .into_iter()
                .map(|target| match target.name {
                    Some(name) => format!("{}/{name}", target.resource.plural),
                    None => target.resource.plural.to_owned(),
                })
                .collect();
            assert_eq!(got, expected, "{given:?}");
        }
    }

    #[test]
    fn unknown_types_are_named_with_the_known_ones() {
        let err = targets(&words(&["pots"])).expect_err("unknown").to_string();
        assert!(err.contains("\"pots\"") && err.contains("pods"), "{err}");
        assert!(targets(&words(&["pod/"])).is_err());
    }

    #[test]
    fn paths_follow_group_and_scope() {
        let path = |word, namespace| collection(find(word).expect("known"), namespace);
        assert_eq!(path("pods", Some("a")), "/api/v1/namespaces/a/pods");
        assert_eq!(path("pods", None), "/api/v1/pods");
        assert_eq!(path("deploy", Some("a")), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(path("nodes", Some("a")), "/api/v1/nodes");
    }
}
