//! Running other programs and keeping what they said.

use crate::clock;
use std::{
    fmt,
    fs::File,
    io::Read,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

/// No program of a test may take longer.
const LIMIT: Duration = Duration::from_secs(300);

/// How a program ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    what: String,
}

impl Ended {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Its stdout; panics with everything it said when it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success(), "{self}");
        self.stdout
    }

    /// Its stderr; panics when it did not fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.success(), "expected to fail: {self}");
        self.stderr
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n--- stdout\n{}--- stderr\n{}", self.what, self.status, self.stdout, self.stderr)
    }
}

/// Runs `command` to its end, feeding it `stdin`; panics when it cannot be started or takes too long.
#[track_caller]
pub fn run(command: &mut Command, stdin: &str) -> Ended {
    let what = format!("{command:?}");
    let mut input = tempfile::tempfile().expect("temporary file");
    std::io::Write::write_all(&mut input, stdin.as_bytes()).expect("written");
    std::io::Seek::rewind(&mut input).expect("rewound");
    let (out, err) =
        (tempfile::tempfile().expect("temporary file"), tempfile::tempfile().expect("temporary file"));
    let share = |file: &File| Stdio::from(file.try_clone().expect("duplicated"));
    let mut child = command
        .stdin(input)
        .stdout(share(&out))
        .stderr(share(&err))
        .spawn()
        .unwrap_or_else(|err| panic!("{what}: {err}"));
    let status = clock::poll(LIMIT, || child.try_wait().expect("waited"));
    let status = status.unwrap_or_else(|| {
        let _ = child.kill();
        panic!(
            "{what}: still runs after {} s; it said:\n{}{}",
            LIMIT.as_secs(),
            text(out.try_clone()),
            text(err.try_clone())
        )
    });
    Ended { status, stdout: text(Ok(out)), stderr: text(Ok(err)), what }
}

fn text(file: std::io::Result<File>) -> String {
    let mut bytes = Vec::new();
    let mut file = file.expect("duplicated");
    std::io::Seek::rewind(&mut file).expect("rewound");
    file.read_to_end(&mut bytes).expect("read");
    String::from_utf8_lossy(&bytes).into_owned()
}
