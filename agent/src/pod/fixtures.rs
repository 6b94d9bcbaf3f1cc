//! Pods for tests.

use agent_protocol::{
    Container, Pod, PodDns, PullPolicy, QosClass, Resources, RestartPolicy, Security, Terminated,
    TerminationMessagePolicy,
};

pub fn container(name: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: "img".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        env: Vec::new(),
        config_error: None,
        ports: Vec::new(),
        mounts: Vec::new(),
        resources: Resources::default(),
        security: Security::default(),
        startup: None,
        readiness: None,
        liveness: None,
        post_start: None,
        pre_stop: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        termination_message_path: "/dev/termination-log".to_owned(),
        termination_message_policy: TerminationMessagePolicy::File,
        restart_always: false,
    }
}

/// A pod `d/p` with these containers, and 30 s of grace.
pub fn pod(restart_policy: RestartPolicy, init: &[&str], main: &[&str]) -> Pod {
    let containers = |names: &[&str]| names.iter().map(|name| container(name)).collect();
    Pod {
        uid: "u".to_owned(),
        namespace: "d".to_owned(),
        name: "p".to_owned(),
        revision: 1,
        hostname: "p".to_owned(),
        subdomain: String::new(),
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_pid: false,
        own_users: false,
        restart_policy,
        qos: QosClass::BestEffort,
        init_containers: containers(init),
        containers: containers(main),
        volumes: Vec::new(),
        dns: PodDns::default(),
        host_aliases: Vec::new(),
        sysctls: Vec::new(),
        fs_group: None,
        registry_credentials: Vec::new(),
        grace_s: 30,
        active_deadline_s: None,
        deletion: None,
    }
}

/// The end of a run of container `u.<name>.0`.
pub fn ended(exit_code: i32, started_ns: u64, finished_ns: u64) -> Terminated {
    Terminated {
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
        started_ns,
        finished_ns,
        container_id: "wherry://run".to_owned(),
    }
}
