//! Limits of a pod hold where cgroup v2 has its controllers.

use super::systemd::UP;
use std::time::Duration;
use tests::guest::Guest;

const LONG: Duration = Duration::from_secs(180);

/// A pod of the busybox image that runs `script` under `limits`.
fn pod(name: &str, limits: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    \
         image: busybox:latest\n    imagePullPolicy: IfNotPresent\n    command: [sh, -c, '{script}']\n    resources: {{limits: {limits}}}\n"
    )
}

fn start(guest: &Guest, manifest: &str) {
    guest.run(&format!("ctl apply -f - <<'EOF'\n{manifest}EOF\n")).ok();
}

#[test]
fn limits_hold() {
    tests::require_root();
    Guest::with(Some(&tests::images::archives()), |guest| {
        guest.run(UP).ok();
        guest.run("ctl image import /mnt/busybox.tar").ok();
        memory(guest);
        cpu(guest);
        pids(guest);
    });
}

fn memory(guest: &Guest) {
    start(guest, &pod("hog", "{memory: 24Mi}", "tail /dev/zero"));
    let state = "ctl get pod hog -o json | tr -d ' \\n' | grep -o 'OOMKilled'";
    guest.wait_for("the hog is OOMKilled and says so", LONG, state);
    let code = guest.run("ctl get pod hog -o json | grep -c '\"exitCode\": 137'").ok();
    assert_eq!(code.trim(), "1");
}

fn cpu(guest: &Guest) {
    start(guest, &pod("spin", "{cpu: 500m}", "while :; do :; done"));
    guest.wait_for("it spins", LONG, "ctl get pod spin | grep -w Running");
    let uid = "ctl get pod spin -o json | sed -n 's/^ *\"uid\": \"\\(.*\\)\".*/\\1/p' | head -n 1";
    // Growth over 20 s of the guest's own clock, in thousandths of a CPU.
    let measure = format!(
        "stat=/sys/fs/cgroup/wherry.slice/wherry-pods.service/pod-$({uid})/cpu.stat; \
         use() {{ sed -n 's/^usage_usec //p' $stat; }}; \
         a=$(use); s=$(date +%s%N); sleep 20; b=$(use); e=$(date +%s%N); echo $(( (b - a) * 1000000 / (e - s) ))"
    );
    let millis: u64 = guest.run(&measure).ok().trim().parse().expect("a number");
    assert!((450..=550).contains(&millis), "limited to 500m, used {millis}m");
    guest.run("ctl delete pod spin --grace-period 0").ok();
}

fn pids(guest: &Guest) {
    start(guest, &pod("bomb", "{cpu: 1500m}", "bomb() { bomb | bomb & }; bomb; while :; do sleep 1; done"));
    let count = "cat /sys/fs/cgroup/wherry.slice/wherry-pods.service/pod-*/pids.max | sort -n | head -n 1";
    let max: u64 = guest
        .wait_for("the bomb has its limit", LONG, &format!("{count} | grep -v max"))
        .trim()
        .parse()
        .expect("a number");
    guest.wait_for("the bomb stops at its limit", LONG, "grep -h max /sys/fs/cgroup/wherry.slice/wherry-pods.service/pod-*/pids.events /sys/fs/cgroup/wherry.slice/wherry-pods.service/pod-*/*/pids.events | grep -vw 'max 0'");
    let now: u64 = guest
        .run("cat /sys/fs/cgroup/wherry.slice/wherry-pods.service/pod-*/pids.current | sort -n | tail -n 1")
        .ok()
        .trim()
        .parse()
        .expect("a number");
    assert!(now <= max, "{now} tasks, at most {max}");
    guest.run("ctl delete pod bomb --grace-period 0").ok();
    guest.wait_for("the host is well", LONG, "ctl get nodes | grep -w Ready");
}
