//! From a pod of the API to the pod a node runs: every reference replaced by what it refers to.
//!
//! [`resolve`] is pure: whoever calls it has fetched the ConfigMaps and Secrets that the pod names. What is missing
//! does not stop a pod from being sent: the container or volume carries the message, in kubelet's words, and waits.

mod env;
mod field;
mod probe;
mod security;
mod volumes;

use crate::controllers::{
    object::{int, items, rfc3339, string, text, time_s},
    world::amount::{Amounts, millis, whole},
};
use agent_protocol::{
    Container, Deletion, HostAlias, Mount, Pod, PodDns, Port, Protocol, PullPolicy, QosClass,
    RegistryCredential, Resources, RestartPolicy, TerminationMessagePolicy,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use std::{collections::BTreeMap, net::Ipv4Addr};

/// What the pod's references and its surroundings come to.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Becomes [`Pod::revision`].
    pub revision: u64,
    pub config_maps: BTreeMap<String, Value>,
    pub secrets: BTreeMap<String, Value>,
    /// For `FOO_SERVICE_HOST`: those of the pod's namespace with an address, and `kubernetes`.
    pub services: Vec<ServiceAddress>,
    pub cluster_dns: Option<Ipv4Addr>,
    pub cluster_domain: String,
    /// What the node has, for `resourceFieldRef` of a limit nobody set.
    pub node: Amounts,
}

/// A Service as environment variables show it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceAddress {
    pub namespace: String,
    pub name: String,
    pub ip: String,
    /// Name, protocol, port.
    pub ports: Vec<(String, String, i64)>,
}

/// The pod as its node is to run it.
pub fn resolve(object: &Value, sources: &Sources) -> Pod {
    let (meta, spec) = (&object["metadata"], &object["spec"]);
    let context = Context { object, sources };
    let list = |field: &str| items(&spec[field]).iter().map(|c| context.container(c)).collect::<Vec<_>>();
    Pod {
        uid: string(&meta["uid"]),
        namespace: string(&meta["namespace"]),
        name: string(&meta["name"]),
        revision: sources.revision,
        hostname: hostname(meta, spec),
        subdomain: string(&spec["subdomain"]),
        host_network: spec["hostNetwork"] == true,
        host_pid: spec["hostPID"] == true,
        host_ipc: spec["hostIPC"] == true,
        share_pid: spec["shareProcessNamespace"] == true,
        own_users: spec["hostUsers"] == false,
        restart_policy: match text(&spec["restartPolicy"]) {
            "Never" => RestartPolicy::Never,
            "OnFailure" => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        },
        qos: qos(spec),
        init_containers: list("initContainers"),
        containers: list("containers"),
        volumes: items(&spec["volumes"]).iter().map(|volume| context.volume(volume)).collect(),
        dns: dns(object, sources),
        host_aliases: items(&spec["hostAliases"])
            .iter()
            .map(|alias| HostAlias {
                ip: string(&alias["ip"]),
                names: items(&alias["hostnames"]).iter().map(string).collect(),
            })
            .collect(),
        sysctls: items(&spec["securityContext"]["sysctls"])
            .iter()
            .map(|sysctl| (string(&sysctl["name"]), string(&sysctl["value"])))
            .collect(),
        fs_group: id(&spec["securityContext"]["fsGroup"]),
        registry_credentials: credentials(spec, sources),
        grace_s: seconds(&spec["terminationGracePeriodSeconds"]).unwrap_or(30),
        active_deadline_s: spec["activeDeadlineSeconds"].as_u64(),
        deletion: deletion(meta),
    }
}

struct Context<'a> {
    object: &'a Value,
    sources: &'a Sources,
}

impl Context<'_> {
    fn container(&self, container: &Value) -> Container {
        let (env, config_error) = match self.environment(container) {
            Ok(env) => (env, None),
            Err(message) => (Vec::new(), Some(message)),
        };
        let strings = |field: &str| items(&container[field]).iter().map(string).collect::<Vec<_>>();
        Container {
            name: string(&container["name"]),
            image: string(&container["image"]),
            pull_policy: match text(&container["imagePullPolicy"]) {
                "Always" => PullPolicy::Always,
                "Never" => PullPolicy::Never,
                _ => PullPolicy::IfNotPresent,
            },
            command: strings("command"),
            args: strings("args"),
            working_dir: string(&container["workingDir"]),
            env,
            config_error,
            ports: items(&container["ports"]).iter().filter_map(port).collect(),
            mounts: items(&container["volumeMounts"]).iter().map(mount).collect(),
            resources: resources(&container["resources"]),
            security: security::merged(
                &self.object["spec"]["securityContext"],
                &container["securityContext"],
            ),
            startup: probe::probe(&container["startupProbe"], container),
            readiness: probe::probe(&container["readinessProbe"], container),
            liveness: probe::probe(&container["livenessProbe"], container),
            post_start: probe::handler(&container["lifecycle"]["postStart"], container),
            pre_stop: probe::handler(&container["lifecycle"]["preStop"], container),
            stdin: container["stdin"] == true,
            stdin_once: container["stdinOnce"] == true,
            tty: container["tty"] == true,
            termination_message_path: Some(string(&container["terminationMessagePath"]))
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| "/dev/termination-log".to_owned()),
            termination_message_policy: match text(&container["terminationMessagePolicy"]) {
                "FallbackToLogsOnError" => TerminationMessagePolicy::FallbackToLogsOnError,
                _ => TerminationMessagePolicy::File,
            },
            restart_always: text(&container["restartPolicy"]) == "Always",
        }
    }
}

fn hostname(meta: &Value, spec: &Value) -> String {
    let wanted = Some(text(&spec["hostname"])).filter(|name| !name.is_empty());
    let name: String = wanted.unwrap_or(text(&meta["name"])).chars().take(63).collect();
    name.trim_end_matches(['-', '.']).to_owned()
}

/// A user or group id.
fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn seconds(value: &Value) -> Option<u32> {
    value.as_i64().map(|seconds| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX))
}

fn port(value: &Value) -> Option<Port> {
    let number = |field: &str| u16::try_from(int(&value[field])).unwrap_or_default();
    let protocol = match text(&value["protocol"]) {
        "" | "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    Some(Port {
        name: string(&value["name"]),
        protocol,
        container: number("containerPort"),
        host: number("hostPort"),
    })
}

fn mount(value: &Value) -> Mount {
    Mount {
        volume: string(&value["name"]),
        path: string(&value["mountPath"]),
        sub_path: string(&value["subPath"]),
        read_only: value["readOnly"] == true,
        propagation: match text(&value["mountPropagation"]) {
            "HostToContainer" => "rslave",
            "Bidirectional" => "rshared",
            _ => "private",
        }
        .to_owned(),
    }
}

fn resources(value: &Value) -> Resources {
    let (requests, limits) = (&value["requests"], &value["limits"]);
    Resources {
        cpu_request_millis: millis(&requests["cpu"]),
        cpu_limit_millis: millis(&limits["cpu"]),
        memory_request_bytes: whole(&requests["memory"]),
        memory_limit_bytes: whole(&limits["memory"]),
    }
}

/// The pod's quality of service class, as Kubernetes defines it.
pub fn qos(spec: &Value) -> QosClass {
    let containers = || items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
    let all: Vec<Resources> = containers().map(|container| resources(&container["resources"])).collect();
    if all.iter().all(|resources| *resources == Resources::default()) {
        return QosClass::BestEffort;
    }
    let requested = |request: u64, limit: u64| limit > 0 && (request == 0 || request == limit);
    let guaranteed = all.iter().all(|r| {
        requested(r.cpu_request_millis, r.cpu_limit_millis)
            && requested(r.memory_request_bytes, r.memory_limit_bytes)
    });
    if guaranteed { QosClass::Guaranteed } else { QosClass::Burstable }
}

fn dns(object: &Value, sources: &Sources) -> PodDns {
    let spec = &object["spec"];
    let policy = match text(&spec["dnsPolicy"]) {
        "" | "ClusterFirst" if spec["hostNetwork"] == true => "Default",
        "" => "ClusterFirst",
        policy => policy,
    };
    let mut dns = PodDns { host: policy == "Default", ..PodDns::default() };
    if policy.starts_with("ClusterFirst") {
        let (namespace, domain) = (text(&object["metadata"]["namespace"]), &sources.cluster_domain);
        dns.nameservers.extend(sources.cluster_dns.map(|ip| ip.to_string()));
        dns.searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
        dns.options.push("ndots:5".to_owned());
    }
    let config = &spec["dnsConfig"];
    let add = |list: &mut Vec<String>, field: &str| {
        for entry in items(&config[field]).iter().map(string) {
            if !list.contains(&entry) {
                list.push(entry);
            }
        }
    };
    add(&mut dns.nameservers, "nameservers");
    add(&mut dns.searches, "searches");
    for option in items(&config["options"]) {
        let name = text(&option["name"]);
        dns.options.retain(|old| old.split(':').next() != Some(name));
        let value = option["value"].as_str();
        dns.options.push(value.map_or_else(|| name.to_owned(), |value| format!("{name}:{value}")));
    }
    dns
}

fn deletion(meta: &Value) -> Option<Deletion> {
    let deleted_s = time_s(&meta["deletionTimestamp"])?;
    let grace_s = seconds(&meta["deletionGracePeriodSeconds"]).unwrap_or_default();
    let requested_s = u64::try_from(deleted_s - i64::from(grace_s)).unwrap_or_default();
    Some(Deletion { grace_s, requested_ns: requested_s * 1_000_000_000 })
}

fn credentials(spec: &Value, sources: &Sources) -> Vec<RegistryCredential> {
    let names = items(&spec["imagePullSecrets"]).iter().map(|secret| text(&secret["name"]));
    let secrets = names.filter_map(|name| sources.secrets.get(name));
    secrets.flat_map(|secret| secret_credentials(secret).unwrap_or_default()).collect()
}

/// The logins in a secret of type `dockerconfigjson` or the older `dockercfg`.
fn secret_credentials(secret: &Value) -> Option<Vec<RegistryCredential>> {
    let data = &secret["data"];
    let decoded = |key: &str| {
        let bytes = BASE64_STANDARD.decode(data[key].as_str()?).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    };
    let auths = match decoded(".dockerconfigjson") {
        Some(mut config) => config["auths"].take(),
        None => decoded(".dockercfg")?,
    };
    let login = |(registry, auth): (&String, &Value)| {
        let joined = auth["auth"].as_str().and_then(|auth| BASE64_STANDARD.decode(auth).ok());
        let joined = joined.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = joined.as_ref().and_then(|joined| joined.split_once(':'));
        let (username, password) = pair.unwrap_or((text(&auth["username"]), text(&auth["password"])));
        let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
        RegistryCredential {
            registry: registry.trim_end_matches('/').to_owned(),
            username: username.to_owned(),
            password: password.to_owned(),
        }
    };
    Some(auths.as_object()?.iter().map(login).collect())
}

/// A time in nanoseconds as `metav1.Time`.
pub fn time_of_ns(ns: u64) -> String {
    rfc3339(i64::try_from(ns / 1_000_000_000).unwrap_or_default())
}

#[cfg(test)]
mod tests;
