//! What pods tell the scheduler: the newest status of each, events, and that they are gone. Kept while it is away.

use agent_protocol::{Event, FromAgent, PodStatus};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};
use tokio::sync::Notify;

/// Events that wait for the scheduler; the oldest go first.
const EVENTS_MAX: usize = 1000;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Report {
    waiting: Arc<Mutex<Waiting>>,
    more: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The newest of each pod, by uid.
    statuses: BTreeMap<String, PodStatus>,
    gone: Vec<String>,
    events: VecDeque<Event>,
    applied: Option<u64>,
}

impl Report {
    pub fn status(&self, status: &PodStatus) {
        self.add(|waiting| _ = waiting.statuses.insert(status.uid.clone(), status.clone()));
    }

    pub fn gone(&self, uid: &str) {
        self.add(|waiting| {
            waiting.statuses.remove(uid);
            waiting.gone.push(uid.to_owned());
        });
    }

    pub fn event(&self, event: Event) {
        self.add(|waiting| {
            waiting.events.push_back(event);
            if waiting.events.len() > EVENTS_MAX {
                waiting.events.pop_front();
            }
        });
    }

    pub fn applied(&self, seq: u64) {
        self.add(|waiting| waiting.applied = Some(seq));
    }

    fn add(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().expect("no panic while locked"));
        self.more.notify_one();
    }

    /// Everything that waits, in an order that makes sense; waits for something if there is nothing.
    pub async fn take(&self) -> Vec<FromAgent> {
        loop {
            let taken = std::mem::take(&mut *self.waiting.lock().expect("no panic while locked"));
            let mut frames: Vec<FromAgent> =
                taken.applied.map(|seq| FromAgent::Applied { seq }).into_iter().collect();
            frames.extend(taken.events.into_iter().map(FromAgent::Event));
            frames.extend(taken.statuses.into_values().map(|status| FromAgent::Status(Box::new(status))));
            frames.extend(taken.gone.into_iter().map(|uid| FromAgent::Gone { uid }));
            if !frames.is_empty() {
                return frames;
            }
            self.more.notified().await;
        }
    }
}
