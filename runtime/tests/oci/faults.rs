//! The runtime killed, or refused by the kernel, at its system calls: whatever is left, `delete --force` removes.
//!
//! A clean run counts the calls of each process; then the fault is injected at one call after the other, in the command and in what it has made. With
//! `FULL=1` (`make sweep`) at all of them, else at every n-th, from one on that differs from run to run; `FAULT_SEED` repeats a run.

use crate::{
    bundle::{Bundle, shell},
    tracer::{self, Fault, Outcome, Place},
};
use serde_json::json;
use std::{collections::BTreeMap, fs};

/// Calls of one command that are tried, unless all are.
const SAMPLE: usize = 200;
const EIO: Fault = Fault::Error(nix::libc::EIO);
const ENOMEM: Fault = Fault::Error(nix::libc::ENOMEM);

/// A command under test, and how to come to the state that it starts from.
struct Case<'a> {
    bundle: Bundle,
    before: &'a [&'a [&'a str]],
    words: &'a [&'a str],
    /// The container's first process has a part in it.
    with_first: bool,
}

impl<'a> Case<'a> {
    fn new(script: &str, before: &'a [&'a [&'a str]], words: &'a [&'a str]) -> Option<Self> {
        let bundle = shell(script)?;
        let marked = json!(["PATH=/bin", format!("CONTAINER={}", bundle.id)]);
        let bundle = bundle
            .with("/process/env", marked)
            .with("/process/oomScoreAdj", json!(100))
            .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
            .with("/linux/sysctl", json!({"kernel.shm_rmid_forced": "1"}));
        bundle.write();
        Some(Self { bundle, before, words, with_first: false })
    }

    /// With namespaces that are made, joined and mapped, and everything else that takes further processes or descriptors.
    fn richer(mut self) -> Self {
        fs::create_dir(self.bundle.dir.join("volume")).expect("made");
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
        let linux = &mut self.bundle.config["linux"];
        (linux["uidMappings"], linux["gidMappings"]) = (map.clone(), map.clone());
        linux["timeOffsets"] = json!({"monotonic": {"secs": 7}});
        let namespaces = linux["namespaces"].as_array_mut().expect("a list");
        namespaces.extend([json!({"type": "user"}), json!({"type": "time"})]);
        let mapped = json!({"destination": "/data", "type": "bind", "source": "volume", "options": ["bind"],
            "uidMappings": map, "gidMappings": map});
        self.bundle.config["mounts"].as_array_mut().expect("a list").push(mapped);
        self.bundle.config["hooks"] =
            json!({"createRuntime": [{"path": "/bin/true"}], "createContainer": [{"path": "/bin/true"}]});
        std::os::unix::fs::chown(self.bundle.root(), Some(200_000), Some(200_000)).expect("chown");
        self.bundle.write();
        self
    }

    fn run(&self, fault: Option<(Place, Fault)>) -> Outcome {
        for words in self.before {
            self.bundle.runtime(words).expect_ok();
        }
        let first = self.with_first.then(|| self.bundle.state()["pid"].as_i64().expect("a pid") as i32);
        tracer::run(&self.bundle, self.words, first.as_slice(), fault)
    }

    /// Nothing is left but what is on disk before `delete`, and then not even that.
    fn clear(&self, what: &str) {
        let answer = self.bundle.runtime(&["delete", "--force", "{id}"]);
        assert_eq!(answer.code, 0, "{what}: {}", answer.err);
        self.bundle.expect_gone();
        let mut left = Vec::new();
        // One that has lost its parent goes by itself, soon.
        self.bundle.wait_for(&format!("{what}: processes are left"), || {
            left = marked(&self.bundle.id);
            left.is_empty()
        });
    }

    /// Injects the fault at one call after the other; `expect` judges what came of it, before everything is cleared.
    fn each(&self, fault: Fault, expect: impl Fn(&Outcome, &str)) {
        let clean = self.run(None);
        assert_eq!(clean.answer.code, 0, "{clean:?}");
        self.clear("without a fault");
        let calls = clean.calls.iter().enumerate();
        let places: Vec<Place> = calls
            .flat_map(|(process, &count)| (1..=count).map(move |call| Place { process, call }))
            .collect();
        assert!(places.len() > 40, "{clean:?}");
        let full = std::env::var_os("FULL").is_some();
        let step = if full { 1 } else { places.len().div_ceil(SAMPLE) };
        let seed = seed();
        let (mut tried, mut hit) = (0, 0);
        for &place in places.iter().skip(seed % step).step_by(step) {
            let outcome = self.run(Some((place, fault)));
            let what = format!(
                "{:?} with {fault:?} at {place:?}, system call {:?} (FAULT_SEED={seed})",
                self.words, outcome.hit
            );
            expect(&outcome, &what);
            self.clear(&what);
            tried += 1;
            hit += usize::from(outcome.hit.is_some());
        }
        // Waiting is not done equally often each time.
        assert!(10 * hit > 7 * tried, "{hit} of {tried} faults came to pass");
        eprintln!("{:?}: {fault:?} at {hit} of {} calls of {:?}", self.words, places.len(), clean.calls);
    }
}

fn seed() -> usize {
    let given = std::env::var("FAULT_SEED").ok().map(|seed| seed.parse().expect("FAULT_SEED is a number"));
    given.unwrap_or(runtime::clock::now_ns() as usize % 10_000)
}

/// Processes that have the container's id in their environment: the runtime's, and the container's.
fn marked(id: &str) -> Vec<i32> {
    let mark = format!("CONTAINER={id}");
    let pids = fs::read_dir("/proc")
        .expect("read")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let has = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(has).collect()
}

/// Whoever is told of an error, or has lost only its child, clears up by itself.
fn expect_cleared(bundle: &Bundle, outcome: &Outcome, what: &str) {
    let left = bundle.state_root().join(&bundle.id);
    assert!(
        outcome.answer.code == 0 || !left.exists(),
        "{what}: {} is left: {:?}",
        left.display(),
        outcome.answer
    );
}

#[test]
fn killed_at_any_call_of_create() {
    let Some(case) = Case::new("sleep 1000", &[], &["create", "{id}"]) else { return };
    case.each(Fault::Kill, |outcome, what| {
        if outcome.answer.code != 128 + 9 {
            expect_cleared(&case.bundle, outcome, what);
        }
    });
}

#[test]
fn killed_at_any_call_of_a_richer_create_and_exec() {
    let Some(case) = Case::new("sleep 1000", &[], &["create", "{id}"]) else { return };
    let case = case.richer();
    case.each(Fault::Kill, |_, _| ());
    case.each(EIO, |outcome, what| expect_cleared(&case.bundle, outcome, what));
    let up: &[&[&str]] = &[&["create", "{id}"], &["start", "{id}"]];
    let Some(case) = Case::new("sleep 1000", up, &["exec", "{id}", "id"]) else { return };
    case.richer().each(Fault::Kill, |_, _| ());
}

#[test]
fn killed_at_any_call_of_run() {
    let Some(case) = Case::new("sleep 1000", &[], &["run", "--detach", "{id}"]) else { return };
    case.each(Fault::Kill, |_, _| ());
}

#[test]
fn killed_at_any_call_of_start() {
    let Some(mut case) = Case::new("sleep 1000", &[&["create", "{id}"]], &["start", "{id}"]) else { return };
    case.with_first = true;
    case.each(Fault::Kill, |_, what| {
        case.bundle.wait_for(&format!("{what}: the status is wrong"), || tells_the_truth(&case.bundle));
    });
}

/// Created until the program runs, and running from then on.
fn tells_the_truth(bundle: &Bundle) -> bool {
    let state = bundle.state();
    let program = fs::read_link(format!("/proc/{}/exe", state["pid"]));
    let runs = program.is_ok_and(|program| program.ends_with("busybox"));
    match state["status"].as_str() {
        Some("created") => !runs,
        Some("running") => runs,
        _ => true,
    }
}

#[test]
fn killed_at_any_call_of_exec() {
    let up: &[&[&str]] = &[&["create", "{id}"], &["start", "{id}"]];
    let Some(case) = Case::new("sleep 1000", up, &["exec", "{id}", "id"]) else { return };
    case.each(Fault::Kill, |_, _| ());
}

#[test]
fn killed_or_refused_at_any_call_of_kill_and_delete() {
    let up: &[&[&str]] = &[&["create", "{id}"], &["start", "{id}"]];
    for words in [&["kill", "{id}", "KILL"][..], &["delete", "--force", "{id}"]] {
        let Some(case) = Case::new("sleep 1000", up, words) else { return };
        for fault in [Fault::Kill, EIO, ENOMEM] {
            case.each(fault, |_, _| ());
        }
    }
}

#[test]
fn refused_by_the_kernel_at_any_call_of_create() {
    let Some(case) = Case::new("sleep 1000", &[], &["create", "{id}"]) else { return };
    for fault in [EIO, ENOMEM] {
        case.each(fault, |outcome, what| expect_cleared(&case.bundle, outcome, what));
    }
}

#[test]
fn refused_by_the_kernel_at_any_call_of_start_and_exec() {
    let Some(mut case) = Case::new("sleep 1000", &[&["create", "{id}"]], &["start", "{id}"]) else { return };
    case.with_first = true;
    for fault in [EIO, ENOMEM] {
        case.each(fault, |_, _| ());
    }
    let up: &[&[&str]] = &[&["create", "{id}"], &["start", "{id}"]];
    let Some(case) = Case::new("sleep 1000", up, &["exec", "{id}", "id"]) else { return };
    for fault in [EIO, ENOMEM] {
        // Whatever becomes of it, the container goes on; and one that says it was done was done.
        case.each(fault, |outcome, what| {
            assert_eq!(case.bundle.status(), "running", "{what}");
            if outcome.answer.code == 0 {
                assert!(outcome.answer.out.starts_with("uid=0 gid=0"), "{what}: {:?}", outcome.answer);
            }
        });
    }
}

/// What the program of a container sees of its confinement; the same in every run.
const CONFINEMENT: &str = r#"
grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Sig(Ign|Blk)|Umask|TracerPid)' /proc/self/status
awk '{print $5, $6}' /proc/self/mountinfo
cat /proc/self/cgroup /proc/self/oom_score_adj /proc/sys/kernel/shm_rmid_forced /sys/class/net/lo/flags
hostname; pwd; ulimit -n; ulimit -Hn; echo $$; ls /dev /proc/self/fd /proc/1/fd
mknod /dev/x c 10 237; cat /dev/x; cat /proc/kcore /proc/keys; ls /sys/firmware
for kind in cgroup ipc mnt net pid uts; do case $HOST in *$(readlink /proc/self/ns/$kind)*) echo $kind of the host; esac; done
"#;

/// A container that is made in spite of an error is confined as any other; else nothing is left of it.
#[test]
fn refused_by_the_kernel_at_any_call_of_run() {
    let Some(mut case) = Case::new(&format!("{{ {CONFINEMENT} }} 2>&1"), &[], &["run", "{id}"]) else {
        return;
    };
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("read").display().to_string();
    let host = ["cgroup", "ipc", "mnt", "net", "pid", "uts"].map(own).join(" ");
    case.bundle.config["process"]["env"].as_array_mut().expect("a list").push(json!(format!("HOST={host}")));
    case.bundle.write();
    let clean = case.run(None).answer.expect_ok();
    assert!(clean.contains("Seccomp:\t2") && !clean.contains("of the host"), "{clean}");
    let outcomes = std::cell::RefCell::new(BTreeMap::new());
    case.each(EIO, |outcome, what| {
        if outcome.answer.code == 0 {
            assert_eq!(outcome.answer.out, clean, "{what}");
        }
        *outcomes.borrow_mut().entry(outcome.answer.code).or_insert(0) += 1;
    });
    eprintln!("exit codes and how many: {:?}", outcomes.borrow());
}
