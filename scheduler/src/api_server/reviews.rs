//! Questions about the caller: who am I, and what may I do.

use super::{
    Server, body,
    response::{self, Answer},
    router::{self, Call, MASTERS},
};
use api::Status;
use axum::{body::Body, http::StatusCode};
use serde_json::{Value, json};

impl Server {
    pub(super) async fn review(
        &self,
        group: &str,
        plural: &str,
        call: Call,
        content: Body,
    ) -> Result<Answer, Status> {
        let user = call.user.clone();
        let parts = call.parts;
        let mut review = body::decode(&parts.headers, &body::read(content).await?)?;
        let master = user.groups.iter().any(|group| group == MASTERS);
        review["status"] = match (group, plural) {
            ("authentication.k8s.io", "selfsubjectreviews") => {
                let mut groups = user.groups.clone();
                groups.push("system:authenticated".into());
                json!({"userInfo": {"username": user.name, "groups": groups}})
            }
            ("authorization.k8s.io", "selfsubjectaccessreviews") => access(master),
            ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews") => {
                let named = review["spec"]["groups"].as_array();
                access(named.is_some_and(|groups| groups.iter().any(|group| group == MASTERS)))
            }
            ("authorization.k8s.io", "selfsubjectrulesreviews") => rules(master),
            _ => return Err(router::not_found()),
        };
        Ok(response::value(StatusCode::CREATED, &review))
    }
}

fn access(allowed: bool) -> Value {
    if allowed {
        json!({"allowed": true, "reason": "member of system:masters"})
    } else {
        json!({"allowed": false})
    }
}

fn rules(master: bool) -> Value {
    let all = json!(["*"]);
    let (resources, urls) = if master {
        (
            json!([{"verbs": all, "apiGroups": all, "resources": all}]),
            json!([{"verbs": all, "nonResourceURLs": all}]),
        )
    } else {
        (json!([]), json!([]))
    };
    json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false})
}
