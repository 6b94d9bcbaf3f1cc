//! Objects with anything anywhere: whatever a client sends, the answer is an answer.

use super::tests::{call, server};
use proptest::prelude::*;
use serde_json::{Value, json};

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z0-9.:/-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("name|spec|ports|labels|[a-z]{1,4}", inner, 0..3)
                .prop_map(|map| json!(map)),
        ]
    })
}

/// Puts `with` at the `at`th of all places in `object`.
fn replace(object: &mut Value, at: &mut usize, with: &Value) -> bool {
    if *at == 0 {
        *object = with.clone();
        return true;
    }
    *at -= 1;
    match object {
        Value::Object(map) => map.values_mut().any(|value| replace(value, at, with)),
        Value::Array(list) => list.iter_mut().any(|value| replace(value, at, with)),
        _ => false,
    }
}

fn objects() -> Vec<(&'static str, Value)> {
    let pod = json!({
        "containers": [{
            "name": "c", "image": "nginx", "ports": [{"containerPort": 80}], "command": ["a"],
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "livenessProbe": {"httpGet": {"port": 80, "path": "/"}, "periodSeconds": 1},
        }],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}],
        "tolerations": [{"key": "k", "operator": "Exists"}], "nodeSelector": {"a": "b"},
    });
    let labels = json!({"app": "web"});
    vec![
        (
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": "web", "labels": labels, "finalizers": ["a/b"]}, "spec": pod}),
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"metadata": {"name": "web"}, "spec": {
                "replicas": 2, "selector": {"matchLabels": labels},
                "strategy": {"rollingUpdate": {"maxSurge": "25%"}},
                "template": {"metadata": {"labels": labels}, "spec": pod}}}),
        ),
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "web"}, "spec": {"type": "NodePort", "selector": labels,
                   "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30001}]}}),
        ),
        (
            "/api/v1/namespaces",
            json!({"metadata": {"name": "web", "labels": labels}, "spec": {"finalizers": ["x"]}}),
        ),
        ("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "web"}, "data": {"k": "dg=="}})),
        (
            "/api/v1/nodes",
            json!({"metadata": {"name": "web"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
                   "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "Hostname"}]}}),
        ),
    ]
}

const WHO: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_object_breaks_the_server(kind in 0usize..6, at in 0usize..40, with in anything(), patch in anything()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
        runtime.block_on(async {
            let server = server().await;
            let (collection, valid) = objects().swap_remove(kind);
            let named = format!("{collection}/web");
            let mut broken = valid.clone();
            replace(&mut broken, &mut at.clone(), &with);
            for (method, uri, body) in [
                ("POST", collection, broken.clone()),
                ("DELETE", named.as_str(), json!({"gracePeriodSeconds": 0})),
                ("POST", collection, valid.clone()),
                ("PUT", &named, broken.clone()),
                ("PATCH", &named, broken.clone()),
                ("PATCH", &named, patch.clone()),
                ("PATCH", &format!("{named}/status"), json!({"status": patch})),
                ("PUT", &format!("{named}/status"), broken.clone()),
                ("PATCH", &format!("{named}/scale"), json!({"spec": {"replicas": patch}})),
                ("POST", &format!("{named}/binding"), broken.clone()),
                ("POST", &format!("{named}/eviction"), broken.clone()),
                ("GET", &format!("{collection}?labelSelector=app%3Dweb&fieldSelector=metadata.name%3Dweb"), Value::Null),
                ("POST", WHO, patch.clone()),
                ("DELETE", &named, broken),
            ] {
                let (code, answer) = call(&server, method, uri, body.clone()).await;
                assert!(code < 500, "{method} {uri} {body}: {answer}");
            }
        });
    }
}
