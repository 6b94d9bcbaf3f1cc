use super::*;
use agent_protocol::{DownwardField, EnvValue, FileContent, Handler, VolumeSource};
use serde_json::json;

fn sources() -> Sources {
    let map = json!({"data": {"APP_NAME": "wherry", "APP_ENV": "test"}, "binaryData": {"raw": "AAE="}});
    let secret = json!({"data": {"DB_PASSWORD": "c2VjcmV0"}});
    let login = BASE64_STANDARD.encode(r#"{"auths": {"https://r.example/": {"auth": "dTpw"}}}"#);
    Sources {
        config_maps: [("app-config".to_owned(), map)].into(),
        secrets: [
            ("app-secret".to_owned(), secret),
            ("login".to_owned(), json!({"data": {".dockerconfigjson": login}})),
        ]
        .into(),
        services: vec![
            ServiceAddress {
                namespace: "default".into(),
                name: "kubernetes".into(),
                ip: "10.96.0.1".into(),
                ports: vec![("https".into(), "TCP".into(), 443)],
            },
            ServiceAddress {
                namespace: "default".into(),
                name: "my-db".into(),
                ip: "10.96.0.9".into(),
                ports: vec![(String::new(), "TCP".into(), 5432)],
            },
        ],
        cluster_dns: Some(Ipv4Addr::new(10, 96, 0, 10)),
        cluster_domain: "cluster.local".into(),
        node: Amounts { cpu_millis: 2000, memory_bytes: 1 << 30, ..Amounts::default() },
        revision: 7,
    }
}

fn pod(container: Value, spec: Value) -> Pod {
    let mut object = json!({
        "metadata": {"name": "app-pod", "namespace": "default", "uid": "u", "labels": {"app": "x"}},
        "spec": spec,
    });
    let mut container = container;
    container["name"] = "main".into();
    object["spec"]["containers"] = json!([container]);
    resolve(&object, &sources())
}

fn env(variable: Value) -> Result<Option<EnvValue>, String> {
    let pod = pod(json!({"env": [variable]}), json!({"enableServiceLinks": false}));
    let container = &pod.containers[0];
    match &container.config_error {
        Some(error) => Err(error.clone()),
        None => Ok(container.env.iter().find(|env| env.name == "V").map(|env| env.value.clone())),
    }
}

#[test]
fn variables_come_from_where_they_say() {
    let verbatim = |text: &str| Ok(Some(EnvValue::Verbatim(text.into())));
    let key = |kind: &str, name: &str, key: &str, optional: bool| json!({"name": "V", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}});
    let field = |path: &str| json!({"name": "V", "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let resource = |name: &str| json!({"name": "V", "valueFrom": {"resourceFieldRef": {"resource": name}}});
    let cases = [
        (json!({"name": "V", "value": "a$(B)"}), Ok(Some(EnvValue::Template("a$(B)".into())))),
        (key("configMapKeyRef", "app-config", "APP_NAME", false), verbatim("wherry")),
        (key("secretKeyRef", "app-secret", "DB_PASSWORD", false), verbatim("secret")),
        (
            key("secretKeyRef", "app-secret", "NOPE", false),
            Err("couldn't find key NOPE in Secret default/app-secret".into()),
        ),
        (
            key("configMapKeyRef", "app-config", "NOPE", false),
            Err("couldn't find key NOPE in ConfigMap default/app-config".into()),
        ),
        (key("configMapKeyRef", "x", "k", false), Err("configmap \"x\" not found".into())),
        (key("secretKeyRef", "x", "k", false), Err("secret \"x\" not found".into())),
        (key("secretKeyRef", "x", "k", true), Ok(None)),
        (field("metadata.name"), verbatim("app-pod")),
        (field("metadata.labels['app']"), verbatim("x")),
        (field("status.podIP"), Ok(Some(EnvValue::Field(DownwardField::PodIp)))),
        (resource("limits.cpu"), verbatim("2")),
        (resource("limits.memory"), verbatim("1073741824")),
    ];
    for (variable, expected) in cases {
        assert_eq!(env(variable.clone()), expected, "{variable}");
    }
}

#[test]
fn services_show_as_variables_unless_they_are_not_wanted() {
    let names = |links: bool| {
        let pod = pod(json!({}), json!({"enableServiceLinks": links}));
        let env = pod.containers[0].env.clone();
        env.into_iter().map(|env| env.name).filter(|name| name.ends_with("_SERVICE_HOST")).collect::<Vec<_>>()
    };
    assert_eq!(names(true), ["KUBERNETES_SERVICE_HOST", "MY_DB_SERVICE_HOST"]);
    assert_eq!(names(false), ["KUBERNETES_SERVICE_HOST"]);
}

#[test]
fn a_whole_config_map_is_overridden_by_a_variable() {
    let container = json!({
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "app-config"}}],
        "env": [{"name": "P_APP_ENV", "value": "own"}],
    });
    let env = pod(container, json!({})).containers[0].env.clone();
    let value = |name: &str| {
        env.iter().filter(|env| env.name == name).map(|env| env.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(value("P_APP_NAME"), vec![EnvValue::Verbatim("wherry".into())]);
    assert_eq!(value("P_APP_ENV"), vec![EnvValue::Template("own".into())]);
}

fn volume(source: Value) -> VolumeSource {
    let mut volume = source;
    volume["name"] = "v".into();
    pod(json!({}), json!({"volumes": [volume]})).volumes.remove(0).source
}

#[test]
fn volumes_hold_the_files_their_sources_come_to() {
    let missing = |cause: &str| VolumeSource::Missing { message: cause.to_owned() };
    let file = |path: &str, mode: u32, bytes: &[u8]| agent_protocol::File {
        path: path.into(),
        mode,
        content: FileContent::Bytes(bytes.to_vec()),
    };
    let files = |files: Vec<agent_protocol::File>, memory: bool| VolumeSource::Files { files, memory };
    let cases = [
        (
            json!({"configMap": {"name": "app-config", "defaultMode": 256}}),
            files(
                vec![
                    file("APP_ENV", 0o400, b"test"),
                    file("APP_NAME", 0o400, b"wherry"),
                    file("raw", 0o400, &[0, 1]),
                ],
                false,
            ),
        ),
        (
            json!({"secret": {"secretName": "app-secret", "items": [{"key": "DB_PASSWORD", "path": "a/b", "mode": 384}]}}),
            files(vec![file("a/b", 0o600, b"secret")], true),
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
            files(vec![file("labels", 0o644, b"app=\"x\"")], false),
        ),
        (json!({"configMap": {"name": "x"}}), missing("configmap \"x\" not found")),
        (json!({"configMap": {"name": "x", "optional": true}}), files(vec![], false)),
        (
            json!({"secret": {"secretName": "app-secret", "items": [{"key": "k", "path": "k"}]}}),
            missing("references non-existent secret key: k"),
        ),
        (json!({"nfs": {}}), missing("volumes of type nfs are not supported")),
    ];
    for (source, expected) in cases {
        assert_eq!(volume(source.clone()), expected, "{source}");
    }
}

#[test]
fn named_probe_ports_and_logins_are_looked_up() {
    let container = json!({
        "ports": [{"name": "web", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ok", "port": "web"}},
    });
    let pod = pod(container, json!({"imagePullSecrets": [{"name": "login"}]}));
    let probe = pod.containers[0].readiness.as_ref().map(|probe| &probe.handler);
    assert!(matches!(probe, Some(Handler::Http { port: 8080, .. })), "{probe:?}");
    let [login] = &pod.registry_credentials[..] else { panic!("one login") };
    assert_eq!((&*login.registry, &*login.username, &*login.password), ("r.example", "u", "p"));
    assert_eq!(pod.dns.searches, ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
    let full = json!({"cpu": "1", "memory": "1Gi"});
    let cases = [
        (json!({}), QosClass::BestEffort),
        (json!({"limits": full}), QosClass::Guaranteed),
        (json!({"requests": full, "limits": full}), QosClass::Guaranteed),
        (json!({"requests": full}), QosClass::Burstable),
        (json!({"limits": {"cpu": "1"}}), QosClass::Burstable),
    ];
    for (resources, expected) in cases {
        assert_eq!(qos(&spec(resources.clone())), expected, "{resources}");
    }
}
