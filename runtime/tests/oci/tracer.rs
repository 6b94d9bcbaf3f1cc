//! A command of the runtime under ptrace(2): every system call of its processes is counted, and one of them can be made to fail, or to be the last.
//!
//! Processes are numbered as they are born, 0 being the command; their calls from 1. A process that becomes the container's program is let go.

use crate::bundle::{Answer, Bundle, RUNTIME};
use nix::{
    libc,
    sys::{
        ptrace::{self, Event, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

/// A command that takes longer hangs.
const COMMAND_MAX: Duration = Duration::from_secs(40);

/// Calls that never fail, or do what they are asked to in any case; close(2), "Dealing with error returns".
const CANNOT_FAIL: [i64; 13] = [
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_umask,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed instead of making the call.
    Kill,
    /// The call is not made, and gives this error number.
    Error(i32),
}

/// Where the fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub process: usize,
    pub call: usize,
}

#[derive(Debug)]
pub struct Outcome {
    pub answer: Answer,
    /// Calls that each process has made.
    pub calls: Vec<usize>,
    /// Number of the system call that the fault was at.
    pub hit: Option<u64>,
}

#[derive(Debug)]
struct Process {
    number: usize,
    calls: usize,
    /// The call that is being left out is to end with this.
    error: Option<i32>,
}

struct Tracer {
    processes: BTreeMap<i32, Process>,
    calls: Vec<usize>,
    fault: Option<(Place, Fault)>,
    hit: Option<u64>,
    /// Whether the command is the runtime yet.
    started: bool,
}

/// Runs a command to its end; `others` are processes that take part in it, as a container's first one does in its start.
pub fn run(bundle: &Bundle, words: &[&str], others: &[i32], fault: Option<(Place, Fault)>) -> Outcome {
    let (out, err) = (bundle.dir.join("stdout"), bundle.dir.join("stderr"));
    let open = |path: &Path| fs::File::create(path).expect("output file made");
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $$; exec \"$@\"", "sh", RUNTIME, "--root"]).arg(bundle.state_root());
    command.args(words.iter().map(|word| word.replace("{id}", &bundle.id))).current_dir(&bundle.dir);
    command.env("CONTAINER", &bundle.id).stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err));
    #[expect(clippy::zombie_processes, reason = "its tracer waits for it")]
    let child = command.spawn().expect("sh runs");
    let main = Pid::from_raw(child.id() as i32);
    let stopped = waitpid(main, Some(WaitPidFlag::WUNTRACED)).expect("waited");
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    let (done, watched) = channel::<()>();
    let watch = std::thread::spawn(move || {
        let hangs = watched.recv_timeout(COMMAND_MAX) == Err(RecvTimeoutError::Timeout);
        if hangs {
            kill(main, Signal::SIGKILL).expect("killed");
        }
        hangs
    });
    let mut tracer =
        Tracer { processes: BTreeMap::new(), calls: Vec::new(), fault, hit: None, started: false };
    tracer.attach(main);
    others.iter().for_each(|&pid| tracer.attach(Pid::from_raw(pid)));
    kill(main, Signal::SIGCONT).expect("continued");
    let code = tracer.follow(main);
    drop(done);
    assert!(!watch.join().expect("ends"), "it hangs: {words:?} with {fault:?}, system call {:?}", tracer.hit);
    let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).expect("output read")).into_owned();
    let answer = Answer { code, out: read(&out), err: read(&err) };
    Outcome { answer, calls: tracer.calls, hit: tracer.hit }
}

impl Tracer {
    fn attach(&mut self, pid: Pid) {
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).expect("seized");
        ptrace::interrupt(pid).expect("interrupted");
        self.know(pid);
    }

    fn know(&mut self, pid: Pid) -> &mut Process {
        self.processes.entry(pid.as_raw()).or_insert_with(|| {
            self.calls.push(0);
            Process { number: self.calls.len() - 1, calls: 0, error: None }
        })
    }

    /// Until the command ends; gives its exit code.
    fn follow(&mut self, main: Pid) -> i32 {
        let any = Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD);
        let code = loop {
            match waitpid(None, any).expect("there is the command") {
                WaitStatus::Exited(pid, code) if pid == main => break code,
                WaitStatus::Signaled(pid, signal, _) if pid == main => break 128 + signal as i32,
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.processes.remove(&pid.as_raw());
                }
                WaitStatus::PtraceSyscall(pid) => self.call(pid),
                WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event, main),
                // It goes on from a stop, or a signal comes to it.
                WaitStatus::Stopped(pid, signal) => resume(pid, Some(signal)),
                other => panic!("{other:?}"),
            }
        };
        self.processes.remove(&main.as_raw());
        self.let_go();
        code
    }

    /// Frees whoever is left. One that has ended has to be waited for: while its tracer does not, its pid namespace cannot end.
    fn let_go(&mut self) {
        let mut left: Vec<Pid> = self.processes.keys().map(|&pid| Pid::from_raw(pid)).collect();
        let free = |pid: Pid| {
            // Refused where it is ending; the wait tells.
            let _ = ptrace::interrupt(pid);
            match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => false,
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => true,
                Ok(_) => ptrace::detach(pid, None).is_ok(),
            }
        };
        let freed = runtime::clock::retry(COMMAND_MAX, || {
            left.retain(|&pid| !free(pid));
            left.is_empty()
        });
        assert!(freed, "processes {left:?} cannot be let go");
    }

    fn event(&mut self, pid: Pid, event: i32, main: Pid) {
        let program = event == Event::PTRACE_EVENT_EXEC as i32 && pid != main;
        if program {
            self.processes.remove(&pid.as_raw());
            let _ = ptrace::detach(pid, None);
            return;
        }
        if event == Event::PTRACE_EVENT_EXEC as i32 && !self.started {
            self.started = true;
            self.know(pid).calls = 0;
        }
        // A child is known by its parent's word, so that it has its number before it makes a call.
        let forks = [Event::PTRACE_EVENT_FORK, Event::PTRACE_EVENT_VFORK, Event::PTRACE_EVENT_CLONE];
        if forks.iter().any(|&fork| event == fork as i32)
            && let Ok(child) = ptrace::getevent(pid)
        {
            self.know(Pid::from_raw(child as i32));
        }
        resume(pid, None);
    }

    /// At the entry or the end of a system call.
    fn call(&mut self, pid: Pid) {
        let fault = self.fault;
        let enters = ptrace::syscall_info(pid).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
        let process = self.know(pid);
        if !enters {
            if let Some(errno) = process.error.take() {
                fail(pid, errno);
            }
            return resume(pid, None);
        }
        process.calls += 1;
        let (number, calls) = (process.number, process.calls);
        self.calls[number] = calls;
        match fault {
            Some((place, fault)) if self.started && place == (Place { process: number, call: calls }) => {
                let number = ptrace::getregs(pid).ok().map(|registers| registers.orig_rax);
                match fault {
                    Fault::Error(_) if number.is_none_or(|number| CANNOT_FAIL.contains(&(number as i64))) => {
                        return resume(pid, None);
                    }
                    Fault::Kill => kill(pid, Signal::SIGKILL).expect("killed"),
                    Fault::Error(errno) => {
                        self.know(pid).error = Some(errno);
                        leave_out(pid);
                        resume(pid, None);
                    }
                }
                self.hit = number;
            }
            _ => resume(pid, None),
        }
    }
}

/// Errors are of a process that was killed meanwhile; its end comes next.
fn resume(pid: Pid, signal: Option<Signal>) {
    let signal = signal.filter(|signal| !matches!(signal, Signal::SIGTRAP | Signal::SIGSTOP));
    let _ = ptrace::syscall(pid, signal);
}

fn leave_out(pid: Pid) {
    if let Ok(mut registers) = ptrace::getregs(pid) {
        registers.orig_rax = u64::MAX;
        let _ = ptrace::setregs(pid, registers);
    }
}

fn fail(pid: Pid, errno: i32) {
    if let Ok(mut registers) = ptrace::getregs(pid) {
        registers.rax = i64::from(-errno) as u64;
        let _ = ptrace::setregs(pid, registers);
    }
}
