//! What a controller wants done: a list of writes, as data, so that a test or the simulator can look at and apply it.

use super::{
    object::{merge, rfc3339},
    world::{Meta, ObjectKey},
};
use serde_json::{Value, json};

/// The answer of one pass over one object. Empty means converged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub writes: Vec<Write>,
    /// Look again at this time (seconds since the epoch), whether or not anything changes.
    pub again_at_s: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    Create {
        resource: &'static str,
        object: Value,
        note: Option<Note>,
    },
    Patch(Patch),
    Delete(Delete),
    /// An Event and nothing else.
    Note(Note),
}

/// A change of part of an object; skipped when the object has meanwhile got another uid.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    pub key: ObjectKey,
    pub uid: String,
    /// Refused unless the object is still at this revision.
    pub revision: Option<u64>,
    pub part: Part,
    pub change: Change,
    pub note: Option<Note>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// RFC 7386 merge patch.
    Merge(Value),
    /// Sets entries of `status.conditions`, found by type; the others stay.
    Conditions(Vec<NewCondition>),
}

/// A condition as it is to be from `now_s` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCondition {
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    pub reason: String,
    pub message: String,
    pub now_s: i64,
}

impl Change {
    /// Changes the object; false when it already is as it should be.
    pub fn apply(&self, object: &mut Value) -> bool {
        match self {
            Self::Merge(patch) => merge(object, patch),
            Self::Conditions(conditions) => {
                conditions.iter().fold(false, |changed, condition| condition.apply(object) | changed)
            }
        }
    }
}

impl NewCondition {
    fn apply(&self, object: &mut Value) -> bool {
        let list = &mut object["status"]["conditions"];
        if !list.is_array() {
            *list = json!([]);
        }
        let Some(list) = list.as_array_mut() else { return false };
        let now = rfc3339(self.now_s);
        let wanted = json!({"status": self.status, "reason": self.reason, "message": self.message});
        if let Some(current) = list.iter_mut().find(|c| c["type"] == self.kind) {
            let changed_status = current["status"] != self.status;
            let changed = merge(current, &wanted);
            if changed_status {
                current["lastTransitionTime"] = now.into();
            }
            return changed;
        }
        let mut condition = json!({"type": self.kind, "lastTransitionTime": now});
        merge(&mut condition, &wanted);
        list.push(condition);
        true
    }
}

/// Which of an object's subresources a patch goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
    /// Of a namespace.
    Finalize,
    /// Of a pod: sets `spec.nodeName` and the PodScheduled condition.
    Binding,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    pub key: ObjectKey,
    pub uid: String,
    /// `None`: as the object says.
    pub grace_s: Option<i64>,
    pub propagation: Option<&'static str>,
    pub note: Option<Note>,
}

/// An Event about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub regarding: Regarding,
    pub warning: bool,
    pub reason: String,
    /// `{name}` stands for the name of the object that a [`Write::Create`] made.
    pub message: String,
    pub component: &'static str,
    /// The node it was seen on; empty for the control plane.
    pub host: String,
}

/// The object an Event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Regarding {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub field_path: String,
}

impl Regarding {
    pub fn new(api_version: &'static str, kind: &'static str, meta: &Meta) -> Self {
        Self {
            api_version,
            kind,
            namespace: meta.at.namespace.clone(),
            name: meta.at.name.clone(),
            uid: meta.uid.clone(),
            field_path: String::new(),
        }
    }

    pub fn normal(&self, component: &'static str, reason: &str, message: impl Into<String>) -> Note {
        Note {
            regarding: self.clone(),
            warning: false,
            reason: reason.to_owned(),
            message: message.into(),
            component,
            host: String::new(),
        }
    }

    pub fn warning(&self, component: &'static str, reason: &str, message: impl Into<String>) -> Note {
        Note { warning: true, ..self.normal(component, reason, message) }
    }
}

impl Patch {
    pub fn new(resource: &str, meta: &Meta, part: Part, change: impl Into<Change>) -> Self {
        Self {
            key: ObjectKey::new(resource, &meta.at),
            uid: meta.uid.clone(),
            revision: None,
            part,
            change: change.into(),
            note: None,
        }
    }
}

impl Delete {
    pub fn new(resource: &str, meta: &Meta) -> Self {
        Self {
            key: ObjectKey::new(resource, &meta.at),
            uid: meta.uid.clone(),
            grace_s: None,
            propagation: None,
            note: None,
        }
    }
}

impl From<Value> for Change {
    fn from(merge: Value) -> Self {
        Self::Merge(merge)
    }
}

impl From<Patch> for Write {
    fn from(patch: Patch) -> Self {
        Self::Patch(patch)
    }
}

impl From<Delete> for Write {
    fn from(delete: Delete) -> Self {
        Self::Delete(delete)
    }
}

impl Plan {
    pub fn push(&mut self, write: impl Into<Write>) {
        self.writes.push(write.into());
    }

    /// Look again no later than `at_s`.
    pub fn again(&mut self, at_s: i64) {
        self.again_at_s = Some(self.again_at_s.map_or(at_s, |earlier| earlier.min(at_s)));
    }
}

/// `metadata.ownerReferences` with one entry: the managing owner.
pub fn owned_by(api_version: &str, kind: &str, meta: &Meta) -> Value {
    json!([owner_reference(api_version, kind, meta)])
}

/// The reference by which a controller owns what it makes or adopts.
pub fn owner_reference(api_version: &str, kind: &str, meta: &Meta) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "name": meta.at.name,
        "uid": meta.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// A count as `omitempty` writes it into a status: 0 takes the field away.
pub fn count(number: i64) -> Value {
    if number == 0 { Value::Null } else { number.into() }
}
