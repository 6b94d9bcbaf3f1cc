use super::*;
use crate::resource::{CONFIG_MAPS, DEPLOYMENTS, PODS, SECRETS, SERVICES};
use crate::set_defaults;
use serde_json::json;

fn errors(resource: &Resource, mut object: Value) -> Vec<String> {
    set_defaults(resource, &mut object);
    let errors = validate_create(resource, &object);
    errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

fn deployment(labels: Value) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "nginx"}}, "template": {
        "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}})
}

#[test]
fn refusals_are_kubernetes_words() {
    assert_eq!(errors(&DEPLOYMENTS, deployment(json!({"app": "nginx"}))), [""; 0]);
    assert_eq!(
        errors(&DEPLOYMENTS, deployment(json!({"app": "other"}))),
        [
            r#"spec.template.metadata.labels: Invalid value: {"app":"other"}: `selector` does not match template `labels`"#
        ]
    );
    assert_eq!(
        errors(&DEPLOYMENTS, deployment(Value::Null)),
        ["spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`"]
    );
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "ports": [{"containerPort": 70000}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
    assert_eq!(
        errors(&PODS, pod),
        [
            "spec.containers[0].image: Required value",
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#,
        ]
    );
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "Cluster", "ports": [{"port": 80}]}});
    assert_eq!(
        errors(&SERVICES, service),
        [
            r#"spec.type: Unsupported value: "Cluster": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#
        ]
    );
    assert!(errors(&CONFIG_MAPS, json!({"metadata": {"name": "A"}}))[0].contains("RFC 1123 subdomain"));
}

#[test]
fn a_running_pod_keeps_its_spec() {
    let pod = |image: &str, command: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "image": image, "imagePullPolicy": "Always", "command": [command]}]}})
    };
    assert_eq!(validate_update(&PODS, &pod("b", "x"), &pod("a", "x")), []);
    let errors = validate_update(&PODS, &pod("a", "y"), &pod("a", "x"));
    assert!(errors[0].message.starts_with("Forbidden: pod updates may not change fields other than"));
}

#[test]
fn a_user_namespace_is_refused_not_forgotten() {
    let mut template = deployment(json!({"app": "nginx"}));
    let allowed = [Value::Null, json!(true)];
    for users in allowed {
        template["spec"]["template"]["spec"]["hostUsers"] = users;
        assert_eq!(errors(&DEPLOYMENTS, template.clone()), [""; 0]);
    }
    template["spec"]["template"]["spec"]["hostUsers"] = json!(false);
    let refused = errors(&DEPLOYMENTS, template).remove(0);
    assert!(refused.starts_with("spec.template.spec.hostUsers: Unsupported value: false"), "{refused}");
}

#[test]
fn secrets_hold_base64() {
    let secret = |data: &str| json!({"data": {"K": data}});
    assert_eq!(undecodable(&SECRETS, &secret("dg==")), None);
    let message = undecodable(&SECRETS, &secret("no base64!")).expect("is none");
    assert!(message.ends_with("illegal base64 data at input byte 2"), "{message}");
}
