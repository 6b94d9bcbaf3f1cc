//! `exec ID [COMMAND...]`: a further process in a running container. Exit code: that of the process, unless detached.

use super::{
    attend::{attend, hold},
    handover::HandoverArgs,
    refused,
};
use clap::Args;
use runtime::{
    container::{self, ContainerError, ExecOptions, Stdio},
    warnings::{unknown_field, warn},
};
use runtime_spec::{
    ContainerId,
    oci::{Capabilities, Capability, LinuxCapabilities, Process, UserBuilder},
};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct ExecArgs {
    id: ContainerId,
    /// process.json; otherwise the container's own process with other arguments
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["env", "cwd", "user", "additional_gids", "args", "tty", "cap", "no_new_privs", "apparmor", "process_label"])]
    process: Option<PathBuf>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// User id, and group id if not the container's
    #[arg(short, long, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<(u32, Option<u32>)>,
    /// A further group id
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// A capability in addition to the container's
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// It can gain no privileges
    #[arg(long)]
    no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Also in a paused container, where it waits
    #[arg(long)]
    ignore_paused: bool,
    /// A cgroup below the container's own to run it in; it must be there
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    handover: HandoverArgs,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub fn run(root: &Path, args: &ExecArgs) -> Result<u8, ContainerError> {
    let preserve_fds = args.handover.descriptors(0)?;
    args.handover.check()?;
    let process = process_of(root, args)?;
    let terminal = args.handover.terminal(!args.detach);
    terminal.check(Some(&process))?;
    let held = if args.detach { None } else { Some(hold()?) };
    let mut created = container::exec(ExecOptions {
        id: &args.id,
        state_root: root,
        process,
        stdio: Stdio::Inherit,
        preserve_fds,
        paused: args.ignore_paused,
        cgroup: args.cgroup.as_deref(),
    })?;
    if let Err(err) = args.handover.give(&mut created) {
        // Nobody would know of it.
        container::end(&created);
        return Err(err);
    }
    held.map_or(Ok(0), |held| attend(&created, &held))
}

fn process_of(root: &Path, args: &ExecArgs) -> Result<Process, ContainerError> {
    if let Some(path) = &args.process {
        return Ok(runtime_spec::read(path, &mut unknown_field(path))?);
    }
    if args.args.is_empty() {
        return Err(refused(
            "process args cannot be empty: name a command, or a process.json with --process",
        ));
    }
    let spec = container::state(root, &args.id)?.record.config(root)?;
    let mut process = container::process_like(&spec, args.args.clone(), args.tty);
    let env = process.env().iter().flatten().chain(&args.env).cloned().collect();
    process.set_env(Some(env));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    if !args.cap.is_empty() {
        process.set_capabilities(Some(more_capabilities(process.capabilities().as_ref(), &args.cap)));
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    let (uid, gid) = args.user.unwrap_or((process.user().uid(), None));
    let gid = gid.unwrap_or(process.user().gid());
    let mut groups = process.user().additional_gids().clone().unwrap_or_default();
    groups.extend(&args.additional_gids);
    let user = UserBuilder::default().uid(uid).gid(gid).additional_gids(groups).build();
    process.set_user(user.expect("every field that is needed is set"));
    Ok(process)
}

/// The container's sets with further ones in bounding, effective and permitted; ambient and inheritable stay (CVE-2022-29162).
///
/// Unknown names are left out, as those of config.json are.
fn more_capabilities(own: Option<&LinuxCapabilities>, names: &[String]) -> LinuxCapabilities {
    let mut sets = own.cloned().unwrap_or_default();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let Ok(capability) = bare.parse::<Capability>() else {
            warn(&format!("--cap {name:?} is left out: it is no capability that is known"));
            continue;
        };
        let with = |set: &Option<Capabilities>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let (bounding, effective, permitted) =
            (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
        sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    }
    sets
}

/// `1000` or `1000:1000`; names are the image's business, and -1 means "leave it" to the kernel.
fn parse_user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|&id| digits && id != u32::MAX)
    };
    let wrong = || "give numbers, as in 1000 or 1000:1000".to_owned();
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let gid = gid.map(|gid| number(gid).ok_or_else(wrong)).transpose()?;
    Ok((number(uid).ok_or_else(wrong)?, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_one_or_two_numbers() {
        for (text, expected) in [("0", (0, None)), ("1000", (1000, None)), ("1000:5", (1000, Some(5)))] {
            assert_eq!(parse_user(text), Ok(expected));
        }
        for text in
            ["", ":", "1:", ":1", "root", "-1", "+1", " 1", "1:2:3", "4294967295", "4294967296", "0x0"]
        {
            assert!(parse_user(text).is_err(), "{text:?}");
        }
    }
}
