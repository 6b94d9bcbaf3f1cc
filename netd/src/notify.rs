//! sd_notify(3): telling systemd that the daemon is ready.

use std::{
    env,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};
use tracing::warn;

/// Sends `READY=1` where systemd, or whoever set `NOTIFY_SOCKET`, listens.
pub fn ready() {
    let Ok(path) = env::var("NOTIFY_SOCKET") else { return };
    let send = || {
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)
    };
    if let Err(error) = send() {
        warn!(%error, path, "readiness was not told");
    }
}
