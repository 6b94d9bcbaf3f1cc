//! Namespaces on their way out: everything in them is deleted, then the finalizer goes, and with it the namespace.

use super::{
    plan::{Delete, Part, Patch, Plan, Write},
    world::{World, resource},
};
use serde_json::json;

/// Most objects deleted in one pass.
const BATCH: usize = 500;

/// One pass over one namespace.
pub fn sync(world: &World, name: &str) -> Plan {
    let mut plan = Plan::default();
    let Some(namespace) = world.namespaces.get(name).filter(|namespace| namespace.meta.is_deleting()) else {
        return plan;
    };
    let contents = world.dependents.in_namespace(name);
    if contents.is_empty() {
        if namespace.finalizer {
            let merge = json!({"spec": {"finalizers": null}});
            plan.push(Patch::new(resource::NAMESPACES, &namespace.meta, Part::Finalize, merge));
        }
        return plan;
    }
    let deletable = contents.into_iter().filter(|key| world.dependents.get(key).is_none_or(|d| !d.deleting));
    let deletes = deletable.take(BATCH).map(|key| {
        Write::Delete(Delete {
            key: key.clone(),
            uid: String::new(),
            grace_s: None,
            propagation: Some("Background"),
            note: None,
        })
    });
    plan.writes.extend(deletes);
    plan
}
