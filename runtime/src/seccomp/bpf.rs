//! An assembler for classic BPF that writes programs from their end to their beginning.
//!
//! BPF jumps only forwards, so when an instruction is written everything it can jump to already has its place: no
//! labels, no second pass. A jump of more than 255 instructions, which does not fit a comparison, goes through a
//! copy of its target (if that is a `ret`) or an unconditional jump put right behind the comparison.

use skiff_sys::seccomp::Instruction;

/// Where the kernel keeps the system call number in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
/// Where it keeps the instruction set (`AUDIT_ARCH_*`).
pub(super) const ARCH: u32 = 4;

/// Where the lower half of argument `index` is; the upper half follows.
pub(super) const fn argument(index: u8) -> u32 {
    16 + 8 * index as u32
}

/// A comparison of the accumulator with a constant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

/// The place of an instruction, counted from the end of the program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize);

pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const RETURN: u16 = 0x06;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;

/// How far away a `ret` may be to be used again; leaves room to jump there from a few tests further on.
const REUSE: usize = 200;

/// A program under construction, last instruction first.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// The latest `ret` of each value.
    returns: Vec<Place>,
}

impl Assembler {
    /// Ends the program with `value`, or finds a near place that does.
    pub(super) fn ret(&mut self, value: u32) -> Place {
        let reversed = &self.reversed;
        let Some(latest) = self.returns.iter().position(|place| reversed[place.0].k == value) else {
            let place = self.push(RETURN, 0, 0, value);
            self.returns.push(place);
            return place;
        };
        if self.distance(self.returns[latest]) > REUSE {
            self.returns[latest] = self.push(RETURN, 0, 0, value);
        }
        self.returns[latest]
    }

    /// Loads the 32 bits at `offset` of `struct seccomp_data` into the accumulator, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Place) -> Place {
        self.reach(next, 0);
        self.push(LOAD, 0, 0, offset)
    }

    /// Clears the accumulator's bits that are not in `mask`, then goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Place) -> Place {
        self.reach(next, 0);
        self.push(AND, 0, 0, mask)
    }

    /// Goes on at `yes` or `no`.
    pub(super) fn branch(&mut self, test: Test, k: u32, yes: Place, no: Place) -> Place {
        // One less for `no`: bringing `yes` near may put one more instruction between.
        let no = self.reach(no, 254);
        let yes = self.reach(yes, 255);
        let code = match test {
            Test::Equal => JUMP_EQUAL,
            Test::Greater => JUMP_GREATER,
            Test::GreaterOrEqual => JUMP_GREATER_OR_EQUAL,
        };
        let jt = u8::try_from(self.distance(yes)).expect("reach() has brought it within 255");
        let jf = u8::try_from(self.distance(no)).expect("reach() has brought it within 254, plus one");
        self.push(code, jt, jf, k)
    }

    /// The program, first instruction first. `start` is where it begins.
    pub(super) fn finish(mut self, start: Place) -> Vec<Instruction> {
        self.reach(start, 0);
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.reversed.push(Instruction { code, jt, jf, k });
        Place(self.reversed.len() - 1)
    }

    /// Instructions to skip from the one written next to `to`.
    fn distance(&self, to: Place) -> usize {
        self.reversed.len() - 1 - to.0
    }

    /// A place at most `limit` instructions from the one written next that does the same as `to`.
    fn reach(&mut self, to: Place, limit: usize) -> Place {
        let distance = self.distance(to);
        if distance <= limit {
            return to;
        }
        let target = self.reversed[to.0];
        if target.code == RETURN {
            return self.push(RETURN, 0, 0, target.k);
        }
        let distance = u32::try_from(distance).expect("programs are far shorter than 2^32");
        self.push(JUMP, 0, 0, distance)
    }
}
