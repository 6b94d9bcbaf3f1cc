//! Answers a registry's challenge (RFC 9110 `WWW-Authenticate`): Basic, or Bearer with a token from the server that the challenge names.
//!
//! Source: distribution `docs/spec/auth/{token,oauth}.md`. Without credentials an anonymous token is asked for.

use crate::registry::{RegistryError, body, checked};
use base64::{Engine, engine::general_purpose::STANDARD};
use http_auth::{ChallengeParser, ChallengeRef};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::Value;

/// Who to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Login {
    #[default]
    Anonymous,
    Password {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, which buys access tokens.
    IdentityToken(String),
    /// An access token, sent as it is.
    AccessToken(String),
}

/// Value of the `Authorization` header that answers one of `challenges`.
///
/// - `scope`: what to ask for where the challenge does not say.
/// - `encrypted`: the registry is spoken to over TLS; then its token server is, too.
pub(crate) async fn answer(
    http: &Client,
    login: &Login,
    challenges: &[String],
    scope: &str,
    encrypted: bool,
) -> Result<String, RegistryError> {
    let parsed: Vec<ChallengeRef<'_>> =
        challenges.iter().flat_map(|text| ChallengeParser::new(text).flatten()).collect();
    let of = |scheme: &str| parsed.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
    if let Login::AccessToken(token) = login {
        return Ok(format!("Bearer {token}"));
    }
    if let Some(challenge) = of("Bearer") {
        return Ok(format!("Bearer {}", token(http, login, challenge, scope, encrypted).await?));
    }
    match (of("Basic"), login) {
        (Some(_), Login::Password { username, password }) => {
            Ok(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
        }
        (Some(_), _) => Err(RegistryError::Denied("asks for a user name and a password".to_owned())),
        (None, _) => Err(RegistryError::Denied(format!(
            "refuses, and asks for neither Basic nor Bearer authentication ({})",
            challenges.join(", ")
        ))),
    }
}

async fn token(
    http: &Client,
    login: &Login,
    challenge: &ChallengeRef<'_>,
    scope: &str,
    encrypted: bool,
) -> Result<String, RegistryError> {
    let parameter = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm = parameter("realm").unwrap_or_default();
    let mut url = Url::parse(&realm)
        .map_err(|err| RegistryError::Malformed(format!("names the token server {realm:?}: {err}")))?;
    if encrypted && url.scheme() != "https" && *login != Login::Anonymous {
        let why = format!("names the token server {realm}, which would be sent credentials in the clear");
        return Err(RegistryError::Denied(why));
    }
    let mut pairs = vec![("scope", parameter("scope").unwrap_or_else(|| scope.to_owned()))];
    pairs.extend(parameter("service").map(|service| ("service", service)));
    let request: RequestBuilder = match login {
        Login::IdentityToken(refresh) => {
            pairs.extend([
                ("grant_type", "refresh_token".to_owned()),
                ("client_id", "wherry".to_owned()),
                ("refresh_token", refresh.clone()),
            ]);
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(&pairs);
            let form = form.query().unwrap_or_default().to_owned();
            http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form)
        }
        Login::Password { username, password } => {
            url.query_pairs_mut().extend_pairs(&pairs).append_pair("account", username);
            http.get(url).basic_auth(username, Some(password))
        }
        Login::Anonymous | Login::AccessToken(_) => {
            url.query_pairs_mut().extend_pairs(&pairs);
            http.get(url)
        }
    };
    let response = request.send().await.map_err(RegistryError::Connection)?;
    let response = checked(response).await.map_err(|err| match err {
        RegistryError::NotFound => RegistryError::Denied(format!("the token server {realm} is not there")),
        RegistryError::Denied(why) => {
            RegistryError::Denied(format!("the token server {realm} refuses: {why}"))
        }
        other => other,
    })?;
    let answer: Value = serde_json::from_slice(&body(response).await?).unwrap_or_default();
    let token = ["token", "access_token"].iter().find_map(|key| answer[*key].as_str());
    let token = token.filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
    token
        .map(str::to_owned)
        .ok_or_else(|| RegistryError::Malformed(format!("the token server {realm} sends no token")))
}
