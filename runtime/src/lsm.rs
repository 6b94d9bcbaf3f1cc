//! AppArmor profiles and SELinux labels: `process.apparmorProfile`, `process.selinuxLabel`, `linux.mountLabel`.
//!
//! Sources: kernel `Documentation/admin-guide/LSM/apparmor.rst`, selinux(8). A label takes effect at exec; the file it is written to is opened on the
//! host's procfs, so that nothing in the container can take its place (CVE-2025-52881).

use crate::procfs::Procfs;
use runtime_spec::oci::{Process, Spec};
use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

#[derive(Debug, thiserror::Error)]
pub enum LsmError {
    #[error("{field}: {value:?}: {module} is not enabled on this host")]
    Absent { field: &'static str, value: String, module: &'static str },
    #[error("{field}: {value:?}")]
    Apply { field: &'static str, value: String, source: io::Error },
}

pub fn apparmor_enabled() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

pub fn selinux_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn profile(process: &Process) -> Option<&str> {
    process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty())
}

fn label(process: &Process) -> Option<&str> {
    process.selinux_label().as_deref().filter(|label| !label.is_empty())
}

/// Refuses what this host cannot enforce.
pub fn check(spec: &Spec) -> Result<(), LsmError> {
    if let Some(process) = spec.process() {
        check_process(process)?;
    }
    let mounts = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    check_label("linux.mountLabel", mounts.filter(|label| !label.is_empty()))
}

/// The same for a further process. An AppArmor profile `unconfined` asks for nothing.
pub fn check_process(process: &Process) -> Result<(), LsmError> {
    let asked = profile(process).filter(|profile| *profile != "unconfined");
    if let Some(profile) = asked.filter(|_| !apparmor_enabled()) {
        let (field, value) = ("process.apparmorProfile", profile.to_owned());
        return Err(LsmError::Absent { field, value, module: "AppArmor" });
    }
    check_label("process.selinuxLabel", label(process))
}

fn check_label(field: &'static str, asked: Option<&str>) -> Result<(), LsmError> {
    match asked.filter(|_| !selinux_enabled()) {
        Some(label) => Err(LsmError::Absent { field, value: label.to_owned(), module: "SELinux" }),
        None => Ok(()),
    }
}

/// Labels to take on at exec, with the files to write them to.
#[derive(Debug, Default)]
pub struct OnExec(Vec<(&'static str, String, File)>);

impl OnExec {
    /// Opens what is needed, while the host's procfs is in reach.
    pub fn open(process: &Process) -> Result<Self, LsmError> {
        let mut labels = Self::default();
        let apparmor = profile(process).filter(|_| apparmor_enabled());
        let asked = [
            ("process.apparmorProfile", apparmor.map(|profile| format!("exec {profile}")), "apparmor/exec"),
            ("process.selinuxLabel", label(process).map(str::to_owned), "exec"),
        ];
        for (field, value, file) in asked {
            let Some(value) = value else { continue };
            let failed = |source| LsmError::Apply { field, value: value.clone(), source };
            let proc = Procfs::open().map_err(failed)?;
            let opened = match proc.create(&format!("thread-self/attr/{file}")) {
                // Kernels before 5.8 have no directory of AppArmor's own.
                Err(err) if err.kind() == io::ErrorKind::NotFound => proc.create("thread-self/attr/exec"),
                opened => opened,
            };
            let file = opened.map_err(failed)?;
            labels.0.push((field, value, file));
        }
        Ok(labels)
    }

    pub fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|(.., file)| file.as_fd())
    }

    /// The next exec takes the labels on.
    pub fn apply(&mut self) -> Result<(), LsmError> {
        for (field, value, file) in &mut self.0 {
            let written = file.write_all(value.as_bytes());
            written.map_err(|source| LsmError::Apply { field, value: value.clone(), source })?;
        }
        Ok(())
    }
}
