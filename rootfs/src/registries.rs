//! `registries.toml`: how each registry is reached.
//!
//! ```toml
//! credential_files = ["/root/.docker/config.json"]   # of docker or podman; left out: where those keep them; []: none
//! ["docker.io"]
//! mirrors = ["http://127.0.0.1:5000", "mirror.example/hub"]   # [scheme://]host[:port][/prefix]; asked first, in order
//! fallback = true              # the registry itself is asked last; false: never
//! ["registry.example:5000"]
//! plain_http = true
//! ca_file = "/etc/wherry/example-ca.pem"
//! username = "me"
//! password = "secret"          # or password_file = "/etc/wherry/secret"
//! ```
//!
//! A mirror's `ca_file` and credentials are in a table of its own. `plain_http` is the default for loopback addresses only.

use crate::{ImageError, error::io_error};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Every registry that is not reached in the usual way, by host, and where credentials are.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    pub by_host: BTreeMap<String, Registry>,
    /// Files of docker or podman; `None`: where those programs keep them.
    pub credential_files: Option<Vec<PathBuf>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    pub mirrors: Vec<String>,
    /// `None`: the registry itself is asked when no mirror has the image.
    pub fallback: Option<bool>,
    /// `None`: only loopback addresses are spoken to without TLS.
    pub plain_http: Option<bool>,
    pub ca_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<PathBuf>,
}

/// Where to ask for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host, and port if it has one.
    pub host: String,
    /// Put before the repository; empty for none.
    pub prefix: String,
    pub plain_http: bool,
}

impl Registries {
    /// Reads the file; one that does not exist says nothing.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let text = match fs::read_to_string(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(io_error("read", path))?,
        };
        let mut registries = Self::parse(&text)
            .map_err(|why| ImageError::Malformed { what: path.display().to_string(), why })?;
        for (name, registry) in &mut registries.by_host {
            if let Some(mirror) = registry.mirrors.iter().find(|mirror| !is_mirror(mirror)) {
                let why = format!("{name}: mirror {mirror:?} is not [http://|https://]host[:port][/prefix]");
                return Err(ImageError::Malformed { what: path.display().to_string(), why });
            }
            let words = [registry.password.is_some(), registry.password_file.is_some()];
            if words.iter().any(|given| *given) != registry.username.is_some() || words == [true, true] {
                let why = format!("{name}: `username` goes with either `password` or `password_file`");
                return Err(ImageError::Malformed { what: path.display().to_string(), why });
            }
            if registry.fallback == Some(false) && registry.mirrors.is_empty() {
                let why = format!("{name} has no mirrors and is not to be asked itself (fallback = false)");
                return Err(ImageError::Malformed { what: path.display().to_string(), why });
            }
            if let Some(file) = &registry.password_file {
                let password = fs::read_to_string(file).map_err(io_error("read", file))?;
                registry.password = Some(password.trim_end_matches(['\r', '\n']).to_owned());
            }
        }
        Ok(registries)
    }

    fn parse(text: &str) -> Result<Self, String> {
        const FILES: &str = "credential_files";
        let mut table: toml::Table = toml::from_str(text).map_err(|err| err.to_string())?;
        let credential_files = table.remove(FILES).map(toml::Value::try_into).transpose();
        let credential_files = credential_files.map_err(|err| format!("{FILES}: {}", err.message()))?;
        let mut by_host = BTreeMap::new();
        for (name, value) in table {
            let registry =
                value.try_into().map_err(|err: toml::de::Error| format!("{name}: {}", err.message()))?;
            by_host.insert(name, registry);
        }
        Ok(Self { by_host, credential_files })
    }

    /// The endpoints of a registry, in the order to ask them.
    pub fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let own = self.by_host.get(registry);
        let mut endpoints: Vec<Endpoint> =
            own.into_iter().flat_map(|own| &own.mirrors).map(|mirror| self.mirror(mirror)).collect();
        if own.and_then(|own| own.fallback).unwrap_or(true) {
            let plain_http = self.plain_http(registry);
            endpoints.push(Endpoint { host: registry.to_owned(), prefix: String::new(), plain_http });
        }
        endpoints
    }

    fn mirror(&self, mirror: &str) -> Endpoint {
        let (scheme, rest) = match mirror.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, mirror),
        };
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain_http = scheme.map_or_else(|| self.plain_http(host), |scheme| scheme == "http");
        Endpoint { host: host.to_owned(), prefix: prefix.trim_matches('/').to_owned(), plain_http }
    }

    fn plain_http(&self, host: &str) -> bool {
        self.by_host.get(host).and_then(|own| own.plain_http).unwrap_or_else(|| is_loopback(host))
    }
}

fn is_mirror(mirror: &str) -> bool {
    let (scheme, rest) = mirror.split_once("://").unwrap_or(("https", mirror));
    let host = rest.split('/').next().unwrap_or_default();
    matches!(scheme, "http" | "https") && !host.is_empty() && !rest.contains(['@', '?', '#', ' '])
}

/// Registries on this host speak plain HTTP unless told otherwise, as for docker and containerd.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(registries: &Registries, registry: &str) -> Vec<(String, String, bool)> {
        let endpoints = registries.endpoints(registry).into_iter();
        endpoints.map(|endpoint| (endpoint.host, endpoint.prefix, endpoint.plain_http)).collect()
    }

    #[test]
    fn mirrors_come_first_and_typos_are_refused() {
        let text = "[\"docker.io\"]\nmirrors = [\"http://127.0.0.1:5000/\", \"m.example/hub\", \"localhost\"]\n\
            [\"only.example\"]\nmirrors = [\"p.example:80\"]\nfallback = false\n[\"p.example:80\"]\nplain_http = true\n";
        let registries = Registries::parse(text).expect("valid");
        let row = |host: &str, prefix: &str, plain| (host.to_owned(), prefix.to_owned(), plain);
        let expected = [
            row("127.0.0.1:5000", "", true),
            row("m.example", "hub", false),
            row("localhost", "", true),
            row("docker.io", "", false),
        ];
        assert_eq!(hosts(&registries, "docker.io"), expected);
        assert_eq!(hosts(&registries, "only.example"), [row("p.example:80", "", true)]);
        assert_eq!(hosts(&registries, "[::1]:5000"), [row("[::1]:5000", "", true)]);
    }

    #[test]
    fn files_are_checked_when_read() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("registries.toml");
        let load = |text: &str| {
            fs::write(&path, text).expect("written");
            Registries::load(&path)
        };
        fs::write(dir.path().join("secret"), "word\n").expect("written");
        let with_file =
            format!("[\"a\"]\nusername = \"me\"\npassword_file = \"{}/secret\"\n", dir.path().display());
        assert_eq!(load(&with_file).expect("read").by_host["a"].password.as_deref(), Some("word"));
        let files = load("credential_files = [\"/x\"]\n[\"a\"]\n").expect("read");
        assert_eq!((files.credential_files, files.by_host.len()), (Some(vec![PathBuf::from("/x")]), 1));
        let cases = [
            ("[\"a\"]\nfallback = false\n", "a has no mirrors"),
            ("[\"a\"]\nmirrorz = []\n", "a: unknown field `mirrorz`"),
            ("[\"a\"]\nmirrors = [\"ftp://b\"]\n", "mirror \"ftp://b\""),
            ("[\"a\"]\nmirrors = [\"https://me:secret@b\"]\n", "mirror"),
            ("[\"a\"]\nusername = \"me\"\n", "a: `username` goes with"),
            ("[\"a\"]\nplain_http = 1\n", "a: invalid type"),
            ("credential_files = 1\n", "credential_files: invalid type"),
            ("a = [\n", "TOML parse error"),
            ("[\"a\"]\nusername = \"me\"\npassword_file = \"/nowhere\"\n", "read /nowhere"),
        ];
        for (text, expected) in cases {
            let error = load(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let absent = Registries::load(Path::new("/nowhere/registries.toml")).expect("absent is empty");
        assert!(absent.by_host.is_empty() && absent.credential_files.is_none());
    }
}
