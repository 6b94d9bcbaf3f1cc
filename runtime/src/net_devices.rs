//! `linux.netDevices`: network devices of the host that move into the container's network namespace; config-linux.md, "Network Devices".
//!
//! Source: rtnetlink(7). The kernel keeps a device's address of the link layer and its MTU; IP addresses it drops, so those that are permanent and
//! global are given again. Nothing here takes a device back (the specification forbids it): it belongs to the namespace, and when that goes, the kernel
//! returns physical devices to the host's, and destroys virtual ones.

use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};
use runtime_spec::oci::Spec;
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

#[derive(Debug, thiserror::Error)]
pub enum NetDeviceError {
    #[error("linux.netDevices: {name}: {what}")]
    Device { name: String, what: &'static str, source: io::Error },
    #[error("linux.netDevices: {}", path.display())]
    Namespace { path: PathBuf, source: io::Error },
}

const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;
/// `struct nlmsghdr`, `ifaddrmsg` and `rtattr`.
const HEADER_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ATTRIBUTE_BYTES: usize = 4;
/// linux/if_addr.h.
const PERMANENT: u8 = 0x80;

/// An address as `RTM_NEWADDR` has it: family, length of the prefix, and attributes that say which.
#[derive(Debug)]
struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

/// Moves the devices to the network namespace of `pid`, with the names that config.json gives them, their addresses, and up.
pub fn give(pid: i32, spec: &Spec) -> Result<(), NetDeviceError> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    for (name, device) in devices.into_iter().flatten() {
        let failed =
            |what: &'static str| move |source| NetDeviceError::Device { name: name.clone(), what, source };
        let inside = device.name().as_ref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        let index = index(name).map_err(failed("find it"))?;
        let route = open().map_err(failed("open rtnetlink"))?;
        let addresses = addresses(&route, index).map_err(failed("read its addresses"))?;
        // Of `eth%d` the kernel makes a name that is free there; so that the device is found again, it arrives by one that is its own.
        let template = inside.ends_with("%d").then_some(inside.as_str());
        let arrives = template.map_or_else(|| inside.clone(), |_| format!("wherry{pid}"));
        let text = [arrives.as_bytes(), b"\0"].concat();
        let target = [(libc::IFLA_NET_NS_PID, &pid.to_ne_bytes()[..]), (libc::IFLA_IFNAME, &text)];
        ask(&route, libc::RTM_NEWLINK, 0, &link(index, 0), &target)
            .map_err(failed("move it to the container's network namespace"))?;
        let set_up = || set_up(&arrives, template, &addresses).map_err(failed("set it up in the container"));
        in_network_of(pid, set_up)?;
    }
    Ok(())
}

/// `template`: the name it is to have instead.
fn set_up(name: &str, template: Option<&str>, addresses: &[Address]) -> io::Result<()> {
    let (index, route) = (index(name)?, open()?);
    if let Some(template) = template {
        let text = [template.as_bytes(), b"\0"].concat();
        ask(&route, libc::RTM_NEWLINK, 0, &link(index, 0), &[(libc::IFLA_IFNAME, &text)])?;
    }
    for address in addresses {
        let mut body = vec![address.family, address.prefix, PERMANENT, 0];
        body.extend(index.to_ne_bytes());
        let attributes: Vec<(u16, &[u8])> =
            address.attributes.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        ask(&route, libc::RTM_NEWADDR, flags, &body, &attributes)?;
    }
    ask(&route, libc::RTM_NEWLINK, 0, &link(index, libc::IFF_UP as u32), &[])
}

/// Does something in the network namespace of `pid`, and comes back.
fn in_network_of(pid: i32, act: impl FnOnce() -> Result<(), NetDeviceError>) -> Result<(), NetDeviceError> {
    let open = |path: PathBuf| {
        File::open(&path)
            .map_err(|source| NetDeviceError::Namespace { path: path.clone(), source })
            .map(|file| (file, path))
    };
    let (own, theirs) =
        (open("/proc/self/ns/net".into())?, open(PathBuf::from(format!("/proc/{pid}/ns/net")))?);
    let enter = |(file, path): (File, PathBuf)| {
        setns(file, CloneFlags::CLONE_NEWNET)
            .map_err(|err| NetDeviceError::Namespace { path, source: err.into() })
    };
    enter(theirs)?;
    let done = act();
    enter(own)?;
    done
}

fn index(name: &str) -> io::Result<u32> {
    Ok(if_nametoindex(name)?)
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?)
}

/// `struct ifinfomsg` that switches these flags on.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, flags, flags] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// The permanent global addresses of a device.
fn addresses(route: &OwnedFd, device: u32) -> io::Result<Vec<Address>> {
    request(route, libc::RTM_GETADDR, DUMP, &[0; ADDRESS_BYTES], &[])?;
    let mut found = Vec::new();
    loop {
        for (kind, body) in messages(&receive(route)?) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => status(&body)?,
                _ if kind == libc::RTM_NEWADDR => found.extend(address(&body, device)),
                _ => {}
            }
        }
    }
}

/// Reads `struct ifaddrmsg` and its attributes; `None` for another device or kind of address.
fn address(body: &[u8], device: u32) -> Option<Address> {
    let &[family, prefix, flags, scope, a, b, c, d, ref rest @ ..] = body else { return None };
    let ours = u32::from_ne_bytes([a, b, c, d]) == device;
    if !ours || scope != libc::RT_SCOPE_UNIVERSE || flags & PERMANENT == 0 {
        return None;
    }
    // A label holds the device's old name.
    let kept = [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST];
    let attributes =
        blocks(rest, ATTRIBUTE_BYTES, |head| usize::from(u16::from_ne_bytes([head[0], head[1]])));
    let attributes =
        attributes.into_iter().map(|(head, value)| (u16::from_ne_bytes([head[2], head[3]]), value));
    Some(Address { family, prefix, attributes: attributes.filter(|(kind, _)| kept.contains(kind)).collect() })
}

/// Asks for something and waits for the answer.
fn ask(route: &OwnedFd, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> io::Result<()> {
    request(route, kind, flags | ACKNOWLEDGE, body, attributes)?;
    for (kind, body) in messages(&receive(route)?) {
        if i32::from(kind) == libc::NLMSG_ERROR {
            return status(&body);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

fn request(
    route: &OwnedFd,
    kind: u16,
    flags: u16,
    body: &[u8],
    attributes: &[(u16, &[u8])],
) -> io::Result<()> {
    let mut message = vec![0; HEADER_BYTES];
    message.extend(body);
    for (kind, value) in attributes {
        message.extend(((ATTRIBUTE_BYTES + value.len()) as u16).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(*value);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let len = message.len() as u32;
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    send(route.as_raw_fd(), &message, MsgFlags::empty())?;
    Ok(())
}

fn receive(route: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 1 << 15];
    let len = recv(route.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Kinds and bodies of the messages in a datagram.
fn messages(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let length = |head: &[u8]| u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let blocks = blocks(bytes, HEADER_BYTES, length);
    blocks.into_iter().map(|(head, body)| (u16::from_ne_bytes([head[4], head[5]]), body)).collect()
}

/// Splits what netlink packs: a head that says the length of both, what follows it, and filling to four bytes.
fn blocks(mut bytes: &[u8], head: usize, length: impl Fn(&[u8]) -> usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    while bytes.len() >= head {
        let len = length(bytes);
        if len < head || len > bytes.len() {
            break;
        }
        found.push((bytes[..head].to_vec(), bytes[head..len].to_vec()));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// What an acknowledgement says.
fn status(body: &[u8]) -> io::Result<()> {
    match body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
