//! Decisions into a program.
//!
//! ```text
//! instruction set?
//! ├─ x86-64 → number: binary search over ranges of equal decisions ─┬─ ret
//! ├─ i386   → number: likewise                                      └─ arguments → ret
//! └─ other  → kill
//! ```
//!
//! A path without arguments loads nothing but instruction set and number, so the kernel (≥ 5.11) finds out at
//! installation that the call is always allowed and does not run the filter for it at all.

use skiff_sys::seccomp::Instruction;
use skiff_sys::syscalls;

use super::bpf::{self, Assembler, Place, Test};
use super::rules::{Action, Condition, Conditional, Decision, Operator, Rules, Table};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// From this number on, calls of a 64-bit program are of the x32 ABI.
const X32: u32 = 0x4000_0000;

/// The calls that have numbers of their own in x32, from this one on. arch/x86/entry/syscalls/syscall_64.tbl.
const X32_FIRST: u32 = 512;

#[rustfmt::skip]
const X32_ONLY: [&str; 36] = [
    "rt_sigaction", "rt_sigreturn", "ioctl", "readv", "writev", "recvfrom", "sendmsg", "recvmsg", "execve", "ptrace",
    "rt_sigpending", "rt_sigtimedwait", "rt_sigqueueinfo", "sigaltstack", "timer_create", "mq_notify", "kexec_load",
    "waitid", "set_robust_list", "get_robust_list", "vmsplice", "move_pages", "preadv", "pwritev",
    "rt_tgsigqueueinfo", "recvmmsg", "sendmmsg", "process_vm_readv", "process_vm_writev", "setsockopt", "getsockopt",
    "io_setup", "io_submit", "execveat", "preadv2", "pwritev2",
];

/// Their decisions: those of the x86-64 calls of the same names.
fn x32_numbers(table: &Table<'_>) -> Vec<(u32, Decision)> {
    let decision = |name: &&str| {
        let number = syscalls::number(name).and_then(|number| usize::try_from(number).ok());
        number.map_or(Decision::Default, |number| table.decisions[number])
    };
    let decisions = X32_ONLY.iter().map(decision).chain([Decision::Default]);
    (X32_FIRST..).zip(decisions).collect()
}

/// The answer to them of a kernel that is built without x32, as nearly all are: `ENOSYS`.
const NO_X32: Action = Action::errno(38);

/// The program that carries out `rules`.
pub(super) fn assemble(rules: &Rules<'_>) -> Vec<Instruction> {
    let mut writer = Writer { asm: Assembler::default(), default: rules.default, narrow: true };
    let other = writer.asm.ret(Action::KILL_PROCESS.0);
    let not_native = match &rules.compat {
        Some(table) => {
            let ranges = writer.ranges(table, &[]);
            let search = writer.search(&ranges);
            let compat = writer.asm.load(bpf::NUMBER, search);
            writer.asm.branch(Test::Equal, AUDIT_ARCH_I386, compat, other)
        }
        None => other,
    };
    writer.narrow = false;
    let native = writer.native(&rules.native, rules.x32);
    let start = writer.asm.branch(Test::Equal, AUDIT_ARCH_X86_64, native, not_native);
    let start = writer.asm.load(bpf::ARCH, start);
    writer.asm.finish(start)
}

/// What stands at the end of a search.
#[derive(Clone, Copy)]
enum Leaf<'a> {
    Return(Action),
    /// Look at the arguments.
    Arguments(&'a [Conditional<'a>]),
    /// Look at the lower half of this argument.
    Lower(u8, &'a [(u32, Action)]),
}

struct Writer {
    asm: Assembler,
    default: Action,
    /// Whether the arguments are 32 bits wide.
    narrow: bool,
}

impl Writer {
    /// Finds the decision for a call of a 64-bit program. Where x32 is admitted, its bit is taken off the number first.
    fn native(&mut self, table: &Table<'_>, x32: bool) -> Place {
        let own = if x32 { x32_numbers(table) } else { Vec::new() };
        let mut ranges = self.ranges(table, &own);
        if !x32 {
            ranges.push((X32, Leaf::Return(NO_X32)));
        }
        let mut start = self.search(&ranges);
        if x32 {
            let without_bit = self.asm.and(!X32, start);
            start = self.asm.branch(Test::GreaterOrEqual, X32, without_bit, start);
        }
        self.asm.load(bpf::NUMBER, start)
    }

    /// Ranges of numbers with equal decisions; `more` stands above the numbers of `table`.
    fn ranges<'a>(&self, table: &'a Table<'_>, more: &[(u32, Decision)]) -> Vec<(u32, Leaf<'a>)> {
        let mut ranges = Vec::with_capacity(256);
        let mut previous = None;
        let numbered = (0u32..).zip(table.decisions.iter().copied().chain([Decision::Default]));
        for (number, decision) in numbered.chain(more.iter().copied()) {
            if previous == Some(decision) {
                continue;
            }
            previous = Some(decision);
            let leaf = match decision {
                Decision::Default => Leaf::Return(self.default),
                Decision::Always(action) => Leaf::Return(action),
                Decision::When(index) => Leaf::Arguments(&table.lists[index]),
            };
            ranges.push((number, leaf));
        }
        ranges
    }

    /// Binary search of the accumulator among `ranges`, each from its start to the next one's.
    fn search(&mut self, ranges: &[(u32, Leaf<'_>)]) -> Place {
        if let [(_, leaf)] = ranges {
            return self.leaf(*leaf);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let above = self.search(high);
        let below = self.search(low);
        self.asm.branch(Test::GreaterOrEqual, high[0].0, above, below)
    }

    fn leaf(&mut self, leaf: Leaf<'_>) -> Place {
        match leaf {
            Leaf::Return(action) => self.asm.ret(action.0),
            Leaf::Lower(argument, ranges) => self.lower(argument, ranges),
            Leaf::Arguments(list) => match single_argument(list) {
                Some(argument) => self.one_argument(argument, list),
                None => self.chain(list),
            },
        }
    }

    /// Rules that all compare one argument with constants: a search among the ranges between the constants.
    fn one_argument(&mut self, argument: u8, list: &[Conditional<'_>]) -> Place {
        let pieces = by_upper_half(&self.argument_ranges(list));
        if self.narrow {
            return self.lower(argument, &pieces[0].1);
        }
        let upper: Vec<_> = pieces
            .iter()
            .map(|(start, lower)| match lower.as_slice() {
                [(_, action)] => (*start, Leaf::Return(*action)),
                several => (*start, Leaf::Lower(argument, several)),
            })
            .collect();
        let search = self.search(&upper);
        self.asm.load(bpf::argument(argument) + 4, search)
    }

    fn lower(&mut self, argument: u8, ranges: &[(u32, Action)]) -> Place {
        let ranges: Vec<_> = ranges.iter().map(|(start, action)| (*start, Leaf::Return(*action))).collect();
        let search = self.search(&ranges);
        self.asm.load(bpf::argument(argument), search)
    }

    /// Ranges of equal action of the one argument that `list` compares, by start, beginning at 0.
    fn argument_ranges(&self, list: &[Conditional<'_>]) -> Vec<(u64, Action)> {
        let tests: Vec<(Condition, Action)> = list
            .iter()
            .flat_map(|rule| rule.conditions.iter().map(|condition| (self.width(*condition), rule.action)))
            .collect();
        let mut starts = vec![0];
        for (condition, _) in &tests {
            starts.push(condition.value);
            starts.extend(condition.value.checked_add(1));
        }
        starts.sort_unstable();
        let mut ranges: Vec<(u64, Action)> = Vec::with_capacity(starts.len());
        for start in starts {
            let holding = tests.iter().find(|(condition, _)| condition.holds(start));
            let action = holding.map_or(self.default, |(_, action)| *action);
            if ranges.last().is_none_or(|(_, last)| *last != action) {
                ranges.push((start, action));
            }
        }
        ranges
    }

    /// Any rules, one after the other.
    fn chain(&mut self, list: &[Conditional<'_>]) -> Place {
        let mut next = self.asm.ret(self.default.0);
        for rule in list.iter().rev() {
            let mut place = self.asm.ret(rule.action.0);
            for condition in rule.conditions.iter().rev() {
                place = self.test(self.width(*condition), place, next);
            }
            next = place;
        }
        next
    }

    /// Goes on at `yes` if `condition` holds, else at `no`.
    fn test(&mut self, condition: Condition, yes: Place, no: Place) -> Place {
        match condition.operator {
            Operator::Equal => self.masked(condition, u64::MAX, yes, no),
            Operator::NotEqual => self.masked(condition, u64::MAX, no, yes),
            Operator::MaskedEqual(mask) => self.masked(condition, mask, yes, no),
            Operator::Greater => self.ordered(condition, Test::Greater, yes, no),
            Operator::GreaterOrEqual => self.ordered(condition, Test::GreaterOrEqual, yes, no),
            Operator::Less => self.ordered(condition, Test::GreaterOrEqual, no, yes),
            Operator::LessOrEqual => self.ordered(condition, Test::Greater, no, yes),
        }
    }

    fn masked(&mut self, condition: Condition, mask: u64, yes: Place, no: Place) -> Place {
        let offset = bpf::argument(condition.argument);
        let ((mask_upper, mask_lower), (upper, lower)) = (halves(mask), halves(condition.value));
        let place = self.half(offset, mask_lower, lower, yes, no);
        match (mask_upper, upper) {
            (0, 0) => place,
            (0, _) => no,
            _ if self.narrow => place,
            _ => self.half(offset + 4, mask_upper, upper, place, no),
        }
    }

    fn half(&mut self, offset: u32, mask: u32, value: u32, yes: Place, no: Place) -> Place {
        let mut place = self.asm.branch(Test::Equal, value, yes, no);
        if mask != u32::MAX {
            place = self.asm.and(mask, place);
        }
        self.asm.load(offset, place)
    }

    fn ordered(&mut self, condition: Condition, test: Test, yes: Place, no: Place) -> Place {
        let offset = bpf::argument(condition.argument);
        let (upper, lower) = halves(condition.value);
        let place = self.asm.branch(test, lower, yes, no);
        let place = self.asm.load(offset, place);
        if self.narrow {
            return place;
        }
        let place = self.asm.branch(Test::Equal, upper, place, no);
        let place = self.asm.branch(Test::Greater, upper, yes, place);
        self.asm.load(offset + 4, place)
    }

    fn width(&self, condition: Condition) -> Condition {
        if self.narrow { condition.narrowed() } else { condition }
    }
}

/// The argument, if every rule compares just that one, and none by a mask.
fn single_argument(list: &[Conditional<'_>]) -> Option<u8> {
    let argument = list.first()?.conditions.first()?.argument;
    let simple = |rule: &Conditional<'_>| match rule.conditions {
        [only] => only.argument == argument && !matches!(only.operator, Operator::MaskedEqual(_)),
        _ => false,
    };
    list.iter().all(simple).then_some(argument)
}

/// Splits ranges of 64 bits into ranges of the upper half, and below each the ranges of the lower half.
fn by_upper_half(ranges: &[(u64, Action)]) -> Vec<(u32, Vec<(u32, Action)>)> {
    let mut pieces: Vec<(u32, Vec<(u32, Action)>)> = Vec::new();
    let mut before = None;
    for &(start, action) in ranges {
        let (upper, lower) = halves(start);
        if pieces.last().is_none_or(|(last, _)| *last != upper) {
            close(&mut pieces, upper);
            let continued = before.filter(|_| lower > 0).map(|action| (0, action));
            pieces.push((upper, continued.into_iter().collect()));
        }
        if let Some((_, piece)) = pieces.last_mut() {
            piece.push((lower, action));
        }
        before = Some(action);
    }
    close(&mut pieces, u32::MAX);
    pieces
}

/// Lets the action at the end of the last piece, if it has several, hold from the next upper half up to `end`.
fn close(pieces: &mut Vec<(u32, Vec<(u32, Action)>)>, end: u32) {
    if let Some((upper, piece)) = pieces.last()
        && let [_, .., (_, action)] = piece.as_slice()
        && *upper < end
    {
        let following = (upper + 1, vec![(0, *action)]);
        pieces.push(following);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves are what is asked for")]
fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}
