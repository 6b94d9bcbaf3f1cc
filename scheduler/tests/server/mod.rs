//! A `wherry-scheduler` of its own, on a free port and in a directory of its own, and kubectl against it.

use crate::kubectl_binary;
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const START_MAX: Duration = Duration::from_secs(30);

pub struct Server {
    dir: tempfile::TempDir,
    kubectl: PathBuf,
    process: Child,
}

impl Server {
    pub fn start() -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_wherry-scheduler")))
    }

    /// Its state is on a disk of so many MiB. Needs root.
    pub fn start_on_small_disk(mib: u32) -> Self {
        let mut command = Command::new("unshare");
        let script =
            format!("mkdir \"$1\" && mount -t tmpfs -o size={mib}m none \"$1\" && shift && exec \"$@\"");
        command.args(["--mount", "sh", "-c", &script, "sh"]);
        Self::start_by(command)
    }

    /// Changes the size of the small disk.
    pub fn resize_disk(&self, mib: u32) {
        let pid = self.process.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "mount", "-o", &format!("remount,size={mib}m")]);
        assert!(command.arg(self.dir.path().join("state")).status().expect("nsenter starts").success());
    }

    fn start_by(command: Command) -> Self {
        let kubectl = kubectl_binary::find();
        let dir = tempfile::tempdir().expect("makes a directory");
        let process = launch(command, dir.path());
        let server = Self { dir, kubectl, process };
        server.wait_until_ready();
        server
    }

    pub fn kill_and_restart(&mut self) {
        self.process.kill().expect("kills");
        self.process.wait().expect("reaps");
        std::fs::remove_file(self.kubeconfig()).expect("removes the kubeconfig");
        self.process = launch(Command::new(env!("CARGO_BIN_EXE_wherry-scheduler")), self.dir.path());
        self.wait_until_ready();
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    #[allow(clippy::disallowed_methods)]
    fn wait_until_ready(&self) {
        let end = Instant::now() + START_MAX;
        while !self.kubeconfig().exists() || !self.run(&["get", "--raw", "/readyz"], "").status.success() {
            assert!(Instant::now() < end, "the server is not ready; its log: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--request-timeout=30s").args(args);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str], input: &str) -> Output {
        let mut child = self.command(args).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("is piped");
        stdin.write_all(input.as_bytes()).expect("kubectl reads its input");
        drop(stdin);
        child.wait_with_output().expect("kubectl ends")
    }

    /// Standard output of a kubectl that succeeds.
    pub fn ok(&self, args: &[&str]) -> String {
        self.expect_ok(args, self.run(args, ""))
    }

    /// Standard error of a kubectl that fails.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args, "");
        assert!(!output.status.success(), "kubectl {args:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn apply(&self, manifest: &str) -> String {
        self.expect_ok(&["apply"], self.run(&["apply", "-f", "-"], manifest))
    }

    pub fn apply_fails(&self, manifest: &str) -> String {
        let output = self.run(&["apply", "-f", "-"], manifest);
        assert!(!output.status.success(), "kubectl apply succeeded:\n{manifest}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("kubectl starts")
    }

    pub fn finished(&self, child: Child) -> String {
        self.expect_ok(&["in the background"], child.wait_with_output().expect("kubectl ends"))
    }

    fn expect_ok(&self, args: &[&str], output: Output) -> String {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {error}\nserver: {}", self.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("log of the server:\n{}", self.log());
        }
    }
}

/// `by`: the program, or one that takes the state directory and the program.
fn launch(mut by: Command, dir: &Path) -> Child {
    let log =
        std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("opens the log");
    if by.get_program() != env!("CARGO_BIN_EXE_wherry-scheduler") {
        by.arg(dir.join("state")).arg(env!("CARGO_BIN_EXE_wherry-scheduler"));
    }
    by.args(["--listen", "127.0.0.1:0", "--advertise-address", "127.0.0.1"])
        .arg("--state-dir")
        .arg(dir.join("state"))
        .arg("--run-dir")
        .arg(dir.join("run"))
        .arg("--kubeconfig")
        .arg(dir.join("kubeconfig"))
        .stderr(log)
        .spawn()
        .expect("the scheduler starts")
}
