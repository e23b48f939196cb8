//! Blobs: byte ranges of files, plain or compressed.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

/// A whole file, or a member of an archive in place. Reads do not move anything that others see.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Blob {
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self { file, at: offset, end: offset + length }
    }

    /// Bytes not read yet.
    pub(crate) fn length(&self) -> u64 {
        self.end - self.at
    }

    /// Passes over `count` bytes. Errors: `UnexpectedEof` if there are fewer.
    pub(crate) fn advance(&mut self, count: u64) -> io::Result<()> {
        if count > self.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count;
        Ok(())
    }

    /// All of it, which must not be more than `limit` bytes.
    pub(crate) fn read_all(mut self, limit: u64) -> io::Result<Vec<u8>> {
        if self.length() > limit {
            return Err(io::Error::other(format!("larger than {limit} bytes")));
        }
        let mut data = Vec::with_capacity(usize::try_from(self.length()).unwrap_or(0));
        self.read_to_end(&mut data)?;
        Ok(data)
    }
}

/// Errors: `UnexpectedEof` if the file has become shorter meanwhile.
impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.length()).map_or(buffer.len(), |left| left.min(buffer.len()));
        if length == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut buffer[..length], self.at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// From a layer's media type, OCI's or Docker's.
    pub(crate) fn of_media_type(media_type: &str) -> Option<Self> {
        let kind = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ];
        match kind.iter().find_map(|kind| media_type.strip_prefix(kind))? {
            "" => Some(Self::None),
            "+gzip" | ".gzip" => Some(Self::Gzip),
            "+zstd" | ".zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// From the first bytes of the data. Errors: a compression that is not supported.
    pub(crate) fn of_magic(start: &[u8]) -> io::Result<Self> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(io::Error::other("bzip2 is not supported")),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(io::Error::other("xz is not supported")),
            _ => Ok(Self::None),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "not compressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Largest window of zstd that is decompressed, as a power of two in bytes: each layer at work takes so much memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// The content of a layer's `blob`. The data's first bytes decide, and must agree with what the media type said.
/// What `blob` buffers first is short only if the blob is.
pub(crate) fn decompress<'a>(
    mut blob: impl BufRead + 'a,
    expected: Option<Compression>,
) -> io::Result<Box<dyn Read + 'a>> {
    let found = Compression::of_magic(blob.fill_buf()?)?;
    if let Some(expected) = expected.filter(|&expected| expected != found) {
        let (found, expected) = (found.name(), expected.name());
        return Err(io::Error::other(format!("data is {found}, its media type says {expected}")));
    }
    Ok(match found {
        Compression::None => Box::new(blob),
        Compression::Gzip => Box::new(MultiGzDecoder::new(blob)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// Whether `start` is how a compressed file begins.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    !matches!(Compression::of_magic(start), Ok(Compression::None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_no_more_memory_than_it_may() {
        let unpack = |log: u32| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            io::Write::write_all(&mut encoder, &[7; 1000]).unwrap();
            let packed = encoder.finish().unwrap();
            let mut content = Vec::new();
            decompress(&packed[..], None).unwrap().read_to_end(&mut content).map(drop)
        };
        assert!(unpack(ZSTD_WINDOW_LOG_MAX).is_ok());
        assert!(unpack(ZSTD_WINDOW_LOG_MAX + 1).is_err());
    }

    #[test]
    fn media_types() {
        let check = |media_type: &str, expect| {
            assert_eq!(Compression::of_media_type(media_type), expect, "{media_type}");
        };
        check("application/vnd.oci.image.layer.v1.tar", Some(Compression::None));
        check("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip));
        check("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd));
        check("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compression::Gzip));
        check("application/vnd.docker.image.rootfs.diff.tar", Some(Compression::None));
        check("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip));
        check("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Compression::Zstd));
        check("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compression::Gzip));
        check("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None);
        check("application/json", None);
    }
}
