//! Our units under a real systemd: installed, started, restarted, stopped.

use std::time::Duration;
use tests::guest::Guest;

const LONG: Duration = Duration::from_secs(180);
pub const UP: &str = "install -m 755 /opt/wherry/wherry-* /opt/wherry/ctl /usr/local/bin/ && \
     mkdir -p /usr/local/lib/systemd/system && \
     for unit in wherry.slice wherry-pods wherry-scheduler wherry-netd wherry-agent; do \
     cp /opt/wherry/$unit* /usr/local/lib/systemd/system/; done; rm -f /usr/local/bin/*.service /usr/local/bin/*.slice; \
     systemctl daemon-reload && ctl up";

#[test]
fn the_quickstart_runs_under_systemd_and_survives_its_daemons() {
    tests::require_root();
    let guest = Guest::boot(None);
    guest.run(UP).ok();
    guest.run("ctl apply -f /opt/wherry/examples/hello.yaml").ok();
    guest.run("ctl rollout status deployment/hello").ok();
    let page = "exec 3<>/dev/tcp/10.0.2.15/30080 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q 'Hello from Wherry' <&3";
    guest.wait_for("the page is served", LONG, &format!("bash -c \"{page}\""));

    let pids =
        "cat /sys/fs/cgroup/wherry.slice/wherry-pods.service/pod-*/*/cgroup.procs | sort -n | tr '\\n' ' '";
    let before = guest.run(pids).ok();
    assert!(before.split_whitespace().count() >= 2, "two pods run: {before:?}");
    for unit in ["wherry-agent", "wherry-scheduler", "wherry-netd"] {
        guest.run(&format!("systemctl kill -s KILL --kill-whom=main {unit}")).ok();
        guest.wait_for(&format!("{unit} is back"), LONG, &format!("systemctl is-active -q {unit}"));
    }
    guest.run("systemctl restart wherry-agent wherry-netd wherry-scheduler").ok();
    guest.wait_for("the page is served again", LONG, &format!("bash -c \"{page}\""));
    guest.wait_for("the node is ready again", LONG, "ctl get nodes | grep -w Ready");
    assert_eq!(guest.run(pids).ok(), before, "containers outlive the daemons");

    guest.run("ctl down --purge --grace 5").ok();
    let left = guest.run(
        "pgrep -a wherry; ls -d /run/wherry /var/lib/wherry /sys/fs/cgroup/wherry.slice/wherry-pods.service 2>/dev/null; \
         ip -o link | grep -E 'wherry|wh[0-9a-f]'; grep -w wherry /proc/self/mountinfo | grep -v /opt/wherry; true",
    );
    assert_eq!(left.ok(), "", "nothing is left");
}
