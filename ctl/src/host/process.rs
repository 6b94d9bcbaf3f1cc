//! Daemons as plain processes, where no systemd runs.
//!
//! `<run>/<name>.pid` holds pid, start time and command line, so that a recycled pid is never signalled and a daemon that died
//! is started again as it was.

use super::{Daemon, write_atomically};
use crate::error::{CtlError, failed, file};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::{net::UnixDatagram, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How long a daemon may take to say that it is ready.
const READY_WAIT: Duration = Duration::from_secs(30);
/// How long a daemon may take to end after SIGTERM before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Starts `daemon` unless it runs; returns its pid once it is ready.
pub fn start(daemon: &Daemon, binaries: &Path, run_dir: &Path) -> Result<i32, CtlError> {
    if let Some(pid) = running(daemon.name, run_dir) {
        return Ok(pid);
    }
    let log = log_file(daemon.name, run_dir);
    let stderr = File::options().create(true).append(true).open(&log).map_err(file("open", &log))?;
    let from = stderr.metadata().map_or(0, |meta| meta.len());
    let socket_path = run_dir.join(format!("{}.notify", daemon.name));
    super::remove(&socket_path)?;
    let socket = UnixDatagram::bind(&socket_path).map_err(file("listen on", &socket_path))?;
    let program = binaries.join(daemon.program());
    let stdout = stderr.try_clone().map_err(file("open", &log))?;
    let mut child = Command::new(&program)
        .args(&daemon.args)
        .env("NOTIFY_SOCKET", &socket_path)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(file("start", &program))?;
    let pid = child.id() as i32;
    let started = start_time(pid).ok_or_else(|| failed(format!("{} ended at once", daemon.program())))?;
    let record = serde_json::json!({ "pid": pid, "started": started, "args": daemon.args });
    write_atomically(&pid_file(daemon.name, run_dir), record.to_string().as_bytes())?;
    let ready = wait_ready(&mut child, &socket);
    super::remove(&socket_path)?;
    ready.map_err(|why| failed(format!("{} {why}; {}", daemon.program(), last_line(&log, from))))?;
    Ok(pid)
}

fn wait_ready(child: &mut Child, socket: &UnixDatagram) -> Result<(), String> {
    socket.set_read_timeout(Some(POLL)).map_err(|err| err.to_string())?;
    let mut message = [0; 4096];
    for _ in 0..READY_WAIT.as_millis() / POLL.as_millis() {
        if let Ok(len) = socket.recv(&mut message)
            && message[..len].split(|&byte| byte == b'\n').any(|line| line == b"READY=1")
        {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("ended with {status} before it was ready"));
        }
    }
    Err(format!("was not ready after {} s", READY_WAIT.as_secs()))
}

/// Ends the daemon and waits for it; absent is success.
pub fn stop(name: &str, run_dir: &Path) -> Result<(), CtlError> {
    let Some(pid) = running(name, run_dir) else { return super::remove(&pid_file(name, run_dir)) };
    for (signal, wait) in [(Signal::SIGTERM, STOP_WAIT), (Signal::SIGKILL, STOP_WAIT)] {
        // It may end between the look and the signal; the wait below notices.
        let _ = kill(Pid::from_raw(pid), signal);
        if crate::clock::wait_until(wait, POLL, || running(name, run_dir).is_none()) {
            return super::remove(&pid_file(name, run_dir));
        }
    }
    Err(failed(format!("wherry-{name} (pid {pid}) does not end, not even by SIGKILL")))
}

/// pid of the daemon, if the process in its pid file still is that daemon.
pub fn running(name: &str, run_dir: &Path) -> Option<i32> {
    let record = record(name, run_dir)?;
    let pid = i32::try_from(record["pid"].as_i64()?).ok()?;
    (start_time(pid)? == record["started"].as_u64()?).then_some(pid)
}

/// The command line the daemon was last started with.
pub fn last_args(name: &str, run_dir: &Path) -> Option<Vec<String>> {
    serde_json::from_value(record(name, run_dir)?["args"].take()).ok()
}

fn record(name: &str, run_dir: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&fs::read(pid_file(name, run_dir)).ok()?).ok()
}

fn pid_file(name: &str, run_dir: &Path) -> PathBuf {
    run_dir.join(format!("{name}.pid"))
}

pub fn log_file(name: &str, run_dir: &Path) -> PathBuf {
    run_dir.join(format!("{name}.log"))
}

/// Start time in clock ticks since boot (field 22 of proc_pid_stat(5)); `None` for a zombie or no process.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok())?
}

/// Last line that the daemon wrote to its log after `from`.
fn last_line(log: &Path, from: u64) -> String {
    let mut text = String::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_string(&mut text)
    });
    match (read, text.lines().last()) {
        (Ok(_), Some(line)) => line.to_owned(),
        _ => format!("see {}", log.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_not_the_daemon() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let pid = std::process::id() as i32;
        let own = start_time(pid).expect("we run");
        for (started, expected) in [(own, Some(pid)), (own + 1, None)] {
            let record = serde_json::json!({ "pid": pid, "started": started, "args": ["--x"] });
            fs::write(pid_file("netd", dir.path()), record.to_string()).expect("written");
            assert_eq!(running("netd", dir.path()), expected, "started at {started}");
        }
        assert_eq!(last_args("netd", dir.path()), Some(vec!["--x".to_owned()]));
        assert_eq!(running("agent", dir.path()), None);
    }
}
