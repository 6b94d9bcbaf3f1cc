//! ReplicaSets: keep the wanted number of pods that match a selector, as Kubernetes' `pkg/controller/replicaset` does.
//!
//! Pods that finished or are being deleted do not count. Pods without a controller that match are adopted, owned ones
//! that match no more are released. Which pods go first is decided in [`rank`].

mod rank;

use super::{
    claim::{Claim, Claimant},
    object::rfc3339,
    plan::{Delete, Part, Patch, Plan, Regarding, Write, count, owned_by},
    world::{Condition, NsName, Pod, ReplicaSet, World, resource, workload::ReplicaSetStatus},
};
use serde_json::{Value, json};

const COMPONENT: &str = "replicaset-controller";
const API_VERSION: &str = "apps/v1";
const KIND: &str = "ReplicaSet";
/// Most pods that one pass makes or deletes.
const BURST: usize = 500;
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// One pass over one ReplicaSet. `failure`: why the last pass could not make its pods, if it could not.
pub fn sync(world: &World, at: &NsName, now_s: i64, failure: Option<&str>) -> Plan {
    let Some(set) = world.replica_sets.get(at) else { return Plan::default() };
    let claimant =
        Claimant { api_version: API_VERSION, kind: KIND, meta: &set.meta, selector: &set.selector };
    let (mut pods, mut plan) = (Vec::new(), Plan::default());
    for pod in world.pods_in(&at.namespace) {
        let owned = pod.meta.is_controlled_by(&set.meta.uid);
        if !owned && !pod.is_active() {
            continue;
        }
        match claimant.claim(resource::PODS, &pod.meta) {
            Claim::Mine => pods.push(pod),
            Claim::NotMine => {}
            Claim::Change(write) => plan.writes.push(*write),
        }
    }
    if !plan.writes.is_empty() {
        return plan;
    }
    let terminating = pods.iter().filter(|pod| pod.meta.is_deleting() && !pod.is_finished()).count();
    pods.retain(|pod| pod.is_active());
    if !set.meta.is_deleting() {
        resize(world, set, &pods, now_s, &mut plan);
    }
    write_status(set, &pods, terminating as i64, now_s, failure, &mut plan);
    plan
}

fn resize(world: &World, set: &ReplicaSet, pods: &[&Pod], now_s: i64, plan: &mut Plan) {
    let wanted = usize::try_from(set.replicas).unwrap_or_default();
    let regarding = Regarding::new(API_VERSION, KIND, &set.meta);
    if pods.len() < wanted {
        let object = new_pod(set);
        let note = regarding.normal(COMPONENT, "SuccessfulCreate", "Created pod: {name}");
        let create = Write::Create { resource: resource::PODS, object, note: Some(note) };
        plan.writes.extend(std::iter::repeat_n(create, (wanted - pods.len()).min(BURST)));
    } else if pods.len() > wanted {
        let surplus = (pods.len() - wanted).min(BURST);
        for pod in rank::first_to_go(world, set, pods, now_s).into_iter().take(surplus) {
            let message = format!("Deleted pod: {}", pod.meta.at.name);
            let note = Some(regarding.normal(COMPONENT, "SuccessfulDelete", message));
            plan.push(Delete { note, ..Delete::new(resource::PODS, &pod.meta) });
        }
    }
}

fn new_pod(set: &ReplicaSet) -> Value {
    let object = set.object();
    let template = &object["spec"]["template"];
    let mut metadata = json!({
        "generateName": format!("{}-", set.meta.at.name),
        "namespace": set.meta.at.namespace,
        "labels": template["metadata"]["labels"],
        "ownerReferences": owned_by(API_VERSION, KIND, &set.meta),
    });
    for field in ["annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            metadata[field] = template["metadata"][field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

fn write_status(
    set: &ReplicaSet,
    pods: &[&Pod],
    terminating: i64,
    now_s: i64,
    failure: Option<&str>,
    plan: &mut Plan,
) {
    let number = |holds: &dyn Fn(&Pod) -> bool| pods.iter().filter(|pod| holds(pod)).count() as i64;
    let labeled = |pod: &Pod| set.template_labels.iter().all(|(k, v)| pod.meta.labels.get(k) == Some(v));
    let status = ReplicaSetStatus {
        replicas: pods.len() as i64,
        fully_labeled: number(&labeled),
        ready: number(&|pod| pod.ready),
        available: number(&|pod| pod.is_available(set.min_ready_s, now_s)),
        terminating,
        observed_generation: set.meta.generation,
        conditions: failure_conditions(set, failure.filter(|_| (pods.len() as i64) < set.replicas), now_s),
    };
    let ripe_s = pods
        .iter()
        .filter(|pod| pod.ready && !pod.is_available(set.min_ready_s, now_s))
        .filter_map(|pod| pod.ready_since_s.map(|at| at + set.min_ready_s));
    if let Some(at_s) = ripe_s.min() {
        plan.again(at_s);
    }
    if status == set.status {
        return;
    }
    let merge = json!({"status": {
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "fullyLabeledReplicas": count(status.fully_labeled),
        "readyReplicas": count(status.ready),
        "availableReplicas": count(status.available),
        "terminatingReplicas": count(status.terminating),
        "conditions": conditions_json(&status.conditions),
    }});
    plan.push(Patch::new(resource::REPLICA_SETS, &set.meta, Part::Status, merge));
}

fn failure_conditions(set: &ReplicaSet, failure: Option<&str>, now_s: i64) -> Vec<Condition> {
    let mut conditions = set.status.conditions.clone();
    let current = conditions.iter().position(|condition| condition.kind == REPLICA_FAILURE);
    match (failure, current) {
        (Some(message), None) => conditions.push(Condition {
            kind: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: "FailedCreate".to_owned(),
            message: message.to_owned(),
            updated_s: now_s,
            changed_s: now_s,
        }),
        (None, Some(index)) => {
            conditions.remove(index);
        }
        _ => {}
    }
    conditions
}

fn conditions_json(conditions: &[Condition]) -> Value {
    if conditions.is_empty() {
        return Value::Null;
    }
    let one = |condition: &Condition| {
        json!({
            "type": condition.kind,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": rfc3339(condition.changed_s),
        })
    };
    conditions.iter().map(one).collect()
}
