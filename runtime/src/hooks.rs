//! OCI hooks: programs run at moments of a container's life, with its state on stdin. config.md, "POSIX-platform Hooks".

use runtime_spec::{State, oci::Hook};
use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("{moment} hook {}", path.display())]
    Run { moment: &'static str, path: PathBuf, source: io::Error },
    #[error("{moment} hook {} {how}", path.display())]
    Failed { moment: &'static str, path: PathBuf, how: String },
}

/// Runs the hooks in order; the first that fails ends it.
pub fn run(moment: &'static str, hooks: Option<&Vec<Hook>>, state: &State<'_>) -> Result<(), HookError> {
    hooks.into_iter().flatten().try_for_each(|hook| run_one(moment, hook, state))
}

fn run_one(moment: &'static str, hook: &Hook, state: &State<'_>) -> Result<(), HookError> {
    let io = |source| HookError::Run { moment, path: hook.path().clone(), source };
    let failed = |how: String| HookError::Failed { moment, path: hook.path().clone(), how };
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    command.envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')));
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(io)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its state.
        let _ = stdin.write_all(state.to_json().to_string().as_bytes());
    }
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
