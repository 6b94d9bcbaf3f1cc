//! What a cluster may not leave behind: processes, mounts, links, cgroups, files.

use crate::netns::Netns;
use std::{fs, path::Path};

/// Everything found that belongs to the cluster of `dir` and `cgroup_parent`, a line each.
pub fn find(dir: &Path, netns: &Netns, cgroup_parent: &str) -> Vec<String> {
    let mut leaks = Vec::new();
    leaks.extend(processes(dir).into_iter().map(|what| format!("process {what}")));
    leaks.extend(mounts(dir).into_iter().map(|what| format!("mount {what}")));
    leaks.extend(links(netns).into_iter().map(|what| format!("link {what}")));
    leaks.extend(cgroups(cgroup_parent).into_iter().map(|what| format!("cgroup {what}")));
    for state in ["run", "state", "logs"] {
        leaks.extend(files(&dir.join(state)).into_iter().map(|what| format!("file {what}")));
    }
    leaks
}

/// Processes whose command line names `dir`, and what runs in a root below it.
pub fn processes(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let words = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&words).replace('\0', " ");
            (pid != std::process::id() && line.contains(dir.as_ref())).then(|| format!("{pid} {line}"))
        })
        .collect()
}

/// Mount points of this mount namespace below `dir`.
pub fn mounts(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|at| at.starts_with(dir.as_ref()))
        .map(str::to_owned)
        .collect()
}

/// Network links that the harness did not make.
fn links(netns: &Netns) -> Vec<String> {
    let list = crate::command::run(netns.command("ip").args(["-o", "link"]), "").ok();
    let name = |line: &str| line.split(": ").nth(1).map(str::to_owned);
    list.lines().filter_map(name).filter(|name| name != "lo" && !name.starts_with("uplink")).collect()
}

/// The cgroup2 mount point.
pub fn cgroup_root() -> std::path::PathBuf {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = table.lines().find(|line| line.contains(" - cgroup2 ")).expect("cgroup2 is mounted");
    line.split(' ').nth(4).expect("a mount point").into()
}

fn cgroups(parent: &str) -> Vec<String> {
    let path = cgroup_root().join(parent);
    if path.exists() { vec![path.display().to_string()] } else { Vec::new() }
}

fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                left.push(entry.path());
            } else {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}
