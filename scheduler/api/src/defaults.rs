//! What an object is given when it does not say: the defaults of Kubernetes' own versions of these kinds.

use crate::Resource;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;

/// Fills in defaults; doing it twice changes nothing.
pub fn set_defaults(resource: &Resource, object: &mut Value) {
    match (resource.group, resource.plural) {
        ("", "pods") => with(object, "spec", pod_spec),
        ("", "services") => with(object, "spec", service),
        ("", "secrets") => secret(object),
        ("apps", "deployments") => with(object, "spec", deployment),
        ("apps", "replicasets") => with(object, "spec", |spec| {
            default(spec, "replicas", json!(1));
            template(spec);
        }),
        ("discovery.k8s.io", "endpointslices") => {
            each(object.get_mut("ports"), |port| {
                default(port, "name", json!(""));
                default(port, "protocol", json!("TCP"));
            });
        }
        _ => {}
    }
}

/// `stringData` is written into `data` and not kept.
fn secret(secret: &mut Value) {
    set(secret, "type", json!("Opaque"));
    let Some(fields) = secret.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| json!({}));
    if let Some(data) = data.as_object_mut() {
        let encode = |text: &Value| json!(STANDARD.encode(text.as_str().unwrap_or_default()));
        data.extend(texts.iter().map(|(key, text)| (key.clone(), encode(text))));
    }
}

fn deployment(spec: &mut Fields) {
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "progressDeadlineSeconds", json!(600));
    let strategy = spec.entry("strategy").or_insert_with(|| json!({}));
    if let Some(strategy) = strategy.as_object_mut() {
        default(strategy, "type", json!("RollingUpdate"));
        if strategy["type"] == "RollingUpdate" {
            let update = strategy.entry("rollingUpdate").or_insert_with(|| json!({}));
            if let Some(update) = update.as_object_mut() {
                default(update, "maxUnavailable", json!("25%"));
                default(update, "maxSurge", json!("25%"));
            }
        }
    }
    template(spec);
}

/// The pod template of a workload.
fn template(spec: &mut Fields) {
    if let Some(template) = spec.get_mut("template") {
        with(template, "spec", pod_spec);
    }
}

fn pod_spec(spec: &mut Fields) {
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "enableServiceLinks", json!(true));
    default(spec, "securityContext", json!({}));
    for field in ["containers", "initContainers"] {
        each(spec.get_mut(field), container);
    }
    each(spec.get_mut("volumes"), volume);
}

fn container(container: &mut Fields) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    default(container, "imagePullPolicy", json!(policy));
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "resources", json!({}));
    each(container.get_mut("ports"), |port| default(port, "protocol", json!("TCP")));
    each(container.get_mut("env"), |env| {
        if let Some(field) = env.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            set(field, "apiVersion", json!("v1"));
        }
    });
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = container.get_mut(field).and_then(Value::as_object_mut) {
            probe(value);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            with(lifecycle, hook, http_get);
        }
    }
    // A limit without a request is a request too.
    let resources = container.get_mut("resources").and_then(Value::as_object_mut);
    if let Some(resources) = resources
        && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
    {
        let requests = resources.entry("requests").or_insert_with(|| json!({}));
        for (name, limit) in limits {
            set(requests, &name, limit);
        }
    }
}

fn probe(probe: &mut Fields) {
    default(probe, "timeoutSeconds", json!(1));
    default(probe, "periodSeconds", json!(10));
    default(probe, "successThreshold", json!(1));
    default(probe, "failureThreshold", json!(3));
    http_get(probe);
}

fn http_get(handler: &mut Fields) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        default(get, "path", json!("/"));
        default(get, "scheme", json!("HTTP"));
    }
}

fn volume(volume: &mut Fields) {
    for (source, field, value) in [
        ("configMap", "defaultMode", json!(420)),
        ("secret", "defaultMode", json!(420)),
        ("projected", "defaultMode", json!(420)),
        ("downwardAPI", "defaultMode", json!(420)),
        ("hostPath", "type", json!("")),
    ] {
        if let Some(source) = volume.get_mut(source) {
            set(source, field, value);
        }
    }
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".into(), json!({}));
    }
}

fn service(spec: &mut Fields) {
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    each(spec.get_mut("ports"), |port| {
        default(port, "protocol", json!("TCP"));
        if let Some(number) = port.get("port").cloned() {
            default(port, "targetPort", number);
        }
    });
}

/// Whether an image names no tag or digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn default(fields: &mut Fields, name: &str, value: Value) {
    let present = fields.entry(name).or_insert(Value::Null);
    if present.is_null() {
        *present = value;
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        default(fields, name, value);
    }
}

fn with(object: &mut Value, name: &str, change: impl FnOnce(&mut Fields)) {
    if let Some(fields) = object.get_mut(name).and_then(Value::as_object_mut) {
        change(fields);
    }
}

fn each(list: Option<&mut Value>, change: impl Fn(&mut Fields)) {
    let list = list.and_then(Value::as_array_mut).into_iter().flatten();
    list.filter_map(Value::as_object_mut).for_each(change);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{DEPLOYMENTS, SECRETS, SERVICES};

    #[test]
    fn defaults_are_kubernetes_and_stay() {
        let mut deployment = json!({"spec": {"template": {"spec": {"containers": [{
            "name": "c", "image": "r:5000/nginx", "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}, {"name": "m", "configMap": {"name": "m"}}]}}}});
        set_defaults(&DEPLOYMENTS, &mut deployment);
        let spec = &deployment["spec"];
        assert_eq!(
            (&spec["replicas"], &spec["strategy"]["rollingUpdate"]["maxSurge"]),
            (&json!(1), &json!("25%"))
        );
        let pod = &spec["template"]["spec"];
        let container = &pod["containers"][0];
        assert_eq!(
            (&pod["restartPolicy"], &container["imagePullPolicy"]),
            (&json!("Always"), &json!("Always"))
        );
        assert_eq!(container["resources"]["requests"]["cpu"], "1");
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/");
        assert_eq!(pod["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(pod["volumes"][1]["configMap"]["defaultMode"], 420);
        let once = deployment.clone();
        set_defaults(&DEPLOYMENTS, &mut deployment);
        assert_eq!(deployment, once);

        let mut secret = json!({"stringData": {"a": "v"}, "data": {"b": "dg=="}});
        set_defaults(&SECRETS, &mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "dg==", "b": "dg=="}}));

        let mut service = json!({"spec": {"ports": [{"port": 80}]}});
        set_defaults(&SERVICES, &mut service);
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    }

    #[test]
    fn only_latest_is_pulled_always() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1", false),
            ("r:5000/nginx", true),
            ("n@sha256:0", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
