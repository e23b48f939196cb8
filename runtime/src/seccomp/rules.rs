//! What a filter decides for each system call, before it becomes a program.

use skiff_sys::syscalls::{self, NUMBERS};

use super::multiplex;

/// What happens to a system call: the value that the filter returns to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(super) const KILL_THREAD: Self = Self(0);
    /// A process that holds the filter's listener answers. Linux ≥ 5.0.
    pub(super) const NOTIFY: Self = Self(0x7fc0_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);

    /// The call fails with `errno`.
    pub(super) const fn errno(errno: u16) -> Self {
        Self(0x0005_0000 | errno as u32)
    }

    /// A tracer is told, with `data`; without a tracer the call fails with `ENOSYS`.
    pub(super) const fn trace(data: u16) -> Self {
        Self(0x7ff0_0000 | data as u32)
    }

    /// Whether the call is carried out.
    pub(super) fn permits(self) -> bool {
        self == Self::ALLOW || self == Self::LOG
    }
}

/// How an argument is compared, without sign, 64 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The argument's bits in this mask equal the value.
    MaskedEqual(u64),
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0..=5.
    pub(super) argument: u8,
    pub(super) operator: Operator,
    pub(super) value: u64,
}

impl Condition {
    /// Whether it holds for `argument`.
    pub(super) fn holds(self, argument: u64) -> bool {
        match self.operator {
            Operator::Equal => argument == self.value,
            Operator::NotEqual => argument != self.value,
            Operator::Less => argument < self.value,
            Operator::LessOrEqual => argument <= self.value,
            Operator::Greater => argument > self.value,
            Operator::GreaterOrEqual => argument >= self.value,
            Operator::MaskedEqual(mask) => argument & mask == self.value,
        }
    }

    /// The condition as a 32-bit program meets it: only the lower halves count.
    pub(super) fn narrowed(self) -> Self {
        let operator = match self.operator {
            Operator::MaskedEqual(mask) => Operator::MaskedEqual(mask & LOWER),
            other => other,
        };
        Self { operator, value: self.value & LOWER, ..self }
    }
}

const LOWER: u64 = u32::MAX as u64;

/// An action taken when every one of some conditions holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditional<'p> {
    pub(super) conditions: &'p [Condition],
    pub(super) action: Action,
}

/// What is decided for one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// No rule: the default action.
    Default,
    /// The same whatever the arguments.
    Always(Action),
    /// The first that holds of the list at this index of [`Table::lists`], else the default action.
    When(usize),
}

/// The numbers of some system calls in both instruction sets, as bits.
#[derive(Debug)]
pub(super) struct Numbers {
    native: Bits,
    compat: Bits,
}

type Bits = [u64; NUMBERS.div_ceil(64)];

impl Numbers {
    /// Looks `names` up; meant for compile time, where a name that does not exist stops the compiler.
    pub(super) const fn of(names: &[&str]) -> Self {
        let mut numbers = Self { native: [0; NUMBERS.div_ceil(64)], compat: [0; NUMBERS.div_ceil(64)] };
        let mut i = 0;
        while i < names.len() {
            let Some(call) = syscalls::find(names[i]) else { panic!("no such system call") };
            if let Some(number) = call.x86_64() {
                numbers.native[number as usize / 64] |= 1 << (number % 64);
            }
            if let Some(number) = call.i386() {
                numbers.compat[number as usize / 64] |= 1 << (number % 64);
            }
            i += 1;
        }
        numbers
    }
}

/// The decisions for one instruction set, by number.
#[derive(Debug)]
pub(super) struct Table<'p> {
    pub(super) decisions: [Decision; NUMBERS],
    pub(super) lists: Vec<Vec<Conditional<'p>>>,
}

/// The decisions for x86-64 and, when the profile admits 32-bit programs, for i386.
#[derive(Debug)]
pub(super) struct Rules<'p> {
    pub(super) default: Action,
    pub(super) native: Table<'p>,
    pub(super) compat: Option<Table<'p>>,
    /// Whether programs of the x32 ABI are admitted, which have the decisions of x86-64.
    pub(super) x32: bool,
}

impl<'p> Rules<'p> {
    pub(super) fn new(default: Action, compat: bool) -> Self {
        Self { default, native: Table::new(), compat: compat.then(Table::new), x32: false }
    }

    /// Adds a rule without conditions for calls that no multiplexer stands for, or whose multiplexer has its own rule.
    pub(super) fn add_numbers(&mut self, numbers: &Numbers, action: Action) {
        self.native.add_bits(&numbers.native, action);
        if let Some(table) = &mut self.compat {
            table.add_bits(&numbers.compat, action);
        }
    }

    /// Adds one rule of a profile. Names that do not exist are passed over, as docker does, so that one profile
    /// serves kernels and libraries of any age.
    ///
    /// As runc hands rules to libseccomp: a rule with the default action says nothing, and a rule that compares one
    /// argument more than once holds when any of its conditions does, not all.
    pub(super) fn add<N: AsRef<str>>(&mut self, names: &[N], action: Action, conditions: &'p [Condition]) {
        if action == self.default {
            return;
        }
        let alternatives = if repeats_an_argument(conditions) { 1 } else { conditions.len().max(1) };
        for name in names {
            let call = syscalls::find(name.as_ref());
            let native = call.and_then(syscalls::Syscall::x86_64);
            let compat = call.and_then(syscalls::Syscall::i386);
            if let Some(number) = native {
                self.native.add(number, action, conditions, alternatives);
            }
            let Some(table) = &mut self.compat else { continue };
            if let Some(number) = compat {
                table.add(number, action, conditions, alternatives);
            }
            if let Some(way) = multiplex::way(name.as_ref(), compat) {
                // The arguments lie in memory there, out of a filter's sight. What would be refused for some of
                // them is refused for all; what would be permitted for some is left to other rules.
                if conditions.is_empty() || !action.permits() {
                    table.add(way.number, action, std::slice::from_ref(&way.condition), 1);
                }
            }
        }
    }
}

impl<'p> Table<'p> {
    fn new() -> Self {
        Self { decisions: [Decision::Default; NUMBERS], lists: Vec::new() }
    }

    fn add_bits(&mut self, bits: &Bits, action: Action) {
        for (word, decisions) in bits.iter().zip(self.decisions.chunks_mut(64)) {
            let mut left = *word;
            while left != 0 {
                let decision = &mut decisions[left.trailing_zeros() as usize];
                if !matches!(decision, Decision::Always(_)) {
                    *decision = Decision::Always(action);
                }
                left &= left - 1;
            }
        }
    }

    /// An action without conditions stands whatever else is said of the call, as libseccomp has it; otherwise the
    /// first rule that holds counts. `width` conditions at a time make one rule.
    fn add(&mut self, number: u16, action: Action, conditions: &'p [Condition], width: usize) {
        let decision = &mut self.decisions[usize::from(number)];
        if matches!(decision, Decision::Always(_)) {
            return;
        }
        if conditions.is_empty() {
            *decision = Decision::Always(action);
            return;
        }
        let index = match *decision {
            Decision::When(index) => index,
            _ => {
                self.lists.push(Vec::new());
                self.lists.len() - 1
            }
        };
        *decision = Decision::When(index);
        self.lists[index]
            .extend(conditions.chunks(width).map(|conditions| Conditional { conditions, action }));
    }
}

fn repeats_an_argument(conditions: &[Condition]) -> bool {
    let mut seen = 0u8;
    conditions.iter().any(|condition| {
        let bit = 1 << condition.argument;
        let again = seen & bit != 0;
        seen |= bit;
        again
    })
}
