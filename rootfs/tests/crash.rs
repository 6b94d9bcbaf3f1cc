//! A process that is killed while it imports, exports, removes, prunes and collects: the next one finds a whole store. Needs root.

mod archives;

use archives::{archive, save};
use rootfs::{Format, ImageStore, Policy, Registries};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

const STATE: &str = "WHERRY_CRASH_STATE";
const ROUNDS: usize = 10;
/// Collects whenever it is asked to.
const ALWAYS: Policy = Policy { high_percent: 1, low_percent: 0, minimum_age_s: 0 };

fn layer() -> Vec<u8> {
    let names: Vec<String> = (0..200).map(|number| format!("file-{number}")).collect();
    archive(&names.iter().map(|name| (name.as_str(), &[7; 2000][..])).collect::<Vec<_>>())
}

#[test]
#[ignore = "the process that is killed; run by the test below"]
fn victim() {
    let state = std::env::var(STATE).expect("run by the test below");
    let state = Path::new(&state);
    let store = ImageStore::open(&state.join("store"), Registries::default()).expect("opens");
    let mut out = std::io::stdout();
    let mut step = |name: &str| writeln!(out, "step {name}").and_then(|()| out.flush()).expect("told");
    loop {
        step("import");
        store.import(&state.join("app.tar"), None).expect("imported");
        step("export");
        store.export("app:1", Format::Oci, std::io::sink()).expect("exported");
        step("remove");
        store.remove("app:1", &[]).expect("removed");
        store.import(&state.join("app.tar"), None).expect("imported");
        step("prune");
        store.prune(true, &[]).expect("pruned");
        store.import(&state.join("app.tar"), None).expect("imported");
        step("collect");
        store.collect(ALWAYS, &[], u64::MAX).expect("collected");
    }
}

#[test]
fn a_kill_at_any_time_leaves_a_store_that_the_next_start_repairs() {
    let dir = tempfile::tempdir().expect("directory");
    save(&dir.path().join("app.tar"), "app:1", &[layer()]);
    let store = dir.path().join("store");
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("known"))
            .args(["victim", "--exact", "--ignored", "--nocapture"])
            .env(STATE, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let steps = lines.map_while(Result::ok).filter(|line| line.contains("step "));
        assert_eq!(steps.take(round + 1).count(), round + 1, "the victim works until it is killed");
        child.kill().expect("killed");
        child.wait().expect("reaped");

        let opened = ImageStore::open(&store, Registries::default()).expect("repairs");
        let entries = |name: &str| fs::read_dir(store.join(name)).expect("listed").count();
        let images = opened.list();
        let app = images.iter().find(|image| image.names.iter().any(|name| name.contains("app:1")));
        assert_eq!(images.len(), 1 + usize::from(app.is_some()), "round {round}");
        if let Some(app) = app {
            assert_eq!(fs::read_dir(&app.lower[0]).expect("listed").count(), 200, "a layer is whole");
        }
        let kept = (entries("staging"), entries("used"), entries("images"), entries("layers"));
        assert_eq!(kept, (0, 0, images.len(), images.len() + 1), "round {round}: nothing else is left");
        opened.import(&dir.path().join("app.tar"), None).expect("and takes the image again");
    }
}
