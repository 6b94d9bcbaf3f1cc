//! Garbage collection by `metadata.ownerReferences`.
//!
//! - An object all of whose owners are gone is deleted; if some are left, the dangling references are.
//! - An owner being deleted with finalizer `foregroundDeletion` first loses its dependents; it waits for those that block.
//! - An owner being deleted with finalizer `orphan` is taken out of its dependents' references.
//!
//! The snapshot is at one revision over all kinds, so an owner that is not in it does not exist: uids are never reused.

use super::{
    plan::{Delete, Part, Patch, Plan},
    world::{Dependent, ObjectKey, Owner, World},
};
use serde_json::{Value, json};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// One pass over one object.
pub fn sync(world: &World, key: &ObjectKey) -> Plan {
    let mut plan = Plan::default();
    let Some(object) = world.dependents.get(key) else { return plan };
    if object.deleting {
        if object.finalizers.iter().any(|name| name == ORPHAN) {
            orphan(world, key, object, &mut plan);
        } else if object.finalizers.iter().any(|name| name == FOREGROUND) {
            foreground(world, key, object, &mut plan);
        }
        return plan;
    }
    if object.owners.is_empty() {
        return plan;
    }
    let (live, dangling): (Vec<&Owner>, Vec<&Owner>) =
        object.owners.iter().partition(|owner| world.dependents.exists(&owner.uid));
    if live.is_empty() {
        plan.push(delete(key, object, "Background"));
    } else if !dangling.is_empty() {
        plan.push(set_owners(key, object, |owner| world.dependents.exists(&owner.uid)));
    }
    plan
}

fn foreground(world: &World, key: &ObjectKey, owner: &Dependent, plan: &mut Plan) {
    let mut blocked = false;
    for (dependent_key, dependent) in world.dependents.of(&owner.uid) {
        let others = dependent.owners.iter().filter(|other| other.uid != owner.uid).any(|other| {
            world.dependents.by_uid(&other.uid).is_some_and(|(_, o)| o.is_none_or(|o| !o.deleting))
        });
        let blocks = dependent.owners.iter().any(|o| o.uid == owner.uid && o.blocks_deletion);
        if others {
            plan.push(set_owners(dependent_key, dependent, |other| other.uid != owner.uid));
        } else if !dependent.deleting {
            plan.push(delete(dependent_key, dependent, "Foreground"));
        }
        blocked |= blocks && !others;
    }
    if !blocked {
        plan.push(drop_finalizer(key, owner, FOREGROUND));
    }
}

fn orphan(world: &World, key: &ObjectKey, owner: &Dependent, plan: &mut Plan) {
    for (dependent_key, dependent) in world.dependents.of(&owner.uid) {
        plan.push(set_owners(dependent_key, dependent, |other| other.uid != owner.uid));
    }
    if plan.writes.is_empty() {
        plan.push(drop_finalizer(key, owner, ORPHAN));
    }
}

fn delete(key: &ObjectKey, object: &Dependent, propagation: &'static str) -> Delete {
    Delete {
        key: key.clone(),
        uid: object.uid.clone(),
        grace_s: None,
        propagation: Some(propagation),
        note: None,
    }
}

fn set_owners(key: &ObjectKey, object: &Dependent, keep: impl Fn(&Owner) -> bool) -> Patch {
    let owners: Vec<Value> = object.owners.iter().filter(|owner| keep(owner)).map(Owner::to_json).collect();
    let owners = if owners.is_empty() { Value::Null } else { owners.into() };
    patch(key, object, json!({"metadata": {"ownerReferences": owners}}))
}

fn drop_finalizer(key: &ObjectKey, object: &Dependent, finalizer: &str) -> Patch {
    let rest: Vec<&String> = object.finalizers.iter().filter(|name| *name != finalizer).collect();
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    patch(key, object, json!({"metadata": {"finalizers": rest}}))
}

fn patch(key: &ObjectKey, object: &Dependent, merge: Value) -> Patch {
    Patch {
        key: key.clone(),
        uid: object.uid.clone(),
        revision: Some(object.revision),
        part: Part::Main,
        change: merge.into(),
        note: None,
    }
}
