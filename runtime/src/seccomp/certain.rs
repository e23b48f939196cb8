//! What a filter allows for certain, whatever the arguments are.

use skiff_sys::seccomp::Instruction;

use super::{Filter, bpf};

/// `AUDIT_ARCH_X86_64` and `SECCOMP_RET_ALLOW`, of `linux/audit.h` and `linux/seccomp.h`.
const X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;

/// Whether `filter` allows each of the system calls `numbers` of this processor without looking at an argument.
pub(crate) fn allows(filter: &Filter, numbers: &[libc::c_long]) -> bool {
    let is_allowed = |number: &libc::c_long| {
        u32::try_from(*number).is_ok_and(|number| action(&filter.program, number) == Some(ALLOW))
    };
    cfg!(target_arch = "x86_64") && numbers.iter().all(is_allowed)
}

/// What the kernel makes of the call `number`; `None` if that depends on more, or cannot be told here.
fn action(program: &[Instruction], number: u32) -> Option<u32> {
    let mut accumulator = 0;
    let mut at = 0_usize;
    // Jumps go forward only: it ends.
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at)?;
        at += 1;
        let skip = |holds: bool| usize::from(if holds { jt } else { jf });
        match (code, k) {
            (bpf::LOAD, bpf::NUMBER) => accumulator = number,
            (bpf::LOAD, bpf::ARCH) => accumulator = X86_64,
            (bpf::AND, _) => accumulator &= k,
            (bpf::JUMP, _) => at = at.checked_add(usize::try_from(k).ok()?)?,
            (bpf::JUMP_EQUAL, _) => at += skip(accumulator == k),
            (bpf::JUMP_GREATER, _) => at += skip(accumulator > k),
            (bpf::JUMP_GREATER_OR_EQUAL, _) => at += skip(accumulator >= k),
            (bpf::RETURN, _) => return Some(k),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::CapSet;
    use crate::seccomp::{Kernel, Profile, compile};

    use libc::{SYS_execve as EXECVE, SYS_mount as MOUNT, SYS_personality as PERSONALITY};

    #[test]
    fn only_what_is_allowed_in_any_case_is_certain() {
        let docker = compile(&Profile::docker(), CapSet::NONE, Kernel(6, 12)).expect("compile");
        assert!(allows(&docker, &[]) && allows(&docker, &[EXECVE, 0]));
        assert!(!allows(&docker, &[EXECVE, MOUNT]) && !allows(&docker, &[PERSONALITY]));
        let text =
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["execve"],"action":"SCMP_ACT_LOG"}]}"#;
        let custom = Profile::parse(text).expect("parse");
        let custom = compile(&custom, CapSet::NONE, Kernel(6, 12)).expect("compile");
        assert!(allows(&custom, &[MOUNT]) && !allows(&custom, &[EXECVE]));
    }

    #[test]
    fn a_program_that_makes_no_sense_allows_nothing() {
        let ret = Instruction { code: bpf::JUMP, jt: 0, jf: 0, k: u32::MAX };
        let filter = Filter { program: vec![ret], flags: super::super::Flags::NONE };
        assert!(!allows(&filter, &[0]));
    }
}
