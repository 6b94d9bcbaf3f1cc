//! What agents report about pods, in line: per pod one write at a time, and always of the latest report.

use super::jobs::Job;
use crate::controllers::{
    plan::{Note, Regarding},
    world::{NsName, World},
};
use agent_protocol::{Event, PodStatus};
use std::collections::HashMap;

#[derive(Default)]
pub struct Intake {
    pods: HashMap<String, Line>,
}

/// One pod's reports.
#[derive(Default)]
struct Line {
    writing: bool,
    latest: Option<(Box<PodStatus>, String)>,
    gone: Option<NsName>,
}

impl Intake {
    pub fn status(&mut self, report: Box<PodStatus>, host_ip: &str) -> Option<Job> {
        let uid = report.uid.clone();
        let line = self.pods.entry(uid.clone()).or_default();
        line.latest = Some((report, host_ip.to_owned()));
        self.next(&uid)
    }

    /// The pod has left its node.
    pub fn gone(&mut self, uid: &str, at: NsName) -> Option<Job> {
        self.pods.entry(uid.to_owned()).or_default().gone = Some(at);
        self.next(uid)
    }

    /// A write for this pod has ended.
    pub fn written(&mut self, uid: &str) -> Option<Job> {
        self.pods.get_mut(uid)?.writing = false;
        self.next(uid)
    }

    fn next(&mut self, uid: &str) -> Option<Job> {
        let line = self.pods.get_mut(uid)?;
        if line.writing {
            return None;
        }
        let job = match (line.latest.take(), line.gone.take()) {
            (Some((report, host_ip)), gone) => {
                line.gone = gone;
                Job::PodStatus { report, host_ip }
            }
            (None, Some(at)) => Job::Finish { uid: uid.to_owned(), at },
            (None, None) => {
                self.pods.remove(uid);
                return None;
            }
        };
        line.writing = true;
        Some(job)
    }
}

/// An agent's event as a note; `None` when its pod is not known.
pub fn note(world: &World, node: &str, event: Event) -> Option<Note> {
    let regarding = match &event.pod_uid {
        Some(uid) => {
            let pod = world.pod_by_uid(uid)?;
            Regarding { field_path: event.field_path, ..Regarding::new("v1", "Pod", &pod.meta) }
        }
        None => Regarding::new("v1", "Node", &world.nodes.get(node)?.meta),
    };
    Some(Note {
        regarding,
        warning: event.warning,
        reason: event.reason,
        message: event.message,
        component: "kubelet",
        host: node.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::Phase;

    fn report(message: &str) -> Box<PodStatus> {
        Box::new(PodStatus {
            uid: "u".into(),
            namespace: "d".into(),
            name: "p".into(),
            phase: Phase::Running,
            reason: String::new(),
            message: message.into(),
            pod_ip: None,
            start_ns: None,
            sandbox_ready: true,
            initialized: true,
            init_containers: Vec::new(),
            containers: Vec::new(),
        })
    }

    #[test]
    fn the_latest_report_is_written_once_the_one_before_is_done() {
        let mut intake = Intake::default();
        assert!(matches!(intake.status(report("1"), ""), Some(Job::PodStatus { .. })));
        assert!(intake.status(report("2"), "").is_none());
        assert!(intake.status(report("3"), "").is_none());
        assert!(intake.gone("u", NsName::new("d", "p")).is_none());
        let Some(Job::PodStatus { report, .. }) = intake.written("u") else { panic!("the latest report") };
        assert_eq!(report.message, "3");
        assert!(matches!(intake.written("u"), Some(Job::Finish { .. })));
        assert!(intake.written("u").is_none());
        assert!(intake.pods.is_empty());
    }
}
