//! Masquerading of what pods send out of the cluster: one nftables table, set over netlink in one transaction.
//!
//! `table ip <name> { chain postrouting { type nat hook postrouting priority srcnat; ip saddr PODS ip daddr != CLUSTER masquerade } }`.
//! Messages: kernel `uapi/linux/netfilter/nf_tables.h`, libnftnl. The batch replaces the table whole, so repeating it is harmless.

use netd_protocol::Cidr;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
};

const FAMILY_IPV4: u8 = 2;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const POSTROUTING: u32 = 4;
const PRIORITY_SRCNAT: u32 = 100;
const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Replaces the table `name` by one that masquerades traffic of `pods` to anywhere outside of `cluster`.
pub fn masquerade(name: &str, pods: Cidr, cluster: Cidr) -> io::Result<()> {
    transact(&replacement(name, pods, cluster))
}

/// Removes the table; absent is success.
pub fn remove(name: &str) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.message(NEW_TABLE, CREATE, &text(1, name));
    batch.message(DELETE_TABLE, ACK, &text(1, name));
    transact(&batch.finish())
}

fn replacement(name: &str, pods: Cidr, cluster: Cidr) -> Vec<u8> {
    let mut batch = Batch::default();
    // Made if it is not there, so that it can be deleted if it is.
    batch.message(NEW_TABLE, CREATE, &text(1, name));
    batch.message(DELETE_TABLE, 0, &text(1, name));
    batch.message(NEW_TABLE, CREATE, &text(1, name));
    let hook = nested(4, &[number(1, POSTROUTING), number(2, PRIORITY_SRCNAT)].concat());
    batch.message(NEW_CHAIN, CREATE, &[text(1, name), text(3, "postrouting"), hook, text(7, "nat")].concat());
    let expressions = [
        network(SOURCE_OFFSET, pods, EQUAL),
        network(DESTINATION_OFFSET, cluster, NOT_EQUAL),
        expression("masq", &[]),
    ];
    let rule = [text(1, name), text(2, "postrouting"), nested(4, &expressions.concat())].concat();
    batch.message(NEW_RULE, CREATE | APPEND | ACK, &rule);
    batch.finish()
}

/// Loads four bytes of the IP header, masks them, compares them with a network.
fn network(offset: u32, cidr: Cidr, operator: u32) -> Vec<u8> {
    let mask = u32::MAX.checked_shl(32 - u32::from(cidr.prefix)).unwrap_or(0);
    let value = Ipv4Addr::from(u32::from(cidr.address) & mask);
    let load = [number(1, REGISTER), number(2, NETWORK_HEADER), number(3, offset), number(4, 4)].concat();
    let masked = [
        number(1, REGISTER),
        number(2, REGISTER),
        number(3, 4),
        nested(4, &attribute(1, &mask.to_be_bytes())),
        nested(5, &attribute(1, &[0; 4])),
    ];
    let compare =
        [number(1, REGISTER), number(2, operator), nested(3, &attribute(1, &value.octets()))].concat();
    [expression("payload", &load), expression("bitwise", &masked.concat()), expression("cmp", &compare)]
        .concat()
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, data)].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len() + 4).expect("attributes here are short");
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// nf_tables numbers are big-endian.
fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// Messages that take effect together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    seq: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, body: &[u8]) {
        if self.bytes.is_empty() {
            self.push(BATCH_BEGIN, 0, 0, SUBSYSTEM, &[]);
        }
        self.push(kind, flags, FAMILY_IPV4, 0, body);
    }

    /// A netlink header, the header of nfnetlink, the body.
    fn push(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.seq += 1;
        let len = u32::try_from(20 + body.len()).expect("messages here are short");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.seq.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(body);
    }

    fn finish(mut self) -> Vec<u8> {
        self.push(BATCH_END, 0, 0, SUBSYSTEM, &[]);
        self.bytes
    }
}

/// Sends the batch and waits for the one acknowledgement, or the first error.
fn transact(batch: &[u8]) -> io::Result<()> {
    let socket: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let wait = nix::sys::time::TimeVal::new(5, 0);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &wait)?;
    sendto(socket.as_raw_fd(), batch, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // nlmsghdr (16 bytes), then nlmsgerr: a negative errno, or 0 for an acknowledgement.
    let code = answer
        .get(16..20)
        .filter(|_| len >= 20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_whole_and_aligned() {
        let pods = Cidr { address: Ipv4Addr::new(10, 244, 0, 0), prefix: 24 };
        let cluster = Cidr { address: Ipv4Addr::new(10, 244, 0, 0), prefix: 16 };
        let batch = replacement("wherry", pods, cluster);
        let (mut rest, mut kinds) = (batch.as_slice(), Vec::new());
        while !rest.is_empty() {
            let len = u32::from_ne_bytes(rest[..4].try_into().expect("four bytes")) as usize;
            assert!(len.is_multiple_of(4) && len <= rest.len());
            kinds.push(u16::from_ne_bytes(rest[4..6].try_into().expect("two bytes")));
            rest = &rest[len..];
        }
        assert_eq!(kinds, [BATCH_BEGIN, NEW_TABLE, DELETE_TABLE, NEW_TABLE, NEW_CHAIN, NEW_RULE, BATCH_END]);
        assert!(batch.windows(8).any(|bytes| bytes == [8, 0, 1, 0, 255, 255, 255, 0]), "the mask of a /24");
    }
}
