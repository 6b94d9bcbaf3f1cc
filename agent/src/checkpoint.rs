//! The last desired state on disk, so that this host's pods run on, and run again after a reboot, while the control plane is away.

use agent_protocol::{ClusterConfig, Pod, Service};
use codec::{Decode, Encode};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What this host is to be like.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub struct Desired {
    pub cluster: Option<ClusterConfig>,
    /// By uid.
    pub pods: BTreeMap<String, Pod>,
    /// By namespace and name.
    pub services: BTreeMap<(String, String), Service>,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("agent").join("desired.bin")
}

impl Desired {
    /// What was saved last; nothing when there is none or it is of another version.
    pub fn load(state_dir: &Path) -> Self {
        let path = path(state_dir);
        match fs::read(&path) {
            Ok(bytes) => codec::from_bytes(&bytes).unwrap_or_else(|err| {
                tracing::warn!(path = %path.display(), error = %err, "the saved state cannot be read; the scheduler will send it again");
                Self::default()
            }),
            Err(_) => Self::default(),
        }
    }

    /// Whole or not at all, and on disk when it returns. Blocks.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let path = path(state_dir);
        fs::create_dir_all(path.parent().unwrap_or(state_dir))?;
        let bytes = codec::to_bytes(self).map_err(io::Error::other)?;
        let temporary = path.with_extension("new");
        let mut options = File::options();
        // Secrets of the host's pods are in it.
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.create(true).truncate(true).write(true).open(&temporary)?;
        file.write_all(&bytes).and_then(|()| file.sync_data())?;
        fs::rename(temporary, path)
    }
}
