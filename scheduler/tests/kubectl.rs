//! The real binary, driven by the real kubectl: `$KUBECTL`, or the one in `PATH`.

mod kubectl_binary;
mod server;

use server::Server;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: nginx}}
spec:
  replicas: 3
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers: [{name: nginx, image: "nginx:latest", env: [{name: A, value: "1"}], ports: [{containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: nginx}, ports: [{port: 80, nodePort: 30080}]}
"#;

#[test]
fn apply_scale_patch_delete() {
    let server = Server::start();
    let out = server.apply(WEB);
    assert_eq!(out, "deployment.apps/web created\nservice/web created\n");
    assert_eq!(server.apply(WEB), "deployment.apps/web unchanged\nservice/web unchanged\n");
    server.ok(&["scale", "deployment", "web", "--replicas=5"]);
    let path = "jsonpath={.spec.replicas} {.metadata.generation} {.spec.strategy.type}";
    assert_eq!(server.ok(&["get", "deploy", "web", "-o", path]), "5 2 RollingUpdate");
    server.ok(&["set", "image", "deployment/web", "nginx=nginx:1.27"]);
    server.ok(&["set", "env", "deployment/web", "A-", "B=2"]);
    let path = "jsonpath={.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].env}";
    let expected = r#"nginx:1.27 [{"name":"B","value":"2"}]"#;
    assert_eq!(server.ok(&["get", "deploy", "web", "-o", path]), expected);
    let ports = server.ok(&["get", "svc", "web"]);
    assert!(ports.contains("80:30080/TCP"), "{ports}");
    server.ok(&["delete", "deployment,service", "web", "--wait"]);
    let gone = server.fails(&["get", "deploy", "web"]);
    assert!(gone.contains(r#"deployments.apps "web" not found"#), "{gone}");
}

#[test]
fn refusals_read_as_kubernetes() {
    let server = Server::start();
    let mismatch = WEB.replace("labels: {app: nginx}}\n    spec", "labels: {app: other}}\n    spec");
    let error = server.apply_fails(&mismatch);
    assert!(error.contains("`selector` does not match template `labels`"), "{error}");
    let error = server.apply_fails(&WEB.replace("replicas: 3", "replicaz: 3"));
    assert!(error.contains(r#"unknown field "spec.replicaz""#), "{error}");
    let error = server.apply_fails(&WEB.replace("30080", "80"));
    assert!(error.contains("provided port is not in the valid range"), "{error}");
    server.apply(WEB);
    let error = server.apply_fails(&WEB.replace("metadata: {name: web}", "metadata: {name: other}"));
    assert!(
        error.contains("spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"),
        "{error}"
    );
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {K: 'no base64!'}}";
    let error = server.apply_fails(secret);
    assert!(error.contains("illegal base64 data"), "{error}");
}

#[test]
fn watches_and_waits() {
    let server = Server::start();
    server.apply(WEB);
    let waiting = server.spawn(&["wait", "--for=jsonpath={.spec.replicas}=7", "deploy/web", "--timeout=20s"]);
    server.ok(&["patch", "deploy", "web", "--type=merge", "-p", r#"{"spec":{"replicas":7}}"#]);
    server.finished(waiting);
    server.ok(&["annotate", "deploy", "web", "note=kept"]);
    let described = server.ok(&["describe", "deploy", "web"]);
    assert!(described.contains("note: kept"), "{described}");
}

#[test]
fn everything_survives_a_kill() {
    let mut server = Server::start();
    server.apply(WEB);
    server.kill_and_restart();
    assert_eq!(server.apply(WEB), "deployment.apps/web unchanged\nservice/web unchanged\n");
}

/// Typed clients send protobuf, and fall back to nothing else.
#[test]
fn objects_are_made_from_flags() {
    let server = Server::start();
    for (words, output) in [
        (vec!["create", "namespace", "team"], "namespace/team created\n"),
        (
            vec!["create", "configmap", "settings", "--from-literal=A=1", "--from-literal=B="],
            "configmap/settings created\n",
        ),
        (vec!["create", "secret", "generic", "keys", "--from-literal=K=v"], "secret/keys created\n"),
        (
            vec!["create", "deployment", "web", "--image=nginx", "--replicas=0", "--port=80"],
            "deployment.apps/web created\n",
        ),
        (vec!["expose", "deployment", "web", "--target-port=http"], "service/web exposed\n"),
        (vec!["create", "service", "nodeport", "np", "--tcp=80:8080"], "service/np created\n"),
        (vec!["run", "one", "--image=nginx", "--env=A=b"], "pod/one created\n"),
    ] {
        assert_eq!(server.ok(&words), output);
    }
    let fields = [
        ("configmap", "settings", "{.data.A}|{.data.B}", "1|"),
        ("secret", "keys", "{.data.K} {.type}", "dg== Opaque"),
        (
            "deployment",
            "web",
            "{.spec.replicas} {.spec.template.spec.containers[0].ports[0].containerPort}",
            "0 80",
        ),
        ("service", "web", "{.spec.ports[0].port} {.spec.ports[0].targetPort}", "80 http"),
        ("service", "np", "{.spec.type} {.spec.ports[0].targetPort}", "NodePort 8080"),
    ];
    for (kind, name, path, value) in fields {
        assert_eq!(
            server.ok(&["get", kind, name, "-o", &format!("jsonpath={path}")]),
            value,
            "{kind} {name}"
        );
    }
    assert!(server.ok(&["auth", "whoami"]).contains("system:masters"));
    assert_eq!(server.ok(&["auth", "can-i", "delete", "pods"]), "yes\n");
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let server = Server::start_on_small_disk(24);
    let value = format!("--from-literal=k={}", "x".repeat(100_000));
    let kept: Vec<String> = (0..100)
        .map(|index| format!("c{index}"))
        .take_while(|name| server.run(&["create", "configmap", name, &value], "").status.success())
        .collect();
    assert!((5..100).contains(&kept.len()), "{} objects fit", kept.len());
    let refused = server.fails(&["create", "configmap", "more", &value]);
    assert!(refused.contains("bytes free, too few for a write"), "{refused}");
    for name in &kept {
        server.ok(&["get", "configmap", name]);
    }
    server.ok(&["delete", "configmap", &kept[0]]);
    server.resize_disk(64);
    server.ok(&["create", "configmap", "more", &value]);
}
