//! Container output in CRI format: `<RFC 3339 time> <stdout|stderr> <F|P> <line>`, a file that is rotated by size.
//!
//! Source: Kubernetes CRI `ContainerConfig.log_path` and the readers that exist (kubelet, Fluent Bit, Vector). `P` is part of a line that goes on
//! in the next entry of the same stream.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// A longer line becomes several entries.
const LINE_BYTES_MAX: usize = 16 << 10;
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z");

/// Which stream bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Cuts a byte stream into entries.
#[derive(Debug, Default)]
pub struct Lines {
    /// What has come of a line that is not ended.
    pending: Vec<u8>,
}

impl Lines {
    /// Appends the entries that `bytes` complete to `out`.
    pub fn push(&mut self, bytes: &[u8], stream: Stream, now_ns: u64, out: &mut Vec<u8>) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    self.add(end, stream, now_ns, out);
                    self.entry(stream, now_ns, true, out);
                }
                None => self.add(part, stream, now_ns, out),
            }
        }
        if self.pending.is_empty() {
            // Nothing is held while a container is silent.
            self.pending = Vec::new();
        }
    }

    /// The entry of a last line without an end.
    pub fn finish(&mut self, stream: Stream, now_ns: u64, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.entry(stream, now_ns, true, out);
        }
    }

    fn add(&mut self, mut bytes: &[u8], stream: Stream, now_ns: u64, out: &mut Vec<u8>) {
        while self.pending.len() + bytes.len() > LINE_BYTES_MAX {
            let (fits, rest) = bytes.split_at(LINE_BYTES_MAX - self.pending.len());
            self.pending.extend_from_slice(fits);
            self.entry(stream, now_ns, false, out);
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
    }

    fn entry(&mut self, stream: Stream, now_ns: u64, full: bool, out: &mut Vec<u8>) {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(now_ns))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let time = time.format(&TIME).unwrap_or_default();
        let stream = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        out.extend_from_slice(format!("{time} {stream} {} ", if full { 'F' } else { 'P' }).as_bytes());
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

/// The log of one run of a container.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    files: u32,
    stdout: Lines,
    stderr: Lines,
}

impl Log {
    /// Opens the file at `path` to append; `bytes_max` 0 never rotates.
    pub fn open(path: &Path, bytes_max: u64, files: u32) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        let lines = (Lines::default(), Lines::default());
        Ok(Self {
            path: path.to_path_buf(),
            file: Some(file),
            bytes,
            bytes_max,
            files: files.max(1),
            stdout: lines.0,
            stderr: lines.1,
        })
    }

    /// Writes what `bytes` complete. A disk that is full costs the log its lines, never the container its life.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now_ns: u64) {
        let mut out = Vec::new();
        self.lines(stream).push(bytes, stream, now_ns, &mut out);
        self.append(&out);
    }

    /// Writes what is left of both streams.
    pub fn finish(&mut self, now_ns: u64) {
        let mut out = Vec::new();
        self.stdout.finish(Stream::Stdout, now_ns, &mut out);
        self.stderr.finish(Stream::Stderr, now_ns, &mut out);
        self.append(&out);
    }

    fn lines(&mut self, stream: Stream) -> &mut Lines {
        if stream == Stream::Stdout { &mut self.stdout } else { &mut self.stderr }
    }

    fn append(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        if self.bytes_max > 0 && self.bytes > 0 && self.bytes + entries.len() as u64 > self.bytes_max {
            self.rotate();
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => match File::options().create(true).append(true).open(&self.path) {
                Ok(file) => self.file.insert(file),
                Err(_) => return,
            },
        };
        if file.write_all(entries).is_ok() {
            self.bytes += entries.len() as u64;
        }
    }

    /// `.log` becomes `.log.1`, `.log.1` becomes `.log.2`, and so on; the oldest goes.
    fn rotate(&mut self) {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.files.saturating_sub(1)).rev() {
            // One that is not there yet has nothing to move.
            let _ = fs::rename(numbered(number), numbered(number + 1));
        }
        let moved =
            if self.files > 1 { fs::rename(&self.path, numbered(1)) } else { fs::remove_file(&self.path) };
        if moved.is_ok() {
            self.file = None;
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader makes of entries: the bytes of the stream, every line ended.
    fn read(entries: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for entry in entries.split(|&byte| byte == b'\n').filter(|entry| !entry.is_empty()) {
            let mut parts = entry.splitn(4, |&byte| byte == b' ');
            let (time, stream, tag) = (parts.next(), parts.next(), parts.next());
            assert!(time.is_some_and(|time| time.len() == 30) && stream == Some(b"stdout"));
            text.extend_from_slice(parts.next().expect("a line"));
            if tag == Some(b"F") {
                text.push(b'\n');
            }
        }
        text
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(text in "([a-z ]{0,30}\n){0,20}", cuts in proptest::collection::vec(1usize..40, 1..20)) {
            let (mut lines, mut out, mut rest) = (Lines::default(), Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (part, next) = rest.split_at((*cut).min(rest.len()));
                lines.push(part, Stream::Stdout, 0, &mut out);
                rest = next;
            }
            prop_assert_eq!(read(&out), text.as_bytes());
        }
    }

    #[test]
    fn long_lines_come_in_parts_and_last_lines_are_ended() {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        let long = vec![b'x'; LINE_BYTES_MAX * 2 + 5];
        lines.push(&long, Stream::Stdout, 1_700_000_000_123_456_789, &mut out);
        lines.finish(Stream::Stdout, 0, &mut out);
        assert_eq!(read(&out).len(), long.len() + 1);
        assert!(out.starts_with(b"2023-11-14T22:13:20.123456789Z stdout P xxx"));
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 3);
    }

    #[test]
    fn files_rotate_by_size() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path, 100, 3).expect("opened");
        for number in 0..10 {
            log.write(Stream::Stdout, format!("line {number} {}\n", "y".repeat(30)).as_bytes(), 0);
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
        assert!(fs::read_to_string(&path).expect("read").contains("line 9"));
        assert!(fs::read_to_string(dir.path().join("0.log.1")).expect("read").contains("line 8"));
    }
}
