//! The 512-byte header block: fixed fields, octal or binary numbers.

use std::io;

use nix::sys::time::TimeSpec;

use super::malformed;
use super::sparse::{SEGMENTS_MAX, Segment};

/// Everything in a tar archive comes in blocks of this many bytes.
pub(super) const BLOCK: usize = 512;

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header([u8; BLOCK]);

impl Header {
    pub(super) fn new(block: [u8; BLOCK]) -> io::Result<Self> {
        let header = Self(block);
        let stored = number(header.field(148, 8))?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stored != unsigned && stored != signed {
            return Err(malformed("wrong header checksum"));
        }
        Ok(header)
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix field where the format has one.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = match (self.field(257, 6), self.field(508, 4)) {
            (b"ustar\0", b"tar\0") => self.text(345, 131),
            (b"ustar\0", _) => self.text(345, 155),
            _ => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    pub(super) fn mode(&self) -> io::Result<u32> {
        u32::try_from(number(self.field(100, 8))? & 0o7777).map_err(|_| malformed("mode out of range"))
    }

    pub(super) fn uid(&self) -> io::Result<u32> {
        owner(number(self.field(108, 8))?)
    }

    pub(super) fn gid(&self) -> io::Result<u32> {
        owner(number(self.field(116, 8))?)
    }

    /// Bytes of data that follow, as far as this header knows.
    pub(super) fn size(&self) -> io::Result<u64> {
        size(number(self.field(124, 12))?)
    }

    pub(super) fn mtime(&self) -> io::Result<TimeSpec> {
        Ok(TimeSpec::new(number(self.field(136, 12))?, 0))
    }

    /// Major and minor number, each in the range that Linux has.
    pub(super) fn device(&self) -> io::Result<(u32, u32)> {
        let within = |value: i64, bits: u32| {
            u32::try_from(value)
                .ok()
                .filter(|value| value >> bits == 0)
                .ok_or_else(|| malformed(&format!("device number {value} out of range")))
        };
        Ok((within(number(self.field(329, 8))?, 12)?, within(number(self.field(337, 8))?, 20)?))
    }

    /// Length of an old GNU sparse file.
    pub(super) fn real_size(&self) -> io::Result<u64> {
        size(number(self.field(483, 12))?)
    }

    /// Appends the segments in an old GNU sparse header; true if more follow in a block.
    pub(super) fn sparse_map(&self, segments: &mut Vec<Segment>) -> io::Result<bool> {
        sparse_entries(self.field(386, 96), segments)?;
        Ok(self.0[482] != 0)
    }

    fn field(&self, at: usize, length: usize) -> &[u8] {
        &self.0[at..at + length]
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = self.field(at, length);
        &field[..field.iter().position(|&b| b == 0).unwrap_or(length)]
    }
}

/// Appends the segments in a block that continues an old GNU sparse header; true if another block follows.
pub(super) fn sparse_block(block: &[u8; BLOCK], segments: &mut Vec<Segment>) -> io::Result<bool> {
    sparse_entries(&block[..504], segments)?;
    Ok(block[504] != 0)
}

fn sparse_entries(table: &[u8], segments: &mut Vec<Segment>) -> io::Result<()> {
    for pair in table.chunks_exact(24).take_while(|pair| pair[0] != 0) {
        if segments.len() == SEGMENTS_MAX {
            return Err(malformed("too many segments in a sparse file"));
        }
        let (offset, length) = pair.split_at(12);
        segments.push(Segment { offset: size(number(offset)?)?, length: size(number(length)?)? });
    }
    Ok(())
}

/// Octal text between blanks and NULs, or a big-endian two's complement number marked by the top bit.
pub(super) fn number(field: &[u8]) -> io::Result<i64> {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return binary(field).ok_or_else(|| malformed("number out of range"));
    }
    let is_blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !is_blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(is_blank).unwrap_or(digits.len())];
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => Ok((value << 3) | i64::from(digit - b'0')),
        _ => Err(malformed("a number that is not octal")),
    })
}

fn binary(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] | 0x80 } else { field[0] & 0x7f };
    let mut value = i64::from(first.cast_signed());
    for &byte in &field[1..] {
        value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
    }
    Some(value)
}

pub(super) fn size(value: i64) -> io::Result<u64> {
    u64::try_from(value).map_err(|_| malformed("negative size"))
}

/// A user or group id; the last one means "none" to the kernel and is refused.
pub(super) fn owner(value: i64) -> io::Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|&id| id != u32::MAX)
        .ok_or_else(|| malformed(&format!("owner {value} out of range")))
}
