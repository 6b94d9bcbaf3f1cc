//! Which objects a controller manages: those that name it as their controller and match its selector. What matches and
//! has no controller is adopted, what does not match any more is released, as Kubernetes' ControllerRefManager does.

use super::{
    plan::{Part, Patch, Write, owner_reference},
    world::{Meta, Owner, Selector},
};
use serde_json::{Value, json};

/// The would-be owner.
pub struct Claimant<'a> {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub meta: &'a Meta,
    pub selector: &'a Selector,
}

/// What is to be done with one candidate.
#[derive(Debug, PartialEq)]
pub enum Claim {
    Mine,
    NotMine,
    /// This write makes it ours, or no longer ours.
    Change(Box<Write>),
}

impl Claimant<'_> {
    pub fn claim(&self, resource: &str, candidate: &Meta) -> Claim {
        let matches = self.selector.matches(&candidate.labels);
        match candidate.controller() {
            Some(owner) if owner.uid != self.meta.uid => Claim::NotMine,
            Some(_) if matches => Claim::Mine,
            Some(_) if self.meta.is_deleting() => Claim::NotMine,
            Some(_) => {
                let rest = candidate.owners.iter().filter(|owner| owner.uid != self.meta.uid);
                self.change(resource, candidate, rest.map(Owner::to_json).collect())
            }
            None if !matches || self.meta.is_deleting() || candidate.is_deleting() => Claim::NotMine,
            None => {
                let mut owners: Vec<Value> = candidate.owners.iter().map(Owner::to_json).collect();
                owners.push(owner_reference(self.api_version, self.kind, self.meta));
                self.change(resource, candidate, owners)
            }
        }
    }

    fn change(&self, resource: &str, candidate: &Meta, owners: Vec<Value>) -> Claim {
        let owners = if owners.is_empty() { Value::Null } else { owners.into() };
        let merge = json!({"metadata": {"ownerReferences": owners}});
        let patch = Patch::new(resource, candidate, Part::Main, merge);
        Claim::Change(Box::new(Patch { revision: Some(candidate.revision), ..patch }.into()))
    }
}
