//! What netd was told, kept below its run directory, so that a netd that is started anew serves at once.

use crate::ipam::Ipam;
use codec::{Decode, Encode};
use netd_protocol::{HostPort, Node, Service};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct State {
    pub node: Option<Node>,
    pub ipam: Ipam,
    /// By pod.
    pub host_ports: BTreeMap<String, Vec<HostPort>>,
    /// By namespace and name.
    pub services: BTreeMap<(String, String), Service>,
}

pub fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("netd")
}

impl State {
    pub fn load(run_dir: &Path) -> Self {
        let path = dir(run_dir).join("state.bin");
        match fs::read(&path) {
            Ok(bytes) => codec::from_bytes(&bytes).unwrap_or_else(|err| {
                tracing::warn!(path = %path.display(), error = %err, "the saved state cannot be read; the agent will send it again");
                Self::default()
            }),
            Err(_) => Self::default(),
        }
    }

    /// Whole or not at all. The directory is gone with the memory of the host, so nothing is synced.
    pub fn save(&self, run_dir: &Path) -> io::Result<()> {
        let dir = dir(run_dir);
        fs::create_dir_all(&dir)?;
        let temporary = dir.join("state.bin.new");
        fs::write(&temporary, codec::to_bytes(self).map_err(io::Error::other)?)?;
        fs::rename(temporary, dir.join("state.bin"))
    }
}
