//! Which device nodes a cgroup's processes may open or make: a small eBPF program on its cgroup v2 directory.
//!
//! This is the only way on cgroup v2, and works on hybrid hosts too, where it saves joining the v1 `devices`
//! hierarchy. bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`, Linux ≥ 4.15, CAP_BPF or CAP_SYS_ADMIN.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::{bpf, info};

/// Block or character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Block.
    Block,
    /// Character.
    Char,
}

/// What may be done with a device, as the kernel's `BPF_DEVCG_ACC_*` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Access(u8);

impl Access {
    /// `mknod`.
    pub const MKNOD: Self = Self(1);
    /// Open for reading.
    pub const READ: Self = Self(2);
    /// Open for writing.
    pub const WRITE: Self = Self(4);
    /// All three.
    pub const ALL: Self = Self(7);

    /// Whether any of it is in both.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Parses docker's letters, any of `r`, `w`, `m`; `None` for anything else or nothing.
    #[must_use]
    pub fn parse(letters: &str) -> Option<Self> {
        letters
            .chars()
            .try_fold(Self(0), |access, letter| {
                let bit = match letter {
                    'm' => Self::MKNOD,
                    'r' => Self::READ,
                    'w' => Self::WRITE,
                    _ => return None,
                };
                Some(Self(access.0 | bit.0))
            })
            .filter(|access| access.0 != 0)
    }

    /// The letters, in the order of the v1 control files: `rwm`.
    #[must_use]
    pub fn letters(self) -> String {
        let pairs = [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')];
        pairs.iter().filter(|(bit, _)| self.0 & bit.0 != 0).map(|(_, letter)| *letter).collect()
    }
}

/// Allows or denies `access` to the devices that match; `None` matches every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Whether it allows.
    pub allow: bool,
    /// Block or character.
    pub kind: Option<Kind>,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// What is allowed or denied.
    pub access: Access,
}

impl Rule {
    /// Whether it decides about every access to every device, so that no rule before it counts.
    #[must_use]
    pub fn is_about_all(&self) -> bool {
        (self.kind, self.major, self.minor, self.access) == (None, None, None, Access::ALL)
    }
}

impl std::fmt::Display for Rule {
    /// The form of the v1 files `devices.allow` and `devices.deny`: `c 1:3 rwm`.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Some(Kind::Block) => 'b',
            Some(Kind::Char) => 'c',
            None => 'a',
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".into(), |number| number.to_string());
        write!(out, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access.letters())
    }
}

/// One eBPF instruction. Documentation/bpf/standardization/instruction-set.rst in the kernel tree.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_W | BPF_MEM
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const MOVE_IMMEDIATE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND_IMMEDIATE: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const JUMP_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ASKED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

/// Translates `rules` to a program that answers 1 if they allow an access, 0 otherwise.
///
/// For each thing that is asked – to read, to write, to make a node – the last rule that speaks of it decides. So they are
/// gone through from the last to the first: one that allows takes what it allows off what is asked, one that denies any
/// of what is still asked ends it. What no rule allows is denied.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { __u32 access_type /* access << 16 | type */, major, minor; }
    let mut code = vec![
        op(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        op(MOVE_REGISTER, ASKED, TYPE, 0, 0),
        op(SHIFT_RIGHT, ASKED, 0, 0, 16),
        op(AND_IMMEDIATE, TYPE, 0, 0, 0xffff),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(rule_code(rule));
        if rule.is_about_all() {
            break;
        }
    }
    code.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

/// The tests of one rule, each of which jumps past the rule if it leaves the matter open.
fn rule_code(rule: &Rule) -> Vec<Instruction> {
    let mut code = Vec::new();
    if let Some(kind) = rule.kind {
        code.push(op(JUMP_NOT_EQUAL, TYPE, 0, 0, if kind == Kind::Block { 1 } else { 2 }));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            code.push(op(JUMP_NOT_EQUAL, register, 0, 0, number.cast_signed()));
        }
    }
    if rule.allow {
        code.push(op(AND_IMMEDIATE, ASKED, 0, 0, (Access::ALL.0 & !rule.access.0).into()));
        code.push(op(JUMP_NOT_EQUAL, ASKED, 0, 0, 0));
    } else {
        code.push(op(MOVE_REGISTER, CONTEXT, ASKED, 0, 0));
        code.push(op(AND_IMMEDIATE, CONTEXT, 0, 0, rule.access.0.into()));
        code.push(op(JUMP_EQUAL, CONTEXT, 0, 0, 0));
    }
    code.extend([op(MOVE_IMMEDIATE, 0, 0, 0, rule.allow.into()), op(EXIT, 0, 0, 0, 0)]);
    let length = code.len();
    for (index, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_EQUAL | JUMP_NOT_EQUAL) {
            // A rule is at most eight instructions long.
            instruction.offset = i16::try_from(length - index - 1).unwrap_or(i16::MAX);
        }
    }
    code
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// By which a filter is known as one of these.
const NAME: [u8; 16] = *b"skiff_devices\0\0\0";

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; what is left out counts as zero.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// The head of `union bpf_attr` for `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// The head of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// The head of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    before: [u64; 8],
    name: [u8; 16],
}

/// Rules that the kernel has compiled, for as many cgroups as one likes.
#[derive(Debug)]
pub struct Filter(OwnedFd);

impl Filter {
    /// Loads the program of `rules`. bpf(2) `BPF_PROG_LOAD`, CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.
    pub fn load(rules: &[Rule]) -> io::Result<Self> {
        load(&program(rules)).map(Self)
    }

    /// As [`restrict`].
    pub fn restrict(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        change(BPF_PROG_ATTACH, cgroup, &self.0)
    }
}

/// Restricts the processes of the cgroup v2 directory `cgroup` to what `rules` allow, from now until it is removed.
pub fn restrict(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    Filter::load(rules)?.restrict(cgroup)
}

/// As [`restrict`], in the place of what [`restrict`] has said before; without rules, everything is allowed again.
///
/// Both hold for a moment, so that nothing is allowed meanwhile which neither allows. Filters of others stay.
pub fn replace(cgroup: BorrowedFd<'_>, rules: Option<&[Rule]>) -> io::Result<()> {
    let before = attached(cgroup)?;
    if let Some(rules) = rules {
        restrict(cgroup, rules)?;
    }
    before.iter().try_for_each(|program| change(BPF_PROG_DETACH, cgroup, program))
}

fn change(command: libc::c_int, cgroup: BorrowedFd<'_>, program: &OwnedFd) -> io::Result<()> {
    let attr = AttachAttr {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: if command == BPF_PROG_ATTACH { BPF_F_ALLOW_MULTI } else { 0 },
    };
    bpf(command, &attr).map(drop)
}

/// The programs of [`restrict`] on `cgroup`.
fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    // The kernel allows 64 on one cgroup (BPF_CGROUP_MAX_PROGS).
    let mut ids = [0_u32; 64];
    let attr = QueryAttr {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        // Exposed, for the kernel writes through it what is read below.
        prog_ids: (&raw mut ids).expose_provenance() as u64,
        prog_cnt: 64,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &attr)?;
    let mut ours = Vec::new();
    for id in ids.into_iter().filter(|id| *id != 0) {
        let fd = bpf(BPF_PROG_GET_FD_BY_ID, &id)?;
        // SAFETY: BPF_PROG_GET_FD_BY_ID has just returned this descriptor; nobody else owns it.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        if name(&program)? == NAME {
            ours.push(program);
        }
    }
    Ok(ours)
}

fn name(program: &OwnedFd) -> io::Result<[u8; 16]> {
    let mut found = Info::default();
    info(program.as_fd(), &mut found)?;
    Ok(found.name)
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(code.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        insns: code.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: NAME,
    };
    let fd = bpf(BPF_PROG_LOAD, &attr)?;
    // SAFETY: BPF_PROG_LOAD has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| words[2].split(':').nth(at).expect("number").parse().ok();
        let kind = match words[1] {
            "b" => Some(Kind::Block),
            "c" => Some(Kind::Char),
            _ => None,
        };
        let access = Access::parse(words[3]).expect("letters");
        Rule { allow: words[0] == "+", kind, major: number(0), minor: number(1), access }
    }

    /// Runs `code` as the kernel would on an access to a device.
    fn answer(code: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut register = [0_u64; 11];
        let mut at = 0;
        loop {
            let now = code[at];
            let (to, from) = (usize::from(now.registers & 15), usize::from(now.registers >> 4));
            let value = u64::from(now.immediate.cast_unsigned());
            let mut jump = false;
            match now.code {
                LOAD_WORD => {
                    register[to] = context[usize::try_from(now.offset / 4).expect("offset")].into();
                }
                MOVE_REGISTER => register[to] = register[from],
                MOVE_IMMEDIATE => register[to] = value,
                AND_IMMEDIATE => register[to] &= value,
                SHIFT_RIGHT => register[to] >>= value,
                JUMP_NOT_EQUAL => jump = register[to] != value,
                JUMP_EQUAL => jump = register[to] == value,
                EXIT => return register[0],
                other => panic!("unknown instruction {other:#x}"),
            }
            at += 1 + if jump { usize::try_from(now.offset).expect("forward") } else { 0 };
        }
    }

    /// Whether `rules` let each of `accesses` (as `c 1:3 rw`) pass, as `expect` has it.
    #[track_caller]
    fn check(rules: &[&str], accesses: &[(&str, u64)]) {
        let code = program(&rules.iter().map(|text| rule(text)).collect::<Vec<_>>());
        for (access, expect) in accesses {
            let asked = rule(&format!("+ {access}"));
            let kind = if asked.kind == Some(Kind::Block) { 1 } else { 2 };
            let (major, minor) = (asked.major.expect("major"), asked.minor.expect("minor"));
            assert_eq!(
                answer(&code, kind, asked.access.0.into(), major, minor),
                *expect,
                "{rules:?}: {access}"
            );
        }
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        check(
            &["+ c 1:3 rw", "+ c 136:* rwm", "+ b *:* m"],
            &[
                ("c 1:3 r", 1),
                ("c 1:3 rw", 1),
                ("c 1:3 m", 0),
                ("c 1:5 r", 0),
                ("c 136:7 rwm", 1),
                ("b 8:0 m", 1),
                ("b 8:0 rm", 0),
                ("b 1:3 r", 0),
            ],
        );
        check(&[], &[("c 1:3 r", 0)]);
    }

    #[test]
    fn the_last_rule_that_speaks_of_an_access_decides() {
        check(
            &["- a *:* rwm", "+ c 1:* rw", "- c 1:3 w"],
            &[
                ("c 1:3 r", 1),
                ("c 1:3 w", 0),
                ("c 1:3 rw", 0),
                ("c 1:5 rw", 1),
                ("c 1:5 m", 0),
                ("b 1:5 r", 0),
            ],
        );
        check(&["+ a *:* rwm", "- b 8:* rwm"], &[("b 8:1 r", 0), ("b 9:1 rwm", 1), ("c 8:1 rwm", 1)]);
        check(&["+ a *:* rwm", "- a *:* rwm"], &[("c 1:3 r", 0)]);
        check(&["- c 1:3 rwm", "+ a *:* rwm"], &[("c 1:3 rwm", 1)]);
        check(
            &["+ a *:* rwm", "- a 8:* w"],
            &[("b 8:0 r", 1), ("b 8:0 w", 0), ("c 8:0 rw", 0), ("c 9:0 w", 1)],
        );
    }

    #[test]
    fn what_several_rules_allow_adds_up() {
        check(&["+ c 1:3 r", "+ c 1:* w"], &[("c 1:3 rw", 1), ("c 1:5 r", 0), ("c 1:3 m", 0)]);
    }

    #[test]
    fn rules_print_as_v1_lines() {
        assert_eq!(rule("+ c 136:* mr").to_string(), "c 136:* rm");
        assert_eq!(rule("- a *:* rwm").to_string(), "a *:* rwm");
    }

    #[test]
    fn letters_other_than_rwm_are_refused() {
        assert!(Access::parse("rx").is_none() && Access::parse("").is_none());
    }

    #[test]
    fn structures_have_the_size_of_the_kernels() {
        assert_eq!(size_of::<Instruction>(), 8);
        assert_eq!(std::mem::offset_of!(LoadAttr, prog_name), 48);
        assert_eq!(std::mem::offset_of!(QueryAttr, prog_ids), 16);
        assert_eq!(std::mem::offset_of!(Info, name), 64);
    }
}
