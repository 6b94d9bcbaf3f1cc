//! Network namespaces, so that a cluster's bridge, addresses and ports are nobody else's.

use crate::command::run;
use std::{fs::File, path::PathBuf, process::Command};

/// A namespace that goes when it is dropped.
pub struct Netns {
    pub name: String,
}

impl Netns {
    /// Makes the namespace, with `lo` up and an uplink `uplink0` that leads nowhere and holds `address` (and the default route).
    pub fn create(name: &str, address: &str) -> Self {
        let this = Self { name: name.to_owned() };
        run(Command::new("ip").args(["netns", "add", name]), "").ok();
        let setup = [
            vec!["link", "set", "lo", "up"],
            vec!["link", "add", "uplink0", "type", "veth", "peer", "name", "uplink1"],
            vec!["link", "set", "uplink1", "up"],
            vec!["addr", "add", address, "dev", "uplink0"],
            vec!["link", "set", "uplink0", "up"],
            vec!["route", "add", "default", "dev", "uplink0"],
        ];
        for words in setup {
            run(this.command("ip").args(words), "").ok();
        }
        this
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run in the namespace. nsenter, as `ip netns exec` would hide the cgroups below a new /sys.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).expect("the namespace exists");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
                    .expect("root may enter a namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.path().exists() {
            let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
        }
    }
}
