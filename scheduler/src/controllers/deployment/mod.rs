//! Deployments: one ReplicaSet per pod template, and the way from the old ones to the new one.
//!
//! A port of Kubernetes' deployment controller (`pkg/controller/deployment`): same sizes at every step, same
//! conditions, reasons and annotations, so that `kubectl rollout status|history|undo|pause` work unmodified.
//! Order of a pass: [`sync`] claims ReplicaSets, then finds or makes the new one ([`revision`]), moves sizes
//! ([`rollout`], [`scale`]), removes what is beyond the history limit, and writes the status ([`status`]).
//!
//! Invariants of a rolling update: pods never exceed `replicas + maxSurge`; available pods never drop below
//! `replicas - maxUnavailable` by this controller's doing.

mod revision;
mod rollout;
mod scale;
mod status;

use super::{
    claim::{Claim, Claimant},
    plan::{Plan, Regarding},
    world::{Deployment, NsName, ReplicaSet, World, resource},
};
use rollout::Rollout;
pub use scale::{Fenceposts, fenceposts};

const COMPONENT: &str = "deployment-controller";
const API_VERSION: &str = "apps/v1";
const KIND: &str = "Deployment";

/// One pass over one Deployment.
pub fn sync(world: &World, at: &NsName, now_s: i64) -> Plan {
    let Some(deployment) = world.deployments.get(at) else { return Plan::default() };
    let regarding = Regarding::new(API_VERSION, KIND, &deployment.meta);
    if deployment.selector.is_empty() {
        let mut plan = Plan::default();
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        plan.writes.push(super::plan::Write::Note(regarding.warning(COMPONENT, "SelectingAll", message)));
        return plan;
    }
    let (sets, claims) = claim(world, deployment);
    if !claims.writes.is_empty() {
        return claims;
    }
    let mut rollout = Rollout::new(world, deployment, sets, now_s);
    if deployment.meta.is_deleting() {
        rollout.write_status(false);
        return rollout.plan;
    }
    rollout.note_pause();
    if deployment.paused || rollout.is_scaling() {
        rollout.resize();
        if deployment.paused {
            rollout.remove_old_revisions();
        }
        rollout.write_status(false);
    } else if deployment.rolling.is_some() {
        rollout.roll();
    } else {
        rollout.recreate(world);
    }
    rollout.plan
}

fn claim<'a>(world: &'a World, deployment: &'a Deployment) -> (Vec<&'a ReplicaSet>, Plan) {
    let claimant = Claimant {
        api_version: API_VERSION,
        kind: KIND,
        meta: &deployment.meta,
        selector: &deployment.selector,
    };
    let (mut sets, mut plan) = (Vec::new(), Plan::default());
    for set in world.replica_sets_in(&deployment.meta.at.namespace) {
        match claimant.claim(resource::REPLICA_SETS, &set.meta) {
            Claim::Mine => sets.push(set),
            Claim::NotMine => {}
            Claim::Change(write) => plan.writes.push(*write),
        }
    }
    (sets, plan)
}
