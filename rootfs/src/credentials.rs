//! Credentials that docker and podman keep: `config.json`, `auth.json`, and the programs `docker-credential-NAME` that they name.
//!
//! Sources: docker `cli/config/configfile`, containers-auth.json(5). An entry's key is a registry, or a registry and a part of the repository's
//! path; the longest that fits counts. A file that is not there says nothing; one that cannot be understood is an error.

use crate::{
    ImageError, Reference,
    error::{io_error, malformed},
    login::Login,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{io::AsyncWriteExt, process::Command};

/// Longest that a credential program may take.
const PROGRAM_WAIT: Duration = Duration::from_secs(30);
/// The key under which docker keeps what is for Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// base64 of `username:password`
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a credential program answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Where podman and docker keep credentials, in the order in which podman looks.
pub(crate) fn usual_files() -> Vec<PathBuf> {
    let dir = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = dir("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = dir("HOME")
        .or_else(|| nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()?.map(|user| user.dir));
    let run = dir("XDG_RUNTIME_DIR").map(|run| run.join("containers"));
    let run = run.unwrap_or_else(|| PathBuf::from(format!("/run/containers/{}", nix::unistd::geteuid())));
    let config = dir("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let docker = dir("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
    let podman = config.map(|config| config.join("containers/auth.json"));
    [Some(run.join("auth.json")), podman, docker.map(|docker| docker.join("config.json"))]
        .into_iter()
        .flatten()
        .collect()
}

/// What the first of `files` that knows the repository says about it.
pub(crate) async fn look_up(files: &[PathBuf], reference: &Reference) -> Result<Login, ImageError> {
    for path in files {
        let text = match fs::read(path) {
            // A parent that is a file, or not ours to enter, is as good as nothing there.
            Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            text => text.map_err(io_error("read", path))?,
        };
        let content: Content =
            serde_json::from_slice(&text).map_err(|err| malformed(path.display().to_string(), err))?;
        let found = in_file(path, &content, reference).await?;
        if found != Login::Anonymous {
            return Ok(found);
        }
    }
    Ok(Login::Anonymous)
}

async fn in_file(path: &Path, content: &Content, reference: &Reference) -> Result<Login, ImageError> {
    if let Some((key, program)) = best(&content.cred_helpers, reference) {
        return ask(path, program, key).await;
    }
    if let Some((key, entry)) = best(&content.auths, reference) {
        let login =
            entry.login().map_err(|why| malformed(format!("{}: auths[{key:?}]", path.display()), why))?;
        if login != Login::Anonymous {
            return Ok(login);
        }
    }
    if content.creds_store.is_empty() {
        return Ok(Login::Anonymous);
    }
    let key = if reference.registry == "docker.io" { HUB } else { &reference.registry };
    ask(path, &content.creds_store, key).await
}

/// The entry with the longest key that stands for the repository.
fn best<'a, T>(entries: &'a BTreeMap<String, T>, reference: &Reference) -> Option<(&'a str, &'a T)> {
    let fitting = entries.iter().filter_map(|(key, value)| Some((fit(key, reference)?, key.as_str(), value)));
    fitting.max_by_key(|(length, ..)| *length).map(|(_, key, value)| (key, value))
}

/// How much of the name `key` covers: a registry (a URL is taken as its host), or with some of the path; `None` when it is for something else.
pub(crate) fn fit(key: &str, reference: &Reference) -> Option<usize> {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    // Of a URL's path, which is the API's version, nothing is meant.
    let path = if key.contains("://") || matches!(path, "v1" | "v2") { "" } else { path };
    let covers = path.is_empty()
        || reference.repository == path
        || reference.repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    (host == reference.registry && covers).then_some(path.len())
}

impl Entry {
    fn login(&self) -> Result<Login, String> {
        if !self.identitytoken.is_empty() {
            return Ok(Login::IdentityToken(self.identitytoken.clone()));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Login::AccessToken(self.registrytoken.clone()));
        }
        if self.auth.is_empty() {
            let known = !self.username.is_empty();
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok(if known { Login::Password { username, password } } else { Login::Anonymous });
        }
        // The value itself is a secret and stays out of messages.
        let bytes = STANDARD.decode(self.auth.trim()).map_err(|err| format!("auth is not base64: {err}"))?;
        let text =
            String::from_utf8(bytes).map_err(|_| "auth is base64 of something that is no text".to_owned())?;
        let (username, password) = text
            .split_once(':')
            .ok_or("auth is base64 of something without a colon: expected user:password")?;
        let password = password.trim_end_matches('\0');
        Ok(Login::Password { username: username.to_owned(), password: password.to_owned() })
    }
}

/// Runs `docker-credential-NAME get`. One that knows nothing of `server` gives [`Login::Anonymous`].
async fn ask(path: &Path, name: &str, server: &str) -> Result<Login, ImageError> {
    let what = || format!("{}: credential program docker-credential-{name}", path.display());
    if name.is_empty() || name.contains('/') {
        return Err(malformed(what(), "its name is no file name"));
    }
    let mut program = Command::new(format!("docker-credential-{name}"));
    program.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let talk = async {
        let mut child = program.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read is judged by what it answers.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PROGRAM_WAIT, talk)
        .await
        .map_err(|_| malformed(what(), format!("gave no answer in {} s", PROGRAM_WAIT.as_secs())))?
        .map_err(|err| malformed(what(), format!("cannot be run: {err}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // The protocol's words for "no such entry".
        if said.contains("credentials not found") {
            return Ok(Login::Anonymous);
        }
        return Err(malformed(what(), format!("failed ({}): {said}", output.status)));
    }
    let Answer { username, secret } = serde_json::from_slice(&output.stdout)
        .map_err(|err| malformed(what(), format!("its answer is not Username and Secret in JSON: {err}")))?;
    Ok(match username.as_str() {
        "<token>" => Login::IdentityToken(secret),
        _ => Login::Password { username, password: secret },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str) -> Reference {
        name.parse().expect("a name")
    }

    #[test]
    fn keys_are_registries_urls_and_namespaces() {
        let cases = [
            ("quay.io", "quay.io/org/app", Some(0)),
            ("https://quay.io", "quay.io/org/app", Some(0)),
            ("https://quay.io/v2/", "quay.io/org/app", Some(0)),
            ("quay.io/org", "quay.io/org/app", Some(3)),
            ("quay.io/org/app", "quay.io/org/app", Some(7)),
            ("quay.io/or", "quay.io/org/app", None),
            ("quay.io/other", "quay.io/org/app", None),
            ("quay.io:443", "quay.io/org/app", None),
            (HUB, "nginx", Some(0)),
            ("docker.io", "nginx", Some(0)),
            ("docker.io/library", "nginx", Some(7)),
            ("localhost:5000", "localhost:5000/a", Some(0)),
        ];
        for (key, name, expected) in cases {
            assert_eq!(fit(key, &reference(name)), expected, "{key} for {name}");
        }
    }

    #[test]
    fn entries_are_passwords_or_tokens() {
        let of = |text: &str| serde_json::from_str::<Entry>(text).expect("JSON").login();
        let password = |username: &str, password: &str| {
            Ok(Login::Password { username: username.to_owned(), password: password.to_owned() })
        };
        // base64 of me:se:cret
        assert_eq!(of(r#"{"auth":"bWU6c2U6Y3JldA=="}"#), password("me", "se:cret"));
        assert_eq!(of(r#"{"username":"me","password":"x"}"#), password("me", "x"));
        assert_eq!(of(r#"{"auth":"bWU6","identitytoken":"t"}"#), Ok(Login::IdentityToken("t".to_owned())));
        assert_eq!(of(r#"{"registrytoken":"t"}"#), Ok(Login::AccessToken("t".to_owned())));
        assert_eq!(of("{}"), Ok(Login::Anonymous));
        assert!(of(r#"{"auth":"*"}"#).expect_err("refused").contains("base64"));
        // base64 of `nothing`
        assert!(of(r#"{"auth":"bm90aGluZw=="}"#).expect_err("refused").contains("colon"));
    }
}
