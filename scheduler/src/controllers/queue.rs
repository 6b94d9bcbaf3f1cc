//! Which tasks are to run: each at most once at a time, not before the world has seen its last writes, after a failure
//! only when its back-off is over.

use super::tasks::Task;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Milliseconds since the epoch.
type Millis = u64;

#[derive(Default)]
pub struct Queue {
    dirty: BTreeSet<Task>,
    running: HashSet<Task>,
    /// Not before the world is at this revision.
    gates: HashMap<Task, u64>,
    timers: BTreeMap<(Millis, Task), ()>,
    due: HashMap<Task, Millis>,
    failures: HashMap<Task, Failure>,
}

struct Failure {
    times: u32,
    message: String,
    until: Millis,
}

impl Queue {
    pub fn add(&mut self, tasks: impl IntoIterator<Item = Task>) {
        self.dirty.extend(tasks);
    }

    /// Takes the tasks that may run now.
    pub fn take(&mut self, revision: u64, now: Millis) -> Vec<Task> {
        while let Some(((at, _), ())) = self.timers.first_key_value()
            && *at <= now
        {
            let Some(((_, task), ())) = self.timers.pop_first() else { break };
            self.due.remove(&task);
            self.dirty.insert(task);
        }
        self.gates.retain(|_, gate| *gate > revision);
        let may_run = |task: &Task| {
            !self.running.contains(task)
                && !self.gates.contains_key(task)
                && self.failures.get(task).is_none_or(|failure| failure.until <= now)
        };
        let ready: Vec<Task> = self.dirty.iter().filter(|task| may_run(task)).cloned().collect();
        for task in &ready {
            self.dirty.remove(task);
        }
        ready
    }

    /// The task's writes are under way.
    pub fn started(&mut self, task: &Task) {
        self.running.insert(task.clone());
    }

    /// The task has nothing to write.
    pub fn settled(&mut self, task: &Task) {
        self.failures.remove(task);
    }

    /// They are done, and the store was at `revision` then.
    pub fn finished(&mut self, task: &Task, revision: u64) {
        self.running.remove(task);
        self.failures.remove(task);
        self.gates.insert(task.clone(), revision);
    }

    /// They failed: the task runs again after a pause that doubles each time.
    pub fn failed(&mut self, task: &Task, revision: u64, message: String, now: Millis) {
        self.running.remove(task);
        self.gates.insert(task.clone(), revision);
        let times = self.failures.get(task).map_or(0, |failure| failure.times) + 1;
        let pause = (BACKOFF_FIRST * 2u32.pow((times - 1).min(16))).min(BACKOFF_MAX);
        let until = now + pause.as_millis() as Millis;
        self.failures.insert(task.clone(), Failure { times, message, until });
        self.wake_at(task, until);
    }

    /// Why the task's last writes failed.
    pub fn failure(&self, task: &Task) -> Option<&str> {
        self.failures.get(task).map(|failure| failure.message.as_str())
    }

    /// Runs the task at this time, or earlier if it was to be run earlier.
    pub fn wake_at(&mut self, task: &Task, at: Millis) {
        if let Some(earlier) = self.due.get(task) {
            if *earlier <= at {
                return;
            }
            self.timers.remove(&(*earlier, task.clone()));
        }
        self.due.insert(task.clone(), at);
        self.timers.insert((at, task.clone()), ());
    }

    /// When the next timer goes off.
    pub fn next_timer(&self) -> Option<Millis> {
        self.timers.first_key_value().map(|((at, _), ())| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_waits_for_its_own_writes_to_be_seen() {
        let (mut queue, task) = (Queue::default(), Task::Node("a".into()));
        queue.add([task.clone()]);
        assert_eq!(queue.take(1, 0), std::slice::from_ref(&task));
        queue.started(&task);
        queue.add([task.clone()]);
        assert!(queue.take(1, 0).is_empty(), "it is running");
        queue.finished(&task, 5);
        assert!(queue.take(4, 0).is_empty(), "its writes are not seen yet");
        assert_eq!(queue.take(5, 0), [task]);
        assert!(queue.take(5, 0).is_empty());
    }

    #[test]
    fn failures_pause_longer_each_time() {
        let (mut queue, task) = (Queue::default(), Task::Node("a".into()));
        let mut now = 0;
        for expected in [20, 40, 80, 160] {
            queue.failed(&task, 0, "no".into(), now);
            queue.add([task.clone()]);
            assert_eq!(queue.next_timer(), Some(now + expected));
            assert!(queue.take(0, now + expected - 1).is_empty());
            now += expected;
            assert_eq!(queue.take(0, now), std::slice::from_ref(&task));
        }
        assert_eq!(queue.failure(&task), Some("no"));
    }
}
