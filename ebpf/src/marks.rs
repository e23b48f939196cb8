//! Constants that stand in the programs' instructions: offsets of the kernel's fields.
//!
//! A program has, where it needs such a word, a move of a mark into a register (`ebpf/progs/src/kernel.rs`). The word is written in
//! its place before the object is loaded. So it costs neither a load nor a line of the processor's cache, of which a program that runs once
//! in a launch finds none in it, and to the verifier it is a constant on every kernel.

use std::slice;

use aya::Pod;
use skiff_ebpf_abi::{Offsets, QueueOffsets, events, files};

use crate::maps::Plain;

/// A struct of words with the mark of its first one; that of each other is as much higher as it stands further on, in bytes.
pub(crate) trait Marked {
    const MARK: u32;
}

impl Marked for Offsets {
    const MARK: u32 = Self::MARK;
}

impl Marked for QueueOffsets {
    const MARK: u32 = Self::MARK;
}

impl Marked for events::Fields {
    const MARK: u32 = Self::MARK;
}

impl Marked for files::Fields {
    const MARK: u32 = Self::MARK;
}

/// An object in which words are written in place of marks.
pub(crate) struct Object(Vec<u8>);

impl Object {
    /// `bytes` is an object of ours: ELF of 64 bits, little-endian.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Writes the words of `table` in place of its marks.
    pub(crate) fn with<T: Marked>(mut self, table: &Plain<T>) -> Self
    where
        Plain<T>: Pod,
    {
        let words = words(table);
        for at in moves(&self.0) {
            let mark = self.imm(at).wrapping_sub(T::MARK) as usize;
            if let (0, Some(word)) = (mark % size_of::<u32>(), words.get(mark / size_of::<u32>())) {
                self.0[at + IMM..at + WIDTH].copy_from_slice(&word.to_le_bytes());
            }
        }
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The constant of the instruction at `at`.
    fn imm(&self, at: usize) -> u32 {
        self.0[at + IMM..].first_chunk().copied().map(u32::from_le_bytes).unwrap_or_default()
    }
}

/// Bytes of an instruction, and where its constant is. linux/bpf.h
const WIDTH: usize = 8;
const IMM: usize = 4;
/// `r = imm`
const MOVE: u8 = 0xb7;
/// `r = imm` of two instructions' length, the second of which is no instruction.
const MOVE_WIDE: u8 = 0x18;

/// Where in the programs of `object` a constant is moved into a register.
fn moves(object: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    for (begin, end) in programs(object) {
        let mut at = begin;
        while at + WIDTH <= end {
            match object.get(at) {
                Some(&MOVE_WIDE) => at += WIDTH,
                Some(&MOVE) => found.push(at),
                _ => {}
            }
            at += WIDTH;
        }
    }
    found
}

/// Where the sections of `object` with instructions begin and end. elf(5)
fn programs(object: &[u8]) -> Vec<(usize, usize)> {
    const INSTRUCTIONS: u64 = 4;
    let half = |at: usize| object.get(at..)?.first_chunk().copied().map(u16::from_le_bytes).map(usize::from);
    let word = |at: usize| object.get(at..)?.first_chunk().copied().map(u64::from_le_bytes);
    let place = |at: usize| word(at).and_then(|word| usize::try_from(word).ok());
    let sections = || {
        let (table, each, count) = (place(0x28)?, half(0x3a)?, half(0x3c)?);
        let section = |nth: usize| {
            let header = table.checked_add(nth * each)?;
            let flags = word(header.checked_add(0x8)?)?;
            let (begin, length) = (place(header.checked_add(0x18)?)?, place(header.checked_add(0x20)?)?);
            let end = begin.checked_add(length).filter(|end| *end <= object.len())?;
            (flags & INSTRUCTIONS != 0).then_some((begin, end))
        };
        Some((0..count).filter_map(section).collect())
    };
    sections().unwrap_or_default()
}

fn words<T>(table: &Plain<T>) -> &[u32]
where
    Plain<T>: Pod,
{
    // SAFETY: the struct is made of words alone (tested in `abi`), and any bytes of it may be read, as `Pod` says.
    unsafe { slice::from_raw_parts((&raw const *table).cast(), size_of::<T>() / size_of::<u32>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks that stand in the programs.
    fn marks(object: &Object) -> Vec<u32> {
        let constants = moves(&object.0).into_iter().map(|at| object.imm(at));
        constants.filter(|word| word >> 16 == Offsets::MARK >> 16).collect()
    }

    #[test]
    fn every_mark_is_replaced_and_nothing_else() {
        let offsets = Plain(Offsets::new(|_| Some(40), true));
        let queues = Plain(QueueOffsets::new(|_| Some(40)));
        let (fields, of_files) =
            (Plain(events::Fields::of([40; 8])), Plain(files::Fields::of([40; 7], true)));
        let check = |name: &str| {
            let path = format!("{}/{name}.bpf.o", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(path).expect("an object");
            let before = Object::new(&bytes);
            let marked = marks(&before);
            assert!(marked.len() > 5, "{name}: {marked:x?}");
            let after = before.with(&offsets).with(&queues).with(&fields).with(&of_files);
            assert_eq!(marks(&after), [0; 0], "{name}");
            let changed =
                bytes.chunks(WIDTH).zip(after.0.chunks(WIDTH)).filter(|(before, after)| before != after);
            assert_eq!(changed.count(), marked.len(), "{name}");
        };
        ["skiff", "waits", "events", "files", "prefetch", "trace", "harden"].into_iter().for_each(check);
    }

    #[test]
    fn what_is_no_object_stays_as_it_is() {
        for bytes in [&b""[..], b"\x7fELF", &[0xff; 100]] {
            let object = Object::new(bytes).with(&Plain(Offsets::new(|_| None, false)));
            assert_eq!(object.bytes(), bytes);
        }
    }
}
