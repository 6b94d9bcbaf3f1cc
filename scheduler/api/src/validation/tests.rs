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
fn a_user_namespace_takes_no_host_namespaces() {
    let forbidden = |name: &str| {
        vec![format!("spec.template.spec.{name}: Forbidden: when `pod.Spec.HostUsers` is false")]
    };
    let unmasked = "spec.template.spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`";
    for (users, field, expected) in [
        (json!(false), None, vec![]),
        (json!(true), None, vec![]),
        (json!(true), Some("hostNetwork"), vec![]),
        (Value::Null, Some("hostPID"), vec![]),
        (json!(false), Some("hostNetwork"), forbidden("hostNetwork")),
        (json!(false), Some("hostPID"), forbidden("HostPID")),
        (json!(false), Some("hostIPC"), forbidden("HostIPC")),
        (json!(false), Some("procMount"), vec![]),
        (json!(true), Some("procMount"), vec![unmasked.to_owned()]),
        (Value::Null, Some("procMount"), vec![unmasked.to_owned()]),
    ] {
        let mut template = deployment(json!({"app": "nginx"}));
        let spec = &mut template["spec"]["template"]["spec"];
        spec["hostUsers"] = users.clone();
        match field {
            Some("procMount") => {
                spec["containers"][0]["securityContext"] = json!({"procMount": "Unmasked"});
            }
            Some(field) => spec[field] = json!(true),
            None => {}
        }
        assert_eq!(errors(&DEPLOYMENTS, template), expected, "{users} with {field:?}");
    }
}

#[test]
fn secrets_hold_base64() {
    let secret = |data: &str| json!({"data": {"K": data}});
    assert_eq!(undecodable(&SECRETS, &secret("dg==")), None);
    let message = undecodable(&SECRETS, &secret("no base64!")).expect("is none");
    assert!(message.ends_with("illegal base64 data at input byte 2"), "{message}");
}
