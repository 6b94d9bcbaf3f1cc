//! Writes tar archives that no well-meant program would.

use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// One member with the extension headers before it.
#[derive(Clone)]
pub struct Member {
    header: Header,
    content: Vec<u8>,
    pax: Vec<u8>,
    /// Between the header and the content: the rest of an old GNU sparse map.
    map: Vec<u8>,
}

impl Member {
    pub fn new(kind: EntryType, name: impl AsRef<[u8]>) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(1);
        header.as_old_mut().name[..name.as_ref().len()].copy_from_slice(name.as_ref());
        Self { header, content: Vec::new(), pax: Vec::new(), map: Vec::new() }
    }

    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.header.as_old_mut().linkname[..target.as_ref().len()].copy_from_slice(target.as_ref());
        self
    }

    pub fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.header.set_size(content.as_ref().len() as u64);
        self.content = content.as_ref().to_vec();
        self
    }

    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.extend(record(key, value.as_ref()));
        self
    }

    pub fn header(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.header);
        self
    }

    /// An old GNU sparse map: four regions in the header, the others in blocks after it.
    pub fn holes(mut self, size: u64, regions: &[(u64, u64)]) -> Self {
        let slot = |(offset, length): &(u64, u64)| format!("{offset:011o}\0{length:011o}\0").into_bytes();
        let (first, more) = regions.split_at(regions.len().min(4));
        let bytes = self.header.as_mut_bytes();
        for (at, region) in first.iter().enumerate() {
            bytes[386 + at * 24..][..24].copy_from_slice(&slot(region));
        }
        bytes[482] = u8::from(!more.is_empty());
        bytes[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
        for (at, chunk) in more.chunks(21).enumerate() {
            let mut block: Vec<u8> = chunk.iter().flat_map(slot).collect();
            block.resize(BLOCK, 0);
            block[504] = u8::from((at + 1) * 21 < more.len());
            self.map.extend(block);
        }
        self
    }

    pub fn bytes(mut self) -> Vec<u8> {
        let pax = match self.pax.as_slice() {
            [] => Vec::new(),
            records => Self::new(EntryType::XHeader, "pax").content(records).bytes(),
        };
        self.header.set_cksum();
        let mut bytes = [&pax, self.header.as_bytes().as_slice(), &self.map, &self.content].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Member {
    Member::new(EntryType::Regular, name).content(content)
}

pub fn dir(name: impl AsRef<[u8]>) -> Member {
    Member::new(EntryType::Directory, name)
}

pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
    Member::new(EntryType::Symlink, name).link(target)
}

pub fn hard(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
    Member::new(EntryType::Link, name).link(target)
}

/// GNU's header for the name, or the link target, of the next member.
pub fn long(kind: EntryType, text: impl AsRef<[u8]>) -> Member {
    Member::new(kind, "././@LongLink").content([text.as_ref(), b"\0"].concat())
}

/// A PAX record, its length counting itself.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let length = (body..).find(|n| n.to_string().len() + body == *n).expect("a fixed point");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// The members and the end mark.
pub fn archive(members: impl IntoIterator<Item = Member>) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.into_iter().flat_map(Member::bytes).collect();
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}
