//! Watches the disk of the image store and removes unused images in time, as kubelet does; `ctl image prune` on demand.
//!
//! Semantics and words of the events: kubelet `pkg/kubelet/kubelet.go` (StartGarbageCollection) and `pkg/kubelet/images/image_gc_manager.go`.
//! In use is what a pod on this node names or has been made from, until it is gone: also while its container waits to be run again.

use crate::{
    clock::{SECOND_NS, now_ns},
    host::Host,
    local,
    node::Input,
    report::Report,
    streams::Target,
};
use agent_protocol::Event;
use rootfs::{Collected, Image, Policy, Reference};
use std::time::Duration;
use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Remove unused images when this much of the disk is used; 100: never
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_high_threshold: u8,
    /// Remove unused images until only this much of the disk is used
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    image_gc_low_threshold: u8,
    /// Keep an unused image for at least so long after it came or was last used
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    image_gc_minimum_age: u64,
    /// Look at the disk this often
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    image_gc_period: u64,
}

impl Options {
    /// Errors: the low threshold is not below the high one.
    pub fn policy(&self) -> Result<Policy, String> {
        let Self { image_gc_high_threshold: high_percent, image_gc_low_threshold: low_percent, .. } = *self;
        if low_percent >= high_percent {
            return Err(format!(
                "--image-gc-low-threshold {low_percent} must be lower than --image-gc-high-threshold {high_percent}"
            ));
        }
        Ok(Policy { high_percent, low_percent, minimum_age_s: self.image_gc_minimum_age })
    }
}

/// Collects for as long as the agent lives.
pub async fn run(
    host: Host,
    report: Report,
    inputs: mpsc::UnboundedSender<Input>,
    policy: Policy,
    options: Options,
) {
    let mut timer = tokio::time::interval(Duration::from_secs(options.image_gc_period));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        let used = used(&host, &local::targets(&inputs).await);
        let store = host.images.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let now_s = now_ns() / SECOND_NS;
            // What is in use now was last used now, once it is not any more.
            for digest in &used {
                store.mark_used(digest, now_s)?;
            }
            store.collect(policy, &used, now_s)
        });
        match collected.await {
            Ok(Ok(collected)) => tell(&report, &collected),
            Ok(Err(err)) => failed(&report, "ImageGCFailed", crate::chain(&err)),
            Err(err) => failed(&report, "ImageGCFailed", err.to_string()),
        }
    }
}

fn tell(report: &Report, collected: &Collected) {
    let Collected { removed, freed_bytes, wanted_bytes } = collected;
    for (digest, names) in removed {
        tracing::info!(
            image.digest = digest,
            image.names = names.join(" "),
            "unused image removed: the disk is full"
        );
    }
    if freed_bytes < wanted_bytes {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted_bytes} bytes, but only found {freed_bytes} bytes eligible to free."
        );
        failed(report, "FreeDiskSpaceFailed", message);
    }
}

fn failed(report: &Report, reason: &str, message: String) {
    tracing::warn!(reason, message, "images could not be collected");
    report.event(Event {
        pod_uid: None,
        namespace: String::new(),
        pod: String::new(),
        field_path: String::new(),
        warning: true,
        reason: reason.to_owned(),
        message,
        at_ns: now_ns(),
    });
}

/// Digests of the images that pods of this node need.
pub fn used(host: &Host, targets: &[Target]) -> Vec<String> {
    users(host, targets).into_iter().map(|(digest, _)| digest).collect()
}

/// (image digest, pod) of every image that a pod of this node names or was made from.
pub fn users(host: &Host, targets: &[Target]) -> Vec<(String, String)> {
    let mut users = Vec::new();
    for target in targets {
        let pod = format!("pod {}/{}", target.spec.namespace, target.spec.name);
        let status = target.status.borrow();
        let statuses =
            status.iter().flat_map(|status| status.init_containers.iter().chain(&status.containers));
        let made = statuses.filter_map(|container| Some(container.image_id.rsplit_once('@')?.1.to_owned()));
        let containers = target.spec.init_containers.iter().chain(&target.spec.containers);
        let named = containers
            .filter_map(|container| host.images.resolve(&container.image.parse::<Reference>().ok()?))
            .map(|image: Image| image.digest);
        users.extend(made.chain(named).map(|digest| (digest, pod.clone())));
    }
    users.sort();
    users.dedup();
    users
}
