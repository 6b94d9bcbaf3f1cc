//! The agent's side of a pod monitor: starting one, finding one again, requests, events and streams.

use runtime_protocol::{
    Container, FromMonitor, LOCK_FILE, MAGIC, Open, Request, RequestBody, SANDBOX_FILE, SOCKET_FILE, Sandbox,
    VERSIONS,
};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
};

#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("start the pod's monitor: {0}")]
    Start(String),
    #[error("the pod's monitor: {0}")]
    Connection(String),
    /// The monitor's own words.
    #[error("{0}")]
    Refused(String),
}

/// What the monitor tells by itself.
#[derive(Clone, Debug)]
pub enum Event {
    Changed(Container),
    /// The connection is over: the monitor has died or was shut down.
    Lost,
}

/// Who waits for the answer to which tag.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<(), String>>>>>;

/// A connection for requests; cheap to clone.
#[derive(Clone, Debug)]
pub struct Monitor {
    dir: PathBuf,
    requests: mpsc::UnboundedSender<Request>,
    waiting: Waiting,
    tags: Arc<AtomicU64>,
    pub pid: u32,
    pub netns_inode: u64,
}

/// Starts the monitor of the pod directory `dir`, unless one lives there.
pub async fn start(runtime: &Path, dir: &Path, sandbox: &Sandbox) -> Result<(), MonitorError> {
    if alive(dir) {
        return Ok(());
    }
    let failed = |err: String| MonitorError::Start(err);
    let bytes = codec::to_bytes(sandbox).map_err(|err| failed(err.to_string()))?;
    tokio::fs::write(dir.join(SANDBOX_FILE), bytes)
        .await
        .map_err(|err| failed(format!("write {SANDBOX_FILE}: {err}")))?;
    let output = tokio::process::Command::new(runtime)
        .arg("monitor")
        .arg("--dir")
        .arg(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .map_err(|err| failed(format!("{}: {err}", runtime.display())))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Whether a monitor holds the lock of this directory.
pub fn alive(dir: &Path) -> bool {
    let Ok(file) = std::fs::File::open(dir.join(LOCK_FILE)) else { return false };
    // Taken by us for an instant at most, and only when nobody has it.
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_err()
}

async fn open(dir: &Path, open: &Open) -> Result<UnixStream, MonitorError> {
    let broken = |err: String| MonitorError::Connection(err);
    // A socket's path may be no longer than 107 bytes; a descriptor's is short.
    let handle = std::fs::File::open(dir).map_err(|err| broken(format!("{}: {err}", dir.display())))?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let mut stream = UnixStream::connect(path).await.map_err(|err| broken(format!("connect: {err}")))?;
    codec::aio::exchange(&mut stream, MAGIC, &VERSIONS).await.map_err(|err| broken(err.to_string()))?;
    codec::aio::write_frame(&mut stream, open).await.map_err(|err| broken(err.to_string()))?;
    Ok(stream)
}

/// A stream connection of the monitor in `dir`.
pub async fn stream(dir: &Path, what: &Open) -> Result<UnixStream, MonitorError> {
    open(dir, what).await
}

impl Monitor {
    /// Connects; gives the containers there are, and from then on `events`.
    pub async fn connect(
        dir: &Path,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<(Self, Vec<Container>), MonitorError> {
        let stream = open(dir, &Open::Control).await?;
        let (mut reader, mut writer) = stream.into_split();
        let first = codec::aio::read_frame::<FromMonitor>(&mut reader)
            .await
            .map_err(|err| MonitorError::Connection(err.to_string()))?;
        let FromMonitor::Snapshot { pid, netns_inode, containers } = first else {
            return Err(MonitorError::Connection("the first frame was no snapshot".to_owned()));
        };
        let (requests, mut outgoing) = mpsc::unbounded_channel::<Request>();
        let waiting = Waiting::default();
        let answers = waiting.clone();
        tokio::spawn(async move {
            while let Some(request) = outgoing.recv().await {
                if codec::aio::write_frame(&mut writer, &request).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            loop {
                match codec::aio::read_frame::<FromMonitor>(&mut reader).await {
                    Ok(FromMonitor::Reply { tag, result }) => {
                        let answer = answers.lock().expect("no panic while locked").remove(&tag);
                        // Whoever asked may have gone meanwhile.
                        let _ = answer.map(|answer| answer.send(result));
                    }
                    Ok(FromMonitor::Changed(container)) => drop(events.send(Event::Changed(container))),
                    Ok(FromMonitor::Snapshot { .. }) => {}
                    Err(_) => break,
                }
            }
            answers.lock().expect("no panic while locked").clear();
            let _ = events.send(Event::Lost);
        });
        let monitor =
            Self { dir: dir.to_path_buf(), requests, waiting, tags: Arc::default(), pid, netns_inode };
        Ok((monitor, containers))
    }

    /// Sends a request and waits for its answer.
    pub async fn request(&self, body: RequestBody) -> Result<(), MonitorError> {
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().expect("no panic while locked").insert(tag, answer);
        let lost = || MonitorError::Connection("the connection is over".to_owned());
        self.requests.send(Request { tag, body }).map_err(|_| lost())?;
        answered.await.map_err(|_| lost())?.map_err(MonitorError::Refused)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Ends the pod's monitor with all its containers, whether it is connected or was left by an earlier agent.
pub async fn end_monitor(dir: &Path, connected: Option<Monitor>) -> Result<(), String> {
    let monitor = match connected {
        Some(monitor) => monitor,
        None if alive(dir) => {
            let (events, _) = mpsc::unbounded_channel();
            Monitor::connect(dir, events).await.map_err(|err| err.to_string())?.0
        }
        None => return Ok(()),
    };
    match monitor.request(RequestBody::Shutdown).await {
        Err(MonitorError::Refused(why)) => Err(why),
        // One that is gone is what is wanted.
        _ => Ok(()),
    }
}

/// Removes what a monitor that was killed has left: processes by their cgroup, then the cgroup, then the runtime's records. Blocks.
pub fn clear(cgroup: &Path, state_root: &Path, uid: &str) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(err)
            if err.kind() == io::ErrorKind::NotFound
                || err.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) =>
        {
            Ok(())
        }
        other => other,
    };
    gone(std::fs::write(cgroup.join("cgroup.kill"), "1"))?;
    remove_cgroup(cgroup)?;
    for entry in std::fs::read_dir(state_root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!("{uid}.")) {
            gone(std::fs::remove_dir_all(entry.path()))?;
        }
    }
    Ok(())
}

fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    const TRIES: u32 = 1000;
    for entry in
        std::fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
    {
        remove_cgroup(&entry.path())?;
    }
    let mut tries = 0;
    loop {
        match std::fs::remove_dir(cgroup) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Killed processes take a moment to leave; nothing tells when the last has.
            Err(err) if err.raw_os_error() == Some(nix::errno::Errno::EBUSY as i32) && tries < TRIES => {
                tries += 1;
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
            other => return other,
        }
    }
}
