//! What every store promises, written against the trait: the embedded store runs it here.

use super::{Embedded, Expect, ListOptions, Revision, Store, StoreError, Write, writer::Limits};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};

fn put(key: &str, expect: Expect, value: &str) -> Write {
    Write { key: key.into(), expect, value: Some(value.into()) }
}

fn delete(key: &str, revision: Revision) -> Write {
    Write { key: key.into(), expect: Expect::Revision(revision), value: None }
}

async fn create<S: Store>(store: &S, key: &str, value: &str) -> Revision {
    store.commit(vec![put(key, Expect::Absent, value)]).await.expect("the key is free")
}

async fn listed<S: Store>(store: &S, options: ListOptions) -> (BTreeMap<String, String>, Revision) {
    let page = store.list("/pods/", options).await.expect("lists");
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
    (page.entries.iter().map(|entry| (entry.key.clone(), text(&entry.value))).collect(), page.revision)
}

async fn one_revision_per_transaction<S: Store>(store: S) {
    let first = create(&store, "/pods/a/1", "x").await;
    let writes = vec![put("/pods/a/2", Expect::Absent, "y"), put("/pods/a/3", Expect::Absent, "z")];
    assert_eq!(store.commit(writes).await.expect("commits"), first + 1);
    assert_eq!(store.revision(), first + 1);
    let entry = store.get("/pods/a/3").await.expect("reads").expect("is there");
    assert_eq!((&entry.value[..], entry.revision), (&b"z"[..], first + 1));
    assert_eq!(store.get("/pods/a/4").await.expect("reads"), None);
}

async fn expectations_hold_or_nothing_changes<S: Store>(store: S) {
    let first = create(&store, "/pods/a/1", "x").await;
    for (what, write, actual) in [
        ("create of a taken key", put("/pods/a/1", Expect::Absent, "y"), first),
        ("update at another revision", put("/pods/a/1", Expect::Revision(first + 9), "y"), first),
        ("update of an absent key", put("/pods/a/2", Expect::Revision(first), "y"), 0),
        ("deletion of an absent key", delete("/pods/a/2", first), 0),
    ] {
        let error = store.commit(vec![put("/pods/a/0", Expect::Absent, "q"), write]).await.expect_err(what);
        assert!(
            matches!(error, StoreError::Conflict { actual: seen, .. } if seen == actual),
            "{what}: {error}"
        );
        assert_eq!(store.revision(), first, "{what}");
        assert_eq!(store.get("/pods/a/0").await.expect("reads"), None, "{what}");
    }
}

async fn pages_stay_at_one_revision<S: Store>(store: S) {
    for name in ["a", "b", "c", "d", "e"] {
        create(&store, &format!("/pods/n/{name}"), name).await;
    }
    create(&store, "/podsx/n/a", "other prefix").await;
    let at = store.revision();
    let first = store.list("/pods/", ListOptions { limit: 2, count: true, ..Default::default() });
    let first = first.await.expect("lists");
    assert_eq!((first.revision, first.remaining), (at, Some(3)));
    let c = store.get("/pods/n/c").await.expect("reads").expect("is there").revision;
    store.commit(vec![delete("/pods/n/c", c), put("/pods/n/d2", Expect::Absent, "new")]).await.expect("ok");
    let d = store.get("/pods/n/d").await.expect("reads").expect("is there").revision;
    store.commit(vec![put("/pods/n/d", Expect::Revision(d), "changed")]).await.expect("ok");
    let rest = ListOptions { at: Some(at), after: first.next, limit: 3, count: false };
    let (rest, revision) = listed(&store, rest).await;
    assert_eq!(revision, at);
    let expected = [("/pods/n/c", "c"), ("/pods/n/d", "d"), ("/pods/n/e", "e")];
    assert_eq!(rest, expected.map(|(key, value)| (key.into(), value.into())).into());
}

async fn watches_replay_then_follow<S: Store>(store: S) {
    let first = create(&store, "/pods/n/a", "1").await;
    let second = store.commit(vec![put("/pods/n/a", Expect::Revision(first), "2")]).await.expect("ok");
    create(&store, "/nodes/n", "not watched").await;
    let mut watch = store.watch("/pods/", first).await.expect("watches");
    let change = watch.next().await.expect("a change");
    assert_eq!((change.revision, change.value.as_deref()), (second, Some(&b"2"[..])));
    assert_eq!(change.previous.as_deref(), Some(&b"1"[..]));
    let third = store.commit(vec![delete("/pods/n/a", second)]).await.expect("ok");
    let change = watch.next().await.expect("a change");
    assert_eq!((change.revision, change.value, change.previous.as_deref()), (third, None, Some(&b"2"[..])));
    let newest = create(&store, "/nodes/m", "not watched").await;
    let settled = async {
        while watch.settled().expect("nothing is left") < newest {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.expect("bookmarks catch up");
}

async fn slow_watchers_miss_nothing<S: Store>(store: S) {
    let mut watch = store.watch("/pods/", store.revision()).await.expect("watches");
    let value = "v".repeat(4_000);
    let mut written = Vec::new();
    for round in 0..20 {
        let writes = (0..100).map(|i| put(&format!("/pods/n/{round}-{i}"), Expect::Absent, &value)).collect();
        let revision = store.commit(writes).await.expect("ok");
        written.extend((0..100).map(|i| (format!("/pods/n/{round}-{i}"), revision)));
    }
    for expected in written {
        let change = watch.next().await.expect("a change");
        assert_eq!((change.key, change.revision), expected);
    }
}

async fn compaction_forgets_the_past_only<S: Store>(store: S) {
    let first = create(&store, "/pods/n/a", "1").await;
    let second = store.commit(vec![put("/pods/n/a", Expect::Revision(first), "2")]).await.expect("ok");
    let b = create(&store, "/pods/n/b", "b").await;
    let gone = store.commit(vec![delete("/pods/n/b", b)]).await.expect("ok");
    let last = create(&store, "/pods/n/c", "c").await;
    store.compact(gone).await.expect("compacts");
    let old = ListOptions { at: Some(second), ..Default::default() };
    assert!(matches!(store.list("/pods/", old).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.watch("/pods/", second).await, Err(StoreError::Compacted { .. })));
    let future = ListOptions { at: Some(last + 1), ..Default::default() };
    assert!(matches!(store.list("/pods/", future).await, Err(StoreError::Future { .. })));
    let kept = ListOptions { at: Some(gone), ..Default::default() };
    assert_eq!(listed(&store, kept).await.0, [("/pods/n/a".into(), "2".into())].into());
    assert_eq!(listed(&store, ListOptions::default()).await.0.len(), 2);
}

macro_rules! embedded {
    ($($name:ident)*) => { mod embedded { $(
        #[tokio::test]
        async fn $name() { super::$name(super::Embedded::in_memory().expect("opens")).await; }
    )* } };
}
embedded! {
    one_revision_per_transaction expectations_hold_or_nothing_changes pages_stay_at_one_revision
    watches_replay_then_follow slow_watchers_miss_nothing compaction_forgets_the_past_only
}

#[tokio::test]
async fn a_reopened_file_goes_on() {
    let dir = tempfile::tempdir().expect("makes a directory");
    let path = dir.path().join("store.redb");
    let first = {
        let store = Embedded::open(&path).expect("opens");
        create(&store, "/pods/n/a", "1").await
    };
    let store = Embedded::open(&path).expect("opens again");
    assert_eq!(store.revision(), first);
    let mut watch = store.watch("/pods/", 0).await.expect("history survives");
    assert_eq!(watch.next().await.expect("a change").revision, first);
    assert_eq!(create(&store, "/pods/n/b", "2").await, first + 1);
}

#[tokio::test]
async fn history_is_cut_by_itself() {
    for (limits, value, what) in [
        (Limits { revisions: 50, bytes: u64::MAX }, "v".to_owned(), "many revisions"),
        (Limits { revisions: 500, bytes: 10_000 }, "v".repeat(400), "many bytes"),
    ] {
        let store = Embedded::in_memory_with(limits).expect("opens");
        let first = create(&store, "/pods/n/kept", "1").await;
        let mut last = create(&store, "/pods/n/changed", &value).await;
        for _ in 0..200 {
            let write = put("/pods/n/changed", Expect::Revision(last), &value);
            last = store.commit(vec![write]).await.expect("commits");
        }
        assert!(matches!(store.watch("/pods/", first).await, Err(StoreError::Compacted { .. })), "{what}");
        store.watch("/pods/", last - 40).await.expect("the newest history is kept");
        assert_eq!(listed(&store, ListOptions::default()).await.0.len(), 2, "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    /// Every list at every kept revision is what a map that took the same writes held then.
    #[test]
    fn lists_at_any_revision_equal_the_model(steps in prop::collection::vec((0u8..6, any::<bool>()), 1..40), cut in 0usize..40) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        runtime.block_on(async {
            let store = Embedded::in_memory().expect("opens");
            let mut model = BTreeMap::new();
            let mut revisions = BTreeMap::new();
            let mut past = vec![(store.revision(), model.clone())];
            for (step, (key, keep)) in steps.into_iter().enumerate() {
                let key = format!("/pods/n/{key}");
                let known = revisions.get(&key).copied();
                let write = match (known, keep) {
                    (Some(revision), false) => delete(&key, revision),
                    (Some(revision), true) => put(&key, Expect::Revision(revision), &step.to_string()),
                    (None, _) => put(&key, Expect::Absent, &step.to_string()),
                };
                let deleted = write.value.is_none();
                let revision = store.commit(vec![write]).await.expect("the model knows the revisions");
                if deleted {
                    model.remove(&key);
                    revisions.remove(&key);
                } else {
                    model.insert(key.clone(), step.to_string());
                    revisions.insert(key, revision);
                }
                past.push((revision, model.clone()));
            }
            let cut = cut.min(past.len() - 1);
            store.compact(past[cut].0).await.expect("compacts");
            for (revision, expected) in &past[cut..] {
                let at = ListOptions { at: Some(*revision), ..Default::default() };
                assert_eq!(&listed(&store, at).await.0, expected, "at {revision}");
            }
        });
    }
}
