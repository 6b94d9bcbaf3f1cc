//! The manifests of `examples/`, as written, driven by kubectl.

use serde_json::Value;
use tests::{
    Cluster, Options,
    images::Registry,
    traffic::{self, Load},
};

fn with_registry() -> (Cluster, Registry) {
    let cluster = Cluster::start(Options { registries: Registry::mirror_config(), ..Options::default() });
    let registry = Registry::start(&cluster.netns);
    (cluster, registry)
}

fn page(cluster: &Cluster, port: u16) -> Option<String> {
    let address = cluster.node_port(port);
    let (status, body) = cluster.netns.enter(|| traffic::get(address, "/")).ok()?;
    (status == 200).then_some(body)
}

#[test]
fn nginx_pod() {
    let (cluster, registry) = with_registry();
    cluster.apply_example("nginx-pod.yaml");
    let pod = cluster.wait_ready("nginx-pod");
    assert_eq!(pod["metadata"]["labels"]["app"], "webserver");
    assert_eq!(pod["status"]["containerStatuses"][0]["image"], "docker.io/library/nginx:latest");
    let address =
        format!("{}:80", pod["status"]["podIP"].as_str().expect("an address")).parse().expect("an address");
    let (status, body) = cluster.netns.enter(|| traffic::get(address, "/")).expect("served");
    assert!(status == 200 && body.contains("nginx"), "{status} {body}");
    let described = cluster.kubectl(&["describe", "pod", "nginx-pod"]).ok();
    for words in ["Successfully assigned default/nginx-pod to node-1", "Pulled", "Started container nginx"] {
        assert!(described.contains(words), "{words} is missing in {described}");
    }
    cluster.wait_for("the request is in the log", || {
        cluster.kubectl(&["logs", "nginx-pod"]).ok().contains("GET / HTTP/1.1").then_some(())
    });
    assert_eq!(cluster.kubectl(&["exec", "nginx-pod", "--", "sh", "-c", "echo $HOSTNAME; exit 3"]).code(), 3);
    cluster.kubectl(&["delete", "pod", "nginx-pod"]).ok();
    assert_eq!(cluster.get("pod", "nginx-pod"), Value::Null);
    drop(registry);
    cluster.down();
}

#[test]
fn nginx_deployment_rolls_without_a_failed_request() {
    let (cluster, registry) = with_registry();
    cluster.apply_example("nginx-deployment.yaml");
    cluster.apply_example("nginx-services.yaml");
    cluster.kubectl(&["rollout", "status", "deployment/nginx-deployment", "--timeout=120s"]).ok();
    cluster.kubectl(&["scale", "deployment", "nginx-deployment", "--replicas=5"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/nginx-deployment", "--timeout=120s"]).ok();
    assert_eq!(cluster.list("pods", "app=nginx").len(), 5);
    let first = cluster.wait_for("the page is served", || page(&cluster, 30081));

    let load = Load::start(&cluster.netns, cluster.node_port(30081), "/", 2);
    cluster.wait_for("the load runs", || (load.served() > 10).then_some(()));
    cluster.kubectl(&["set", "image", "deployment/nginx-deployment", "nginx=nginx:alt"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/nginx-deployment", "--timeout=180s"]).ok();
    let second =
        cluster.wait_for("the new page is served", || page(&cluster, 30081).filter(|body| *body != first));
    let history = cluster.kubectl(&["rollout", "history", "deployment/nginx-deployment"]).ok();
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.kubectl(&["rollout", "undo", "deployment/nginx-deployment"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/nginx-deployment", "--timeout=180s"]).ok();
    cluster.wait_for("the old page is back", || page(&cluster, 30081).filter(|body| *body == first));
    let (served, failures) = load.stop();
    assert!(
        failures.is_empty(),
        "{served} served, {} failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(5)]
    );
    assert_ne!(first, second);
    cluster.kubectl(&["delete", "deployment,service", "--all"]).ok();
    drop(registry);
    cluster.down();
}

#[test]
fn app_pod_reads_config_and_secret() {
    let (cluster, registry) = with_registry();
    cluster.apply_example("app.yaml");
    cluster.wait_ready("app-pod");
    let env = cluster.kubectl(&["exec", "app-pod", "--", "env"]).ok();
    for line in ["APP_NAME=wherry-demo", "APP_ENV=production", "DB_PASSWORD=password123"] {
        assert!(env.lines().any(|have| have == line), "{line} is missing in {env}");
    }
    let refused = cluster.kubectl_with(
        &["create", "-f", "-"],
        "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ndata: {DB_PASSWORD: 'not base64!'}\n",
    );
    let refused = refused.fails();
    assert!(refused.contains("illegal base64 data"), "{refused}");

    cluster.kubectl(&["delete", "pod", "app-pod"]).ok();
    cluster
        .kubectl(&[
            "patch",
            "secret",
            "app-secret",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/data/DB_PASSWORD"}]"#,
        ])
        .ok();
    cluster.apply_example_object("app.yaml", "Pod");
    let message = cluster.wait_for("the missing key is reported", || {
        let pod = cluster.get("pod", "app-pod");
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == "CreateContainerConfigError")
            .then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    });
    assert_eq!(message, "couldn't find key DB_PASSWORD in Secret default/app-secret");
    cluster.apply_example_object("app.yaml", "Secret");
    cluster.wait_ready("app-pod");
    drop(registry);
    cluster.down();
}

#[test]
fn a_deployment_must_select_its_own_pods() {
    let cluster = Cluster::start(Options::default());
    let manifest = |labels: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: odd}}\nspec:\n  selector: {{matchLabels: {{app: a}}}}\n  \
             template:\n    metadata: {labels}\n    spec: {{containers: [{{name: c, image: wherry.local/hello}}]}}\n"
        )
    };
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], &manifest("{labels: {app: b}}")).fails();
    assert!(refused.contains("`selector` does not match template `labels`"), "{refused}");
    assert!(refused.contains("The Deployment \"odd\" is invalid"), "{refused}");
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], &manifest("{}")).fails();
    assert!(refused.contains("`selector` does not match template `labels`"), "{refused}");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 29999}]}\n";
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], service).fails();
    assert!(refused.contains("The range of valid ports is 30000-32767"), "{refused}");
    cluster.down();
}
