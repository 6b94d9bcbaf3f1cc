//! Bridge, veth pairs, addresses and routes, over netlink.

use futures_util::TryStreamExt;
use netd_protocol::Cidr;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth},
        route::{RouteScope, RouteType},
    },
};
use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

const TABLE_LOCAL: u32 = 255;

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("{what}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("{what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is inode {actual} and not {expected}: the pod's monitor is gone", path.display())]
    OtherNamespace { path: PathBuf, expected: u64, actual: u64 },
}

fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    let what = what.into();
    move |source| LinkError::Netlink { what, source }
}

/// A netlink connection of this thread's network namespace.
pub fn connect() -> io::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Index of a link; `None` when there is none of that name.
pub async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, LinkError> {
    match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(err) if absent(&err) => Ok(None),
        Err(err) => Err(failed(format!("look up link {name}"))(err)),
    }
}

/// Whether an error says that there is no such link.
fn absent(err: &rtnetlink::Error) -> bool {
    matches!(err, rtnetlink::Error::NetlinkError(err) if err.raw_code() == -libc::ENODEV)
}

/// Whether an error says that the thing is there already.
fn exists(err: &rtnetlink::Error) -> bool {
    matches!(err, rtnetlink::Error::NetlinkError(err) if err.raw_code() == -libc::EEXIST)
}

/// The bridge with its address, up; made where it is missing.
pub async fn bridge(handle: &Handle, name: &str, address: Ipv4Addr, prefix: u8) -> Result<u32, LinkError> {
    let found = index(handle, name).await?;
    let index = match found {
        Some(index) => index,
        None => {
            let made = handle.link().add(LinkBridge::new(name).build()).execute().await;
            made.map_err(failed(format!("make bridge {name}")))?;
            index(handle, name).await?.unwrap_or(0)
        }
    };
    let added = handle.address().add(index, address.into(), prefix).replace().execute().await;
    added.map_err(failed(format!("give {name} {address}/{prefix}")))?;
    let up = handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
    up.map_err(failed(format!("switch {name} on")))?;
    Ok(index)
}

/// Makes every address of `cidr` this host's own: `ip route add local CIDR dev lo`.
pub async fn any_ip(handle: &Handle, cidr: Cidr) -> Result<(), LinkError> {
    let lo = index(handle, "lo").await?.unwrap_or(1);
    let up = handle.link().set(LinkUnspec::new_with_index(lo).up().build()).execute().await;
    up.map_err(failed("switch lo on"))?;
    match handle.route().add(any_ip_route(lo, cidr)).execute().await {
        Err(err) if !exists(&err) => {
            Err(failed(format!("route {}/{} to lo", cidr.address, cidr.prefix))(err))
        }
        _ => Ok(()),
    }
}

pub async fn remove_any_ip(handle: &Handle, cidr: Cidr) {
    let lo = index(handle, "lo").await.ok().flatten().unwrap_or(1);
    // Not there is what is wanted.
    let _ = handle.route().del(any_ip_route(lo, cidr)).execute().await;
}

fn any_ip_route(lo: u32, cidr: Cidr) -> rtnetlink::packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(cidr.address, cidr.prefix)
        .output_interface(lo)
        .table_id(TABLE_LOCAL)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .build()
}

/// One pod's end of the network.
#[derive(Clone, Debug)]
pub struct Plug {
    /// Name of the end on this host.
    pub host: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
}

/// The pod's network namespace, checked to be the one that is meant.
pub fn namespace(path: &Path, inode: u64) -> Result<File, LinkError> {
    let io = |source| LinkError::Io { what: "open", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    let actual = file.metadata().map_err(io)?.ino();
    if actual == inode {
        Ok(file)
    } else {
        Err(LinkError::OtherNamespace { path: path.to_path_buf(), expected: inode, actual })
    }
}

/// Connects a pod: a veth pair, one end on the bridge, the other the pod's `eth0` with address and default route.
/// Repeating it is harmless; a pair that leads into another namespace, which the pod had before, is replaced.
pub async fn plug(handle: &Handle, bridge: u32, plug: &Plug, namespace: File) -> Result<(), LinkError> {
    let namespace = OwnedFd::from(namespace);
    if connect_pair(handle, bridge, plug, &namespace).await? {
        return Ok(());
    }
    remove(handle, &plug.host).await?;
    if connect_pair(handle, bridge, plug, &namespace).await? {
        return Ok(());
    }
    Err(LinkError::Io {
        what: "find eth0 in the pod behind",
        path: plug.host.clone().into(),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// False when the pair's other end is not in the namespace.
async fn connect_pair(
    handle: &Handle,
    bridge: u32,
    plug: &Plug,
    namespace: &OwnedFd,
) -> Result<bool, LinkError> {
    let host = plug.host.as_str();
    if index(handle, host).await?.is_none() {
        // Made where it belongs: to move a link to another namespace takes the kernel a dozen milliseconds.
        let eth0 = LinkUnspec::new_with_name("eth0").setns_by_fd(namespace.as_raw_fd()).build();
        let pair = LinkVeth::new(host, "").set_info_data(InfoData::Veth(InfoVeth::Peer(eth0))).build();
        let made = handle.link().add(pair).execute().await;
        made.map_err(failed(format!("make the veth pair {host}")))?;
    }
    if let Some(index) = index(handle, host).await? {
        let plugged = LinkUnspec::new_with_index(index).controller(bridge).up().build();
        handle.link().set(plugged).execute().await.map_err(failed(format!("plug {host} into the bridge")))?;
    }
    let cloned = namespace.try_clone().map_err(|source| LinkError::Io {
        what: "keep the network namespace of the pod behind",
        path: host.into(),
        source,
    })?;
    inside(cloned, plug.clone()).await
}

/// Sets the pod's end up, on a thread inside its namespace; false when it is not there.
async fn inside(namespace: OwnedFd, plug: Plug) -> Result<bool, LinkError> {
    let (done, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let enter = || -> io::Result<tokio::runtime::Runtime> {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            tokio::runtime::Builder::new_current_thread().enable_all().build()
        };
        let result = match enter() {
            Ok(runtime) => runtime.block_on(set_up(&plug)),
            Err(source) => Err(LinkError::Io {
                what: "enter the network namespace of the pod behind",
                path: plug.host.into(),
                source,
            }),
        };
        // Whoever waited has gone with its connection.
        let _ = done.send(result);
    });
    wait.await.unwrap_or(Ok(false))
}

async fn set_up(plug: &Plug) -> Result<bool, LinkError> {
    let handle = connect().map_err(|source| LinkError::Io {
        what: "open netlink in",
        path: plug.host.clone().into(),
        source,
    })?;
    for (name, address) in [("lo", None), ("eth0", Some(plug.address))] {
        let Some(index) = index(&handle, name).await? else { return Ok(false) };
        if let Some(address) = address {
            let given = handle.address().add(index, address.into(), plug.prefix).replace().execute().await;
            given.map_err(failed(format!("give eth0 {address}")))?;
        }
        let up = handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
        up.map_err(failed(format!("switch {name} on")))?;
    }
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(plug.gateway).build();
    match handle.route().add(route).execute().await {
        Err(err) if !exists(&err) => Err(failed(format!("route by {}", plug.gateway))(err)),
        _ => Ok(true),
    }
}

/// Removes a link; absent is success, also when the kernel removes it meanwhile, with the namespace of its other end.
pub async fn remove(handle: &Handle, name: &str) -> Result<(), LinkError> {
    let Some(index) = index(handle, name).await? else { return Ok(()) };
    match handle.link().del(index).execute().await {
        Err(err) if !absent(&err) => Err(failed(format!("remove link {name}"))(err)),
        _ => Ok(()),
    }
}

/// Name of a pod's link on this host: 15 bytes at most, the same for the same pod.
pub fn host_name(pod: &str) -> String {
    // FNV-1a, 64 bits, of which 44 fit.
    let hash = pod
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("wh{:011x}", hash >> 20)
}
