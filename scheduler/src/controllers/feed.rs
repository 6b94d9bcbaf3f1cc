//! Feeds the world from the store: the whole of it first, then every change in order.

use super::world::{Changed, World};
use crate::{
    registry::Registry,
    store::{Change, ListOptions, Store, StoreError, Watch},
};

/// Keys read at a time.
const PAGE: usize = 500;

/// Reads everything; the watch goes on where the list ended.
pub async fn load(registry: &Registry) -> Result<(World, Watch), StoreError> {
    let (store, mut world) = (registry.store(), World::default());
    let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
    loop {
        let page = store.list("/", options.clone()).await?;
        for entry in &page.entries {
            world.apply(&entry.key, entry.revision, Some(&entry.value));
        }
        options.at = Some(page.revision);
        match page.next {
            Some(next) => options.after = Some(next),
            None => {
                world.revision = page.revision;
                return Ok((world, store.watch("/", page.revision).await?));
            }
        }
    }
}

/// Takes in a change and every other that is already there.
pub fn take(world: &mut World, watch: &mut Watch, first: Change, mut seen: impl FnMut(&World, &Changed)) {
    let mut next = Some(first);
    while let Some(change) = next.take() {
        for changed in world.apply(&change.key, change.revision, change.value.as_ref()) {
            seen(world, &changed);
        }
        match watch.settled() {
            Err(change) => next = Some(change),
            Ok(revision) => world.revision = world.revision.max(revision),
        }
    }
}
