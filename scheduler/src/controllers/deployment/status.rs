//! Status and conditions of a Deployment: Available, Progressing, ReplicaFailure, with Kubernetes' reasons.

use super::rollout::Rollout;
use crate::controllers::{
    object::rfc3339,
    plan::{Part, Patch, count},
    world::{Condition, resource, workload::DeploymentStatus},
};
use serde_json::{Value, json};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

impl Rollout<'_> {
    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Sets a condition. One that already has this status and reason stays; one with this status keeps the time of
    /// its transition.
    fn set_condition(&mut self, kind: &str, status: &str, reason: &str, message: impl Into<String>) {
        let current = self.condition(kind);
        if current.is_some_and(|current| current.status == status && current.reason == reason) {
            return;
        }
        let changed_s = current.filter(|current| current.status == status).map(|current| current.changed_s);
        self.conditions.retain(|condition| condition.kind != kind);
        self.conditions.push(Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            updated_s: self.now_s,
            changed_s: changed_s.unwrap_or(self.now_s),
        });
    }

    /// Sets the Progressing condition, unless progress is not judged.
    pub fn progress(&mut self, status: &str, reason: &str, message: impl Into<String>) {
        if self.deployment.progress_deadline_s.is_some() {
            self.set_condition(PROGRESSING, status, reason, message);
        }
    }

    pub fn note_found(&mut self, new: usize) {
        if self.condition(PROGRESSING).is_none() {
            let message = format!("Found new replica set \"{}\"", self.sets[new].rs.meta.at.name);
            self.progress("True", "FoundNewReplicaSet", message);
        }
    }

    /// So that the time a Deployment was paused does not count against its deadline.
    pub fn note_pause(&mut self) {
        let reason = self.condition(PROGRESSING).map(|condition| condition.reason.clone());
        if reason.as_deref() == Some(TIMED_OUT) {
            return;
        }
        let noted = reason.as_deref() == Some("DeploymentPaused");
        if self.deployment.paused && !noted {
            self.progress("Unknown", "DeploymentPaused", "Deployment is paused");
        } else if !self.deployment.paused && noted {
            self.progress("Unknown", "DeploymentResumed", "Deployment is resumed");
        }
    }

    fn counted(&self) -> DeploymentStatus {
        let sum = |of: fn(&super::rollout::Set) -> i64| self.sets.iter().map(of).sum::<i64>();
        let available = sum(|set| set.rs.status.available);
        DeploymentStatus {
            observed_generation: self.deployment.meta.generation,
            replicas: sum(|set| set.rs.status.replicas),
            updated: self.new.map_or(0, |new| self.sets[new].rs.status.replicas),
            ready: sum(|set| set.rs.status.ready),
            available,
            unavailable: (self.total() - available).max(0),
            terminating: sum(|set| set.rs.status.terminating),
            collisions: self.collisions,
            conditions: Vec::new(),
        }
    }

    pub fn is_complete(&self) -> bool {
        is_complete(&self.counted(), self.deployment.replicas)
    }

    /// Writes the status if it changed. `rolling`: also judge whether the rollout progresses.
    pub fn write_status(&mut self, rolling: bool) {
        let mut status = self.counted();
        if rolling {
            self.judge_progress(&status);
            self.copy_failures();
        }
        if status.available >= self.deployment.replicas - self.fence.max_unavailable {
            let message = "Deployment has minimum availability.";
            self.set_condition(AVAILABLE, "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.";
            self.set_condition(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
        }
        status.conditions = self.conditions.clone();
        self.wait_for_deadline(&status);
        if status == self.deployment.status {
            return;
        }
        let merge = json!({"status": to_json(&status)});
        self.plan.push(Patch::new(resource::DEPLOYMENTS, &self.deployment.meta, Part::Status, merge));
    }

    fn judge_progress(&mut self, status: &DeploymentStatus) {
        if self.deployment.progress_deadline_s.is_none() {
            self.conditions.retain(|condition| condition.kind != PROGRESSING);
            return;
        }
        let subject = match self.new {
            Some(new) => format!("ReplicaSet \"{}\"", self.sets[new].rs.meta.at.name),
            None => format!("Deployment \"{}\"", self.deployment.meta.at.name),
        };
        let was_complete = self.condition(PROGRESSING).is_some_and(|current| current.reason == COMPLETE);
        if status.replicas == status.updated && was_complete {
            return;
        }
        if is_complete(status, self.deployment.replicas) {
            self.progress("True", COMPLETE, format!("{subject} has successfully progressed."));
        } else if made_progress(&self.deployment.status, status) {
            let current = self.condition(PROGRESSING).filter(|current| current.status == "True");
            let changed_s = current.map_or(self.now_s, |current| current.changed_s);
            self.conditions.retain(|condition| condition.kind != PROGRESSING);
            self.progress("True", "ReplicaSetUpdated", format!("{subject} is progressing."));
            if let Some(condition) = self.conditions.last_mut() {
                condition.changed_s = changed_s;
            }
        } else if self.deadline_s().is_some_and(|deadline_s| deadline_s < self.now_s) {
            self.progress("False", TIMED_OUT, format!("{subject} has timed out progressing."));
        }
    }

    /// When the present lack of progress becomes a failure.
    fn deadline_s(&self) -> Option<i64> {
        let current = self.condition(PROGRESSING)?;
        let judged = !matches!(current.reason.as_str(), COMPLETE | TIMED_OUT) && !self.deployment.paused;
        Some(current.updated_s + self.deployment.progress_deadline_s.filter(|_| judged)?)
    }

    fn wait_for_deadline(&mut self, status: &DeploymentStatus) {
        if let Some(deadline_s) = self.deadline_s()
            && !is_complete(status, self.deployment.replicas)
        {
            self.plan.again(deadline_s.max(self.now_s) + 1);
        }
    }

    /// A ReplicaSet that cannot make its pods makes the Deployment say so.
    fn copy_failures(&mut self) {
        let failures = self.sets.iter().rev().flat_map(|set| &set.rs.status.conditions);
        let failure = failures.into_iter().find(|condition| condition.kind == REPLICA_FAILURE).cloned();
        match failure {
            Some(failure) => {
                self.set_condition(REPLICA_FAILURE, &failure.status, &failure.reason, failure.message);
            }
            None => self.conditions.retain(|condition| condition.kind != REPLICA_FAILURE),
        }
    }
}

fn is_complete(status: &DeploymentStatus, replicas: i64) -> bool {
    status.updated == replicas && status.replicas == replicas && status.available == replicas
}

fn made_progress(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    new.updated > old.updated
        || new.replicas - new.updated < old.replicas - old.updated
        || new.ready > old.ready
        || new.available > old.available
}

fn to_json(status: &DeploymentStatus) -> Value {
    json!({
        "observedGeneration": status.observed_generation,
        "replicas": count(status.replicas),
        "updatedReplicas": count(status.updated),
        "readyReplicas": count(status.ready),
        "availableReplicas": count(status.available),
        "unavailableReplicas": count(status.unavailable),
        "terminatingReplicas": count(status.terminating),
        "collisionCount": status.collisions,
        "conditions": status.conditions.iter().map(condition_json).collect::<Vec<_>>(),
    })
}

fn condition_json(condition: &Condition) -> Value {
    json!({
        "type": condition.kind,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastUpdateTime": rfc3339(condition.updated_s),
        "lastTransitionTime": rfc3339(condition.changed_s),
    })
}
