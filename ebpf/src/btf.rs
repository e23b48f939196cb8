//! The kernel's own description of its types: just enough of it to find a field's offset and a tracepoint's arguments.
//!
//! One pass notes where each type starts; everything else is looked up from there. The format is that of the kernel's
//! `Documentation/bpf/btf.rst`: a header, types of variable length numbered from 1, and a string section.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::Error;

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u32 = 0xeb9f;
/// What the type of a tracepoint's program is named with.
const TRACE_PREFIX: &[u8] = b"btf_trace_";

const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const INT: u32 = 1;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// The types of the running kernel.
#[derive(Debug)]
pub(crate) struct Types {
    data: Vec<u8>,
    strings: usize,
    /// Where each type starts in `data`, by its id less 1.
    starts: Vec<usize>,
    structs: HashMap<Vec<u8>, u32>,
    typedefs: HashMap<Vec<u8>, u32>,
}

/// One type: its kind, how many members it has, and its size or the type it refers to.
#[derive(Clone, Copy)]
struct Type {
    kind: u32,
    members: usize,
    size_or_type: u32,
    bitfields: bool,
    /// Where its members start.
    body: usize,
}

impl Types {
    /// Reads the running kernel's types, to be asked for `paths`. Present with `CONFIG_DEBUG_INFO_BTF`, Linux ≥ 5.4.
    pub(crate) fn of_kernel(paths: &[&str]) -> Result<Self, Error> {
        let data = std::fs::read(Path::new(PATH)).map_err(|cause| Error::NoTypes { path: PATH, cause })?;
        Self::parse(data, paths).ok_or(Error::BadTypes { path: PATH })
    }

    fn parse(data: Vec<u8>, paths: &[&str]) -> Option<Self> {
        let word = |at: usize| read(&data, at);
        if word(0)? & 0xffff != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let (first, length) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        let mut types =
            Self { data, strings, starts: Vec::new(), structs: HashMap::new(), typedefs: HashMap::new() };
        types.index(
            first,
            first + length,
            &paths.iter().filter_map(|path| path.split('.').next()).map(str::as_bytes).collect(),
        )?;
        Some(types)
    }

    fn index(&mut self, first: usize, end: usize, wanted: &HashSet<&[u8]>) -> Option<()> {
        let mut at = first;
        while at < end {
            self.starts.push(at);
            let id = u32::try_from(self.starts.len()).ok()?;
            let found = self.ty(id)?;
            // A name may stand for several types; the tracepoints' and those of the core are unique, or come first.
            match found.kind {
                STRUCT if found.members > 0 && wanted.contains(self.name_at(at)?) => {
                    self.structs.entry(self.name_at(at)?.to_vec()).or_insert(id);
                }
                TYPEDEF if self.name_at(at)?.starts_with(TRACE_PREFIX) => {
                    self.typedefs.entry(self.name_at(at)?.to_vec()).or_insert(id);
                }
                _ => {}
            }
            at = found.body + body_len(found)?;
        }
        Some(())
    }

    /// The byte offset of `path`, `struct.member.member…`, where members of anonymous parts count as their owner's.
    /// `None` if there is no such field, or it is a bit field.
    pub(crate) fn offset(&self, path: &str) -> Option<u32> {
        let mut names = path.split('.');
        let mut id = *self.structs.get(names.next()?.as_bytes())?;
        let mut bits = 0;
        for name in names {
            let (at, member) = self.member(id, name.as_bytes())?;
            bits += at;
            id = member;
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Whether the kernel has the tracepoint `name`.
    pub(crate) fn has_tracepoint(&self, name: &str) -> bool {
        self.tracepoint(name).is_some()
    }

    /// Whether the first argument of the tracepoint `name` is a pointer.
    pub(crate) fn passes_pointer(&self, name: &str) -> bool {
        // `typedef void (*btf_trace_NAME)(void *, arguments…)`
        let first = || {
            let pointer = self.ty(self.ty(self.tracepoint(name)?)?.size_or_type)?;
            let prototype = self.ty(pointer.size_or_type)?;
            let argument = read(&self.data, prototype.body + 8 + 4)?;
            Some(prototype.kind == FUNC_PROTO && self.plain(argument)?.1.kind == PTR)
        };
        first() == Some(true)
    }

    fn tracepoint(&self, name: &str) -> Option<u32> {
        self.typedefs.get([TRACE_PREFIX, name.as_bytes()].concat().as_slice()).copied()
    }

    /// The bit offset and type of the member `name` of the struct or union `id`.
    fn member(&self, id: u32, name: &[u8]) -> Option<(u32, u32)> {
        let (_, owner) = self.plain(id)?;
        if owner.kind != STRUCT && owner.kind != UNION {
            return None;
        }
        (0..owner.members).find_map(|nth| {
            let at = owner.body + nth * 12;
            let (member, offset) = (read(&self.data, at + 4)?, read(&self.data, at + 8)?);
            let (offset, width) =
                if owner.bitfields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            match self.name_at(at)? {
                b"" => self.member(member, name).map(|(inner, member)| (offset + inner, member)),
                found if found == name && width == 0 => Some((offset, member)),
                _ => None,
            }
        })
    }

    /// The type behind names and qualifiers.
    fn plain(&self, mut id: u32) -> Option<(u32, Type)> {
        loop {
            let found = self.ty(id)?;
            match found.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => id = found.size_or_type,
                _ => return Some((id, found)),
            }
        }
    }

    fn ty(&self, id: u32) -> Option<Type> {
        let at = *self.starts.get((id as usize).checked_sub(1)?)?;
        let info = read(&self.data, at + 4)?;
        Some(Type {
            kind: info >> 24 & 0x1f,
            members: (info & 0xffff) as usize,
            size_or_type: read(&self.data, at + 8)?,
            bitfields: info >> 31 == 1,
            body: at + 12,
        })
    }

    /// The name that the type or member at `at` starts with.
    fn name_at(&self, at: usize) -> Option<&[u8]> {
        let start = self.strings + read(&self.data, at)? as usize;
        self.data.get(start..)?.split(|byte| *byte == 0).next()
    }
}

fn read(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

/// Bytes that follow the three words every type starts with.
fn body_len(found: Type) -> Option<usize> {
    Some(match found.kind {
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => 12 * found.members,
        ENUM | FUNC_PROTO => 8 * found.members,
        0 | 20.. => return None,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types by hand: each with its words, names by their offset in the strings.
    fn types(words: &[u32], strings: &[u8]) -> Option<Types> {
        let length = u32::try_from(words.len() * 4).expect("short");
        let header = [MAGIC, 24, 0, length, length, u32::try_from(strings.len()).expect("short")];
        let mut data: Vec<u8> = header.iter().chain(words).flat_map(|word| word.to_le_bytes()).collect();
        data.extend(strings);
        Types::parse(data, &["outer.field", "inner", "flag.field"])
    }

    const STRINGS: &[u8] = b"\0outer\0inner\0field\0btf_trace_it\0flag\0";
    const OUTER: u32 = 1;
    const INNER: u32 = 7;
    const FIELD: u32 = 13;
    const TRACE: u32 = 19;
    const FLAG: u32 = 32;

    fn example() -> Types {
        types(
            &[
                [0, INT << 24, 4, 32].as_slice(),                              // 1: int
                &[0, STRUCT << 24 | 1, 8, FIELD, 1, 32], // 2: struct { int pad; int field; }
                &[0, UNION << 24 | 1, 8, 0, 2, 0],       // 3: union { struct 2; }
                &[OUTER, STRUCT << 24 | 2, 32, 0, 3, 64, INNER, 6, 128], // 4: struct outer { …; 3; 6 inner; }
                &[FLAG, 1 << 31 | STRUCT << 24 | 1, 4, FIELD, 1, 1 << 24 | 3], // 5: struct flag { int field:1; }
                &[INNER, TYPEDEF << 24, 2],                                    // 6: typedef struct 2 inner
                &[0, PTR << 24, 8],                                            // 7: pointer to 8
                &[0, FUNC_PROTO << 24 | 2, 0, 0, 9, 0, 9],                     // 8: void (void *, void *)
                &[0, PTR << 24, 0],                                            // 9: void *
                &[TRACE, TYPEDEF << 24, 7],                                    // 10: typedef btf_trace_it
            ]
            .concat(),
            STRINGS,
        )
        .expect("well-formed")
    }

    #[test]
    fn offsets_go_through_names_and_anonymous_parts() {
        let types = example();
        assert_eq!(types.offset("outer.field"), Some(12));
        assert_eq!(types.offset("outer.inner"), Some(16));
        assert_eq!(types.offset("outer.inner.field"), Some(20));
    }

    #[test]
    fn what_is_not_there_has_no_offset() {
        let types = example();
        for path in ["outer.missing", "missing.field", "flag.field", "outer.field.deeper"] {
            assert_eq!(types.offset(path), None, "{path}");
        }
    }

    #[test]
    fn tracepoints_are_found_with_their_arguments() {
        let types = example();
        assert!(types.has_tracepoint("it") && types.passes_pointer("it"));
        assert!(!types.has_tracepoint("other") && !types.passes_pointer("other"));
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(Types::parse(b"no such format, but longer than its header".to_vec(), &[]).is_none());
        assert!(types(&[0, 31 << 24, 0], b"\0").is_none());
        assert!(types(&[0, STRUCT << 24 | 1], b"\0").is_none());
    }
}
