//! `make order`: the functions of the runtime that its commands use, as a linker script that puts them next to each other.
//!
//! The kernel maps a program's file in pieces of 64 KiB and more around each page that is touched, so that functions in use that lie among others cost
//! the memory of those too (and the page faults). The commands run here one instruction at a time (ptrace(2), PTRACE_SINGLESTEP), the container's own
//! program excepted. What the linker's map calls a function has a hash of the compiler and of all dependencies in its name, which the script leaves open.

use crate::runtime::set_program;
use nix::{
    sys::{
        ptrace::{self, Event, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const HEADER: &str = "/* Functions that `run`, `create`, `start`, `exec`, `kill` and `delete` use, in the order of their first use: together they need\n   \
    half of the memory. Made by `make order`; one that is missing here is only further away. */\nSECTIONS\n{\n  .text.used :\n  {\n";
const FOOTER: &str = "  }\n}\nINSERT BEFORE .text;\n";

/// Prints the script for the runtime of this build and the linker's map of it; `dir` has a bundle whose program is busybox.
pub fn print(runtime: &Path, map: &Path, dir: &Path) {
    let text = fs::read_to_string(map).unwrap_or_else(|err| panic!("{}: {err}", map.display()));
    let sections = sections(&text);
    assert!(!sections.is_empty(), "{}: not a map by lld", map.display());
    let mut stepper = Stepper::new(runtime, dir);
    let words = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for command in [
        "run -b {} one",
        "create -b {} two",
        "start two",
        "state two",
        "exec two /bin/true",
        "kill two KILL",
        "delete -f two",
    ] {
        if command.starts_with("create") {
            set_program(dir, &["/bin/sleep", "infinity"]);
        }
        stepper.run(words(&command.replace("{}", &dir.display().to_string())));
    }
    let mut printed = BTreeSet::new();
    print!("{HEADER}");
    for at in stepper.order {
        let after = sections.partition_point(|section| section.start <= at);
        let Some(section) = sections[..after].last().filter(|section| at < section.end) else { continue };
        if printed.insert(&section.pattern) {
            println!("    {}", section.pattern);
        }
    }
    print!("{FOOTER}");
}

/// One input section of the linker: mostly a function.
struct Section {
    start: u64,
    end: u64,
    /// As a linker script names it.
    pattern: String,
}

/// The code in a map by lld, by address: `VMA LMA Size Align FILE:(SECTION)`.
fn sections(map: &str) -> Vec<Section> {
    let section = |line: &str| {
        let mut words = line.split_whitespace();
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (start, _, size, _) = (number()?, number()?, number()?, number()?);
        let (file, name) = words.next()?.strip_suffix(')')?.split_once(":(")?;
        (size > 0 && name.starts_with(".text")).then(|| Section {
            start,
            end: start + size,
            pattern: pattern(file, name),
        })
    };
    let mut sections: Vec<Section> = map.lines().filter_map(section).collect();
    sections.sort_by_key(|section| section.start);
    sections
}

/// A function of Rust has a section with its name; one of libc is known by the member of the archive, what C starts with by its file.
fn pattern(file: &str, name: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    match file.strip_suffix(')').and_then(|file| file.split_once('(')) {
        Some((archive, member)) if archive.ends_with(".a") => format!("*{archive}:{member}({name})"),
        _ if name == ".text" => format!("*{file}({name})"),
        _ => format!("*({})", without_hash(name)),
    }
}

/// `17h` and 16 digits before the last `E` (legacy mangling), `Cs…_` (v0); `$` means something in scripts.
fn without_hash(name: &str) -> String {
    let name = name.split(".llvm.").next().unwrap_or(name);
    let plain = match name.rfind("17h") {
        Some(at) if name.len() == at + 20 => format!("{}*", &name[..at + 3]),
        _ => name.to_owned(),
    };
    let mut parts = plain.split("Cs");
    let mut open = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('_') {
            Some((hash, rest))
                if plain.contains("._R") && hash.chars().all(|c| c.is_ascii_alphanumeric()) =>
            {
                open.push_str(&format!("Cs*_{rest}"));
            }
            _ => open.push_str(&format!("Cs{part}")),
        }
    }
    open.replace('$', "?")
}

struct Stepper {
    runtime: PathBuf,
    root: PathBuf,
    /// Device and inode of the runtime.
    file: (u64, u64),
    /// Processes of the runtime.
    stepped: BTreeSet<Pid>,
    seen: BTreeSet<u64>,
    /// Addresses, as they were first come to.
    order: Vec<u64>,
}

impl Stepper {
    fn new(runtime: &Path, dir: &Path) -> Self {
        let there = fs::metadata(runtime).unwrap_or_else(|err| panic!("{}: {err}", runtime.display()));
        Self {
            runtime: runtime.to_owned(),
            root: dir.join("state"),
            file: (there.dev(), there.ino()),
            stepped: BTreeSet::new(),
            seen: BTreeSet::new(),
            order: Vec::new(),
        }
    }

    /// Runs one command to its end; what it leaves running is followed by the next.
    fn run(&mut self, words: Vec<String>) {
        let mut command = Command::new("sh");
        command
            .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
            .arg(&self.runtime)
            .arg("--root")
            .arg(&self.root);
        command.args(&words).process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        #[expect(clippy::zombie_processes, reason = "its tracer waits for it")]
        let child = command.spawn().expect("sh runs");
        let main = Pid::from_raw(child.id().try_into().expect("a pid"));
        waitpid(main, Some(WaitPidFlag::WUNTRACED)).expect("waited");
        let options = Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(main, options).expect("seized");
        kill(main, Signal::SIGCONT).expect("continued");
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL)).expect("waited") {
                WaitStatus::Exited(pid, code) if pid == main => {
                    assert_eq!(code, 0, "{words:?}");
                    return;
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    // Another program, or a new process of the same.
                    if event == Event::PTRACE_EVENT_EXEC as i32 || event == Event::PTRACE_EVENT_STOP as i32 {
                        self.look(pid);
                    }
                    self.resume(pid, None);
                }
                WaitStatus::Stopped(pid, Signal::SIGTRAP) => {
                    self.note(pid);
                    self.resume(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => self.resume(pid, Some(signal)),
                _ => {}
            }
        }
    }

    fn look(&mut self, pid: Pid) {
        let exe = fs::metadata(format!("/proc/{pid}/exe"));
        if exe.is_ok_and(|exe| (exe.dev(), exe.ino()) == self.file) {
            self.stepped.insert(pid);
        } else {
            self.stepped.remove(&pid);
        }
    }

    fn note(&mut self, pid: Pid) {
        // One that was killed in the meantime has none.
        let Ok(registers) = ptrace::getregs(pid) else { return };
        #[cfg(target_arch = "x86_64")]
        let at = registers.rip;
        #[cfg(target_arch = "aarch64")]
        let at = registers.pc;
        if self.stepped.contains(&pid) && self.seen.insert(at) {
            self.order.push(at);
        }
    }

    fn resume(&self, pid: Pid, signal: Option<Signal>) {
        let resumed =
            if self.stepped.contains(&pid) { ptrace::step(pid, signal) } else { ptrace::cont(pid, signal) };
        // One that was killed in the meantime is reported as ended.
        let _ = resumed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_left_open() {
        for (name, expected) in [
            (".text._ZN7runtime4init3run17hb3ca754d611cb1aeE", ".text._ZN7runtime4init3run17h*"),
            (
                ".text.unlikely._RNvMs3_NtCslNYArtu3iFV_5alloc3stre12to_uppercase",
                ".text.unlikely._RNvMs3_NtCs*_5alloc3stre12to_uppercase",
            ),
            (".text._ZN4a$LT$b$GT$3get17hb3ca754d611cb1aeE.llvm.123", ".text._ZN4a?LT?b?GT?3get17h*"),
            (".text.wherry_start", ".text.wherry_start"),
        ] {
            assert_eq!(without_hash(name), expected);
        }
    }

    #[test]
    fn members_of_archives_are_named() {
        let map = "  2f0  2f0  10  16         /usr/lib/crt1.o:(.text)\n\
                     300  300  10  16         /usr/lib/libc.a(malloc.o):(.text)\n\
                     310  310  8   16         /t/libstd.rlib(std.rcgu.o):(.text.f)\n\
                     318  318  0   1                  f\n";
        let found: Vec<_> = sections(map).iter().map(|section| section.pattern.clone()).collect();
        assert_eq!(found, ["*crt1.o(.text)", "*libc.a:malloc.o(.text)", "*(.text.f)"]);
    }
}
