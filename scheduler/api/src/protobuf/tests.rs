use super::*;
use proptest::prelude::*;
use serde_json::json;

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A field of bytes.
fn bytes(number: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3 | 2, &mut out);
    varint(value.as_ref().len() as u64, &mut out);
    out.extend_from_slice(value.as_ref());
    out
}

fn int(number: u64, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number << 3, &mut out);
    varint(value.cast_unsigned(), &mut out);
    out
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version), bytes(2, kind)].concat();
    [MAGIC.to_vec(), bytes(1, meta), bytes(2, raw), bytes(3, ""), bytes(4, "")].concat()
}

fn meta(name: &str) -> Vec<u8> {
    [bytes(1, name), bytes(2, ""), bytes(3, ""), bytes(5, ""), int(7, 0), bytes(8, "")].concat()
}

fn entry(key: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    [bytes(1, key), bytes(2, value)].concat()
}

fn expect(api_version: &str, kind: &str, raw: &[u8], mut expected: Value) {
    expected["apiVersion"] = api_version.into();
    expected["kind"] = kind.into();
    assert_eq!(decode(&body(api_version, kind, raw)), Ok(expected), "{kind}");
}

#[test]
fn a_deployment_becomes_what_json_clients_send() {
    let port = [bytes(1, ""), int(2, 0), int(3, 80), bytes(4, "TCP"), bytes(5, "")].concat();
    let to = bytes(2, [int(1, 1), int(2, 0), bytes(3, "http")].concat());
    let probe = [bytes(1, bytes(2, [bytes(1, "/"), to].concat())), int(2, 0), int(4, 5)].concat();
    let limits = bytes(1, entry("cpu", bytes(1, "500m")));
    let container =
        [bytes(1, "main"), bytes(2, "nginx"), bytes(6, port), bytes(8, limits), bytes(11, probe), int(16, 0)];
    let volume = [bytes(1, "v"), bytes(2, bytes(2, ""))].concat();
    let spec = [bytes(1, volume), bytes(2, container.concat()), int(4, 0), int(11, 0)].concat();
    let template = [bytes(1, meta("")), bytes(2, spec)].concat();
    let surge = bytes(2, [int(1, 0), int(2, -1), bytes(3, "")].concat());
    let strategy = [bytes(1, ""), bytes(2, surge)].concat();
    let spec = [int(1, 0), bytes(3, template), bytes(4, strategy), int(5, 0)].concat();
    let deployment = [bytes(1, meta("web")), bytes(2, spec), bytes(3, int(1, 0))].concat();
    let container = json!({
        "name": "main", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "resources": {"limits": {"cpu": "500m"}},
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
    });
    let pod = json!({
        "volumes": [{"name": "v", "emptyDir": {}}], "containers": [container], "terminationGracePeriodSeconds": 0,
    });
    let spec = json!({
        "replicas": 0, "template": {"spec": pod}, "strategy": {"rollingUpdate": {"maxSurge": -1}},
    });
    expect("apps/v1", "Deployment", &deployment, json!({"metadata": {"name": "web"}, "spec": spec}));
}

#[test]
fn special_types_have_their_json_forms() {
    let config_map = [
        bytes(1, meta("c")),
        bytes(2, entry("k", "v")),
        bytes(2, bytes(1, "e")),
        bytes(3, entry("b", [0xff])),
    ];
    let data = json!({"metadata": {"name": "c"}, "data": {"k": "v", "e": ""}, "binaryData": {"b": "/w=="}});
    expect("v1", "ConfigMap", &config_map.concat(), data);

    let extra = entry("k", [bytes(1, "a"), bytes(1, "b")].concat());
    let review = bytes(2, bytes(1, [bytes(1, "me"), bytes(4, extra)].concat()));
    let user = json!({"username": "me", "extra": {"k": ["a", "b"]}});
    expect("authentication.k8s.io/v1", "SelfSubjectReview", &review, json!({"status": {"userInfo": user}}));

    let pod = bytes(1, [bytes(1, "p"), bytes(8, int(1, 1_700_000_000))].concat());
    let meta = json!({"name": "p", "creationTimestamp": "2023-11-14T22:13:20Z"});
    expect("v1", "Pod", &pod, json!({"metadata": meta}));

    let lease = bytes(2, bytes(4, [int(1, 1_700_000_000), int(2, 1_500)].concat()));
    let renewed = json!({"renewTime": "2023-11-14T22:13:20.000001Z"});
    expect("coordination.k8s.io/v1", "Lease", &lease, json!({"spec": renewed}));

    let options = [int(1, 0), bytes(4, "Foreground")].concat();
    let expected = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Foreground"});
    expect("apps/v1", "DeleteOptions", &options, expected);
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let pod = |raw: &[u8]| body("v1", "Pod", raw);
    for (body, message) in [
        (b"{}".to_vec(), "the body does not begin with the magic number of Kubernetes' protobuf"),
        (body("x/v1", "Y", &[]), "protobuf of kind \"Y\" in \"x/v1\" is not known: send JSON or YAML"),
        (pod(&[0x0a, 9]), "object: ends too early"),
        (pod(&[0x0b]), "object: has a field of a wire type that is not known"),
        (pod(&int(1, 1)), "metadata: is a number where a text or message belongs"),
        (pod(&bytes(1, bytes(1, [0xff]))), "name: is not UTF-8"),
        (
            pod(&bytes(1, bytes(8, int(1, i64::MAX)))),
            "creationTimestamp: is a time outside of the years 0 to 9999",
        ),
    ] {
        assert_eq!(decode(&body).map_err(|err| err.to_string()), Err(message.to_owned()));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_object_or_an_error(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (api_version, kind) in [("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "Event")] {
            if let Ok(object) = decode(&body(api_version, kind, &raw)) {
                prop_assert!(object.is_object());
            }
        }
        // Whatever it is, it does not panic.
        let _ = decode(&raw);
    }
}
