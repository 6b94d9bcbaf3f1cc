//! What the kernel alone takes for a container: the yardstick of `make bench`.
//!
//! `floor ROOT CGROUP PROGRAM`: no config.json, no state, no errors worth reading; just the calls that no runtime can leave out. Six namespaces in one
//! clone3, the root, seven mounts, the devices, ten masks, pivot_root, a bounding set, a filter of some 400 instructions, a device program's cgroup, exec.
#![forbid(unsafe_code)]

use nix::{
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        prctl,
        stat::{Mode, SFlag, makedev, mknod},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::{chdir, execve, fchdir, pivot_root, setsid},
};
use runtime_sys::{
    mount::{Attributes, clone_tree, new_filesystem},
    process::{Clone, clone3},
    seccomp::{Instruction, load},
};
use std::{
    error::Error,
    ffi::CString,
    fs::{self, File},
    os::{fd::AsFd, unix::fs::symlink},
    path::Path,
};

type Options = &'static [(&'static str, Option<&'static str>)];
type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, root, cgroup, program] = &arguments[..] else { return Err("floor ROOT CGROUP PROGRAM".into()) };
    fs::create_dir(cgroup)?;
    let group = File::open(cgroup)?;
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    match clone3(namespaces, Some(group.as_fd()))? {
        Clone::Child => {
            let failed = child(Path::new(root), program);
            eprintln!("floor: {failed:?}");
            std::process::exit(1);
        }
        Clone::Parent { pidfd, .. } => {
            waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED)?;
        }
    }
    Ok(fs::remove_dir(cgroup)?)
}

fn child(root: &Path, program: &str) -> Done {
    setsid()?;
    runtime_sys::net::loopback_up()?;
    let none: Option<&Path> = None;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    let here = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    clone_tree(None, root, true)?.attach(here.as_fd())?;
    chdir(root)?;
    mounts()?;
    devices()?;
    nix::unistd::sethostname("floor")?;
    masks()?;
    let old = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    pivot_root(".", ".")?;
    fchdir(&old)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    prctl::set_no_new_privs()?;
    for capability in caps::all() {
        caps::drop(None, caps::CapSet::Bounding, capability)?;
    }
    load(&filter(), 0)?;
    let program = CString::new(program)?;
    match execve(&program, &[&program], &[c"PATH=/bin"])? {}
}

fn mounts() -> Done {
    let list: [(&str, &str, Options); 7] = [
        ("proc", "proc", &[]),
        ("tmpfs", "dev", &[("mode", Some("755")), ("size", Some("65536k"))]),
        ("devpts", "dev/pts", &[("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620"))]),
        ("tmpfs", "dev/shm", &[("mode", Some("1777")), ("size", Some("65536k"))]),
        ("mqueue", "dev/mqueue", &[]),
        ("sysfs", "sys", &[]),
        ("cgroup2", "sys/fs/cgroup", &[]),
    ];
    for (kind, target, options) in list {
        if target.starts_with("dev/") {
            fs::create_dir(target)?;
        }
        let at = open(target, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        new_filesystem(kind, options, libc::MOUNT_ATTR_NOSUID)?.attach(at.as_fd())?;
    }
    Ok(())
}

fn devices() -> Done {
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = format!("dev/{name}");
        mknod(path.as_str(), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(major, minor))?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, format!("dev/{name}"))?;
    }
    Ok(())
}

fn masks() -> Done {
    let path = |name: &str| open(name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let null = path("dev/null")?;
    for name in ["proc/keys", "proc/timer_list", "proc/interrupts"] {
        clone_tree(Some(null.as_fd()), Path::new(""), false)?.attach(path(name)?.as_fd())?;
    }
    let empty = new_filesystem("tmpfs", &[], libc::MOUNT_ATTR_RDONLY)?.attach(path("proc/acpi")?.as_fd())?;
    clone_tree(Some(empty.as_fd()), Path::new(""), false)?.attach(path("sys/firmware")?.as_fd())?;
    let read_only = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    for name in ["proc/bus", "proc/fs", "proc/irq", "proc/sys"] {
        let at = path(name)?;
        let copy = clone_tree(Some(at.as_fd()), Path::new(""), true)?;
        copy.set_attributes(read_only, true)?;
        copy.attach(at.as_fd())?;
    }
    Ok(())
}

/// As many instructions as a container's profile has, of which a call passes ten: jumps by the number's bits, then "allow".
fn filter() -> Vec<Instruction> {
    const SIZE: usize = 400;
    let instruction = |code: u32, jt, k| Instruction { code: code as u16, jt, jf: 0, k };
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    while program.len() < SIZE - 1 {
        let far = (SIZE - 1 - program.len()).min(40) as u8;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, far - 1, 0));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    program
}
