//! Writing a recipe down while a layer is unpacked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use zstd::stream::write::Encoder;

use super::replay::{Step, Steps};
use super::{CONTENT, END, FILE, HEAD, LITERAL, LITERAL_MAX, MAGIC, RECIPE_MAX, ZEROS};
use crate::entries::Input;
use crate::faults;

/// Headers compress to a tenth at any level.
const LEVEL: i32 = 1;

/// A file whose content will not be in the tree: where it was, and where its content is now.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Its path below the layer's root, or that of a directory above it.
    pub(crate) path: Vec<u8>,
    /// Files that had been written when it was lost: later ones at the same path are others.
    pub(crate) files: u64,
    /// What `path` has become.
    pub(crate) place: Place,
}

/// Where something is that the tree will not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the trash, under this number.
    Trash(u64),
    /// Still where it was, but not for long.
    Tree,
}

/// An archive being read, with a recorder that sees every byte that is used up.
#[derive(Debug)]
pub(crate) struct Tap<I> {
    input: I,
    recorder: Option<Recorder>,
}

impl<I> Tap<I> {
    pub(crate) fn new(input: I, recorder: Option<Recorder>) -> Self {
        Self { input, recorder }
    }

    pub(crate) fn recorder(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_mut()
    }

    pub(crate) fn into_parts(self) -> (I, Option<Recorder>) {
        (self.input, self.recorder)
    }
}

impl<I: BufRead> Read for Tap<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl<I: BufRead> BufRead for Tap<I> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if let Some(recorder) = &mut self.recorder {
            match self.input.fill_buf() {
                Ok(piece) => recorder.take(&piece[..count.min(piece.len())]),
                Err(e) => recorder.fail(e),
            }
        }
        self.input.consume(count);
    }
}

impl<I: Input> Input for Tap<I> {
    fn skip(&mut self, mut count: u64) -> io::Result<()> {
        if self.recorder.is_none() {
            return self.input.skip(count);
        }
        while count > 0 {
            let have = self.fill_buf()?.len();
            if have == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = usize::try_from(count).map_or(have, |count| count.min(have));
            self.consume(step);
            count -= step as u64;
        }
        Ok(())
    }
}

/// Writes steps. Its errors wait for [`Recorder::finish`].
#[derive(Debug)]
pub(crate) struct Recorder {
    file: File,
    out: Out,
    /// Length of the tar so far.
    length: u64,
    /// Files with content so far.
    files: u64,
    /// Bytes that are in no file, not written yet.
    pending: Vec<u8>,
    /// The content that is passing: where it goes to and how much of it has passed.
    content: Option<(u64, u64)>,
}

#[derive(Debug)]
enum Out {
    Steps(Writer),
    Failed(io::Error),
    /// The recipe would have become too large.
    GivenUp,
}

impl Recorder {
    /// A recorder that writes to `file`, which is empty and can be read as well.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let out = Out::Steps(Writer::new(file.try_clone()?)?);
        Ok(Self { file, out, length: 0, files: 0, pending: Vec::new(), content: None })
    }

    /// Files whose content has been left to the tree so far.
    pub(crate) fn files(&self) -> u64 {
        self.files
    }

    /// What passes from now on is the content of `path` below the layer's root.
    pub(crate) fn begin(&mut self, path: &[u8]) {
        self.flush();
        self.write(|out| out.file(path));
        self.files += 1;
        self.content = Some((0, 0));
    }

    /// What passes from now on goes to `offset` in that file, if one has begun.
    pub(crate) fn seek(&mut self, offset: u64) {
        if self.content.is_some() {
            self.end();
            self.content = Some((offset, 0));
        }
    }

    /// The file's content has passed.
    pub(crate) fn end(&mut self) {
        if let Some((offset, passed)) = self.content.take().filter(|(_, passed)| *passed > 0) {
            self.write(|out| out.content(offset, passed));
        }
    }

    /// Writes no more: the layer will have no recipe.
    pub(crate) fn give_up(&mut self) {
        if matches!(self.out, Out::Steps(_)) {
            self.out = Out::GivenUp;
        }
    }

    /// Completes the recipe: takes over what `lost` says the tree will not have, by way of `find`, which opens it
    /// at a place and a path below that. `scratch` is an empty file.
    ///
    /// Errors: of anything written since the recorder was made. A recipe that was given up is an empty file.
    pub(crate) fn finish(
        mut self,
        lost: &[Lost],
        find: &mut dyn FnMut(Place, &[u8]) -> io::Result<File>,
        scratch: &mut dyn FnMut() -> io::Result<File>,
    ) -> io::Result<()> {
        self.flush();
        faults::point()?;
        match self.out {
            Out::Steps(out) => out.finish(self.length)?,
            Out::Failed(e) => return Err(e),
            Out::GivenUp => return self.file.set_len(0),
        }
        if lost.is_empty() {
            return Ok(());
        }
        let mut again = scratch()?;
        if !rewrite(&self.file, again.try_clone()?, self.length, lost, find)? {
            return self.file.set_len(0);
        }
        faults::point()?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        again.rewind()?;
        faults::point()?;
        io::copy(&mut again, &mut self.file)?;
        Ok(())
    }

    fn take(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        if let Some((_, passed)) = &mut self.content {
            *passed += piece.len() as u64;
            return;
        }
        self.pending.extend_from_slice(piece);
        if self.pending.len() as u64 >= LITERAL_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.write(|out| out.bytes(&pending));
        self.pending = pending;
        self.pending.clear();
    }

    fn write(&mut self, write: impl FnOnce(&mut Writer) -> io::Result<()>) {
        let Out::Steps(out) = &mut self.out else { return };
        match write(out) {
            Err(e) => self.fail(e),
            Ok(()) if out.is_full() => self.give_up(),
            Ok(()) => {}
        }
    }

    fn fail(&mut self, error: io::Error) {
        self.out = Out::Failed(error);
    }
}

/// Writes the recipe `from` to the empty file `to`, with what is lost written down. False if that would be too much.
fn rewrite(
    from: &File,
    to: File,
    length: u64,
    lost: &[Lost],
    find: &mut dyn FnMut(Place, &[u8]) -> io::Result<File>,
) -> io::Result<bool> {
    let mut by_path: HashMap<&[u8], Vec<&Lost>> = HashMap::new();
    for one in lost {
        by_path.entry(&one.path).or_default().push(one);
    }
    let mut from = from.try_clone()?;
    from.rewind()?;
    let (mut steps, _) = Steps::open(from)?;
    let mut out = Writer::new(to)?;
    let (mut files, mut kept) = (0, None);
    let mut buffer = vec![0; 64 << 10];
    while let Some(step) = steps.next()? {
        match step {
            Step::Bytes(bytes) => out.literal(&bytes)?,
            Step::Zeros(count) => out.zeros(count)?,
            Step::File(path) => {
                kept = None;
                match place_of(&path, files, &by_path) {
                    Some((place, below)) => kept = Some(find(place, below)?),
                    None => out.file(&path)?,
                }
                files += 1;
            }
            Step::Content { offset, length } => match &kept {
                None => out.content(offset, length)?,
                Some(file) => copy(file, offset, length, &mut buffer, &mut out)?,
            },
        }
        if out.is_full() {
            return Ok(false);
        }
    }
    out.finish(length)?;
    Ok(true)
}

/// Where the content of `path`, the file with this number, has got to: the first that happened to it or to a
/// directory above it counts. With the place comes what of the path is to be appended there.
fn place_of<'a>(path: &'a [u8], number: u64, lost: &HashMap<&[u8], Vec<&Lost>>) -> Option<(Place, &'a [u8])> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    let ends = std::iter::once(0).chain(slashes).chain([path.len()]);
    let candidates = ends.filter_map(|end| {
        let all = lost.get(&path[..end])?;
        // In the order of what happened.
        let first = all.get(all.partition_point(|one| one.files <= number))?;
        let below = match first.place {
            Place::Trash(_) => path[end..].strip_prefix(b"/").unwrap_or(&path[end..]),
            Place::Tree => path,
        };
        Some((first.files, first.place, below))
    });
    candidates.min_by_key(|(files, ..)| *files).map(|(_, place, below)| (place, below))
}

fn copy(
    file: &File,
    mut offset: u64,
    mut length: u64,
    buffer: &mut [u8],
    out: &mut Writer,
) -> io::Result<()> {
    while length > 0 && !out.is_full() {
        let count = usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
        file.read_exact_at(&mut buffer[..count], offset)?;
        out.bytes(&buffer[..count])?;
        offset += count as u64;
        length -= count as u64;
    }
    Ok(())
}

/// Writes steps as they stand in the file.
struct Writer(Encoder<'static, Counted>);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Writer").field(self.0.get_ref()).finish()
    }
}

impl Writer {
    fn new(mut file: File) -> io::Result<Self> {
        file.write_all(MAGIC)?;
        file.write_all(&0u64.to_le_bytes())?;
        let mut encoder = Encoder::new(Counted { file, count: 0 }, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self(encoder))
    }

    fn is_full(&self) -> bool {
        self.0.get_ref().count > RECIPE_MAX
    }

    /// These bytes, with a step of its own for the zeros at either end: most of what lies between contents is padding.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        const WORTHWHILE: usize = 8;
        let leading = bytes.iter().position(|&b| b != 0).unwrap_or(bytes.len());
        let leading = if leading < WORTHWHILE { 0 } else { leading };
        let rest = &bytes[leading..];
        let end = rest.iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
        let end = if rest.len() - end < WORTHWHILE { rest.len() } else { end };
        self.zeros(leading as u64)?;
        self.literal(&rest[..end])?;
        self.zeros((rest.len() - end) as u64)
    }

    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(usize::try_from(LITERAL_MAX).unwrap_or(usize::MAX)) {
            self.step(LITERAL, &[piece.len() as u64])?;
            self.0.write_all(piece)?;
        }
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.step(ZEROS, &[count])
    }

    fn file(&mut self, path: &[u8]) -> io::Result<()> {
        self.step(FILE, &[path.len() as u64])?;
        self.0.write_all(path)
    }

    fn content(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.step(CONTENT, &[offset, length])
    }

    fn step(&mut self, kind: u8, numbers: &[u64]) -> io::Result<()> {
        let mut bytes = [0; 21];
        bytes[0] = kind;
        let mut at = 1;
        for &number in numbers {
            let mut left = number;
            loop {
                let byte = u8::try_from(left & 0x7f).unwrap_or(0);
                left >>= 7;
                bytes[at] = if left == 0 { byte } else { byte | 0x80 };
                at += 1;
                if left == 0 {
                    break;
                }
            }
        }
        self.0.write_all(&bytes[..at])
    }

    fn finish(mut self, length: u64) -> io::Result<()> {
        self.0.write_all(&[END])?;
        let Counted { mut file, .. } = self.0.finish()?;
        file.seek(SeekFrom::Start(HEAD - 8))?;
        file.write_all(&length.to_le_bytes())
    }
}

#[derive(Debug)]
struct Counted {
    file: File,
    count: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
