//! `events ID`: what a container uses, every few seconds, and each time the kernel ends one of its processes for lack of memory. Lines of JSON as runc
//! prints them; ends with the container.

use super::{io_error, print, refused};
use clap::Args;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use runtime::{
    cgroup::Cgroup,
    container::{self, ContainerError},
};
use runtime_spec::{ContainerId, Status};
use serde_json::{Value, json};
use std::{os::fd::AsFd, path::Path, time::Duration};

#[derive(Debug, Args)]
pub struct EventsArgs {
    id: ContainerId,
    /// Time between two lines, as in 5s, 500ms or 2m
    #[arg(long, default_value = "5s", value_parser = parse_interval)]
    interval: Duration,
    /// One line of what it uses now, no more
    #[arg(long)]
    stats: bool,
}

pub fn run(root: &Path, args: &EventsArgs) -> Result<u8, ContainerError> {
    let view = container::state(root, &args.id)?;
    if view.status == Status::Stopped {
        return Err(refused(&format!("container with id {} is not running", args.id)));
    }
    if view.record.cgroup.as_os_str().is_empty() {
        return Err(ContainerError::NoCgroup { what: "tell what is used by", id: args.id.clone() });
    }
    let group = Cgroup::at(&view.record.cgroup);
    if args.stats {
        return line("stats", &args.id, group.stats());
    }
    let memory = group.path().join("memory.events");
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
        .map_err(|err| io_error("watch", &memory)(err.into()))?;
    // Without the memory controller there is no such end to tell of.
    let _ = inotify.add_watch(&memory, AddWatchFlags::IN_MODIFY);
    let process =
        runtime_sys::process::pidfd_open(view.record.pid).map_err(io_error("watch", group.path()))?;
    let timeout = PollTimeout::try_from(args.interval).unwrap_or(PollTimeout::MAX);
    let mut kills = group.oom_kills();
    loop {
        let mut fds = [
            PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(process.as_fd(), PollFlags::POLLIN),
        ];
        let ready = poll(&mut fds, timeout).map_err(|err| io_error("watch", group.path())(err.into()))?;
        let ended = fds[1].any().unwrap_or(false);
        let _ = inotify.read_events();
        let now = group.oom_kills();
        if now > kills {
            kills = now;
            line("oom", &args.id, Value::Null)?;
        }
        if ended {
            return Ok(0);
        }
        if ready == 0 {
            line("stats", &args.id, group.stats())?;
        }
    }
}

fn line(kind: &str, id: &ContainerId, data: Value) -> Result<u8, ContainerError> {
    let mut event = json!({ "type": kind, "id": id.as_ref() });
    if !data.is_null() {
        event["data"] = data;
    }
    print(&format!("{event}\n"))
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let millis = digits.parse::<u64>().ok().zip(unit).and_then(|(count, unit)| count.checked_mul(unit));
    millis
        .filter(|&millis| millis > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "give a time above 0, as in 5s, 500ms or 2m".to_owned())
}
