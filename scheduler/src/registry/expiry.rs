//! Events are forgotten an hour after they were last seen.

use super::{DeleteOptions, Registry, object};
use crate::clock;
use api::{Status, resource};
use serde_json::Value;
use std::time::{Duration, SystemTime};
use tracing::warn;

const EVENT_LIFE: Duration = Duration::from_secs(60 * 60);
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Sweeps until it is dropped.
pub async fn expire_events(registry: Registry) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        if let Err(status) = registry.sweep_events().await {
            warn!(error = %status, "old events were not removed");
        }
    }
}

impl Registry {
    pub(super) async fn sweep_events(&self) -> Result<(), Status> {
        let now = self.clock().now();
        let (events, _) = self.list(&resource::EVENTS, None).await?;
        for event in events.iter().filter(|event| is_old(event, now)) {
            let (namespace, name) = (object::meta_str(event, "namespace"), object::meta_str(event, "name"));
            match self.delete(&resource::EVENTS, namespace, name, &DeleteOptions::default()).await {
                Ok(_) => {}
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }
}

fn is_old(event: &Value, now: SystemTime) -> bool {
    let times = [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["eventTime"]];
    let created = &event["metadata"]["creationTimestamp"];
    let seen = times.into_iter().chain([created]).filter_map(Value::as_str);
    seen.filter_map(clock::parse_timestamp).max().is_some_and(|seen| seen + EVENT_LIFE < now)
}
