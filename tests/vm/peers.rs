//! What others drive a runtime with, driving ours: podman as root and as an ordinary user, containerd through its runc shim, docker.

use std::time::Duration;
use tests::guest::Guest;

const LONG: Duration = Duration::from_secs(120);
/// Nothing is inherited from ssh, and the first failure ends the script.
const PREFIX: &str = "exec < /dev/null; set -eu; R=/usr/local/bin/wherry-runtime; ";

struct Peer<'a> {
    guest: &'a Guest,
    prefix: String,
}

impl Peer<'_> {
    /// What the script prints, without the last line's end.
    #[track_caller]
    fn says(&self, script: &str) -> String {
        self.guest.run(&format!("{PREFIX}{}{script}", self.prefix)).ok().trim_end().to_owned()
    }

    #[track_caller]
    fn ends_with(&self, code: i32, script: &str) {
        let out = self.says(&format!("{script} > /dev/null 2>&1 && echo 0 || echo $?"));
        assert_eq!(out, code.to_string(), "{script}");
    }
}

#[test]
fn peers_drive_the_runtime() {
    tests::require_root();
    Guest::with(Some(&tests::images::archives()), |guest| {
        let setup = "install -m 755 /opt/wherry/wherry-runtime /usr/local/bin; mkdir -p /etc/containers /etc/docker; \
                 echo '{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}' > /etc/containers/policy.json; \
                 useradd --create-home tester; loginctl enable-linger tester";
        guest.run(&format!("{PREFIX}{setup}")).ok();
        podman(&Peer { guest, prefix: "p() { podman --runtime $R \"$@\"; }; ".to_owned() });
        rootless(guest);
        containerd(&Peer { guest, prefix: "I=docker.io/library/busybox:latest; ".to_owned() });
        docker(&Peer { guest, prefix: "d() { docker \"$@\"; }; ".to_owned() });
        // What ended is gone, whoever started it.
        guest.wait_for("no state is left", LONG, "[ -z \"$(ls /run/wherry/runtime 2>/dev/null)\" ]");
        guest.wait_for(
            "no scope is left",
            LONG,
            "! systemctl list-units --type scope --no-legend | grep -E 'libpod|docker|ctr'",
        );
    });
}

fn podman(podman: &Peer<'_>) {
    podman.says("p load --quiet --input /mnt/busybox.tar");
    let limits = "p run --rm --network none -m 64m --cpus 0.5 --pids-limit 50 busybox cat /sys/fs/cgroup/memory.max \
                  /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max";
    assert_eq!(podman.says(limits), "67108864\n50000 100000\n50");
    podman.says(
        "p run -d --name web --network none -m 64m busybox sh -c 'echo hello; trap \"echo bye; exit 3\" TERM; while :; do sleep 0.1; done'",
    );
    assert_eq!(
        podman.says("p exec -e A=b -w /tmp -u 7:8 web sh -c 'echo $A $(pwd) $(id -u) $(id -g)'"),
        "b /tmp 7 8"
    );
    assert_eq!(podman.says("p exec -t web tty").trim(), "/dev/pts/0");
    podman.says("p update -m 32m web");
    assert_eq!(podman.says("p exec web cat /sys/fs/cgroup/memory.max"), "33554432");
    assert_eq!(podman.says("p stats --no-stream --format '{{.Name}}' web"), "web");
    podman.says("p pause web; p unpause web; p stop -t 10 web");
    assert_eq!(
        podman.says("p logs web; p inspect -f '{{.State.ExitCode}}' web; p rm web > /dev/null"),
        "hello\nbye\n3"
    );
    assert_eq!(podman.says("p run --rm -t --network none busybox tty").trim(), "/dev/pts/0");
    podman.says("p run --rm --network none --privileged busybox true");
    podman.ends_with(42, "p run --rm --network none busybox sh -c 'exit 42'");
    podman.ends_with(127, "p run --rm --network none busybox nosuch");
    let pod = "p pod create --name pod --network none --infra-image localhost/busybox --infra-command 'sleep 1000' > /dev/null; \
               p run -d --pod pod --name one busybox sleep 1000 > /dev/null; p run -d --pod pod --name two busybox sleep 1000 > /dev/null; \
               a=$(p exec one readlink /proc/self/ns/ipc); b=$(p exec two readlink /proc/self/ns/ipc); [ \"$a\" = \"$b\" ] && echo shared; \
               p pod rm -t 0 -f pod > /dev/null";
    assert_eq!(podman.says(pod), "shared");
    let build = "mkdir -p /tmp/ctx; printf 'FROM localhost/busybox\\nRUN echo built > /made\\n' > /tmp/ctx/Containerfile; \
                 p build --quiet --network none -t made /tmp/ctx > /dev/null; p run --rm --network none made cat /made";
    assert_eq!(podman.says(build), "built");
}

/// A user's own podman: ids mapped by newuidmap, a scope by the user's own systemd.
fn rootless(guest: &Guest) {
    guest.wait_for("the user's bus is there", LONG, "test -S /run/user/$(id -u tester)/bus");
    let prefix = "cd /home/tester; U=/run/user/$(id -u tester); \
                  p() { runuser -u tester -- env HOME=/home/tester XDG_RUNTIME_DIR=$U DBUS_SESSION_BUS_ADDRESS=unix:path=$U/bus \
                  podman --runtime $R \"$@\"; }; ";
    let tester = Peer { guest, prefix: prefix.to_owned() };
    tester.says(
        "cp /mnt/busybox.tar /tmp/own.tar; chmod 644 /tmp/own.tar; p load --quiet --input /tmp/own.tar",
    );
    let out = tester.says("p run --rm --network none -m 32m busybox sh -c 'id -u; cat /sys/fs/cgroup/memory.max; cat /proc/self/uid_map'");
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words[..3], ["0", "33554432", "0"], "{out}");
    assert_ne!(words[3], "0", "root inside is the user outside: {out}");
    tester.says("p run -d --name own --network none busybox sleep 1000");
    assert_eq!(tester.says("p exec own id -u; p rm -f -t 0 own > /dev/null"), "0");
}

fn containerd(ctr: &Peer<'_>) {
    ctr.says("systemctl start containerd; ctr image import /mnt/busybox.tar > /dev/null");
    let run = |arguments: &str| format!("ctr run --runc-binary $R {arguments}");
    assert_eq!(ctr.says(&run("--rm $I one sh -c 'echo $$'")), "1");
    assert_eq!(
        ctr.says(&run(
            "--rm --runc-systemd-cgroup --cgroup system.slice:ctr:two $I two cat /proc/self/cgroup"
        )),
        "0::/system.slice/ctr-two.scope"
    );
    ctr.says(&run("-d --memory-limit 67108864 $I three sleep 1000"));
    assert_eq!(ctr.says("ctr task exec --exec-id e three sh -c 'exit 9' || echo $?"), "9");
    assert_eq!(
        ctr.says("ctr task metrics three | awk '$1 == \"memory.usage_limit\" {print $2}'"),
        "67108864"
    );
    assert_eq!(ctr.says("ctr task pause three; ctr task ls -q; ctr task resume three"), "three");
    ctr.says("ctr task kill -s KILL three");
    ctr.guest.wait_for("it is stopped", LONG, "ctr task ls | grep -w STOPPED");
    ctr.says("ctr task rm three || true; ctr container rm three");
}

fn docker(docker: &Peer<'_>) {
    docker.says(
        "echo '{\"runtimes\": {\"wherry\": {\"path\": \"/usr/local/bin/wherry-runtime\"}}, \"default-runtime\": \"wherry\", \
         \"iptables\": false, \"ip6tables\": false, \"bridge\": \"none\"}' > /etc/docker/daemon.json; systemctl start docker; \
         docker load --quiet --input /mnt/busybox.tar; docker tag $(docker image ls -q | head -n 1) box",
    );
    let limits = "d run --rm --network none -m 64m --cpus 0.5 --pids-limit 50 box cat /sys/fs/cgroup/memory.max \
                  /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max";
    assert_eq!(docker.says(limits), "67108864\n50000 100000\n50");
    docker.says("d run -d --name web --network none box sh -c 'echo hello; trap \"exit 3\" TERM; while :; do sleep 0.1; done'");
    assert_eq!(docker.says("d exec -e A=b -u 7:8 web sh -c 'echo $A $(id -u) $(id -g)'"), "b 7 8");
    assert_eq!(docker.says("d exec -t web tty").trim(), "/dev/pts/0");
    docker.says("d update -m 32m --memory-swap 64m web; d pause web; d unpause web; d top web");
    assert_eq!(docker.says("d stats --no-stream --format '{{.Name}}' web"), "web");
    docker.says("d stop -t 10 web");
    assert_eq!(
        docker.says("d logs web; d inspect -f '{{.State.ExitCode}}' web; d rm web > /dev/null"),
        "hello\n3"
    );
    docker.ends_with(42, "d run --rm --network none box sh -c 'exit 42'");
    docker.ends_with(127, "d run --rm --network none box nosuch");
    docker.says("d run --rm --network none --privileged box true; d run --rm --network none --read-only --tmpfs /t box touch /t/x");
}
