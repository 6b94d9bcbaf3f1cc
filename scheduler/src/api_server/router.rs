//! From a request to what answers it.

use super::{
    Server,
    query::Query,
    request::{Path, Target},
    response::{self, Answer},
};
use crate::pki::User;
use api::Status;
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
};
use serde_json::json;
use std::sync::Arc;
use tracing::debug;

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// The parts of a request that answers look at.
pub struct Call {
    pub parts: Parts,
    pub query: Query,
    pub user: Arc<User>,
}

impl Call {
    /// Who owns the fields that a write sets: named by the client, else its program's name.
    pub fn field_manager(&self) -> String {
        let agent = self.parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        let program = agent.unwrap_or("unknown").split('/').next().unwrap_or_default();
        self.query.get("fieldManager").unwrap_or(program).chars().take(128).collect()
    }
}

impl Server {
    pub(super) async fn answer(&self, request: Request, user: Option<Arc<User>>) -> Answer {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let answer = match self.route(request, user).await {
            Ok(answer) => answer,
            Err(status) => response::status(&status),
        };
        debug!(%method, uri.path = uri.path(), code = answer.status().as_u16(), "request");
        answer
    }

    async fn route(&self, request: Request, user: Option<Arc<User>>) -> Result<Answer, Status> {
        let path = Path::parse(request.uri().path());
        match path {
            Path::Version => return Ok(response::value(StatusCode::OK, &version())),
            Path::Health => return Ok(response::text("ok")),
            _ => {}
        }
        let user = user.ok_or_else(|| Status::new(401, "Unauthorized", "Unauthorized"))?;
        let user = impersonated(user, request.headers())?;
        let query = Query::parse(request.uri())?;
        let (parts, content) = request.into_parts();
        let call = Call { parts, query, user };
        if !matches!(path, Path::Object(_)) {
            return self.route_documents(&path, call, content).await;
        }
        let Path::Object(target) = path else { unreachable!("handled above") };
        authorize(&call, &target)?;
        self.route_object(target, call, content).await
    }

    async fn route_documents(&self, path: &Path, call: Call, content: Body) -> Result<Answer, Status> {
        if let Path::Review { group, plural } = path
            && call.parts.method == Method::POST
        {
            return self.review(group, plural, call, content).await;
        }
        if call.parts.method != Method::GET {
            return Err(not_found());
        }
        let documents = &self.0.discovery;
        let headers = &call.parts.headers;
        match path {
            Path::Core => Ok(documents.core(headers)),
            Path::Groups => Ok(documents.groups(headers)),
            Path::Group(group) => documents.group(group).ok_or_else(not_found),
            Path::GroupVersion { group, version } => {
                documents.group_version(group, version).ok_or_else(not_found)
            }
            Path::OpenApiIndex => Ok(documents.openapi_index()),
            Path::OpenApi(path) => documents.openapi(headers, path).ok_or_else(not_found),
            _ => Err(not_found()),
        }
    }

    async fn route_object(&self, target: Target, call: Call, content: Body) -> Result<Answer, Status> {
        let named = !target.name.is_empty();
        match (call.parts.method.as_str(), named, target.subresource.as_str()) {
            ("GET", false, "") if call.query.flag("watch")? => self.watch(&target, &call).await,
            ("GET", false, "") => self.list(&target, &call).await,
            ("POST", false, "") => self.create(&target, call, content).await,
            ("DELETE", false, "") => self.delete_collection(&target, call, content).await,
            ("GET", true, "") if call.query.flag("watch")? => self.watch(&target, &call).await,
            ("GET", true, "") => self.get(&target, &call).await,
            ("GET", true, "status") if target.resource.status => self.get(&target, &call).await,
            ("PUT", true, "") => self.put(&target, call, content).await,
            ("PATCH", true, "") => self.patch(&target, call, content).await,
            ("PUT", true, "status") if target.resource.status => self.put(&target, call, content).await,
            ("PATCH", true, "status") if target.resource.status => self.patch(&target, call, content).await,
            ("PUT", true, "finalize") if target.resource.kind == "Namespace" => {
                self.put(&target, call, content).await
            }
            ("DELETE", true, "") => self.delete(&target, call, content).await,
            (_, true, "scale") if target.resource.scale => self.scale(&target, call, content).await,
            (method, true, sub) if target.resource.kind == "Pod" && target.resource.group.is_empty() => {
                match (method, sub) {
                    ("POST", "binding") => self.bind(&target, call, content).await,
                    ("POST", "eviction") => self.evict(&target, call, content).await,
                    ("GET", "log") => self.logs(&target, &call).await,
                    ("GET" | "POST", "exec") => self.exec(&target, call).await,
                    ("GET" | "POST", "attach") => self.attach(&target, call).await,
                    ("GET" | "POST", "portforward") => self.port_forward(&target, call).await,
                    _ => Err(not_allowed(&call)),
                }
            }
            (_, _, "") => Err(not_allowed(&call)),
            _ => Err(not_found()),
        }
    }
}

/// Who a master asks to be, as with `kubectl --as`.
fn impersonated(user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    let values = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let Some(name) = values("impersonate-user").next() else {
        if values("impersonate-group").next().is_none() {
            return Ok(user);
        }
        return Err(Status::bad_request("requested groups to impersonate without impersonating a user"));
    };
    if !user.groups.iter().any(|group| group == MASTERS) {
        let message = format!(
            "users {name:?} is forbidden: User {:?} cannot impersonate resource \"users\" in API group \"\" at the \
             cluster scope",
            user.name
        );
        return Err(Status::new(403, "Forbidden", message));
    }
    let groups = values("impersonate-group").map(str::to_owned).collect();
    Ok(Arc::new(User { name: name.into(), groups }))
}

fn authorize(call: &Call, target: &Target) -> Result<(), Status> {
    if call.user.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let verb = verb(call, target);
    let scope = match target.scope() {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".into(),
    };
    let why = format!(
        "User {:?} cannot {verb} resource {:?} in API group {:?} {scope}",
        call.user.name, target.resource.plural, target.resource.group
    );
    Err(Status::forbidden(target.resource, &target.name, &why))
}

/// The request's verb as RBAC names it.
fn verb(call: &Call, target: &Target) -> &'static str {
    let one = !target.name.is_empty();
    match call.parts.method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if one => "delete",
        "DELETE" => "deletecollection",
        _ if call.query.flag("watch").unwrap_or(false) => "watch",
        _ if one => "get",
        _ => "list",
    }
}

pub fn not_found() -> Status {
    Status::new(404, "NotFound", "the server could not find the requested resource")
}

fn not_allowed(call: &Call) -> Status {
    let verb = call.parts.method.as_str().to_lowercase();
    let message = format!("{verb} is not supported on resources of this kind");
    Status::new(405, "MethodNotAllowed", message)
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "37", "gitVersion": concat!("v1.37.0+wherry-", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
        "compiler": "rustc", "platform": format!("linux/{}", arch()),
    })
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
