//! Maps of sparse files: which parts of a file the archive stores.

use std::io;

use super::malformed;
use super::pax::decimal;

/// Most segments that a file may have.
pub(super) const SEGMENTS_MAX: usize = 1 << 20;

/// A part of a file that is stored; what lies between segments is a hole. In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Segments must come in order, not overlap, end within `size`, and account for all `stored` bytes.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for segment in segments {
        let next = segment.offset.checked_add(segment.length);
        end = next
            .filter(|&next| segment.offset >= end && next <= size)
            .ok_or_else(|| malformed("sparse map out of order or out of range"))?;
        sum += segment.length;
    }
    if sum != stored || size > i64::MAX.unsigned_abs() {
        return Err(malformed("sparse map does not match the stored size"));
    }
    Ok(())
}

/// PAX format 0.1: `offset,length,offset,length…`.
pub(super) fn comma_separated(text: &[u8]) -> io::Result<Vec<Segment>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    pairs(text.split(|&b| b == b','))
}

/// PAX format 1.0, collected block by block: a count, then offset and length of each segment, one number per line.
#[derive(Debug, Default)]
pub(super) struct MapText {
    text: Vec<u8>,
    lines: usize,
}

impl MapText {
    pub(super) fn push(&mut self, block: &[u8]) {
        self.text.extend_from_slice(block);
        self.lines += block.iter().filter(|&&b| b == b'\n').count();
    }

    /// Whether all numbers that the count announces are there. Errors: there is more text than they can take.
    pub(super) fn is_complete(&self) -> io::Result<bool> {
        let wanted = if self.lines == 0 { 1 } else { 2 * self.count()? + 1 };
        // Numbers up to 2⁶³ have 19 digits and end with a newline; the last block may hold data behind them.
        if self.lines < wanted && self.text.len() >= wanted * 20 + 512 {
            return Err(malformed("bad number in a sparse map"));
        }
        Ok(self.lines >= wanted)
    }

    pub(super) fn segments(&self) -> io::Result<Vec<Segment>> {
        pairs(self.text.split(|&b| b == b'\n').skip(1).take(2 * self.count()?))
    }

    fn count(&self) -> io::Result<usize> {
        let line = self.text.split(|&b| b == b'\n').next().unwrap_or_default();
        decimal(line)
            .and_then(|count| usize::try_from(count).ok())
            .filter(|&count| count <= SEGMENTS_MAX)
            .ok_or_else(|| malformed("bad count in a sparse map"))
    }
}

fn pairs<'a>(mut numbers: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<Segment>> {
    let read = |text: &[u8]| {
        decimal(text)
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| malformed("bad number in a sparse map"))
    };
    let mut segments = Vec::new();
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(|| malformed("sparse map with an odd number of numbers"))?;
        segments.push(Segment { offset: read(offset)?, length: read(length)? });
    }
    Ok(segments)
}
