//! Who owns whom, over objects of every kind: what the garbage collector and namespace deletion ask.

use super::meta::{Meta, ObjectKey, Owner};
use crate::controllers::object::Fnv;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    hash::Hasher,
    sync::Arc,
};

/// An object that has owners, or is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent {
    pub uid: String,
    pub revision: u64,
    pub owners: Vec<Owner>,
    pub finalizers: Vec<String>,
    pub deleting: bool,
}

impl Dependent {
    /// The same but for the revision.
    fn is_like(&self, other: &Self) -> bool {
        (&self.uid, &self.owners, &self.finalizers, self.deleting)
            == (&other.uid, &other.owners, &other.finalizers, other.deleting)
    }
}

/// A uid as a number (a UUID is one), anything else by its hash.
type Uid = u128;

#[derive(Debug, Default)]
pub struct Dependents {
    alive: HashMap<Arc<ObjectKey>, Uid>,
    keys: HashMap<Uid, Arc<ObjectKey>>,
    known: HashMap<Arc<ObjectKey>, Dependent>,
    by_owner: HashMap<Uid, BTreeSet<Arc<ObjectKey>>>,
}

impl Dependents {
    /// Takes in an object (`None`: it is gone); answers with the objects the garbage collector should look at: this
    /// one, those it owned, and owners that wait for it.
    pub(super) fn apply(&mut self, key: &ObjectKey, revision: u64, object: Option<&Value>) -> Vec<ObjectKey> {
        let new = object.map(|object| Meta::parse(object, revision));
        let key = Arc::new(key.clone());
        let gone = self.track(&key, new.as_ref().map(|meta| number(&meta.uid)));
        let mut touched: Vec<ObjectKey> = Vec::new();
        if let Some(dependents) = gone.and_then(|uid| self.by_owner.get(&uid)) {
            touched.extend(dependents.iter().map(|key| (**key).clone()));
        }
        let new = new.filter(|meta| !meta.owners.is_empty() || meta.is_deleting()).map(|meta| Dependent {
            deleting: meta.is_deleting(),
            revision: meta.revision,
            uid: meta.uid,
            owners: meta.owners,
            finalizers: meta.finalizers,
        });
        if let (Some(known), Some(new)) = (self.known.get_mut(&key), &new)
            && known.is_like(new)
        {
            known.revision = revision;
            return touched;
        }
        if new.is_none() && !self.known.contains_key(&key) {
            return touched;
        }
        let old = self.index(&key, new);
        let owners = old.iter().chain(self.known.get(&key)).flat_map(|dependent| &dependent.owners);
        let waiting = owners
            .filter_map(|owner| self.keys.get(&number(&owner.uid)))
            .filter(|owner| self.known.get(*owner).is_some_and(|owner| owner.deleting));
        touched.extend(waiting.map(|key| (**key).clone()));
        touched.push((*key).clone());
        touched
    }

    /// The uid that was under this key and is gone.
    fn track(&mut self, key: &Arc<ObjectKey>, uid: Option<Uid>) -> Option<Uid> {
        let old = match uid {
            Some(uid) => self.alive.insert(key.clone(), uid),
            None => self.alive.remove(key),
        };
        let gone = old.filter(|&old| Some(old) != uid);
        if let Some(gone) = gone {
            self.keys.remove(&gone);
        }
        if let Some(uid) = uid {
            self.keys.insert(uid, key.clone());
        }
        gone
    }

    fn index(&mut self, key: &Arc<ObjectKey>, new: Option<Dependent>) -> Option<Dependent> {
        let old = self.known.remove(key);
        for owner in old.iter().flat_map(|old| &old.owners) {
            let uid = number(&owner.uid);
            if let Some(set) = self.by_owner.get_mut(&uid) {
                set.remove(key);
                if set.is_empty() {
                    self.by_owner.remove(&uid);
                }
            }
        }
        if let Some(new) = new {
            for owner in &new.owners {
                self.by_owner.entry(number(&owner.uid)).or_default().insert(key.clone());
            }
            self.known.insert(key.clone(), new);
        }
        old
    }

    /// Whether an object with this uid exists.
    pub fn exists(&self, uid: &str) -> bool {
        self.keys.contains_key(&number(uid))
    }

    /// Where the object with this uid is, and what is known of it if it has owners or is going.
    pub fn by_uid(&self, uid: &str) -> Option<(&ObjectKey, Option<&Dependent>)> {
        let key = self.keys.get(&number(uid))?;
        Some((key, self.known.get(key)))
    }

    pub fn get(&self, key: &ObjectKey) -> Option<&Dependent> {
        self.known.get(key)
    }

    /// The objects that name this uid as an owner.
    pub fn of(&self, uid: &str) -> impl Iterator<Item = (&ObjectKey, &Dependent)> {
        let keys = self.by_owner.get(&number(uid)).into_iter().flatten();
        keys.filter_map(|key| Some((&**key, self.known.get(key)?)))
    }

    /// Every object that is in a namespace, in order.
    pub fn in_namespace(&self, namespace: &str) -> Vec<&ObjectKey> {
        let mut keys: Vec<_> =
            self.alive.keys().map(|key| &**key).filter(|key| key.at.namespace == namespace).collect();
        keys.sort_unstable();
        keys
    }

    /// Every object that has owners or is going.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.known.keys().map(|key| &**key)
    }
}

fn number(uid: &str) -> Uid {
    let hex: String = uid.chars().filter(|c| *c != '-').collect();
    Uid::from_str_radix(&hex, 16).unwrap_or_else(|_| {
        let mut hasher = Fnv::default();
        hasher.write(uid.as_bytes());
        Uid::from(hasher.finish())
    })
}
