//! Names of images, as docker reads them: `[registry/]path[:tag][@digest]`.

use crate::ImageError;
use std::{fmt, str::FromStr};

const DEFAULT_REGISTRY: &str = "docker.io";

/// A full name: registry, repository, and a tag or digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    /// `latest` where nothing was said.
    pub tag: Option<String>,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self, ImageError> {
        let invalid = |why| ImageError::InvalidName { name: name.to_owned(), why };
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (name, None),
        };
        if let Some(digest) = &digest {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            let valid = hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            valid
                .then_some(())
                .ok_or_else(|| invalid("the digest is not sha256: and 64 hexadecimal digits"))?;
        }
        // A colon after the last slash is a tag's; one before may be a port's.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.to_owned(), rest.to_owned())
            }
            _ => (DEFAULT_REGISTRY.to_owned(), path.to_owned()),
        };
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        let part = |part: &str| {
            let inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
            let edge = |byte: Option<u8>| {
                byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            };
            part.bytes().all(inner) && edge(part.bytes().next()) && edge(part.bytes().last())
        };
        if !repository.split('/').all(part) || path.ends_with('/') || path.is_empty() {
            return Err(invalid("a repository is lower case letters, digits and . _ - between slashes"));
        }
        if let Some(tag) = &tag {
            let valid = (1..=128).contains(&tag.len())
                && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            valid.then_some(()).ok_or_else(|| invalid("a tag is up to 128 letters, digits and . _ -"))?;
        }
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry, repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_filled_in() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            ("me/app", "docker.io/me/app:latest".to_owned()),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c".to_owned()),
            ("quay.io/a/b", "quay.io/a/b:latest".to_owned()),
            (&format!("nginx@{digest}"), format!("docker.io/library/nginx@{digest}")),
        ];
        for (name, expected) in cases {
            assert_eq!(name.parse::<Reference>().expect(name).to_string(), expected);
        }
        for bad in ["", "UPPER/case", "a:", "a b", "a/", "a@sha256:12", "-a", "a:b c"] {
            assert!(matches!(bad.parse::<Reference>(), Err(ImageError::InvalidName { .. })), "{bad:?}");
        }
    }
}
