//! Pods that wait for a node: those to decide now, and those that fit nowhere and wait for a change.

use crate::controllers::world::NsName;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// First pause of a pod that fits nowhere; doubles up to [`BACKOFF_MAX_S`].
const BACKOFF_S: i64 = 1;
const BACKOFF_MAX_S: i64 = 10;

#[derive(Default)]
pub struct Queue {
    /// By priority, then age, then name.
    ready: BTreeSet<(i64, i64, NsName)>,
    places: HashMap<NsName, (i64, i64, NsName)>,
    parked: BTreeMap<NsName, Parked>,
}

struct Parked {
    place: (i64, i64, NsName),
    tries: u32,
    tried_s: i64,
    /// Something changed since: try at this time.
    wake_s: Option<i64>,
}

impl Queue {
    pub fn push(&mut self, at: &NsName, priority: i64, created_s: i64) {
        let place = (-priority, created_s, at.clone());
        if let Some(old) = self.places.insert(at.clone(), place.clone()) {
            self.ready.remove(&old);
        }
        self.ready.insert(place);
    }

    pub fn remove(&mut self, at: &NsName) {
        self.parked.remove(at);
        if let Some(place) = self.places.remove(at) {
            self.ready.remove(&place);
        }
    }

    /// The next pod to decide.
    pub fn pop(&mut self, now_s: i64) -> Option<NsName> {
        let due: Vec<NsName> = self
            .parked
            .iter()
            .filter(|(_, parked)| parked.wake_s.is_some_and(|wake_s| wake_s <= now_s))
            .map(|(at, _)| at.clone())
            .collect();
        for at in due {
            if let Some(parked) = self.parked.get_mut(&at) {
                parked.wake_s = None;
                self.places.insert(at, parked.place.clone());
                self.ready.insert(parked.place.clone());
            }
        }
        let (_, _, at) = self.ready.pop_first()?;
        self.places.remove(&at);
        Some(at)
    }

    /// Puts a pod off until something changes.
    pub fn park(&mut self, at: &NsName, priority: i64, created_s: i64, now_s: i64) {
        let place = (-priority, created_s, at.clone());
        let tries = self.parked.get(at).map_or(0, |parked| parked.tries) + 1;
        self.parked.insert(at.clone(), Parked { place, tries, tried_s: now_s, wake_s: None });
    }

    /// Something changed that may help: pods that were put off are tried again after their back-off.
    pub fn wake_all(&mut self, now_s: i64) {
        for parked in self.parked.values_mut() {
            parked.wake(now_s);
        }
    }

    pub fn wake(&mut self, at: &NsName, now_s: i64) {
        if let Some(parked) = self.parked.get_mut(at) {
            parked.wake(now_s);
        }
    }

    pub fn next_s(&self) -> Option<i64> {
        self.parked.values().filter_map(|parked| parked.wake_s).min()
    }
}

impl Parked {
    fn wake(&mut self, now_s: i64) {
        let pause_s = (BACKOFF_S << (self.tries - 1).min(4)).min(BACKOFF_MAX_S);
        self.wake_s.get_or_insert(now_s.max(self.tried_s + pause_s));
    }
}
