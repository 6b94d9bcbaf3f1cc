//! `registries.toml`: how each registry is reached.
//!
//! ```toml
//! ["docker.io"]
//! mirrors = ["http://127.0.0.1:5000"]   # asked first, in order; the registry itself last
//! ["registry.example:5000"]
//! plain_http = true
//! ca_file = "/etc/wherry/example-ca.pem"
//! username = "me"
//! password = "secret"
//! ```

use crate::{ImageError, error::io_error};
use serde::Deserialize;
use std::{collections::BTreeMap, fs, io, path::Path};

/// Every registry that is not reached in the usual way, by host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Registries(pub BTreeMap<String, Registry>);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    pub mirrors: Vec<String>,
    pub plain_http: bool,
    pub ca_file: Option<std::path::PathBuf>,
    pub username: Option<String>,
    pub password: Option<String>,
}

/// Where to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host, and port if it has one.
    pub host: String,
    pub plain_http: bool,
}

impl Registries {
    /// Reads the file; one that does not exist says nothing.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let text = match fs::read_to_string(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(io_error("read", path))?,
        };
        toml::from_str(&text)
            .map_err(|err| ImageError::Malformed { what: path.display().to_string(), why: err.to_string() })
    }

    /// The endpoints of a registry, in the order to ask them.
    pub fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let own = self.0.get(registry);
        let mirrors =
            own.into_iter().flat_map(|own| &own.mirrors).map(|mirror| match mirror.split_once("://") {
                Some((scheme, host)) => {
                    Endpoint { host: host.trim_end_matches('/').to_owned(), plain_http: scheme == "http" }
                }
                None => Endpoint { host: mirror.clone(), plain_http: false },
            });
        let plain_http = own.is_some_and(|own| own.plain_http);
        mirrors.chain([Endpoint { host: registry.to_owned(), plain_http }]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_typos_are_refused() {
        let text = "[\"docker.io\"]\nmirrors = [\"http://127.0.0.1:5000/\", \"m.example\"]\n";
        let registries: Registries = toml::from_str(text).expect("valid");
        let hosts: Vec<(String, bool)> = registries
            .endpoints("docker.io")
            .into_iter()
            .map(|endpoint| (endpoint.host, endpoint.plain_http))
            .collect();
        let expected = [("127.0.0.1:5000", true), ("m.example", false), ("docker.io", false)];
        assert_eq!(hosts, expected.map(|(host, plain)| (host.to_owned(), plain)));
        assert!(toml::from_str::<Registries>("[\"x\"]\nmirrorz = []\n").is_err());
    }
}
