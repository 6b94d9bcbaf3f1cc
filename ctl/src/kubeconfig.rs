//! Which cluster, as whom, in which namespace: the kubeconfig file, read as kubectl reads it.
//!
//! Order: `--kubeconfig`, `$KUBECONFIG`, `/etc/wherry/kubeconfig`, `~/.kube/config`.

use crate::error::{CtlError, failed, file};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where `ctl up` writes it.
pub const DEFAULT_PATH: &str = "/etc/wherry/kubeconfig";

/// The parts of one context that `ctl` uses.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    /// `https://host:port`, without a slash at the end.
    pub server: String,
    /// PEM.
    pub ca: Vec<u8>,
    pub credential: Credential,
    pub namespace: String,
}

#[derive(Clone, Debug)]
pub enum Credential {
    /// Certificate chain and key, PEM.
    Certificate {
        chain: Vec<u8>,
        key: Vec<u8>,
    },
    Token(String),
}

impl Kubeconfig {
    /// The file that the environment points to.
    pub fn find(given: Option<&Path>) -> PathBuf {
        let from_env = || std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
        given.map(Path::to_path_buf).or_else(|| Some(PathBuf::from(from_env()?))).unwrap_or_else(|| {
            let default = PathBuf::from(DEFAULT_PATH);
            if default.exists() { default } else { home().filter(|path| path.exists()).unwrap_or(default) }
        })
    }

    /// Reads `path` and picks `context`, or the current one.
    pub fn load(path: &Path, context: Option<&str>) -> Result<Self, CtlError> {
        let text = fs::read_to_string(path).map_err(file("read", path))?;
        let config: Value =
            serde_saphyr::from_str(&text).map_err(|err| failed(format!("{}: {err}", path.display())))?;
        Self::pick(&config, context).map_err(|why| failed(format!("{}: {why}", path.display())))
    }

    fn pick(config: &Value, context: Option<&str>) -> Result<Self, String> {
        let name = context
            .or_else(|| config["current-context"].as_str().filter(|name| !name.is_empty()))
            .ok_or("no current-context, and no --context was given")?;
        let context = named(config, "contexts", "context", name)?;
        let cluster = named(config, "clusters", "cluster", text(context, "cluster")?)?;
        let user = named(config, "users", "user", text(context, "user")?)?;
        let credential = match user["token"].as_str() {
            Some(token) => Credential::Token(token.to_owned()),
            None => Credential::Certificate {
                chain: bytes(user, "client-certificate")?,
                key: bytes(user, "client-key")?,
            },
        };
        Ok(Self {
            server: text(cluster, "server")?.trim_end_matches('/').to_owned(),
            ca: bytes(cluster, "certificate-authority")?,
            credential,
            namespace: context["namespace"].as_str().unwrap_or("default").to_owned(),
        })
    }
}

fn named<'a>(config: &'a Value, list: &str, field: &str, name: &str) -> Result<&'a Value, String> {
    let entries = config[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let known = || entries.iter().filter_map(|entry| entry["name"].as_str()).collect::<Vec<_>>().join(", ");
    entries
        .iter()
        .find(|entry| entry["name"] == name)
        .map(|entry| &entry[field])
        .ok_or_else(|| format!("no {name:?} in {list}; there are: {}", known()))
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    value[field].as_str().ok_or_else(|| format!("{field} is missing"))
}

/// `<field>-data` in base64, or the file that `<field>` names.
fn bytes(value: &Value, field: &str) -> Result<Vec<u8>, String> {
    if let Some(data) = value[format!("{field}-data")].as_str() {
        return STANDARD.decode(data).map_err(|err| format!("{field}-data: {err}"));
    }
    let path = text(value, field)?;
    fs::read(path).map_err(|err| format!("{field}: read {path}: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_context_is_followed_to_cluster_and_user() {
        let config = json!({
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u", "namespace": "web"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://h:1/", "certificate-authority-data": "Q0E="}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        });
        let picked = Kubeconfig::pick(&config, None).expect("whole");
        assert_eq!((picked.server.as_str(), picked.ca.as_slice()), ("https://h:1", b"CA".as_slice()));
        assert_eq!(picked.namespace, "web");
        assert!(matches!(picked.credential, Credential::Token(token) if token == "t"));
        let err = Kubeconfig::pick(&config, Some("b")).expect_err("unknown");
        assert_eq!(err, "no \"b\" in contexts; there are: a");
    }
}
