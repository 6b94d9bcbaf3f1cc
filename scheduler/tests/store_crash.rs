//! Power loss, as far as a process can have it: a writer is killed with SIGKILL again and again; every write that it
//! was told is stored has to be there afterwards.
//!
//! The writer is this test's own binary, started again for one hidden test.

use scheduler::store::{Embedded, Expect, ListOptions, Store, Write};
use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

const ROUNDS: usize = 12;
const WRITERS: u32 = 8;
const DIRECTORY: &str = "WHERRY_STORE_CRASH_DIRECTORY";

/// Writes until it is killed, and prints each key once it is acknowledged. Does nothing unless it is asked to.
#[test]
fn writer() {
    let Some(directory) = env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
    runtime.block_on(async {
        let store = Embedded::open(&Path::new(&directory).join("store.redb")).expect("opens what was left");
        let start = store.revision();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            tasks.spawn(async move {
                for number in 0.. {
                    let key = format!("/configmaps/default/{start}-{writer}-{number}");
                    let value = format!("value of {key} {}", "x".repeat(500));
                    let write =
                        Write { key: key.clone(), expect: Expect::Absent, value: Some(value.into_bytes()) };
                    store.commit(vec![write]).await.expect("commits");
                    println!("{key}");
                }
            });
        }
        tasks.join_next().await;
    });
}

#[test]
fn acknowledged_writes_survive_sigkill() {
    let directory = tempfile::tempdir().expect("makes a directory");
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(env::current_exe().expect("has a path"))
            .args(["--exact", "writer", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let keys = lines.map_while(Result::ok).filter(|line| line.starts_with("/configmaps/"));
        // A different number of writes each time, so that the kill comes at different places in a commit.
        acknowledged.extend(keys.take(7 + 13 * round));
        child.kill().expect("kills");
        child.wait().expect("reaps");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("builds");
    runtime.block_on(async {
        let store = Embedded::open(&directory.path().join("store.redb")).expect("opens what was left");
        let page = store.list("/configmaps/", ListOptions::default()).await.expect("lists");
        let present: BTreeSet<String> = page.entries.into_iter().map(|entry| entry.key).collect();
        let lost: Vec<&String> = acknowledged.difference(&present).collect();
        assert!(lost.is_empty(), "lost {} of {}: {lost:?}", lost.len(), acknowledged.len());
    });
}
