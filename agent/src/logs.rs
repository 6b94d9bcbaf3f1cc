//! Reading container logs: CRI entries back into lines.

use agent_protocol::{StreamFrame, StreamRequest};
use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{net::UnixStream, sync::watch};

/// How often a log that is followed is looked at.
const FOLLOW: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 32 << 10;

/// Which part of a log is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub since_ns: Option<u64>,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub timestamps: bool,
}

impl Wanted {
    pub fn of(request: &StreamRequest) -> Self {
        match request {
            StreamRequest::Logs { since_ns, tail_lines, limit_bytes, timestamps, .. } => Self {
                since_ns: *since_ns,
                tail_lines: *tail_lines,
                limit_bytes: *limit_bytes,
                timestamps: *timestamps,
            },
            _ => Self::default(),
        }
    }

    /// What one entry adds to the output; nothing for one that is too old or malformed.
    fn render(&self, entry: &[u8], starts_line: bool) -> Option<(Vec<u8>, bool)> {
        let mut parts = entry.splitn(4, |&byte| byte == b' ');
        let (time, _stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if let Some(since_ns) = self.since_ns {
            let at =
                OffsetDateTime::parse(std::str::from_utf8(time).ok()?, &Rfc3339).ok()?.unix_timestamp_nanos();
            if at < i128::from(since_ns) {
                return None;
            }
        }
        let ends_line = tag.first() == Some(&b'F');
        let mut out = Vec::with_capacity(entry.len());
        if self.timestamps && starts_line {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if ends_line {
            out.push(b'\n');
        }
        Some((out, ends_line))
    }
}

/// The files of one run's log, oldest first: rotated ones have the higher numbers.
fn files(path: &Path) -> Vec<PathBuf> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut files: Vec<PathBuf> = (1..).map(numbered).take_while(|path| path.exists()).collect();
    files.reverse();
    files.push(path.to_path_buf());
    files
}

/// Sends the log at `path` as frames of channel 1. With `running`, goes on until the run has ended and everything is sent.
pub async fn send(
    stream: &mut UnixStream,
    path: &Path,
    wanted: Wanted,
    running: Option<watch::Receiver<bool>>,
) -> Result<(), codec::CodecError> {
    let mut sender = Sender { stream, wanted, left: wanted.limit_bytes, starts_line: true };
    let (entries, position) = collect(path, wanted.tail_lines).map_err(codec::CodecError::Io)?;
    for entry in entries {
        if !sender.entry(&entry).await? {
            return Ok(());
        }
    }
    let Some(mut running) = running else { return Ok(()) };
    let mut tail = Tail::new(path, position);
    loop {
        // Looked at before the log is read: what was written until the end is then there.
        let over = !*running.borrow_and_update();
        while let Some(entry) = tail.next() {
            if !sender.entry(&entry).await? {
                return Ok(());
            }
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW) => {}
            _ = running.changed() => {}
            // A client that hangs up has heard enough.
            () = crate::netd::hung_up(sender.stream) => return Ok(()),
        }
    }
}

struct Sender<'a> {
    stream: &'a mut UnixStream,
    wanted: Wanted,
    left: Option<u64>,
    starts_line: bool,
}

impl Sender<'_> {
    /// Sends one entry; false once the limit is reached.
    async fn entry(&mut self, entry: &[u8]) -> Result<bool, codec::CodecError> {
        let Some((mut text, ends_line)) = self.wanted.render(entry, self.starts_line) else {
            return Ok(true);
        };
        self.starts_line = ends_line;
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
        for bytes in text.chunks(CHUNK_BYTES) {
            codec::aio::write_frame(self.stream, &StreamFrame::Data { channel: 1, bytes: bytes.to_vec() })
                .await?;
        }
        Ok(self.left != Some(0))
    }
}

/// The entries that are there, at most the last `tail` lines, and where the newest file was left.
fn collect(path: &Path, tail: Option<u64>) -> std::io::Result<(VecDeque<Vec<u8>>, u64)> {
    let mut entries = VecDeque::new();
    let (mut lines, mut position) = (0, 0);
    for file in files(path) {
        let newest = file == path;
        let mut reader = BufReader::new(File::open(&file)?);
        let mut entry = Vec::new();
        while reader.read_until(b'\n', &mut entry)? > 0 {
            if entry.pop() != Some(b'\n') {
                break;
            }
            if newest {
                position += entry.len() as u64 + 1;
            }
            lines += u64::from(is_full(&entry));
            entries.push_back(std::mem::take(&mut entry));
            while tail.is_some_and(|tail| lines > tail) {
                lines -= u64::from(entries.pop_front().is_some_and(|entry| is_full(&entry)));
            }
        }
    }
    if tail == Some(0) {
        entries.clear();
    }
    Ok((entries, position))
}

fn is_full(entry: &[u8]) -> bool {
    entry.splitn(4, |&byte| byte == b' ').nth(2) == Some(b"F")
}

/// Reads on from a position, through rotations.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    pending: Vec<u8>,
}

impl Tail {
    fn new(path: &Path, position: u64) -> Self {
        let file = File::open(path)
            .ok()
            .and_then(|mut file| file.seek(SeekFrom::Start(position)).is_ok().then_some(file));
        Self { path: path.to_path_buf(), file, pending: Vec::new() }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let mut entry = std::mem::replace(&mut self.pending, rest);
                entry.pop();
                return Some(entry);
            }
            let mut buffer = [0; 8192];
            let len = self.file.as_mut().and_then(|file| file.read(&mut buffer).ok()).unwrap_or(0);
            if len > 0 {
                self.pending.extend_from_slice(&buffer[..len]);
            } else if !self.reopen() {
                return None;
            }
        }
    }

    /// Goes on with the file that has taken the name meanwhile; false when it is the same.
    fn reopen(&mut self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(fresh) = File::open(&self.path) else { return false };
        let inode = |file: &File| file.metadata().map(|meta| meta.ino()).ok();
        if self.file.as_ref().is_some_and(|old| inode(old) == inode(&fresh)) {
            return false;
        }
        self.file = Some(fresh);
        true
    }
}

/// The end of a log as text, for a termination message.
pub fn last_lines(path: &Path, lines: usize, bytes_max: usize) -> String {
    let entries = collect(path, Some(lines as u64)).map(|(entries, _)| entries).unwrap_or_default();
    let text: Vec<u8> = entries
        .iter()
        .filter_map(|entry| Wanted::default().render(entry, true))
        .flat_map(|(text, _)| text)
        .collect();
    String::from_utf8_lossy(&text[text.len().saturating_sub(bytes_max)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_lines_across_rotations() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("0.log");
        let entry = |tag: &str, text: &str| format!("2026-01-02T03:04:05.000000006Z stdout {tag} {text}\n");
        std::fs::write(dir.path().join("0.log.1"), entry("F", "one") + &entry("P", "two ")).expect("written");
        std::fs::write(&path, entry("F", "halves") + &entry("F", "three") + "2026-01-02T03:04")
            .expect("written");
        let text = |tail| {
            let (entries, _) = collect(&path, tail).expect("read");
            let rendered = entries.iter().filter_map(|entry| Wanted::default().render(entry, true));
            String::from_utf8(rendered.flat_map(|(text, _)| text).collect()).expect("UTF-8")
        };
        assert_eq!(text(None), "one\ntwo halves\nthree\n");
        assert_eq!(text(Some(2)), "two halves\nthree\n");
        assert_eq!(text(Some(0)), "");
        let late = Wanted { since_ns: Some(u64::MAX), ..Wanted::default() };
        assert!(late.render(entry("F", "old").trim_end().as_bytes(), true).is_none());
        assert_eq!(last_lines(&path, 1, 3), "ee\n");
    }
}
