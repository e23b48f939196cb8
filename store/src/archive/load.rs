//! In: all images of an archive.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{FULL_NAME, REF_NAME};
use crate::blob::{Compression, decompress};
use crate::digest::Digest;
use crate::error::cause;
use crate::manifest::{self, Listed};
use crate::progress::Progress;
use crate::source::Source;
use crate::store::{Store, printable};
use crate::unpack::stream::content_max;
use crate::{Error, ImageName, Platform};

/// Where an archive comes from. Compressed ones are decompressed, whatever they are called.
#[expect(missing_debug_implementations, reason = "holds what the caller reads from")]
pub enum Archive<'a> {
    /// A file, read in place if it is a plain tar.
    File(&'a Path),
    /// Something that cannot be read twice: it is written to the store's disk first.
    Stream(&'a mut (dyn Read + Send)),
}

/// An image that has been loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Digest of its configuration.
    pub id: Digest,
    /// What it is called now; empty if the archive says nothing.
    pub names: Vec<ImageName>,
}

impl Store {
    /// Keeps every image of an archive that docker save, skopeo or others wrote, under the names that it has there.
    ///
    /// With `only`, those for this platform. Images are kept one after another: an error leaves those before it.
    pub fn load_archive(
        &self,
        from: Archive<'_>,
        only: Option<&Platform>,
        progress: &dyn Progress,
    ) -> Result<Vec<Loaded>, Error> {
        let shown = match &from {
            Archive::File(path) => path.display().to_string(),
            Archive::Stream(_) => "archive".to_owned(),
        };
        let fail = |reason: String| Error::Image { image: shown.clone(), reason: printable(&reason) };
        let source = self.source(from).map_err(|e| fail(cause(&e)))?;
        let images = manifest::all_of(&source, only).map_err(fail)?;
        if images.is_empty() {
            return Err(fail(
                only.map_or("holds no image".into(), |only| format!("holds no image for {only}")),
            ));
        }
        let mut loaded = Vec::new();
        for Listed { manifest, names } in images {
            let names =
                names.iter().map(|name| ImageName::parse(name).map_err(|e| format!("name {name:?}: {e}")));
            let names = names.collect::<Result<Vec<_>, _>>().map_err(fail)?;
            let (id, _) = self.keep(&manifest, &source, &names, &[], progress).map_err(fail)?;
            loaded.push(Loaded { id, names });
        }
        Ok(loaded)
    }

    /// The archive's members; in a file of ours if they cannot be read where they are.
    fn source(&self, from: Archive<'_>) -> io::Result<Source> {
        match from {
            Archive::Stream(stream) => self.spool(stream, u64::MAX),
            Archive::File(path) => {
                let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
                let meta = file.metadata()?;
                let mut start = [0; 8];
                if !meta.is_file() {
                    return Err(io::Error::other("not a regular file"));
                }
                let count = std::os::unix::fs::FileExt::read_at(&file, &mut start, 0)?;
                match Compression::of_magic(&start[..count])? {
                    Compression::None => Source::archive_in(file),
                    _ => self.spool(&mut &file, meta.len()),
                }
            }
        }
    }

    /// Writes what comes, decompressed, to a file without a name: it is gone when nobody has it open.
    fn spool(&self, stream: &mut (dyn Read + Send), size: u64) -> io::Result<Source> {
        let mut file = self.unnamed()?;
        spool(stream, &mut file, |passed| content_max(size.min(passed)))?;
        Source::archive_in(file)
    }

    fn unnamed(&self) -> io::Result<File> {
        let tmp = &self.disk.tmp;
        let open = File::options()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(tmp);
        match open {
            Err(e)
                if matches!(
                    e.raw_os_error().map(Errno::from_raw),
                    Some(Errno::EOPNOTSUPP | Errno::EISDIR)
                ) =>
            {
                let (path, file) = self.disk.fresh()?;
                std::fs::remove_file(path)?;
                Ok(file)
            }
            file => file,
        }
    }
}

/// Writes what is in `stream` to `out`; `limit` says how much that may be after so many bytes of it.
fn spool(stream: &mut (dyn Read + Send), out: &mut dyn Write, limit: impl Fn(u64) -> u64) -> io::Result<()> {
    let passed = AtomicU64::new(0);
    let mut counted = Counted { stream, passed: &passed };
    // The kind of compression shows in the first bytes, which need not come at once.
    let mut start = Vec::new();
    counted.by_ref().take(8).read_to_end(&mut start)?;
    let blob = BufReader::with_capacity(128 << 10, io::Cursor::new(start).chain(counted));
    let mut input = BufReader::with_capacity(256 << 10, decompress(blob, None)?);
    let mut written = 0;
    loop {
        let piece = input.fill_buf()?;
        let count = piece.len();
        if count == 0 {
            return Ok(());
        }
        written += count as u64;
        let limit = limit(passed.load(Ordering::Relaxed));
        if written > limit {
            return Err(io::Error::other(format!("decompresses to more than {limit} bytes")));
        }
        out.write_all(piece)?;
        input.consume(count);
    }
}

struct Counted<'a> {
    stream: &'a mut (dyn Read + Send),
    passed: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.passed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The name that an index's annotations give an image; none if they hold a tag alone.
pub(crate) fn name_of(annotations: &std::collections::BTreeMap<String, String>) -> Option<String> {
    let full = annotations.get(FULL_NAME);
    let short = annotations.get(REF_NAME).filter(|name| name.contains([':', '/']));
    full.or(short).filter(|name| ImageName::parse(name).is_ok()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1);
            self.0.read(&mut buffer[..count])
        }
    }

    #[test]
    fn compression_is_found_however_slowly_it_comes() {
        for packed in [b"short".to_vec(), zstd::encode_all(&b"short"[..], 1).unwrap()] {
            let mut out = Vec::new();
            spool(&mut Slow(&packed), &mut out, |_| u64::MAX).unwrap();
            assert_eq!(out, b"short");
        }
    }

    #[test]
    fn archives_of_zeros_do_not_fill_the_disk() {
        let packed = zstd::encode_all(&vec![0; 3 << 20][..], 1).unwrap();
        let length = packed.len() as u64;
        let mut out = Vec::new();
        let mut attempt = |times: u64| {
            out.clear();
            spool(&mut &packed[..], &mut out, |passed| passed * times).map_err(|e| e.to_string())
        };
        let few = (2 << 20) / length;
        assert_eq!(attempt(few), Err(format!("decompresses to more than {} bytes", few * length)));
        assert_eq!(attempt(4 * few), Ok(()));
        assert_eq!(out.len(), 3 << 20);
    }
}
