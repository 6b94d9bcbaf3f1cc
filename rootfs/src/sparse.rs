//! Sparse members of tar archives: which parts of the file the archive holds, the rest being holes.
//!
//! Source: GNU tar manual, "Storing Sparse Files": the old GNU format (a map in the header and in blocks after it), PAX 0.0 (a record per number),
//! 0.1 (one record) and 1.0 (a map of decimal lines before the content).
//! Invariant: regions are in order, do not overlap, end within the file, and are together as long as what the archive holds.

use crate::tarball::{BLOCK, EXTENSION_BYTES_MAX, bad, number};
use std::io::{self, Read};
use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

/// Most regions of one file.
const REGIONS_MAX: usize = 1 << 16;

/// A part of a file that is no hole, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What PAX records say of a sparse member.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// The file's name; that of the member is one for programs that do not know sparse files.
    pub(crate) name: Option<Vec<u8>>,
    /// Length of the file, holes included.
    pub(crate) size: Option<u64>,
    /// The map lies before the content.
    map_in_content: bool,
    /// Offset, length, offset, length.
    map: Vec<u64>,
}

impl Records {
    /// Takes a record `GNU.sparse.<key>`.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" if self.map.len().is_multiple_of(2) => self.map.push(number(value)?),
            b"numbytes" if !self.map.len().is_multiple_of(2) => self.map.push(number(value)?),
            b"map" => {
                let digits = value.split(|&byte| byte == b',');
                self.map = digits.map(number).collect::<io::Result<_>>()?;
            }
            b"major" => match value {
                b"0" => {}
                b"1" => self.map_in_content = true,
                _ => return Err(bad("a sparse file of an unknown format")),
            },
            // Both follow from the rest.
            b"minor" | b"numblocks" => {}
            _ => return Err(bad("the map of a sparse file is malformed")),
        }
        Ok(())
    }

    /// The regions of a file of `size` bytes; reads the map from `content` where it lies there.
    pub(crate) fn map(self, content: &mut impl Read) -> io::Result<Vec<Region>> {
        let map = if self.map_in_content { map_before(content)? } else { self.map };
        if !map.len().is_multiple_of(2) {
            return Err(bad("the map of a sparse file is malformed"));
        }
        Ok(map.chunks(2).map(|pair| Region { offset: pair[0], length: pair[1] }).collect())
    }
}

/// PAX 1.0: the number of regions, then offset and length of each, a line for every number, filled up to a block.
fn map_before(content: &mut impl Read) -> io::Result<Vec<u64>> {
    let (mut text, mut block, mut lines) = (Vec::new(), [0; BLOCK], 0);
    loop {
        content.read_exact(&mut block)?;
        lines += block.iter().filter(|&&byte| byte == b'\n').count();
        text.extend(block);
        let mut numbers = text.split(|&byte| byte == b'\n');
        if lines > 0 {
            let count: usize = number(numbers.next().unwrap_or_default())?;
            if count > REGIONS_MAX {
                return Err(bad("a sparse file of too many parts"));
            }
            if lines > 2 * count {
                return numbers.take(2 * count).map(number).collect();
            }
        }
        if text.len() as u64 > EXTENSION_BYTES_MAX {
            return Err(bad("the map of a sparse file is malformed"));
        }
    }
}

/// The old GNU format: four regions in the header, and 21 in each block between it and the content.
pub(crate) fn old_map(header: &GnuHeader, blocks: &mut impl Read) -> io::Result<Vec<Region>> {
    let mut regions = Vec::new();
    let mut take = |slots: &[GnuSparseHeader]| -> io::Result<usize> {
        for slot in slots.iter().filter(|slot| !slot.is_empty()) {
            regions.push(Region { offset: slot.offset()?, length: slot.length()? });
        }
        Ok(regions.len())
    };
    take(&header.sparse)?;
    let mut more = header.is_extended();
    while more {
        let mut block = GnuExtSparseHeader::new();
        blocks.read_exact(block.as_mut_bytes())?;
        if take(&block.sparse)? > REGIONS_MAX {
            return Err(bad("a sparse file of too many parts"));
        }
        more = block.is_extended();
    }
    Ok(regions)
}

/// Refuses regions that break the invariant.
///
/// - `size`: of the file; `stored`: of its content in the archive; both in bytes.
pub(crate) fn check(regions: &[Region], size: u64, stored: u64) -> io::Result<()> {
    let (mut end, mut sum) = (0, 0u64);
    for region in regions {
        if region.offset < end {
            return Err(bad("parts of a sparse file overlap or are out of order"));
        }
        end = region
            .offset
            .checked_add(region.length)
            .filter(|end| *end <= size)
            .ok_or_else(|| bad("a part of a sparse file lies behind its end"))?;
        sum += region.length;
    }
    if sum == stored { Ok(()) } else { Err(bad("a sparse file's parts are not as long as its content")) }
}
