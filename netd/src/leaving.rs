//! Pods whose links are on their way out. The kernel removes a veth pair with the network namespace of a pod that has ended, by itself and soon; to ask
//! it to costs the one who asks up to 40 ms, in which netd could serve nobody. So the links are waited for, beside everything else.
//!
//! Invariants: a pod here keeps its address until its link is gone, so that no two links have the same; nothing of this is on disk but the lease, which a
//! netd that starts anew finds and the agent's `Retain` ends. A link that does not go by itself, because somebody holds the namespace, is removed.

use crate::links;
use rtnetlink::Handle;
use std::{collections::HashMap, time::Duration};
use tokio::task::{AbortHandle, JoinSet};

/// First look and last: each wait is twice the one before, a second and a half in all.
const LOOKS_MS: [u64; 11] = [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 1000];
/// How often a link that stays is to be removed before the next `Retain` or teardown has to.
const TRIES: u32 = 30;

#[derive(Default)]
pub struct Leaving {
    waits: JoinSet<bool>,
    pods: HashMap<String, AbortHandle>,
}

impl Leaving {
    /// Waits for the end of the pod's link. Repeating it is harmless.
    pub fn begin(&mut self, handle: &Handle, pod: &str) {
        if !self.pods.contains_key(pod) {
            let wait = self.waits.spawn(gone(handle.clone(), links::host_name(pod)));
            self.pods.insert(pod.to_owned(), wait);
        }
    }

    pub fn contains(&self, pod: &str) -> bool {
        self.pods.contains_key(pod)
    }

    /// The pod is wanted after all, or its link is somebody else's to remove; whether it was waited for.
    pub fn cancel(&mut self, pod: &str) -> bool {
        self.pods.remove(pod).inspect(AbortHandle::abort).is_some()
    }

    /// The next pod whose link is gone; `None` when no pod is waited for. May be dropped half way.
    pub async fn next(&mut self) -> Option<String> {
        while let Some(ended) = self.waits.join_next_with_id().await {
            let (id, gone) = match ended {
                Ok((id, gone)) => (id, gone),
                // Cancelled: it is not among the pods any more.
                Err(err) => (err.id(), false),
            };
            let pod = self.pods.iter().find(|(_, wait)| wait.id() == id).map(|(pod, _)| pod.clone());
            if let Some(pod) = pod {
                self.pods.remove(&pod);
                if gone {
                    return Some(pod);
                }
            }
        }
        None
    }
}

/// False when the link is still there and cannot be removed.
async fn gone(handle: Handle, link: String) -> bool {
    for wait_ms in LOOKS_MS {
        if matches!(links::index(&handle, &link).await, Ok(None)) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
    for _ in 0..TRIES {
        match links::remove(&handle, &link).await {
            Ok(()) => return true,
            Err(err) => tracing::warn!(link, error = %crate::chain(&err), "an ended pod's link stays"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(of: &[(&str, bool)]) -> Leaving {
        let mut leaving = Leaving::default();
        for &(pod, gone) in of {
            let wait = leaving.waits.spawn(async move { gone });
            leaving.pods.insert(pod.to_owned(), wait);
        }
        leaving
    }

    #[tokio::test]
    async fn pods_come_out_once_their_links_are_gone() {
        let mut leaving = waits(&[("a", true), ("stays", false)]);
        assert_eq!(leaving.next().await.as_deref(), Some("a"));
        assert_eq!(leaving.next().await, None, "the link of the other is still there");
        assert!(!leaving.contains("a") && !leaving.contains("stays"), "both may begin anew");
    }

    /// The wait of an earlier end says nothing about a pod that was attached since, nor about its next end.
    #[tokio::test]
    async fn a_cancelled_wait_never_comes_out() {
        let mut leaving = waits(&[("a", true)]);
        tokio::task::yield_now().await;
        assert!(leaving.cancel("a") && !leaving.cancel("a"));
        let wait = leaving.waits.spawn(std::future::pending());
        leaving.pods.insert("a".to_owned(), wait);
        let next = tokio::time::timeout(Duration::ZERO, leaving.next()).await;
        assert!(next.is_err(), "the second wait is not over: {next:?}");
        assert!(leaving.contains("a"));
    }
}
