//! Names of containers.

use crate::SpecError;
use std::{fmt, str::FromStr};

/// Name of a container, unique on one node. Invariant: 1..=255 bytes of `[A-Za-z0-9_.+-]`, neither `.` nor `..`:
/// always one safe path component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl FromStr for ContainerId {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
        let valid =
            (1..=255).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != "..";
        let allowed = "allowed are 1 to 255 of A-Z a-z 0-9 _ . + -, but not . or ..";
        valid.then(|| Self(text.to_owned())).ok_or(SpecError::Name {
            what: "invalid container ID format:",
            value: text.to_owned(),
            allowed,
        })
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ContainerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_safe_path_component() {
        let long = "a".repeat(256);
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0", long.as_str()] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        for good in ["a", "web-1_2.3+x", &"a".repeat(255)] {
            assert_eq!(good.parse::<ContainerId>().expect("valid").as_ref(), good);
        }
    }
}
