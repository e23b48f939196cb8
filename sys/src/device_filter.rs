//! Which device nodes a cgroup's processes may open or make: a small eBPF program on its cgroup v2 directory.
//!
//! This is the only way on cgroup v2, and works on hybrid hosts too, where it saves joining the v1 `devices`
//! hierarchy. bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`, Linux ≥ 4.15, CAP_BPF or CAP_SYS_ADMIN.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// Allows `access` to the devices that match; `None` matches every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Block or character.
    pub kind: Kind,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: Access,
}

impl std::fmt::Display for Rule {
    /// The form of the v1 file `devices.allow`: `c 1:3 rwm`.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.kind == Kind::Block { 'b' } else { 'c' };
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
const JUMP_NOT_IMMEDIATE: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_NOT_REGISTER: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

/// Translates `rules` to a program that answers 1 if one of them allows the access, 0 otherwise.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { __u32 access_type /* access << 16 | type */, major, minor; }
    let mut code = vec![
        op(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        op(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        op(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        op(AND_IMMEDIATE, TYPE, 0, 0, 0xffff),
        op(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        code.extend(rule_code(rule));
    }
    code.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

/// The tests of one rule, each of which jumps past the rule if it fails.
fn rule_code(rule: &Rule) -> Vec<Instruction> {
    let kind = if rule.kind == Kind::Block { 1 } else { 2 };
    let mut code = vec![op(JUMP_NOT_IMMEDIATE, TYPE, 0, 0, kind)];
    if rule.access != Access::ALL {
        // Everything that is asked for must be allowed: asked & allowed == asked.
        code.push(op(MOVE_REGISTER, CONTEXT, ACCESS, 0, 0));
        code.push(op(AND_IMMEDIATE, CONTEXT, 0, 0, rule.access.0.into()));
        code.push(op(JUMP_NOT_REGISTER, CONTEXT, ACCESS, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            code.push(op(JUMP_NOT_IMMEDIATE, register, 0, 0, number.cast_signed()));
        }
    }
    code.extend([op(MOVE_IMMEDIATE, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    let length = code.len();
    for (index, instruction) in code.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_NOT_IMMEDIATE | JUMP_NOT_REGISTER) {
            // A rule is at most eight instructions long.
            instruction.offset = i16::try_from(length - index - 1).unwrap_or(i16::MAX);
        }
    }
    code
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

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
}

/// The head of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Restricts the processes of the cgroup v2 directory `cgroup` to what `rules` allow, from now until it is removed.
pub fn restrict(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    let program = load(&program(rules))?;
    let attr = AttachAttr {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attr).map(drop)
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
    };
    let fd = bpf(BPF_PROG_LOAD, &attr)?;
    // SAFETY: BPF_PROG_LOAD has just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<i32> {
    // SAFETY: `attr` is the head of the union that `command` reads, with its size; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    i32::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: Kind, major: Option<u32>, minor: Option<u32>, access: &str) -> Rule {
        Rule { kind, major, minor, access: Access::parse(access).expect("letters") }
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
            let jump = match now.code {
                LOAD_WORD => {
                    register[to] = context[usize::try_from(now.offset / 4).expect("offset")].into();
                    false
                }
                MOVE_REGISTER => {
                    register[to] = register[from];
                    false
                }
                MOVE_IMMEDIATE => {
                    register[to] = value;
                    false
                }
                AND_IMMEDIATE => {
                    register[to] &= value;
                    false
                }
                SHIFT_RIGHT => {
                    register[to] >>= value;
                    false
                }
                JUMP_NOT_IMMEDIATE => register[to] != value,
                JUMP_NOT_REGISTER => register[to] != register[from],
                EXIT => return register[0],
                other => panic!("unknown instruction {other:#x}"),
            };
            at += 1 + if jump { usize::try_from(now.offset).expect("forward") } else { 0 };
        }
    }

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let code = program(&[
            rule(Kind::Char, Some(1), Some(3), "rw"),
            rule(Kind::Char, Some(136), None, "rwm"),
            rule(Kind::Block, None, None, "m"),
        ]);
        let (block, char) = (1, 2);
        let (mknod, read, write) = (1, 2, 4);
        for (kind, access, major, minor, expect) in [
            (char, read, 1, 3, 1),
            (char, read | write, 1, 3, 1),
            (char, mknod, 1, 3, 0),
            (char, read, 1, 5, 0),
            (char, read | write | mknod, 136, 7, 1),
            (block, mknod, 8, 0, 1),
            (block, mknod | read, 8, 0, 0),
            (block, read, 1, 3, 0),
        ] {
            assert_eq!(answer(&code, kind, access, major, minor), expect, "{kind} {access} {major}:{minor}");
        }
    }

    #[test]
    fn rules_print_as_v1_lines() {
        assert_eq!(rule(Kind::Char, Some(136), None, "mr").to_string(), "c 136:* rm");
    }

    #[test]
    fn letters_other_than_rwm_are_refused() {
        assert!(Access::parse("rx").is_none() && Access::parse("").is_none());
    }

    #[test]
    fn instructions_have_the_size_of_the_kernels() {
        assert_eq!(size_of::<Instruction>(), 8);
    }
}
