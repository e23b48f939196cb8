//! Names of functions in executables and libraries, read as the hostile input that they are.
//!
//! Of a file only headers and symbols are read, by pread and in bounded pieces; every number in it is compared with what there is, and
//! a file that contradicts itself has no symbols rather than wrong ones. Names are read one by one, when they are asked for. ELF of 64
//! and 32 bits, little-endian: <https://refspecs.linuxfoundation.org/elf/elf.pdf>.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use cpp_demangle::{DemangleOptions, DemangleWrite, Symbol};

/// What can be read at any place.
pub trait ReadAt {
    /// Fills `to` with what there is at `offset`.
    ///
    /// Errors: the file ends before.
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(to, offset)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..to.len()));
        to.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Sections and segments that are looked at.
const HEADERS_MAX: u64 = 4096;
/// Symbols that are looked at, and functions that are kept, of a file.
const SYMBOLS_MAX: u64 = 4 << 20;
const FUNCTIONS_MAX: usize = 1 << 20;
/// Symbols read at a time.
const PIECE: usize = 4096;
/// Bytes of a name that are read, and characters that are kept of what it stands for.
const NAME_MAX: usize = 4096;
const SHOWN_MAX: usize = 512;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;

/// Why a file has no symbols.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read, or ends before it says.
    #[error("read it: {0}")]
    Read(#[from] io::Error),
    /// It is not an ELF file that is understood here.
    #[error("not an ELF file for this machine")]
    Foreign,
    /// What it says makes no sense.
    #[error("its {0} make no sense")]
    Malformed(&'static str),
}

/// The functions of a file.
#[derive(Debug, Default)]
pub struct Symbols {
    /// By their first address.
    functions: Vec<Function>,
    segments: Vec<Segment>,
    build_id: Option<Vec<u8>>,
    left_out: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Function {
    start: u64,
    /// Bytes; 0 if it says nothing: then it ends where the next begins.
    size: u64,
    /// Where its name is in the file, and how far it may reach.
    name: u64,
    name_end: u64,
}

/// Which part of the file is loaded to which addresses.
#[derive(Debug, Clone, Copy)]
struct Segment {
    offset: u64,
    len: u64,
    address: u64,
}

/// A section that matters here.
#[derive(Debug, Clone, Copy)]
struct Section {
    kind: u32,
    offset: u64,
    size: u64,
    link: u64,
    entry: u64,
}

impl Symbols {
    /// Reads the symbols of `file`: all of them, or if it is stripped those that it exports; `most` functions of them at most.
    pub fn read(file: &(impl ReadAt + ?Sized), most: usize) -> Result<Self, Error> {
        let header: [u8; 64] = {
            let mut bytes = [0; 64];
            // Of the narrow form 52 bytes are enough.
            if file.read_at(&mut bytes, 0).is_err() {
                file.read_at(&mut bytes[..52], 0)?;
            }
            bytes
        };
        let wide = match (&header[..4], header[4], header[5]) {
            (b"\x7fELF", 2, 1) => true,
            (b"\x7fELF", 1, 1) => false,
            _ => return Err(Error::Foreign),
        };
        let layout = Layout { wide };
        let mut symbols = Self::default();
        symbols.read_segments(file, layout, &header)?;
        let sections = sections(file, layout, &header)?;
        for kind in [SHT_SYMTAB, SHT_DYNSYM] {
            if let Some(table) = sections.iter().find(|section| section.kind == kind)
                && symbols.functions.is_empty()
            {
                symbols.read_table(file, layout, table, &sections, most.min(FUNCTIONS_MAX))?;
            }
        }
        // Of several names for one place the one that knows its size.
        symbols.functions.sort_by_key(|function| (function.start, function.size == 0, function.name));
        symbols.functions.dedup_by_key(|function| function.start);
        symbols.functions.shrink_to_fit();
        Ok(symbols)
    }

    /// The identity that the linker has given to the file.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// How many functions it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Symbols that found no room.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether it names no function at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The name of the function that the byte at `offset` of the file belongs to.
    #[must_use]
    pub fn name(&self, file: &(impl ReadAt + ?Sized), offset: u64) -> Option<String> {
        let address = self.address(offset)?;
        let after = self.functions.partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        if function.size != 0 && address - function.start >= function.size {
            return None;
        }
        let len =
            usize::try_from(function.name_end.checked_sub(function.name)?).unwrap_or(NAME_MAX).min(NAME_MAX);
        let mut bytes = vec![0; len];
        file.read_at(&mut bytes, function.name).ok()?;
        let name = bytes.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())?;
        Some(shown(&String::from_utf8_lossy(name)))
    }

    /// Where what is at `offset` of the file is loaded, as the file itself counts addresses.
    fn address(&self, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| offset >= segment.offset && offset - segment.offset < segment.len;
        let segment = self.segments.iter().find(holds)?;
        segment.address.checked_add(offset - segment.offset)
    }

    fn read_segments(
        &mut self,
        file: &(impl ReadAt + ?Sized),
        layout: Layout,
        header: &[u8],
    ) -> Result<(), Error> {
        let (at, size, count) = layout.segments(header);
        if count == 0 {
            return Ok(());
        }
        if count > HEADERS_MAX || size < layout.segment_size() {
            return Err(Error::Malformed("segments"));
        }
        let mut bytes = vec![0; to_len(size)?];
        for nth in 0..count {
            let place = at.checked_add(nth * size).ok_or(Error::Malformed("segments"))?;
            file.read_at(&mut bytes, place)?;
            let (kind, segment) = layout.segment(&bytes);
            match kind {
                PT_LOAD => self.segments.push(segment),
                PT_NOTE if self.build_id.is_none() => self.build_id = build_id(file, segment),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_table(
        &mut self,
        file: &(impl ReadAt + ?Sized),
        layout: Layout,
        table: &Section,
        sections: &[Section],
        most: usize,
    ) -> Result<(), Error> {
        let size = layout.symbol_size();
        let names = to_len(table.link).ok().and_then(|link| sections.get(link));
        let names = names.filter(|_| table.entry == size).ok_or(Error::Malformed("symbols"))?;
        let names_end = names.offset.checked_add(names.size).ok_or(Error::Malformed("symbols"))?;
        let count = (table.size / size).min(SYMBOLS_MAX);
        let mut bytes = vec![0; PIECE * to_len(size)?];
        let mut done = 0;
        while done < count {
            let piece = (count - done).min(PIECE as u64);
            let piece_bytes = &mut bytes[..to_len(piece * size)?];
            let place = table.offset.checked_add(done * size).ok_or(Error::Malformed("symbols"))?;
            file.read_at(piece_bytes, place)?;
            for symbol in piece_bytes.chunks_exact(to_len(size)?) {
                let (name, kind, section, start, len) = layout.symbol(symbol);
                let is_function = matches!(kind & 0xf, STT_FUNC | STT_GNU_IFUNC);
                if is_function && section != 0 && name != 0 && u64::from(name) < names.size {
                    if self.functions.len() == most {
                        self.left_out = self.left_out.saturating_add(1);
                        continue;
                    }
                    let name = names.offset + u64::from(name);
                    self.functions.push(Function { start, size: len, name, name_end: names_end });
                }
            }
            done += piece;
        }
        Ok(())
    }
}

/// The sections, as far as they fit.
fn sections(file: &(impl ReadAt + ?Sized), layout: Layout, header: &[u8]) -> Result<Vec<Section>, Error> {
    let (at, size, count) = layout.sections(header);
    if at == 0 || count == 0 {
        return Ok(Vec::new());
    }
    if count > HEADERS_MAX || size < layout.section_size() {
        return Err(Error::Malformed("sections"));
    }
    let mut bytes = vec![0; to_len(size)?];
    let mut all = Vec::new();
    for nth in 0..count {
        let place = at.checked_add(nth * size).ok_or(Error::Malformed("sections"))?;
        file.read_at(&mut bytes, place)?;
        all.push(layout.section(&bytes));
    }
    Ok(all)
}

/// The identity among the notes of a segment.
fn build_id(file: &(impl ReadAt + ?Sized), notes: Segment) -> Option<Vec<u8>> {
    const GNU_BUILD_ID: u32 = 3;
    let mut bytes = vec![0; usize::try_from(notes.len).ok()?.min(4096)];
    file.read_at(&mut bytes, notes.offset).ok()?;
    let mut rest = bytes.as_slice();
    loop {
        let (name_len, len, kind) = (u32_at(rest, 0)?, u32_at(rest, 4)?, u32_at(rest, 8)?);
        let pad = |len: u32| usize::try_from(len).ok()?.checked_next_multiple_of(4);
        let (name, after) = rest.get(12..)?.split_at_checked(pad(name_len)?)?;
        let content = after.get(..usize::try_from(len).ok()?)?;
        if kind == GNU_BUILD_ID && name == b"GNU\0" && (4..=64).contains(&content.len()) {
            return Some(content.to_vec());
        }
        rest = after.get(pad(len)?..)?;
    }
}

/// A symbol's name as its language writes it.
fn shown(name: &str) -> String {
    // Versions of exported names: `read@@GLIBC_2.2.5`.
    let plain = name.split_once('@').map_or(name, |(plain, _)| plain);
    let text = rustc_demangle::try_demangle(plain).map(|name| format!("{name:#}")).ok();
    let text = text.or_else(|| cpp(plain)).unwrap_or_else(|| plain.to_owned());
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN_MAX).collect()
}

/// The name of a function of C++, without the type that it returns; `None` if it is none. Parts of such a name may stand for parts before
/// them, so a short one can be written to be without end: as much is made of it as is shown.
fn cpp(name: &str) -> Option<String> {
    let symbol = Symbol::new(name).ok().filter(|_| name.starts_with("_Z"))?;
    let mut text = Shown(String::new());
    let written = symbol.structured_demangle(&mut text, &DemangleOptions::new().no_return_type());
    (written.is_ok() || text.0.len() >= SHOWN_MAX).then_some(text.0)
}

/// What is shown of a name.
struct Shown(String);

impl DemangleWrite for Shown {
    fn write_string(&mut self, more: &str) -> fmt::Result {
        self.0.push_str(more);
        if self.0.len() < SHOWN_MAX { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Where things are in the wide and in the narrow form.
#[derive(Debug, Clone, Copy)]
struct Layout {
    wide: bool,
}

impl Layout {
    /// The table's place, the size of an element, how many there are.
    fn segments(self, header: &[u8]) -> (u64, u64, u64) {
        if self.wide {
            (long(header, 32), half(header, 54), half(header, 56))
        } else {
            (word(header, 28), half(header, 42), half(header, 44))
        }
    }

    fn sections(self, header: &[u8]) -> (u64, u64, u64) {
        if self.wide {
            (long(header, 40), half(header, 58), half(header, 60))
        } else {
            (word(header, 32), half(header, 46), half(header, 48))
        }
    }

    const fn segment_size(self) -> u64 {
        if self.wide { 56 } else { 32 }
    }

    const fn section_size(self) -> u64 {
        if self.wide { 64 } else { 40 }
    }

    const fn symbol_size(self) -> u64 {
        if self.wide { 24 } else { 16 }
    }

    fn segment(self, bytes: &[u8]) -> (u32, Segment) {
        let kind = u32_at(bytes, 0).unwrap_or(0);
        let segment = if self.wide {
            Segment { offset: long(bytes, 8), address: long(bytes, 16), len: long(bytes, 32) }
        } else {
            Segment { offset: word(bytes, 4), address: word(bytes, 8), len: word(bytes, 16) }
        };
        (kind, segment)
    }

    fn section(self, bytes: &[u8]) -> Section {
        let kind = u32_at(bytes, 4).unwrap_or(0);
        if self.wide {
            let (offset, size) = (long(bytes, 24), long(bytes, 32));
            Section { kind, offset, size, link: word(bytes, 40), entry: long(bytes, 56) }
        } else {
            let (offset, size) = (word(bytes, 16), word(bytes, 20));
            Section { kind, offset, size, link: word(bytes, 24), entry: word(bytes, 36) }
        }
    }

    /// Name, kind, section, address, size.
    fn symbol(self, bytes: &[u8]) -> (u32, u8, u64, u64, u64) {
        let name = u32_at(bytes, 0).unwrap_or(0);
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        if self.wide {
            (name, byte(4), half(bytes, 6), long(bytes, 8), long(bytes, 16))
        } else {
            (name, byte(12), half(bytes, 14), word(bytes, 4), word(bytes, 8))
        }
    }
}

fn to_len(size: u64) -> Result<usize, Error> {
    usize::try_from(size).map_err(|_| Error::Malformed("sizes"))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Numbers of a header that has been read as a whole; 0 beyond it.
fn half(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |bytes| u16::from_le_bytes(*bytes).into())
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u32_at(bytes, at).map_or(0, u64::from)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wide file with one segment, notes, and functions `(name, start, size)`.
    fn example(functions: &[(&str, u64, u64)]) -> Vec<u8> {
        let mut names = vec![0];
        let mut table = vec![0; 24];
        for (name, start, size) in functions {
            table.extend(u32::try_from(names.len()).expect("short").to_le_bytes());
            table.extend([STT_FUNC, 0, 1, 0]);
            table.extend(start.to_le_bytes());
            table.extend(size.to_le_bytes());
            names.extend(name.as_bytes());
            names.push(0);
        }
        let note =
            [&4_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), &3_u32.to_le_bytes(), b"GNU\0", &[1, 2, 3, 4]]
                .concat();
        let (segments, note_at) = (64_u64, 64 + 2 * 56_u64);
        let table_at = note_at + note.len() as u64;
        let names_at = table_at + table.len() as u64;
        let sections_at = names_at + names.len() as u64;
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        let half = |value: u16| value.to_le_bytes();
        file.extend([half(2), half(62)].concat());
        file.extend(1_u32.to_le_bytes());
        for value in [0, segments, sections_at] {
            file.extend(value.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        file.extend([half(64), half(56), half(2), half(64), half(3), half(0)].concat());
        for (kind, offset, address, len) in
            [(PT_LOAD, 0x100, 0x40_1100, 0x1000), (PT_NOTE, note_at, 0, note.len() as u64)]
        {
            file.extend(kind.to_le_bytes());
            file.extend(5_u32.to_le_bytes());
            for value in [offset, address, address, len, len, 8_u64] {
                file.extend(value.to_le_bytes());
            }
        }
        file.extend([note, table.clone(), names.clone()].concat());
        for (kind, offset, size, link, entry) in [
            (0, 0, 0, 0_u32, 0),
            (SHT_SYMTAB, table_at, table.len() as u64, 2, 24_u64),
            (3, names_at, names.len() as u64, 0, 0),
        ] {
            file.extend([0_u32, kind].map(u32::to_le_bytes).concat());
            for value in [0, 0, offset, size] {
                file.extend(value.to_le_bytes());
            }
            file.extend([link, 0].map(u32::to_le_bytes).concat());
            for value in [0, entry] {
                file.extend(value.to_le_bytes());
            }
        }
        file
    }

    fn names(file: &[u8], offsets: &[u64]) -> Vec<Option<String>> {
        let symbols = Symbols::read(file, 99).expect("well-formed");
        offsets.iter().map(|offset| symbols.name(file, *offset)).collect()
    }

    #[test]
    fn functions_are_found_by_places_in_the_file() {
        let file = example(&[("later", 0x40_1300, 0x10), ("first", 0x40_1200, 0x20), ("asm", 0x40_1400, 0)]);
        let found = names(&file, &[0x1ff, 0x200, 0x21f, 0x220, 0x30f, 0x500, 0x5000]);
        let expected = [None, Some("first"), Some("first"), None, Some("later"), Some("asm"), None];
        assert_eq!(found, expected.map(|name| name.map(str::to_owned)));
        assert_eq!(Symbols::read(file.as_slice(), 99).expect("read").build_id(), Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let file = example(&[("one", 0x40_1200, 0x20), ("two", 0x40_1300, 0), ("three", 0x40_1400, 0)]);
        let symbols = Symbols::read(file.as_slice(), 2).expect("read");
        assert_eq!((symbols.len(), symbols.left_out()), (2, 1));
    }

    #[test]
    fn names_are_shown_as_they_were_written() {
        assert_eq!(shown("_ZN5probe4load4burn17h0123456789abcdefE"), "probe::load::burn");
        assert_eq!(shown("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(shown("_ZN4load4burnEi"), "load::burn(int)");
        assert_eq!(
            shown("_ZNKSt6vectorIiSaIiEE4sizeEv@@LIB_1"),
            "std::vector<int, std::allocator<int> >::size() const"
        );
        assert_eq!(shown("_Z3addIiET_S0_S0_"), "add<int>(int, int)");
        assert_eq!(shown("_Z4burnv.cold"), "burn() [clone .cold]");
        assert_eq!(shown("_Zebra"), "_Zebra");
        assert_eq!(shown("Z4burnv"), "Z4burnv");
        assert_eq!(shown("read@@GLIBC_2.2.5"), "read");
        assert_eq!(shown("a\nb\u{1b}"), "a?b?");
        assert_eq!(shown(&"x".repeat(9999)).len(), SHOWN_MAX);
    }

    #[test]
    fn a_name_without_end_is_cut() {
        let digit = |value: u32| char::from_digit(value, 36).expect("below 36").to_ascii_uppercase();
        // Each parameter is a template of twice the one before it.
        let mut name = "_Z1f1a1bIS_S_E".to_owned();
        for level in 0..60_u32 {
            // `S_` is the first part, `S0_` the second.
            let last = 2 * level + 1;
            let last = if last < 36 {
                digit(last).to_string()
            } else {
                format!("{}{}", digit(last / 36), digit(last % 36))
            };
            name += &format!("1cIS{last}_S{last}_E");
        }
        let text = shown(&name);
        assert!(text.starts_with("f(a, b<a, a>, c<b<a, a>, b<a, a> >, c<c<"), "{text}");
        assert_eq!(text.len(), SHOWN_MAX);
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        for bytes in [
            &b""[..],
            b"\x7fELF",
            b"#!/bin/sh\necho a script that is longer than any header would be .......\n",
        ] {
            assert!(Symbols::read(bytes, 99).is_err());
        }
    }

    #[test]
    fn a_damaged_file_is_refused_or_has_fewer_names() {
        let file = example(&[("one", 0x40_1200, 0x20), ("two", 0x40_1300, 0)]);
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = file.clone();
                damaged[at] = value;
                if let Ok(symbols) = Symbols::read(damaged.as_slice(), 99) {
                    let _name = symbols.name(damaged.as_slice(), 0x210);
                }
            }
            if let Ok(symbols) = Symbols::read(&file[..at], 99) {
                assert!(symbols.is_empty(), "cut after {at}");
            }
        }
    }

    #[test]
    fn this_program_s_own_functions_have_names() {
        let file = File::open("/proc/self/exe").expect("open");
        let symbols = Symbols::read(&file, FUNCTIONS_MAX).expect("read");
        assert!(!symbols.is_empty());
        let named =
            symbols.functions.iter().filter(|function| function.size > 0).take(100).filter(|function| {
                let segment = symbols
                    .segments
                    .iter()
                    .find(|s| function.start >= s.address && function.start - s.address < s.len);
                segment.is_some_and(|s| symbols.name(&file, function.start - s.address + s.offset).is_some())
            });
        assert!(named.count() > 90);
    }
}
