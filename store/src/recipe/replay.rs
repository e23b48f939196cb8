//! From a recipe and the layer's files to the bytes of the tar.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use zstd::stream::read::Decoder;

use crate::faults;

use super::{CONTENT, END, FILE, LITERAL, LITERAL_MAX, MAGIC, PATH_MAX, ZEROS};

/// One step of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Bytes(Vec<u8>),
    Zeros(u64),
    File(Vec<u8>),
    Content { offset: u64, length: u64 },
}

/// Reads steps.
pub(super) struct Steps<R: Read> {
    input: BufReader<Decoder<'static, BufReader<R>>>,
}

impl<R: Read> std::fmt::Debug for Steps<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}

impl<R: Read> Steps<R> {
    /// The steps of a recipe, and the length of the tar that they make.
    pub(super) fn open(mut input: R) -> io::Result<(Self, u64)> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(damaged("not a recipe"));
        }
        let mut length = [0; 8];
        input.read_exact(&mut length)?;
        let mut decoder = Decoder::new(input)?;
        // 8 MiB: what level 1 needs, and no more for whoever asks for more.
        decoder.window_log_max(23)?;
        Ok((Self { input: BufReader::new(decoder) }, u64::from_le_bytes(length)))
    }

    /// The next step; none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Step>> {
        Ok(Some(match self.byte()? {
            END => return self.end().map(|()| None),
            LITERAL => Step::Bytes(self.bytes(LITERAL_MAX)?),
            ZEROS => Step::Zeros(self.number()?),
            FILE => Step::File(self.bytes(PATH_MAX)?),
            CONTENT => Step::Content { offset: self.number()?, length: self.number()? },
            other => return Err(damaged(&format!("no step of a recipe is called {other}"))),
        }))
    }

    /// What is compressed bears a checksum, which is looked at when its end is read.
    fn end(&mut self) -> io::Result<()> {
        match self.input.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(damaged("more steps after the last")),
        }
    }

    fn bytes(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        let length = self.number()?;
        let length = usize::try_from(length).ok().filter(|_| length <= limit);
        let mut bytes = vec![0; length.ok_or_else(|| damaged("a step that is too long"))?];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(self.byte()?);
            let bits = byte & 0x7f;
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number out of range"))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

/// How a recipe gets at a file of the layer.
pub(crate) type Opened = Box<dyn FnMut(&[u8]) -> io::Result<File> + Send>;

/// The bytes of a tar, made as they are read.
pub(crate) struct Replay<R: Read> {
    steps: Steps<R>,
    open: Opened,
    /// Bytes that are still to come.
    left: u64,
    now: Now,
    file: Option<(File, Vec<u8>)>,
}

/// What is being given out.
enum Now {
    Bytes { bytes: Vec<u8>, at: usize },
    Zeros(u64),
    Content { offset: u64, length: u64 },
    End,
}

impl<R: Read> std::fmt::Debug for Replay<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<R: Read> Replay<R> {
    /// Follows `recipe`; `open` opens a path below the layer's root.
    ///
    /// Errors: it is no recipe.
    pub(crate) fn new(recipe: R, open: Opened) -> io::Result<Self> {
        let (steps, left) = Steps::open(recipe)?;
        Ok(Self { steps, open, left, now: Now::Zeros(0), file: None })
    }

    /// Bytes of the tar that have not been read yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Goes to the next step that has bytes.
    fn advance(&mut self) -> io::Result<()> {
        self.now = loop {
            break match self.steps.next()? {
                Some(Step::Bytes(bytes)) => Now::Bytes { bytes, at: 0 },
                Some(Step::Zeros(count)) => Now::Zeros(count),
                Some(Step::Content { offset, length }) => Now::Content { offset, length },
                Some(Step::File(path)) => {
                    let file = (self.open)(&path).map_err(|e| at(&path, e))?;
                    self.file = Some((file, path));
                    continue;
                }
                None => Now::End,
            };
        };
        Ok(())
    }

    /// Some bytes of the current step; 0 at its end.
    fn piece(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let within = |left: u64| usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        match &mut self.now {
            Now::Bytes { bytes, at } => {
                let count = (&bytes[*at..]).read(buffer)?;
                *at += count;
                Ok(count)
            }
            Now::Zeros(left) => {
                let count = within(*left);
                buffer[..count].fill(0);
                *left -= count as u64;
                Ok(count)
            }
            Now::Content { offset, length } => {
                let count = within(*length);
                if count == 0 {
                    return Ok(0);
                }
                let (file, path) = self.file.as_ref().ok_or_else(|| damaged("content of no file"))?;
                let read = faults::reading().and_then(|()| file.read_at(&mut buffer[..count], *offset));
                let count = read.map_err(|e| at(path, e))?;
                if count == 0 {
                    return Err(at(path, io::ErrorKind::UnexpectedEof.into()));
                }
                *offset = offset.checked_add(count as u64).ok_or_else(|| damaged("a number out of range"))?;
                *length -= count as u64;
                Ok(count)
            }
            Now::End => Ok(0),
        }
    }
}

/// Errors: the recipe is damaged (`InvalidData`), or a file of the layer is not what it was when it was unpacked, as
/// far as that shows without a digest.
impl<R: Read> Read for Replay<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.piece(buffer)?;
            if count > 0 {
                self.left = self
                    .left
                    .checked_sub(count as u64)
                    .ok_or_else(|| damaged("the recipe makes more than it says"))?;
                return Ok(count);
            }
            if matches!(self.now, Now::End) {
                return match self.left {
                    0 => Ok(0),
                    _ => Err(damaged("the recipe makes less than it says")),
                };
            }
            self.advance()?;
        }
    }
}

fn at(path: &[u8], error: io::Error) -> io::Error {
    crate::error::at(format!("file {:?}", String::from_utf8_lossy(path)), error)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged: {what}"))
}
