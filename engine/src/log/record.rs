//! The layout of a log's file: a head, then records, each a header and what a stream has written at once.
//!
//! All numbers are little-endian.
//!
//! | file's head | | record's header | |
//! |---|---|---|---|
//! | 0 | magic `skifflog` | 0 | check, u32 |
//! | 8 | salt, u64 | 4 | bytes that follow, u32 |
//! | 16 | bytes in all files before this one, u64 | 8 | the whole record before this one, u32; 0 for the first |
//! | 24 | check, u64 | 12 | stream, u32 |
//! | 32 | first record | 16 | time, ns since 1970, u64 |
//!
//! A record's check covers the file's salt and the place that the header stands at. What a container writes can therefore
//! not pass for a header, since it does not know the salt, and after damage the next header is found by looking for one.

/// The most bytes in one record: what a pipe holds (pipe(7)).
pub(super) const RECORD_MAX: u32 = 64 << 10;

/// A record's header, bytes.
pub(super) const HEADER: u64 = 24;
/// The same, of memory.
pub(super) const HEADER_BYTES: usize = 24;

/// A file's head, bytes.
pub(super) const HEAD: u64 = 32;
/// The same, of memory.
pub(super) const HEAD_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"skifflog";

/// Which of a container's streams bytes are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and all that a terminal shows.
    Out,
    /// Standard error.
    Err,
    /// The engine's own: what has become of bytes that are not there.
    Note,
}

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) salt: u64,
    /// The size of all files before, bytes.
    pub(super) before: u64,
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.before.to_le_bytes());
        bytes[24..].copy_from_slice(&mix(self.salt, &[self.before]).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        let head = Self { salt: u64_at(bytes, 8), before: u64_at(bytes, 16) };
        (&bytes[..8] == MAGIC && u64_at(bytes, 24) == mix(head.salt, &[head.before])).then_some(head)
    }
}

/// What a record begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) length: u32,
    /// The size of the record before, with its header; 0 for the first of a file.
    pub(super) previous: u32,
    pub(super) stream: Stream,
    pub(super) time_ns: u64,
}

impl Header {
    /// As it stands at the offset `at` of a file with this salt.
    pub(super) fn encode(&self, salt: u64, at: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.previous.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.stream as u32).to_le_bytes());
        bytes[16..].copy_from_slice(&self.time_ns.to_le_bytes());
        let check = check(&bytes, salt, at);
        bytes[..4].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// None if no header stands at `at`.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], salt: u64, at: u64) -> Option<Self> {
        let length = u32_at(bytes, 4);
        let stream = match u32_at(bytes, 12) {
            0 => Stream::Out,
            1 => Stream::Err,
            2 => Stream::Note,
            _ => return None,
        };
        let header = Self { length, previous: u32_at(bytes, 8), stream, time_ns: u64_at(bytes, 16) };
        let fits =
            (1..=RECORD_MAX).contains(&length) && u64::from(header.previous) <= at.saturating_sub(HEAD);
        (fits && u32_at(bytes, 0) == check(bytes, salt, at)).then_some(header)
    }

    /// The record's size, bytes.
    pub(super) fn size(&self) -> u64 {
        HEADER + u64::from(self.length)
    }

    /// The same, as the next record's header has it.
    pub(super) fn whole(&self) -> u32 {
        u32::try_from(self.size()).unwrap_or(u32::MAX)
    }
}

/// The header that stands last in `bytes`, which begin at `start` of the file, with its place.
pub(super) fn last_header(bytes: &[u8], start: u64, salt: u64) -> Option<(u64, Header)> {
    windows(bytes, start).rev().find_map(|(at, window)| Some((at, Header::decode(window, salt, at)?)))
}

/// The header that stands first in `bytes`, which begin at `start` of the file, with its place.
pub(super) fn first_header(bytes: &[u8], start: u64, salt: u64) -> Option<(u64, Header)> {
    windows(bytes, start).find_map(|(at, window)| Some((at, Header::decode(window, salt, at)?)))
}

fn windows(
    bytes: &[u8],
    start: u64,
) -> impl DoubleEndedIterator<Item = (u64, &[u8; HEADER_BYTES])> + ExactSizeIterator {
    let count = bytes.len().saturating_sub(HEADER_BYTES - 1);
    (0..count).map(move |index| {
        let window = bytes[index..].first_chunk().expect("a window begins where a whole one is left");
        (start + index as u64, window)
    })
}

#[expect(clippy::cast_possible_truncation, reason = "half of the mixed bits are the check")]
fn check(header: &[u8; HEADER_BYTES], salt: u64, at: u64) -> u32 {
    // The first four bytes are the check itself.
    let first = u64::from(u32_at(header, 4));
    mix(salt, &[at, first, u64_at(header, 8), u64_at(header, 16)]) as u32
}

/// Mixes words so that every bit of each bears on every bit of the result: rounds of SplitMix64's finalizer.
fn mix(salt: u64, words: &[u64]) -> u64 {
    words.iter().fold(salt, |state, word| {
        let mut bits = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the header"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_OF: Header = Header { length: 7, previous: 31, stream: Stream::Err, time_ns: 1 << 60 };

    #[test]
    fn what_is_encoded_is_decoded_at_its_place_only() {
        let bytes = HEADER_OF.encode(5, 100);
        assert_eq!(Header::decode(&bytes, 5, 100), Some(HEADER_OF));
        assert_eq!(Header::decode(&bytes, 5, 101), None);
        assert_eq!(Header::decode(&bytes, 6, 100), None);
        let head = Head { salt: 9, before: 4 };
        assert_eq!(Head::decode(&head.encode()), Some(head));
    }

    #[test]
    fn a_flipped_bit_is_no_header() {
        let header = HEADER_OF.encode(5, 100);
        for bit in 0..header.len() * 8 {
            let mut bytes = header;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes, 5, 100), None, "bit {bit}");
        }
        let head = Head { salt: 9, before: 4 }.encode();
        for bit in 0..head.len() * 8 {
            let mut bytes = head;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn headers_that_cannot_be_are_none() {
        for header in [
            Header { length: 0, ..HEADER_OF },
            Header { length: RECORD_MAX + 1, ..HEADER_OF },
            Header { previous: 69, ..HEADER_OF },
        ] {
            assert_eq!(Header::decode(&header.encode(5, 100), 5, 100), None, "{header:?}");
        }
    }

    #[test]
    fn headers_are_found_between_other_bytes() {
        let mut bytes = vec![0xaa; 50];
        bytes.extend(HEADER_OF.encode(5, 150));
        bytes.extend([0xbb; 30]);
        let second = Header { stream: Stream::Out, ..HEADER_OF };
        bytes.extend(second.encode(5, 204));
        assert_eq!(first_header(&bytes, 100, 5), Some((150, HEADER_OF)));
        assert_eq!(last_header(&bytes, 100, 5), Some((204, second)));
        assert_eq!(last_header(&bytes, 101, 5), None);
        assert_eq!(first_header(&bytes[..23], 100, 5), None);
        assert_eq!(first_header(&[], 100, 5), None);
    }
}
