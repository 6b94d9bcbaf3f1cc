//! OCI hooks: programs run at moments of a container's life, with its state on stdin. config.md, "POSIX-platform Hooks".

use crate::warnings::warn;
use nix::sys::memfd::{MFdFlags, memfd_create};
use runtime_spec::{State, oci::Hook};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
    time::Duration,
};

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("{moment} hook {}", path.display())]
    Run { moment: &'static str, path: PathBuf, source: io::Error },
    #[error("{moment} hook {} {how}", path.display())]
    Failed { moment: &'static str, path: PathBuf, how: String },
}

/// As much of what a hook that fails has printed is shown.
const OUTPUT_BYTES_MAX: u64 = 2048;

/// Runs the hooks in order; the first that fails ends it.
pub fn run(moment: &'static str, hooks: Option<&Vec<Hook>>, state: &State<'_>) -> Result<(), HookError> {
    hooks.into_iter().flatten().try_for_each(|hook| run_one(moment, hook, state))
}

/// Runs them all; one that fails is a warning, and keeps none of the others from running.
pub fn run_all(moment: &'static str, hooks: Option<&Vec<Hook>>, state: &State<'_>) {
    for hook in hooks.into_iter().flatten() {
        if let Err(err) = run_one(moment, hook, state) {
            warn(&crate::container::chain(&err));
        }
    }
}

fn run_one(moment: &'static str, hook: &Hook, state: &State<'_>) -> Result<(), HookError> {
    let io = |source| HookError::Run { moment, path: hook.path().clone(), source };
    // What it prints is not the container's output, and says why it failed.
    let mut output = memory().map_err(io)?;
    // Not a pipe: a hook need not read its state, however long that is.
    let mut input = memory().map_err(io)?;
    input.write_all(state.to_json().to_string().as_bytes()).and_then(|()| input.rewind()).map_err(io)?;
    let copy = || output.try_clone().map_err(io);
    let (out, err) = (copy()?, copy()?);
    let mut failed = |how: String| HookError::Failed {
        moment,
        path: hook.path().clone(),
        how: format!("{how}{}", printed(&mut output)),
    };
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    command.envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')));
    let mut child = command.stdin(input).stdout(out).stderr(err).spawn().map_err(io)?;
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|&seconds| seconds > 0);
    let status = match limit {
        None => child.wait().map_err(io)?,
        Some(seconds) => {
            let mut ended = None;
            crate::clock::retry(Duration::from_secs(seconds), || {
                ended = child.try_wait().ok().flatten();
                ended.is_some()
            });
            match ended {
                Some(status) => status,
                None => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(format!("took longer than {seconds} s")));
                }
            }
        }
    };
    if status.success() { Ok(()) } else { Err(failed(format!("ended with {status}"))) }
}

fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("hook", MFdFlags::MFD_CLOEXEC)?))
}

/// `: ` and the end of what was printed, on one line.
fn printed(output: &mut File) -> String {
    let len = output.metadata().map_or(0, |metadata| metadata.len());
    let mut bytes = Vec::new();
    let start = io::SeekFrom::Start(len.saturating_sub(OUTPUT_BYTES_MAX));
    // Without it the error is still one.
    let _ = output.seek(start).and_then(|_| output.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes).trim().replace('\n', " | ");
    if text.is_empty() { text } else { format!(": {text}") }
}
