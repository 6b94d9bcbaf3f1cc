//! A pod as a node is to run it: every reference resolved, every name a value.

use codec::{Decode, Encode};

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Pod {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// `metadata.generation` or the store's revision of what matters here; a higher one replaces a lower one.
    pub revision: u64,
    pub hostname: String,
    /// With the hostname, the pod's full name in cluster DNS; empty when it has none.
    pub subdomain: String,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub share_pid: bool,
    /// `hostUsers: false`: its users are none of the host's.
    pub own_users: bool,
    pub restart_policy: RestartPolicy,
    pub qos: QosClass,
    /// In order; each must end with 0 before the next starts, but one with `restart_always` (a sidecar) only has to have started.
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub dns: PodDns,
    pub host_aliases: Vec<HostAlias>,
    /// `(name, value)`.
    pub sysctls: Vec<(String, String)>,
    /// Group that owns volumes and is added to every process.
    pub fs_group: Option<u32>,
    pub registry_credentials: Vec<RegistryCredential>,
    /// `terminationGracePeriodSeconds`.
    pub grace_s: u32,
    /// Fail the pod this many seconds after its start.
    pub active_deadline_s: Option<u64>,
    /// Set once the pod is to go.
    pub deletion: Option<Deletion>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Deletion {
    /// Seconds from the moment of the request; 0 kills at once.
    pub grace_s: u32,
    pub requested_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub pull_policy: PullPolicy,
    /// Replaces the image's ENTRYPOINT (and CMD) unless empty. `$(VAR)` is expanded by the agent.
    pub command: Vec<String>,
    /// Replaces the image's CMD unless empty.
    pub args: Vec<String>,
    pub working_dir: String,
    /// In order; later ones may refer to earlier ones by `$(VAR)`.
    pub env: Vec<EnvVar>,
    /// Something the container needs is missing: it waits with reason CreateContainerConfigError and this message.
    pub config_error: Option<String>,
    pub ports: Vec<Port>,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    pub security: Security,
    pub startup: Option<Probe>,
    pub readiness: Option<Probe>,
    pub liveness: Option<Probe>,
    pub post_start: Option<Handler>,
    pub pre_stop: Option<Handler>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// Absolute path inside the container.
    pub termination_message_path: String,
    pub termination_message_policy: TerminationMessagePolicy,
    /// An init container with `restartPolicy: Always`: runs beside the others.
    pub restart_always: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TerminationMessagePolicy {
    File,
    FallbackToLogsOnError,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EnvVar {
    pub name: String,
    pub value: EnvValue,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EnvValue {
    /// As written in the manifest: `$(VAR)` is expanded.
    Template(String),
    /// From a ConfigMap, a Secret or a field: taken as it is.
    Verbatim(String),
    /// Known only on the node.
    Field(DownwardField),
}

/// Fields of the downward API that only the node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DownwardField {
    PodIp,
    PodIps,
    HostIp,
    HostIps,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    pub container: u16,
    /// 0 when the port is not published on the host.
    pub host: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Mount {
    pub volume: String,
    /// Absolute path inside the container.
    pub path: String,
    /// Path below the volume's root; empty for the root itself. Never absolute, never with `..`.
    pub sub_path: String,
    pub read_only: bool,
    /// `private`, `rslave` or `rshared`.
    pub propagation: String,
}

/// Requests and limits; 0 means none was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Resources {
    pub cpu_request_millis: u64,
    pub cpu_limit_millis: u64,
    pub memory_request_bytes: u64,
    pub memory_limit_bytes: u64,
}

/// Pod and container security context, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Security {
    /// `None`: the image's user.
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub run_as_non_root: bool,
    pub privileged: bool,
    pub read_only_root: bool,
    pub allow_privilege_escalation: bool,
    /// Capability names without `CAP_`; `ALL` allowed.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub seccomp: Seccomp,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// File below the node's seccomp directory.
    Localhost(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Probe {
    pub handler: Handler,
    pub initial_delay_s: u32,
    pub timeout_s: u32,
    pub period_s: u32,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// Grace when this probe kills the container; `None`: the pod's.
    pub grace_s: Option<u32>,
}

/// What a probe or a lifecycle hook does.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Handler {
    Exec {
        command: Vec<String>,
    },
    /// `host` empty: the pod's address. `tls`: HTTPS, certificate not verified.
    Http {
        host: String,
        port: u16,
        path: String,
        tls: bool,
        headers: Vec<HttpHeader>,
    },
    Tcp {
        host: String,
        port: u16,
    },
    /// gRPC health check of this service name.
    Grpc {
        port: u16,
        service: String,
    },
    Sleep {
        seconds: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HttpHeader {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum VolumeSource {
    EmptyDir {
        medium: EmptyDirMedium,
        size_bytes_max: Option<u64>,
    },
    /// ConfigMap, Secret, downward API or projected: the files, whole. Updated in place, atomically (`..data`).
    /// `memory`: on a tmpfs, for secrets.
    Files {
        files: Vec<File>,
        memory: bool,
    },
    HostPath {
        path: String,
        kind: HostPathType,
    },
    /// What the volume refers to is missing: pods wait with reason ContainerCreating and a FailedMount event of this message.
    Missing {
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EmptyDirMedium {
    Disk,
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum HostPathType {
    /// No check.
    Any,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct File {
    /// Relative path; no `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    pub content: FileContent,
}

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum FileContent {
    Bytes(Vec<u8>),
    Field(DownwardField),
}

/// `dnsPolicy` and `dnsConfig`, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PodDns {
    /// Take the host's `resolv.conf` (`Default`) as base instead of nothing.
    pub host: bool,
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// As written into resolv.conf: `ndots:5`.
    pub options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HostAlias {
    pub ip: String,
    pub names: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct RegistryCredential {
    /// Host, or host and path prefix.
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryCredential {{ {}@{} }}", self.username, self.registry)
    }
}
