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
    Guest::with(Some(&tests::images::archives()), quickstart);
}

fn quickstart(guest: &Guest) {
    guest.run(UP).ok();
    guest.run("ctl image import /mnt/nginx.tar").ok();
    guest.run("for manifest in /opt/wherry/examples/*.yaml; do ctl apply -f $manifest || exit; done").ok();
    for deployment in ["hello", "nginx-deployment"] {
        guest.run(&format!("ctl rollout status deployment/{deployment}")).ok();
    }
    for pod in ["nginx-pod", "app-pod"] {
        guest.wait_for(&format!("{pod} runs"), LONG, &format!("ctl get pod {pod} | grep -w Running"));
    }
    let serves = |port: u16, text: &str| {
        format!(
            "bash -c \"exec 3<>/dev/tcp/10.0.2.15/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '{text}' <&3\""
        )
    };
    let page = serves(30080, "Hello from Wherry");
    guest.wait_for("the page is served", LONG, &page);
    guest.wait_for("nginx serves", LONG, &serves(30081, "Welcome to nginx!"));

    let pids =
        "cat /sys/fs/cgroup/wherry.slice/wherry-pods.service/pod-*/*/cgroup.procs | sort -n | tr '\\n' ' '";
    let before = guest.run(pids).ok();
    assert!(before.split_whitespace().count() >= 7, "seven pods run: {before:?}");
    for unit in ["wherry-agent", "wherry-scheduler", "wherry-netd"] {
        guest.run(&format!("systemctl kill -s KILL --kill-whom=main {unit}")).ok();
        guest.wait_for(&format!("{unit} is back"), LONG, &format!("systemctl is-active -q {unit}"));
    }
    guest.run("systemctl restart wherry-agent wherry-netd wherry-scheduler").ok();
    guest.wait_for("the page is served again", LONG, &page);
    guest.wait_for("the node is ready again", LONG, "ctl get nodes | grep -w Ready");
    assert_eq!(guest.run(pids).ok(), before, "containers outlive the daemons");

    guest.run("ctl down --purge --grace 5").ok();
    let left = guest.run(
        "pgrep -a wherry; ls -d /run/wherry /var/lib/wherry /sys/fs/cgroup/wherry.slice/wherry-pods.service 2>/dev/null; \
         ip -o link | grep -E 'wherry|wh[0-9a-f]'; grep -w wherry /proc/self/mountinfo | grep -v /opt/wherry; true",
    );
    assert_eq!(left.ok(), "", "nothing is left");
}
