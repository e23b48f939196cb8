//! PAX extended headers: `LENGTH KEY=VALUE\n`, overriding what the fixed header has no room for.

use std::io;

use nix::sys::time::TimeSpec;

use super::header;
use super::malformed;
use super::sparse::{self, Segment};

/// What extension headers say of the entry that follows them.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<TimeSpec>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// The `GNU.sparse.*` records of formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) version: Option<(u8, u8)>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) map: Vec<Segment>,
    /// Format 0.0 gives offset and length in records of their own.
    pending_offset: Option<u64>,
}

impl Pax {
    /// Takes over the records in the data of one `x` header; a record with an empty value takes an earlier one back.
    pub(super) fn read(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or_else(|| malformed("bad PAX record"))?;
            self.set(key, value)?;
            data = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.set(key, value);
        }
        let given = !value.is_empty();
        let number = || decimal(value).ok_or_else(|| malformed("PAX number out of range"));
        match key {
            b"path" => self.path = given.then(|| name(value)).transpose()?,
            b"linkpath" => self.link = given.then(|| name(value)).transpose()?,
            b"size" => self.size = given.then(|| number().and_then(header::size)).transpose()?,
            b"uid" => self.uid = given.then(|| number().and_then(header::owner)).transpose()?,
            b"gid" => self.gid = given.then(|| number().and_then(header::owner)).transpose()?,
            b"mtime" => {
                self.mtime =
                    given.then(|| time(value).ok_or_else(|| malformed("bad PAX time"))).transpose()?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || {
            decimal(value).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| malformed("bad sparse record"))
        };
        let part = || u8::try_from(number()?).map_err(|_| malformed("unknown sparse format"));
        match key {
            b"major" => self.version = Some((part()?, self.version.map_or(0, |v| v.1))),
            b"minor" => self.version = Some((self.version.map_or(0, |v| v.0), part()?)),
            b"name" => self.name = Some(name(value)?),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"map" => self.map = sparse::comma_separated(value)?,
            b"offset" => self.pending_offset = Some(number()?),
            b"numbytes" => {
                let offset = self.pending_offset.take().ok_or_else(|| malformed("bad sparse record"))?;
                self.map.push(Segment { offset, length: number()? });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Key and value of the first record, and what follows it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = data.iter().position(|&b| b == b' ')?;
    let length = usize::try_from(decimal(&data[..blank])?).ok()?;
    let record = data.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &data[length..]))
}

pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn name(value: &[u8]) -> io::Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(malformed("a name with a NUL in it"));
    }
    Ok(value.to_vec())
}

/// Seconds with an optional fraction, digits beyond nanoseconds cut off; may be negative.
fn time(value: &[u8]) -> Option<TimeSpec> {
    let (whole, fraction) = match value.iter().position(|&b| b == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = decimal(whole)?;
    let nanoseconds =
        (0..9).fold(0i64, |n, at| n * 10 + fraction.get(at).map_or(0, |digit| i64::from(digit - b'0')));
    if whole.starts_with(b"-") && nanoseconds > 0 {
        return Some(TimeSpec::new(seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some(TimeSpec::new(seconds, nanoseconds))
}
